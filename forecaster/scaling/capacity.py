"""What one replica carries, when all of them are full, and how many a load needs. Knows no past."""

from __future__ import annotations

import math

import numpy as np

from forecaster.domain import BoolArray, FloatArray, HpaFacts, ScaleSpec
from forecaster.reasons import Reason, ReasonCode

DEFAULT_TARGET_RATIO = 0.7
SATURATED_FROM = 0.95  # 98 % misses the half-minutes that blur in a 60 s mean, and breaks the dial behind a hot HPA
MOST_REPLICAS = 2**31 - 1  # int32, as in the HPA's own fields


def capacity_of(
    spec: ScaleSpec, queried: float | None = None, learned: float | None = None, refused: Reason | None = None
) -> tuple[float | None, Reason | None]:
    """Load at which one replica is full: as configured, as its PromQL answered, else as learned; else None and why."""
    if spec.capacity_per_replica is not None:
        if usable_capacity(spec.capacity_per_replica):
            return spec.capacity_per_replica, None
        return None, Reason(ReasonCode.CAPACITY_UNKNOWN, f"capacityPerReplica is {spec.capacity_per_replica:g}")
    if spec.capacity_query is None:
        if learned is not None and usable_capacity(learned):
            return learned, None
        nothing = Reason(ReasonCode.CAPACITY_UNKNOWN, "no capacityPerReplica is configured, and none is learned yet")
        return None, nothing if refused is None else refused
    if queried is None or math.isnan(queried):
        return None, Reason(ReasonCode.CAPACITY_UNKNOWN, "its query returned no value")
    if not usable_capacity(queried):
        return None, Reason(ReasonCode.CAPACITY_UNKNOWN, f"its query returned {queried:g}")
    return queried, None


def usable_capacity(capacity: float) -> bool:
    """A capacity that a load can be divided by."""
    return math.isfinite(capacity) and capacity > 0


def target_ratio_of(spec: ScaleSpec, facts: HpaFacts | None) -> float:
    """The HPA's target as a share of capacity: as configured, as read from the HPA, else 0.7."""
    if spec.target_ratio is not None:
        return spec.target_ratio
    if facts is not None and facts.target_ratio is not None and facts.target_ratio > 0:
        return facts.target_ratio
    return DEFAULT_TARGET_RATIO


def replicas_for(load: float, load_per_replica: float) -> int | None:
    """Fewest replicas that carry `load`, both in the unit of the load; None where there is no such number."""
    if not (math.isfinite(load) and load >= 0 and usable_capacity(load_per_replica)):
        return None
    share = load / load_per_replica
    if share >= MOST_REPLICAS:
        return MOST_REPLICAS
    return math.ceil(round(share, 6))  # 2.1 / 0.7 is 3 replicas, not 4


def saturated(mean_load: FloatArray, capacity: FloatArray, ready: FloatArray) -> BoolArray:
    """(row,) every replica is full: the 60 s mean load is at least 95 % of measured capacity times ready replicas.

    `mean_load` is the mean over the last 60 s; NaN anywhere, or no ready replica, is "not known to be saturated".
    """
    full = np.asarray(capacity, dtype=np.float64) * np.asarray(ready, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray((full > 0) & (np.asarray(mean_load, dtype=np.float64) >= SATURATED_FROM * full))
