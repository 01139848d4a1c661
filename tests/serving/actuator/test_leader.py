"""The lease: who may write, for how long, and when another may."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from serving.actuator.leader import LEASE_SECONDS, RENEW_WITHIN, Leadership, Seen, may_take, observe, written
from tests.apiserver import LEASE, FakeApiServer
from tests.serving.actuator.conftest import Connect
from tests.serving.actuator.harness import NAME, OWN

WALL = datetime(2026, 3, 1, 8, tzinfo=UTC)


class Hand:
    """Seconds that only the test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


Candidate = Callable[[str, Hand], Leadership]


@pytest.fixture
def candidate(connect: Connect) -> Candidate:
    return lambda me, clock: Leadership(connect(), OWN, NAME, me, clock, lambda: WALL + timedelta(seconds=clock.now))


def test_the_first_one_gets_it_and_renews(server: FakeApiServer, candidate: Candidate) -> None:
    clock = Hand()
    one, two = candidate("one", clock), candidate("two", clock)
    assert not one.may_write()
    one.turn()
    two.turn()
    assert (one.may_write(), two.may_write()) == (True, False)
    assert two.holder == "one"
    for _ in range(20):
        clock.now += 2
        one.turn()
        two.turn()
        assert (one.may_write(), two.may_write()) == (True, False)
    assert not one.lost


def test_who_does_not_renew_stops_before_another_may_begin(server: FakeApiServer, candidate: Candidate) -> None:
    clock = Hand()
    one, two = candidate("one", clock), candidate("two", clock)
    one.turn()
    two.turn()
    clock.now += RENEW_WITHIN - 0.001
    assert one.may_write()
    clock.now += 0.001
    assert one.lost
    two.turn()
    assert not two.may_write()
    clock.now += LEASE_SECONDS - RENEW_WITHIN
    two.turn()
    assert two.may_write()
    one.turn()  # it does not get it back by itself
    assert one.lost
    assert "taken over by two" in one.trouble
    assert server.get(OWN, NAME, LEASE)["spec"]["leaseTransitions"] == 1


def test_a_lease_counts_from_before_the_request(server: FakeApiServer, candidate: Candidate) -> None:
    clock = Hand()
    one = candidate("one", clock)
    with server.hang("create leases") as hang:
        turning = threading.Thread(target=one.turn)
        turning.start()
        assert hang.entered.wait(10)
        clock.now += 9.5  # the answer took so long
        hang.release()
        turning.join(10)
    assert one.may_write()
    clock.now += 0.5
    assert not one.may_write()


def test_others_are_judged_by_what_is_seen_not_by_their_clocks(server: FakeApiServer, candidate: Candidate) -> None:
    clock = Hand()
    one, two = candidate("one", clock), candidate("two", clock)
    one.turn()
    server.patch_as("x", OWN, NAME, {"spec": {"renewTime": "2001-01-01T00:00:00.000000Z"}}, kind=LEASE)
    two.turn()
    clock.now += LEASE_SECONDS - 0.1
    two.turn()
    assert not two.may_write()


def test_of_two_at_once_one_gets_it(server: FakeApiServer, candidate: Candidate) -> None:
    clock = Hand()
    one, two = candidate("one", clock), candidate("two", clock)
    server.on_next_write(lambda old, new: two.turn(), "create leases")
    one.turn()
    assert (one.may_write(), two.may_write()) == (False, True)


def test_a_lease_deleted_under_us_is_lost(server: FakeApiServer, candidate: Candidate) -> None:
    clock = Hand()
    one = candidate("one", clock)
    one.turn()
    server.store.delete(LEASE, OWN, NAME, {})
    one.turn()
    assert one.lost
    assert "deleted" in one.trouble


def test_a_proxy_that_knows_no_lease_does_not_lose_it(server: FakeApiServer, candidate: Candidate) -> None:
    clock = Hand()
    one = candidate("one", clock)
    one.turn()
    server.fail_next("get leases", 404, body=b"404 page not found")
    one.turn()
    assert not one.lost
    assert one.may_write()


def test_released_it_is_free_at_once(server: FakeApiServer, candidate: Candidate) -> None:
    clock = Hand()
    one, two = candidate("one", clock), candidate("two", clock)
    one.turn()
    one.release()
    assert not one.may_write()
    two.turn()
    assert two.may_write()
    one.release()  # nothing of ours any more
    assert server.get(OWN, NAME, LEASE)["spec"]["holderIdentity"] == "two"


def test_labels_of_a_chart_stay(server: FakeApiServer, candidate: Candidate) -> None:
    body: dict[str, Any] = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
    server.create(LEASE, OWN, {**body, "metadata": {"name": NAME, "labels": {"chart": "x"}}, "spec": {}})
    one = candidate("one", Hand())
    one.turn()
    assert one.may_write()
    assert server.get(OWN, NAME, LEASE)["metadata"]["labels"] == {"chart": "x"}


@pytest.mark.parametrize("body", [{"spec": 7}, {"metadata": {}, "spec": {"holderIdentity": "x"}}, {}, {"spec": []}])
def test_an_odd_answer_ends_no_thread(server: FakeApiServer, candidate: Candidate, body: dict[str, Any]) -> None:
    clock = Hand()
    one = candidate("one", clock)
    one.turn()
    server.fail_next("get leases", 200, body=body)
    clock.now += 2
    one.turn()
    assert one.trouble or one.may_write()


@pytest.mark.parametrize("micros", [0, 1, 999_999])
def test_times_have_exactly_six_decimals_in_utc(micros: int) -> None:
    wall = datetime(2026, 3, 1, 9, microsecond=micros, tzinfo=timezone(timedelta(hours=1)))
    told = written(None, NAME, OWN, "one", wall)
    assert told["spec"]["renewTime"] == f"2026-03-01T08:00:00.{micros:06}Z"


def test_who_may_take_it() -> None:
    seen = Seen("1", "one", 15.0, since=100.0)
    assert may_take(seen, "one", 100.0)
    assert not may_take(seen, "two", 114.9)
    assert may_take(seen, "two", 115.0)
    assert may_take(Seen("1", "", 15.0, 100.0), "two", 100.0)


def test_a_lease_is_the_same_while_its_version_is() -> None:
    told = {"metadata": {"resourceVersion": "7"}, "spec": {"holderIdentity": "one", "leaseDurationSeconds": 15}}
    first = observe(told, None, 100.0)
    assert observe(told, first, 110.0) is first
    told["metadata"]["resourceVersion"] = "8"
    assert observe(told, first, 110.0).since == 110.0
