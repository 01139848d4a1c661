"""What is worth telling of incidents, to whom, and in which words: pure functions of what was known and what is.

An incident that is part of a common cause is not told on its own: the incident of the fleet names it, and its end is
the end of all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from forecaster.domain import Incident
from serving.render import dumps, incident_json

SCHEMA_VERSION = 1
OPENED, WORSENED, CLOSED = "incident.opened", "incident.worsened", "incident.closed"
RANK = {"info": 0, "warning": 1, "critical": 2}


@dataclass(frozen=True, slots=True)
class Message:
    """One thing to tell one destination; kept until it has been taken."""

    id: str  # the same however often it is made: receivers know it again by it
    destination: str
    event: str
    at: datetime  # UTC; when it was made
    body: str  # JSON, as it is sent each time


def notices(
    known: Mapping[str, Incident], fresh: Iterable[Incident], least_severity: str = "info"
) -> list[tuple[str, Incident]]:
    """(event, incident) in the order in which they are to be told. `known`: as told before, by id."""
    least = RANK[least_severity]
    out: list[tuple[str, Incident]] = []
    for one in fresh:
        if one.cause is not None:
            continue
        old, rank = known.get(one.id), RANK[one.severity]
        told = old is not None and RANK[old.severity] >= least
        ended_before = old is not None and old.closed_at is not None
        if rank >= least and not told and not ended_before:
            out.append((OPENED, one))
            told = True
        elif told and old is not None and rank > RANK[old.severity] and one.closed_at is None:
            out.append((WORSENED, one))
        if told and one.closed_at is not None and not ended_before:
            out.append((CLOSED, one))
    return out


def message(destination: str, event: str, incident: Incident, at: datetime, external_url: str) -> Message:
    """`text` alone is enough for people; `incident` is as REST gives it."""
    whose = f"{destination}\0{incident.id}\0{event}\0{incident.severity}"
    body = {
        "schemaVersion": SCHEMA_VERSION,
        "event": event,
        "text": _text(event, incident),
        "url": page_of(incident, external_url),
        "madeAt": at,
        "incident": incident_json(incident),
    }
    return Message(hashlib.sha256(whose.encode()).hexdigest()[:32], destination, event, at, dumps(body).decode())


def page_of(incident: Incident, external_url: str) -> str:
    """Where people read about it."""
    return f"{external_url}/incidents?id={quote(incident.id, safe='')}"


def _text(event: str, incident: Incident) -> str:
    head = {OPENED: incident.severity, WORSENED: f"now {incident.severity}", CLOSED: "over"}[event]
    return f"[{head}] {incident.sentence}"
