"""Arrays with gaps: NaN is what is missing, and what is made of nothing is NaN again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from forecaster.domain import BoolArray, FloatArray, IntArray
from models.empirical import sample_quantiles


def taken(values: FloatArray, columns: IntArray) -> FloatArray:
    """(row, n) values at common columns (n,), NaN outside."""
    part = values[:, np.clip(columns, 0, values.shape[1] - 1)]
    outside = (columns < 0) | (columns >= values.shape[1])
    if outside.any():
        part[:, outside] = np.nan
    return part


def thinned(values: FloatArray, points: int) -> FloatArray:
    """Every k-th column counted from the end."""
    return values[:, ::-1][:, :: max(-(-values.shape[1] // points), 1)][:, ::-1]


def padded(values: FloatArray, columns: int) -> FloatArray:
    """The last `columns`, NaN before the first."""
    if values.shape[1] >= columns:
        return values[:, values.shape[1] - columns :]
    out = np.full((len(values), columns), np.nan, dtype=values.dtype)
    if values.shape[1]:
        out[:, -values.shape[1] :] = values
    return out


def mean(values: FloatArray) -> FloatArray:
    """(...,) mean of what is known along the last axis; NaN where nothing is."""
    total = values.sum(axis=-1, dtype=np.float64)
    if values.shape[-1] and not np.isnan(total).any():  # nothing is missing
        return np.asarray(total / values.shape[-1])
    known = ~np.isnan(values)
    count = known.sum(axis=-1)
    total = np.where(known, values, 0).sum(axis=-1, dtype=np.float64)
    return np.asarray(total / np.where(count > 0, count, np.nan))


def most(values: FloatArray) -> FloatArray:
    top = np.where(np.isnan(values), -np.inf, values).max(axis=-1, initial=-np.inf)
    return np.asarray(np.where(np.isfinite(top), top, np.nan))


def spread(values: FloatArray) -> FloatArray:
    """(...,) mean absolute distance from the mean."""
    return mean(np.abs(values - mean(values)[..., None]))


def middle(values: FloatArray) -> FloatArray:
    """(row,) median, the lower one of two; NaN where nothing is known."""
    if not values.shape[1]:
        return np.full(len(values), np.nan)
    ordered = np.sort(values, axis=1)
    count = (~np.isnan(ordered)).sum(axis=1)
    return np.asarray(ordered[np.arange(len(values)), np.maximum(count - 1, 0) // 2])


def quantiles(values: FloatArray, levels: Sequence[float]) -> FloatArray:
    """(row, level) of values (row, sample), leaving NaN out; rows without a sample are NaN."""
    return np.asarray(sample_quantiles(values, np.asarray(levels)), dtype=np.float32)


def moving_mean(values: FloatArray, before: int, after: int) -> FloatArray:
    """Means of what is known from `before` columns before to `after` columns after; NaN where nothing is."""
    known = ~np.isnan(values)
    sums = np.zeros((len(values), values.shape[1] + 1))
    counts = np.zeros((len(values), values.shape[1] + 1), dtype=np.int32)
    np.cumsum(np.where(known, values, 0), axis=1, out=sums[:, 1:])
    np.cumsum(known, axis=1, out=counts[:, 1:])
    columns = np.arange(values.shape[1])
    high, low = np.minimum(columns + after + 1, values.shape[1]), np.maximum(columns - before, 0)
    n = counts[:, high] - counts[:, low]
    return np.asarray(((sums[:, high] - sums[:, low]) / np.where(n > 0, n, np.nan)).astype(np.float32))


def smoothed(values: FloatArray) -> FloatArray:
    """Weights 1, 2, 1 over neighbours that are known; NaN where nothing is."""
    known = ~np.isnan(values)
    value, weight = np.where(known, values, np.float32(0)), known.astype(np.float32)
    total, mass = 2 * value, 2 * weight
    for x, into in ((value, total), (weight, mass)):
        into[:, 1:] += x[:, :-1]
        into[:, :-1] += x[:, 1:]
    return np.asarray(np.divide(total, mass, out=np.full_like(total, np.nan), where=mass > 0))


def faded(values: FloatArray, weight: FloatArray) -> FloatArray:
    """(row, query) weighted mean of what is known of values (row, query, day)."""
    known = ~np.isnan(values)
    mass = (known * weight).sum(axis=2)
    total = (np.where(known, values, 0) * weight).sum(axis=2)
    return np.asarray(total / np.where(mass > 0, mass, np.nan))


def bounded(values: FloatArray, available: BoolArray) -> NDArray[np.float32]:
    return np.clip(np.where(available, values, 0.0), -1e4, 1e4).astype(np.float32)


def between(left: FloatArray, right: FloatArray, share: FloatArray) -> FloatArray:
    """`share` of the way from left to right; the other one where one is missing."""
    mixed = left + share * (right - left)
    mixed = np.where(np.isnan(right), left, mixed)
    return np.asarray(np.where(np.isnan(left), right, mixed))
