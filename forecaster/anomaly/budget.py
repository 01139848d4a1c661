"""The threshold that spends the alarm budget: a quantile of the daily maxima of a row's own scores.

The scores of neighbouring steps depend on one another, so no threshold follows from theory; the maximum of a day takes
that into account. Below ten weeks of own days the fleet's are mixed in, and below that what independent scores would
ask for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from forecaster.domain import LOAD, BoolArray, FloatArray
from forecaster.rows import Arrays

DAYS = 70  # ten weeks
DAY = 86_400
LEAST_THRESHOLD = 2.0
YOUNG = 2.0  # times the threshold, until half a day of own scores is known: quantiles can be wrong by such a factor
_LEAST_POOL = 20  # days of all rows together that a fitted distribution of maxima needs
_LEAST_EXCEEDANCES = 10.0  # that a pool must let expect before its own quantile is trusted


def blank() -> Arrays:
    """One row of state."""
    return {
        "day": np.array([-1], dtype=np.int64),  # Unix day that `day_max` belongs to
        "day_max": np.full(1, math.nan, dtype=np.float32),  # highest score of the day so far
        "day_seen": np.zeros(1),  # seconds of it that were scored
        "maxima": np.full((1, DAYS), math.nan, dtype=np.float32),  # of whole days, oldest first
        "alarms": np.zeros((1, DAYS), dtype=np.int16),  # incidents opened, by Unix day modulo 70
        "threshold": np.array([math.nan]),
    }


def shares(keys: Sequence[str], budget: float | FloatArray) -> FloatArray:
    """(row,) false alarms a week that a row may spend: the rows of one workload share its budget evenly.

    `budget` is one for all workloads, or (row,) that of each row's workload.
    """
    rows_of = Counter(key.rpartition("/")[0] for key in keys)
    return np.asarray(budget / np.array([rows_of[key.rpartition("/")[0]] for key in keys], dtype=np.float64))


def beside_causes(keys: Sequence[str], budget: float, share: float) -> FloatArray:
    """(row,) what is left for the kinds of single series: `share` of the budget of a workload that has resources
    goes to the kinds with a cause. Keys are `name#hash/role`."""
    resourceful = {key.rpartition("/")[0] for key in keys if key.rpartition("/")[2] != LOAD}
    left = [budget * (1 - share) if key.rpartition("/")[0] in resourceful else budget for key in keys]
    return np.array(left, dtype=np.float64)


def rolled(
    state: Arrays,
    score: FloatArray,
    counts: BoolArray,
    now: int,
    step_seconds: float,
    per_week: FloatArray,
) -> Arrays:
    """Takes in the scores of one step (row,), where `counts`; renews thresholds when a day is over.

    `per_week` (row,): false alarms that each row may spend (`shares`).
    """
    today = now // DAY
    day = np.asarray(state["day"], dtype=np.int64)
    day_max, seen = np.array(state["day_max"]), np.array(state["day_seen"], dtype=np.float64)
    maxima, alarms = state["maxima"], state["alarms"]
    turned = day < today  # a clock that jumps back adds to the day that was
    if turned.any():
        whole = turned & (seen >= DAY / 2) & ~np.isnan(day_max)  # half a day's maximum is carried over to the next
        ring = np.array(maxima)
        ring[whole, :-1] = ring[whole, 1:]
        ring[whole, -1] = day_max[whole]
        day_max[whole], seen[whole] = math.nan, 0.0
        cleared = np.array(alarms)
        for first in np.unique(day[turned]):
            passed = min(DAYS, today - int(first))
            cleared[np.ix_(turned & (day == first), (today - np.arange(passed)) % DAYS)] = 0
        maxima, alarms = ring, cleared
    counted = counts & ~np.isnan(score)
    day_max = np.where(counted, np.fmax(day_max, score), day_max).astype(np.float32)
    threshold: FloatArray = np.asarray(state["threshold"], dtype=np.float64)
    if turned.any() or np.isnan(threshold).any():
        threshold = thresholds(np.asarray(maxima, dtype=np.float64), per_week, step_seconds)
    return {
        "day": np.maximum(day, today),
        "day_max": day_max,
        "day_seen": seen + counted * step_seconds,
        "maxima": maxima,
        "alarms": alarms,
        "threshold": threshold,
    }


def thresholds(maxima: FloatArray, per_week: FloatArray, step_seconds: float) -> FloatArray:
    """(row,) scores above which to open, from daily maxima (row, day) and alarms allowed per week (row,)."""
    return mixed(maxima, per_week, pooled(maxima, per_week, step_seconds))


def pooled(maxima: FloatArray, per_week: FloatArray, step_seconds: float) -> FloatArray:
    """(row,) what the fleet's daily maxima say, and theory as long as they are few."""
    calm_day = np.exp(-per_week / 7)  # probability of a day without an alarm
    theory = np.log10(7 * DAY / step_seconds / per_week)
    every = np.sort(maxima[~np.isnan(maxima)])
    if not len(every):
        return np.asarray(theory)
    fitted = _gumbel(every, calm_day)
    full = np.minimum(1.0, len(every) * (1 - calm_day) / _LEAST_EXCEEDANCES)
    quantile = full * np.quantile(every, calm_day) + (1 - full) * fitted
    trust = min(1.0, len(every) / _LEAST_POOL)
    return np.asarray(trust * quantile + (1 - trust) * theory)


