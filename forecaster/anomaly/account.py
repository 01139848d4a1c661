"""What the digits of an incident rest on, kept when it opens and whenever it worsens, and the same digits anew.

Recomputing needs no model, no Prometheus and no clock. The threshold's share of the fleet is kept as one number: the
scores of all other rows are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecaster.anomaly import budget, residual
from forecaster.anomaly.feedback import Taught
from forecaster.anomaly.follow import RESIDUAL, AnomalyState, Followed, Seen
from forecaster.anomaly.incidents import named
from forecaster.domain import Incident, Part
from forecaster.errors import InputError
from forecaster.rows import Arrays
from forecaster.scaling.record import from_json, to_json

VERSION = 1
KINDS = frozenset({RESIDUAL})  # whose digits can be recomputed
DIGITS = ("observed", "expected_low", "expected_high", "score", "threshold")


@dataclass(frozen=True, slots=True)
class Account:
    """All that the digits of one row at one time rest on."""

    now: int  # Unix seconds: the grid point of the sample
    observed: float
    levels: tuple[float, ...]
    one_step: tuple[float, ...]  # quantiles of the forecast issued one step before; NaN where there was none
    one_hour: tuple[float, ...]  # the same, one hour before
    spread: float  # usual distance from the median, unit of the series
    past: tuple[float, ...]  # histogram of past surprises
    maxima: tuple[float, ...]  # highest score of each of the row's own days
    pool: float  # threshold that the fleet's days, or theory, ask for
    per_week: float  # false alarms that the row may spend
    young: bool  # fewer than half a day of own scores: the threshold counts twice


@dataclass(frozen=True, slots=True)
class Digits:
    """What is told of an incident in numbers."""

    observed: float
    expected_low: float
    expected_high: float
    score: float
    threshold: float


def accounts(
    before: AnomalyState, seen: Seen, found: Followed, per_week: float, step_seconds: float, taught: Taught
) -> dict[str, Mapping[str, Any]]:
    """Incident id -> record, for each that opened or worsened in this step."""
    changed = {
        key: one
        for key, one in found.state.open.items()
        if one.kind in KINDS and ((old := before.open.get(key)) is None or old.id != one.id or old.score != one.score)
    }
    if not changed:
        return {}
    keys = found.state.rows.keys
    row_of = {key: row for row, key in enumerate(keys)}
    shares = budget.shares(keys, per_week) * taught.factors([named(key) for key in keys], RESIDUAL)
    after = found.state.rows.arrays
    pool = budget.pooled(np.asarray(after["maxima"], dtype=np.float64), shares, step_seconds)
    young = budget.is_young(after)
    out: dict[str, Mapping[str, Any]] = {}
    for key, one in changed.items():
        row = row_of[key]
        told = _account(before.rows.arrays, after, seen, row, float(pool[row]), float(shares[row]), bool(young[row]))
        out[one.id] = {"version": VERSION, "kind": one.kind, "inputs": to_json(told)}
    return out


def _account(before: Arrays, after: Arrays, seen: Seen, row: int, pool: float, per_week: float, young: bool) -> Account:
    def floats(values: Any) -> tuple[float, ...]:
        return tuple(float(value) for value in values)

    return Account(
        now=seen.now,
        observed=float(seen.observed[row]),
        levels=tuple(seen.levels),
        one_step=floats(seen.one_step[row]),
        one_hour=floats(seen.one_hour[row]),
        spread=float(np.asarray(before["spread"])[row]),
        past=floats(np.asarray(before["past"])[row]),
        maxima=floats(np.asarray(after["maxima"])[row]),
        pool=pool,
        per_week=per_week,
        young=young,
    )


def read(record: Mapping[str, Any]) -> Account:
    """Raises InputError where the record is of another release or damaged."""
    if record.get("version") != VERSION or record.get("kind") not in KINDS:
        raise InputError(f"the stored account is of version {record.get('version')!r}: this release reads {VERSION}")
    return from_json(Account, record["inputs"])


def digits(one: Account) -> Digits:
    """The digits, computed anew."""
    made = residual.judged(
        np.array([one.observed]),
        np.array([one.one_step]),
        np.array([one.one_hour]),
        one.levels,
        np.array([one.spread]),
        np.array([one.past]),
    )
    threshold = budget.mixed(np.array([one.maxima]), np.array([one.per_week]), np.array([one.pool]))[0]
    return Digits(
        one.observed,
        float(made.low[0]),
        float(made.high[0]),
        float(made.score[0]),
        float(threshold) * (budget.YOUNG if one.young else 1.0),
    )


def different(told: Incident | Part, again: Digits) -> list[str]:
    """Names of the digits that do not come out as they were told, bit by bit."""
    return [
        name for name in DIGITS if (a := getattr(told, name)) != (b := getattr(again, name)) and not (a != a and b != b)
    ]
