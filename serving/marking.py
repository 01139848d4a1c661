"""`forecaster events`: lists and marks events, overrides and feedback of a running service."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from forecaster.errors import InputError
from serving.client import Client, moment

SCHEMA_VERSION = 1
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?")

Listed = Mapping[str, list[dict[str, Any]]]
Span = tuple[str, str]  # start and end as they were typed


def listed(client: Client) -> Listed:
    return {name: client.items(f"/api/v1/{name}") for name in ("events", "overrides", "anomalies")}


def as_json(found: Listed) -> str:
    return json.dumps({"schemaVersion": SCHEMA_VERSION, **found}, indent=1)


def as_text(found: Listed) -> str:
    """A line each, open things first; says what to do where there is nothing."""
    lines = []
    for one in found["overrides"]:
        limits = [f"{name} {one[name]}" for name in ("minReplicas", "maxReplicas") if one[name] is not None]
        lines.append(_line("override", one, f"{one['kind']} {' '.join(limits)}".strip()))
    lines += [_line("event", one, one["kind"]) for one in found["events"]]
    for one in found["anomalies"]:
        end = one["closedAt"] or "open"
        marked = f" [{one['feedback']}]" if one["feedback"] else ""
        lines.append(f"incident  {one['id']}  {one['openedAt']} … {end}  {one['severity']}{marked}  {one['sentence']}")
    if not lines:
        return (
            "No events, overrides or incidents. `forecaster events mark deploy --until 10m --workload NAME` marks a "
            "deploy; `forecaster events override pin --min-replicas 6 --until 2h --workload NAME` pins a floor."
        )
    return "\n".join(lines)


def mark(client: Client, kind: str, workload: str, span: Span, note: str, exclude: bool) -> str:
    start, end = interval(*span, datetime.now(UTC))
    body = {"kind": kind, "workload": workload, "startsAt": start, "endsAt": end, "note": note, "exclude": exclude}
    made = client.post("/api/v1/events", body)
    return _line("event", made, made["kind"])


def override(
    client: Client, kind: str, workload: str, span: Span, limits: tuple[int | None, int | None], note: str
) -> str:
    start, end = interval(*span, datetime.now(UTC))
    low, high = limits
    body = {"kind": kind, "workload": workload, "startsAt": start, "endsAt": end, "note": note}
    made = client.post("/api/v1/overrides", body | {"minReplicas": low, "maxReplicas": high})
    return _line("override", made, made["kind"])


def end(client: Client, id: str) -> str:
    client.delete(f"/api/v1/overrides/{quote(id, safe='')}")
    return f"ended {id}"


def feedback(client: Client, id: str, what: str) -> str:
    made = client.post(f"/api/v1/anomalies/{quote(id, safe='')}/feedback", {"feedback": what})
    return f"incident {made['id']} is {made['feedback']}"


def interval(start: str, end: str, now: datetime) -> tuple[str, str]:
    """(start, end) in RFC 3339: `start` empty is now, `end` a time or a duration after the start."""
    begin = now if not start else moment(start, "--from")
    match = _DURATION.fullmatch(end)
    if match and any(match.groups()):
        days, hours, minutes = (int(part or 0) for part in match.groups())
        finish = begin + timedelta(days=days, hours=hours, minutes=minutes)
    else:
        finish = moment(end, "--until", " or 2h")
    if finish <= begin:
        raise InputError(f"--until: {end} is not after the start {begin.isoformat(timespec='seconds')}")
    return begin.isoformat(timespec="seconds"), finish.isoformat(timespec="seconds")


def _line(what: str, one: Mapping[str, Any], kind: str) -> str:
    note = f"  {one['note']}" if one["note"] else ""
    return f"{what:9} {one['id']}  {one['startsAt']} … {one['endsAt']}  {one['workload']}  {kind}{note}"
