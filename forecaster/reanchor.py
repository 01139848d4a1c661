"""Moves a forecast with the newest load between two runs of the model. Pure; knows no forecaster.

How far it moves later horizons is tau, fitted per row: the part of a one-step miss that is still there some steps on.
"""

from __future__ import annotations

import dataclasses
from datetime import datetime

import numpy as np

from forecaster.domain import BoolArray, FloatArray, Forecast, IntArray
from forecaster.rows import Arrays

STATE_VERSION = 1
DEFAULT_MEMORY_SECONDS = 600.0
SHORTEST_MEMORY, LONGEST_MEMORY = 30.0, 3600.0  # seconds
FAR = 5  # steps: where it is looked how much of a one-step miss is left
_PRIOR = 120.0  # samples' worth of belief in the default
_MEMORY = 10_080.0  # samples: a week of minutes
_WILD = 4.0  # root mean squares beyond which a miss counts no further
_NEAREST, _FURTHEST = 0.01, 0.999  # of the share that is left


def reanchored(
    forecast: Forecast,
    now: datetime,
    newest: FloatArray,
    newest_at: IntArray,
    memory_seconds: FloatArray | float = DEFAULT_MEMORY_SECONDS,
    hidden: BoolArray | None = None,
) -> Forecast:
    """Q'(u) = Q(u) + exp(-(u - now) / tau) (newest - median(now)), for values and peak; DESIGN section 6.

    newest (row,) in the unit of the series, newest_at (row,) Unix seconds; memory_seconds is tau, (row,) or one for
    all. A row moves only when its newest sample is a number that the forecaster has not seen: later than the forecast's
    origin, or at it and kept out of learning (`hidden`, (row,)), for what is flagged must scale all the same. The
    peak's window is [now, now + window]: it moves by what the middle of the window moves, and is never below the
    newest load.
    A forecast that was nowhere negative stays so.
    """
    origin, step = forecast.origin.timestamp(), forecast.step.total_seconds()
    medians = forecast.values[:, :, forecast.levels.index(0.5)]  # (row, horizon)
    tau = np.maximum(np.broadcast_to(np.asarray(memory_seconds, dtype=np.float64), (len(medians),)), 1.0)
    unseen = newest_at > origin if hidden is None else (newest_at > origin) | (hidden & (newest_at >= origin))
    moved = unseen & np.isfinite(newest) & ~np.isnan(medians[:, 0])
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


# --- tau -------------------------------------------------------------------------------------------------------------


def blank() -> Arrays:
    """One row of state: sums of products of misses, and the forecasts whose time has not come."""
    return {
        "with_itself": np.zeros(1),  # sum of squares of one-step misses
        "with_later": np.zeros(1),  # sum of products with the same forecast's miss at the far horizon
        "pairs": np.zeros(1),
        "origin": np.full((1, FAR * 4), -1, dtype=np.int64),  # Unix seconds; a ring by step number
        "near": np.full((1, FAR * 4), np.nan, dtype=np.float32),  # median for one step on, then the miss of it
        "far": np.full((1, FAR * 4), np.nan, dtype=np.float32),  # median for the far horizon
    }


def far_index(horizons: IntArray) -> int:
    """Index of the horizon at which the rest of a miss is looked for: the first of at least FAR steps."""
    wanted = np.flatnonzero((horizons >= FAR) & (horizons < FAR * 4))
    return int(wanted[0]) if len(wanted) else len(horizons) - 1


def remembered(state: Arrays, forecast: Forecast) -> Arrays:
    """The state with a forecast, as it was before re-anchoring, whose time will come."""
    step, origin = int(forecast.step.total_seconds()), int(forecast.origin.timestamp())
    middle, far = forecast.levels.index(0.5), far_index(forecast.horizons)
    if int(forecast.horizons[0]) != 1 or not 1 < int(forecast.horizons[far]) < FAR * 4:
        return state
    slot = (origin // step) % (FAR * 4)
    arrays = {**state, **{name: state[name].copy() for name in ("origin", "near", "far")}}
    arrays["origin"][:, slot] = origin
    arrays["near"][:, slot] = forecast.values[:, 0, middle]
    arrays["far"][:, slot] = forecast.values[:, far, middle]
    return arrays


def learned(state: Arrays, observed: FloatArray, now: int, step: int, far_steps: int, learn: BoolArray) -> Arrays:
    """Takes in the samples (row,) of the grid time `now`; where `learn` is False they only pass."""
    rows = FAR * 4
    a = {**state, "near": state["near"].copy()}
    last, first = ((now - step * back) // step % rows for back in (1, far_steps))
    came = np.asarray(a["origin"])[:, last] == now - step
    a["near"][:, last] = np.where(
        came & learn, observed - np.asarray(a["near"][:, last], dtype=np.float64), np.nan
    )  # from now on: the miss
    due = np.asarray(a["origin"])[:, first] == now - step * far_steps
    early = np.where(due, np.asarray(a["near"][:, first], dtype=np.float64), np.nan)
    late = np.where(due & learn, observed - np.asarray(a["far"][:, first], dtype=np.float64), np.nan)
    pairs = np.asarray(a["pairs"], dtype=np.float64)
    usual = np.sqrt(np.asarray(a["with_itself"]) / np.maximum(pairs, 1.0)) * _WILD
    limit = np.where(pairs >= FAR, usual, np.inf)
    early, late = np.clip(early, -limit, limit), np.clip(late, -limit, limit)
    known = np.isfinite(early) & np.isfinite(late)
    fade = np.where(known, 1 - 1 / _MEMORY, 1.0)
    a["with_itself"] = np.asarray(a["with_itself"]) * fade + np.where(known, early * early, 0.0)
    a["with_later"] = np.asarray(a["with_later"]) * fade + np.where(known, early * late, 0.0)
    a["pairs"] = pairs * fade + known
    return a


def memory_seconds(state: Arrays, step: int, far_steps: int) -> FloatArray:
    """(row,) tau: exp(-distance / tau) of a miss is left after a distance; near the default while little is known."""
    distance = (far_steps - 1) * step
    itself, later = (
        np.asarray(state["with_itself"], dtype=np.float64),
        np.asarray(state["with_later"], dtype=np.float64),
    )
    pairs = np.asarray(state["pairs"], dtype=np.float64)
    if distance <= 0:
        return np.full(len(pairs), DEFAULT_MEMORY_SECONDS)
    belief = _PRIOR * itself / np.maximum(pairs, 1.0)
    usual = np.exp(-distance / DEFAULT_MEMORY_SECONDS)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        left = np.where(itself > 0, (later + belief * usual) / (itself + belief), usual)
    tau = -distance / np.log(np.clip(left, _NEAREST, _FURTHEST))
    return np.asarray(np.clip(tau, SHORTEST_MEMORY, LONGEST_MEMORY))
