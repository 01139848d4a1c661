"""From scores to incidents: opened above the threshold, closed by calm, silence or acceptance; one per onset.

The machine runs on arrays; an `Incident` is built only where a row's status changes, and renewed only while it is open.
An incident always ends: a new level that is stable for an hour and 16 steps, or any that lasts six hours, is accepted
as the way things are, and does not alarm again before the scores have calmed once, a day has passed, or the other
direction is hit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import IntEnum
from typing import TypeVar

import numpy as np

from forecaster.domain import BoolArray, FloatArray, Incident, IntArray
from forecaster.rows import Arrays

K = TypeVar("K")

ELEVATED = 2.0  # score from which an onset is dated
CALM = 1.0  # p > 0.1
CALM_STEPS = 5
ACCEPT_STABLE = 3600.0  # seconds
ACCEPT_STEPS = 16
ACCEPT_ANY = 6 * 3600.0
ACCEPTED_FOR = 86_400.0
SILENT = 3600.0  # seconds without a sample
STABLE = 0.25  # usual distance from the new level, as a share of its distance from the expected one
_MIX = 0.15  # of a new sample into the new level
_CRITICAL, _WARNING = 3.0, 1.0  # score above the threshold


class Status(IntEnum):
    """Of one row."""

    CALM = 0
    OPEN = 1
    ACCEPTED = 2


def blank() -> Arrays:
    """One row of state. Times are Unix seconds."""
    return {
        "status": np.zeros(1, dtype=np.int64),
        "spoke": np.zeros(1, dtype=np.int64),  # the statistic that opened the incident
        "side": np.zeros(1, dtype=np.int64),  # +1 above, -1 below; of the incident, also once accepted
        "status_at": np.array([math.nan]),
        "elevated_at": np.array([math.nan]),
        "calm": np.zeros(1, dtype=np.int64),
        "seen_at": np.array([math.nan]),
        "level": np.array([math.nan]),  # of the observed values since the incident opened
        "level_spread": np.array([math.nan]),
        "expected": np.array([math.nan]),  # median when it opened
    }


@dataclass(frozen=True, slots=True, eq=False)
class Looked:
    """One step of every row, arrays (row,)."""

    now: int  # Unix seconds
    step_seconds: float
    score: FloatArray  # NaN where it could not be scored
    unrest: FloatArray  # score of what would have to calm for the row's incident to be over
    spoke: IntArray  # the statistic that speaks loudest
    side: IntArray  # +1 above, -1 below
    observed: FloatArray
    median: FloatArray  # expected
    hot: BoolArray  # above the threshold, and allowed to open
    fresh: BoolArray  # no echo of what was told lately


def moved(state: Arrays, seen: Looked) -> tuple[Arrays, BoolArray, BoolArray, BoolArray]:
    """(state, opened, closed, accepted): one step of every row."""
    score, side, observed, median, hot, now = seen.score, seen.side, seen.observed, seen.median, seen.hot, seen.now
    here = ~np.isnan(score)
    status = np.asarray(state["status"], dtype=np.int64)
    was_side, since = np.asarray(state["side"], dtype=np.int64), np.asarray(state["status_at"], dtype=np.float64)
    elevated = np.asarray(state["elevated_at"], dtype=np.float64)
    raised = np.where(here, score, 0.0) >= ELEVATED
    elevated = np.where(here, np.where(raised, np.where(np.isnan(elevated), now, elevated), np.nan), elevated)
    calm = np.asarray(state["calm"], dtype=np.int64)
    calm = np.where(here, np.where(np.nan_to_num(seen.unrest) < CALM, calm + 1, 0), calm)
    seen_at = np.where(here, now, np.asarray(state["seen_at"], dtype=np.float64))

    level, spread = np.asarray(state["level"], dtype=np.float64), np.asarray(state["level_spread"], dtype=np.float64)
    fresh = here & (status == Status.OPEN)
    off = observed - level
    level = np.where(fresh, level + _MIX * off, level)
    spread = np.where(fresh, spread + _MIX * (np.abs(off) - spread), spread)
    age = now - since

    is_open = status == Status.OPEN
    settled = max(ACCEPT_STABLE, ACCEPT_STEPS * seen.step_seconds)
    with np.errstate(invalid="ignore"):
        stable = spread <= STABLE * np.abs(level - np.asarray(state["expected"], dtype=np.float64))
        accepted = is_open & (calm < CALM_STEPS) & ((stable & (age >= settled)) | (age >= ACCEPT_ANY))
        silent = is_open & (now - seen_at >= SILENT)
        other_side = hot & (status == Status.ACCEPTED) & (side != was_side)
        over = (status == Status.ACCEPTED) & ((calm >= CALM_STEPS) | (age >= ACCEPTED_FOR))
    closed = is_open & ((calm >= CALM_STEPS) | accepted | silent)
    accepted &= ~silent
    opened = (hot & seen.fresh & (status == Status.CALM)) | other_side
    over &= ~opened

    after = np.where(opened, int(Status.OPEN), np.where(accepted, int(Status.ACCEPTED), status))
    after = np.where((closed & ~accepted) | over, int(Status.CALM), after)
    arrays: Arrays = {
        "status": after,
        "spoke": np.where(opened, seen.spoke, np.asarray(state["spoke"])),
        "side": np.where(opened, side, was_side),
        "status_at": np.where(after != status, float(now), np.where(opened, float(now), since)),
        "elevated_at": elevated,
        "calm": np.where(opened, 0, calm),
        "seen_at": seen_at,
        "level": np.where(opened, observed, level),
        "level_spread": np.where(opened, np.abs(observed - median), spread),
        "expected": np.where(opened, median, np.asarray(state["expected"], dtype=np.float64)),
    }
    return arrays, opened, closed, accepted


def opened_incident(
    key: str,
    kind: str,
    now: int,
    onset: int,
    score: float,
    threshold: float,
    side: int,
    values: tuple[float, float, float],
) -> Incident:
    """A new incident of row `key`; `values` are observed, expected low and expected high."""
    workload, role = named(key)
    observed, low, high = values
    mark = hashlib.sha256(f"{key}\0{kind}\0{now}".encode()).hexdigest()[:16]
    incident = Incident(
        id=mark,
        workload=workload,
        role=role,
        kind=kind,
        direction={1: "up", -1: "down"}.get(side, "none"),
        severity=severity(score, threshold),
        opened_at=datetime.fromtimestamp(now, UTC),
        onset=datetime.fromtimestamp(min(onset, now), UTC),
        closed_at=None,
        score=score,
        observed=observed,
        expected_low=low,
        expected_high=high,
        sentence="",
        threshold=threshold,
    )
    return replace(incident, sentence=sentence(incident))


def expected(
    open_: Mapping[K, Incident], ids: Collection[str], now: int
) -> tuple[dict[K, Incident], dict[K, Incident]]:
    """(still, gone): open incidents in `ids` are as people expect them, and are closed at `now`."""
    at = datetime.fromtimestamp(now, UTC)
    gone = {
        key: replace(one, closed_at=at, sentence=f"{one.sentence}; expected")
        for key, one in open_.items()
        if one.id in ids
    }
    return {key: one for key, one in open_.items() if key not in gone}, gone


def severity(score: float, threshold: float) -> str:
    """info, warning or critical, by how far the score is above the threshold of its row."""
    if score >= threshold + _CRITICAL:
        return "critical"
    return "warning" if score >= threshold + _WARNING else "info"


_WHAT = {
    "residual": "{role} reached {observed}, {where} the expected {expected}",
    "level_shift": "{role} has another level: it is at {observed}, {where} the expected {expected}",
    "drift": "{role} has been {going} slowly and steadily: it is at {observed}, {expected} was usual",
    "variance": "{role} swings {swing} than it used to: it is at {observed}, of an expected {expected}",
    "shape": "{role} follows another pattern than it used to: it is at {observed}, of an expected {expected}",
}


def sentence(incident: Incident) -> str:
    """What happened, for people."""
    up = incident.direction == "up"
    what = _WHAT.get(incident.kind, _WHAT["residual"]).format(
        role=incident.role,
        observed=f"{incident.observed:.4g}",
        where={"up": "above", "down": "below"}.get(incident.direction, "outside of"),
        expected=f"{incident.expected_low:.4g} to {incident.expected_high:.4g}",
        going="rising" if up else "falling",
        swing="more" if up else "less",
    )
    return f"{incident.workload}: {what}, since {incident.onset:%Y-%m-%d %H:%M} UTC"


def named(key: str) -> tuple[str, str]:
    """(workload, role) of a row's key, `name#hash/role`."""
    of, _, role = key.rpartition("/")
    return of.rpartition("#")[0] or of, role
