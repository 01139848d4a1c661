"""How long forecasts take: many series at once, and one; the small network beside them in the same run, both ways.

Synthetic load. Ours uses two threads for many series and one for one, fracast one: compare what the processor spent.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from forecaster.domain import Context, FloatArray, ForecastRequest, SeriesBatch, SeriesKey
from forecaster.foresight import name_of
from forecaster.past import Past
from models import chain
from training.backtest import DECILES
from training.benchmark import baselines
from training.benchmark.answers import missing_packages

SERIES, STEPS, DAYS = 10_000, 60, 14
STEP = timedelta(minutes=5)
END = datetime(2026, 1, 15, tzinfo=UTC)
REPEATS = 5
FRACAST_HORIZON = 48  # all that it reaches
FRACAST_SERIES = 32  # of its own batch: it takes seconds for as many


@dataclass(frozen=True, slots=True)
class Timed:
    """Median seconds of one call: of the clock, and of the processor on all cores."""

    model: str
    what: str  # "fit" (the first call of a forecaster that fits), "batch", "single"
    series: int
    horizons: int
    levels: int
    seconds: float
    cpu_seconds: float

    @property
    def milliseconds_each(self) -> float:
        return 1e3 * self.seconds / self.series


def measured(model: str, series: int = SERIES) -> list[Timed]:
    """Each forecaster of the chain on `series` series × 60 horizons × 9 quantiles, then on one; fracast likewise."""
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
                out.append(Timed(name, "fit", rows, STEPS, len(DECILES), *first))
            out.append(Timed(name, what, rows, STEPS, len(DECILES), *_seconds(call, REPEATS if rows > 1 else 20)))
    return out if missing_packages(["fracast"]) else [*out, *_fracast()]


def _fracast() -> list[Timed]:
    """Its own batch, less what is ours around it, and one series as the benchmark of accuracy asks it."""
    from fracast import FracastModel

    step, past = int(STEP.total_seconds()), _loads(1)[0]

    def single() -> object:
        return baselines.fracast(past, [FRACAST_HORIZON], step)

    single()  # its first call loads it, and limits it to one thread
    one = _seconds(single, REPEATS)
    model = FracastModel.from_pretrained(weights="fp32")
    many = _loads(FRACAST_SERIES)[:, -model.context_length :]
    model.forecast_batch(many[:2])
    batch = _seconds(lambda: model.forecast_batch(many), 1)
    sizes = (FRACAST_HORIZON, len(DECILES))
    return [Timed("fracast", "batch", FRACAST_SERIES, *sizes, *batch), Timed("fracast", "single", 1, *sizes, *one)]


def _seconds(call: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Medians of both clocks."""
    spent = []
    for _ in range(repeats):
        began, worked = time.perf_counter(), time.process_time()
        call()
        spent.append((time.perf_counter() - began, time.process_time() - worked))
    wall, cpu = zip(*spent, strict=True)
    return statistics.median(wall), statistics.median(cpu)


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
