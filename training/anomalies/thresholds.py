"""Thresholds that know no label: what a user would have, from a series' own earlier scores and those of its set.

The threshold of a day is the quantile of the daily maxima of all days before, at which so many days exceed it as the
budget allows. While a series is younger than DAYS its own quantile is mixed with that of the days of the whole set.
Days are counted from the first score of each series, so nothing is known before its time. The same rule for all
detectors. Nothing is left out: alarmed days are among the maxima.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forecaster.domain import FloatArray, IntArray

DAY = 86_400
DAYS = 70  # from which the own quantile stands alone
_LEAST_SHARE = 0.5  # of a day that must be scored to count


def learned(scores: Sequence[FloatArray], times: Sequence[IntArray], budget: float) -> list[FloatArray]:
    """(n,) threshold of each row of each series, `budget` false alarms per series-week; NaN before the first whole day.

    scores and times are (n,) per series, of one set and one detector.
    """
    days = [_days(score, time) for score, time in zip(scores, times, strict=True)]
    maxima = [_maxima(score, day) for score, day in zip(scores, days, strict=True)]
    longest = max((len(one) for one in maxima), default=0)
    calm = float(np.exp(-budget / 7))  # probability of a day without an alarm
    pooled = np.full(longest + 1, np.nan)
    for day in range(1, longest + 1):
        pooled[day] = _quantile(np.concatenate([one[:day] for one in maxima]), calm)
    out = []
    for one, of_row in zip(maxima, days, strict=True):
        daily = np.array([_mixed(one[:until], pooled[until], calm) for until in range(len(one) + 1)])
        out.append(np.where(of_row >= 0, daily[np.clip(of_row, 0, len(one))], np.nan))
    return out


def _mixed(own: FloatArray, pooled: float, calm: float) -> float:
    known = int((~np.isnan(own)).sum())
    if not known:
        return pooled
    weight = min(known / DAYS, 1.0)
    return weight * _quantile(own, calm) + (1 - weight) * pooled


def _quantile(maxima: FloatArray, calm: float) -> float:
    """At place calm (n + 1): a new day exceeds it as often as asked. The highest where there are too few."""
    known = np.sort(maxima[~np.isnan(maxima)])
    if not len(known):
        return np.nan
    place = min(max(calm * (len(known) + 1) - 1, 0.0), len(known) - 1.0)
    below = int(place)
    above = min(below + 1, len(known) - 1)
    return float(known[below] + (place - below) * (known[above] - known[below]))


def _days(score: FloatArray, times: IntArray) -> IntArray:
    """(n,) days since the first score; -1 before it."""
    known = np.flatnonzero(~np.isnan(score))
    if not len(known):
        return np.full(len(score), -1, dtype=np.int64)
    return np.asarray(np.maximum((times - times[known[0]]) // DAY, -1), dtype=np.int64)


def _maxima(score: FloatArray, days: IntArray) -> FloatArray:
    """(day,) highest score of each day; NaN where less than half of a usual day was scored."""
    rows = np.flatnonzero(~np.isnan(score) & (days >= 0))
    if not len(rows):
        return np.zeros(0)
    count = np.bincount(days[rows])
    out = np.full(len(count), -np.inf)
    np.maximum.at(out, days[rows], score[rows])
    usual = np.array([np.median(count[: day + 1][count[: day + 1] > 0]) for day in range(len(count))])  # until then
    return np.where(count >= np.maximum(_LEAST_SHARE * usual, 1), out, np.nan)
