"""Recall and delay by kind of fault, on simulated workloads with a known onset.

Thresholds are learned, without labels, on the days before the onset (`thresholds.learned`, pooled over the workloads of
a kind) and stay: the fault does not teach them. A detector of one series is shown the series that shows the fault best,
of ten pods each by itself; one that sees the whole workload implements WorkloadDetector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from forecaster.domain import BoolArray, FloatArray
from training.anomalies.detectors import Detector
from training.anomalies.events import MERGE, SLACK, Labelled, Outcome, measured, total
from training.anomalies.points import over_threshold
from training.anomalies.run import BUDGETS
from training.anomalies.spans import joined, runs
from training.anomalies.thresholds import learned
from training.anomalies.workloads import KINDS, Kind, Observed, Run, run_of
from training.benchmark.work import Call, done

FROM_DAYS = 3  # false alarms count from here to the onset
DAY = 86_400


class WorkloadDetector(Protocol):
    """Scores a workload from all of its series."""

    def workload_scores(self, observed: Observed) -> FloatArray:
        """(n,) one score for the workload at each row: as Detector.scores, row t from columns up to t.

        The score is the highest over all kinds of anomaly that the detector knows: usage given load, peers, memory
        towards its limit, data faults. A row without a sample may have one.
        """


@dataclass(frozen=True, slots=True, eq=False)
class FaultRow:
    """A detector on one kind of fault."""

    kind: str
    model: str
    budget: float
    injected: int
    delays: FloatArray  # (found,) seconds from the onset to the first alarm while it lasts
    in_time: float  # share told by the deadline of the kind
    one_incident: float  # share with exactly one alarm from the onset on
    before: Outcome  # of the calm rows before the onsets

    @property
    def recall(self) -> float:
        """Share of the faults with an alarm; for a harmless kind the smaller the better."""
        return len(self.delays) / self.injected if self.injected else np.nan

    def delay(self, share: float) -> float:
        """Quantile of the delays, seconds; NaN where nothing was found."""
        return float(np.quantile(self.delays, share)) if len(self.delays) else np.nan


def measured_faults(
    detectors: Mapping[str, Detector | WorkloadDetector],
    count: int,
    seed: int,
    processes: int,
    progress: Callable[[float], None],
    kinds: Sequence[Kind] | None = None,
) -> list[FaultRow]:
    """`count` workloads of each kind, the same ones for all kinds and detectors."""
    calls = [
        Call(1.0, _kind_of, (kind, name, detector, count, seed))
        for kind in (KINDS if kinds is None else kinds)
        for name, detector in detectors.items()
    ]
    return [row for rows in done(calls, processes, progress) for row in rows]


def _kind_of(kind: Kind, name: str, detector: Detector | WorkloadDetector, count: int, seed: int) -> list[FaultRow]:
    them = [run_of(kind, seed, number) for number in range(count)]
    scores = scores_of_all(detector, [run.observed for run in them], kind.signal)
    out = []
    for budget in BUDGETS:
        limits = learned(scores, [run.observed.times for run in them], budget)
        alarms = [
            over_threshold(score, _kept(limit, run.onset)) >= 1
            for score, limit, run in zip(scores, limits, them, strict=True)
        ]
        out.append(_row(kind, name, budget, them, alarms))
    return out


def scores_of(detector: Detector | WorkloadDetector, observed: Observed, signal: str) -> FloatArray:
    """(n,) what a detector says of a workload, from all of it if it can, else from the series named `signal`."""
    if hasattr(detector, "workload_scores"):
        return np.asarray(detector.workload_scores(observed), dtype=np.float64)
    values = getattr(observed, signal)
    each = [detector.scores(row, observed.step, observed.times) for row in np.atleast_2d(values)]
    return np.asarray(np.fmax.reduce(each), dtype=np.float64)


def scores_of_all(detector: Detector | WorkloadDetector, them: Sequence[Observed], signal: str) -> list[FloatArray]:
    """`scores_of` each; a detector that has `scores_of_all` is given all at once, for it steps over many faster."""
    together = getattr(detector, "scores_of_all", None)
    if together is not None:
        return [np.asarray(one, dtype=np.float64) for one in together(them)]
    return [scores_of(detector, one, signal) for one in them]


def _kept(limit: FloatArray, onset: int) -> FloatArray:
    """The thresholds (n,), from the onset on that of the onset."""
    out = limit.copy()
    out[onset:] = out[min(onset, len(out) - 1)]
    return out


def _row(kind: Kind, name: str, budget: float, them: Sequence[Run], alarms: Sequence[BoolArray]) -> FaultRow:
    delays, in_time, single = [], 0, 0
    faulty = [(run, alarm) for run, alarm in zip(them, alarms, strict=True) if run.onset < len(alarm)]
    for run, alarm in faulty:
        step = run.observed.step
        on = run.onset + np.flatnonzero(alarm[run.onset : run.end + SLACK // step])
        if len(on):
            delays.append((on[0] - run.onset) * step)
            in_time += int(on[0] <= run.deadline)
        rows = np.where(np.arange(len(alarm)) >= run.onset, alarm, False)
        single += int(len(joined(runs(rows), run.observed.times, step, MERGE)) == 1)
    injected = len(faulty)
    return FaultRow(
        kind=kind.name,
        model=name,
        budget=budget,
        injected=injected,
        delays=np.array(delays, dtype=np.float64),
        in_time=in_time / injected if injected else np.nan,
        one_incident=single / injected if injected else np.nan,
        before=total(_before(run, alarm) for run, alarm in zip(them, alarms, strict=True)),
    )


def _before(run: Run, alarm: BoolArray) -> Outcome:
    """False alarms of the calm rows before the onset."""
    n = run.onset
    times = run.observed.times[:n]
    none = np.zeros((0, 2), dtype=np.int64)
    known: BoolArray = np.ones(n, dtype=np.bool_)
    return measured(Labelled(times, run.observed.step, known, none, FROM_DAYS * DAY // run.observed.step), alarm[:n])
