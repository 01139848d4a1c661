"""The actuator under faults of the service, the API server, other writers and the clocks, over real HTTP.

Clocks are pushed on, never waited for. What counts is what the API server holds and which requests it saw.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from serving.actuator import access as credentials
from serving.actuator import watching
from serving.actuator.access import Bearer
from serving.actuator.keep import Keep
from serving.actuator.kube import Kube
from serving.actuator.leader import Leadership
from serving.actuator.policy import OWNERS, USERS_OWN
from serving.actuator.restoring import alive, restore_all
from serving.actuator.run import WORKERS, Settings
from tests.apiserver import CONFIG_MAP, EVENT, HPA, LEASE, ApiError, Asked, FakeApiServer
from tests.apiserver.store import Write
from tests.serving.actuator.harness import (
    NAME,
    OWN,
    Clock,
    FakeService,
    Running,
    access,
    actuating,
    cluster,
    item,
    managed,
)

HPAS = "horizontalpodautoscalers"
PAUSED = [{"code": "paused", "detail": ""}]


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with cluster() as one:
        yield one


@pytest.fixture
def service() -> Iterator[FakeService]:
    one = FakeService()
    yield one
    one.close()


def notes(server: FakeApiServer, name: str = "checkout") -> dict[str, str]:
    return server.get("shop", name)["metadata"].get("annotations") or {}


def patches(server: FakeApiServer, name: str = "") -> list[Asked]:
    """Writes to HPAs by the actuator, in order."""
    return [one for one in server.writes("actuator") if one.path.endswith(name)]


def floor_of(asked: Asked) -> int | None:
    told = asked.json
    return told.get("spec", {}).get("minReplicas") if isinstance(told, dict) else None


def stored(server: FakeApiServer) -> dict[str, Any]:
    data = server.get(OWN, NAME, CONFIG_MAP).get("data") or {}
    return {key: json.loads(text) for key, text in data.items()}


def edit(server: FakeApiServer, value: int, manager: str = "kubectl-edit", name: str = "checkout") -> None:
    server.patch_as(manager, "shop", name, {"spec": {"minReplicas": value}})


def held_at(running: Running, service: FakeService, floor: int) -> None:
    service.recommend(item(running.server, floor))
    running.settles(lambda: running.minimum() == floor)
    running.settles(lambda: not running.actuator._busy)


def goes_silent(running: Running, service: FakeService) -> None:
    service.dead = True
    service.wake()
    running.settles(lambda: "the service" in running.actuator.trouble)


# --- A41: the service -------------------------------------------------------------------------------------------------


def test_a41_without_the_service_the_floor_holds_until_expiry_then_walks_home(
    server: FakeApiServer, service: FakeService
) -> None:
    before, noted = managed(server), notes(server)
    with actuating(server, service) as running:
        held_at(running, service, 16)
        goes_silent(running, service)
        running.clock.ahead += 290
        running.turns()
        assert running.minimum() == 16
        running.clock.ahead += 12
        for floor in (13, 11, 9, 8, 7, 6, 5, 4):
            running.settles(lambda floor=floor: running.minimum() == floor)  # type: ignore[misc]
            running.clock.ahead += 30
            running.turns()
            assert running.minimum() == floor  # one step a minute
            running.clock.ahead += 31
        running.settles(lambda: managed(server) == before)
        assert running.minimum() == 3
        assert notes(server) == noted
        running.settles(lambda: not stored(server))
        walked = [floor_of(one) for one in patches(server) if one.status == 200]
        assert walked == [16, 13, 11, 9, 8, 7, 6, 5, 4, 3, None]


def test_a41_answers_304_keep_the_floor_alive(server: FakeApiServer, service: FakeService) -> None:
    with actuating(server, service) as running:
        held_at(running, service, 8)
        for _ in range(3):
            running.clock.ahead += 200
            service.offset += timedelta(seconds=200)
            answered = running.actuator.served_at
            service.again()
            running.settles(lambda answered=answered: running.actuator.served_at > answered)  # type: ignore[misc]
            running.turns()
            assert running.minimum() == 8
        assert len(patches(server)) == 2


@pytest.mark.parametrize(
    ("body", "status"), [(b"{not json", 200), (b"<html>log in</html>", 200), (b'{"items": {}}', 200), (b"no", 503)]
)
def test_a41_what_is_no_recommendation_counts_as_no_answer(
    server: FakeApiServer, service: FakeService, body: bytes, status: int
) -> None:
    with actuating(server, service) as running:
        held_at(running, service, 8)
        service.body, service.status = body, status
        service.wake()
        running.settles(lambda: "the service" in running.actuator.trouble)
        running.turns()
        assert running.minimum() == 8
        assert "forecaster_actuator_polls_failed_total 0" not in running.metrics()
        service.body, service.status = None, 200
        service.recommend(item(server, 9))
        running.settles(lambda: running.minimum() == 9)


def test_a41_a_token_of_the_service_that_rotates_or_is_missing_for_a_moment(
    server: FakeApiServer, service: FakeService, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from serving.client import read_token

    file = tmp_path / "token"
    file.write_text("canary-old")
    service.token = "canary-old"
    with actuating(server, service, token=lambda: read_token(file, {})) as running:
        held_at(running, service, 8)
        file.unlink()  # the mount is being swapped
        service.token = "canary-new"
        service.wake()
        running.settles(lambda: "cannot be read" in running.actuator.trouble.get("the service", ""))
        file.write_text("canary-new")
        service.recommend(item(server, 9))
        running.settles(lambda: running.minimum() == 9)
    assert "canary" not in caplog.text


def test_a41_after_a_start_floors_wait_for_the_service_to_be_asked(server: FakeApiServer, service: FakeService) -> None:
    with actuating(server, service) as running:
        held_at(running, service, 16)
    service.dead = True
    with actuating(server, service, me="two") as running:
        goes_silent(running, service)
        running.settles(lambda: running.actuator.ready and running.actuator._leading)
        running.turns()
        assert running.minimum() == 16
        running.clock.ahead += 61
        running.settles(lambda: running.minimum() == 13)


# --- A42: other owners ------------------------------------------------------------------------------------------------


def test_a42_an_owner_that_comes_back_is_named_and_costs_no_request(
    server: FakeApiServer, service: FakeService
) -> None:
    server.create_hpa("shop", "cart", min_replicas=3, max_replicas=20, manager="argocd-controller", operation="Apply")
    with actuating(server, service) as running:
        service.recommend(item(server, 8, "cart"))
        running.settles(lambda: any("argocd-controller" in one for one in running.events("cart")))
        for _ in range(5):
            running.clock.ahead += 100
            service.recommend(item(server, 9, "cart"))
            running.turns()
        assert running.reasons("cart") == {"OwnedByOther"}
        assert len(running.events("cart")) == 1
        assert not patches(server)


def test_a42_a_field_taken_from_us_by_a_reconciler_is_not_taken_again(
    server: FakeApiServer, service: FakeService
) -> None:
    with actuating(server, service) as running:
        held_at(running, service, 8)
        server.apply_as("kustomize-controller", "shop", "checkout", {"spec": {"minReplicas": 4}}, force=True)
        running.settles(lambda: "OwnedByOther" in running.reasons())
        running.settles(lambda: ("forecaster-actuator", "Apply") not in server.owners("shop", "checkout"))
        running.settles(lambda: USERS_OWN not in notes(server))
        seen = len(patches(server))
        for _ in range(3):
            service.recommend(item(server, 9))
            running.clock.ahead += 301
            service.recommend(item(server, 10))
            running.turns()
        assert len(patches(server)) == seen
        assert running.minimum() == 4
        assert [one.query["force"] for one in patches(server)].count("true") == 1


def test_a42_an_owner_that_comes_between_reading_and_the_forced_write_wins(
    server: FakeApiServer, service: FakeService
) -> None:
    server.on_next_write(
        lambda old, new: edit(server, 5, "argocd-controller"),
        lambda one: one.query.get("force") == "true",
    )
    with actuating(server, service) as running:
        service.recommend(item(server, 8))
        running.settles(lambda: any("argocd-controller" in one for one in running.events()))
        assert running.minimum() == 5
        assert server.owners("shop", "checkout") == [("argocd-controller", "Update")]


def test_a42_a_conflict_with_an_annotation_of_ours_is_not_forced_and_does_not_hold_the_floor_fast(
    server: FakeApiServer, service: FakeService
) -> None:
    before = server.owners("shop", "checkout")
    with actuating(server, service) as running:
        held_at(running, service, 8)
        server.patch_as("kubectl-annotate", "shop", "checkout", {"metadata": {"annotations": {USERS_OWN: "7"}}})
        service.recommend(item(server, 9))
        running.settles(lambda: running.minimum() == 9)
        service.recommend(item(server, None, reasons=PAUSED))
        running.settles(lambda: server.owners("shop", "checkout") == before)
        assert running.minimum() == 3  # not 7: the user's value is what he set minReplicas to
        assert not {USERS_OWN, OWNERS} & set(notes(server))
        assert [one.query.get("force") for one in patches(server)].count("true") == 1


def test_a42_annotations_exported_and_applied_again_are_not_our_memory(
    server: FakeApiServer, service: FakeService
) -> None:
    with actuating(server, service) as running:
        held_at(running, service, 8)
        exported = notes(server)
    server.recreate_hpa("shop", "checkout", min_replicas=6, max_replicas=20, annotations=exported, manager="helm")
    with actuating(server, service, me="two") as running:
        service.recommend(item(server, 9))
        running.settles(lambda: "WriteFailed" in running.reasons())  # annotations would be forced, too: never
        assert running.minimum() == 6
        assert server.owners("shop", "checkout") == [("helm", "Update")]


# --- A43: a server that is busy ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
def test_a43_retry_after_is_honoured(server: FakeApiServer, service: FakeService, status: int) -> None:
    if status == 429:
        server.throttle_next(f"patch {HPAS}", retry_after=40)
    else:
        server.fail_next(f"patch {HPAS}", 503, headers={"Retry-After": "40"})
    with actuating(server, service) as running:
        service.recommend(item(server, 8))
        running.settles(lambda: len(patches(server)) == 1)
        running.settles(lambda: "shop/checkout" in running.actuator.failing)
        running.clock.ahead += 35
        running.turns()
        assert len(patches(server)) == 1
        running.clock.ahead += 6
        running.settles(lambda: running.minimum() == 8)


def fleet(server: FakeApiServer, count: int) -> list[str]:
    """HPAs whose minReplicas nobody owns: a take-over is one request."""
    names = [f"app-{number:03}" for number in range(count)]
    owner = {"manager": "kustomize-controller", "operation": "Apply"}
    for name in names:
        server.create_hpa("shop", name, min_replicas=None, max_replicas=1000, **owner)
    return names


def applied(server: FakeApiServer) -> list[tuple[str, int, float]]:
    """(name, floor, seconds) of applies, in order."""
    return [(one.path.rsplit("/")[-1], floor, one.at) for one in patches(server) if (floor := floor_of(one))]


def check_order(came: list[str], best: list[str]) -> None:
    """As many as there are workers are under way at once and may overtake each other; nothing else comes too early."""
    waiting: list[str] = []
    ahead = iter(best)
    for name in came:
        while name not in waiting:
            waiting.append(next(ahead))
        waiting.remove(name)
        assert len(waiting) < WORKERS


def test_a43_the_rate_holds_raises_come_before_lowers_and_the_biggest_deficit_first(
    server: FakeApiServer, service: FakeService
) -> None:
    names = fleet(server, 40)
    lowered, raised = names[:10], names[10:]
    with actuating(server, service, Settings(apply=True, writes_per_second=10.0, most_added=10_000)) as running:
        running.settles(lambda: len(running.actuator.hpas) == 41)
        service.recommend(*(item(server, 30, name) for name in lowered))
        running.settles(lambda: all(running.minimum(name) == 30 for name in lowered))
        running.settles(lambda: not running.actuator._busy)
        seen = len(applied(server))
        deficits = {name: 5 + 7 * place % 90 for place, name in enumerate(raised)}
        assert len(set(deficits.values())) == len(raised)
        service.recommend(
            *(item(server, 20, name) for name in lowered),
            *(item(server, 1 + deficit, name) for name, deficit in deficits.items()),
        )
        running.settles(lambda: len(applied(server)) == seen + 40)
    made = applied(server)
    new = made[seen:]
    best = sorted(raised, key=lambda name: -deficits[name]) + lowered  # lowers by name
    check_order([name for name, _, _ in new], best)
    for first, last in itertools.combinations(range(len(made)), 2):
        seconds = made[last][2] - made[first][2]
        assert last - first + 1 <= 10 + 10 * seconds + WORKERS


def test_l63_300_hpas_at_once_keep_order_and_the_limit_on_replicas_added(
    server: FakeApiServer, service: FakeService
) -> None:
    names = fleet(server, 300)
    wanted = {name: 10 + place * 7 % 300 for place, name in enumerate(names)}  # 300 different ones
    settings = Settings(apply=True, writes_per_second=300.0, most_added=9_000)
    with actuating(server, service, settings) as running:
        running.settles(lambda: len(running.actuator.hpas) == 301)
        service.recommend(*(item(server, 1 + more, name) for name, more in wanted.items()))
        running.settles(lambda: sum(floor - 1 for _, floor, _ in applied(server)) == 9_000, 30.0)
        running.settles(lambda: running.actuator.added == 9_000)
        running.turns()
        assert running.actuator.added == 9_000
        assert sum(running.minimum(name) - 1 for name in names) == 9_000
        assert "forecaster_actuator_added_replicas 9000" in running.metrics()
    made = applied(server)
    best = sorted(names, key=lambda name: -wanted[name])
    assert {name for name, _, _ in made} == set(best[: len(made)])  # who got something are the most urgent ones
    check_order([name for name, _, _ in made], best)
    whole = [name for name, floor, _ in made if floor == 1 + wanted[name]]
    assert len(whole) >= len(made) - 1  # at most one got a part
    assert len({name for name, _, _ in made}) == len(made)  # one write each


def test_the_limit_counts_a_write_that_the_watch_tells_of_before_its_own_answer(
    server: FakeApiServer, service: FakeService
) -> None:
    server.create_hpa("shop", "cart", min_replicas=2, max_replicas=50, manager="helm")
    with actuating(server, service, Settings(apply=True, most_added=10)) as running:
        running.settles(lambda: len(running.actuator.hpas) == 2)
        with server.hang(lambda one: one.path.endswith("/cart") and "true" in one.query.values(), after_write=True):
            service.recommend(item(server, 12, "cart"))
            running.settles(lambda: running.actuator.hpas["shop/cart"].min_replicas == 12)
            service.recommend(item(server, 12, "cart"), item(server, 8))
            running.settles(lambda: "LimitReached" in running.reasons())
            running.turns()
            assert running.minimum() == 3
        running.settles(lambda: running.actuator.added == 10)


def test_a_limit_that_was_reached_is_forgotten_when_nothing_more_is_wanted(
    server: FakeApiServer, service: FakeService
) -> None:
    with actuating(server, service, Settings(apply=True, most_added=2)) as running:
        service.recommend(item(server, 8))
        running.settles(lambda: running.minimum() == 5 and "LimitReached" in running.metrics())
        service.recommend(item(server, 4))
        running.settles(lambda: running.minimum() == 4)
        running.settles(lambda: "LimitReached" not in running.metrics())


def test_a_connection_that_hangs_for_one_hpa_holds_up_no_other(server: FakeApiServer, service: FakeService) -> None:
    server.create_hpa("shop", "cart", min_replicas=2, max_replicas=50, manager="helm")
    with actuating(server, service) as running, server.hang(f"patch {HPAS}/cart") as hang:
        service.recommend(item(server, 12, "cart"))
        running.settles(hang.entered.is_set)
        for floor in (8, 9, 10):
            service.recommend(item(server, 12, "cart"), item(server, floor))
            running.settles(lambda floor=floor: running.minimum() == floor)  # type: ignore[misc]
        assert running.minimum("cart") == 2


# --- A44: the watch ---------------------------------------------------------------------------------------------------


def watching_now(running: Running) -> None:
    running.settles(lambda: bool(running.server.watches))


@pytest.mark.parametrize("fault", ["closed", "cut", "expired", "restarted", "silent", "without bookmarks"])
def test_a44_what_is_deleted_and_edited_while_the_watch_is_away_is_not_missed(
    server: FakeApiServer, service: FakeService, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault in ("silent", "without bookmarks"):
        monkeypatch.setattr(watching, "WATCH_SECONDS", (1.0, 1.5))
    server.lose_bookmarks = fault == "without bookmarks"
    server.create_hpa("shop", "cart", min_replicas=2, max_replicas=50, manager="helm")
    with actuating(server, service) as running:
        running.settles(lambda: len(running.actuator.hpas) == 2)
        watching_now(running)
        server.silent = True  # until the watch has ended
        server.delete_hpa("shop", "cart")
        server.recreate_hpa("shop", "checkout", min_replicas=4, max_replicas=20, manager="helm")
        server.silent = fault == "silent"
        faults: dict[str, Callable[[], object]] = {
            "closed": server.close_watches,
            "cut": server.drop_watches,
            "expired": server.expire_watches,
            "restarted": server.restart,
        }
        if fault in faults:
            faults[fault]()
        running.settles(lambda: set(running.actuator.hpas) == {"shop/checkout"})
        service.recommend(item(server, 8))
        running.settles(lambda: running.minimum() == 8)
        assert notes(server)[USERS_OWN] == "4"


def test_a44_a_server_that_ends_every_watch_at_once_is_not_asked_all_the_time(server: FakeApiServer) -> None:
    class Rng:
        def uniform(self, low: float, high: float) -> float:
            return high

    now, waits = [0.0], []

    def stopped(seconds: float) -> bool:
        now[0] += seconds
        waits.append(seconds)
        return now[0] > 3600

    server.fail_next("watch ", 200, body=b"", times=None)
    kube = Kube(access(server))
    watch = watching.Watch(kube, None, lambda sight: None, stopped, Rng(), lambda: now[0])  # type: ignore[arg-type]
    watch.run()
    assert len([one for one in server.requests if one.verb == "watch"]) < 100  # in an hour
    server.faults.clear()
    now[0], waits[:] = 0.0, []
    gone = json.dumps({"type": "ERROR", "object": {"code": 410}}).encode() + b"\n"
    server.fail_next("watch ", 200, body=gone, times=None)
    before = len(server.requests)
    watch.run()
    assert len(server.requests) - before < 200
    kube.close()


@pytest.mark.parametrize(
    "page",
    [
        {"items": [7, None, "x", {"metadata": 1}, {"metadata": {"name": "a"}, "spec": {}}]},
        {"items": {"a": 1}},
        {"items": [{"metadata": {"namespace": "s", "name": "a", "uid": "u", "ownerReferences": 7}, "spec": 3}]},
        {"items": [], "metadata": []},
        {"items": [], "metadata": {"resourceVersion": 12, "continue": ""}},
    ],
)
def test_a44_a_list_with_nonsense_in_it_does_not_end_the_watching_thread(
    server: FakeApiServer, service: FakeService, page: dict[str, Any]
) -> None:
    server.fail_next("list ", 200, body=page)
    with actuating(server, service) as running:
        running.settles(lambda: any(one.verb == "list" for one in server.requests))
        server.expire_watches()
        running.settles(lambda: "shop/checkout" in running.actuator.hpas)


@pytest.mark.parametrize("event", [{"type": "ADDED", "object": 7}, {"type": "ERROR", "object": "x"}, [1], "x", {}])
def test_a44_a_watch_that_says_nonsense_does_not_end_the_watching_thread(
    server: FakeApiServer, service: FakeService, event: Any
) -> None:
    server.fail_next("watch ", 200, body=json.dumps(event).encode() + b"\n")
    with actuating(server, service) as running:
        watching_now(running)
        service.recommend(item(server, 8))
        running.settles(lambda: running.minimum() == 8)


# --- A45: HPAs change under us ----------------------------------------------------------------------------------------


def test_a45_an_hpa_made_anew_is_another_one(server: FakeApiServer, service: FakeService) -> None:
    with actuating(server, service) as running:
        held_at(running, service, 8)
        old = item(server, 9)
        server.recreate_hpa("shop", "checkout", min_replicas=2, max_replicas=20, manager="helm")
        service.recommend(old)
        running.settles(lambda: "UidDiffers" in running.reasons())
        running.turns()
        assert running.minimum() == 2
        assert server.owners("shop", "checkout") == [("helm", "Update")]
        running.settles(lambda: not stored(server))
        service.recommend(item(server, 7))
        running.settles(lambda: running.minimum() == 7)
        assert notes(server)[USERS_OWN] == "2"


def test_a45_an_hpa_deleted_between_decision_and_write_does_not_rise_again(
    server: FakeApiServer, service: FakeService
) -> None:
    with actuating(server, service) as running:
        held_at(running, service, 8)
        watching_now(running)
        server.silent = True
        server.delete_hpa("shop", "checkout")
        told = {"namespace": "shop", "hpa": "checkout", "hpaUid": running.actuator.hpas["shop/checkout"].uid}
        service.recommend({**told, "floor": 9, "validForSeconds": 300, "mode": "apply"})
        running.settles(lambda: "shop/checkout" not in running.actuator.hpas)
        assert server.all(HPA) == []


def test_a45_an_edit_by_hand_is_the_users_value_and_the_second_one_steps_aside(
    server: FakeApiServer, service: FakeService
) -> None:
    with actuating(server, service) as running:
        held_at(running, service, 8)
        edit(server, 5)
        running.settles(lambda: running.minimum() == 8)  # taken over once more: another value of the user's
        assert notes(server)[USERS_OWN] == "5"
        assert stored(server)["shop_checkout"]["userMinReplicas"] == 5
        edit(server, 6)
        running.settles(lambda: "SteppedAside" in running.reasons())
        running.settles(lambda: not {USERS_OWN, OWNERS} & set(notes(server)))
        assert running.minimum() == 6
        assert server.owners("shop", "checkout") == [("kubectl-edit", "Update")]
        running.settles(lambda: "aside" in stored(server).get("shop_checkout", {}))
    with actuating(server, service, me="two") as running:  # over a restart, too
        seen = len(patches(server))
        running.settles(lambda: running.actuator.ready and bool(running.actuator.offers))
        running.turns()
        assert len(patches(server)) == seen
        service.recommend(item(server, 8, mode="recommend"))
        running.settles(lambda: not stored(server))
        service.recommend(item(server, 8))  # the consent is renewed
        running.settles(lambda: running.minimum() == 8)


def test_a45_edits_more_than_ten_minutes_apart_do_not_step_aside(server: FakeApiServer, service: FakeService) -> None:
    with actuating(server, service) as running:
        held_at(running, service, 8)
        service.recommend(item(server, 8, validForSeconds=3600.0))
        running.turns()
        for value in (4, 5, 6):
            edit(server, value)
            running.settles(lambda value=value: notes(server).get(USERS_OWN) == str(value))  # type: ignore[misc]
            running.settles(lambda: not running.actuator._busy)
            running.clock.ahead += 601
            running.turns()
        assert "SteppedAside" not in running.reasons()
        assert running.minimum() == 8


def test_a45_a_lower_maximum_is_refused_to_the_user_until_pause_gives_back(
    server: FakeApiServer, service: FakeService
) -> None:
    with actuating(server, service) as running:
        held_at(running, service, 8)
        with pytest.raises(ApiError) as refused:
            server.patch_as("kubectl-patch", "shop", "checkout", {"spec": {"maxReplicas": 6}})
        assert refused.value.code == 422
        service.recommend(item(server, None, reasons=PAUSED))
        running.settles(lambda: running.minimum() == 3)
        server.patch_as("kubectl-patch", "shop", "checkout", {"spec": {"maxReplicas": 6}})
        service.recommend(item(server, 8))
        running.settles(lambda: running.minimum() == 6)  # never above the user's maximum


# --- A46: rights ------------------------------------------------------------------------------------------------------


def test_a46_a_right_withdrawn_in_one_namespace_stops_writes_there_only_and_comes_back(
    server: FakeApiServer, service: FakeService
) -> None:
    server.create_hpa("pay", "cart", min_replicas=2, max_replicas=50, manager="helm")
    with actuating(server, service) as running:
        held_at(running, service, 8)
        server.deny("actuator", "patch", "shop", HPAS)
        service.recommend(item(server, 9), item(server, 12, "cart", "pay"))
        running.settles(lambda: running.minimum("cart", "pay") == 12)
        for _ in range(8):
            refused = len([one for one in patches(server) if one.status == 403])
            running.clock.ahead += 20
            running.turns(2)
            assert len([one for one in patches(server) if one.status == 403]) <= refused + 1
        running.settles(lambda: "Forbidden" in running.reasons())
        assert len([one for one in running.events() if one.startswith("Forbidden")]) == 1
        assert 'result="forbidden"' in running.metrics()
        service.recommend(item(server, 9), item(server, 14, "cart", "pay"))
        running.settles(lambda: running.minimum("cart", "pay") == 14)
        server.allow("actuator", "patch", "shop", HPAS)
        service.recommend(item(server, 10))
        running.clock.ahead += 200
        service.recommend(item(server, 10))
        running.settles(lambda: running.minimum() == 10)
        running.settles(lambda: 'reason="Forbidden"' not in running.metrics())


def test_a46_a_server_that_has_just_started_forbids_for_a_moment_and_nobody_calls_it_a_missing_right(
    server: FakeApiServer, service: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    with actuating(server, service) as running:
        held_at(running, service, 8)
        server.restart(forbidden_requests=4)
        service.recommend(item(server, 9))
        running.settles(lambda: running.minimum() == 9)
        assert "Forbidden" not in running.reasons()
    assert "forbidden: User" not in caplog.text


def test_a46_the_store_is_not_given_up_for_a_403_of_a_moment(server: FakeApiServer, service: FakeService) -> None:
    with actuating(server, service) as running:
        held_at(running, service, 8)
    server.patch_as("forecaster-actuator", "shop", "checkout", [{"op": "remove", "path": "/metadata/annotations"}])
    server.fail_next("get configmaps", 403, reason="Forbidden", times=2)
    with actuating(server, service, me="two") as running:
        running.settles(lambda: running.actuator.counts.store_failed == 1)
        service.recommend(item(server, None, reasons=PAUSED))
        running.clock.ahead += 3
        running.settles(lambda: running.actuator.counts.store_failed == 2)
        running.clock.ahead += 3
        running.settles(lambda: running.minimum() == 3)


def test_a46_a_namespace_that_may_not_be_read_does_not_stop_the_others(
    server: FakeApiServer, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LEAST_WAIT", 0.01)
    server.deny("actuator", "list", "pay", HPAS)
    with actuating(server, service, Settings(apply=True, scopes=("shop", "pay"))) as running:
        service.recommend(item(server, 8))
        running.settles(lambda: running.minimum() == 8)


# --- A47: two actuators -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def two(server: FakeApiServer, service: FakeService) -> Iterator[tuple[Running, Running, Clock]]:
    """The first holds the lease; one clock for both leases, in the test's hands."""
    server.rights["second"] = server.rights["actuator"]
    server.tokens["second-token"] = "second"
    clock = Clock()
    with (
        actuating(server, service, lease_clock=clock) as first,
        actuating(server, service, me="two", user="second", lease_clock=clock) as second,
    ):
        first.settles(lambda: first.leadership is not None and first.leadership.may_write())
        second.settles(lambda: second.leadership is not None and second.leadership._seen is not None)
        yield first, second, clock


