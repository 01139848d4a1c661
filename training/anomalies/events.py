"""What an alarm state was worth: events found, how late, and false alarms, all as measured.

A label window is one event. An alarm is a maximal run of alarm state; runs at most MERGE seconds apart are one. It is
true where it overlaps a window widened by SLACK seconds to either side, else it is false. Labels are never spread over
alarms ("point adjustment"): an event counts once, and its delay runs from the start of its window.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from forecaster.domain import BoolArray, FloatArray, IntArray
from training.anomalies.spans import joined, runs

MERGE = 1_800  # seconds
SLACK = 300  # seconds
WEEK = 604_800


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """One series with its labels, on a regular grid; `first` is the first row that counts."""

    times: IntArray  # (n,) Unix seconds, ends of intervals
    step: int  # seconds
    known: BoolArray  # (n,) a sample is there
    windows: IntArray  # (k, 2) first and last row of each label window, also of those before `first`
    first: int  # rows before it are warm-up, or nobody labelled them

    @property
    def weeks(self) -> float:
        """Series-weeks that count."""
        return (len(self.times) - self.first) * self.step / WEEK

    @property
    def events(self) -> IntArray:
        """(k, 2) windows that lie wholly in what counts; one that begins before it is no event and excuses alarms."""
        return self.windows[self.windows[:, 0] >= self.first]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Counts of one series or, added up, of many."""

    events: int
    delays: FloatArray  # (found,) seconds from the start of the window to the first alarmed row, 0 where it was on
    true_alarms: int
    false_alarms: int
    weeks: float
    alarmed: float  # weeks in alarm state outside the widened windows

    @property
    def recall(self) -> float:
        return len(self.delays) / self.events if self.events else np.nan

    @property
    def precision(self) -> float:
        """Share of alarms that were true; NaN without an alarm."""
        alarms = self.true_alarms + self.false_alarms
        return self.true_alarms / alarms if alarms else np.nan

    @property
    def false_alarms_per_week(self) -> float:
        return self.false_alarms / self.weeks if self.weeks else np.nan

    def delay(self, share: float) -> float:
        """Quantile of the delays of the events that were found, seconds; NaN without one."""
        return float(np.quantile(self.delays, share)) if len(self.delays) else np.nan


def windows_of(labels: BoolArray, known: BoolArray) -> IntArray:
    """(k, 2) rows of the label windows of (n,): runs of labelled samples. Rows without a sample do not cut a window."""
    rows = np.flatnonzero(known)
    return np.asarray(rows[runs(labels[rows])].reshape(-1, 2), dtype=np.int64)


def measured(series: Labelled, alarm: BoolArray) -> Outcome:
    """Counts of an alarm state (n,) on one series. Rows before `series.first` do not count, alarms there neither."""
    times, step = series.times, series.step
    alarm = np.asarray(alarm, dtype=np.bool_) & (np.arange(len(times)) >= series.first)
    alarms = joined(runs(alarm), times, step, MERGE)
    begin, end = _widened(series, series.windows)
    # the widened windows do not overlap in order of their ends: a search finds the first that ends at or after a start
    at = np.searchsorted(end, times[alarms[:, 0]], side="left") if len(alarms) else np.zeros(0, dtype=np.int64)
    true = np.zeros(len(alarms), dtype=np.bool_)
    inside = at < len(begin)
    true[inside] = begin[at[inside]] <= times[alarms[inside, 1]]
    rows = np.flatnonzero(alarm)
    place = np.searchsorted(end, times[rows], side="left")
    excused = np.zeros(len(rows), dtype=np.bool_)
    excused[place < len(begin)] = begin[place[place < len(begin)]] <= times[rows[place < len(begin)]]
    return Outcome(
        events=len(series.events),
        delays=_delays(series, rows),
        true_alarms=int(true.sum()),
        false_alarms=int((~true).sum()),
        weeks=series.weeks,
        alarmed=float((~excused).sum()) * step / WEEK,
    )


def total(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcomes of many series as one."""
    them = list(outcomes)
    return Outcome(
        events=sum(one.events for one in them),
        delays=np.concatenate([one.delays for one in them]) if them else np.zeros(0),
        true_alarms=sum(one.true_alarms for one in them),
        false_alarms=sum(one.false_alarms for one in them),
        weeks=sum(one.weeks for one in them),
        alarmed=sum(one.alarmed for one in them),
    )


def _widened(series: Labelled, windows: IntArray) -> tuple[IntArray, IntArray]:
    """((k,), (k,)) first and last time of each window with its slack."""
    return series.times[windows[:, 0]] - SLACK, series.times[windows[:, 1]] + SLACK


def _delays(series: Labelled, rows: IntArray) -> FloatArray:
    """(found,) delays of the events that have an alarmed row of `rows` in their widened window."""
    events = series.events
    begin, end = _widened(series, events)
    if not len(rows) or not len(events):
        return np.zeros(0)
    at = np.searchsorted(series.times[rows], begin, side="left")
    alarm = series.times[rows[np.minimum(at, len(rows) - 1)]]
    found = (at < len(rows)) & (alarm <= end)
    late: FloatArray = (alarm[found] - series.times[events[found, 0]]).astype(np.float64)
    return np.maximum(late, 0.0)
