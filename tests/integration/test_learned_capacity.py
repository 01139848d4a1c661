"""Capacity and start-up time from a real Prometheus: what cAdvisor and kube-state-metrics say of simulated services."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from forecaster.domain import FloatArray, IntArray, ResourceSpec, ScaleSpec, WorkloadSpec
from forecaster.history import History, Reading
from forecaster.reasons import ReasonCode
from forecaster.scaling.deciding import Deciding
from tests.integration.prometheus_server import Point, PrometheusServer
from tests.source import source_of

pytestmark = pytest.mark.prometheus

MINUTE = timedelta(minutes=1)
INTERVAL = timedelta(seconds=15)
STEP = 60
SPAN = 53 * 3_600
IDLE, PER_LOAD = 0.1, 0.004  # cores of a replica, cores per request
START_UP = 95.0
Series = tuple[str, Mapping[str, str], Iterator[Point]]
SERVICES = {"checkout": "Deployment", "ledger": "StatefulSet", "mystery": "Deployment", "queue": "Deployment"}


def load_of(name: str, times: IntArray) -> FloatArray:
    rng = np.random.default_rng(list(SERVICES).index(name))
    wave = 1 - 0.6 * np.cos(2 * np.pi * times / 86_400)
    return np.asarray(900.0 * wave * rng.lognormal(0, 0.04, len(times)))


def ready_of(times: IntArray) -> IntArray:
    """Each hour as many as the hour's load asks for."""
    wave = 1 - 0.6 * np.cos(2 * np.pi * (times // 3_600 * 3_600 + 1_800) / 86_400)
    return np.asarray(np.ceil(900.0 * wave * PER_LOAD / 0.55), dtype=np.int64)


def pod_of(name: str, number: int) -> str:
    return f"{name}-{number}" if SERVICES[name] == "StatefulSet" else f"{name}-6c9f5d7b8-x{number:02d}qz"


def cpu_of(name: str, times: IntArray) -> FloatArray:
    """(time,) cores of one of the ready pods."""
    rng = np.random.default_rng(7)
    if name == "mystery":
        return np.asarray(rng.lognormal(-1.5, 1.2, len(times)))
    per_pod = IDLE + PER_LOAD * load_of(name, times) / ready_of(times)
    return np.asarray(per_pod * rng.lognormal(0, 0.03, len(times)))


def written(times: IntArray) -> Iterator[Series]:
    at, most = times.tolist(), int(ready_of(times).max())
    hpa = "kube_horizontalpodautoscaler_"

    def steady(name: str, labels: Mapping[str, str], value: float) -> Series:
        return name, labels, ((t, value) for t in at[:: 5 if "owner" not in name else 1])

    every = [(name, {"namespace": "shop", "horizontalpodautoscaler": name}) for name in SERVICES]
    yield from (("load", {"app": name}, zip(at, load_of(name, times).tolist(), strict=True)) for name in SERVICES)
    yield from (steady(f"{hpa}spec_max_replicas", labels, 40.0) for _, labels in every)
    yield from (steady(f"{hpa}spec_min_replicas", labels, 2.0) for _, labels in every)
    yield from (
        steady(f"{hpa}info", {**labels, "scaletargetref_kind": SERVICES[name], "scaletargetref_name": name}, 1.0)
        for name, labels in every
    )
    kinds = {name: ("average", "jobs") if name == "queue" else ("utilization", "cpu") for name in SERVICES}
    values = {name: 60.0 if name == "queue" else 70.0 for name in SERVICES}
    yield from (
        steady(
            f"{hpa}spec_target_metric",
            {**labels, "metric_target_type": kinds[name][0], "metric_name": kinds[name][1]},
            values[name],
        )
        for name, labels in every
    )
    now = load_of("queue", times) / ready_of(times)
    labels = {"namespace": "shop", "horizontalpodautoscaler": "queue", "metric_target_type": "average"}
    yield f"{hpa}status_target_metric", {**labels, "metric_name": "jobs"}, zip(at, now.tolist(), strict=True)
    for kind in ("Deployment", "StatefulSet"):
        for name in (name for name, of in SERVICES.items() if of == kind):
            ready = ready_of(times).astype(float).tolist()
            yield (
                f"kube_{kind.lower()}_status_replicas_ready",
                {"namespace": "shop", kind.lower(): name},
                zip(at, ready, strict=True),
            )
    pods = [(name, number, pod_of(name, number)) for name in SERVICES for number in range(most)]
    for name, number, pod in pods:
        if name == "queue":
            continue
        on = number < ready_of(times)
        used = np.cumsum(np.where(on, cpu_of(name, times), 0.0) * STEP)
        points = zip(times[on].tolist(), used[on].tolist(), strict=True)
        where = {"namespace": "shop", "pod": pod, "container": "app"}
        yield "container_cpu_usage_seconds_total", where, points
    for resource, value in (("limits", 1.0), ("requests", 0.5)):
        for name, _, pod in pods:
            if name == "queue" or (resource == "limits" and name == "ledger"):
                continue
            where = {"namespace": "shop", "pod": pod, "container": "app", "resource": "cpu"}
            yield steady(f"kube_pod_container_resource_{resource}", where, 0.9 if name == "ledger" else value)
    for _, _, pod in pods:
        yield steady("kube_pod_container_info", {"namespace": "shop", "pod": pod, "container": "app"}, 1.0)
    begin = float(times[0])
    for name, _, pod in pods:
        owner = name if SERVICES[name] == "StatefulSet" else f"{name}-6c9f5d7b8"
        parent = "StatefulSet" if SERVICES[name] == "StatefulSet" else "ReplicaSet"
        where = {"namespace": "shop", "pod": pod, "owner_kind": parent, "owner_name": owner}
        yield steady("kube_pod_owner", where, 1.0)
    for _, number, pod in pods:
        yield steady("kube_pod_created", {"namespace": "shop", "pod": pod}, begin + 600.0 * number)
    for _, number, pod in pods:
        yield steady("kube_pod_status_ready_time", {"namespace": "shop", "pod": pod}, begin + 600.0 * number + START_UP)


def spec(name: str) -> WorkloadSpec:
    return WorkloadSpec(name, f'sum(load{{app="{name}"}})', scale=ScaleSpec("shop", name))


# The limit of a pod is never below 0.9 cores, which none uses: at any hour of the day there are samples that teach.
OWN = ResourceSpec(
    "cpu",
    'sum(rate(container_cpu_usage_seconds_total{pod=~"checkout-.*"}[5m]))',
    'sum(kube_pod_container_resource_limits{resource="cpu", pod=~"checkout-.*"}) * 0.9',
    'sum by (pod) (rate(container_cpu_usage_seconds_total{pod=~"checkout-.*"}[5m]))',
)


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reading]:
    """What is known once the history is read, and one more step has passed."""
    end = int(time.time()) // 300 * 300
    times = np.arange(end - SPAN, end + 1, STEP, dtype=np.int64)
    folder: Path = tmp_path_factory.mktemp("capacity")
    with pytest.MonkeyPatch.context() as patch, PrometheusServer(folder) as server:
        patch.setattr("forecaster.prometheus._http_date", lambda text: None)
        server.backfill(written(times))
        server.restart()
        own = WorkloadSpec("own", 'sum(load{app="checkout"})', scale=ScaleSpec("shop", "checkout"), resources=(OWN,))
        specs = [*(spec(name) for name in SERVICES), own]
        history = History(specs, MINUTE, timedelta(days=3))
        source, now = source_of(server.url), datetime.fromtimestamp(end - 900, UTC)
        one = history.read(source, now)
        while history.backlog:
            one = history.read(source, now)
        yield history.read(source, now + timedelta(minutes=11))
        assert one.now <= now


def test_capacity_is_learned_from_cadvisor_and_kube_state_metrics(reading: Reading) -> None:
    truth = (1.0 - IDLE) / PER_LOAD  # at the limit of a core
    found = reading.learned["checkout"]
    assert found.capacity is not None, found.reason
    assert 0.8 * truth < found.capacity <= 1.02 * truth
    assert found.request_ratio == pytest.approx(0.5)
    assert "learned from" in found.words


def test_a_pod_without_a_limit_is_full_at_its_request(reading: Reading) -> None:
    found = reading.learned["ledger"]
    assert found.capacity is not None, found.reason
    assert 0.75 < found.capacity / ((0.9 - IDLE) / PER_LOAD) <= 1.02


def test_usage_that_load_does_not_explain_is_refused(reading: Reading) -> None:
    found = reading.learned["mystery"]
    assert found.capacity is None and found.reason is not None
    assert found.reason.code is ReasonCode.CAPACITY_UNKNOWN and "explain" in found.reason.detail


def test_the_workload_s_own_cpu_resource_and_its_limit_come_first(reading: Reading) -> None:
    found = reading.learned["own"]
    assert found.capacity is not None, found.reason
    assert found.full != pytest.approx(1.0)  # what its `limit` says, not the pods' own


def test_start_up_is_measured_and_the_hpa_s_own_metric_gives_a_capacity(reading: Reading) -> None:
    rows = {work.name: i for i, work in enumerate(reading.workloads)}
    where = {key.workload: i for i, key in enumerate(reading.context.fine.keys) if key.role == "load"}
    scaled = Deciding(INTERVAL).gather(
        reading.workloads, where, reading.facts, reading.capacity, reading.learned, reading.newest
    )
    by_name = {one.workload.name: one for one in scaled}
    assert set(by_name) == set(rows)
    assert by_name["checkout"].lead_time == timedelta(seconds=START_UP) + INTERVAL + timedelta(seconds=15)
    assert not by_name["checkout"].lead_time_assumed
    assert by_name["queue"].capacity == pytest.approx(60.0 / 0.7)
    assert by_name["mystery"].capacity is None


def test_usage_of_single_pods_is_read_where_it_is_asked_for(reading: Reading) -> None:
    keys = reading.context.fine.keys
    assert {keys[row].workload for row in reading.pods.row.tolist()} == {"own"}
    now = int(reading.context.fine.origin.timestamp())
    ready = int(ready_of(np.array([now]))[0])
    assert set(reading.pods.names) >= {pod_of("checkout", number) for number in range(ready)}
    truth = IDLE + PER_LOAD * load_of("checkout", np.arange(now - 299, now + 1, 60)).mean() / ready
    assert np.nanmedian(reading.pods.usage) == pytest.approx(truth, rel=0.2)
