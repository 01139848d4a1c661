"""The receipt from Prometheus: loads, HPAs as they are, recorded replicas; workloads it refuses carry their reason."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from forecaster.config import Config, load_config
from forecaster.domain import FloatArray, IntArray
from forecaster.errors import InputError
from forecaster.scaling.hpa import Rules, with_defaults
from forecaster.scaling.whatif.play import trace
from serving import whatif_prometheus
from serving.actuator.kube import Kind, KubeError
from serving.hpa_manifest import Manifest
from tests.apiserver import cpu_metric
from tests.fakes import FakeSource

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
HPA = {"namespace": "shop", "horizontalpodautoscaler": "checkout"}
LOAD = "sum(rate(http_requests_total[5m]))"
RECORDED = (
    'max(kube_horizontalpodautoscaler_status_current_replicas{namespace="shop",horizontalpodautoscaler="checkout"})'
)


def load(times: IntArray) -> FloatArray:
    return np.asarray(1_000.0 * (1.3 - np.cos(2.0 * np.pi * times / 86_400.0)))


def constant(value: float) -> object:
    return lambda times: np.full(len(times), value)


def source(recorded: object = None, **more: object) -> FakeSource:
    prefix = "kube_horizontalpodautoscaler_"
    known = {
        LOAD: [({}, load)],
        f"{prefix}spec_max_replicas": [(HPA, constant(80.0))],
        f"{prefix}spec_min_replicas": [(HPA, constant(3.0))],
        f'{prefix}spec_target_metric{{metric_target_type="utilization"}}': [
            ({**HPA, "metric_name": "cpu"}, constant(60.0))
        ],
        **({RECORDED: [({}, recorded)]} if recorded is not None else {}),
        **more,
    }
    return FakeSource(known)  # type: ignore[arg-type]


def config(tmp_path: Path, scale: str) -> Config:
    path = tmp_path / "forecaster.yaml"
    path.write_text(
        f"prometheus: {{url: http://127.0.0.1:1}}\nstep: 5m\nhistory: 4d\nworkloads:\n"
        f"  - name: checkout\n    load: {LOAD}\n    scale: {{hpa: shop/checkout, {scale}}}\n"
    )
    return load_config(path, {})


def wanted(tmp_path: Path, fake: FakeSource, scale: str = "capacityPerReplica: 60, leadTime: 10m"):  # type: ignore[no-untyped-def]
    return whatif_prometheus._wanted(config(tmp_path, scale), fake, NOW, ())


def test_a_workload_is_tried_with_its_own_hpa_capacity_and_lead_time(tmp_path: Path) -> None:
    found = wanted(tmp_path, source())
    (one,) = found.trials
    assert (one.hpa.target, one.hpa.min_replicas, one.hpa.max_replicas) == (60, 3, 80)
    assert (one.capacity, one.step) == (60.0, 300)
    assert one.start_up >= 600
    assert one.start_up % 15 == 0
    assert (one.end - one.first) * one.step >= timedelta(days=3.9).total_seconds()
    np.testing.assert_allclose(one.values, load(one.times))


def test_recorded_replicas_are_read_over_the_test_part(tmp_path: Path) -> None:
    (one,) = wanted(tmp_path, source()).trials
    simulated = trace(one, one.service(), None).replicas[0][one.per_step - 1 :: one.per_step]
    at = one.times[one.cut : one.end]

    def replicas(times: IntArray) -> FloatArray:
        return np.interp(times, at, simulated)

    fit = wanted(tmp_path, source(replicas)).recorded["checkout"]
    assert not fit.unfit
    assert fit.samples == len(at)
    double = wanted(tmp_path, source(lambda times: 2.0 * replicas(times))).recorded["checkout"]
    assert double.unfit
    assert wanted(tmp_path, source()).recorded["checkout"].samples == 0


@pytest.mark.parametrize(
    ("fake", "scale", "words"),
    [
        (source(), "leadTime: 10m", "capacity_unknown"),
        (FakeSource({LOAD: [({}, load)]}), "capacityPerReplica: 60, leadTime: 10m", "hpa_not_found"),  # type: ignore[list-item]
        (source(**{LOAD: []}), "capacityPerReplica: 60, leadTime: 10m", "no_data"),
        (
            source(kube_horizontalpodautoscaler_spec_min_replicas=[(HPA, constant(90.0))]),
            "capacityPerReplica: 60, leadTime: 10m",
            "the minimum 90 is above the maximum 80",
        ),
    ],
    ids=["no relation to load", "no HPA", "no load", "minimum above maximum"],
)
def test_a_workload_that_cannot_be_tried_says_why(tmp_path: Path, fake: FakeSource, scale: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        wanted(tmp_path, fake, scale)


def test_the_behavior_of_a_manifest_is_simulated(tmp_path: Path) -> None:
    behavior = with_defaults(None, Rules(select_policy="Disabled"))
    manifest = Manifest("shop", "checkout", None, None, None, behavior)
    made = config(tmp_path, "capacityPerReplica: 60, leadTime: 10m")
    known = whatif_prometheus._Behaviors([manifest])
    (trial,) = whatif_prometheus._wanted(made, source(), NOW, (), known).trials
    assert trial.hpa.behavior == behavior
    assert trial.hpa.target == 60
    other = whatif_prometheus._Behaviors([replace(manifest, name="cart")])
    with pytest.raises(InputError, match="no workload scales shop/cart"):
        whatif_prometheus._wanted(made, source(), NOW, (), other)


def test_the_behavior_of_the_api_server_is_simulated_and_its_silence_is_none(tmp_path: Path) -> None:
    class Answers:
        def get_hpa(self, namespace: str, name: str) -> dict[str, object]:
            if name == "gone":
                raise KubeError(Kind.GONE, "not found")
            return {"metadata": {"name": name}, "spec": {"maxReplicas": 9, "behavior": {}}}

    known = whatif_prometheus._Behaviors((), Answers())  # type: ignore[arg-type]
    assert known.of("shop", "checkout") == with_defaults(None, None)
    assert known.of("shop", "gone") is None


def test_what_we_wrote_to_the_hpa_is_not_simulated_as_the_users(tmp_path: Path) -> None:
    """kube-state-metrics tells the HPA as it stands, with our floor and our target in it."""
    holds = {
        "f:spec": {"f:minReplicas": {}},
        "f:metadata": {"f:annotations": {"f:forecaster.io/user-min-replicas": {}}},
    }
    raises = {"f:spec": {"f:metrics": {}}, "f:metadata": {"f:annotations": {"f:forecaster.io/user-cpu-target": {}}}}
    entry = {"operation": "Apply", "apiVersion": "autoscaling/v2"}
    told = {
        "metadata": {
            "namespace": "shop",
            "name": "checkout",
            "uid": "u",
            "annotations": {"forecaster.io/user-min-replicas": "4", "forecaster.io/user-cpu-target": "55"},
            "managedFields": [
                {**entry, "manager": "forecaster-actuator", "fieldsV1": holds},
                {**entry, "manager": "forecaster-target", "fieldsV1": raises},
            ],
        },
        "spec": {"minReplicas": 30, "maxReplicas": 80, "metrics": [cpu_metric(85)]},
    }

    class Answers:
        def get_hpa(self, namespace: str, name: str) -> dict[str, object]:
            return told

    known = whatif_prometheus._Behaviors((), Answers())  # type: ignore[arg-type]
    made = config(tmp_path, "capacityPerReplica: 60, leadTime: 10m")
    (trial,) = whatif_prometheus._wanted(made, source(), NOW, (), known).trials
    assert (trial.hpa.target, trial.hpa.min_replicas, trial.hpa.max_replicas) == (55, 4, 80)
