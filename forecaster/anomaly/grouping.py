"""One incident for what alarms together: the series of a workload, and, where much of the fleet does, all of it.

`follow` finds incidents of single rows. Those of one workload whose onsets lie close together are one incident, the
worst series speaking for it and all of them as evidence. Pure; what it remembers is the groups that are open.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from forecaster.anomaly import datafault, saturation
from forecaster.domain import Incident, Nearby, Part

NEAR_STEPS, NEAR_LEAST = 5, timedelta(minutes=5)  # how far apart onsets of one incident may lie
COMMON_SHARE, COMMON_LEAST = 0.2, 5  # of the workloads, and how many, alarm at once before it is one cause
COMMON_CAUSE, FLEET = "common_cause", "*"
MOST_PARTS = 200  # kept of one incident, the worst
MOST_NAMED = 6  # series or workloads that a sentence names
_SEVERITY = {"info": 0, "warning": 1, "critical": 2}

NearbyOf = Callable[[str, datetime, datetime], tuple[Nearby, ...]]  # (workload, onset, opened_at) -> what happened


@dataclass(frozen=True, slots=True)
class Groups:
    """Groups that are open, by workload, oldest first; what one step hands to the next."""

    open: tuple[Incident, ...] = ()
    common: Incident | None = None  # the open incident of the whole fleet


@dataclass(frozen=True, slots=True)
class Grouped:
    """What one step found."""

    groups: Groups
    opened: tuple[Incident, ...]  # in this step
    closed: tuple[Incident, ...]

    @property
    def all(self) -> tuple[Incident, ...]:
        """Open ones, the fleet's first, and those that closed now."""
        common = () if self.groups.common is None else (self.groups.common,)
        return (*common, *self.groups.open, *self.closed)


def step(
    before: Groups,
    rows: Iterable[Incident],
    now: datetime,
    step_seconds: float,
    workloads: int,
    nearby: NearbyOf = lambda _workload, _onset, _opened: (),
) -> Grouped:
    """Takes the incidents of single rows: those that are open, and those that closed since the step before.

    `workloads` is how many are watched. A group is known by the id of its first row's incident, keeps the parts that
    have closed, and closes with the last of them.
    """
    near = max(NEAR_LEAST, timedelta(seconds=NEAR_STEPS * step_seconds))
    groups: list[list[Part]] = [list(one.parts) for one in before.open]
    at = {part.id: i for i, parts in enumerate(groups) for part in parts}
    sentence: dict[str, str] = {}
    by_workload: dict[tuple[str, str], list[int]] = {}
    for i, parts in enumerate(groups):
        by_workload.setdefault(_family(parts[0]), []).append(i)
    present = set()
    for incident in sorted(rows, key=lambda one: (one.onset, one.id)):
        part = incident.part()
        sentence[part.id] = incident.sentence
        present.add(part.id)
        place = at.get(part.id)
        if place is None:
            place = _place(groups, by_workload.get(_family(part), ()), part, near)
        if place is None:
            if part.closed_at is not None and now - part.closed_at > near:
                continue  # it was told long ago
            groups.append([])
            place = len(groups) - 1
            by_workload.setdefault(_family(part), []).append(place)
        groups[place] = [one for one in groups[place] if one.id != part.id] + [part]
        at[part.id] = place
    made = []
    for i, parts in enumerate(groups):
        # a row that left without a word (another configuration) ends here
        ended = [one if one.id in present or one.closed_at else replace(one, closed_at=now) for one in parts]
        old = before.open[i] if i < len(before.open) else None
        made.append(_merged(old, ended, sentence, nearby))
    return _with_common_cause(before, made, now, near, workloads)


def _family(part: Part) -> tuple[str, str]:
    """What may become one incident: faults of the data, and what will run full, are told apart from anomalies."""
    return part.workload, part.kind if part.kind in (datafault.KIND, saturation.KIND) else ""


def _place(groups: Sequence[Sequence[Part]], candidates: Iterable[int], part: Part, near: timedelta) -> int | None:
    for i in candidates:
        if min(abs(one.onset - part.onset) for one in groups[i]) <= near:
            return i
    return None


