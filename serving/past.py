"""What was: load, floors and replicas of one workload over the last hours, and one small line per workload.

The load comes from the publication's copy of the history, the rest from stored decisions, of which there is one at each
change and at least every five minutes. A process without a cycle has the decisions alone, and says so. Nothing here is
newer than `made_at`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from forecaster.domain import Incident, Mode
from forecaster.grid import pool_mean
from forecaster.publication import FINE_SPAN
from serving.render import Json, Rendered, dumps, incident_json, when
from serving.store import Store, StoredDecision

LONGEST_HOURS = 24
MOST_DECISIONS = 1_500  # of one answer; a floor that moves at each cycle makes as many in six hours
DECISION_LASTS = 660.0  # seconds a stored decision stands: the next comes within five minutes
SPARK_POINTS = 48
COLUMNS = ("floor", "desired", "current", "ready", "lowest", "highest", "capacity")

_UNKNOWN = (None, None)
Column = list[float | None]  # null where a value is not known


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """Columns over times (Unix seconds, ascending); None where something is not known."""

    workload: str
    hours: int
    made_at: datetime
    step_seconds: float | None
    times: list[float]
    load: Column
    expected_low: Column  # what was expected at these times, before the sample came
    expected_high: Column
    decided_at: list[float]
    decided: Mapping[str, Column]  # by COLUMNS
    incidents: tuple[Incident, ...]  # open in these hours, oldest first
    note: str | None


def past(rendered: Rendered | None, store: Store, name: str, hours: int) -> Past | None:
    """The last `hours` of a workload; None for a name of which nothing is known. Reads the store."""
    status = None if rendered is None else rendered.by_name.get(name)
    if rendered is not None and status is None:
        return None
    newest = store.decisions(name, None, 1)
    if rendered is not None:
        made_at = rendered.publication.made_at
    elif newest:
        made_at = newest[0].at
    else:
        return None
    since = made_at - timedelta(hours=hours)
    from_store = since - timedelta(seconds=DECISION_LASTS)
    stored = store.decisions(name, made_at, MOST_DECISIONS, from_store)
    cut = len(stored) == MOST_DECISIONS
    key = status.workload.key if status is not None else newest[0].workload_key
    stored = [one for one in reversed(stored) if one.workload_key == key]
    points = [_point(one) for one in stored]
    step: float | None = None
    note = f"only the newest {MOST_DECISIONS} decisions are shown" if cut else None
    if rendered is None or rendered.publication.recent is None:
        times, load = [at for at, _ in points], [values["load"] for _, values in points]
        note = "this process runs no cycle: load and replicas are those of stored decisions, at least one in 5 minutes"
        if rendered is not None:
            times, load, note = [], [], "the history of the load is not there yet: it comes with the next step"
    else:
        step, times, load = _load(rendered, name, hours)
        points.append(_now(rendered, name))
    band = _band(rendered, name)
    shown = [(at, value) for at, value in zip(times, load, strict=True) if at >= since.timestamp()]
    decided_at, decided = _steps(points, since.timestamp())
    return Past(
        workload=name,
        hours=hours,
        made_at=made_at,
        step_seconds=step,
        times=[at for at, _ in shown],
        load=[value for _, value in shown],
        expected_low=[band.get(at, _UNKNOWN)[0] for at, _ in shown],
        expected_high=[band.get(at, _UNKNOWN)[1] for at, _ in shown],
        decided_at=decided_at,
        decided=decided,
        incidents=_incidents(store, name, since),
        note=note,
    )


def past_json(one: Past) -> Json:
    whole = {name: [None if v is None else int(v) for v in column] for name, column in one.decided.items()}
    return {
        "workload": one.workload,
        "hours": one.hours,
        "stepSeconds": one.step_seconds,
        "times": [when(at) for at in one.times],
        "load": one.load,
        "expectedLow": one.expected_low,
        "expectedHigh": one.expected_high,
        "replicas": {
            "times": [when(at) for at in one.decided_at],
            "floor": whole["floor"],
            "desiredReplicas": whole["desired"],
            "currentReplicas": whole["current"],
            "readyReplicas": whole["ready"],
            "minReplicas": whole["lowest"],
            "maxReplicas": whole["highest"],
            "readyCapacity": one.decided["capacity"],
        },
        "incidents": [incident_json(incident) for incident in one.incidents],
        "note": one.note,
        "madeAt": one.made_at,
    }


def sparklines(rendered: Rendered, after: str, limit: int) -> bytes:
    """A page of small lines, in order of name; made once per publication, when it is asked for."""
    known = rendered.pages.get((f"sparklines\n{after}", limit))
    if known is not None:
        return known
    start = bisect_right(rendered.names, after) if after else 0
    chosen = rendered.names[start : start + limit]
    recent, made_at = rendered.publication.recent, rendered.publication.made_at
    items: list[Json] = []
    step, through = None, None
    if recent is not None and chosen:
        coarse = recent.coarse
        ratio = max(1, coarse.values.shape[1] // SPARK_POINTS)
        kept = min(SPARK_POINTS, coarse.values.shape[1]) * ratio
        rows = [rendered.by_name[name].row for name in chosen]
        means = pool_mean(coarse.values[rows, coarse.values.shape[1] - kept :], ratio)
        step, through = ratio * coarse.step.total_seconds(), coarse.origin
        items = _shares(chosen, means)
    more = start + limit < len(rendered.names)
    body = dumps(
        {
            "items": items,
            "next": chosen[-1] if more else None,
            "stepSeconds": step,
            "through": through,
            "madeAt": made_at,
        }
    )
    if len(rendered.pages) < 1_000:
        rendered.pages[f"sparklines\n{after}", limit] = body
    return body


def _shares(names: Sequence[str], means: Any) -> list[Json]:
    """(workload, time) as whole percents of each row's highest."""
    known = ~np.isnan(means)
    highest = np.where(known, np.abs(means), 0.0).max(axis=1)
    shares = np.rint(100 * means / np.where(highest > 0, highest, 1.0)[:, None])
    ever = known.any(axis=1)
    return [
        {
            "name": name,
            "highest": float(highest[i]) if ever[i] else None,
            "values": [int(v) if v == v else None for v in shares[i].tolist()],
        }
        for i, name in enumerate(names)
    ]


