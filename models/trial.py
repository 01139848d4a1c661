"""A trial forecast on fixed series: what a model must be able to do before it is run for anybody."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from forecaster.domain import Calendar, Context, FloatArray, ForecastRequest, IntArray, SeriesBatch, SeriesKey
from forecaster.errors import ModelError
from forecaster.foresight import LEVELS, horizons, sound
from forecaster.ports import Forecaster

_ORIGIN = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
_STEP, _COARSE_STEP = 60, 300
_FINE, _COARSE = 2 * 1440, 14 * 288
_NAMES = ("daily", "constant", "sparse", "gaps", "short", "empty")


def passed(forecaster: Forecaster) -> None:
    """Asks for one forecast of a load with a day, and of constant, rare, broken, short and missing series.

    Raises ModelError if it raises, gives a NaN, an infinity, quantiles that cross, a negative load or an absurd one,
    or no answer for the load with a day.
    """
    context = trial_context()
    every, _ = horizons(_STEP)
    request = ForecastRequest(every, LEVELS, np.full(len(_NAMES), 5, dtype=np.int64))
    try:
        given = forecaster.forecast(context, request)
        kept = sound(given, context)
        if given.values.shape != (len(_NAMES), len(every), len(LEVELS)) or given.peak.shape != given.values[:, 0].shape:
            raise ModelError(f"the trial forecast has shape {given.values.shape}")
    except ModelError:
        raise
    except Exception as error:  # whatever a network's code raises on weights that do not fit
        raise ModelError(f"the trial forecast failed: {error!r}") from error
    for row, name in enumerate(_NAMES):
        if given.missing[row] is None and kept.missing[row] is not None:
            raise ModelError(f"the trial forecast of the {name} series holds numbers that cannot be")
        if kept.missing[row] is None and ((kept.values[row] < 0).any() or (kept.peak[row] < 0).any()):
            raise ModelError(f"the trial forecast of the {name} series is negative")
    missing = kept.missing[0]
    if missing is not None:
        raise ModelError(f"there is no trial forecast of a load with a day: {missing.detail or missing.code}")


def trial_context() -> Context:
    """Two weeks of each of the fixed series."""
    keys = tuple(SeriesKey(name) for name in _NAMES)
    head = int(_ORIGIN.timestamp())

    def batch(step: int, columns: int) -> SeriesBatch:
        times = head - step * np.arange(columns - 1, -1, -1, dtype=np.int64)
        return SeriesBatch(keys, _ORIGIN, timedelta(seconds=step), _values(times, head))

    calendar = Calendar(("UTC",) * len(keys))
    return Context(fine=batch(_STEP, _FINE), coarse=batch(_COARSE_STEP, _COARSE), calendar=calendar)


def _values(times: IntArray, head: int) -> FloatArray:
    phase = 2 * np.pi * (times % 86_400) / 86_400
    jitter = np.sin(times * 12.9898) * 43758.5453
    daily = 100 * (1 + 0.6 * np.sin(phase - 2)) * (1 + 0.06 * (jitter - np.floor(jitter) - 0.5))
    sparse = np.where((times // 60) % 97 == 0, 5.0, 0.0)
    gaps = np.where((times // 3_600) % 7 < 2, np.nan, daily)
    short = np.where(times > head - 7_200, daily, np.nan)
    rows = (daily, np.full(len(times), 3.0), sparse, gaps, short, np.full(len(times), np.nan))
    return np.stack(rows).astype(np.float32)
