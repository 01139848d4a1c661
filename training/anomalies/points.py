"""Points at which detectors are compared: the threshold a user would have, and equal false alarms as measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecaster.domain import FloatArray
from training.anomalies.events import Labelled, Outcome, measured, total

STEP = 2.0**-0.25  # from one factor that is tried to the next, going down
LOWEST = 2.0**-12
_HALVINGS = 12
_LEAST = 1e-9  # of a threshold


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """A detector at one threshold on one set."""

    factor: float  # of the thresholds that were learned
    outcome: Outcome


def over_threshold(score: FloatArray, threshold: FloatArray) -> FloatArray:
    """(n,) score over threshold: an alarm where it is 1 or more; NaN where there is no score or no threshold yet."""
    return np.asarray(score / np.fmax(threshold, np.where(np.isnan(threshold), np.nan, _LEAST)))


def at(ratios: Sequence[FloatArray], spans: Sequence[Labelled], factor: float) -> Point:
    """The outcome with each threshold times `factor`."""
    # NaN is not at or above anything
    return Point(factor, total(measured(span, ratio >= factor) for ratio, span in zip(ratios, spans, strict=True)))


def at_equal_false_alarms(ratios: Sequence[FloatArray], spans: Sequence[Labelled], per_week: float) -> Point:
    """The lowest factor at which no more false alarms than that were measured.

    Found from above: the first factor on the way down that makes more ends it. Far below, alarms run together and
    their number falls again, which is no merit. One factor for the whole set; it is chosen on the labels, alike for
    all, to compare detectors: nobody could set it.
    """
    most = round(per_week * sum(span.weeks for span in spans))
    factor = _above(ratios)
    best = at(ratios, spans, factor)
    while factor > LOWEST:
        lower = factor * STEP
        point = at(ratios, spans, lower)
        if point.outcome.false_alarms > most:
            return _between(ratios, spans, lower, best, most)
        factor, best = lower, point
    return best


def _above(ratios: Sequence[FloatArray]) -> float:
    """A factor at which nothing is an alarm."""
    highest = max((float(np.nanmax(one)) for one in ratios if not np.isnan(one).all()), default=1.0)
    return max(highest, LOWEST) / STEP


def _between(ratios: Sequence[FloatArray], spans: Sequence[Labelled], lower: float, best: Point, most: int) -> Point:
    """The lowest factor above `lower`, which makes too many, that makes at most `most`."""
    low, high = lower, best.factor
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        point = at(ratios, spans, middle)
        if point.outcome.false_alarms > most:
            low = middle
        else:
            high, best = middle, point
    return best