def by(server: FakeApiServer, user: str) -> list[Asked]:
    return [one for kind in (HPAS, "configmaps") for one in server.writes(user, kind)]


def test_a47_one_of_two_writes_and_the_other_follows_when_it_stops_renewing(
    server: FakeApiServer, service: FakeService
) -> None:
    with two(server, service) as (first, second, clock):
        service.recommend(item(server, 8))
        first.settles(lambda: first.minimum() == 8)
        second.turns()
        assert not by(server, "second")
        with server.hang(lambda one: "leases" in one.path and one.user == "actuator"):
            seen = second.leadership._seen.version if second.leadership and second.leadership._seen else ""
            renewed = server.get(OWN, NAME, LEASE)["metadata"]["resourceVersion"]
            second.settles(
                lambda: (
                    second.leadership is not None
                    and second.leadership._seen is not None
                    and second.leadership._seen.version == renewed
                )
            )
            assert seen
            clock.ahead += 11  # it has not renewed for longer than it may
            assert first.thread is not None
            first.thread.join(15)
            assert first.code == [1]
            wrote = len(by(server, "actuator"))
            service.recommend(item(server, 9))
            second.turns()
            assert second.minimum() == 8  # nobody writes in between
            clock.ahead += 5
            second.settles(lambda: second.minimum() == 9)
            service.recommend(item(server, None, reasons=PAUSED))
            second.settles(lambda: second.minimum() == 3)
        assert len(by(server, "actuator")) == wrote
        assert max(one.at for one in by(server, "actuator")) < min(one.at for one in by(server, "second"))
        assert server.get(OWN, NAME, LEASE)["spec"]["leaseTransitions"] == 1


