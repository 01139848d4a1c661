"""Stand-ins for the edges of a cycle, implementing its Protocols."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np

from forecaster.domain import FloatArray, IntArray, Samples
from forecaster.errors import SourceError

Curve = Callable[[IntArray], FloatArray]  # Unix seconds (time,) -> values (time,), NaN where there is no sample


@dataclass
class FakeSource:
    """Answers queries from functions of time; what it does not know answers with no series, as Prometheus does.

    A coarse mean is asked for as a subquery; `FakeSource` recognises an expression by the text of a known one inside.
    """

    series: dict[str, list[tuple[Mapping[str, str], Curve]]]
    broken: SourceError | None = None  # raised for every query while set
    partial: bool = False
    asked: list[str] = field(default_factory=list)

    def instant(self, query: str, at: datetime) -> Samples:
        return self._answer(query, np.array([int(at.timestamp())], dtype=np.int64))

    def range(self, query: str, start: datetime, end: datetime, step: timedelta) -> Samples:
        seconds = int(step.total_seconds())
        times = np.arange(int(start.timestamp()), int(end.timestamp()) + 1, seconds, dtype=np.int64)
        return self._answer(query, times, seconds)

    def _answer(self, query: str, times: IntArray, step: int = 0) -> Samples:
        self.asked.append(query)
        if self.broken is not None:
            raise self.broken
        found = self.series.get(query)
        mean = found is None and "avg_over_time" in query
        if mean:
            found = next((rows for text, rows in self.series.items() if text in query), None)
        rows = [(labels, _mean(curve, times, step) if mean else curve(times)) for labels, curve in found or []]
        rows = [(labels, values) for labels, values in rows if not np.isnan(values).all()]
        return Samples(
            labels=tuple(labels for labels, _ in rows),
            times=times,
            values=np.array([values for _, values in rows]).reshape(len(rows), len(times)),
            partial=self.partial,
            warnings=("a store is missing",) if self.partial else (),
            server_time=datetime.fromtimestamp(int(times[-1]), UTC),
        )


def _mean(curve: Curve, times: IntArray, step: int) -> FloatArray:
    """What avg_over_time((curve)[step:1m]) gives: the mean of the minutes of (t - step, t]."""
    minutes = times[:, None] - np.arange(0, step, 60, dtype=np.int64)[None, :]
    values = curve(minutes.ravel()).reshape(minutes.shape)
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def daily(base: float, amplitude: float = 0.6, noise: float = 0.03, seed: int = 0) -> Curve:
    """A load with a day: requests per second around `base`, deterministic in time."""

    def curve(times: IntArray) -> FloatArray:
        phase = 2 * np.pi * (times % 86_400) / 86_400
        level = base * (1 + amplitude * np.sin(phase - 2.0))
        random = np.sin(times * 12.9898 + seed * 78.233) * 43758.5453
        return np.asarray(level * (1 + noise * 2 * ((random - np.floor(random)) - 0.5)))

    return curve


def constant(value: float) -> Curve:
    """A series that never changes."""
    return lambda times: np.full(len(times), float(value))
