"""Windows open and close by the wall clock, also when it changes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.domain import ScheduleWindow
from forecaster.errors import InputError
from forecaster.scaling.schedule import ScheduleState, active, contradiction, spells, validate

OFFICE = ScheduleWindow("0 8 * * 1-5", timedelta(hours=10), "Europe/Berlin", min_replicas=6)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("moment", "open_"),
    [
        ("2026-01-05T06:59:59", False),
        ("2026-01-05T07:00:00", True),
        ("2026-01-05T16:59:59", True),
        ("2026-01-05T17:00:00", False),
        ("2026-07-06T06:00:00", True),
        ("2026-07-06T16:00:00", False),
        ("2026-01-04T12:00:00", False),
    ],
    ids=["winter before", "winter start", "winter last second", "winter end", "summer start", "summer end", "Sunday"],
)
def test_a_window_follows_the_wall_clock(moment: str, open_: bool) -> None:
    assert active((OFFICE,), at(moment)).min_replicas == (6 if open_ else None)


def one_day(cron: str, hours: float, day: str, zone: str = "Europe/Berlin") -> list[tuple[str, str]]:
    window = ScheduleWindow(cron, timedelta(hours=hours), zone, min_replicas=1)
    start = at(day + "T00:00:00")
    return [(f"{a:%H:%M}", f"{b:%H:%M}") for a, b in spells(window, start, start + timedelta(days=1))]


def test_on_the_day_the_clocks_go_forward_a_jumped_start_happens_once_when_they_land() -> None:
    # 02:00 CET becomes 03:00 CEST at 01:00 UTC on 2026-03-29; 02:30 does not exist
    assert one_day("30 2 * * *", 1, "2026-03-29") == [("01:00", "02:00")]
    assert one_day("0 1 * * *", 1.5, "2026-03-29") == [("00:00", "01:00"), ("23:00", "00:30")]  # a jumped end
    assert one_day("0 0 * * *", 8, "2026-03-29") == [("23:00", "06:00"), ("22:00", "06:00")]


def test_on_the_day_the_clocks_go_back_nothing_is_doubled() -> None:
    # 03:00 CEST becomes 02:00 CET at 01:00 UTC on 2026-10-25; 02:30 comes twice
    assert one_day("30 2 * * *", 0.25, "2026-10-25") == [("00:30", "00:45")]
    assert one_day("30 2 * * *", 1, "2026-10-25") == [("00:30", "02:30")]  # until the wall clock says 03:30
    assert one_day("30 1 * * *", 1, "2026-10-25") == [("23:30", "01:30")]  # until 02:30 has passed for good


def test_the_highest_minimum_and_the_lowest_maximum_of_open_windows_count() -> None:
    windows = (OFFICE, replace(OFFICE, min_replicas=9, max_replicas=20), replace(OFFICE, max_replicas=12))
    state = active(windows, at("2026-01-05T12:00:00"))
    assert (state.min_replicas, state.max_replicas) == (9, 12)
    assert len(state.details) == 3
    assert active(windows, at("2026-01-04T12:00:00")) == ScheduleState()
    assert active((), at("2026-01-05T12:00:00")) == ScheduleState()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cron": "0 8 30 2 *"}, "never fires|Bad day-of-month"),
        ({"cron": "0 8 * *"}, "five fields"),
        ({"cron": "0 25 * * *"}, "Bad hour"),
        ({"cron": "banana * * * *"}, "Bad minute"),
        ({"timezone": "Europe/Atlantis"}, "not an IANA time zone"),
        ({"timezone": "../etc/passwd"}, "not an IANA time zone"),
        ({"duration": timedelta(0)}, "between 1 minute and 31 days"),
        ({"min_replicas": None}, "neither"),
        ({"min_replicas": -1}, "write 0 or more"),
        ({"max_replicas": 3}, "above maxReplicas"),
    ],
)
def test_a_window_that_cannot_be_meant_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        validate(replace(OFFICE, **change))  # type: ignore[arg-type]


def test_a_sound_window_is_accepted() -> None:
    validate(OFFICE)
    validate(ScheduleWindow("0 0 29 2 *", timedelta(days=1), max_replicas=3))


@given(
    st.datetimes(datetime(2025, 1, 1), datetime(2027, 12, 31)),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC", "Asia/Kathmandu"]),
    st.sampled_from(["30 2 * * *", "0 8 * * 1-5", "*/15 * * * *", "0 0 1 * *", "15 1,2 * * 0", "0 22 * * *"]),
    st.integers(1, 40 * 60),
)
def test_spells_are_ordered_apart_and_agree_with_the_question_of_one_moment(
    moment: datetime, zone: str, cron: str, minutes: int
) -> None:
    now = moment.replace(tzinfo=UTC)
    window = ScheduleWindow(cron, timedelta(minutes=minutes), zone, min_replicas=1)
    found = spells(window, now - timedelta(hours=1), now + timedelta(hours=1))
    assert all(a < b for a, b in found)
    assert all(found[i][1] < found[i + 1][0] for i in range(len(found) - 1))
    assert (active((window,), now).min_replicas == 1) == any(a <= now < b for a, b in found)


# --- windows that contradict each other ------------------------------------------------------------------------------


def windows(*told: tuple[str, float, str, int | None, int | None]) -> tuple[ScheduleWindow, ...]:
    return tuple(ScheduleWindow(cron, timedelta(hours=hours), zone, low, high) for cron, hours, zone, low, high in told)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([("0 8 * * 1-5", 10, "UTC", 6, None), ("0 12 * * 1-5", 1, "UTC", None, 4)], (0, 1, "2026-01-01T12:00")),
        ([("0 12 * * 1-5", 1, "UTC", None, 4), ("0 8 * * 1-5", 10, "UTC", 6, None)], (1, 0, "2026-01-01T12:00")),
        ([("0 8 * * 1-5", 10, "UTC", 6, None), ("0 18 * * 1-5", 10, "UTC", None, 4)], None),
        ([("0 8 * * 1-5", 10, "UTC", 6, None), ("0 12 * * *", 1, "UTC", None, 6)], None),
        ([("0 8 * * 1-5", 10, "UTC", 6, None), ("0 12 * * 1-5", 1, "UTC", 9, None)], None),
        ([("0 0 29 2 *", 24, "UTC", 6, None), ("0 0 * * 2", 24, "UTC", None, 4)], (0, 1, "2028-02-29T00:00")),
        ([("0 22 31 12 *", 12, "UTC", 6, None), ("0 2 1 1 *", 1, "UTC", None, 4)], (0, 1, "2026-01-01T02:00")),
        # 12:00 in New York is 18:00 in Berlin, but 17:00 in the weeks when only one of them has summer time
        (
            [("0 8 * * *", 10, "Europe/Berlin", 6, None), ("0 12 * * *", 1, "America/New_York", None, 4)],
            (0, 1, "2026-03-08T17:00"),
        ),
        ([("* * * * *", 1, "UTC", 6, None), ("0 12 * * *", 1, "UTC", None, 4)], (0, 1, "2026-01-01T12:00")),
        ([("*/2 * * * *", 1 / 60, "UTC", 6, None), ("1-59/2 * * * *", 1 / 60, "UTC", None, 4)], None),
    ],
    ids=[
        "a lunch break",
        "the other way round",
        "one after the other",
        "limits that agree",
        "two minima",
        "on a leap day that is a Tuesday",
        "over New Year",
        "between two changes of clocks",
        "always open",
        "interleaved",
    ],
)
def test_windows_that_contradict_each_other_are_found_where_they_meet(
    told: list[tuple[str, float, str, int | None, int | None]], expected: tuple[int, int, str] | None
) -> None:
    found = contradiction(windows(*told))
    assert (found if found is None else (*found[:2], f"{found[2]:%Y-%m-%dT%H:%M}")) == expected
    if found is not None:
        state = active(windows(*told), found[2])  # the law behind it: what is in force then makes no sense
        assert state.min_replicas is not None and state.max_replicas is not None
        assert state.min_replicas > state.max_replicas


def test_a_time_zone_that_depends_on_the_machine_is_refused() -> None:
    for name in ("localtime", "posixrules", "right/Europe/Berlin", "posix/UTC"):
        with pytest.raises(InputError, match="not an IANA time zone"):
            validate(replace(OFFICE, timezone=name))


@pytest.mark.parametrize("cron", ["0 8 30 2 *", "0 0 31 4,6,9,11 *", "0 0 30,31 2 *"])
def test_a_cron_that_never_fires_says_so(cron: str) -> None:
    with pytest.raises(InputError, match="it never fires: its months have no such day: write"):
        validate(replace(OFFICE, cron=cron))
