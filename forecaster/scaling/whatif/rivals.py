"""Floors of others: perfect foresight, the offset pattern, a line through the last replicas. (tick,) each."""

from __future__ import annotations

import math

import numpy as np

from forecaster.domain import FloatArray, IntArray
from forecaster.scaling.hpa import SYNC_SECONDS
from forecaster.scaling.whatif.trial import Trial

WEEK = 7 * 86_400
OFFSET_WINDOW = 1800  # seconds, of the pattern max_over_time(load[30m] offset 6d23h30m)
LINEAR_HISTORY = 6  # of PHPA's own example


def oracle(trial: Trial) -> IntArray:
    """Fewest replicas that are never short: what a pod asked for now will have to help with while it is the newest.

    A pod made at t carries load from t + start-up on, so that the count at t is the most needed in [t, t + start-up].
    """
    need = needed(trial.load, trial.capacity)
    return _within(trial, ahead_maximum(need, math.ceil(trial.start_up / SYNC_SECONDS)))


def week_offset(trial: Trial) -> IntArray:
    """ceil(max_over_time(load[30m] offset 6d23h30m) / what one replica has at the user's target).

    The user's own minimum where the load of a week ago is not known.
    """
    per_step = trial.per_step
    back, width = WEEK // trial.step, max(1, OFFSET_WINDOW // trial.step)
    steps = np.arange(trial.first, trial.end)
    # at the begin of a step: the half-hour from a week ago on
    places = steps[:, None] - back + np.arange(width)[None, :]
    seen = np.where(places >= 0, trial.values[np.maximum(places, 0)], np.nan)
    top = np.fmax.reduce(seen, axis=1)
    floors = np.full(len(steps), trial.hpa.min_replicas, dtype=np.int64)
    known = np.isfinite(top)
    floors[known] = needed(top[known], trial.capacity * trial.hpa.target / 100)
    return _within(trial, np.repeat(floors, per_step))


def phpa_linear(trial: Trial) -> IntArray:
    """The predictive HPA's linear model: least squares through the replicas that its last six syncs calculated.

    Read at now + start-up, rounded up; its decision is the maximum of this and of the HPA.
    """
    past = np.concatenate((np.repeat(trial.load[:1], LINEAR_HISTORY), trial.load[:-1]))  # a tick is known at its end
    calculated = needed(past, trial.capacity * trial.hpa.target / 100).astype(np.float64)
    seen = np.lib.stride_tricks.sliding_window_view(calculated, LINEAR_HISTORY)[-len(trial.load) :]
    at = SYNC_SECONDS * (np.arange(LINEAR_HISTORY) - LINEAR_HISTORY + 1)
    spread = at - at.mean()
    slope = (seen * spread).sum(axis=1) / (spread**2).sum()
    line = seen.mean(axis=1) + slope * (trial.start_up - at.mean())
    return _within(trial, np.ceil(np.round(line, 6)).astype(np.int64))


def needed(load: FloatArray, capacity: float | FloatArray) -> IntArray:
    """Replicas that carry `load`; as `capacity.replicas_for`, for many."""
    return np.asarray(np.ceil(np.round(load / capacity, 6)).astype(np.int64))


def ahead_maximum(values: IntArray, ticks: int) -> IntArray:
    """(tick,) the highest of each value and the `ticks` after it."""
    padded = np.concatenate((values, np.full(ticks, values[-1])))
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, ticks + 1).max(axis=1))


def _within(trial: Trial, floors: IntArray) -> IntArray:
    return np.asarray(np.clip(floors, trial.hpa.min_replicas, trial.hpa.max_replicas))
