"""Samples that contradict themselves: lost scrape targets, a frozen exporter, a changed unit. Arrays over rows.

Each fault holds the floor and keeps its samples out of fitting, and each ends: by itself, or because it is accepted as
the way things are now: lost targets after 60 minutes, a changed unit after 30, a frozen value after 6 hours (then the
series is known to do that). Called once per step with grid samples, never between. Knows nothing of forecasts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from forecaster.domain import BoolArray, FloatArray, IntArray
from forecaster.reasons import ReasonCode
from forecaster.rows import Arrays, Rows

STATE_VERSION = 1

FELL = 0.8  # of the count of series: a fall of more than 20 %
LOOK_BACK = 10  # steps in which the fall must have happened
ACCEPT_TARGETS = 3600.0  # seconds
ACCEPT_UNIT = 1800.0
ACCEPT_FROZEN = 6 * 3600.0
UNIT_RATIO = 100.0  # a factor of 1000 (seconds and milliseconds) or 1024 shows even on a quiet hour
UNIT_STEPS = 3  # consecutive: one wild sample is an anomaly, not a unit
UNIT_LEARN = 60  # samples of the last 24 h needed to judge
FROZEN_P = 1e-6  # of a run of identical values, by the series' own share of repeats
FROZEN_STEPS = 5
_MEMORY = 10_080.0  # samples that the share of repeats remembers


class FaultKind(IntEnum):
    """What is wrong with a row's data."""

    NONE = 0
    LOST_TARGETS = 1
    FROZEN = 2
    UNIT = 3
    SERIES_GONE = 4  # said by the reader, not found here


@dataclass(frozen=True, slots=True, eq=False)
class Faults:
    """Arrays over rows (row,)."""

    kind: IntArray  # FaultKind
    since: FloatArray  # Unix seconds of the fault's first sample; NaN where there is none
    reference: FloatArray  # what it contradicts: the count of series, the frozen value, the level before
    observed: FloatArray  # count of series now, steps it is frozen, the value now
    accepted: BoolArray  # a new regime begins: what was calibrated on the old unit no longer holds

    def describe(self, row: int) -> str | None:
        """The fault in words, None where there is none."""
        kind, reference, observed = FaultKind(self.kind[row]), self.reference[row], self.observed[row]
        if kind in (FaultKind.LOST_TARGETS, FaultKind.FROZEN, FaultKind.UNIT) and np.isnan(reference):
            return "the last samples contradicted themselves, and none came since"
        if kind is FaultKind.LOST_TARGETS:
            return f"only {observed:.0f} of {reference:.0f} series report, and no replicas left"
        if kind is FaultKind.FROZEN:
            return f"the value has been exactly {reference:.6g} for {observed:.0f} samples"
        if kind is FaultKind.UNIT:
            return f"the value jumped from about {reference:.4g} to {observed:.4g}: has its unit changed?"
        if kind is FaultKind.SERIES_GONE:
            return "the query answers without this series"
        return None


def blank() -> Arrays:
    """One row of state."""
    nan = math.nan
    return {
        "count": np.full((1, LOOK_BACK), nan, dtype=np.float32),
        "load": np.full((1, LOOK_BACK), nan),
        "ready": np.full((1, LOOK_BACK), nan, dtype=np.float32),
        "last": np.array([nan]),
        "run": np.zeros(1),  # repeats of `last` so far
        "longest_run": np.zeros(1),  # that was not a fault
        "pairs": np.zeros(1),  # neighbours seen, non-zero ones
        "repeats": np.zeros(1),  # of them identical
        "hour": np.array([-1], dtype=np.int64),
        "hour_high": np.full((1, 24), nan, dtype=np.float32),  # of positive values, by hour
        "hour_low": np.full((1, 24), nan, dtype=np.float32),
        "seen": np.zeros(1),  # positive samples since the unit was last accepted
        "jumped": np.zeros(1),  # consecutive samples outside of the unit
        "kind": np.zeros(1, dtype=np.int64),
        "since": np.array([nan]),
    }


def from_reasons(codes: Sequence[ReasonCode]) -> FaultKind:
    """The fault of the data that the reader has named, if any; an unreachable Prometheus is no row's fault."""
    return FaultKind.SERIES_GONE if ReasonCode.SERIES_GONE in codes else FaultKind.NONE


