"""Predicted saturation against PromQL's predict_linear: lead time at equal false alarms, on resources with a limit.

Half of the simulated resources leak, the other half never comes near its limit. All have a day, the sawtooth of a
collector, noise, and some a restart. Each detector's threshold is the lowest at which the calm half costs no more false
alarms than asked: so nobody's threshold is a matter of taste, and the labels are as good to the baseline as to us.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from forecaster.anomaly import saturation
from forecaster.domain import FloatArray, IntArray
from forecaster.rows import Rows
from training.anomalies.events import MERGE, WEEK
from training.anomalies.spans import joined, runs
from training.synthetic_clock import HOUR, MINUTE
from training.synthetic_random import autoregression, log_uniform

STEP = MINUTE
DAYS, FROM_DAYS, CALM_DAYS = 8, 2, 3  # length; false alarms count from; no leak begins before
DAY = 86_400
START = 1_767_571_260  # a Monday in 2026, UTC
HIGHEST_CALM = 0.9  # of the limit, that a calm resource reaches
IN_TIME = 6 * HOUR


@dataclass(frozen=True, slots=True, eq=False)
class Resource:
    """Usage of one resource as a share of its limit."""

    times: IntArray  # (n,) ends of intervals
    usage: FloatArray  # (n,)
    onset: int  # row at which the leak begins; n: none
    full: int  # row at which it is at its limit; n: never


@dataclass(frozen=True, slots=True)
class Told:
    """One detector at one rate of false alarms."""

    model: str
    false_alarms_per_week: float  # as measured on the calm half
    found: float  # share of the leaks told before the limit
    in_time: float  # share told 6 hours before it, or in the first half of a leak that is shorter than 12
    lead_hours: float  # mean over all leaks: at most a day each, 0 where it was not told


def simulated(count: int, seed: int) -> list[Resource]:
    """`count` resources, every second of which leaks. All from (seed, number)."""
    return [_resource(np.random.default_rng((seed, i)), leaks=i % 2 == 1) for i in range(count)]


def _resource(rng: np.random.Generator, leaks: bool) -> Resource:
    n = DAYS * DAY // STEP
    hours = np.arange(n) * STEP / HOUR
    day = 0.5 - 0.5 * np.cos(2 * np.pi * (hours - rng.uniform(0, 24)) / 24)
    weekday = np.where((hours // 24).astype(np.int64) % 7 >= 5, rng.uniform(0.4, 1.0), 1.0)
    phase = (hours / (rng.uniform(20, 240) / 60) + rng.random()) % 1.0
    shape = rng.uniform(0.02, 0.4) * day * weekday + rng.uniform(0.01, 0.15) * phase
    noise = rng.uniform(0.001, 0.01) * autoregression(rng.standard_normal(n) * 0.44, 0.9)
    usage = rng.uniform(0.1, 0.4) + shape + noise
    if rng.random() < 0.5:  # a deploy: what was kept is gone, and the cache fills again
        at = int(rng.integers(n // 4, n))
        usage[at:] -= rng.uniform(0.02, 0.08) * np.exp(-(hours[at:] - hours[at]) / rng.uniform(0.5, 12))
    usage = np.maximum(usage * min(1.0, HIGHEST_CALM / float(usage.max())), 0.0)
    onset = full = n
    if leaks:
        onset = int((CALM_DAYS + rng.random()) * DAY // STEP)
        usage = usage + log_uniform(rng, 0.005, 0.08) * np.maximum(hours - hours[onset], 0.0)
        over = np.flatnonzero(usage >= 1.0)
        full = int(over[0]) if len(over) else n
        usage = np.minimum(usage, 1.0)
    return Resource(START + STEP * np.arange(n, dtype=np.int64), usage, onset, full)


def predict_linear(values: FloatArray, window: int, ahead: int) -> FloatArray:
    """(n,) what PromQL's predict_linear(x[window], ahead) says at each row: a least-squares line, evaluated ahead.

    values (n,) with NaN for missing samples, window and ahead in rows; NaN where fewer than two samples are known.
    """
    n = len(values)
    known = ~np.isnan(values)
    place = np.arange(n, dtype=np.float64)
    x = np.where(known, values, 0.0)
    parts = (known.astype(np.float64), place * known, place * place * known, x, place * x)
    count, t, tt, y, ty = (_last(part, window) for part in parts)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (count * ty - t * y) / (count * tt - t * t)
        line = y / count + slope * (place + ahead - t / count)
    return np.where(count >= 2, line, np.nan)


def _last(values: FloatArray, window: int) -> FloatArray:
    """(n,) sum over the newest `window` rows, each by itself exact enough to subtract."""
    total = np.concatenate([np.zeros(window), np.cumsum(values)])
    return np.asarray(total[window:] - total[:-window])


def ours(them: Sequence[Resource]) -> list[FloatArray]:
    """(n,) per resource: score of the live code."""
    state = Rows((), {}).aligned([str(i) for i in range(len(them))], saturation.blank()).arrays
    usage = np.stack([one.usage for one in them])
    out = np.full(usage.shape, np.nan)
    for j, now in enumerate(them[0].times.tolist()):
        state, outlook = saturation.stepped(state, usage[:, j], np.ones(len(them)), now)
        out[:, j] = outlook.score
    return list(out)


def baselines() -> dict[str, Callable[[Sequence[Resource]], list[FloatArray]]]:
    """predict_linear as people use it: windows of one and six hours, four hours or a day ahead."""

    def of(window: int, ahead: int) -> Callable[[Sequence[Resource]], list[FloatArray]]:
        return lambda them: [predict_linear(one.usage, window * HOUR // STEP, ahead * HOUR // STEP) for one in them]

    pairs = ((1, 4), (6, 6), (6, 24), (24, 24))
    return {f"predict_linear[{window}h] {ahead}h": of(window, ahead) for window, ahead in pairs}


def compared(
    them: Sequence[Resource],
    per_week: float,
    detectors: Mapping[str, Callable[[Sequence[Resource]], list[FloatArray]]],
) -> list[Told]:
    """Every detector at the lowest threshold that costs at most `per_week` false alarms on the calm resources."""
    out = []
    for name, detector in detectors.items():
        scores = detector(them)
        calm = [(one, score) for one, score in zip(them, scores, strict=True) if one.onset == len(one.usage)]
        limit = _threshold(calm, per_week)
        out.append(_told(name, them, scores, limit, _false_alarms(calm, limit)))
    return out


def _false_alarms(calm: Sequence[tuple[Resource, FloatArray]], limit: float) -> float:
    """A week, over the calm resources after the warm-up."""
    first = FROM_DAYS * DAY // STEP
    alarms = 0
    for one, score in calm:
        alarm = np.nan_to_num(score, nan=-np.inf) >= limit
        alarm[:first] = False
        alarms += len(joined(runs(alarm), one.times, STEP, MERGE))
    weeks = sum(len(one.times) - first for one, _ in calm) * STEP / WEEK
    return alarms / weeks


def _threshold(calm: Sequence[tuple[Resource, FloatArray]], per_week: float) -> float:
    """The lowest threshold that costs no more; false alarms are counted as runs, so it is searched from above."""
    first = FROM_DAYS * DAY // STEP
    highest = np.sort([float(np.nanmax(score[first:])) for _, score in calm])[::-1]
    best = float(np.nextafter(highest[0], np.inf))
    for limit in highest.tolist():
        if _false_alarms(calm, limit) > per_week:
            break
        best = limit
    return best


def _told(name: str, them: Sequence[Resource], scores: Sequence[FloatArray], limit: float, rate: float) -> Told:
    leads, timely, leaking = [], 0, 0
    for one, score in zip(them, scores, strict=True):
        if one.full == len(one.usage):
            continue
        leaking += 1
        on = one.onset + np.flatnonzero(score[one.onset : one.full] >= limit)
        if len(on):
            lead = (one.full - on[0]) * STEP
            leads.append(lead)
            timely += int(lead >= min(IN_TIME, (one.full - one.onset) * STEP / 2))
    return Told(
        model=name,
        false_alarms_per_week=rate,
        found=len(leads) / max(leaking, 1),
        in_time=timely / max(leaking, 1),
        lead_hours=float(np.minimum(leads, DAY).sum()) / HOUR / max(leaking, 1) if leads else 0.0,
    )