def _load(rendered: Rendered, name: str, hours: int) -> tuple[float, list[float], Column]:
    """(step, times, load) at the step, or as means where the hours reach further back than the fine copy."""
    publication = rendered.publication
    assert publication.recent is not None
    row = rendered.by_name[name].row
    batch = publication.recent.fine if timedelta(hours=hours) <= FINE_SPAN else publication.recent.coarse
    times = [float(at) for at in batch.times.tolist()]
    load: Column = [_number(value) for value in batch.values[row].tolist()]
    newest_at, newest = float(publication.status.data_through[row]), _number(float(publication.status.load[row]))
    if newest is not None and math.isfinite(newest_at) and (not times or newest_at > times[-1]):
        times.append(newest_at)
        load.append(newest)
    return batch.step.total_seconds(), times, load


def _band(rendered: Rendered | None, name: str) -> dict[float, tuple[float | None, float | None]]:
    """Time -> what was expected of the load then; since the process started, at most some hours."""
    if rendered is None or (band := rendered.publication.band) is None:
        return {}
    row = rendered.by_name[name].row
    pairs = zip(band.times.tolist(), band.low[row].tolist(), band.high[row].tolist(), strict=True)
    return {float(at): (_number(low), _number(high)) for at, low, high in pairs if at}


def _point(one: StoredDecision) -> tuple[float, dict[str, float | None]]:
    """What one stored decision says: its time, and the columns with the load of that moment."""
    inputs, made = one.record.get("inputs"), one.decision
    inputs = inputs if isinstance(inputs, Mapping) else {}
    facts = inputs.get("facts") or {}
    issued = made.get("mode") != Mode.OBSERVE.value  # there the floor only feeds the risk dial
    per_replica, ready = _hex(inputs.get("capacity")), facts.get("ready_replicas")
    return one.at.timestamp(), {
        "load": _hex(inputs.get("newest_load")),
        "floor": made.get("floor") if issued else None,
        "desired": made.get("desired_replicas") if issued else None,
        "current": facts.get("current_replicas"),
        "ready": ready,
        "lowest": made.get("users_own"),
        "highest": made.get("most"),
        "capacity": None if per_replica is None or ready is None else per_replica * ready,
    }


def _now(rendered: Rendered, name: str) -> tuple[float, dict[str, float | None]]:
    """The newest cycle, which may be too like the one before to be stored."""
    status = rendered.by_name[name]
    recommendation, _ = rendered.recommended.get(name, (None, 0.0))
    facts = status.facts
    ready = facts.ready_replicas if facts else None
    per_replica = status.capacity_per_replica
    return rendered.publication.made_at.timestamp(), {
        "floor": recommendation.floor if recommendation else None,
        "desired": recommendation.desired_replicas if recommendation else None,
        "current": facts.current_replicas if facts else None,
        "ready": ready,
        "lowest": status.min_replicas,
        "highest": status.max_replicas,
        "capacity": None if per_replica is None or ready is None else per_replica * ready,
    }


def _steps(points: Sequence[tuple[float, dict[str, Any]]], since: float) -> tuple[list[float], dict[str, Column]]:
    """Points as columns from `since` on; a hole is marked where the next decision came too late."""
    times: list[float] = []
    columns: dict[str, Column] = {name: [] for name in COLUMNS}
    for i, (at, values) in enumerate(points):
        ends = at + DECISION_LASTS
        following = points[i + 1][0] if i + 1 < len(points) else math.inf
        if (ends if following == math.inf else min(ends, following)) > since and following != at:
            times.append(max(at, since))
            for name, column in columns.items():
                column.append(values[name])
        if since < ends < following < math.inf:
            times.append(ends)
            for column in columns.values():
                column.append(None)
    return times, columns


def _incidents(store: Store, name: str, since: datetime) -> tuple[Incident, ...]:
    found = [
        one
        for one in store.incidents.copy().values()
        if one.workload == name and (one.closed_at is None or one.closed_at >= since)
    ]
    return tuple(sorted(found, key=lambda one: (one.opened_at, one.id)))


def _hex(text: object) -> float | None:
    return _number(float.fromhex(text)) if isinstance(text, str) else None


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
