"""What a Prometheus beside the simulated cluster would have scraped until now, as a metric source.

A tape holds a column for each 15 s that has passed; what has not happened is not on it, so that no query can see it.
Knows the expressions of the demo's workloads, their coarse means, and kube-state-metrics as far as the cycle asks;
anything else answers with no series, as Prometheus does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from forecaster.domain import FloatArray, IntArray, Samples
from serving.demo.services import CATALOG, MEMORY_LIMIT_QUERY, MEMORY_QUERY, NAMESPACE, SERVICES
from serving.demo.traffic import DAY, POD_LIMIT_BYTES, TICK

PER_MINUTE = 60 // TICK
_MEAN = re.compile(r"avg_over_time\(\((?P<inner>.*)\)\[(?P<range>\d+)s:(?P<step>\d+)s\]\)", re.DOTALL)
_HPA = "kube_horizontalpodautoscaler_"

Labels = Mapping[str, str]


class Tape:
    """Columns of a table that grows to the right: rows (row,) of the ticks from `start` on. NaN: not scraped."""

    def __init__(self, start: int, past: FloatArray) -> None:
        """`past` (row, tick): what is known of the ticks from `start` on."""
        self.start, self.count = start, past.shape[1]
        self._values: NDArray[np.float64] = np.array(past, dtype=np.float64)
        self._length = past.shape[1]

    @property
    def end(self) -> int:
        """Unix seconds: everything before it is on the tape."""
        return int(self.start + self.count * TICK)

    def append(self, column: FloatArray) -> None:
        if self.count == self._values.shape[1]:
            self._wind_on()
        self._values[:, self.count] = column
        self.count += 1

    def _wind_on(self) -> None:
        """Room for another day; what is older than the tape was long at first, is cut off."""
        kept = self._values[:, max(0, self.count - self._length) :]
        self.start += (self.count - kept.shape[1]) * TICK
        self.count = kept.shape[1]
        self._values = np.full((len(kept), self.count + DAY // TICK), np.nan)
        self._values[:, : self.count] = kept

    def minutes(self, row: int, times: IntArray) -> FloatArray:
        """(time,) mean of the minute that ends at each time; NaN for the future, and with fewer than two scrapes."""
        last = np.asarray(times - self.start, dtype=np.int64) // TICK - 1  # the tick that has just ended
        places = last[:, None] - np.arange(PER_MINUTE)
        seen = (places >= 0) & (places < self.count) & (times[:, None] <= self.end)
        values = np.where(seen, self._values[row, np.clip(places, 0, self.count - 1)], np.nan)
        known = np.isfinite(values)
        count = known.sum(axis=1)
        total = np.where(known, values, 0.0).sum(axis=1)
        return np.where(count >= 2, total / np.maximum(count, 1), np.nan)


@dataclass(slots=True)
class HpaNow:
    """What kube-state-metrics says of one HPA and its Deployment now."""

    min_replicas: int
    max_replicas: int
    replicas: int
    ready: int
    series: float  # scrape targets that answered; NaN: none


@dataclass(slots=True)
class PodStart:
    """A pod of the past: when it was created and when it became ready, Unix seconds."""

    service: str
    created: float
    ready: float


@dataclass(slots=True, eq=False)
class DemoSource:
    """Answers as Prometheus would. The world writes `tape` and `hpas`; rows are the services' loads, then memory."""

    tape: Tape
    hpas: dict[str, HpaNow]
    starts: list[PodStart] = field(default_factory=list)
    slowed: bool = False

    def instant(self, query: str, at: datetime) -> Samples:
        """One value per series at `at`."""
        times = np.array([int(at.timestamp())], dtype=np.int64)
        row = _ROWS.get(query)
        if row is not None:
            return _samples([({}, self.tape.minutes(row, times))], times)
        if int(times[0]) > self.tape.end:
            return _samples([], times)
        return _samples([(labels, np.array([value])) for labels, value in self._now(query)], times)

    def range(self, query: str, start: datetime, end: datetime, step: timedelta) -> Samples:
        """Values at start, start + step, … up to and including end."""
        seconds = int(step.total_seconds())
        times = np.arange(int(start.timestamp()), int(end.timestamp()) + 1, seconds, dtype=np.int64)
        row = _ROWS.get(query)
        if row is not None:
            return _samples([({}, self.tape.minutes(row, times))], times)
        mean = _MEAN.fullmatch(query)
        if mean is not None and mean["inner"].strip() in _ROWS:
            row, every = _ROWS[mean["inner"].strip()], int(mean["step"])
            points = times[:, None] - np.arange(0, int(mean["range"]) + 1, every, dtype=np.int64)
            values = self.tape.minutes(row, points.ravel()).reshape(points.shape)
            known = np.isfinite(values)
            count = known.sum(axis=1)
            total = np.where(known, values, 0.0).sum(axis=1)
            pooled = np.where(count > 0, total / np.maximum(count, 1), np.nan)
            return _samples([({}, np.where(times <= self.tape.end, pooled, np.nan))], times)
        return _samples([], times)

    def _now(self, query: str) -> list[tuple[Labels, float]]:
        for one in SERVICES:
            if query == one.count_query:
                return [({}, self.hpas[one.name].series)]
        if query == MEMORY_LIMIT_QUERY:
            return [({}, float(self.hpas[CATALOG].ready * POD_LIMIT_BYTES))]
        if query == "count(up)":
            return [({}, float(sum(one.ready for one in self.hpas.values())))]
        if "kube_pod_" in query:
            return self._pods(query)
        return self._kube(query)

    def _kube(self, query: str) -> list[tuple[Labels, float]]:
        found: list[tuple[Labels, float]] = []
        for name, one in self.hpas.items():
            labels = {"namespace": NAMESPACE, "horizontalpodautoscaler": name}
            if query == f"{_HPA}spec_min_replicas":
                found.append((labels, one.min_replicas))
            elif query == f"{_HPA}spec_max_replicas":
                found.append((labels, one.max_replicas))
            elif query == f"{_HPA}status_current_replicas":
                found.append((labels, one.replicas))
            elif query == f'{_HPA}spec_target_metric{{metric_target_type="utilization"}}':
                found.append(({**labels, "metric_name": "cpu"}, 70.0))
            elif query == f"{_HPA}info":
                target = {"scaletargetref_kind": "Deployment", "scaletargetref_name": name}
                found.append(({**labels, **target}, 1.0))
            elif query == "kube_deployment_status_replicas_ready":
                found.append(({"namespace": NAMESPACE, "deployment": name}, one.ready))
        return found

    def _pods(self, query: str) -> list[tuple[Labels, float]]:
        found: list[tuple[Labels, float]] = []
        for number, one in enumerate(self.starts):
            labels = {"namespace": NAMESPACE, "pod": f"{one.service}-5d8f-{number}"}
            if "kube_pod_owner" in query:
                owner = {"owner_kind": "ReplicaSet", "owner_name": f"{one.service}-5d8f"}
                found.append(({**labels, **owner}, 1.0))
            elif "kube_pod_status_ready_time" in query:
                found.append((labels, one.ready))
            elif "kube_pod_created" in query:
                found.append((labels, one.created))
        return found


_ROWS = {**{one.load_query: row for row, one in enumerate(SERVICES)}, MEMORY_QUERY: len(SERVICES)}


def _samples(rows: list[tuple[Labels, FloatArray]], times: IntArray) -> Samples:
    kept = [(labels, values) for labels, values in rows if np.isfinite(values).any()]
    return Samples(
        labels=tuple(labels for labels, _ in kept),
        times=times,
        values=np.array([values for _, values in kept], dtype=np.float64).reshape(len(kept), len(times)),
        server_time=datetime.fromtimestamp(int(times[-1]), UTC) if len(times) == 1 else None,
    )
