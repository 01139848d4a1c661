"""The risk dial: what the floors would have given, how often that was not enough, and the quantile level that mends it.

Counterfactual, so that it is true without an actuator: pods asked for at t are ready at t + L, hence at t only the
lowest floor issued in [t - L, t] can be counted on. A miss is a load above that, or saturation. Arrays over workloads;
the state is `Rows`, two calls a cycle: `judge` before the decision, `issue` after it. Knows nothing of forecasts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from forecaster.domain import BoolArray, FloatArray
from forecaster.rows import Arrays, Rows

STATE_VERSION = 1

LOWEST_LEVEL = 0.05  # below the median the hold is shortened too: see `patience`
HIGHEST_LEVEL = 0.9995
GAIN = 0.05  # in -log(1 - level), per miss of one reference tick
REFERENCE_TICK = 15.0  # seconds: the gain is per miss of this length, so the dial turns alike at any interval
LONGEST_LEAD = 900.0  # seconds
LONGEST_GAP = 300.0  # seconds without a decision after which the floors before it no longer count
HOURS = 168  # trailing window of the published shares
_LEAST_JUDGED = 1800.0  # seconds of an hour that must be known for it to be the worst one


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What one cycle brings, arrays over workloads (row,). NaN: not known, and then nothing is learned from it."""

    now: int  # Unix seconds
    load: FloatArray  # newest; NaN where it is missing
    capacity: FloatArray
    saturated: BoolArray
    masked: BoolArray  # faulty or excluded samples: they count, but never lower the level
    lead_seconds: FloatArray
    asked: FloatArray  # the dial, a share of time


@dataclass(frozen=True, slots=True, eq=False)
class RiskReport:
    """Arrays over workloads (row,); shares over the last 168 hours, NaN where nothing was judged."""

    level: FloatArray  # to issue now
    issued: FloatArray  # 1 - level
    actual: FloatArray  # share of time above capacity
    judged_seconds: FloatArray
    longest_violation_seconds: FloatArray
    worst_hour_ratio: FloatArray
    missed: BoolArray  # now


def patience(level: float) -> float:
    """Share of the hold and of the dead band that counts while the risk dial stands at `level`.

    All of it from the median up. Below, the forecast alone cannot spend the risk that was asked for: a floor that is
    held above what each forecast wants is never short. So the hold goes with the level, down to none at the lowest.
    """
    return min(max((level - LOWEST_LEVEL) / (0.5 - LOWEST_LEVEL), 0.0), 1.0)


def blank(interval: timedelta = timedelta(seconds=15), asked: float = 0.01) -> Arrays:
    """One row of state: a level as if time above capacity were the quantile's complement, and no floor issued yet."""
    floors = math.ceil(LONGEST_LEAD / interval.total_seconds()) + 2
    return {
        "level": np.array([min(max(1 - asked, LOWEST_LEVEL), HIGHEST_LEVEL)]),
        "judged_at": np.array([math.nan]),
        "run": np.zeros(1),  # seconds that the violation lasts, now
        "hour": np.array([-1], dtype=np.int64),
        "floor": np.full((1, floors), math.nan, dtype=np.float32),  # oldest first
        "floor_at": np.full((1, floors), math.nan),  # Unix seconds
        "judged": np.zeros((1, HOURS), dtype=np.float32),  # seconds, by hour of issue modulo 168
        "missed": np.zeros((1, HOURS), dtype=np.float32),
        "longest": np.zeros((1, HOURS), dtype=np.float32),
    }


def start(
    keys: Sequence[str], asked: FloatArray, before: Rows | None = None, interval: timedelta = timedelta(seconds=15)
) -> Rows:
    """State for `keys`: rows of `before` where it has them, else new ones that begin at 1 - asked (row,)."""
    row = blank(interval)
    rows = (before if before is not None else Rows((), {})).aligned(keys, row)
    known = set(before.keys) if before is not None else set()
    fresh = np.array([key not in known for key in rows.keys], dtype=np.bool_)
    if fresh.any():
        level = np.clip(1 - np.asarray(asked, dtype=np.float64), LOWEST_LEVEL, HIGHEST_LEVEL)
        return Rows(rows.keys, {**rows.arrays, "level": np.where(fresh, level, rows.arrays["level"])})
    return rows


def obeyed(state: Rows, now: int, lead_seconds: FloatArray) -> FloatArray:
    """(row,) replicas to count on at `now`: the lowest floor issued in [now - L, now]; NaN: not known yet."""
    at = np.asarray(state.arrays["floor_at"], dtype=np.float64)
    floor = state.arrays["floor"]
    since = now - np.clip(np.asarray(lead_seconds, dtype=np.float64), 0, LONGEST_LEAD)
    inside = at > since[:, None]  # False for NaN
    # the floor in force at now - L counts too: the last one issued at or before it
    in_force = np.zeros_like(inside)
    in_force[:, :-1] = (at[:, :-1] <= since[:, None]) & (inside[:, 1:] | np.isnan(at[:, 1:]))
    in_force[:, -1] = at[:, -1] <= since
    known = in_force.any(axis=1) & ~np.isnan(at[:, -1])
    lowest = np.min(np.where(inside | in_force, floor, np.inf), axis=1)
    return np.asarray(np.where(known & np.isfinite(lowest), lowest, np.nan), dtype=np.float64)


