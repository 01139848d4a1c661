"""Labelled series of files made ready: on a grid, with what counts and what does not, or why they are left out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forecaster.domain import BoolArray, FloatArray, IntArray
from forecaster.tidy import TidySeries, read_tidy
from training.anomalies.events import Labelled, windows_of
from training.benchmark.panels import Skipped

DAY = 86_400
WARM_UP_SHARE, LONGEST_WARM_UP = 0.15, 7 * DAY  # of a series, not scored: the smaller of the two
SHORTEST = 3 * DAY  # detectors learn a day, thresholds another one
# Share of the rows at the start that nobody labelled, of sets that write False there; an empty label says it better.
UNLABELLED = {"smd_1m": 0.5}


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One series of a family with its labels."""

    family: str
    name: str
    values: FloatArray  # (n,) NaN where no sample came
    labels: BoolArray  # (n,)
    span: Labelled  # times, windows, and the first row that counts
    labelled_from: int  # row before which nobody labelled

    @property
    def scored(self) -> BoolArray:
        """(n,) rows that measures without a threshold rest on: a sample, after warm-up, where somebody labelled."""
        return self.span.known & (np.arange(len(self.values)) >= self.span.first)


def cases_of(path: Path, stamps_end: bool) -> tuple[list[Case], list[Skipped], list[Skipped]]:
    """(cases, series left out, what was odd about others) of a file. Raises InputError where it cannot be read."""
    cases, out, odd = [], [], []
    without = 0
    for one in read_tidy(path, stamps_end):
        if one.labels is None:
            without += 1
            continue
        made = _case(path.stem, one)
        if isinstance(made, str):
            out.append(Skipped(path.stem, one.name, made))
            continue
        cases.append(made)
        odd += [Skipped(path.stem, one.name, said) for said in one.quirks]
        if not len(made.span.events):
            odd.append(Skipped(path.stem, one.name, "no anomaly is labelled in what counts: only false alarms count"))
    if without:
        out.append(Skipped(path.stem, f"all {without}", "the file has no column 'is_anomaly'"))
    return cases, out, odd


def _case(family: str, one: TidySeries) -> Case | str:
    """The series ready to be scored, or why it is left out."""
    step = one.usual_step
    if not step:
        return "it has one row"
    try:
        times, values = one.on_grid(step)
    except ValueError as error:
        return str(error)
    known = ~np.isnan(values)
    if not known.any():
        return "all of its values are missing"
    labels = one.labels_on_grid(step)
    return _spanned(family, one.name, times, step, values, labels)


def _spanned(family: str, name: str, times: IntArray, step: int, values: FloatArray, labels: FloatArray) -> Case | str:
    n, known = len(values), ~np.isnan(values)
    if n * step < SHORTEST:
        return f"it spans {n * step / DAY:.1f} days: warm-up and thresholds need {SHORTEST // DAY}"
    somebody = ~np.isnan(labels)
    if not somebody.any():
        return "nobody labelled it: its column 'is_anomaly' is empty"
    unlabelled = max(int(somebody.argmax()), round(UNLABELLED.get(family, 0.0) * n))
    first = max(round(min(WARM_UP_SHARE * n, LONGEST_WARM_UP / step)), unlabelled)
    marked = labels == 1
    counted = known & (np.arange(n) >= first)
    if not counted.any():
        return "no sample after warm-up"
    if marked[counted].all():
        return "all of its rows are labelled as anomalies: nothing is left to be a false alarm"
    span = Labelled(times, step, known, windows_of(marked, known), first)
    return Case(family, name, values, marked, span, unlabelled)
