"""`forecaster explain`: a stored decision, its numbers in words, and the same numbers computed anew.

The record of a decision holds all that it rested on (forecaster.scaling.decision), so recomputing needs no model, no
Prometheus and no clock. What comes out must be what is stored, bit by bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from forecaster.errors import InputError
from forecaster.reasons import ADVICE
from forecaster.scaling import decision
from forecaster.scaling.decision import Decision, DecisionInput
from forecaster.scaling.record import from_json, to_json
from serving.client import Client, moment, path_of

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Account:
    """One decision, recomputed."""

    inputs: DecisionInput
    recomputed: Decision
    stored: Mapping[str, Any]

    @property
    def different(self) -> list[str]:
        """Names of what did not come out the same."""
        fresh = to_json(self.recomputed)
        return sorted(name for name in fresh.keys() | self.stored.keys() if fresh.get(name) != self.stored.get(name))

    @property
    def same(self) -> bool:
        return not self.different


def from_service(client: Client, workload: str, at: str) -> Mapping[str, Any]:
    """The newest stored decision at or before `at`. Raises InputError where there is none."""
    items = client.get(f"/api/v1/workloads/{path_of(workload)}/decisions", at=at, limit=1)["items"]
    return _only(items, workload)


def from_store(url: str, workload: str, at: str) -> Mapping[str, Any]:
    """The same, read from the store itself."""
    from serving.server import open_store
    from serving.store import existing

    until = moment(at, "--at") if at else None
    existing(url)
    store = open_store(url)
    try:
        found = store.decisions(workload, until, 1)
    finally:
        store.close()
    return _only([{"record": one.record, "decision": one.decision} for one in found], workload)


def account(stored: Mapping[str, Any]) -> Account:
    """Raises InputError where the record is of another version or damaged."""
    record = stored["record"]
    recomputed = decision.replay(record)
    return Account(from_json(DecisionInput, record["inputs"]), recomputed, stored["decision"])


def as_json(one: Account) -> str:
    told = {
        "schemaVersion": SCHEMA_VERSION,
        "same": one.same,
        "different": one.different,
        "recomputed": _plain(one.recomputed),
        "inputs": _plain(one.inputs),
    }
    return json.dumps(told, indent=1, default=str)


def as_text(one: Account) -> str:
    """The decision from its inputs to the floor, a line a step."""
    made, given = one.recomputed, one.inputs
    assumed = " (assumed)" if given.lead_time_assumed else ""
    lines = [
        f"{made.workload} → HPA {made.namespace}/{made.hpa}, decided {made.made_at.isoformat(timespec='seconds')}",
        f"  mode {made.mode.value}, model {made.model_version}, data through {_time(made.data_through)}",
        "given",
        f"  newest load            {_number(given.newest_load)}",
        f"  capacity per replica   {_number(given.capacity)}   target {given.target_ratio:.0%} of it",
        *([f"    {given.capacity_note}"] if given.capacity_note else []),
        f"  lead time              {given.lead_time.total_seconds():.0f} s{assumed}",
        f"  peak of the window     {_number(given.peak)}   at quantile {_number(given.level)}",
        f"  risk                   {given.spec.risk:.2%} of the time may be above capacity",
        f"  most needed in 14 days {_whole(given.most_needed)} replicas",
        f"  user's own minimum     {_whole(made.users_own)}   highest floor allowed {_whole(made.most)}",
        "candidates",
    ]
    lines += [f"  {c.name:22} {_whole(c.replicas)}{'   ' + c.detail if c.detail else ''}" for c in made.candidates]
    lines += [
        "decided",
        f"  floor                  {_whole(made.floor)}   the last word: {made.bound_by}",
        f"  desired replicas       {_whole(made.desired_replicas)}   the larger of floor and reactive",
        f"  counts for             {made.valid_for.total_seconds():.0f} s",
    ]
    if given.spec.raised_target_ratio is not None:
        stands = "the user's own stands" if made.raised_target is None else f"{made.raised_target} %"
        lines.append(f"  CPU target             {stands}")
    for reason in made.reasons:
        meaning, advice = ADVICE[reason.code]
        lines.append(f"  {reason.code.value}: {reason.detail or meaning} → {advice}")
    if one.same:
        lines.append("Recomputed from the stored inputs: every number is the same, bit by bit.")
    else:
        lines.append(f"RECOMPUTED DIFFERENTLY: {', '.join(one.different)}. Stored: {json.dumps(dict(one.stored))}")
    return "\n".join(lines)


def _only(items: list[Mapping[str, Any]], workload: str) -> Mapping[str, Any]:
    if not items:
        raise InputError(f"no decision is stored for {workload!r}: it scales no HPA, or none was made by then")
    return items[0]


def _plain(value: Any) -> Any:
    """As JSON for people: floats as numbers, not as hex."""
    if isinstance(value, StrEnum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return {_camel(field.name): _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _number(value: float | None) -> str:
    return "not known" if value is None or value != value else f"{value:.6g}"


def _whole(value: int | None) -> str:
    return "–" if value is None else str(value)


def _time(moment: datetime | None) -> str:
    return "never" if moment is None else moment.isoformat(timespec="seconds")
