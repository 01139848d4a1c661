"""Lead time: from pod starts, by a quantile that counts the pods that never became Ready, or as configured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta

import numpy as np

from forecaster.domain import BoolArray, FloatArray, HpaFacts, ScaleSpec

ASSUMED = timedelta(seconds=180)
FEWEST_PODS = 5
HPA_SYNC = timedelta(seconds=15)  # --horizontal-pod-autoscaler-sync-period
SHORTEST, LONGEST = timedelta(seconds=30), timedelta(minutes=15)


def lead_time_quantile(
    durations: Sequence[float] | FloatArray, observed: Sequence[bool] | BoolArray, level: float
) -> float:
    """Quantile `level` of the time from creation to Ready, in the unit of `durations`; NaN where there is no pod.

    Kaplan and Meier's estimator (1958): durations (pod,) are the time to Ready where `observed`, else how long the pod
    was watched without becoming Ready. +inf where so many never did that the quantile is not reached: leaving those out
    would make a workload whose pods hang look fast. A pod that became Ready at the moment another was last seen waiting
    comes first.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"{level} is not between 0 and 1")
    times = np.asarray(durations, dtype=np.float64)
    ready = np.asarray(observed, dtype=np.bool_)
    if len(times) != len(ready):
        raise ValueError(f"{len(times)} durations, {len(ready)} marks")
    known = np.isfinite(times) & (times >= 0)
    times, ready = times[known], ready[known]
    if not len(times):
        return math.nan
    survivors = 1.0
    for time in np.unique(times[ready]):
        at_risk = int((times >= time).sum())
        survivors *= 1.0 - int((ready & (times == time)).sum()) / at_risk
        if survivors <= 1.0 - level + 1e-12:  # 1 - 9/10 is not exactly 1/10
            return float(time)
    return math.inf


def lead_time_of(spec: ScaleSpec, facts: HpaFacts | None, interval: timedelta) -> tuple[timedelta, bool]:
    """(from a decision to ready pods, whether the start-up time in it is assumed).

    Pod creation to Ready as configured or measured, plus what passes before a pod is created: data up to one interval
    old, and the HPA's own sync. Between 30 s and 15 min.
    """
    assumed = False
    if spec.lead_time is not None:
        starting = spec.lead_time
    elif facts is not None and facts.lead_time is not None and facts.lead_time_pods >= FEWEST_PODS:
        starting = facts.lead_time
    else:
        starting, assumed = ASSUMED, True
    return min(max(starting + interval + HPA_SYNC, SHORTEST), LONGEST), assumed
