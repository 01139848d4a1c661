"""Contexts and requests for tests of the forecasters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from forecaster.domain import Calendar, Context, FloatArray, ForecastRequest, IntArray, SeriesBatch, SeriesKey
from forecaster.grid import pool_mean
from models.posted import context_of

NOW = datetime(2024, 5, 15, 12, 0, tzinfo=UTC)  # a Wednesday
LEVELS = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
LIVE_HORIZONS = (1, 2, 3, 5, 10, 15, 30, 60, 180, 360, 720, 1440)

Curve = Callable[[IntArray], FloatArray]


def keys_of(count: int) -> tuple[SeriesKey, ...]:
    return tuple(SeriesKey(f"w{i}") for i in range(count))


def request(
    rows: int, horizons: Sequence[int] = LIVE_HORIZONS, levels: Sequence[float] = LEVELS, window: int = 5
) -> ForecastRequest:
    return ForecastRequest(np.array(horizons, dtype=np.int64), tuple(levels), np.full(rows, window, dtype=np.int64))


def posted(
    values: FloatArray, step: timedelta = timedelta(minutes=1), origin: datetime = NOW, timezone: str = "UTC"
) -> Context:
    """A context of values (series, time) that end at `origin`."""
    return context_of(keys_of(len(values)), values, origin, step, (timezone,) * len(values))


def live(curves: Sequence[Curve], days: float = 28.0, origin: datetime = NOW, timezone: str = "UTC") -> Context:
    """The context that history gives at a step of one minute: two days of it, `days` days of five-minute means."""
    end = int(origin.timestamp())
    assert end % 300 == 0
    fine_times = end - 60 * np.arange(2879, -1, -1, dtype=np.int64)
    coarse_times = end - 300 * np.arange(8063, -1, -1, dtype=np.int64)
    fine, coarse = [], []
    for curve in curves:
        minutes = (coarse_times[:, None] - 60 * np.arange(4, -1, -1)[None, :]).ravel()
        every = curve(minutes)
        every[minutes <= end - days * 86_400] = np.nan
        fine.append(every[-2880:])
        coarse.append(pool_mean(every[None, :], 5)[0])
    assert len(fine[0]) == len(fine_times)
    keys = keys_of(len(curves))
    return Context(
        SeriesBatch(keys, origin, timedelta(minutes=1), np.array(fine, dtype=np.float32)),
        SeriesBatch(keys, origin, timedelta(minutes=5), np.array(coarse, dtype=np.float32)),
        Calendar((timezone,) * len(curves)),
    )


def daily(base: float = 100.0, noise: float = 0.05, seed: int = 0, phase: float = 0.0) -> Curve:
    """A day's curve between 0.4 and 1.6 times `base`, with independent noise that is a function of time."""

    def curve(times: IntArray) -> FloatArray:
        level = base * (1 + 0.6 * np.sin(2 * np.pi * (times % 86_400) / 86_400 + phase))
        return np.asarray(level * (1 + noise * noise_at(times, seed)))

    return curve


def noise_at(times: IntArray, seed: int) -> FloatArray:
    """Standard normal noise, the same for the same time and seed."""
    random = np.random.default_rng(seed).standard_normal(65_521)
    return np.asarray(random[(times // 15) % 65_521])
