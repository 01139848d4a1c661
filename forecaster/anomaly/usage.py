"""Is the usage of a resource unusual for the load it serves: CPU per request up, memory that stays when load goes.

usage = base + cost x load + per replica x replicas + rest. The three are fitted recursively, robustly and on relative
distances, from samples that no incident or mark covers; the rest is compared with the row's own past, at once and as a
mean of fifteen minutes. A surge at unchanged cost leaves no rest. Beyond the loads seen so far a straight line is a
guess, and the deviation grows with the distance. Vectorised over rows; what is missing is scored by nobody.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from forecaster.anomaly import residual, tails
from forecaster.domain import BoolArray, FloatArray, IntArray
from forecaster.rows import Arrays

DAY, HOUR = 86_400, 3_600
MEMORY = 7 * DAY  # seconds that the fit remembers
LEAST = DAY  # seconds of samples before anything is scored: the loads of a day are known by then
SMOOTH = 900  # seconds of the mean that small lasting changes show in
SLOTS = 15  # of that mean, at most
SPREAD_FLOOR = 0.01  # relative: a rest of one per cent is no news on a series that never varied
MISFIT = 0.1  # deviation per unit of load beyond what was seen, relative to it: three times the load costs 0.2
LATELY = 4 * HOUR  # seconds: the load of this time is what a jump is measured against; memory follows later than that
USUAL_JUMP = 0.5  # change against the load lately, relative, that says nothing against the straight line
SHRINK = 1e-3  # of base and replicas towards 0 where load alone explains as much
OUTLIER = 3.0  # deviations from which a sample counts less in the fit (Huber)
LEAST_LEVEL = 0.2  # of the usual usage: below, relative distances are taken to this
HOURS = 24
HOUR_TRUST = 4 * HOUR  # seconds of samples at one hour of the day at which its own deviation is half believed
SPREAD_MEMORY = 1_000.0  # samples that the usual rest is a mean of
REPLICAS_KEPT = HOUR  # seconds that a count of replicas outlives its last sample
KIND = "usage_per_load"
_NORMAL = 1.2533  # standard deviation over mean distance, of a normal distribution
_MOST_JUMP = 10.0  # times what the load was
_TERMS = 3


def blank() -> Arrays:
    """One row of state."""
    past = residual.blank()["past"]
    return {
        "moments": np.zeros((1, _TERMS, _TERMS)),
        "cross": np.zeros((1, _TERMS)),
        "weight": np.zeros(1),  # samples, those of long ago for less
        "fit": np.full((1, _TERMS), math.nan),  # base, cost per unit of load, per replica; unit of the usage
        "level": np.full(1, math.nan),  # usual usage
        "most_load": np.full(1, math.nan),  # highest load it was fitted to
        "least_load": np.full(1, math.nan),
        "lately": np.full(1, math.nan),  # load of the last hours
        "replicas": np.full(1, math.nan),
        "replicas_at": np.zeros(1),
        "rest": np.full((1, SLOTS), math.nan),  # relative, of the newest samples
        "guess": np.zeros((1, SLOTS)),  # deviation of those that the straight line itself may be off by
        "hour": np.zeros((1, HOURS)),  # relative, usual at this hour of the day
        "hour_seen": np.zeros((1, HOURS)),
        "past": past,
        "spread": np.full(1, math.nan),  # usual |rest|, relative
        "mean_spread": np.full(1, math.nan),  # usual |mean of the rest|
        "spread_seen": np.zeros(1),  # samples in these two
    }


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One step; arrays over rows, NaN where missing."""

    now: int  # Unix seconds
    load: FloatArray
    usage: FloatArray
    replicas: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What one step said; arrays over rows."""

    score: FloatArray  # -log10 of the calibrated p-value; NaN during warm-up and without a sample
    side: IntArray  # +1: more than the load explains
    expected: FloatArray  # usage for this load, unit of the usage
    low: FloatArray  # of 99 % of samples
    high: FloatArray
    rest: FloatArray  # relative: 0.2 is 20 % more than expected; mean of fifteen minutes
    nats: FloatArray  # surprise before calibration, for `learned`


@dataclass(frozen=True, slots=True, eq=False)
class Cost:
    """Usage per unit of load, arrays over rows; NaN where it is not known."""

    each: FloatArray
    low: FloatArray  # 90 % interval: wide where the load never varied by itself
    high: FloatArray


def judged(state: Arrays, sample: Sample, step_seconds: float) -> tuple[Arrays, Judged]:
    """(state with the newest rest, what it says). Reads the fit of the past only: nothing is learned here."""
    a = dict(state)
    x, y = np.asarray(sample.load, dtype=np.float64), np.asarray(sample.usage, dtype=np.float64)
    a["replicas"], a["replicas_at"] = _replicas(state, sample)
    fit = np.asarray(state["fit"], dtype=np.float64)
    expected = np.einsum("rt,rt->r", fit, _terms(x, np.asarray(a["replicas"])))
    expected = np.where(_lost(a), np.nan, expected)
    least = LEAST_LEVEL * np.asarray(state["level"], dtype=np.float64)
    expected = expected + np.maximum(expected, least) * _of_hour(state, sample.now, step_seconds)
    size = np.maximum(expected, least)  # that distances are relative to: next to nothing, any is large
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = np.where(size > 0, (y - expected) / size, np.nan)
    ring = np.array(state["rest"], dtype=np.float64)
    ring[:, :-1] = ring[:, 1:]
    ring[:, -1] = rest
    a["rest"] = ring
    mean = _mean(ring, step_seconds)
    # in a jump of the load, rates over different windows, cold caches and idle replicas blur what a request costs
    lately = np.asarray(state["lately"], dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        jump = np.where(x > lately, x / lately, lately / np.fmax(x, lately / _MOST_JUMP)) - 1
    jump = np.minimum(np.nan_to_num(jump, posinf=_MOST_JUMP), _MOST_JUMP)
    jump = np.maximum(jump - USUAL_JUMP, 0.0)
    guess = MISFIT * np.fmax(_beyond(state, x), jump)
    recent = np.where(np.isnan(lately), x, lately + min(1.0, step_seconds / LATELY) * (x - lately))
    a["lately"] = np.where(np.isnan(x), lately, recent)
    guesses = np.array(state["guess"], dtype=np.float64)
    guesses[:, :-1] = guesses[:, 1:]
    guesses[:, -1] = np.where(np.isnan(rest), guesses[:, -2], guess)
    a["guess"] = guesses
    spread = np.hypot(_wide(state, "spread"), guess)
    # a mean still holds samples of a surge that is over
    mean_spread = np.hypot(_wide(state, "mean_spread"), np.nan_to_num(_mean(guesses, step_seconds)))
    at_once, lasting = rest / spread, mean / mean_spread
    loud = np.where(np.abs(np.nan_to_num(lasting)) > np.abs(np.nan_to_num(at_once)), lasting, at_once)
    nats = np.minimum(tails.two_sided(loud), residual.MOST_SURPRISE)
    warm = np.asarray(state["weight"], dtype=np.float64) * step_seconds >= LEAST
    score = np.where(warm, residual.calibrated(np.asarray(state["past"], dtype=np.float64), nats), np.nan)
    wide = 2.576 * spread * size
    return a, Judged(
        score=np.where(np.isnan(rest), np.nan, score),
        side=np.where(np.nan_to_num(loud) < 0, -1, 1).astype(np.int64),
        expected=np.maximum(expected, 0.0),
        low=np.maximum(expected - wide, 0.0),
        high=expected + wide,
        rest=mean,
        nats=np.where(np.isnan(rest), np.nan, nats),
    )


def learned(state: Arrays, sample: Sample, said: Judged, learn: BoolArray, step_seconds: float) -> Arrays:
    """The state with this sample (row,) taken in where `learn`: not masked, not in an incident, no fault of the data.

    `state` is what `judged` gave for the same sample.
    """
    x, y = np.asarray(sample.load, dtype=np.float64), np.asarray(sample.usage, dtype=np.float64)
    known = learn & ~_lost(state) & ~np.isnan(x) & ~np.isnan(y) & (x >= 0) & (y >= 0)
    a = dict(state)
    rest = np.asarray(state["rest"], dtype=np.float64)[:, -1]
    level = np.asarray(state["level"], dtype=np.float64)
    count = np.asarray(state["weight"], dtype=np.float64)
    memory = MEMORY / step_seconds
    part = np.maximum(1 / (count + 1), 1 / memory)
    a["level"] = np.where(known, np.where(np.isnan(level), y, level + (np.minimum(y, 5 * level) - level) * part), level)

    spread = _NORMAL * np.asarray(state["spread"], dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        counts = np.minimum(1.0, OUTLIER * np.fmax(spread, SPREAD_FLOOR) / np.abs(rest))
        counts = np.where(np.isnan(counts) | (count < 60), 1.0, counts)
        size = np.fmax(
            np.where(count < 60, np.nan, said.expected), LEAST_LEVEL * np.asarray(a["level"], dtype=np.float64)
        )
        w = np.where(known & (size > 0), counts / size**2, 0.0)
    terms = np.nan_to_num(_terms(x, np.asarray(a["replicas"])))
    keep = np.where(known & (count >= memory), 1 - 1 / memory, 1.0)
    moments = keep[:, None, None] * np.asarray(state["moments"]) + w[:, None, None] * (
        terms[:, :, None] * terms[:, None, :]
    )
    cross = keep[:, None] * np.asarray(state["cross"]) + (w * np.nan_to_num(y))[:, None] * terms
    weight = keep * count + known
    a["moments"], a["cross"], a["weight"] = moments, cross, weight
    a["fit"] = np.where((weight > 0)[:, None], _solved(moments, cross), np.nan)
    a["most_load"], a["least_load"] = _range(state, x, known, step_seconds)

    trusted = known & (count * step_seconds >= HOUR)  # the first fits are no yardstick
    counted = np.asarray(state["spread_seen"], dtype=np.float64) + trusted
    for name, distance in (("spread", np.abs(rest)), ("mean_spread", np.abs(said.rest))):
        a[name] = _spread(np.asarray(state[name], dtype=np.float64), distance, counted, trusted)
    a["spread_seen"] = counted
    of_past = {"past": state["past"], "spread": state["spread"]}
    ready = known & (count * step_seconds >= LEAST)
    a["past"] = residual.learned(of_past, said.nats, np.abs(rest), ready)["past"]
    hour = int(sample.now // HOUR) % HOURS
    usual, seen = np.array(state["hour"], dtype=np.float64), np.array(state["hour_seen"], dtype=np.float64)
    grown = np.minimum(seen[:, hour] + trusted, memory / HOURS)
    whole = np.nan_to_num(rest) + _of_hour(state, sample.now, step_seconds)  # the rest is less what is believed of it
    off = np.clip(whole - usual[:, hour], -OUTLIER * np.fmax(spread, 0.01), OUTLIER * np.fmax(spread, 0.01))
    usual[:, hour] += np.where(trusted, np.nan_to_num(off) / np.maximum(grown, 1.0), 0.0)
    seen[:, hour] = grown
    a["hour"], a["hour_seen"] = usual, seen
    return a


def accepted(state: Arrays, rows: BoolArray, step_seconds: float) -> Arrays:
    """The state after `rows` (row,) were accepted as the way things are: the cost is what it has been lately.

    The fit is multiplied by what the last fifteen minutes showed, and a day of it is kept, so that what comes
    refines it soon.
    """
    if not rows.any():
        return state
    a = dict(state)
    factor = np.where(rows, 1 + np.nan_to_num(_mean(np.asarray(state["rest"], dtype=np.float64), step_seconds)), 1.0)
    weight = np.asarray(state["weight"], dtype=np.float64)
    least = LEAST / step_seconds
    kept = np.where(rows & (weight > least), least / np.maximum(weight, 1.0), 1.0)
    a["moments"] = np.asarray(state["moments"]) * kept[:, None, None]
    a["cross"] = np.asarray(state["cross"]) * (kept * factor)[:, None]
    a["fit"] = np.asarray(state["fit"]) * factor[:, None]
    a["level"] = np.asarray(state["level"]) * factor
    a["weight"] = weight * kept
    a["rest"] = np.where(rows[:, None], np.nan, np.asarray(state["rest"], dtype=np.float64))
    return a


def cost(state: Arrays) -> Cost:
    """(row,) usage per unit of load with its interval, from the state."""
    fit = np.asarray(state["fit"], dtype=np.float64)[:, 1]
    weight = np.asarray(state["weight"], dtype=np.float64)
    spread = _NORMAL * np.fmax(np.asarray(state["spread"], dtype=np.float64), SPREAD_FLOOR)
    mean_spread = np.asarray(state["mean_spread"], dtype=np.float64) * _NORMAL
    with np.errstate(divide="ignore", invalid="ignore"):
        dependent = np.clip(SLOTS * (mean_spread / spread) ** 2, 1.0, SLOTS)  # samples that say as much as one
    scaled, size, _ = _scaled(np.asarray(state["moments"], dtype=np.float64))
    of_cost = np.linalg.inv(scaled)[:, 1, 1] / size[:, 1] ** 2
    error = spread * np.sqrt(np.maximum(of_cost, 0.0) * np.nan_to_num(dependent, nan=float(SLOTS)))
    known = (weight > 1) & ~np.isnan(fit)
    fit = np.where(known, fit, np.nan)
    return Cost(fit, np.maximum(fit - 1.645 * error, 0.0), fit + 1.645 * error)


def sentence(workload: str, resource: str, rest: float, side: int, load: float, usual_load: float, since: str) -> str:
    """What happened, for people. `rest` is relative, mean of fifteen minutes; `usual_load` the middle of those seen."""
    share = f"{abs(rest):.0%}"
    if side < 0:
        return f"{workload}: {resource} is {share} below what this load usually takes, since {since}"
    if load < usual_load:
        return (
            f"{workload}: {resource} did not come down with the load: {share} more than a load of {load:.4g} usually "
            f"takes, since {since}"
        )
    return f"{workload}: {resource} per unit of load is up {share}: more than the load explains, since {since}"


def usual_load(state: Arrays) -> FloatArray:
    """(row,) middle of the loads that the fit has seen."""
    most, least = np.asarray(state["most_load"], dtype=np.float64), np.asarray(state["least_load"], dtype=np.float64)
    return np.asarray((most + least) / 2)


def _terms(load: FloatArray, replicas: FloatArray) -> FloatArray:
    """(row, term) what the usage is a sum of; a count of replicas that was never known is a term of 0."""
    return np.stack([np.ones(len(load)), load, np.nan_to_num(replicas)], axis=1)


def _replicas(state: Arrays, sample: Sample) -> tuple[FloatArray, FloatArray]:
    """(count, when): the newest known one, for an hour."""
    said = ~np.isnan(sample.replicas)
    at = np.where(said, float(sample.now), np.asarray(state["replicas_at"], dtype=np.float64))
    held = np.where(said, sample.replicas, np.asarray(state["replicas"], dtype=np.float64))
    return np.where(sample.now - at <= REPLICAS_KEPT, held, np.nan), at


def _lost(state: Arrays) -> BoolArray:
    """(row,) rows whose count of replicas was known and is not now: as a term of 0 it would be a wrong number."""
    was = np.asarray(state["moments"], dtype=np.float64)[:, 2, 2] > 0
    return np.asarray(was & np.isnan(np.asarray(state["replicas"], dtype=np.float64)))


def _ridged(moments: FloatArray) -> FloatArray:
    """Moments of which base and replicas are held back: where they move with the load, the load has the say."""
    out = np.array(moments, dtype=np.float64)
    for term in (0, 2):
        out[:, term, term] *= 1 + SHRINK
    return out


def _scaled(moments: FloatArray) -> tuple[FloatArray, FloatArray, BoolArray]:
    """(moments of terms brought to one size, (row, term) that size, which terms were ever other than 0)."""
    ridged = _ridged(moments)
    size = np.sqrt(np.einsum("rtt->rt", ridged))
    there = size > 0
    size = np.where(there, size, 1.0)
    scaled = ridged / (size[:, :, None] * size[:, None, :])
    scaled[:, range(_TERMS), range(_TERMS)] = 1.0 + 1e-9
    return scaled, size, there


def _solved(moments: FloatArray, cross: FloatArray) -> FloatArray:
    """(row, term) the fit; a term that never varied from 0 gets 0."""
    scaled, size, there = _scaled(moments)
    right = np.where(there, cross / size, 0.0)
    solved: FloatArray = np.linalg.solve(scaled, right[:, :, None])[:, :, 0] / size
    return solved


def _spread(usual: FloatArray, distance: FloatArray, counted: FloatArray, taken: BoolArray) -> FloatArray:
    """(row,) the usual distance with this one in it; no outlier counts far."""
    taken = taken & ~np.isnan(distance)
    part = np.fmax(1 / np.maximum(counted, 1.0), 1 / SPREAD_MEMORY)
    capped = np.where(usual > 0, np.minimum(distance, 10 * usual), distance)
    return np.asarray(np.where(taken, np.where(np.isnan(usual), distance, usual + part * (capped - usual)), usual))


def _of_hour(state: Arrays, now: int, step_seconds: float) -> FloatArray:
    """(row,) relative deviation that is usual at this hour of the day, as far as it is believed."""
    hour = int(now // HOUR) % HOURS
    seen = np.asarray(state["hour_seen"], dtype=np.float64)[:, hour] * step_seconds
    return np.asarray(np.asarray(state["hour"], dtype=np.float64)[:, hour] * seen / (seen + HOUR_TRUST))


def _mean(ring: FloatArray, step_seconds: float) -> FloatArray:
    """(row,) mean of the newest SMOOTH seconds; NaN where fewer than half of them are known."""
    last = ring[:, -min(max(round(SMOOTH / step_seconds), 1), SLOTS) :]
    count = (~np.isnan(last)).sum(axis=1)
    total = np.nansum(last, axis=1)
    return np.asarray(np.where(2 * count >= last.shape[1], total / np.maximum(count, 1), np.nan))


def _wide(state: Arrays, name: str) -> FloatArray:
    return np.asarray(np.fmax(_NORMAL * np.asarray(state[name], dtype=np.float64), SPREAD_FLOOR))


def _beyond(state: Arrays, load: FloatArray) -> FloatArray:
    """(row,) how far the load lies outside of what was seen, relative to the highest seen; 0 inside."""
    most, least = np.asarray(state["most_load"], dtype=np.float64), np.asarray(state["least_load"], dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        above, below = (load - most) / most, (least - load) / most
    return np.asarray(np.maximum(np.nan_to_num(np.fmax(above, below), posinf=0.0), 0.0))


def _range(state: Arrays, load: FloatArray, known: BoolArray, step_seconds: float) -> tuple[FloatArray, FloatArray]:
    """(most, least) load seen; each creeps back by what it would take a memory to forget."""
    most, least = np.asarray(state["most_load"], dtype=np.float64), np.asarray(state["least_load"], dtype=np.float64)
    back = (most - least) * step_seconds / MEMORY
    return (
        np.where(known, np.fmax(most - back, load), most),
        np.where(known, np.fmin(least + back, load), least),
    )
