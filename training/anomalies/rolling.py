"""Statistics of the rows before each row: none of them knows the row itself, or a later one. NaN is no sample."""

from __future__ import annotations

import numpy as np

from forecaster.domain import BoolArray, FloatArray, IntArray


def before(values: FloatArray, width: int, least: int) -> tuple[FloatArray, FloatArray]:
    """((n,), (n,)) mean and standard deviation of the samples in the `width` rows before each row of (n,).

    NaN where there are fewer than `least` samples.
    """
    known = ~np.isnan(values)
    count = _sum_before(known.astype(np.float64), width)
    # Sums of squares lose digits where the level is far from 0: they are taken about the first sample.
    about = float(values[known][0]) if known.any() else 0.0
    x = np.where(known, values - about, 0.0)
    enough = count >= max(least, 1)
    count = np.where(enough, count, np.nan)
    mean = _sum_before(x, width) / count
    variance = np.maximum(_sum_before(x * x, width) / count - mean * mean, 0.0)
    return mean + about, np.sqrt(variance)


def median_before(values: FloatArray, width: int, least: int) -> FloatArray:
    """(n,) median of the samples in the `width` rows before each row; NaN where there are fewer than `least`."""
    padded = np.concatenate([np.full(width, np.nan), values])
    windows = np.sort(np.lib.stride_tricks.sliding_window_view(padded, width)[: len(values)], axis=1)  # NaN sorts last
    count = (~np.isnan(windows)).sum(axis=1)
    rows, last = np.arange(len(values)), np.maximum(count - 1, 0)
    middle = (windows[rows, last // 2] + windows[rows, (last + 1) // 2]) / 2
    return np.where(count >= max(least, 1), middle, np.nan)


def last_known(values: FloatArray) -> FloatArray:
    """(n,) the newest sample before each row; NaN before the first one."""
    at: IntArray = np.maximum.accumulate(np.where(np.isnan(values), -1, np.arange(len(values))))
    out = np.where(at >= 0, values[at], np.nan)
    return np.concatenate([[np.nan], out[:-1]])


def shifted(values: FloatArray, rows: int) -> FloatArray:
    """(n,) the value so many rows before; NaN where the series had not begun."""
    out = np.full(len(values), np.nan)
    out[rows:] = values[: max(len(values) - rows, 0)]
    return out


def surprise(unusual: FloatArray, block: int, least: int) -> FloatArray:
    """(n,) -log10 of the share of earlier values as large as this one; NaN until `least` are known.

    Conformal: (1 + number at least as large) / (1 + number). Earlier means before the row's block of `block` rows, so
    that one sort serves a block.
    """
    out = np.full(len(unusual), np.nan)
    known: BoolArray = ~np.isnan(unusual)
    for start in range(0, len(unusual), block):
        past = np.sort(unusual[:start][known[:start]])
        if len(past) < least:
            continue
        rows = slice(start, start + block)
        larger = len(past) - np.searchsorted(past, unusual[rows], side="left")  # NaN sorts last: none is larger
        out[rows] = np.where(known[rows], np.log10((1 + len(past)) / (1 + larger)), np.nan)
    return out


def _sum_before(values: FloatArray, width: int) -> FloatArray:
    """(n,) sum over the `width` rows before each row."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    rows = np.arange(len(values))
    return np.asarray(total[rows] - total[np.maximum(rows - width, 0)])