def judge(state: Rows, seen: Judged) -> tuple[Rows, RiskReport]:
    """Was the load above what the floors would have given? Turns each row's level, and reports the shares."""
    a = state.arrays
    load, capacity = np.asarray(seen.load, dtype=np.float64), np.asarray(seen.capacity, dtype=np.float64)
    can_carry = capacity * obeyed(state, seen.now, seen.lead_seconds)
    with np.errstate(invalid="ignore"):
        missed = (load > can_carry * (1 + 1e-9)) | (seen.saturated & ~np.isnan(can_carry))
    known = ~np.isnan(load) & ~np.isnan(can_carry)
    missed &= known
    asked = np.asarray(seen.asked, dtype=np.float64)

    since = seen.now - np.asarray(a["judged_at"], dtype=np.float64)
    seconds = np.where(since > 0, np.minimum(since, 4 * REFERENCE_TICK), np.where(np.isnan(since), REFERENCE_TICK, 0.0))
    seconds = np.where(known, seconds, 0.0)

    # The level moves in -log(1 - level), where a constant factor of risk is a constant distance. Held at its ends, it
    # forgets what it could not do (anti-windup).
    push = GAIN * (seconds / REFERENCE_TICK) * (missed - asked)
    push = np.where((push < 0) & (seen.saturated | seen.masked), 0.0, push)
    depth = -np.log1p(-np.asarray(a["level"], dtype=np.float64)) + push
    level = np.clip(-np.expm1(-depth), LOWEST_LEVEL, HIGHEST_LEVEL)

    judged, missed_seconds, longest = _rolled(a, seen.now)
    slot = (seen.now // 3600) % HOURS
    run = np.where(known, np.where(missed, np.asarray(a["run"]) + seconds, 0.0), np.asarray(a["run"]))
    judged[:, slot] += seconds
    missed_seconds[:, slot] += seconds * missed
    longest[:, slot] = np.maximum(longest[:, slot], run)

    arrays: Arrays = {
        **a,
        "level": level,
        "judged_at": np.full(len(load), float(seen.now)),
        "run": run,
        "hour": np.full(len(load), seen.now // 3600, dtype=np.int64),
        "judged": judged,
        "missed": missed_seconds,
        "longest": longest,
    }
    total = judged.sum(axis=1, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        actual = np.where(total > 0, missed_seconds.sum(axis=1, dtype=np.float64) / total, np.nan)
        hourly = np.where(judged >= _LEAST_JUDGED, missed_seconds / judged, -1.0).max(axis=1)
    report = RiskReport(
        level=level,
        issued=1 - level,
        actual=actual,
        judged_seconds=total,
        longest_violation_seconds=np.where(total > 0, longest.max(axis=1), np.nan),
        worst_hour_ratio=np.where(hourly >= 0, hourly, np.nan),
        missed=missed,
    )
    return Rows(state.keys, arrays), report


def issue(state: Rows, now: int, floors: FloatArray) -> Rows:
    """Remembers the floors (row,) issued at `now`; NaN where nothing is in force, not even the user's own minimum.

    Where our floor is None the user's own minimum is what can be counted on: the caller gives that.
    """
    a = state.arrays
    last = np.asarray(a["floor_at"][:, -1], dtype=np.float64)
    with np.errstate(invalid="ignore"):
        lost = (now - last > LONGEST_GAP) | (now < last)  # what was issued has expired, or the clock jumped back
    at, floor = np.empty_like(a["floor_at"]), np.empty_like(a["floor"])
    at[:, :-1], floor[:, :-1] = a["floor_at"][:, 1:], a["floor"][:, 1:]
    if lost.any():
        at[lost], floor[lost] = math.nan, math.nan
    at[:, -1], floor[:, -1] = now, floors
    return Rows(state.keys, {**a, "floor_at": at, "floor": floor})


def _rolled(a: Arrays, now: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Copies of the hourly arrays in which the hours that have passed out of the window are empty."""
    hour = now // 3600
    judged, missed, longest = (np.array(a[name], dtype=np.float32) for name in ("judged", "missed", "longest"))
    before = np.asarray(a["hour"])
    for first in np.unique(before[before != hour]):
        rows = before == first
        passed = hour - int(first)
        if first < 0 or passed >= HOURS:
            slots = np.arange(HOURS)
        else:  # none where the clock jumped back
            slots = (int(first) + 1 + np.arange(max(0, passed))) % HOURS
        for array in (judged, missed, longest):
            array[np.ix_(rows, slots)] = 0.0
    return judged, missed, longest
