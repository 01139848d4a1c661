"""What people said of incidents, as what it changes: a factor on a row's alarm budget, and what is not alarmed again.

Pure functions of the incidents with their feedback: saying the same twice changes nothing, and saying something else
later replaces what was said. docs/decisions/0010-feedback.md says why it is done this way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import numpy as np

from forecaster.chunks import Span
from forecaster.domain import BoolArray, FloatArray, Incident, Part

REAL, FALSE_ALARM, EXPECTED = "real", "false_alarm", "expected"
LEAST_FACTOR, MOST_FACTOR = 0.1, 10.0
TOLERANCE = timedelta(minutes=30)  # on either side of an expected window: jobs do not start on the second
LONGEST_WINDOW = timedelta(days=1)  # of one expected incident; what lasts longer is a level, which is accepted anyway
REACH = 0.5  # how much further from what was forecast an expected one may go, as a share of how far it went
WEEK = 7 * 86_400
# What turns out to be a new level was opened as a jump: words on it count for what opens.
_OPENED_AS = {"level_shift": ("level_shift", "residual")}

RowName = tuple[str, str]  # workload, role


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of the week in which one direction of one row is expected. Seconds after Monday 00:00, local time."""

    kind: str
    direction: str
    start: int
    seconds: int
    timezone: str
    limit: float  # observed beyond it (above for "up", below for "down") is not what was expected; NaN: no limit

    def covers(self, now: int) -> bool:
        """Whether Unix time `now` lies in it."""
        return (_week_second(now, self.timezone) - self.start) % WEEK <= self.seconds


@dataclass(frozen=True, slots=True)
class Taught:
    """All that feedback changes for the rows to be judged."""

    factor: Mapping[tuple[str, str, str], float] = field(
        default_factory=dict
    )  # (workload, role, kind) -> budget factor
    windows: Mapping[RowName, tuple[Window, ...]] = field(default_factory=dict)
    expected: frozenset[str] = frozenset()  # ids of incidents that are as expected: open ones close
    harmless: Mapping[RowName, tuple[Span, ...]] = field(default_factory=dict)  # not to be kept out of learning

    def factors(self, names: Sequence[RowName], kinds: Sequence[str]) -> FloatArray:
        """(row,) what each row's share of the alarm budget is multiplied by, for the kind it would alarm with."""
        if not self.factor:
            return np.ones(len(names))
        return np.array([self.factor.get((*name, kind), 1.0) for name, kind in zip(names, kinds, strict=True)])

    def suppressed(
        self, names: Sequence[RowName], kinds: Sequence[str], now: int, upwards: BoolArray, observed: FloatArray
    ) -> BoolArray:
        """(row,) rows that may not alarm now: this was said to be expected. `upwards` (row,): above the forecast."""
        out = np.zeros(len(names), dtype=np.bool_)
        if not self.windows:
            return out
        for row, name in enumerate(names):
            for window in self.windows.get(name, ()):
                if (
                    window.kind == kinds[row]
                    and window.covers(now)
                    and _within(window, bool(upwards[row]), observed[row])
                ):
                    out[row] = True
        return out


NOTHING = Taught()


def taught(incidents: Iterable[Incident], timezones: Mapping[str, str] | None = None) -> Taught:
    """What the feedback on `incidents` changes. `timezones`: workload -> IANA name, UTC where there is none.

    What was said of a group counts for each row that contributed to it.
    """
    zones = timezones or {}
    told = sorted((one for one in incidents if one.feedback is not None), key=lambda one: (one.opened_at, one.id))
    factor: dict[tuple[str, str, str], float] = {}
    windows: dict[RowName, list[Window]] = defaultdict(list)
    harmless: dict[RowName, list[Span]] = defaultdict(list)
    expected: set[str] = set()
    for incident in told:
        for one in rows_of(incident):
            name = one.workload, one.role
            if incident.feedback != REAL:
                harmless[name].append(_span(one))
            if incident.feedback == EXPECTED:
                expected.add(one.id)
            for kind in _OPENED_AS.get(one.kind, (one.kind,)):
                key = (*name, kind)
                if incident.feedback == REAL:
                    factor[key] = min(MOST_FACTOR, 2 * factor.get(key, 1.0))
                elif incident.feedback == FALSE_ALARM:
                    factor[key] = max(LEAST_FACTOR, factor.get(key, 1.0) / 2)
                elif incident.feedback == EXPECTED:
                    windows[name].append(replace(_window(one, zones.get(one.workload, "UTC")), kind=kind))
    return Taught(
        factor,
        {name: _daily(found) for name, found in windows.items()},
        frozenset(expected),
        {name: tuple(found) for name, found in harmless.items()},
    )


def rows_of(incident: Incident) -> tuple[Part, ...]:
    """What single rows contribute: itself, where it is none of several."""
    return incident.parts or (incident.part(),)


def without(spans: Sequence[Span], harmless: Sequence[Span]) -> list[Span]:
    """(after, until] of `spans` less those of `harmless`."""
    left = list(spans)
    for after, until in harmless:
        cut: list[Span] = []
        for a, u in left:
            if u <= after or a >= until:
                cut.append((a, u))
                continue
            if a < after:
                cut.append((a, after))
            if u > until:
                cut.append((until, u))
        left = cut
    return left


def _window(one: Part, timezone: str) -> Window:
    end = one.opened_at if one.closed_at is None else one.closed_at
    length = min(max(end - one.onset, timedelta(0)), LONGEST_WINDOW)
    start = int((one.onset - TOLERANCE).timestamp())
    edge = one.expected_high if one.direction == "up" else one.expected_low
    return Window(
        kind=one.kind,
        direction=one.direction,
        start=_week_second(start, timezone),
        seconds=int((length + 2 * TOLERANCE).total_seconds()),
        timezone=timezone,
        limit=one.observed + REACH * (one.observed - edge) if one.direction in ("up", "down") else float("nan"),
    )


def _daily(windows: Sequence[Window]) -> tuple[Window, ...]:
    """With a window on every day for what was expected at the same time of two weekdays: nobody says it seven times."""
    out = list(windows)
    day = 86_400
    for i, one in enumerate(windows):
        for other in windows[:i]:
            apart = (one.start - other.start) % day
            same_time = min(apart, day - apart) <= TOLERANCE.total_seconds()
            another_day = min((one.start - other.start) % WEEK, (other.start - one.start) % WEEK) > day / 2
            if same_time and another_day and (one.kind, one.direction) == (other.kind, other.direction):
                out += [
                    Window(one.kind, one.direction, (one.start + k * day) % WEEK, one.seconds, one.timezone, one.limit)
                    for k in range(7)
                ]
                break
    return tuple(dict.fromkeys(out))


def _within(window: Window, upwards: bool, observed: float) -> bool:
    if window.direction == "none":
        return True
    if upwards is not (window.direction == "up"):
        return False
    beyond = observed > window.limit if upwards else observed < window.limit
    return not beyond


def _span(one: Part) -> Span:
    """(after, until] in Unix seconds; one that is open has no end yet."""
    until = 2**62 if one.closed_at is None else int(one.closed_at.timestamp())
    return int(one.onset.timestamp()) - 1, until


@cache
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _week_second(now: int, timezone: str) -> int:
    local = datetime.fromtimestamp(now, UTC).astimezone(_zone(timezone))
    return local.weekday() * 86_400 + local.hour * 3_600 + local.minute * 60 + local.second
