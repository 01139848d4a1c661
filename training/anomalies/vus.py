"""VUS-PR: area under range-based precision and recall, averaged over how generously a label is widened.

The definition is that of the benchmark TSB-AD (Liu and Paparrizos, "The Elephant in the Room", NeurIPS 2024; Paparrizos
et al., "Volume Under the Surface", VLDB 2022), with its 250 thresholds, so that figures compare with its leaderboard.
It is computed from counts instead of a pass over the series for each threshold, with the same result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecaster.domain import BoolArray, FloatArray, IntArray
from training.anomalies.spans import runs

THRESHOLDS = 250
USUAL_BUFFER = 125  # where the series has no period of 6 to 303 rows
_LAGS = 400
_FIRST_LAG = 3
_LONGEST_ACF = 20_000
_SHORTEST, _LONGEST = 3, 300  # of a period, counted from _FIRST_LAG


def buffer_length(values: FloatArray) -> int:
    """Longest buffer, in rows, for a series (n,) without gaps: the lag of its highest peak of autocorrelation.

    TSB-AD's `find_length_rank`, first rank; USUAL_BUFFER where there is no peak between lags 6 and 303.
    """
    x = np.asarray(values[:_LONGEST_ACF], dtype=np.float64)
    x = x - x.mean() if len(x) else x
    power = float(x @ x)
    if power == 0 or len(x) < _FIRST_LAG + 3:
        return USUAL_BUFFER
    size = 1 << (2 * len(x) - 1).bit_length()
    spectrum = np.abs(np.fft.rfft(x, size)) ** 2
    acf = np.fft.irfft(spectrum, size)[_FIRST_LAG : min(_LAGS, len(x) - 1) + 1] / power
    inner = acf[1:-1]
    peaks = np.flatnonzero((inner > acf[:-2]) & (inner > acf[2:])) + 1
    if not len(peaks):
        return USUAL_BUFFER
    best = int(peaks[np.argmax(acf[peaks])])
    return USUAL_BUFFER if best < _SHORTEST or best > _LONGEST else best + _FIRST_LAG


def vus_pr(score: FloatArray, labels: BoolArray, longest: int) -> float:
    """VUS-PR, 0 to 1, of scores (n,) against labels (n,), for buffers of 0 to `longest` rows.

    A row without a score (NaN) ranks below all others. Raises ValueError where no row is labelled.
    """
    ranges = runs(labels)
    if not len(ranges):
        raise ValueError("VUS-PR is not defined without a label")
    entered, alarmed = _entered(score)
    near = _Near.of(np.asarray(labels, dtype=np.bool_), ranges, longest // 2)
    return sum(_area(entered[near.rows], alarmed, near, ranges, buffer) for buffer in range(longest + 1)) / (
        longest + 1
    )


def _entered(score: FloatArray) -> tuple[IntArray, FloatArray]:
    """(n,) index of the first threshold at which a row is alarmed, and (threshold,) rows alarmed at each."""
    score = np.asarray(score, dtype=np.float64)
    known = ~np.isnan(score)
    lowest = float(score[known].min()) - 1.0 if known.any() else 0.0
    score = np.where(known, score, lowest)
    falling = np.sort(score)[::-1]
    thresholds = falling[np.linspace(0, len(score) - 1, THRESHOLDS).astype(np.int64)]
    # score >= thresholds[k], which fall: the first such k
    entered = np.searchsorted(-thresholds, -score, side="left")
    return entered.astype(np.int64), _cumulated(entered, np.ones(len(score)))


@dataclass(frozen=True, slots=True, eq=False)
class _Near:
    """The rows that some buffer reaches: no other row counts for anything but a false alarm."""

    size: int  # rows of the series
    rows: IntArray  # (m,) ascending
    inside: BoolArray  # (m,) labelled
    at: IntArray  # (pair,) a row beside a label, as its place in `rows`; once for each label that reaches it
    apart: IntArray  # (pair,) its distance to the label, ascending

    @staticmethod
    def of(labels: BoolArray, ranges: IntArray, reach: int) -> _Near:
        size = len(labels)
        away = np.arange(1, reach + 1)
        beside = np.concatenate([ranges[:, :1] - away, ranges[:, 1:] + away], axis=0).ravel()
        apart = np.tile(away, 2 * len(ranges))
        there = (beside >= 0) & (beside < size)
        beside, apart = beside[there], apart[there]
        rows = np.union1d(np.flatnonzero(labels), beside)
        order = np.argsort(apart, kind="stable")
        return _Near(size, rows, labels[rows], np.searchsorted(rows, beside[order]), apart[order])

    def weights(self, buffer: int) -> FloatArray:
        """(m,) 1 inside a label, falling with the square root to either side of it; 0 beyond half the buffer."""
        out = self.inside.astype(np.float64)
        count = int(np.searchsorted(self.apart, buffer // 2, side="right"))
        if count:
            soft = np.sqrt(1 - self.apart[:count] / buffer)
            out += np.bincount(self.at[:count], weights=soft, minlength=len(out))
        return np.minimum(out, 1.0)


def _area(entered: IntArray, alarmed: FloatArray, near: _Near, ranges: IntArray, buffer: int) -> float:
    """Area under precision over recall for one buffer: the average precision of TSB-AD.

    `entered` (m,) is that of the rows of `near`.
    """
    soft = near.weights(buffer)
    true = _cumulated(entered, soft)
    positives = near.inside.sum()
    # Labelled rows count whole, buffer rows only where they are alarmed; half-way between that and the labels alone.
    wanted = (positives + positives + _cumulated(entered, soft * ~near.inside)) / 2
    wide = _widened(ranges, buffer // 2, near.size)
    edges = np.searchsorted(near.rows, np.stack([wide[:, 0], wide[:, 1] + 1], axis=1)).ravel()
    earliest = np.minimum.reduceat(np.append(entered, THRESHOLDS), edges)[::2]
    recall = np.minimum(true / wanted, 1.0) * _cumulated(earliest, np.ones(len(wide))) / len(wide)
    return float(np.diff(recall, prepend=0.0) @ (true / alarmed))


def _cumulated(entered: IntArray, weights: FloatArray) -> FloatArray:
    """(threshold,) sum of the weights of what is alarmed at each threshold."""
    return np.cumsum(np.bincount(entered, weights=weights, minlength=THRESHOLDS + 1)[:THRESHOLDS])


def _widened(ranges: IntArray, half: int, size: int) -> IntArray:
    """(k, 2) the ranges with `half` rows more to either side; those that meet are one."""
    cut = ranges[:-1, 1] + half < ranges[1:, 0] - half
    starts = np.concatenate([ranges[:1, 0], ranges[1:, 0][cut]]) - half
    ends = np.concatenate([ranges[:-1, 1][cut], ranges[-1:, 1]]) + half
    return np.stack([np.maximum(starts, 0), np.minimum(ends, size - 1)], axis=1)
