"""The whole actuator over real HTTP: against a fake API server that answers as a real one, and a fake service."""

from __future__ import annotations

import pytest

from serving.actuator.run import Settings
from tests.apiserver import CONFIG_MAP, FakeApiServer
from tests.serving.actuator.harness import NAME, OWN, FakeService, actuating, item, managed


def test_a_floor_is_written_stepped_and_given_back_exactly(server: FakeApiServer, service: FakeService) -> None:
    before, annotations = managed(server), server.get("shop", "checkout")["metadata"].get("annotations")
    with actuating(server, service) as running:
        service.recommend(item(server, 8))
        running.settles(lambda: running.minimum() == 8)
        assert server.owners("shop", "checkout") == [("forecaster-actuator", "Apply")]
        marks = server.get("shop", "checkout")["metadata"]["annotations"]
        assert marks["forecaster.io/user-min-replicas"] == "3"
        assert marks["forecaster.io/min-replicas-owner"] == "kubectl-client-side-apply/Update/autoscaling/v2"
        kept = server.get(OWN, NAME, CONFIG_MAP)["data"]["shop_checkout"]
        assert '"userMinReplicas":3' in kept
        service.recommend(item(server, 12))
        running.settles(lambda: running.minimum() == 12)
        service.recommend(item(server, 5))
        running.settles(lambda: running.minimum() == 5)
        forced = [one.query["force"] for one in server.writes("actuator")]
        assert forced.count("true") == 1  # once, at the take-over
        service.recommend(item(server, 5, mode="recommend"))  # the consent is withdrawn
        running.settles(lambda: running.minimum() == 3)
        running.settles(lambda: managed(server) == before)
        assert server.get("shop", "checkout")["metadata"].get("annotations") == annotations
        running.settles(lambda: not server.get(OWN, NAME, CONFIG_MAP).get("data"))
        running.settles(lambda: running.reasons() >= {"FloorTaken", "FloorRaised", "FloorLowered", "Restored"})
        assert any("bound by proactive; proactive 12" in one for one in running.events())


def test_a_steady_floor_costs_no_request(server: FakeApiServer, service: FakeService) -> None:
    with actuating(server, service) as running:
        service.recommend(item(server, 8))
        running.settles(lambda: running.minimum() == 8)
        running.settles(lambda: "FloorTaken" in running.reasons() and bool(server.watches))
        running.turns()
        before = len([one for one in server.requests if "lease" not in one.path])
        for _ in range(3):
            service.recommend(item(server, 8))
            server.write_status("shop", "checkout", 8, 8)
            running.turns()
        assert len([one for one in server.requests if "lease" not in one.path]) == before


def test_a_dry_run_says_and_writes_nothing(
    server: FakeApiServer, service: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with actuating(server, service, Settings(apply=False)) as running:
        service.recommend(item(server, 8))
        running.settles(lambda: "would write: minReplicas 3 → 8" in caplog.text)
        running.turns()
    assert not [one for one in server.requests if one.method != "GET"]
    assert caplog.text.count("would write") == 1


@pytest.mark.parametrize(
    ("manager", "operation"), [("helm", "Apply"), ("kustomize-controller", "Apply"), ("keda", "Update")]
)
def test_owners_that_come_back_keep_the_field(
    server: FakeApiServer, service: FakeService, manager: str, operation: str
) -> None:
    server.create_hpa("shop", "cart", min_replicas=3, max_replicas=20, manager=manager, operation=operation)
    before = managed(server, "cart")
    with actuating(server, service) as running:
        service.recommend(item(server, 8, "cart"), item(server, 8))
        running.settles(lambda: running.minimum() == 8)
        running.settles(lambda: "OwnedByOther" in running.reasons("cart"))
        assert managed(server, "cart") == before
        assert any(manager in one for one in running.events("cart"))
        assert 'hpa="cart",reason="OwnedByOther"' in running.metrics()


def test_a_field_that_nobody_owns_is_taken_without_force(server: FakeApiServer, service: FakeService) -> None:
    server.create_hpa(
        "shop", "cart", min_replicas=None, max_replicas=20, manager="kustomize-controller", operation="Apply"
    )
    before = managed(server, "cart")
    with actuating(server, service) as running:
        service.recommend(item(server, 8, "cart"))
        running.settles(lambda: running.minimum("cart") == 8)
        service.recommend(item(server, None, "cart", reasons=[{"code": "paused", "detail": ""}]))
        running.settles(lambda: running.minimum("cart") == 1)
        running.settles(lambda: managed(server, "cart") == before)
    assert all(one.query.get("force") != "true" for one in server.writes("actuator"))


def test_the_limit_on_replicas_added_counts_over_all_hpas(server: FakeApiServer, service: FakeService) -> None:
    server.create_hpa("shop", "cart", min_replicas=2, max_replicas=50, manager="helm")
    with actuating(server, service, Settings(apply=True, most_added=10)) as running:
        service.recommend(item(server, 7), item(server, 12, "cart"))
        running.settles(lambda: running.minimum() + running.minimum("cart") == 5 + 10)
        running.turns()
        assert (running.minimum(), running.minimum("cart")) == (3, 12)  # the bigger deficit came first
        assert "LimitReached" in running.reasons()
        assert running.actuator.added == 10
        service.recommend(item(server, 7), item(server, 2, "cart"))
        running.settles(lambda: running.minimum() == 7)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"floor": "8"}, "floor"),
        ({"floor": -1}, "floor"),
        ({"floor": 0}, "floor"),
        ({"floor": True}, "floor"),
        ({"floor": 2**40}, "floor"),
        ({"validForSeconds": "NaN"}, "validForSeconds"),
        ({"validForSeconds": -5}, "validForSeconds"),
        ({"validForSeconds": 1e9}, "validForSeconds"),
        ({"madeAt": "yesterday"}, "yesterday"),
        ({"madeAt": "2026-01-01T00:00:00"}, "time zone"),
        ({"hpaUid": 7}, "hpaUid"),
        ({"mode": None}, "mode"),
    ],
)
def test_a_malformed_recommendation_is_said_and_harms_no_other(
    server: FakeApiServer, service: FakeService, change: dict[str, object], word: str
) -> None:
    server.create_hpa("shop", "cart", min_replicas=2, max_replicas=50, manager="helm")
    with actuating(server, service) as running:
        service.recommend(item(server, 8) | change, item(server, 6, "cart"))
        running.settles(lambda: running.minimum("cart") == 6)
        running.settles(lambda: any(one.startswith("Malformed") and word in one for one in running.events()))
        assert running.minimum() == 3
        assert "forecaster_actuator_malformed_total 0" not in running.metrics()


def test_a_stop_in_good_order_keeps_the_floor_and_frees_the_lease(server: FakeApiServer, service: FakeService) -> None:
    with actuating(server, service) as running:
        service.recommend(item(server, 8))
        running.settles(lambda: running.minimum() == 8)
        assert running.stop() == 0
        assert running.minimum() == 8
        with actuating(server, service, me="two") as second:  # goes on at once where the first one stopped
            service.recommend(item(server, 9))
            second.settles(lambda: second.minimum() == 9)
            service.recommend(item(server, None, mode="recommend"))
            second.settles(lambda: second.minimum() == 3)
