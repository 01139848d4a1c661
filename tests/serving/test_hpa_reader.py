"""HPAs read from the API server for the cycle."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forecaster.cluster_facts import with_hpas
from forecaster.config_tree import KubernetesConfig
from forecaster.domain import HpaFacts, Mode
from forecaster.errors import InputError
from serving.actuator.kube import Kube
from serving.actuator.policy import Hold, Owner, marks_of
from serving.hpa_reader import ApiHpas, reader_of
from tests.apiserver import FakeApiServer, cpu_metric
from tests.serving.actuator.harness import access, cluster

HELM = Owner("helm", "Update", "autoscaling/v2")


def until(server: FakeApiServer, check: Callable[[], bool], seconds: float = 10.0) -> None:
    """The server wakes us for what happens there, not for what the reader has seen of it."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        server.wait_for(check, 0.02)


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with cluster() as one:
        yield one


@pytest.fixture
def reader(server: FakeApiServer) -> Iterator[ApiHpas]:
    one = ApiHpas(Kube(access(server, "reader")))
    one.start()
    assert one.wait(10)
    yield one
    server.drop_watches()
    one.close()


def test_what_a_decision_needs_is_told(server: FakeApiServer, reader: ApiHpas) -> None:
    server.create_hpa("shop", "cart", min_replicas=2, max_replicas=9, manager="helm", metrics=[cpu_metric(60)])
    until(server, lambda: "shop/cart" in reader.facts())
    server.write_status("shop", "cart", 4, 5)
    until(server, lambda: reader.facts()["shop/cart"].current_replicas == 4)
    told = reader.facts()["shop/cart"]
    assert told.uid == server.get("shop", "cart")["metadata"]["uid"]
    assert (told.min_replicas, told.users_own, told.max_replicas, told.target_ratio) == (2, 2, 9, 0.6)
    assert told.scale_target == "Deployment/cart"
    assert (told.owner, told.mode) == ("helm", None)


def test_our_own_floor_is_never_taken_for_the_users_minimum(server: FakeApiServer, reader: ApiHpas) -> None:
    body = {"metadata": {"annotations": marks_of(Hold(3, (HELM,)))}, "spec": {"minReplicas": 12}}
    server.apply_as("forecaster-actuator", "shop", "checkout", body, force=True)
    until(server, lambda: reader.facts()["shop/checkout"].min_replicas == 12)
    assert reader.facts()["shop/checkout"].users_own == 3
    wiped = {"metadata": {"annotations": dict.fromkeys(marks_of(Hold(3, ())))}}
    server.patch_as("kubectl-edit", "shop", "checkout", wiped)
    until(server, lambda: reader.facts()["shop/checkout"].users_own == 1)


@pytest.mark.parametrize(
    ("text", "mode"), [("recommend", Mode.RECOMMEND), ("apply", Mode.APPLY), ("yes", Mode.OBSERVE)]
)
def test_the_mode_by_annotation(server: FakeApiServer, reader: ApiHpas, text: str, mode: Mode) -> None:
    server.patch_as("kubectl-annotate", "shop", "checkout", {"metadata": {"annotations": {"forecaster.io/mode": text}}})
    until(server, lambda: reader.facts()["shop/checkout"].mode is mode)


def test_who_would_be_left_alone_is_told_with_the_advice(server: FakeApiServer, reader: ApiHpas) -> None:
    server.create_hpa("shop", "cart", min_replicas=2, manager="kustomize-controller", operation="Apply")
    until(server, lambda: "shop/cart" in reader.facts())
    assert reader.refusals().keys() == {"shop/cart"}
    assert "kustomize-controller" in reader.refusals()["shop/cart"]
    server.delete_hpa("shop", "cart")
    until(server, lambda: "shop/cart" not in reader.facts())
    assert reader.refusals() == reader.target_refusals() == {}


def test_whose_target_would_be_left_alone_is_told_apart(server: FakeApiServer, reader: ApiHpas) -> None:
    """Flux leaves minReplicas out, and states the metrics."""
    server.create_hpa("shop", "cart", min_replicas=None, manager="kustomize-controller", operation="Apply")
    until(server, lambda: "shop/cart" in reader.facts())
    assert reader.refusals() == {}
    assert reader.target_refusals().keys() == {"shop/cart"}
    assert "leave metrics out of its manifest" in reader.target_refusals()["shop/cart"]


def test_a_missing_right_is_trouble_and_no_exception(server: FakeApiServer) -> None:
    one = ApiHpas(Kube(access(server, "nobody")))
    one.start()
    assert one.wait(10)
    assert "allowed" in one.trouble
    assert one.facts() == {}
    one.close()


def test_kube_state_metrics_and_the_api_server_together() -> None:
    metrics = {
        "shop/a": HpaFacts(min_replicas=12, max_replicas=20, ready_replicas=7, lead_time_pods=9),
        "shop/b": HpaFacts(min_replicas=1, max_replicas=2),
    }
    seen = {"shop/a": HpaFacts(uid="u", min_replicas=12, users_own=3), "shop/c": HpaFacts(uid="w", max_replicas=4)}
    merged = with_hpas(metrics, seen)
    assert merged["shop/a"] == HpaFacts(
        uid="u", min_replicas=12, users_own=3, max_replicas=20, ready_replicas=7, lead_time_pods=9
    )
    assert merged["shop/b"] == metrics["shop/b"]
    assert merged["shop/c"] == seen["shop/c"]


def test_where_hpas_are_read(tmp_path: Path) -> None:
    def settings(**told: str) -> KubernetesConfig:
        return KubernetesConfig.model_validate(told)

    absent = str(tmp_path / "absent")
    assert reader_of(settings(), {}) is None  # no pod, no kubeconfig
    assert reader_of(settings(readHpas="never", kubeconfig=absent), {}) is None
    with pytest.raises(InputError, match="KUBERNETES_SERVICE_HOST"):
        reader_of(settings(readHpas="always"), {})
    with pytest.raises(InputError, match="cannot be read"):
        reader_of(settings(kubeconfig=absent), {})
