"""What the digits of an incident rest on, kept when it opens and whenever it worsens, and the same digits anew.

Kept is the row's whole state before the sample, and the sample; recomputing is that one step again, by `follow` itself,
so no detector can be left out. It needs no model, no Prometheus and no clock. The threshold's share of the fleet is
kept as one number: the scores of all other rows are not.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecaster.anomaly import budget, follow
from forecaster.anomaly.follow import AnomalyState, Followed, Seen
from forecaster.domain import FloatArray, Incident, Part
from forecaster.errors import InputError
from forecaster.rows import Arrays, Rows
from forecaster.scaling.record import from_json, to_json

VERSION = 1
DIGITS = ("observed", "expected_low", "expected_high", "score", "threshold")
_TYPES = frozenset({"<f8", "<f4", "<i8", "<i4", "<i2", "|b1"})
_LARGEST = 1_000_000  # bytes of one row's state


@dataclass(frozen=True, slots=True)
class Inputs:
    """The step that is told of; what of it is not in the row's state."""

    key: str
    now: int  # Unix seconds: the grid point of the sample
    step_seconds: float
    observed: float
    levels: tuple[float, ...]
    one_step: tuple[float, ...]  # quantiles of the forecast issued one step before; NaN where there was none
    one_hour: tuple[float, ...]  # the same, one hour before
    masked: bool
    fault: int
    pool: float  # threshold that the fleet's days, or theory, ask for
    per_week: float  # false alarms that the row may spend
    factor: float  # what feedback multiplies them by


@dataclass(frozen=True, slots=True, eq=False)
class Account:
    """All that the digits of one row at one time rest on."""

    inputs: Inputs
    state: Rows  # of that one row, before the sample


@dataclass(frozen=True, slots=True)
class Digits:
    """What is told of an incident in numbers."""

    observed: float
    expected_low: float
    expected_high: float
    score: float
    threshold: float


def is_scored(one: Incident | Part) -> bool:
    """Whether it has digits: a score opened it, not a rule."""
    return one.threshold > 0


def accounts(
    before: AnomalyState, seen: Seen, found: Followed, per_week: float | FloatArray, step_seconds: float
) -> dict[str, Mapping[str, Any]]:
    """Incident id -> record, for each that opened or worsened in this step."""
    changed = {
        key: one
        for key, one in found.state.open.items()
        if (old := before.open.get(key)) is None or old.id != one.id or old.score != one.score
    }
    if not changed:
        return {}
    keys = found.state.rows.keys
    row_of = {key: row for row, key in enumerate(keys)}
    shares = budget.shares(keys, per_week)
    pool = budget.pooled(np.asarray(found.state.rows.arrays["maxima"], dtype=np.float64), shares, step_seconds)
    out: dict[str, Mapping[str, Any]] = {}
    for key, one in changed.items():
        row = row_of[key]
        told = Inputs(
            key=key,
            now=seen.now,
            step_seconds=float(step_seconds),
            observed=float(seen.observed[row]),
            levels=tuple(seen.levels),
            one_step=tuple(float(value) for value in seen.one_step[row]),
            one_hour=tuple(float(value) for value in seen.one_hour[row]),
            masked=bool(seen.masked[row]),
            fault=int(seen.faults[row]),
            pool=float(pool[row]),
            per_week=float(shares[row]),
            factor=float(found.factor[row]),
        )
        state = {name: packed(array[row : row + 1]) for name, array in before.rows.arrays.items()}
        out[one.id] = {"version": VERSION, "inputs": to_json(told), "state": state}
    return out


def read(record: Mapping[str, Any]) -> Account:
    """Raises InputError where the record is of another release or damaged."""
    if record.get("version") != VERSION:
        raise InputError(f"the stored account is of version {record.get('version')!r}: this release reads {VERSION}")
    inputs = from_json(Inputs, record.get("inputs"))
    try:
        arrays: Arrays = {name: unpacked(told) for name, told in record["state"].items()}
        state = Rows((inputs.key,), arrays)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"the stored account of {inputs.key} is damaged: {error}") from error
    blank = follow.blank()
    if state.aligned(state.keys, blank) is not state or arrays.keys() != blank.keys():
        raise InputError(f"the stored account of {inputs.key} is of another release: its state has another shape")
    return Account(inputs, state)


def digits(one: Account) -> Digits:
    """The digits, computed anew."""
    given = one.inputs
    seen = Seen(
        now=given.now,
        observed=np.array([given.observed]),
        one_step=np.array([given.one_step]),
        one_hour=np.array([given.one_hour]),
        levels=given.levels,
        masked=np.array([given.masked]),
        faults=np.array([given.fault], dtype=np.int64),
    )
    made = follow.follow(AnomalyState(one.state), seen, given.per_week, given.step_seconds)
    after = made.state.rows.arrays
    return Digits(
        given.observed,
        float(made.low[0]),
        float(made.high[0]),
        float(made.score[0]),
        budget.recomputed(after, given.per_week, given.pool, given.factor),
    )


def own_days(one: Account) -> int:
    """Days of own scores that the threshold rests on."""
    return budget.own_days(one.state.arrays)


def different(told: Incident | Part, again: Digits) -> list[str]:
    """Names of the digits that do not come out as they were told, bit by bit."""
    return [
        name for name in DIGITS if (a := getattr(told, name)) != (b := getattr(again, name)) and not (a != a and b != b)
    ]


def packed(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    """An array as JSON."""
    return {
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "data": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode(),
    }


def unpacked(told: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """The array of `packed`. Plain numbers only: the bytes may come from elsewhere. Raises ValueError."""
    if told["dtype"] not in _TYPES or len(told["data"]) > _LARGEST or math.prod(told["shape"]) > _LARGEST:
        raise ValueError(f"an array of {told['dtype']!r} with shape {told['shape']}")
    values = np.frombuffer(base64.b64decode(told["data"], validate=True), dtype=np.dtype(told["dtype"]))
    return values.reshape(told["shape"])
