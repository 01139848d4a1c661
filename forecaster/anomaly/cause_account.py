"""What the digits of incidents with a cause rest on: `account` for saturation, usage for the load, and peers.

Kept is the state of the one resource and of its pods before the sample, and the sample; recomputing is that step again,
by `causes.follow` itself. The threshold's share of the fleet is kept as one number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecaster.anomaly import budget, causes, peers
from forecaster.anomaly.account import Digits, packed, unpacked
from forecaster.anomaly.causes import CausesState, Followed, Pods, Seen
from forecaster.domain import FloatArray, Incident
from forecaster.errors import InputError
from forecaster.rows import Arrays, Rows
from forecaster.scaling.record import from_json, to_json

VERSION = "cause/1"


@dataclass(frozen=True, slots=True)
class Inputs:
    """The step that is told of; what of it is not in the state."""

    key: str
    kind: str
    now: int  # Unix seconds
    step_seconds: float
    load: float
    usage: float
    limit: float
    replicas: float
    masked: bool
    faulty: bool
    pods: tuple[str, ...]
    of_pods: tuple[float, ...]  # usage of each
    pool: float  # threshold that the fleet's days, or theory, ask for
    per_week: float  # false alarms that this kind of this row may spend
    factor: float  # what feedback multiplies them by
    highest: float  # score of the incident before this step; 0 where this step opened it


@dataclass(frozen=True, slots=True, eq=False)
class Account:
    """All that the digits of one resource at one time rest on."""

    inputs: Inputs
    state: CausesState  # of that one resource and its pods, before the sample
    evidence: Mapping[str, float]  # what its sentence rests on: cost per load, seconds to the limit, …


def accounts(
    before: CausesState, seen: Seen, found: Followed, per_week: float, step_seconds: float
) -> dict[str, Mapping[str, Any]]:
    """Incident id -> record, for each that opened or was told anew in this step."""
    keys = found.state.rows.keys
    row_of = {key: row for row, key in enumerate(keys)}
    out: dict[str, Mapping[str, Any]] = {}
    pools: dict[str, tuple[FloatArray, FloatArray]] = {}
    for (kind, key), one in found.state.open.items():
        old = before.open.get((kind, key))
        if old is not None and old.id != one.id:
            old = None
        if old is not None and _told(old) == _told(one):
            continue
        if kind not in pools:
            shares = budget.shares(keys, causes.share_of(per_week))
            maxima = np.asarray(causes.watched_by(found.state.rows.arrays, kind)["maxima"], dtype=np.float64)
            pools[kind] = shares, budget.pooled(maxima, shares, step_seconds)
        highest = 0.0 if old is None else old.score
        out[one.id] = _record(before, seen, found, (kind, key, row_of[key]), pools[kind], step_seconds, highest)
    return out


def _told(one: Incident) -> tuple[str, ...]:
    return tuple(map(repr, (one.score, one.observed, one.expected_low, one.expected_high)))  # NaN is NaN


def _record(
    before: CausesState,
    seen: Seen,
    found: Followed,
    place: tuple[str, str, int],
    pool: tuple[FloatArray, FloatArray],
    step_seconds: float,
    highest: float,
) -> Mapping[str, Any]:
    kind, key, row = place
    id = found.state.open[kind, key].id
    mine = np.flatnonzero(seen.pods.row == row) if kind == peers.KIND else np.zeros(0, dtype=np.int64)
    names = tuple(seen.pods.names[i] for i in mine.tolist())
    told = Inputs(
        key=key,
        kind=kind,
        now=seen.now,
        step_seconds=float(step_seconds),
        load=float(seen.load[row]),
        usage=float(seen.usage[row]),
        limit=float(seen.limit[row]),
        replicas=float(seen.replicas[row]),
        masked=bool(seen.masked[row]),
        faulty=bool(seen.faulty[row]),
        pods=names,
        of_pods=tuple(np.asarray(seen.pods.usage, dtype=np.float64)[mine].tolist()),
        pool=float(pool[1][row]),
        per_week=float(pool[0][row]),
        factor=float(found.looks[kind].factor[row]),
        highest=highest,
    )
    at = before.rows.keys.index(key)
    pods = before.pods.aligned([f"{key}/{name}" for name in names], peers.blank())
    return {
        "version": VERSION,
        "inputs": to_json(told),
        "state": {name: packed(array[at : at + 1]) for name, array in before.rows.arrays.items()},
        "pods": {name: packed(array) for name, array in pods.arrays.items()},
        "evidence": {name: float(value) for name, value in found.evidence.get(id, {}).items()},
    }


def is_of_cause(record: Mapping[str, Any]) -> bool:
    """Whether a stored record is one of these, of any release."""
    return str(record.get("version")).startswith("cause/")


def read(record: Mapping[str, Any]) -> Account:
    """Raises InputError where the record is of another release or damaged."""
    if record.get("version") != VERSION:
        raise InputError(f"the stored account is of version {record.get('version')!r}: this release reads {VERSION}")
    inputs = from_json(Inputs, record.get("inputs"))
    try:
        arrays: Arrays = {name: unpacked(told) for name, told in record["state"].items()}
        of_pods: Arrays = {name: unpacked(told) for name, told in record["pods"].items()}
        rows = Rows((inputs.key,), arrays)
        pods = Rows(tuple(f"{inputs.key}/{name}" for name in inputs.pods), of_pods)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"the stored account of {inputs.key} is damaged: {error}") from error
    for known, blank in ((rows, causes.blank()), (pods, peers.blank())):
        if known.arrays.keys() != blank.keys() or known.aligned(known.keys, blank) is not known:
            raise InputError(f"the stored account of {inputs.key} is of another release: its state has another shape")
    if inputs.kind not in causes.KINDS:
        raise InputError(f"the stored account of {inputs.key} is damaged: there is no kind {inputs.kind!r}")
    evidence = record.get("evidence")
    if not isinstance(evidence, dict) or not all(isinstance(value, float | int) for value in evidence.values()):
        raise InputError(f"the stored account of {inputs.key} is damaged: its evidence is {evidence!r}")
    return Account(inputs, CausesState(rows, pods), evidence)


def digits(one: Account) -> Digits:
    """The digits, computed anew."""
    given = one.inputs
    seen = Seen(
        now=given.now,
        load=np.array([given.load]),
        usage=np.array([given.usage]),
        limit=np.array([given.limit]),
        replicas=np.array([given.replicas]),
        masked=np.array([given.masked]),
        faulty=np.array([given.faulty]),
        pods=Pods(given.pods, np.zeros(len(given.pods), dtype=np.int64), np.array(given.of_pods, dtype=np.float64)),
    )
    made = causes.follow(one.state, seen, given.per_week * len(causes.KINDS), given.step_seconds)
    after = causes.watched_by(made.state.rows.arrays, given.kind)
    look = made.looks[given.kind]
    return Digits(
        float(look.observed[0]),
        float(look.low[0]),
        float(look.high[0]),
        max(float(look.score[0]), given.highest),
        budget.recomputed(after, given.per_week, given.pool, given.factor),
    )


def own_days(one: Account) -> int:
    """Days of own scores that the threshold rests on."""
    return budget.own_days(causes.watched_by(one.state.rows.arrays, one.inputs.kind))
