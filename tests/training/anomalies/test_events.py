"""Events found, delays and false alarms of an alarm state, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.anomalies.events import Labelled, measured, total, windows_of

MINUTES = 5
WEEK_ROWS = 7 * 24 * 60 // MINUTES


def labelled(windows: list[tuple[int, int]], rows: int = WEEK_ROWS, first: int = 0) -> Labelled:
    step = 60 * MINUTES
    times = 1_700_000_100 // step * step + step * np.arange(rows)
    return Labelled(times, step, np.ones(rows, dtype=bool), np.array(windows, dtype=np.int64).reshape(-1, 2), first)


def alarms(series: Labelled, *rows: int) -> np.ndarray:
    out = np.zeros(len(series.times), dtype=bool)
    out[list(rows)] = True
    return out


@pytest.mark.parametrize(
    ("rows", "delays", "true", "false"),
    [
        ([], [], 0, 0),
        ([100], [0.0], 1, 0),
        ([103, 104], [900.0], 1, 0),
        ([99], [0.0], 1, 0),
        ([98], [], 0, 1),
        ([111], [3_300.0], 1, 0),
        ([112], [], 0, 1),
        ([50, 57], [], 0, 1),
        ([50, 58], [], 0, 2),
        ([92, 93, 99], [0.0], 1, 0),
        ([100, 118], [0.0], 1, 1),
        ([50, 105, 300], [1_500.0], 1, 2),
    ],
    ids=[
        "no alarm",
        "at once",
        "a quarter of an hour late",
        "within the slack before",
        "before the slack",
        "within the slack after",
        "after the slack",
        "30 minutes between two runs make them one",
        "35 do not",
        "a run that reaches the window is true as a whole",
        "true, and one that comes too late to be the same",
        "one of each",
    ],
)
def test_one_window_of_an_hour(rows: list[int], delays: list[float], true: int, false: int) -> None:
    series = labelled([(100, 110)])
    found = measured(series, alarms(series, *rows))
    assert (found.delays.tolist(), found.true_alarms, found.false_alarms) == (delays, true, false)
    assert (found.events, found.weeks) == (1, 1.0)


def test_what_comes_before_the_labels_does_not_count() -> None:
    series = labelled([(100, 110), (495, 505), (700, 710)], first=500)
    found = measured(series, alarms(series, 20, 105, 501, 702))
    assert found.events == 1  # the window that begins before is none, and its alarm is no false one
    assert found.delays.tolist() == [600.0]
    assert (found.true_alarms, found.false_alarms) == (2, 0)
    assert found.weeks == pytest.approx((WEEK_ROWS - 500) / WEEK_ROWS)


def test_an_alarm_that_never_ends_shows_in_its_time() -> None:
    series = labelled([(100, 110)])
    found = measured(series, np.ones(WEEK_ROWS, dtype=bool))
    assert (found.recall, found.false_alarms) == (1.0, 0)  # which is why its time is told
    assert found.alarmed == pytest.approx((WEEK_ROWS - 13) / WEEK_ROWS)


def test_windows_that_nearly_touch_are_each_found() -> None:
    series = labelled([(100, 102), (104, 106), (300, 301)])
    found = measured(series, alarms(series, 101, 105))
    assert found.delays.tolist() == [300.0, 300.0]
    assert found.recall == pytest.approx(2 / 3)
    assert found.precision == 1.0
    assert measured(series, alarms(series, 106)).delays.tolist() == [600.0]


def test_on_a_coarse_step_neighbouring_rows_are_one_alarm() -> None:
    times = 3_600 * np.arange(168)
    series = Labelled(times, 3_600, np.ones(168, dtype=bool), np.zeros((0, 2), dtype=np.int64), 0)
    assert measured(series, alarms(series, 3, 4, 5, 7)).false_alarms == 2


def test_sums_and_quantiles() -> None:
    one, two = labelled([(100, 110)]), labelled([(200, 210), (400, 410)])
    both = total([measured(one, alarms(one, 101, 500)), measured(two, alarms(two, 203, 900))])
    assert both.recall == pytest.approx(2 / 3)
    assert both.precision == pytest.approx(1 / 2)
    assert both.false_alarms_per_week == 1.0
    assert (both.delay(0.5), both.delay(0.9)) == (600.0, 840.0)
    nothing = total([])
    assert np.isnan([nothing.recall, nothing.precision, nothing.false_alarms_per_week, nothing.delay(0.5)]).all()


def test_a_row_without_a_sample_does_not_cut_a_window() -> None:
    labels = np.array([0, 1, 0, 1, 0, 0, 1], dtype=bool)
    known = np.array([1, 1, 0, 1, 1, 1, 1], dtype=bool)
    assert windows_of(labels, known).tolist() == [[1, 3], [6, 6]]


@settings(deadline=None, max_examples=60)
@given(
    windows=st.lists(st.tuples(st.integers(0, 1_900), st.integers(0, 30)), max_size=8),
    rows=st.lists(st.integers(0, WEEK_ROWS - 1), max_size=30),
    first=st.integers(0, 800),
)
def test_counted_one_by_one(windows: list[tuple[int, int]], rows: list[int], first: int) -> None:
    labels = np.zeros(WEEK_ROWS, dtype=bool)
    for start, length in windows:
        labels[start : start + length + 1] = True
    series = labelled(
        [tuple(pair) for pair in windows_of(labels, np.ones(WEEK_ROWS, dtype=bool)).tolist()], first=first
    )
    alarm = alarms(series, *rows)
    found = measured(series, alarm)
    on = [row for row in range(first, WEEK_ROWS) if alarm[row]]
    groups: list[list[int]] = []
    for row in on:
        if groups and row - groups[-1][-1] <= 7:
            groups[-1].append(row)
        else:
            groups.append([row])
    wide = [(start - 1, end + 1) for start, end in series.windows.tolist()]
    false = [group for group in groups if not any(a <= group[-1] and group[0] <= b for a, b in wide)]
    events = [(a, b) for a, b in wide if a + 1 >= first]
    caught = [(a, b) for a, b in events if any(a <= row <= b for row in on)]
    assert found.false_alarms == len(false)
    assert found.true_alarms == len(groups) - len(false)
    assert (found.events, len(found.delays)) == (len(events), len(caught))
    assert round(found.alarmed * WEEK_ROWS) == sum(not any(a <= row <= b for a, b in wide) for row in on)
