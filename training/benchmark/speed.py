"""How long forecasts take: many series at once, one by one, and the small network beside them. Synthetic load."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from forecaster.domain import Context, FloatArray, ForecastRequest, SeriesBatch, SeriesKey
from forecaster.foresight import name_of
from models import chain
from training.backtest import DECILES, Past
from training.benchmark import baselines
from training.benchmark.answers import missing_packages

SERIES, STEPS, DAYS = 10_000, 60, 14
STEP = timedelta(minutes=5)
END = datetime(2026, 1, 15, tzinfo=UTC)
REPEATS = 5
FRACAST_HORIZON = 48  # all that it reaches


@dataclass(frozen=True, slots=True)
class Timed:
    """Median seconds of one call."""

    model: str
    what: str  # "fit" (the first call of a forecaster that fits), "batch", "single"
    series: int
    horizons: int
    levels: int
    seconds: float

    @property
    def milliseconds_each(self) -> float:
        return 1e3 * self.seconds / self.series


def measured(model: str, series: int = SERIES) -> list[Timed]:
    """Each forecaster of the chain on `series` series × 60 horizons × 9 quantiles, then on one; fracast on one."""
    out = []
    request = (np.arange(1, STEPS + 1, dtype=np.int64), DECILES)
    many, one = _context(_loads(series)), _context(_loads(1))
    for forecaster in chain.named(model)():
        name = name_of(forecaster).replace("-", "_")
        for what, context, rows in (("batch", many, series), ("single", one, 1)):
            asked = ForecastRequest(*request, np.full(rows, 3, dtype=np.int64))

            def call(context: Context = context, asked: ForecastRequest = asked) -> object:
                return forecaster.forecast(context, asked)  # noqa: B023 - called before the next one comes

            first = _seconds(call, 1)
            if what == "batch":
                out.append(Timed(name, "fit", rows, STEPS, len(DECILES), first))
            out.append(Timed(name, what, rows, STEPS, len(DECILES), _seconds(call, REPEATS if rows > 1 else 20)))
    if not missing_packages(["fracast"]):
        past = _loads(1)[0]
        horizons = [FRACAST_HORIZON]
        baselines.fracast(past, horizons, int(STEP.total_seconds()))
        spent = _seconds(lambda: baselines.fracast(past, horizons, int(STEP.total_seconds())), REPEATS)
        out.append(Timed("fracast", "single", 1, FRACAST_HORIZON, len(DECILES), spent))
    return out


def _seconds(call: Callable[[], object], repeats: int) -> float:
    spent = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def _loads(count: int) -> FloatArray:
    """A day's curve of each series' own size and hour, with noise."""
    random = np.random.default_rng(0)
    times = np.arange(DAYS * 288) / 288
    size, phase = random.lognormal(4, 1, (count, 1)), random.random((count, 1))
    noise = random.standard_normal((count, len(times)), dtype=np.float32)
    return (size * (1 + 0.6 * np.sin(2 * np.pi * (times + phase)) + 0.1 * noise)).astype(np.float32)


def _context(values: FloatArray) -> Context:
    keys: Sequence[SeriesKey] = [SeriesKey(f"w{i}") for i in range(len(values))]
    return Past(SeriesBatch(tuple(keys), END, STEP, values)).at(values.shape[1] - 1)
