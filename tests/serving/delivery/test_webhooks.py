"""Webhooks: what is told, in which order, signed, tried again, given up, and not lost over a restart."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.domain import Incident
from serving.delivery import worker
from serving.delivery.courier import LONGEST_DELAY, MOST_WAITING, Clocks, Courier, delay
from serving.delivery.delivery import Delivery
from serving.delivery.notices import CLOSED, OPENED, WORSENED, message, notices
from serving.delivery.sending import Destination, Forbidden, reachable
from serving.store import Store
from tests.serving.delivery.receiver import Receiver, receiving
from tests.serving.publications import NOW, incident

EXTERNAL = "https://forecaster.example.com"


@dataclass
class Time:
    """A clock that stands still until it is moved."""

    passed: float = 0.0

    def wall(self) -> datetime:
        return NOW + timedelta(seconds=self.passed)

    def monotonic(self) -> float:
        return 1_000 + self.passed

    def clocks(self) -> Clocks:
        return Clocks(self.wall, self.monotonic, lambda: 1.0)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = Store(str(tmp_path / "forecaster.db"))
    yield found
    found.close()


def open_incident(id: str = "i1", severity: str = "warning", **more: object) -> Incident:
    return replace(incident(id), severity=severity, **more)  # type: ignore[arg-type]


def delivery(store: Store, time: Time, *to: Destination) -> Delivery:
    return Delivery(to, None, EXTERNAL, store, store.messages(), time.clocks())


def to(receiver: Receiver | str, name: str = "on-call", **more: object) -> Destination:
    url = receiver if isinstance(receiver, str) else receiver.url + "/hook"
    return Destination(name, url, **more)  # type: ignore[arg-type]


# --- what is told ----------------------------------------------------------------------------------------------------


def test_an_incident_is_told_when_it_opens_worsens_and_closes() -> None:
    one = open_incident()
    worse, closed = replace(one, severity="critical", score=9.0), replace(one, closed_at=NOW)
    assert [event for event, _ in notices({}, [one])] == [OPENED]
    assert notices({"i1": one}, [replace(one, score=7.0)]) == []
    assert [event for event, _ in notices({"i1": one}, [worse])] == [WORSENED]
    assert [event for event, _ in notices({"i1": one}, [closed])] == [CLOSED]
    assert notices({"i1": closed}, [closed]) == []
    assert [event for event, _ in notices({}, [closed])] == [OPENED, CLOSED]  # both in one cycle


def test_below_the_least_severity_nothing_is_told_until_it_is_reached() -> None:
    info, worse = open_incident(severity="info"), open_incident(severity="critical")
    assert notices({}, [info], "warning") == []
    assert [event for event, _ in notices({"i1": info}, [worse], "warning")] == [OPENED]
    assert notices({"i1": info}, [replace(info, closed_at=NOW)], "warning") == []


def test_forty_workloads_of_one_cause_are_told_once() -> None:
    fleet = replace(open_incident("c"), workload="*", kind="common_cause")
    members = [replace(open_incident(f"m{i}"), cause="c") for i in range(40)]
    assert [one.id for _, one in notices({}, [fleet, *members])] == ["c"]
    known = {one.id: one for one in (fleet, *members)}
    ended = [replace(one, closed_at=NOW) for one in (fleet, *members)]
    assert [(event, one.id) for event, one in notices(known, ended)] == [(CLOSED, "c")]


def test_the_same_message_has_the_same_id_and_another_has_another() -> None:
    one = open_incident()
    ids = [
        message(*args, NOW, EXTERNAL).id
        for args in (
            ("a", OPENED, one),
            ("b", OPENED, one),
            ("a", CLOSED, one),
            ("a", OPENED, replace(one, id="i2")),
            ("a", OPENED, replace(one, score=9.0)),
        )
    ]
    assert len(set(ids)) == 4 and ids[0] == ids[4]


# --- one request -----------------------------------------------------------------------------------------------------


def test_a_message_is_signed_and_carries_the_incident(
    receiver: Receiver, store: Store, time: Time, tmp_path: Path
) -> None:
    secret = tmp_path / "key"
    secret.write_text("whsec_" + base64.b64encode(b"a secret of ours").decode() + "\n")
    made = delivery(store, time, to(receiver, secret_file=secret))
    made.tell({}, [open_incident()], NOW)
    assert made.couriers[0].step() is None
    (got,) = receiver.got
    told = got.json
    assert (got.path, told["schemaVersion"], told["event"]) == ("/hook", 1, "incident.opened")
    assert told["text"] == "[warning] load is far above what was expected"
    assert told["url"] == f"{EXTERNAL}/incidents?id=i1" and told["incident"]["expectedHigh"] is None
    assert got.headers["idempotency-key"] == got.headers["webhook-id"]
    signed = f"{got.headers['webhook-id']}.{got.headers['webhook-timestamp']}.".encode() + got.body
    digest = hmac.new(b"a secret of ours", signed, hashlib.sha256).digest()
    assert got.headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
    secret.write_text("rotated")  # counts at once
    made.tell({}, [open_incident("i2")], NOW)
    made.couriers[0].step()
    signed = f"{receiver.got[1].headers['webhook-id']}.{int(NOW.timestamp())}.".encode() + receiver.got[1].body
    digest = hmac.new(b"rotated", signed, hashlib.sha256).digest()
    assert receiver.got[1].headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"


def test_without_a_secret_nothing_is_signed_and_the_address_may_lie_in_a_file(
    receiver: Receiver, store: Store, time: Time, tmp_path: Path
) -> None:
    file = tmp_path / "url"
    file.write_text(f"{receiver.url}/secret?key=1\n")
    made = delivery(store, time, Destination("chat", url_file=file))
    made.tell({}, [open_incident()], NOW)
    made.couriers[0].step()
    assert receiver.got[0].path == "/secret?key=1" and "webhook-signature" not in receiver.got[0].headers
    assert receiver.got[0].headers["host"] == receiver.url.removeprefix("http://")


# --- failures --------------------------------------------------------------------------------------------------------


def test_a_server_that_fails_is_asked_again_with_the_same_body_and_id_and_order_is_kept(
    receiver: Receiver, store: Store, time: Time
) -> None:
    receiver.answers = [500, 503, 200, 200]
    made = delivery(store, time, to(receiver))
    (one,) = made.couriers
    made.tell({}, [open_incident()], NOW)
    made.tell({"i1": open_incident()}, [open_incident(closed_at=NOW)], NOW)
    waits = []
    for _ in range(4):
        wait = one.step()
        waits.append(wait)
        time.passed += wait or 0.0
    assert waits == [1.0, 2.0, 0.0, None]
    assert [got.json["event"] for got in receiver.got] == [OPENED, OPENED, OPENED, CLOSED]
    assert len({(got.headers["idempotency-key"], got.body) for got in receiver.got[:3]}) == 1
    assert made.counts == {("on-call", "failed"): 2, ("on-call", "delivered"): 2}
    assert store.flush() and store.messages() == []


def test_it_is_not_asked_before_its_time(receiver: Receiver, store: Store, time: Time) -> None:
    receiver.answers, receiver.headers = [429], {"Retry-After": "90"}
    made = delivery(store, time, to(receiver))
    made.tell({}, [open_incident()], NOW)
    (one,) = made.couriers
    assert one.step() == 90.0
    time.passed = 60.0
    assert one.step() == 30.0 and len(receiver.got) == 1
    time.passed = 90.0
    assert one.step() is None and len(receiver.got) == 2


def test_a_server_that_is_down_then_comes_back_is_told(store: Store, time: Time) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = delivery(store, time, to(f"http://127.0.0.1:{port}/hook"))
    made.tell({}, [open_incident()], NOW)
    (one,) = made.couriers
    assert one.step() == 1.0 and one.waiting == 1
    time.passed = 1.0
    with receiving(port) as receiver:
        assert one.step() is None and len(receiver.got) == 1


def test_a_server_that_is_slow_is_given_up_for_now(receiver: Receiver, store: Store, time: Time) -> None:
    receiver.answers = [0]
    made = delivery(store, time, to(receiver, timeout_seconds=0.2))
    made.tell({}, [open_incident()], NOW)
    assert made.couriers[0].step() == 1.0
    assert made.counts == {("on-call", "failed"): 1}


@pytest.mark.parametrize("status", [400, 404, 410, 301, 302, 307])
def test_a_message_that_is_refused_or_sent_elsewhere_is_given_up_and_the_next_one_goes(
    receiver: Receiver, store: Store, time: Time, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers, receiver.headers = [status], {"Location": f"{receiver.url}/elsewhere"}
    made = delivery(store, time, to(receiver))
    made.tell({}, [open_incident(), open_incident("i2")], NOW)
    with caplog.at_level(logging.ERROR):
        assert made.couriers[0].step() == 0.0
    assert f"status {status}" in caplog.text and receiver.url not in caplog.text
    assert made.couriers[0].step() is None
    assert [got.path for got in receiver.got] == ["/hook", "/hook"]
    assert made.counts == {("on-call", "refused"): 1, ("on-call", "delivered"): 1}


def test_after_a_day_a_message_is_given_up(receiver: Receiver, store: Store, time: Time) -> None:
    receiver.answers = [500] * 2
    made = delivery(store, time, to(receiver))
    made.tell({}, [open_incident()], NOW)
    made.couriers[0].step()
    time.passed = 90_000
    assert made.couriers[0].step() is None
    assert made.counts[("on-call", "expired")] == 1 and store.flush() and store.messages() == []


def test_the_queue_is_bounded_and_the_oldest_go(store: Store, time: Time, receiver: Receiver) -> None:
    made = delivery(store, time, to(receiver))
    made.tell({}, [open_incident(f"i{n}") for n in range(MOST_WAITING + 3)], NOW)
    assert made.waiting == {"on-call": MOST_WAITING} and made.counts == {("on-call", "dropped"): 3}
    assert store.flush() and len(store.messages()) == MOST_WAITING
    made.couriers[0].step()
    assert receiver.got[0].json["incident"]["id"] == "i3"


def test_a_secret_that_cannot_be_read_is_tried_again_not_left_out(
    receiver: Receiver, store: Store, time: Time, tmp_path: Path
) -> None:
    made = delivery(store, time, to(receiver, secret_file=tmp_path / "gone"))
    made.tell({}, [open_incident()], NOW)
    assert made.couriers[0].step() == 1.0 and receiver.got == []


@given(st.integers(1, 5_000), st.floats(0, 1, exclude_max=True), st.none() | st.floats(0, 3_600))
def test_the_wait_grows_has_jitter_and_an_end(attempts: int, chance: float, asked: float | None) -> None:
    wait = delay(attempts, chance, asked)
    whole = min(LONGEST_DELAY, 2.0 ** min(attempts - 1, 30))
    assert max(whole / 2, asked or 0) <= wait <= max(whole, asked or 0)


# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]/",
        "http://[::ffff:169.254.169.254]/",
        "http://0.0.0.0/",
        "http://224.0.0.1/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
    ],
)
def test_some_addresses_are_never_sent_to(url: str, store: Store, time: Time) -> None:
    with pytest.raises(Forbidden):
        reachable(url)
    made = delivery(store, time, to(url))
    made.tell({}, [open_incident()], NOW)
    assert made.couriers[0].step() is None and made.counts == {("on-call", "refused"): 1}


def test_what_was_checked_is_what_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr("ipaddress.IPv4Address.is_reserved", False)
    url, headers, extensions = reachable("https://user:pw@hooks.example.com/a?b=c")
    assert url == "https://192.0.2.7:443/a?b=c" and headers == {"Host": "hooks.example.com"}
    assert extensions == {"sni_hostname": "hooks.example.com"}


# --- restart, threads ------------------------------------------------------------------------------------------------


def test_what_waits_survives_a_restart_and_one_that_is_gone_is_forgotten(tmp_path: Path, time: Time) -> None:
    file = str(tmp_path / "forecaster.db")
    with receiving() as receiver:
        first = Store(file)
        made = delivery(first, time, to("http://127.0.0.1:9/a"), to("http://127.0.0.1:9/b", "old"))
        made.tell({}, [open_incident(), *(open_incident(f"i{n}") for n in range(9, 1, -1))], NOW)
        assert first.flush()  # and then it is killed
        second = Store(file)
        again = delivery(second, time, to(receiver))
        assert again.waiting == {"on-call": 9}
        while again.couriers[0].step() is not None:
            pass
        assert [got.json["incident"]["id"] for got in receiver.got] == ["i1", *(f"i{n}" for n in range(9, 1, -1))]
        second.close()
        third = Store(file)
        assert third.messages() == []
        third.close()
        first._engine.dispose()


def test_telling_never_waits_for_a_receiver_that_hangs(store: Store, receiver: Receiver) -> None:
    """The thread is held by the first message; the loop goes on, and others are told meanwhile."""
    receiver.answers = [0]
    with receiving() as other:
        made = Delivery((to(receiver), to(other, "chat")), None, EXTERNAL, store)
        made.start()
        made.tell({}, [open_incident()], NOW)
        assert receiver.came.acquire(timeout=20) and other.came.acquire(timeout=20)
        made.tell({}, [open_incident("i2")], NOW)
        assert other.came.acquire(timeout=20)
        assert made.waiting["on-call"] == 2
        receiver.released.set()
        made.close()


def test_closing_does_not_wait_for_long_and_keeps_what_waits(
    store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "STOP_SECONDS", 0.1)
    receiver.answers = [0]
    made = Delivery((to(receiver),), None, EXTERNAL, store)
    made.start()
    made.tell({}, [open_incident()], NOW)
    assert receiver.came.acquire(timeout=20)
    made.close()
    assert store.flush() and len(store.messages()) == 1


def test_a_courier_needs_no_message_to_begin(store: Store, time: Time) -> None:
    assert Courier(to("http://127.0.0.1:9/"), store, time.clocks()).step() is None