def check(
    state: Rows, observed: FloatArray, series_count: FloatArray, ready: FloatArray, now: int
) -> tuple[Rows, Faults]:
    """The faults of the newest grid samples (row,), at `now` in Unix seconds.

    `series_count` is the count() behind a sum(), NaN where the expression is none; `ready` the ready replicas, NaN
    where not known. A missing sample (NaN) neither opens nor ends a fault.
    """
    a = state.arrays
    value = np.asarray(observed, dtype=np.float64)
    count, ready = np.asarray(series_count, dtype=np.float64), np.asarray(ready, dtype=np.float64)
    here = ~np.isnan(value)
    was, since = np.asarray(a["kind"], dtype=np.int64), np.asarray(a["since"], dtype=np.float64)
    age = np.where(was != FaultKind.NONE, now - since, 0.0)

    lost, most = _lost_targets(a, value, count, ready)
    frozen, run = _frozen(a, value)
    jumped, level = _other_unit(a, value)
    streak = np.where(here, np.where(jumped, np.asarray(a["jumped"], dtype=np.float64) + 1, 0.0), a["jumped"])
    unit = streak >= UNIT_STEPS

    kind = np.select(
        [lost, unit, frozen], [int(FaultKind.LOST_TARGETS), int(FaultKind.UNIT), int(FaultKind.FROZEN)], 0
    ).astype(np.int64)
    kind = np.where(here, kind, was)
    limit = np.array([math.inf, ACCEPT_TARGETS, ACCEPT_FROZEN, ACCEPT_UNIT, math.inf])
    accepted = here & (kind == was) & (kind != FaultKind.NONE) & (age >= limit[kind])
    first_of = np.where(kind == FaultKind.UNIT, 60.0 * (UNIT_STEPS - 1), 0.0)
    begun = np.where(kind == was, since, now - first_of)
    faulty = kind != FaultKind.NONE

    arrays: Arrays = {"kind": np.where(accepted, 0, kind), "since": np.where(faulty & ~accepted, begun, math.nan)}
    # the look-back stands still during a fault, so that it goes on being compared with what was before it
    still = (kind == FaultKind.LOST_TARGETS) & ~accepted
    for name, new in (("count", count), ("load", value), ("ready", ready)):
        ring = np.array(a[name])
        move = here & ~still
        ring[move, :-1] = ring[move, 1:]
        ring[move, -1] = new[move]
        renewed = accepted & (kind == FaultKind.LOST_TARGETS)
        ring[renewed] = new[renewed, None]
        arrays[name] = ring
    arrays |= _learned_runs(a, value, run, frozen, accepted & (kind == FaultKind.FROZEN))
    arrays |= _learned_levels(a, value, jumped, accepted & (kind == FaultKind.UNIT), now)
    arrays["jumped"] = np.where(accepted, 0.0, streak)

    reference = np.select([lost, unit, frozen], [most, level, value], math.nan)
    shown = np.select([lost, unit, frozen], [count, value, run + 1], math.nan)
    faults = Faults(
        kind=np.asarray(arrays["kind"], dtype=np.int64),
        since=np.asarray(arrays["since"], dtype=np.float64),
        reference=reference,
        observed=shown,
        accepted=accepted,
    )
    return Rows(state.keys, arrays), faults


def _lost_targets(a: Arrays, value: FloatArray, count: FloatArray, ready: FloatArray) -> tuple[BoolArray, FloatArray]:
    """A sum() that fell along with its count() by more than 20 %, while ready replicas did not.

    The load must have lost at least half of the share that the count lost: an HPA that scales in takes away series,
    but leaves the load on the others. Ready replicas that are not known do not clear the fault.
    """
    counts, loads, readies = (np.asarray(a[name], dtype=np.float64) for name in ("count", "load", "ready"))
    rows = np.arange(len(value))
    filled = np.where(np.isnan(counts) | np.isnan(loads), -1.0, counts)
    at = counts.shape[1] - 1 - np.argmax(filled[:, ::-1], axis=1)  # the newest of the highest
    most, load_then, ready_then = filled[rows, at], loads[rows, at], readies[rows, at]
    with np.errstate(invalid="ignore", divide="ignore"):
        gone = 1 - count / most
        fell = (most > 0) & (count < FELL * most)
        with_it = value <= load_then * (1 - gone / 2)
        replicas_left = ready < FELL * ready_then  # False for NaN
    return np.asarray(fell & with_it & (load_then > 0) & ~replicas_left), np.asarray(most)


