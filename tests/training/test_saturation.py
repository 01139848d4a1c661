"""What a job knows of full replicas in the past, and that it neither learns from nor judges by what they served."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from forecaster.config import Config
from forecaster.domain import FloatArray, IntArray
from tests.fakes import FakeSource, constant, daily
from training import material

NOW = datetime(2026, 3, 12, 9, 30, tzinfo=UTC)
FULL = (NOW - timedelta(days=3), NOW - timedelta(days=2))  # three replicas of 20, and a load of 60
SCALE = {"hpa": "shop/api", "capacityPerReplica": 20}


def config(scale: dict[str, object]) -> Config:
    return Config.model_validate(
        {
            "prometheus": {"url": "http://prometheus:9090"},
            "history": "5d",
            "workloads": [
                {"name": "api", "load": "load_api", "scale": scale},
                {"name": "other", "load": "load_other"},
            ],
        }
    )


def inside(times: IntArray) -> FloatArray:
    return np.asarray((times > FULL[0].timestamp()) & (times <= FULL[1].timestamp()))


def load(times: IntArray) -> FloatArray:
    return np.where(inside(times), 60.0, daily(30.0, amplitude=0.3)(times))


def source(kube: bool = True) -> FakeSource:
    hpa = {"namespace": "shop", "horizontalpodautoscaler": "api"}
    target = {**hpa, "scaletargetref_kind": "Deployment", "scaletargetref_name": "api"}
    prefix = "kube_horizontalpodautoscaler_"
    ready = 'max by (deployment) ({}kube_deployment_status_replicas_ready{{namespace="shop",deployment=~"api"}}{})'
    known = {
        f"{prefix}spec_max_replicas": [(hpa, constant(3.0))],
        f"{prefix}info": [(target, constant(1.0))],
        ready.format("avg_over_time(", "[300s])"): [({"deployment": "api"}, constant(3.0))],
        ready.format("", ""): [({"deployment": "api"}, constant(3.0))],
    }
    return FakeSource({"load_api": [({}, load)], "load_other": [({}, load)]} | (known if kube else {}))


def test_samples_at_which_every_replica_was_full_are_left_out() -> None:
    found = material.read(config(SCALE), source(), NOW)
    parts = material.split(found)
    assert not isinstance(parts, str)
    missing = np.isnan(parts.series.values)
    full = inside(parts.series.times)
    assert missing[0, full].mean() > 0.99 and not missing[0, ~full].any()
    assert not missing[1].any()  # nothing is scaled by the other
    assert abs(found.saturated_ratio - 0.2) < 0.01 and found.remarks == ()
    for group in parts.groups():
        assert np.isnan(group.values[0, inside(parts.series.times[: parts.cut])]).mean() > 0.99


def test_what_is_not_known_of_replicas_or_capacity_is_said() -> None:
    for asked, found in ((SCALE, source(kube=False)), ({"hpa": "shop/api"}, source())):
        made = material.read(config(asked), found, NOW)
        assert np.isnan(made.saturated_ratio)
        assert len(made.remarks) == 1 and "api" in made.remarks[0] and "kube-state-metrics" in made.remarks[0]
        assert not np.isnan(made.context.coarse.values[0]).all()


def test_the_window_is_that_of_the_services_decision() -> None:
    made = material.read(config({**SCALE, "leadTime": "180s"}), source(), NOW)
    assert made.windows.tolist() == [4, 5]  # 180 s to start, two intervals and the HPA's sync: 225 s; five minutes