def test_a47_a_patch_that_hangs_while_the_lease_is_lost_is_followed_by_no_other_write(
    server: FakeApiServer, service: FakeService
) -> None:
    with two(server, service) as (first, second, clock):
        service.recommend(item(server, 8))
        first.settles(lambda: first.minimum() == 8)
        first.settles(lambda: not first.actuator._busy)
        with server.hang(lambda one: one.method == "PATCH" and one.user == "actuator", after_write=True) as hang:
            service.recommend(item(server, None, reasons=PAUSED))  # value, ownership and store: three writes
            first.settles(hang.entered.is_set)
            wrote = len(by(server, "actuator"))
            clock.ahead += 11
            hang.release()
            assert first.thread is not None
            first.thread.join(15)
            assert first.code == [1]
            assert len(by(server, "actuator")) == wrote
            clock.ahead += 5
            second.settles(lambda: not stored(server))  # the second ends what the first began
            second.settles(lambda: USERS_OWN not in notes(server))
            assert second.minimum() == 3
        assert len(by(server, "actuator")) == wrote


def test_a47_a_write_is_asked_for_after_the_token_is_there(server: FakeApiServer) -> None:
    """Getting a token can take a plugin a minute: the lease may be lost by then."""
    leads = [True]

    def slow() -> tuple[str, float]:
        leads[0] = False
        return server.token("actuator"), 60.0

    kube = Kube(credentials.Access(server.url, "a test", OWN, bearer=Bearer(slow)), may_write=lambda: leads[0])
    uid = server.get("shop", "checkout")["metadata"]["uid"]
    body = {"metadata": {"name": "checkout", "namespace": "shop", "uid": uid}}
    with pytest.raises(Exception, match="another actuator holds the lease"):
        kube.apply_hpa("shop", "checkout", body)
    assert not server.requests
    kube.close()