def mixed(maxima: FloatArray, per_week: FloatArray, pool: FloatArray) -> FloatArray:
    """(row,) thresholds from each row's own days (row, day), and `pool` (row,) where they are few."""
    calm_day = np.exp(-per_week / 7)
    own_days = (~np.isnan(maxima)).sum(axis=1)
    # the quantile of each row's own days, linear between the sorted maxima; NaN sorts last
    ordered = np.sort(maxima, axis=1)
    # at place q (n + 1), the one for which a new day exceeds it as often as asked: of 70 days about the highest
    place = np.clip(calm_day * (own_days + 1) - 1, 0, np.maximum(own_days - 1, 0))
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, np.maximum(own_days - 1, 0))
    rows = np.arange(len(maxima))
    own = ordered[rows, below] + (place - below) * (ordered[rows, above] - ordered[rows, below])
    weight = own_days / maxima.shape[1]
    mixture = np.where(own_days > 0, weight * np.nan_to_num(own) + (1 - weight) * pool, pool)
    return np.asarray(np.maximum(mixture, LEAST_THRESHOLD))


def _gumbel(maxima: FloatArray, probability: FloatArray) -> FloatArray:
    """Quantiles of the Gumbel distribution with the mean and spread of `maxima`: scores have an exponential tail."""
    scale = math.sqrt(6) / math.pi * float(maxima.std())
    return np.asarray(float(maxima.mean()) - scale * (np.euler_gamma + np.log(-np.log(probability))))


def in_force(state: Arrays) -> FloatArray:
    """(row,) the threshold to open at: twice as high while the row's own scores are not known for half a day."""
    return np.asarray(np.where(is_young(state), YOUNG, 1.0) * np.asarray(state["threshold"], dtype=np.float64))


def moved(threshold: FloatArray, factor: FloatArray) -> FloatArray:
    """(row,) thresholds for `factor` times the false alarms: scores are -log10 of a p-value, so twice as many come
    0.3 lower."""
    return np.asarray(np.maximum(threshold - np.log10(factor), LEAST_THRESHOLD))


def recomputed(state: Arrays, per_week: float, pool: float, factor: float) -> float:
    """The threshold of the one row of `state` from its own days, the fleet's word `pool`, and what feedback says."""
    own = mixed(np.asarray(state["maxima"], dtype=np.float64), np.array([per_week]), np.array([pool]))
    return float(moved(in_force({**state, "threshold": own}), np.array([factor]))[0])


def own_days(state: Arrays) -> int:
    """Days of own scores that the threshold of the one row of `state` rests on."""
    return int((~np.isnan(np.asarray(state["maxima"], dtype=np.float64))).sum())


def is_young(state: Arrays) -> BoolArray:
    """(row,) rows whose own scores are not known for half a day."""
    seen = np.asarray(state["day_seen"], dtype=np.float64)
    return np.asarray(np.isnan(np.asarray(state["maxima"])[:, -1]) & (seen < DAY / 2))


def with_alarms(alarms: FloatArray, opened: BoolArray, now: int) -> FloatArray:
    """Counts the incidents opened now (row,)."""
    counted = np.array(alarms)
    counted[opened, (now // DAY) % DAYS] += 1
    return counted


def used(alarms: FloatArray, per_week: FloatArray) -> FloatArray:
    """(row,) incidents of the last ten weeks over what ten weeks allow. 1: the budget is spent."""
    return np.asarray(alarms.sum(axis=1, dtype=np.float64) / (per_week * DAYS / 7))
