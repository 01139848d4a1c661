"""Each action against the fake API server, for each kind of owner: what is sent, and what is left."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from serving.actuator import hpas, writes
from serving.actuator.kube import Kind, Kube, KubeError
from serving.actuator.policy import OWNERS, USERS_OWN, Hold, Hpa, LetGo, Nothing, Restore, Step, Take, marks_of
from tests.apiserver import HPA, Asked, FakeApiServer
from tests.apiserver.store import Write
from tests.serving.actuator.conftest import Connect
from tests.serving.actuator.harness import managed

Make = Callable[[FakeApiServer], object]


def by(manager: str, low: int | None = 3, operation: str = "Update") -> Make:
    return lambda server: server.create_hpa(
        "shop", "cart", min_replicas=low, max_replicas=20, manager=manager, operation=operation
    )


def autoscale(server: FakeApiServer) -> None:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "cart"}
    spec = {"minReplicas": 3, "maxReplicas": 20, "scaleTargetRef": target, "targetCPUUtilizationPercentage": 70}
    head = {"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler"}
    body = {**head, "metadata": {"name": "cart", "namespace": "shop"}, "spec": spec}
    server.store.create(HPA, "v1", "shop", body, Write("kubectl-autoscale"))


def edited(server: FakeApiServer) -> None:
    """kubectl-patch owns minReplicas and nothing else: our taking over removes its entry."""
    by("kubectl-create")(server)
    server.patch_as("kubectl-patch", "shop", "cart", {"spec": {"minReplicas": 5}})


ONE_SHOT = {
    "kubectl apply": by("kubectl-client-side-apply"),
    "kubectl apply, default": by("kubectl-client-side-apply", None),
    "kubectl create": by("kubectl-create"),
    "helm 3": by("helm"),
    "kubectl autoscale": autoscale,
    "kubectl patch": edited,
}
NOBODYS = {
    "helm 4": by("helm", None, "Apply"),
    "flux": by("kustomize-controller", None, "Apply"),
    "argo cd": by("argocd-controller", None, "Apply"),
    "server-side": by("kubectl", None, "Apply"),
}


@pytest.fixture
def kube(connect: Connect) -> Kube:
    return connect(may_write=lambda: True)


def seen(server: FakeApiServer) -> Hpa:
    return hpas.parse(server.get("shop", "cart"))


def sent(server: FakeApiServer) -> list[Asked]:
    return server.writes("actuator")


def taken(kube: Kube, server: FakeApiServer, floor: int = 8) -> tuple[Hpa, Hold]:
    hpa = seen(server)
    hold = Hold(hpa.min_replicas, hpa.owners)
    done = writes.perform(kube, hpa, Take(floor, hold, force=bool(hpa.owners)))
    assert done is not None
    return done, hold


@pytest.mark.parametrize("owner", [*ONE_SHOT, *NOBODYS])
def test_the_whole_way_for_each_owner(server: FakeApiServer, kube: Kube, owner: str) -> None:
    (ONE_SHOT | NOBODYS)[owner](server)
    before, spec = managed(server, "cart"), server.get("shop", "cart")["spec"]
    hpa, hold = taken(kube, server)
    assert (hpa.min_replicas, hpa.ours, hpa.owners) == (8, True, ())
    assert [one.query["force"] for one in sent(server)] == (["false", "true"] if owner in ONE_SHOT else ["false"])
    for floor in (12, 9):
        stepped = writes.perform(kube, hpa, Step(floor, hold))
        assert stepped is not None
        assert stepped.min_replicas == floor
    done = writes.perform(kube, hpa, Restore(hold))
    assert done is not None
    assert not done.marked
    assert server.get("shop", "cart")["spec"] == spec
    assert sorted(map(json.dumps, managed(server, "cart"))) == sorted(map(json.dumps, before))
    assert not {USERS_OWN, OWNERS} & set(server.get("shop", "cart")["metadata"].get("annotations") or {})
    check_forms(sent(server), hpa.uid)


def check_forms(asked: list[Asked], uid: str) -> None:
    """Only what is ours to say; a resourceVersion only where one is compared."""
    for one in asked:
        assert one.query["fieldManager"] == "forecaster-actuator"
        if one.headers["content-type"] == "application/json-patch+json":
            assert "force" not in one.query
            tests = {step["path"]: step["value"] for step in one.json if step["op"] == "test"}
            assert tests["/metadata/uid"] == uid
            assert set(tests) == {"/metadata/uid", "/metadata/resourceVersion", "/spec/minReplicas"}
            rest = {step["path"] for step in one.json if step["op"] != "test"}
            assert all(path == "/metadata/managedFields" or "forecaster.io~1" in path for path in rest)
            continue
        body = one.json
        assert set(body) <= {"apiVersion", "kind", "metadata", "spec"}
        metadata: dict[str, Any] = body["metadata"]
        assert metadata["uid"] == uid
        assert set(metadata) <= {"name", "namespace", "uid", "annotations", "resourceVersion"}
        assert set(metadata.get("annotations", {})) <= {USERS_OWN, OWNERS}
        assert set(body.get("spec", {})) <= {"minReplicas"}
        assert ("resourceVersion" in metadata) == (one.query["force"] == "true")


def test_nothing_is_nothing(server: FakeApiServer, kube: Kube) -> None:
    by("helm")(server)
    assert writes.perform(kube, seen(server), Nothing()) is None
    assert not server.requests


def test_a_take_over_is_forced_only_on_the_state_that_was_decided_on(server: FakeApiServer, kube: Kube) -> None:
    by("helm")(server)
    hpa = seen(server)
    server.patch_as("helm", "shop", "cart", {"spec": {"minReplicas": 6}})
    with pytest.raises(writes.Changed) as changed:
        writes.perform(kube, hpa, Take(8, Hold(3, hpa.owners), force=True))
    assert changed.value.hpa.min_replicas == 6
    assert server.get("shop", "cart")["spec"]["minReplicas"] == 6


def test_a_take_over_without_leave_to_force_is_not_forced(server: FakeApiServer, kube: Kube) -> None:
    by("helm")(server)
    hpa = seen(server)
    with pytest.raises(KubeError) as refused:
        writes.perform(kube, hpa, Take(8, Hold(3, ()), force=False))
    assert refused.value.kind is Kind.FIELD_CONFLICT
    assert len(sent(server)) == 1


def test_status_writes_in_between_cost_another_try_and_not_the_take_over(server: FakeApiServer, kube: Kube) -> None:
    by("helm")(server)
    server.on_next_write(
        lambda old, new: server.write_status("shop", "cart", 3, 3), lambda one: one.query.get("force") == "true"
    )
    hpa, _ = taken(kube, server)
    assert hpa.min_replicas == 8


def test_a_field_that_others_write_all_the_time_is_given_up_for_now(server: FakeApiServer, kube: Kube) -> None:
    by("helm")(server)
    for number in range(writes.ATTEMPTS):
        server.on_next_write(
            lambda old, new, number=number: server.write_status("shop", "cart", number, 3),  # type: ignore[misc]
            lambda one: one.query.get("force") == "true",
        )
    with pytest.raises(KubeError) as refused:
        taken(kube, server)
    assert refused.value.kind is Kind.STALE


@pytest.mark.parametrize("fate", ["deleted", "made anew"])
@pytest.mark.parametrize("action", ["take", "step", "restore", "let go"])
def test_an_hpa_that_is_gone_is_not_written(server: FakeApiServer, kube: Kube, fate: str, action: str) -> None:
    by("helm")(server)
    if action == "take":
        hpa, hold = seen(server), Hold(3, seen(server).owners)
    else:
        hpa, hold = taken(kube, server)
    if fate == "deleted":
        server.delete_hpa("shop", "cart")
    else:
        server.recreate_hpa("shop", "cart", min_replicas=4, max_replicas=20, manager="helm")
    actions = {"take": Take(8, hold, force=True), "step": Step(9, hold), "restore": Restore(hold), "let go": LetGo()}
    with pytest.raises(KubeError) as refused:
        writes.perform(kube, hpa, actions[action])
    assert refused.value.kind is (Kind.GONE if fate == "deleted" else Kind.REPLACED)
    if fate == "made anew":
        assert server.get("shop", "cart")["spec"]["minReplicas"] == 4


def test_a_step_that_somebody_came_before_is_decided_anew(server: FakeApiServer, kube: Kube) -> None:
    by("helm")(server)
    hpa, hold = taken(kube, server)
    server.patch_as("kubectl-edit", "shop", "cart", {"spec": {"minReplicas": 5}})
    with pytest.raises(writes.Changed) as changed:
        writes.perform(kube, hpa, Step(9, hold))
    assert [one.manager for one in changed.value.hpa.owners] == ["kubectl-edit"]
    with pytest.raises(writes.Changed):
        writes.perform(kube, hpa, Restore(hold))
    assert writes.perform(kube, changed.value.hpa, LetGo()) is not None
    assert server.get("shop", "cart")["spec"]["minReplicas"] == 5
    assert server.owners("shop", "cart") == [("kubectl-edit", "Update")]


@pytest.mark.parametrize("name", [USERS_OWN, OWNERS])
def test_an_annotation_that_somebody_wrote_is_left_to_him(server: FakeApiServer, kube: Kube, name: str) -> None:
    by("helm")(server)
    hpa, hold = taken(kube, server)
    server.patch_as("kubectl-annotate", "shop", "cart", {"metadata": {"annotations": {name: "x"}}})
    stepped = writes.perform(kube, hpa, Step(9, hold))
    assert stepped is not None
    assert stepped.min_replicas == 9
    assert server.get("shop", "cart")["metadata"]["annotations"][name] == "x"
    assert (stepped.users_own, stepped.former)[name == OWNERS] is None  # not ours, so not our memory
    done = writes.perform(kube, stepped, Restore(hold))
    assert done is not None
    assert (done.min_replicas, done.marked) == (3, False)


def test_a_hold_as_it_stands_in_the_annotations_is_read_back(server: FakeApiServer, kube: Kube) -> None:
    by("helm")(server)
    hpa, hold = taken(kube, server)
    assert {USERS_OWN: hpa.users_own, OWNERS: hpa.former} == marks_of(hold)
