"""`forecaster benchmark --anomalies`: all detectors on all labelled series, and what they reach."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forecaster.domain import FloatArray
from forecaster.errors import InputError
from training.anomalies import nab, points
from training.anomalies.cases import Case, cases_of
from training.anomalies.detectors import Detector, missing_packages
from training.anomalies.events import Outcome
from training.anomalies.thresholds import learned
from training.anomalies.vus import buffer_length, vus_pr
from training.benchmark.panels import Skipped, files_of
from training.benchmark.work import Call, done

HOUR = 3_600
BUDGETS = (0.1, 1.0)  # false alarms per series-week


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of the verb."""

    data: Path
    stamps_end: bool = False
    only: str | None = None
    models: tuple[str, ...] | None = None
    processes: int = 2


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What one detector said of one series."""

    score: FloatArray  # (n,)
    vus_pr: float  # with TSB-AD's buffer; NaN where no label lies in what counts
    vus_pr_hour: float  # with a buffer of an hour
    seconds: float  # of the processor


@dataclass(frozen=True, slots=True, eq=False)
class FamilyRow:
    """One detector on one family."""

    family: str
    model: str
    series: int
    vus_pr: float  # mean over the series that have a label
    vus_pr_hour: float
    nab: Mapping[str, float]  # profile -> score
    learned: Mapping[float, points.Point]  # budget -> with the thresholds of `thresholds.learned`
    equal: Mapping[float, points.Point]  # budget -> at so many false alarms as measured


@dataclass(frozen=True, slots=True, eq=False)
class SeriesRow:
    """One detector on one series."""

    family: str
    series: str
    model: str
    vus_pr: float
    learned: Mapping[float, Outcome]


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """The outcome of a run."""

    asked: Asked
    models: tuple[str, ...]
    left_out: Mapping[str, str]  # baseline -> package that is not installed
    rows: tuple[FamilyRow, ...]
    series: tuple[SeriesRow, ...]
    cases: tuple[Case, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[Skipped, ...]  # of series that take part: what was odd
    seconds: Mapping[str, float]


def benchmark(asked: Asked, detectors: Mapping[str, Detector], progress: Callable[[float], None]) -> Told:
    """Raises InputError for what the user must mend."""
    taking_part, left_out = _models(asked, detectors)
    cases: list[Case] = []
    skipped: list[Skipped] = []
    notes: list[Skipped] = []
    for path in files_of(asked.data, asked.only):
        made, without, odd = cases_of(path, asked.stamps_end)
        cases += made
        skipped += without
        notes += odd
    scored = scored_by(cases, taking_part, asked.processes, progress)
    rows: list[FamilyRow] = []
    series: list[SeriesRow] = []
    for family in dict.fromkeys(case.family for case in cases):
        members = [place for place, case in enumerate(cases) if case.family == family]
        for name in taking_part:
            row, each = _family([cases[i] for i in members], name, [scored[i, name] for i in members])
            rows.append(row)
            series += each
    seconds = {name: sum(one.seconds for (_, model), one in scored.items() if model == name) for name in taking_part}
    return Told(
        asked,
        tuple(taking_part),
        left_out,
        tuple(rows),
        tuple(series),
        tuple(cases),
        tuple(skipped),
        tuple(notes),
        seconds,
    )


def _models(asked: Asked, detectors: Mapping[str, Detector]) -> tuple[dict[str, Detector], dict[str, str]]:
    """The detectors that run, and the baselines whose package is missing."""
    wanted = tuple(detectors) if asked.models is None else asked.models
    unknown = [name for name in wanted if name not in detectors]
    if unknown:
        raise InputError(f"--models: {unknown[0]!r} is not known: write some of {', '.join(detectors)}")
    missing = {name: package for name, package in missing_packages().items() if name in wanted}
    return {name: one for name, one in detectors.items() if name in wanted and name not in missing}, missing


# --- scores ----------------------------------------------------------------------------------------------------------


def scored_by(
    cases: Sequence[Case], detectors: Mapping[str, Detector], processes: int, progress: Callable[[float], None]
) -> dict[tuple[int, str], Scored]:
    """What each detector says of each series; what takes longest goes first."""
    costs = {"iforest": 200.0, "knn": 100.0}
    work = sorted(
        ((costs.get(name, 5.0) * len(case.values), i, name) for i, case in enumerate(cases) for name in detectors),
        reverse=True,
    )
    calls = [Call(cost, scored, (cases[i], detectors[name])) for cost, i, name in work]
    return {(i, name): one for (_, i, name), one in zip(work, done(calls, processes, progress), strict=True)}


def scored(case: Case, detector: Detector) -> Scored:
    """Scores of one series, and its VUS-PR. Raises ValueError where the detector breaks its contract."""
    began = time.process_time()
    score = np.asarray(detector.scores(case.values, case.span.step, case.span.times), dtype=np.float64)
    spent = time.process_time() - began
    if score.shape != case.values.shape or (score < 0).any() or np.isinf(score).any():
        raise ValueError(f"scores of {case.family}/{case.name}: want {case.values.shape} of 0 and more, finite or NaN")
    rows = case.scored
    if not case.labels[rows].any():
        return Scored(score, math.nan, math.nan, spent)
    # TSB-AD's buffer is the period, a day on many loads: half a day to either side of a label of minutes.
    buffers = buffer_length(case.values[case.span.known]), max(HOUR // case.span.step, 2)
    wide, narrow = (vus_pr(score[rows], case.labels[rows], buffer) for buffer in buffers)
    return Scored(score, wide, narrow, spent)


# --- gathering -------------------------------------------------------------------------------------------------------


def _family(cases: Sequence[Case], model: str, scores: Sequence[Scored]) -> tuple[FamilyRow, list[SeriesRow]]:
    spans = [case.span for case in cases]
    ratios = {budget: ratios_of(cases, scores, budget) for budget in BUDGETS}
    row = FamilyRow(
        family=cases[0].family,
        model=model,
        series=len(cases),
        vus_pr=_mean([one.vus_pr for one in scores]),
        vus_pr_hour=_mean([one.vus_pr_hour for one in scores]),
        nab=_nab(cases, scores),
        learned={budget: points.at(ratios[budget], spans, 1.0) for budget in BUDGETS},
        equal={budget: points.at_equal_false_alarms(ratios[budget], spans, budget) for budget in BUDGETS},
    )
    each = [
        SeriesRow(
            case.family,
            case.name,
            model,
            one.vus_pr,
            {budget: points.at([ratios[budget][i]], [case.span], 1.0).outcome for budget in BUDGETS},
        )
        for i, (case, one) in enumerate(zip(cases, scores, strict=True))
    ]
    return row, each


def _mean(values: Sequence[float]) -> float:
    """Of those that are known; NaN without one."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def ratios_of(cases: Sequence[Case], scores: Sequence[Scored], budget: float) -> list[FloatArray]:
    """(n,) score over the threshold that was learned for `budget`, of each series of a set."""
    thresholds = learned([one.score for one in scores], [case.span.times for case in cases], budget)
    return [points.over_threshold(one.score, limit) for one, limit in zip(scores, thresholds, strict=True)]


def _nab(cases: Sequence[Case], scores: Sequence[Scored]) -> dict[str, float]:
    """Over the files of a family; NaN where it has no label."""
    files = []
    for case, one in zip(cases, scores, strict=True):
        rows = case.span.known & (np.arange(len(case.values)) >= case.labelled_from)
        files.append(nab.Rows(one.score[rows], case.labels[rows]))
    try:
        return {profile.name: nab.nab_score(files, profile) for profile in nab.PROFILES}
    except ValueError:  # no label after the probation: there is no such score
        return {profile.name: math.nan for profile in nab.PROFILES}
