"""Figures of a receipt: changes against another policy with bootstrap intervals, and what many series come to.

A block of the bootstrap is a day. Denominators go with every share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecaster.domain import BoolArray, FloatArray
from forecaster.scaling.whatif.play import Played

DRAWS = 1_000
MOST_COST, MOST_TIME = 1.02, 0.5  # both conditions: replica-hours and time above capacity beside the HPA's
INTERVAL = (0.05, 0.95)


@dataclass(frozen=True, slots=True)
class Change:
    """A policy beside another one, in one part: shares of the other's, -0.5 is half of it."""

    time: float  # above capacity; inf where the other had none, 0 where neither had
    cost: float  # replica-hours
    time_interval: tuple[float, float]
    cost_interval: tuple[float, float]

    @property
    def both(self) -> bool:
        """No dearer than +2 %, and time above capacity halved: where there is none to halve, it is not."""
        return 1.0 + self.cost <= MOST_COST and math.isfinite(self.time) and 1.0 + self.time <= MOST_TIME


def change(ours: Played, policy: int, other: Played, reference: int, seed: int = 0) -> Change:
    """`ours[policy]` beside `other[reference]`, over the same days."""
    weights = _weights(len(ours.seconds), seed)
    above, was = weights @ ours.above[policy], weights @ other.above[reference]
    cost, paid = weights @ ours.replica_hours[policy], weights @ other.replica_hours[reference]
    times, costs = _ratios(above, was), _ratios(cost, paid)
    return Change(
        float(times[0]), float(costs[0]), _interval(times[1:]), _interval(costs[1:])
    )  # the first row of the weights is the part as it was


def _weights(days: int, seed: int) -> FloatArray:
    """(1 + draw, day): how often each day counts; the first row counts each once."""
    drawn = np.random.default_rng(seed).multinomial(days, np.full(days, 1.0 / days), size=DRAWS)
    return np.concatenate((np.ones((1, days)), drawn.astype(np.float64)))


def _ratios(ours: FloatArray, other: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = ours / other - 1.0
    return np.where(other > 0, ratio, np.where(ours > 0, np.inf, 0.0))


def _interval(values: FloatArray) -> tuple[float, float]:
    low, high = np.quantile(values, INTERVAL, method="nearest")
    return float(low), float(high)


# --- choosing --------------------------------------------------------------------------------------------------------


def safest_within(upt: FloatArray, cost: FloatArray, most_cost: float) -> int | None:
    """The lowest time above capacity of all that cost at most so much; of equals the cheapest."""
    return _least(upt, cost, cost <= most_cost * (1 + 1e-12))


def cheapest_within(upt: FloatArray, cost: FloatArray, most_upt: float) -> int | None:
    """The lowest cost of all with at most so much time above capacity; of equals the safest."""
    return _least(cost, upt, upt <= most_upt)


def _least(first: FloatArray, then: FloatArray, allowed: BoolArray) -> int | None:
    places = np.flatnonzero(allowed)
    if not len(places):
        return None
    return int(places[np.lexsort((then[places], first[places]))[0]])


def frontier(upt: FloatArray, cost: FloatArray) -> list[int]:
    """Places of the policies that no other outdoes in both, by rising cost."""
    out, best = [], math.inf
    for place in np.lexsort((upt, cost)).tolist():
        if upt[place] < best:
            out.append(place)
            best = float(upt[place])
    return out


# --- many series -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """One series under one policy at equal cost and at equal risk, as the table of many needs it."""

    series: str
    at_cost: Change
    at_risk: Change
    seconds_above: float  # at equal cost, test part
    reference_above: float  # of the tuned HPA
    cost: float  # at equal risk, replica-hours over the oracle's
    reference_cost: float
    events: float  # at equal cost, times the tuned HPA's
    reversals: float


@dataclass(frozen=True, slots=True)
class Summary:
    """All series at one start-up time."""

    series: int
    time_median: float  # change of time above capacity at equal cost
    time_interval: tuple[float, float]  # over series
    time_pooled: float
    time_cost_median: float  # change of replica-hours at equal cost, in the test part
    risk_cost_median: float  # change of replica-hours at equal risk
    risk_time_median: float
    gap_closed: float
    both_share: float
    both: int
    events_median: float
    reversals_median: float


def summary(entries: Sequence[Entry], seed: int = 0) -> Summary:
    """Medians, pooled figures and shares over series; a series without time to lose counts as it came."""
    times = np.array([one.at_cost.time for one in entries])
    drawn = np.random.default_rng(seed).integers(0, len(times), (DRAWS, len(times)))
    medians = np.sort(times[drawn], axis=1)[:, (len(times) - 1) // 2]
    reference = sum(one.reference_above for one in entries)
    room = sum(one.reference_cost - 1.0 for one in entries)
    both = sum(one.at_cost.both for one in entries)
    return Summary(
        series=len(entries),
        time_median=_median(times),
        time_interval=_interval(medians),
        time_pooled=sum(one.seconds_above for one in entries) / reference - 1.0 if reference else math.nan,
        time_cost_median=_median([one.at_cost.cost for one in entries]),
        risk_cost_median=_median([one.at_risk.cost for one in entries]),
        risk_time_median=_median([one.at_risk.time for one in entries]),
        gap_closed=sum(one.reference_cost - one.cost for one in entries) / room if room > 0 else math.nan,
        both_share=both / len(entries),
        both=both,
        events_median=_median([one.events for one in entries]),
        reversals_median=_median([one.reversals for one in entries]),
    )


def _median(values: Sequence[float] | FloatArray) -> float:
    """Of an even count the mean of the middle two; infinite values count as the highest."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return float(low if low == high else (low + high) / 2)
