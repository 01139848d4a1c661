"""Cron windows with their own minimum and maximum, by the wall clock of their time zone.

Both ends follow the wall clock: a window "08:00 for 10 h" ends at 18:00 also on the day the clocks change. A start that
the clocks jump over happens when they land, and the duration counts from there; a start that they show twice happens
the first time (Debian's cron, which cronsim follows), so no window is ever doubled. An end that they show twice is the
second time, unless the window began within the repeated hour; an end that they jump over is the moment of the jump.
Of windows that are open together the highest minimum and the lowest maximum count; where these contradict each other
nothing would be right, so `contradiction` finds such windows before they are used.
Knows nothing of replicas in force.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from forecaster.domain import ScheduleWindow
from forecaster.errors import InputError

LONGEST = timedelta(days=31)
_SPAN = 86_400  # one cached answer covers the windows that touch this many seconds
_SLACK = timedelta(hours=3)  # more than any change of clocks
_MOST_STARTS = 2_000  # in a span: every minute of a day, with room
_LOOKED_AT = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))  # a leap day, all weekdays of a date
_MOST_LOOKED_AT = 10_000  # starts of a window: all four years of five an hour of every working day's morning
NO_PLACE = ("localtime", "posixrules", "Factory")  # what they mean depends on the machine


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """What the active windows ask for together, and each of them in words."""

    min_replicas: int | None = None
    max_replicas: int | None = None
    details: tuple[str, ...] = ()


IDLE = ScheduleState()


def validate(window: ScheduleWindow) -> None:
    """Raises InputError for a cron, time zone, duration or pair of limits that cannot be meant."""
    place = f"schedule {window.cron!r}"
    if len(window.cron.split()) != 5:
        raise InputError(f'{place}: a cron has five fields (minute hour day month weekday): write "0 8 * * 1-5"')
    try:
        zone = zone_of(window.timezone)
    except ValueError as error:
        raise InputError(
            f"{place}: {window.timezone!r} is not an IANA time zone: write Europe/Berlin or UTC"
        ) from error
    if not timedelta(minutes=1) <= window.duration <= LONGEST:
        raise InputError(f"{place}: a duration of {window.duration} is not between 1 minute and 31 days")
    if window.min_replicas is None and window.max_replicas is None:
        raise InputError(f"{place}: neither minReplicas nor maxReplicas is given: write at least one of them")
    for name, value in (("minReplicas", window.min_replicas), ("maxReplicas", window.max_replicas)):
        if value is not None and value < 0:
            raise InputError(f"{place}: {name} is {value}: write 0 or more")
    low, high = window.min_replicas, window.max_replicas
    if low is not None and high is not None and low > high:
        raise InputError(f"{place}: minReplicas {low} is above maxReplicas {high}")
    try:
        next(CronSim(window.cron, datetime(2024, 1, 1, tzinfo=zone)))
    except CronSimError as error:
        if _is_sound_in_another_month(window.cron):
            raise InputError(
                f"{place}: it never fires: its months have no such day: write a day that they have, or L for the last"
            ) from error
        raise InputError(f'{place}: {error}: write minute hour day month weekday, as in "0 8 * * 1-5"') from error
    except StopIteration:
        raise InputError(
            f"{place}: it never fires: no such day exists within 50 years: write a day that there is"
        ) from None


def zone_of(name: str) -> ZoneInfo:
    """The time zone of that name, the same on every machine. Raises ValueError where there is none."""
    if name in NO_PLACE or name.startswith(("right/", "posix/")):
        raise ValueError(name)
    try:
        return ZoneInfo(name)
    except (OSError, KeyError) as error:
        raise ValueError(name) from error


def _is_sound_in_another_month(cron: str) -> bool:
    fields = cron.split()
    fields[3] = "*"
    try:
        CronSim(" ".join(fields), _LOOKED_AT[0])
    except CronSimError:
        return False
    return True


@lru_cache(maxsize=4096)  # thousands of workloads share a few schedules
def contradiction(windows: tuple[ScheduleWindow, ...]) -> tuple[int, int, datetime] | None:
    """(place of a minimum, place of a lower maximum, first moment both are open); None where no two disagree.

    Looked at over four years, or the first 10,000 starts of a window. The windows must be valid.
    """
    found: tuple[int, int, datetime] | None = None
    for i, one in enumerate(windows):
        for j, other in enumerate(windows):
            if i == j or one.min_replicas is None or other.max_replicas is None:
                continue
            if one.min_replicas <= other.max_replicas:
                continue
            moment = _first_together(one, other)
            if moment is not None and (found is None or moment < found[2]):
                found = (i, j, moment)
    return found


def _first_together(one: ScheduleWindow, other: ScheduleWindow) -> datetime | None:
    """The first moment at which both are open, in the zone of `one`."""
    ours, others = _openings(one), _openings(other)
    a, b = next(ours, None), next(others, None)
    while a is not None and b is not None:
        if a[0] < b[1] and b[0] < a[1]:
            return max(a[0], b[0]).astimezone(ZoneInfo(one.timezone))
        if a[1] <= b[1]:
            a = next(ours, None)
        else:
            b = next(others, None)
    return None


def _openings(window: ScheduleWindow) -> Iterator[tuple[datetime, datetime]]:
    """[start, end) of the firings looked at, in UTC, in order of their start; they may overlap."""
    zone = ZoneInfo(window.timezone)
    start, end = _LOOKED_AT
    for begin in islice(CronSim(window.cron, (start - window.duration).astimezone(zone)), _MOST_LOOKED_AT):
        opened = begin.astimezone(UTC)
        if opened >= end:
            return
        closed = _end(begin, window.duration, zone)
        if closed > max(start, opened):
            yield max(start, opened), closed


def active(windows: Sequence[ScheduleWindow], now: datetime) -> ScheduleState:
    """What is in force at `now`: the highest minimum and the lowest maximum of the active windows."""
    if not windows:
        return IDLE
    second = int(now.timestamp())
    low: int | None = None
    high: int | None = None
    details: list[str] = []
    for window in windows:
        if not _is_active(window, second):
            continue
        if window.min_replicas is not None:
            low = window.min_replicas if low is None else max(low, window.min_replicas)
        if window.max_replicas is not None:
            high = window.max_replicas if high is None else min(high, window.max_replicas)
        details.append(f"{window.cron} {window.timezone}")
    return ScheduleState(low, high, tuple(details)) if details else IDLE


def spells(window: ScheduleWindow, start: datetime, end: datetime) -> tuple[tuple[datetime, datetime], ...]:
    """The [start, end) of every firing that touches [`start`, `end`), in UTC, in order; overlapping ones are joined."""
    zone = ZoneInfo(window.timezone)
    sim = CronSim(window.cron, (start - window.duration - _SLACK).astimezone(zone))
    found: list[tuple[datetime, datetime]] = []
    for _ in range(_MOST_STARTS + 60 * int((window.duration + 2 * _SLACK) / timedelta(hours=1) + 1)):
        try:
            begin = next(sim)
        except StopIteration:
            break
        opened = begin.astimezone(UTC)
        if opened >= end:
            break
        closed = _end(begin, window.duration, zone)
        if closed <= max(start, opened):
            continue
        if found and opened <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], closed))
        else:
            found.append((opened, closed))
    return tuple(found)


def _end(begin: datetime, duration: timedelta, zone: ZoneInfo) -> datetime:
    """When the wall clock has moved on by `duration` since `begin`; UTC."""
    wall = begin.replace(tzinfo=None) + duration
    fold = begin.fold if _is_repeated(begin.replace(tzinfo=None), zone) else 1
    end = wall.replace(tzinfo=zone, fold=fold).astimezone(UTC)
    if end.astimezone(zone).replace(tzinfo=None) == wall:
        return end
    # the wall clock never shows this time: it ends at the jump, which lies between the two readings of it
    before = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    after = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    low, high = sorted((before, after))
    offset = low.astimezone(zone).utcoffset()
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) / 2
        if middle.astimezone(zone).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return high.replace(microsecond=0)


def _is_repeated(wall: datetime, zone: ZoneInfo) -> bool:
    first, second = (wall.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    return first is not None and second is not None and first > second


def _is_active(window: ScheduleWindow, second: int) -> bool:
    opened, closed = _edges(window, second // _SPAN)
    i = bisect_right(opened, second) - 1
    return i >= 0 and second < closed[i]


@lru_cache(
    maxsize=65_536
)  # a pure function of its arguments: 10,000 workloads with a few windows each, around midnight
def _edges(window: ScheduleWindow, day: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    start = datetime.fromtimestamp(day * _SPAN, UTC)
    found = spells(window, start, start + timedelta(seconds=_SPAN))
    return tuple(int(a.timestamp()) for a, _ in found), tuple(int(b.timestamp()) for _, b in found)
