"""Reads what capacity is learned from: CPU usage, ready replicas, requests and limits of the pods that an HPA scales.

A few targets a step, each anew once an hour, all of them by the same few queries: cAdvisor's
container_cpu_usage_seconds_total and kube-state-metrics. Load, and CPU usage where the workload's own `resources` has
it, come from the history. What it means is forecaster.scaling.learned_capacity's business.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np

from forecaster.cluster_facts import Target, by_pod
from forecaster.domain import BoolArray, FloatArray, IntArray
from forecaster.ports import MetricSource
from forecaster.reasons import Reason, ReasonCode
from forecaster.scaling.learned_capacity import Full, Learned, learned

SPAN = timedelta(days=3)  # of the past that is learned from
EVERY, AGAIN = timedelta(hours=1), timedelta(minutes=10)  # between two lessons; after one that taught nothing
KEPT = timedelta(days=1)  # a capacity outlives what it was learned from so long; a changed cost ends it at once
AT_ONCE = 20  # targets a step
_RATE_SECONDS = 300
_PODS = {"Deployment": "-[a-z0-9]+-[a-z0-9]{5}", "StatefulSet": "-[0-9]+"}  # what their pods' names end with


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """One workload whose capacity is wanted, with what the history knows of it on a grid of `times` (time,)."""

    workload: str
    scale_target: str | None  # "namespace/kind/name"; None: not known
    times: IntArray  # Unix seconds, ends of intervals
    load: FloatArray  # (time,) mean over each interval
    masked: BoolArray | None
    usage: FloatArray | None = None  # (time,) of its own resource `cpu`; None: cAdvisor is asked
    limit: float | None = None  # of that resource over all replicas, now
    ready: int | None = None  # now

    @property
    def target(self) -> Target | None:
        if self.scale_target is None or self.scale_target.count("/") != 2:
            return None
        namespace, kind, name = self.scale_target.split("/")
        return (namespace, kind, name) if kind in _PODS else None


@dataclass(slots=True, eq=False)
class CapacityFacts:
    """What was learned of each workload, renewed by `read`."""

    learned: dict[str, Learned] = field(default_factory=dict)  # by workload
    _at: dict[str, datetime] = field(default_factory=dict)
    _good_at: dict[str, datetime] = field(default_factory=dict)

    def due(self, workload: str, at: datetime) -> bool:
        """Whether a lesson is wanted. A clock that jumped back counts as long ago."""
        before = self._at.get(workload)
        if before is None or at < before:
            return True
        known = self.learned.get(workload)
        return at - before >= (AGAIN if known is None or known.capacity is None else EVERY)

    def keep(self, workloads: Sequence[str]) -> None:
        """Forgets all others."""
        kept = set(workloads)
        self.learned = {name: one for name, one in self.learned.items() if name in kept}
        self._at = {name: at for name, at in self._at.items() if name in kept}
        self._good_at = {name: at for name, at in self._good_at.items() if name in kept}

    def _take(self, workload: str, at: datetime, found: Learned) -> None:
        before = self.learned.get(workload)
        if found.capacity is not None:
            self._good_at[workload] = at
        elif (
            before is not None
            and before.capacity is not None
            and found.reason is not None
            and found.reason.code is ReasonCode.CAPACITY_UNKNOWN
            and timedelta(0) <= at - self._good_at.get(workload, at) < KEPT
        ):
            return
        self.learned[workload] = found

    def read(self, source: MetricSource, at: datetime, lessons: Sequence[Lesson]) -> None:
        """Learns from `lessons`, at most AT_ONCE that are due. Raises SourceError: what was learned then stands."""
        some = [one for one in lessons if self.due(one.workload, at)][:AT_ONCE]
        for one in some:
            self._at[one.workload] = at  # also where Prometheus fails: it is asked again in ten minutes
        by_kind: dict[tuple[str, tuple[int, int, int]], list[Lesson]] = defaultdict(list)
        for one in some:
            target = one.target
            if target is None:
                text = "the HPA's scale target is not known: is kube-state-metrics scraped?"
                if one.scale_target is not None:
                    text = f"{one.scale_target}: capacity is learned for Deployments and StatefulSets"
                self._take(one.workload, at, _unknown(text))
                continue
            step = int(one.times[1] - one.times[0]) if len(one.times) > 1 else _RATE_SECONDS
            by_kind[target[1], (int(one.times[0]), int(one.times[-1]), step)].append(one)
        for (kind, grid), group in by_kind.items():
            self._learn(source, at, kind, grid, group)

    def _learn(
        self, source: MetricSource, at: datetime, kind: str, grid: tuple[int, int, int], group: Sequence[Lesson]
    ) -> None:
        targets = [target for one in group if (target := one.target) is not None]
        ready = _ranged(source, _ready_query(kind, targets, grid[2]), grid, kind.lower())
        asked = [target for one, target in zip(group, targets, strict=True) if one.usage is None]
        usage = _ranged(source, _usage_query(kind, asked, grid[2]), grid, "workload") if asked else {}
        full = _full(source, at, kind, targets)
        for one, target in zip(group, targets, strict=True):
            known = one.usage if one.usage is not None else usage.get((target[0], target[2]))
            replicas = ready.get((target[0], target[2]))
            if known is None or replicas is None:
                what = (
                    "CPU usage of its pods (container_cpu_usage_seconds_total)" if known is None else "ready replicas"
                )
                mend = "write resources: [{name: cpu, usage: …}] or capacityPerReplica"
                text = f"Prometheus has no {what} of {'/'.join(target)}: {mend}"
                self._take(one.workload, at, _unknown(text))
                continue
            fills = full.get((target[0], target[2]), Full())
            if one.usage is not None and one.limit is not None and one.ready:
                fills = Full(one.limit / one.ready, fills.request)
            self._take(one.workload, at, learned(one.times, one.load, known, replicas, fills, one.masked))


def _unknown(text: str) -> Learned:
    return Learned(None, Reason(ReasonCode.CAPACITY_UNKNOWN, text))


# --- queries ---------------------------------------------------------------------------------------------------------


def _ready_query(kind: str, targets: Sequence[Target], step: int) -> str:
    word = kind.lower()
    inside = f'namespace=~"{_any({t[0] for t in targets})}", {word}=~"{_any({t[2] for t in targets})}"'
    return f"max by (namespace, {word}) (avg_over_time(kube_{word}_status_replicas_ready{{{inside}}}[{step}s]))"


def _usage_query(kind: str, targets: Sequence[Target], step: int) -> str:
    span = max(step, _RATE_SECONDS)
    rate = f'rate(container_cpu_usage_seconds_total{{container!="", {_pods_of(kind, targets)}}}[{span}s])'
    return f'sum by (namespace, workload) (label_replace({rate}, "workload", "$1", "pod", "(.+){_PODS[kind]}"))'


def _pods_of(kind: str, targets: Sequence[Target]) -> str:
    names = _any({t[2] for t in targets})
    return f'namespace=~"{_any({t[0] for t in targets})}", pod=~"({names}){_PODS[kind]}"'


def _any(names: set[str]) -> str:
    return "|".join(re.escape(name).replace("\\", "\\\\") for name in sorted(names))


def _ranged(
    source: MetricSource, query: str, grid: tuple[int, int, int], label: str
) -> dict[tuple[str, str], FloatArray]:
    """(namespace, name) -> (time,) on the grid (first, last, step)."""
    first, last, step = grid
    answer = source.range(query, _utc(first), _utc(last), timedelta(seconds=step))
    width = (last - first) // step + 1
    place = (np.asarray(answer.times, dtype=np.int64) - first) // step
    inside = (place >= 0) & (place < width)
    found = {}
    for labels, values in zip(answer.labels, answer.values, strict=True):
        row = np.full(width, np.nan)
        row[place[inside]] = values[inside]
        found[labels.get("namespace", ""), labels.get(label, "")] = row
    return found


def _full(source: MetricSource, at: datetime, kind: str, targets: Sequence[Target]) -> dict[tuple[str, str], Full]:
    """(namespace, name) -> what one pod may use: the median over its pods, of containers that all have a limit."""
    pods, per_pod = _pods_of(kind, targets), "by (namespace, pod)"
    cpu = f'{{resource="cpu", {pods}}}'
    containers = by_pod(source.instant(f"count {per_pod} (kube_pod_container_info{{{pods}}})", at))
    limited = by_pod(source.instant(f"count {per_pod} (kube_pod_container_resource_limits{cpu})", at))
    limits = by_pod(source.instant(f"sum {per_pod} (kube_pod_container_resource_limits{cpu})", at))
    requests = by_pod(source.instant(f"sum {per_pod} (kube_pod_container_resource_requests{cpu})", at))
    ends = re.compile(f"(.+){_PODS[kind]}")
    found: dict[tuple[str, str], tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for pod in limits.keys() | requests.keys():
        match = ends.fullmatch(pod[1])
        if match is None:
            continue
        of = found[pod[0], match[1]]
        if pod in limits and limited.get(pod, 0) >= containers.get(pod, 0):
            of[0].append(limits[pod])
        if pod in requests:
            of[1].append(requests[pod])
    return {name: Full(_median(limit), _median(request)) for name, (limit, request) in found.items()}


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _utc(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
