"""What a detector is to the benchmark, and those that take part.

To take part, a detector needs one method, or is such a function: `scores`. It is asked once per series with the whole
of it and must be causal all the same: a test cuts the series and wants the same scores for what is left. It never sees
labels, other series or its family, and has one configuration for all.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from forecaster.domain import FloatArray, IntArray
from training.anomalies import baselines, outliers


class Detector(Protocol):
    """Scores one series at a time."""

    def scores(self, values: FloatArray, step: int, times: IntArray) -> FloatArray:
        """(n,) score of each row, 0 and more: larger is more unusual, row t from rows up to t.

        values (n,) on a regular grid of `step` seconds, NaN where no sample came; times (n,) Unix seconds, ends of
        intervals. NaN during warm-up and where the row is not scored, never 0 for that; a row without a sample may
        have a score (a gap can be an event). An alarm is a score at or above a threshold, and runs of alarms are
        events: an event that has been told and is over should fall below it.
        """


@dataclass(frozen=True, slots=True)
class Plain:
    """A function as a detector."""

    answer: Callable[[FloatArray, int, IntArray], FloatArray]
    package: str | None = None  # that it needs

    def scores(self, values: FloatArray, step: int, times: IntArray) -> FloatArray:
        """See Detector."""
        return self.answer(values, step, times)


OURS = "forecaster"
BASELINES: dict[str, Plain] = {
    "rolling_z": Plain(baselines.rolling_z),
    "seasonal_residual": Plain(baselines.seasonal_residual),
    "adaptive_band": Plain(baselines.adaptive_band),
    "differences": Plain(baselines.differences),
    "median_residual": Plain(baselines.median_residual),
    "three_residuals": Plain(baselines.three_residuals),
    "iforest": Plain(outliers.iforest, "pyod"),
    "knn": Plain(outliers.knn, "pyod"),
}


def taking_part() -> dict[str, Detector]:
    """All detectors of a run by name, in the order of the tables: ours, as OURS, goes first."""
    return dict(BASELINES)


def missing_packages() -> dict[str, str]:
    """Baseline -> the package without which it is left out."""
    return {
        name: one.package
        for name, one in BASELINES.items()
        if one.package is not None and importlib.util.find_spec(one.package) is None
    }