def _frozen(a: Arrays, value: FloatArray) -> tuple[BoolArray, FloatArray]:
    """(frozen, repeats so far). A zero is never frozen: idle looks the same, and the score sees it."""
    last, run = np.asarray(a["last"], dtype=np.float64), np.asarray(a["run"], dtype=np.float64)
    here = ~np.isnan(value)
    run = np.where(here, np.where((value == last) & (value != 0), run + 1, 0.0), run)
    share = (np.asarray(a["repeats"], dtype=np.float64) + 1) / (np.asarray(a["pairs"], dtype=np.float64) + 2)
    improbable = run * np.log(share) < math.log(FROZEN_P)
    enough = np.asarray(a["pairs"], dtype=np.float64) >= UNIT_LEARN
    longest = np.asarray(a["longest_run"], dtype=np.float64)
    return np.asarray(improbable & enough & (run >= FROZEN_STEPS) & (run > longest)), run


def _learned_runs(a: Arrays, value: FloatArray, run: FloatArray, frozen: BoolArray, accepted: BoolArray) -> Arrays:
    last = np.asarray(a["last"], dtype=np.float64)
    pairs, repeats = np.asarray(a["pairs"], dtype=np.float64), np.asarray(a["repeats"], dtype=np.float64)
    longest = np.asarray(a["longest_run"], dtype=np.float64)
    pair = ~np.isnan(value) & ~np.isnan(last) & (value != 0) & ~frozen
    fade = np.where(pair & (pairs >= _MEMORY), 1 - 1 / _MEMORY, 1.0)
    pairs, repeats = pairs * fade + pair, repeats * fade + (pair & (value == last))
    # accepted: this series does that; the whole run becomes knowledge
    pairs, repeats = np.where(accepted, pairs + run, pairs), np.where(accepted, repeats + run, repeats)
    over = np.isinf(longest) & (run == 0) & ~np.isnan(value)
    longest = np.where(over, np.asarray(a["run"], dtype=np.float64), longest)
    longest = np.where(frozen, longest, np.maximum(longest, run))
    longest = np.where(accepted, math.inf, longest)  # not again before it moves
    return {
        "last": np.where(np.isnan(value), last, value),
        "run": run,
        "longest_run": longest,
        "pairs": pairs,
        "repeats": repeats,
    }


def _other_unit(a: Arrays, value: FloatArray) -> tuple[BoolArray, FloatArray]:
    """(100 times above the highest, or below the lowest, of 24 hours; that level). Zero is no unit."""
    high: FloatArray = np.fmax.reduce(np.asarray(a["hour_high"], dtype=np.float64), axis=1)
    low: FloatArray = np.fmin.reduce(np.asarray(a["hour_low"], dtype=np.float64), axis=1)
    enough = np.asarray(a["seen"], dtype=np.float64) >= UNIT_LEARN
    with np.errstate(invalid="ignore"):
        above, below = value >= UNIT_RATIO * high, (value > 0) & (value <= low / UNIT_RATIO)
    return np.asarray(enough & (above | below)), np.asarray(np.where(above, high, low))


def _learned_levels(a: Arrays, value: FloatArray, jumped: BoolArray, accepted: BoolArray, now: int) -> Arrays:
    high, low = np.array(a["hour_high"]), np.array(a["hour_low"])
    hour, slot = now // 3600, (now // 3600) % 24
    moved = np.asarray(a["hour"]) != hour
    high[moved, slot], low[moved, slot] = math.nan, math.nan
    high[accepted], low[accepted] = math.nan, math.nan
    good = (value > 0) & (~jumped | accepted)
    high[good, slot] = np.fmax(high[good, slot], value[good])
    low[good, slot] = np.fmin(low[good, slot], value[good])
    seen = np.where(accepted, 0.0, np.asarray(a["seen"], dtype=np.float64)) + good
    return {
        "hour_high": high,
        "hour_low": low,
        "seen": seen,
        "hour": np.full(len(value), hour, dtype=np.int64),
    }