# --- A48, A49: without an actuator ------------------------------------------------------------------------------------


def restorer(server: FakeApiServer, sleep: Callable[[float], None] = lambda seconds: None) -> list[Any]:
    kube = Kube(access(server))
    leadership = Leadership(kube, OWN, NAME, "restore")
    kube.may_write = leadership.may_write
    try:
        return restore_all(kube, Keep(kube, OWN, NAME), leadership, (None,), sleep)
    finally:
        kube.close()


def test_a48_if_stale_restores_only_when_nobody_renews(server: FakeApiServer, service: FakeService) -> None:
    kube = Kube(access(server))
    with actuating(server, service) as running:
        held_at(running, service, 8)

        def renewal(seconds: float) -> None:
            assert seconds >= 15
            version = server.get(OWN, NAME, LEASE)["metadata"]["resourceVersion"]
            running.settles(lambda: server.get(OWN, NAME, LEASE)["metadata"]["resourceVersion"] != version)

        assert alive(kube, OWN, NAME, timedelta(0), renewal)
    told = server.get(OWN, NAME, LEASE)
    stopped = datetime.fromisoformat(told["spec"]["renewTime"])

    def ask(minutes: int) -> bool:
        now = stopped + timedelta(minutes=minutes)
        return alive(kube, OWN, NAME, timedelta(minutes=5), lambda seconds: None, lambda: now)

    assert ask(1)  # it may be starting again
    assert not ask(6)
    server.store.delete(LEASE, OWN, NAME, {})
    assert not ask(0)
    assert restorer(server)[0].after == 3
    assert server.get("shop", "checkout")["spec"]["minReplicas"] == 3
    kube.close()


