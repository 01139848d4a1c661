"""Which samples of the past are lower bounds of demand, because every replica was full: no model may learn from them.

The service knows it of each interval as it comes; a job has to look back: the load beside what the ready replicas of
the time could carry. Capacity per replica is what it is today. Where kube-state-metrics does not say how many replicas
were ready, nothing is known, and the job says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from forecaster.domain import LOAD, BoolArray, FloatArray, HpaFacts, IntArray, SeriesBatch, Workload
from forecaster.history import Reading
from forecaster.ports import MetricSource
from forecaster.scaling.capacity import capacity_of, saturated

_METRICS = {
    "Deployment": "kube_deployment_status_replicas_ready",
    "StatefulSet": "kube_statefulset_status_replicas_ready",
}
_NAMES = 50  # of one query
_MEAN_FROM = 300  # seconds: on a finer grid a scrape can be missing in a step, so that the last one counts


@dataclass(frozen=True, slots=True)
class Target:
    """What an HPA scales."""

    namespace: str
    kind: str
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Loads:
    """The rows of which saturation can be known."""

    rows: IntArray  # (load,) of the context
    targets: tuple[Target, ...]
    capacity: FloatArray  # (load,) of one replica
    unknown: tuple[str, ...]  # workloads that are scaled, and of which it cannot


def loads_of(reading: Reading) -> Loads:
    """The loads that scale something whose replicas and capacity are known."""
    row_of = {key.workload: row for row, key in enumerate(reading.context.fine.keys) if key.role == LOAD}
    rows, targets, capacities, unknown = [], [], [], []
    for workload in reading.workloads:
        if workload.scale is None or workload.name not in row_of:
            continue
        target = _target(workload, reading.facts)
        full, _ = capacity_of(workload.scale, reading.capacity.get(workload.name))
        if target is None or full is None:
            unknown.append(workload.name)
            continue
        rows.append(row_of[workload.name])
        targets.append(target)
        capacities.append(full)
    return Loads(np.array(rows, dtype=np.int64), tuple(targets), np.array(capacities), tuple(unknown))


def marked(source: MetricSource, loads: Loads, series: SeriesBatch) -> BoolArray:
    """(row, time) of `series`: every replica was full. Raises SourceError where Prometheus does not answer."""
    out = np.zeros(series.values.shape, dtype=np.bool_)
    if not len(loads.rows):
        return out
    ready = _ready(source, set(loads.targets), series)
    none = np.full(series.values.shape[1], np.nan)
    replicas = np.array([ready.get(target, none) for target in loads.targets])
    values = np.asarray(series.values[loads.rows], dtype=np.float64)
    out[loads.rows] = saturated(values, loads.capacity[:, None], replicas)
    return out


def _target(workload: Workload, facts: Mapping[str, HpaFacts]) -> Target | None:
    assert workload.scale is not None
    known = facts.get(f"{workload.scale.namespace}/{workload.scale.hpa}")
    if known is None or known.scale_target is None:
        return None
    kind, _, name = known.scale_target.partition("/")
    return Target(workload.scale.namespace, kind, name) if kind in _METRICS else None


def _ready(source: MetricSource, targets: Iterable[Target], series: SeriesBatch) -> dict[Target, FloatArray]:
    """(time,) ready replicas of each target, NaN where nothing was said."""
    first, last = (datetime.fromtimestamp(int(series.times[at]), UTC) for at in (0, -1))
    by_kind: dict[tuple[str, str], list[str]] = {}
    for one in sorted(targets, key=lambda target: (target.namespace, target.kind, target.name)):
        by_kind.setdefault((one.namespace, one.kind), []).append(one.name)
    found: dict[Target, FloatArray] = {}
    for (namespace, kind), names in by_kind.items():
        for at in range(0, len(names), _NAMES):
            query = _query(namespace, kind, names[at : at + _NAMES], int(series.step.total_seconds()))
            answer = source.range(query, first, last, series.step)
            for labels, values in zip(answer.labels, answer.values, strict=True):
                found[Target(namespace, kind, labels.get(kind.lower(), ""))] = values
    return found


def _query(namespace: str, kind: str, names: Sequence[str], step: int) -> str:
    label = kind.lower()
    alternatives = "|".join(name.replace(".", "[.]") for name in names)  # Kubernetes' names hold nothing else special
    metric = f'{_METRICS[kind]}{{namespace="{namespace}",{label}=~"{alternatives}"}}'
    told = f"avg_over_time({metric}[{step}s])" if step >= _MEAN_FROM else metric
    return f"max by ({label}) ({told})"
