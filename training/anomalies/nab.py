"""The score of the Numenta Anomaly Benchmark, as its own scorer computes it, from raw detection scores.

Lavin and Ahmad, "Evaluating Real-time Anomaly Detection Algorithms", ICMLA 2015. One threshold for the whole corpus,
the one that is best for the profile, which is chosen on the labels: so NAB itself does. Comparable with its scoreboard,
and no measure of false alarms at a threshold that somebody could have known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecaster.domain import BoolArray, FloatArray, IntArray
from training.anomalies.spans import runs

PROBATION_SHARE, LONGEST_PROBATION = 0.15, 750  # of the rows of a file, ignored


@dataclass(frozen=True, slots=True)
class Profile:
    """Weights of a found window, a missed one, and a false positive."""

    name: str
    found: float
    missed: float
    false: float


PROFILES = (
    Profile("standard", 1.0, 1.0, 0.11),
    Profile("rewardLowFalsePositives", 1.0, 1.0, 0.22),
    Profile("rewardLowFalseNegatives", 1.0, 2.0, 0.11),
)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The rows of one file: those with a sample, in order."""

    score: FloatArray  # (n,) NaN never detects
    labels: BoolArray  # (n,)


def probation(rows: int) -> int:
    """Rows at the start of a file that are ignored."""
    return math.floor(min(PROBATION_SHARE * rows, LONGEST_PROBATION))


def nab_score(files: Sequence[Rows], profile: Profile) -> float:
    """The normalised score: 0 for never an alarm, 100 for each window at its first row and nothing else.

    Raises ValueError where no file has a label.
    """
    windows = sum(int((runs(one.labels)[:, 1] >= probation(len(one.labels))).sum()) for one in files)
    if not windows:
        raise ValueError("the NAB score is not defined without a label after the probation")
    scores, gains = zip(*(_gains(one, profile) for one in files), strict=True)
    score, gain = np.concatenate(scores), np.concatenate(gains)
    null = -windows * profile.missed
    raw = null + _best(score, gain)
    return 100 * (raw - null) / (windows * profile.found - null)


def _best(score: FloatArray, gain: FloatArray) -> float:
    """Largest sum of gains over rows at or above a threshold; 0 for none at all."""
    order = np.argsort(-score, kind="stable")
    score, reached = score[order], np.cumsum(gain[order])
    last_of_tie = np.append(score[1:] != score[:-1], True) if len(score) else np.zeros(0, dtype=np.bool_)
    return max(0.0, float(reached[last_of_tie].max(initial=0.0)))


def _gains(one: Rows, profile: Profile) -> tuple[FloatArray, FloatArray]:
    """(scores, gains) of the rows that can detect: what the raw sum gains when the threshold falls to their score.

    In a window only the best row counts, so a row gains what it adds to the best of the rows with a higher score.
    """
    n = len(one.score)
    gain = np.zeros(n)
    usable = ~np.isnan(one.score)
    usable[: probation(n)] = False
    windows = runs(one.labels)
    gain[~one.labels] = profile.false * _outside(n, windows)[~one.labels]
    for first, last in windows.tolist():
        rows = np.arange(first, last + 1)
        rows = rows[usable[rows]]
        width = last - first + 1
        worth = profile.found * _sigmoid(-(last - rows + 1) / width) / _sigmoid(np.array(-1.0))
        order = np.argsort(-one.score[rows], kind="stable")
        best = np.maximum.accumulate(worth[order]) + profile.missed
        gain[rows[order]] = np.diff(best, prepend=0.0)
    return one.score[usable], gain[usable]


def _outside(n: int, windows: IntArray) -> FloatArray:
    """(n,) value of a detection outside all windows, -1 to 0: less bad shortly after a window, -1 before the first."""
    rows = np.arange(n)
    at = np.searchsorted(windows[:, 1], rows, side="left") - 1  # the last window that ended before
    out = np.full(n, -1.0)
    after = at >= 0
    last = windows[at[after], 1]
    span = windows[at[after], 1] - windows[at[after], 0]
    with np.errstate(divide="ignore"):
        place = np.where(span > 0, (rows[after] - last) / np.maximum(span, 1), math.inf)
    out[after] = np.where(place >= 3.0, -1.0, _sigmoid(np.minimum(place, 3.0)))
    return out


def _sigmoid(y: FloatArray) -> FloatArray:
    return np.asarray(2 / (1 + np.exp(5 * y)) - 1, dtype=np.float64)