def _merged(old: Incident | None, parts: Sequence[Part], sentence: dict[str, str], nearby: NearbyOf) -> Incident:
    ranked = sorted(parts, key=lambda one: (-_SEVERITY[one.severity], -one.score, one.onset, one.id))
    worst = ranked[0]
    first = min(parts, key=lambda one: (one.opened_at, one.onset, one.id)) if old is None else None
    ends = [one.closed_at for one in parts]
    onset = min(one.onset for one in parts)
    opened_at = min(one.opened_at for one in parts)
    happened = nearby(worst.workload, onset, opened_at) if old is None else old.nearby
    own = sentence.get(worst.id)
    return Incident(
        id=old.id if old is not None else first.id if first is not None else worst.id,
        workload=worst.workload,
        role=worst.role,
        kind=worst.kind,
        direction=worst.direction,
        severity=worst.severity,
        opened_at=opened_at,
        onset=onset,
        closed_at=max(one for one in ends if one is not None) if all(ends) else None,
        score=worst.score,
        observed=worst.observed,
        expected_low=worst.expected_low,
        expected_high=worst.expected_high,
        sentence=_sentence(own, ranked, happened) if own is not None else old.sentence if old is not None else "",
        threshold=worst.threshold,
        parts=tuple(ranked[:MOST_PARTS]),
        nearby=happened,
        cause=None if old is None else old.cause,
    )


def _sentence(own: str, parts: Sequence[Part], happened: Sequence[Nearby]) -> str:
    """The worst series in its own words, who joins in, and what happened just before."""
    others = list(dict.fromkeys(f"{one.role} {_way(one)}" for one in parts[1:] if one.role != parts[0].role))
    told = own
    if others:
        told += f"; so did {listed(others)}"
    if happened:
        told += f". Nearby: {'; '.join(one.text for one in happened)}"
    return told


def _way(one: Part) -> str:
    return {"up": "above", "down": "below"}.get(one.direction, "") + (" what was expected" if one.score else "")


def listed(names: Sequence[str]) -> str:
    """a, b and 3 more."""
    if len(names) > MOST_NAMED:
        return f"{', '.join(names[:MOST_NAMED])} and {len(names) - MOST_NAMED} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _with_common_cause(
    before: Groups, made: Sequence[Incident], now: datetime, near: timedelta, workloads: int
) -> Grouped:
    """Names the fleet's incident where enough workloads alarm at once; it lasts as long as any of its workloads."""
    common = before.common
    if common is None:
        fresh = [one for one in made if one.closed_at is None and now - one.opened_at <= near and one.cause is None]
        names = sorted({one.workload for one in fresh})
        if len(names) >= max(COMMON_LEAST, COMMON_SHARE * workloads):
            common = _common(fresh, names, workloads)
    opened_now = common is not None and before.common is None
    if common is not None:
        id, until = common.id, common.opened_at + near
        made = [
            replace(one, cause=id)
            if one.cause is None and abs(one.onset - common.onset) <= 2 * near and one.opened_at <= until
            else one
            for one in made
        ]
        mine = [one for one in made if one.cause == id]
        names = sorted({*(part.workload for part in common.parts), *(one.workload for one in mine)})
        if mine and names != sorted({part.workload for part in common.parts}):
            common = replace(_common(mine, names, workloads, common), id=id)
    closed = [one for one in made if one.closed_at is not None]
    still = tuple(one for one in made if one.closed_at is None)
    if common is not None and not any(one.cause == common.id for one in still):
        closed.append(replace(common, closed_at=now))
        common = None
    known = {one.id for one in before.open}
    opened = [one for one in made if one.id not in known]
    if opened_now and common is not None:
        opened.insert(0, common)
    return Grouped(Groups(still, common), tuple(opened), tuple(closed))


def _common(members: Sequence[Incident], names: Sequence[str], workloads: int, old: Incident | None = None) -> Incident:
    worst = max(members, key=lambda one: (_SEVERITY[one.severity], one.score, one.id))
    onset = min(one.onset for one in members)
    parts = tuple(
        replace(one.part(), closed_at=None) for one in sorted(members, key=lambda one: (-one.score, one.workload))
    )
    if old is not None:
        have = {one.workload for one in parts}
        parts += tuple(part for part in old.parts if part.workload not in have)
    kinds = {one.kind for one in members}
    fault = kinds == {datafault.KIND}
    what = "Faulty data of" if fault else "Alarms of"
    text = (
        f"{what} {len(names)} of {workloads} workloads at once since {onset:%Y-%m-%d %H:%M} UTC: likely one common "
        f"cause{', such as Prometheus or the network' if fault else ''}: {listed(list(names))}"
    )
    mark = hashlib.sha256(f"{COMMON_CAUSE}\0{min(one.id for one in members)}".encode()).hexdigest()[:16]
    return replace(
        worst,
        id=mark,
        workload=FLEET,
        role=COMMON_CAUSE,
        kind=COMMON_CAUSE,
        direction="none",
        onset=onset,
        opened_at=min(one.opened_at for one in members) if old is None else old.opened_at,
        closed_at=None,
        sentence=text,
        parts=parts,
        nearby=(),
        cause=None,
        feedback=None,
    )
