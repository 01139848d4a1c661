"""VUS-PR: area under range-based precision and recall, averaged over how generously a label is widened.

The definition is that of the benchmark TSB-AD (Liu and Paparrizos, "The Elephant in the Room", NeurIPS 2024; Paparrizos
et al., "Volume Under the Surface", VLDB 2022), with its 250 thresholds, so that figures compare with its leaderboard.
It is computed from counts instead of a pass over the series for each threshold, with the same result.
"""

from __future__ import annotations

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
    inside = np.asarray(labels, dtype=np.float64)
    total = 0.0
    for buffer in range(longest + 1):
        total += _area(entered, alarmed, inside, ranges, buffer)
    return total / (longest + 1)


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
    alarmed = np.cumsum(np.bincount(entered, minlength=THRESHOLDS + 1)[:THRESHOLDS]).astype(np.float64)
    return entered.astype(np.int64), alarmed


def _area(entered: IntArray, alarmed: FloatArray, inside: FloatArray, ranges: IntArray, buffer: int) -> float:
    """Area under precision over recall for one buffer: the average precision of TSB-AD."""
    half = buffer // 2
    near = _widened(ranges, half, len(inside))
    hits, weight = np.zeros(THRESHOLDS), np.zeros(THRESHOLDS)
    found = np.zeros(THRESHOLDS)
    for first, last in near.tolist():
        rows = slice(first, last + 1)
        at, soft = entered[rows], _soft(inside, ranges, first, last, buffer)
        hits += np.bincount(at, weights=soft, minlength=THRESHOLDS)[:THRESHOLDS]
        weight += np.bincount(at, weights=soft * (inside[rows] == 0), minlength=THRESHOLDS)[:THRESHOLDS]
        earliest = int(at.min())
        if earliest < THRESHOLDS:
            found[earliest] += 1
    positives = inside.sum()
    true = np.cumsum(hits)
    # Labelled rows count whole, buffer rows only where they are alarmed; half-way between that and the labels alone.
    wanted = (positives + positives + np.cumsum(weight)) / 2
    recall = np.minimum(true / wanted, 1.0) * np.cumsum(found) / len(near)
    return float(np.diff(recall, prepend=0.0) @ (true / alarmed))


def _soft(inside: FloatArray, ranges: IntArray, first: int, last: int, buffer: int) -> FloatArray:
    """Weights of the rows `first` to `last`: 1 inside a label, falling with the square root to either side of it."""
    out = inside[first : last + 1].copy()
    half = buffer // 2
    if not half:
        return out
    size = len(inside)
    for start, end in ranges[(ranges[:, 0] - half <= last) & (ranges[:, 1] + half >= first)].tolist():
        after = np.arange(end + 1, min(end + half + 1, size))
        before = np.arange(max(start - half, 0), start)
        out[after - first] += np.sqrt(1 - (after - end) / buffer)
        out[before - first] += np.sqrt(1 - (start - before) / buffer)
    return np.minimum(out, 1.0)


def _widened(ranges: IntArray, half: int, size: int) -> IntArray:
    """(k, 2) the ranges with `half` rows more to either side; those that meet are one."""
    cut = ranges[:-1, 1] + half < ranges[1:, 0] - half
    starts = np.concatenate([ranges[:1, 0], ranges[1:, 0][cut]]) - half
    ends = np.concatenate([ranges[:-1, 1][cut], ranges[-1:, 1]]) + half
    return np.stack([np.maximum(starts, 0), np.minimum(ends, size - 1)], axis=1)
