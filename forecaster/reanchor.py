"""Moves a forecast with the newest load between two runs of the model. Pure; knows no forecaster."""

from __future__ import annotations

import dataclasses
from datetime import datetime

import numpy as np

from forecaster.domain import FloatArray, Forecast, IntArray

DEFAULT_MEMORY_SECONDS = 600.0


def reanchored(
    forecast: Forecast,
    now: datetime,
    newest: FloatArray,
    newest_at: IntArray,
    memory_seconds: FloatArray | float = DEFAULT_MEMORY_SECONDS,
) -> Forecast:
    """Q'(u) = Q(u) + exp(-(u - now) / tau) (newest - median(now)), for values and peak; DESIGN section 6.

    newest (row,) in the unit of the series, newest_at (row,) Unix seconds; memory_seconds is tau, (row,) or one for
    all. A row moves only when its newest sample is later than the forecast's origin and a number. The peak's window is
    [now, now + window]: it moves by what the middle of the window moves, and is never below the newest load.
    A forecast that was nowhere negative stays so.
    """
    origin, step = forecast.origin.timestamp(), forecast.step.total_seconds()
    medians = forecast.values[:, :, forecast.levels.index(0.5)]  # (row, horizon)
    tau = np.maximum(np.broadcast_to(np.asarray(memory_seconds, dtype=np.float64), (len(medians),)), 1.0)
    moved = (newest_at > origin) & np.isfinite(newest) & ~np.isnan(medians[:, 0])
    if not moved.any():
        return forecast
    ahead = (now.timestamp() - origin) / step
    shift = np.where(moved, newest - _at(forecast.horizons, medians, ahead), 0.0)  # (row,)
    lead = np.maximum((forecast.horizons - ahead) * step, 0.0)  # (horizon,) seconds from now
    weight = np.exp(-lead[None, :] / tau[:, None])
    values = forecast.values + (weight * shift[:, None])[:, :, None]
    half = 0.5 * forecast.windows * step
    peak = forecast.peak + (np.exp(-half / tau) * shift)[:, None]
    peak = np.where(moved[:, None], np.maximum(peak, newest[:, None]), peak)
    nonnegative = (forecast.values >= 0).all(axis=(1, 2)) & (newest >= 0)
    values = np.where(nonnegative[:, None, None], np.maximum(values, 0.0), values)
    peak = np.where(nonnegative[:, None], np.maximum(peak, 0.0), peak)
    return dataclasses.replace(forecast, values=values, peak=peak)


def _at(horizons: IntArray, medians: FloatArray, ahead: float) -> FloatArray:
    """(row,) the median path `ahead` steps after the origin; before the first horizon, that of the first."""
    right = int(np.clip(np.searchsorted(horizons, ahead), 1, max(len(horizons) - 1, 1)))
    if len(horizons) == 1:
        return medians[:, 0]
    left = right - 1
    share = float(np.clip((ahead - horizons[left]) / (horizons[right] - horizons[left]), 0.0, 1.0))
    return np.asarray(medians[:, left] + share * (medians[:, right] - medians[:, left]))