def test_a48_restore_waits_for_a_lease_that_is_held_and_refuses(server: FakeApiServer, service: FakeService) -> None:
    with actuating(server, service) as running:
        held_at(running, service, 8)
        with pytest.raises(Exception, match="one holds the lease"):
            restorer(server)
        assert running.minimum() == 8


def test_a49_after_a_restore_nothing_of_ours_is_left_on_30_hpas_of_every_owner(
    server: FakeApiServer, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.actuator.kube.PAGE", 7)
    owners = [
        ("kubectl-client-side-apply", "Update", 3),
        ("kubectl-client-side-apply", "Update", None),
        ("kubectl-create", "Update", 2),
        ("helm", "Update", 4),
        ("kustomize-controller", "Apply", None),
        ("kubectl-edit", "Update", 5),
    ]
    names = [f"app-{number:02}" for number in range(29)]
    for name, (manager, operation, low) in zip(names, itertools.cycle(owners), strict=False):
        server.create_hpa("shop", name, min_replicas=low, max_replicas=40, manager=manager, operation=operation)
        if manager == "kubectl-edit":  # an entry that owns nothing else
            server.patch_as("kubectl-patch", "shop", name, {"spec": {"minReplicas": 6}})
    autoscaled(server, "auto")
    names.append("auto")
    before = {name: (managed(server, name), server.get("shop", name)["spec"]) for name in names}
    settings = Settings(apply=True, writes_per_second=100.0)
    with actuating(server, service, settings) as running:
        running.settles(lambda: len(running.actuator.hpas) == 31)
        service.recommend(*(item(server, 9, name) for name in names))
        running.settles(lambda: all(running.minimum(name) == 9 for name in names))
    done = restorer(server)
    assert len(done) == 30
    assert not [one for one in done if one.error]
    for name in names:
        told = server.get("shop", name)
        assert not {USERS_OWN, OWNERS} & set(told["metadata"].get("annotations") or {})
        assert "forecaster-actuator" not in json.dumps(told["metadata"]["managedFields"])
        wanted, spec = before[name]
        assert sorted(map(json.dumps, managed(server, name))) == sorted(map(json.dumps, wanted))
        assert told["spec"] == spec
    assert not stored(server)


def autoscaled(server: FakeApiServer, name: str) -> None:
    """As `kubectl autoscale` does: through autoscaling/v1."""
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
    spec = {"minReplicas": 2, "maxReplicas": 10, "scaleTargetRef": target, "targetCPUUtilizationPercentage": 70}
    head = {"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler"}
    body = {**head, "metadata": {"name": name, "namespace": "shop"}, "spec": spec}
    server.store.create(HPA, "v1", "shop", body, Write("kubectl-autoscale"))


def test_a49_one_hpa_that_fails_does_not_keep_the_others_from_being_given_back(
    server: FakeApiServer, service: FakeService
) -> None:
    server.create_hpa("shop", "cart", min_replicas=2, max_replicas=50, manager="helm")
    with actuating(server, service) as running:
        service.recommend(item(server, 8), item(server, 9, "cart"))
        running.settles(lambda: running.minimum() == 8 and running.minimum("cart") == 9)
    server.fail_next(f"get {HPAS}/cart", 200, body={"metadata": {"uid": "?"}}, times=None)
    server.fail_next("get configmaps", 503)
    server.fail_next("list horizontalpodautoscalers", 503)
    done = {one.key: one for one in restorer(server)}
    assert done["shop/checkout"].after == 3
    assert server.get("shop", "checkout")["spec"]["minReplicas"] == 3


# --- C50, C51: clocks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ahead", "ours"), [(10, 0), (-10, 0), (0, 10), (0, -10), (10, -10)])
def test_c50_clocks_that_differ_are_said_and_expiry_goes_by_age(
    server: FakeApiServer, service: FakeService, ahead: int, ours: int, caplog: pytest.LogCaptureFixture
) -> None:
    service.offset = timedelta(minutes=ahead)
    with actuating(server, service, wall=lambda: datetime.now(UTC) + timedelta(minutes=ours)) as running:
        held_at(running, service, 16)
        assert "the clocks of the service and of this host differ" in caplog.text
        assert abs(running.actuator.skew_seconds - 60 * (ahead - ours)) < 5
        goes_silent(running, service)
        running.clock.ahead += 285
        running.turns(2)
        assert running.minimum() == 16
        running.clock.ahead += 20
        running.settles(lambda: running.minimum() == 13)


def test_c51_when_the_clock_of_the_service_falls_back_nothing_gets_younger(
    server: FakeApiServer, service: FakeService
) -> None:
    with actuating(server, service) as running:
        held_at(running, service, 16)
        expiry = running.actuator.offers["shop/checkout"].expires_at
        running.clock.ahead += 200
        service.offset -= timedelta(hours=1)
        for _ in range(2):
            answered = running.actuator.served_at
            service.wake()  # the same items, again and again
            running.settles(lambda answered=answered: running.actuator.served_at > answered)  # type: ignore[misc]
            assert running.actuator.offers["shop/checkout"].expires_at <= expiry
        running.clock.ahead += 101
        running.settles(lambda: running.minimum() == 13)


# --- everything else --------------------------------------------------------------------------------------------------


def test_a_server_that_dies_in_the_middle_of_a_take_over_does_not_lose_the_users_value(
    server: FakeApiServer, service: FakeService
) -> None:
    with actuating(server, service) as running:
        with server.hang(lambda one: one.query.get("force") == "true", after_write=True) as hang:
            service.recommend(item(server, 8))
            running.settles(hang.entered.is_set)
            running.settles(lambda: running.minimum() == 8)
            server.kill()
        server.restart()
        running.clock.ahead += 60
        service.recommend(item(server, 9))
        running.settles(lambda: running.minimum() == 9)
        assert notes(server)[USERS_OWN] == "3"
        assert "UserEdit" not in running.reasons()
        assert [one.query.get("force") for one in patches(server)].count("true") == 1
        service.recommend(item(server, None, reasons=PAUSED))
        running.settles(lambda: running.minimum() == 3)


@pytest.mark.parametrize("after_write", [False, True])
@pytest.mark.parametrize("status", [0, 502, 504])
def test_after_an_unknown_outcome_the_hpa_is_read_before_it_is_written(
    server: FakeApiServer, service: FakeService, after_write: bool, status: int
) -> None:
    with actuating(server, service) as running:
        held_at(running, service, 8)
        watching_now(running)
        server.silent = True  # the watch does not tell either
        if status:
            server.fail_next(f"patch {HPAS}", status, body=b"proxy", after_write=after_write)
        else:
            server.cut_next(f"patch {HPAS}", after_write=after_write)
        seen = len(server.requests)
        service.recommend(item(server, 9))
        running.settles(lambda: "shop/checkout" in running.actuator.failing)
        running.clock.ahead += 40
        running.settles(lambda: running.minimum() == 9)
        running.settles(lambda: running.actuator.hpas["shop/checkout"].min_replicas == 9)
        asked = [one.verb for one in server.requests[seen:] if HPAS in one.path and one.verb in ("get", "patch")]
        assert asked == (["patch", "get"] if after_write else ["patch", "get", "patch"])


@pytest.mark.parametrize("manager", ["kubectl-replace", "keda"])
def test_annotations_wiped_while_we_hold_do_not_lose_the_users_value(
    server: FakeApiServer, service: FakeService, manager: str
) -> None:
    with actuating(server, service) as running:
        held_at(running, service, 8)
        body = server.get("shop", "checkout")
        for name in ("annotations", "managedFields", "resourceVersion"):
            body["metadata"].pop(name)
        server.replace_as(manager, "shop", "checkout", body)  # whole, with the same minReplicas
        assert notes(server) == {}
        running.settles(lambda: running.actuator.hpas["shop/checkout"].users_own is None)
    with actuating(server, service, me="two") as running:
        service.recommend(item(server, None, reasons=PAUSED))
        running.settles(lambda: running.minimum() == 3)


def test_a_store_that_failed_is_written_later(server: FakeApiServer, service: FakeService) -> None:
    fault = server.fail_next("patch configmaps", 503, times=None)
    with actuating(server, service) as running:
        held_at(running, service, 8)  # the annotation holds the user's value, too
        assert not stored(server)
        assert "forecaster_actuator_store_failures_total 0" not in running.metrics()
        server.faults.remove(fault)
        running.clock.ahead += 31
        running.settles(lambda: stored(server).get("shop_checkout", {}).get("userMinReplicas") == 3)
        seen = len(server.writes("actuator", "configmaps"))
        for _ in range(3):
            running.clock.ahead += 31
            service.recommend(item(server, 8))
            running.turns()
        assert len(server.writes("actuator", "configmaps")) == seen


def test_entries_of_hpas_that_are_gone_leave_the_store_at_a_start(server: FakeApiServer, service: FakeService) -> None:
    old = json.dumps({"uid": "gone", "userMinReplicas": 2, "owners": "nobody"})
    data = {"shop_gone": old, "shop_checkout": old, "shop_bad": "{", "without": old}
    server.patch_as("kubectl-patch", OWN, NAME, {"data": data}, kind=CONFIG_MAP)
    with actuating(server, service) as running:
        held_at(running, service, 8)
        running.clock.ahead += 31
        running.settles(lambda: "shop_gone" not in (server.get(OWN, NAME, CONFIG_MAP).get("data") or {}))
        assert json.loads(server.get(OWN, NAME, CONFIG_MAP)["data"]["shop_checkout"])["userMinReplicas"] == 3


@pytest.mark.parametrize("how", ["absent", "forbidden"])
def test_without_a_store_the_annotations_do(
    server: FakeApiServer, service: FakeService, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    if how == "absent":
        server.store.delete(CONFIG_MAP, OWN, NAME, {})
    else:
        server.deny("actuator", "*", OWN, "configmaps")
    for me in ("one", "two"):
        with actuating(server, service, me=me) as running:
            for _ in range(0 if how == "absent" else watching.STARTING_UP):
                failed = running.actuator.counts.store_failed
                running.settles(lambda failed=failed: running.actuator.counts.store_failed > failed)  # type: ignore[misc]
                running.clock.ahead += 3
            if me == "one":
                held_at(running, service, 8)
            else:
                service.recommend(item(server, None, reasons=PAUSED))
                running.settles(lambda: running.minimum() == 3)
    assert f"ConfigMap {OWN}/{NAME}" in caplog.text


def test_events_that_may_not_be_written_are_said_once_and_stop_nothing(
    server: FakeApiServer, service: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    server.deny("actuator", "create", "*", "events")
    with actuating(server, service) as running:
        for floor in (8, 9, 10):
            held_at(running, service, floor)
        running.settles(lambda: running.teller.dropped == 3)
        assert "forecaster_actuator_events_dropped_total 3" in running.metrics()
    assert caplog.text.count("Events cannot be written") == 1
    assert server.all(EVENT) == []


def test_somebody_who_writes_between_the_two_writes_of_a_restore_loses_nothing(
    server: FakeApiServer, service: FakeService
) -> None:
    with actuating(server, service) as running:
        held_at(running, service, 8)
        server.on_next_write(
            lambda old, new: server.patch_as("kubectl-label", "shop", "checkout", {"metadata": {"labels": {"a": "b"}}}),
            lambda one: one.headers["content-type"].startswith("application/json-patch"),
        )
        service.recommend(item(server, None, reasons=PAUSED))
        running.settles(lambda: USERS_OWN not in notes(server))
        assert running.minimum() == 3
        assert server.get("shop", "checkout")["metadata"]["labels"]["a"] == "b"
        assert server.owners("shop", "checkout") == [("kubectl-client-side-apply", "Update")]


def test_somebody_who_sets_the_field_between_the_two_writes_of_a_restore_has_the_last_word(
    server: FakeApiServer, service: FakeService
) -> None:
    with actuating(server, service) as running:
        held_at(running, service, 8)
        server.on_next_write(
            lambda old, new: edit(server, 7),
            lambda one: one.headers["content-type"].startswith("application/json-patch"),
        )
        service.recommend(item(server, None, reasons=PAUSED))
        running.settles(lambda: USERS_OWN not in notes(server))
        running.turns()
        assert running.minimum() == 7
        assert server.owners("shop", "checkout") == [("kubectl-edit", "Update")]


def test_a_token_of_the_api_server_that_rotates_is_read_again(
    server: FakeApiServer, service: FakeService, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "token"
    file.write_text("canary-old\n")
    server.tokens["canary-old"] = "actuator"
    with actuating(server, service, bearer=Bearer(credentials._from_file(file), changes=True)) as running:
        held_at(running, service, 8)
        del server.tokens["canary-old"]
        server.tokens["canary-new"] = "actuator"
        file.write_text("canary-new\n")
        service.recommend(item(server, 9))
        running.settles(lambda: running.minimum() == 9)
        assert running.stop() == 0
    assert "canary" not in caplog.text


def test_threads_end_with_the_process(server: FakeApiServer, service: FakeService) -> None:
    with actuating(server, service) as running:
        held_at(running, service, 8)
        server.delete_hpa("shop", "checkout")  # what is learned while it ends is no reason to fail
        assert running.stop() == 0
    assert not [one for one in threading.enumerate() if one.name.startswith("write")]


def test_an_hpa_that_is_gone_is_learned_of_while_the_process_ends(server: FakeApiServer, service: FakeService) -> None:
    with actuating(server, service) as running:
        held_at(running, service, 8)
        watching_now(running)
        server.silent = True
        with server.hang(f"patch {HPAS}") as hang:
            service.recommend(item(server, 9))
            running.settles(hang.entered.is_set)
            server.delete_hpa("shop", "checkout")
            running.process.stop()
            running.settles(lambda: running.actuator._closed)
            hang.release()
            assert running.stop() == 0
        assert server.get(OWN, NAME, LEASE)["spec"]["holderIdentity"] == ""


def test_many_take_overs_at_once_are_stored_in_few_writes(server: FakeApiServer, service: FakeService) -> None:
    names = fleet(server, 60)
    with actuating(server, service, Settings(apply=True, writes_per_second=100.0)) as running:
        running.settles(lambda: len(running.actuator.hpas) == 61)
        service.recommend(*(item(server, 4, name) for name in names))
        running.settles(lambda: all(running.minimum(name) == 4 for name in names))
        assert len(stored(server)) == 60
        assert len(server.writes("actuator", "configmaps")) < 30
        service.recommend(*(item(server, None, name, reasons=PAUSED) for name in names))
        running.settles(lambda: not stored(server))
