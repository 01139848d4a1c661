"""`forecaster explain --incident`: the digits of a stored incident, in words, and the same digits computed anew."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from forecaster.anomaly import account, cause_account, feedback, grouping
from forecaster.anomaly.account import Account, Digits
from forecaster.domain import Incident, Nearby, Part
from forecaster.errors import InputError
from serving.client import Client
from serving.explaining import SCHEMA_VERSION

NO_ACCOUNT = "nothing is stored to recompute it from"


@dataclass(frozen=True, slots=True)
class Explained:
    """One series of an incident."""

    part: Part
    account: Account | cause_account.Account | None  # None: nothing is stored, or a rule opened it and not a score
    digits: Digits | None  # computed anew
    different: tuple[str, ...]  # names of digits that are not as they were told

    @property
    def by_rule(self) -> bool:
        """Opened by a rule, which has no digits to recompute."""
        return not account.is_scored(self.part)

    @property
    def same(self) -> bool:
        return self.by_rule or (self.account is not None and not self.different)


@dataclass(frozen=True, slots=True)
class Explanation:
    """An incident with its series, worst first."""

    incident: Incident
    series: tuple[Explained, ...]

    @property
    def same(self) -> bool:
        return all(one.same for one in self.series)


def from_service(client: Client, id: str) -> Explanation:
    """Raises InputError where the service does not know it, or its record is of another release."""
    told = client.get(f"/api/v1/anomalies/{quote(id, safe='')}")
    return explained(_incident(told), told["accounts"])


def from_store(url: str, id: str) -> Explanation:
    """The same, read from the store itself."""
    from serving.server import open_store
    from serving.store import existing

    existing(url)
    store = open_store(url)
    try:
        known = store.incidents.get(id)
        if known is None:
            raise InputError(f"no incident {id!r} is stored: `forecaster events` lists them")
        accounts = store.accounts([part.id for part in feedback.rows_of(known)])
    finally:
        store.close()
    return explained(known, accounts)


def _incident(told: Mapping[str, Any]) -> Incident:
    """What serving.render.incident_json wrote; numbers travel bit by bit, null is NaN."""
    return Incident(
        **_fields(told),
        sentence=told["sentence"],
        feedback=told["feedback"],
        cause=told["commonCause"],
        parts=tuple(Part(**_fields(part)) for part in told["contributing"]),
        nearby=tuple(Nearby(near["kind"], datetime.fromisoformat(near["at"]), near["text"]) for near in told["nearby"]),
    )


def _fields(told: Mapping[str, Any]) -> dict[str, Any]:
    def number(value: float | None) -> float:
        return math.nan if value is None else float(value)

    def time(value: str | None) -> datetime | None:
        return None if value is None else datetime.fromisoformat(value)

    return {
        **{name: told[name] for name in ("id", "workload", "kind", "direction", "severity")},
        **{name: number(told[name]) for name in ("score", "threshold", "observed")},
        "role": told["series"],
        "expected_low": number(told["expectedLow"]),
        "expected_high": number(told["expectedHigh"]),
        "opened_at": time(told["openedAt"]),
        "onset": time(told["onset"]),
        "closed_at": time(told["closedAt"]),
    }


def explained(incident: Incident, accounts: Mapping[str, Mapping[str, Any]]) -> Explanation:
    """Raises InputError where a record is of another release or damaged."""
    parts = () if incident.kind == grouping.COMMON_CAUSE else feedback.rows_of(incident)
    series = [_explained(part, accounts.get(part.id)) for part in parts]
    if series and (worst := series[0]).digits is not None:  # the incident repeats the digits of its worst series
        own = account.different(incident, worst.digits)
        series[0] = replace(worst, different=tuple(dict.fromkeys((*worst.different, *own))))
    return Explanation(incident, tuple(series))


def _explained(part: Part, record: Mapping[str, Any] | None) -> Explained:
    if record is None or not account.is_scored(part):
        return Explained(part, None, None, ())
    told: Account | cause_account.Account
    if cause_account.is_of_cause(record):
        told = cause_account.read(record)
        digits = cause_account.digits(told)
    else:
        told = account.read(record)
        digits = account.digits(told)
    return Explained(part, told, digits, tuple(account.different(part, digits)))


def as_json(one: Explanation) -> str:
    told = {
        "schemaVersion": SCHEMA_VERSION,
        "same": one.same,
        "incident": one.incident.id,
        "sentence": one.incident.sentence,
        "series": [
            {
                "workload": each.part.workload,
                "series": each.part.role,
                "kind": each.part.kind,
                "same": each.same,
                "evidence": {} if not isinstance(each.account, cause_account.Account) else dict(each.account.evidence),
                "different": list(each.different),
                "told": {name: getattr(each.part, name) for name in account.DIGITS},
                "recomputed": None
                if each.digits is None
                else {name: getattr(each.digits, name) for name in account.DIGITS},
            }
            for each in one.series
        ],
    }
    return json.dumps(_finite(told), indent=1)


def as_text(one: Explanation) -> str:
    """The incident, then each series from what it rests on to its digits."""
    incident = one.incident
    ended = "open" if incident.closed_at is None else f"closed {incident.closed_at.isoformat(timespec='seconds')}"
    lines = [
        f"{incident.id}  {incident.severity}, {ended}",
        f"  {incident.sentence}",
        f"  began {_time(incident.onset)}, noticed {_time(incident.opened_at)}, said to be: {incident.feedback or '–'}",
    ]
    lines += [f"  nearby: {near.text}" for near in incident.nearby]
    if incident.kind == grouping.COMMON_CAUSE:
        lines.append("Many workloads alarmed at once; each has its own incident, and its digits there:")
        lines += [f"  {part.workload}: forecaster explain --incident {part.id}" for part in incident.parts]
        return "\n".join(lines)
    for each in one.series:
        lines += _series(each)
    if any(each.digits is not None for each in one.series) and one.same:
        lines.append("Recomputed from what is stored: every digit is the same, bit by bit.")
    return "\n".join(lines)


def _series(one: Explained) -> list[str]:
    part = one.part
    lines = [f"{part.workload} {part.role} ({part.kind}, {part.direction})"]
    if one.account is None or one.digits is None:
        if one.by_rule:
            return [*lines, "  opened by a rule, not by a score: no digits to recompute"]
        return [*lines, f"  NOT RECOMPUTED: {NO_ACCOUNT}"]
    given, made = one.account.inputs, one.digits
    at = datetime.fromtimestamp(given.now, UTC)
    lines.append(f"  observed           {made.observed:.6g} at {_time(at)}")
    if isinstance(one.account, cause_account.Account):
        lines += _beside(one.account.inputs, one.account.evidence)
        days = cause_account.own_days(one.account)
    else:
        lines.append(f"  forecast, 1 step   {_quantiles(one.account.inputs.levels, one.account.inputs.one_step)}")
        lines.append(f"  forecast, 1 hour   {_quantiles(one.account.inputs.levels, one.account.inputs.one_hour)}")
        days = account.own_days(one.account)
    lines += [
        f"  expected           {made.expected_low:.6g} to {made.expected_high:.6g}",
        f"  score              {made.score:.4f}",
        f"  threshold          {made.threshold:.4f}   for {given.per_week:.3g} false alarms a week, from "
        f"{days} own days and {given.pool:.4f} of the fleet; feedback × {given.factor:g}",
    ]
    if one.different:
        told = ", ".join(f"{name} {getattr(part, name)!r}, now {getattr(made, name)!r}" for name in one.different)
        lines.append(f"  RECOMPUTED DIFFERENTLY: told {told}")
    return lines


def _beside(given: cause_account.Inputs, evidence: Mapping[str, float]) -> list[str]:
    """What an incident with a cause was judged by, besides its own past."""
    known = {"load": given.load, "usage": given.usage, "limit": given.limit, "replicas": given.replicas}
    said = [f"{name} {value:.6g}" for name, value in known.items() if value == value]
    lines = [f"  beside             {', '.join(said)}"]
    lines += [f"  {name:18} {value:.6g}" for name, value in evidence.items() if name not in known]
    if given.pods:
        shown = ", ".join(
            f"{name} {value:.4g}" for name, value in list(zip(given.pods, given.of_pods, strict=True))[:12]
        )
        more = f" and {len(given.pods) - 12} more" if len(given.pods) > 12 else ""
        lines.append(f"  pods               {shown}{more}")
    return lines


def _quantiles(levels: Sequence[float], values: Sequence[float]) -> str:
    if any(value != value for value in values):
        return "none"
    chosen = {0: levels[0], len(levels) // 2: levels[len(levels) // 2], len(levels) - 1: levels[-1]}
    return ", ".join(f"{values[i]:.6g} ({level:.0%})" for i, level in chosen.items())


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and value - value != 0 else value
