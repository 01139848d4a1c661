"""Empirical quantiles of many rows, their reading at any level, and the robust regression that the residuals are of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from forecaster.domain import FloatArray

# Levels at which fitted tables are kept. A request is read off them, beyond the last one along an exponential tail.
TABLE_LEVELS = np.array([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995])
_TAIL = 2  # tables: how far from the end the slope of the tail is taken


def sample_quantiles(values: FloatArray, levels: NDArray[np.float64] = TABLE_LEVELS) -> FloatArray:
    """(row, level) of values (row, sample), leaving NaN out; rows without a sample are NaN."""
    ordered = np.sort(values, axis=1)  # NaN goes last
    if ordered.size and not np.isnan(ordered[:, -1]).any():  # nothing is missing: the same places in all rows
        place = np.clip(levels * ordered.shape[1] - 0.5, 0, ordered.shape[1] - 1)
        low = place.astype(np.int64)
        at_low = ordered[:, low]
        return np.asarray(at_low + (place - low) * (ordered[:, np.minimum(low + 1, ordered.shape[1] - 1)] - at_low))
    count = (~np.isnan(ordered)).sum(axis=1)[:, None]
    place = np.clip(levels[None, :] * count - 0.5, 0, np.maximum(count - 1, 0))
    low = place.astype(np.int64)
    high = np.minimum(low + 1, np.maximum(count - 1, 0))
    if not values.shape[1]:
        return np.full((len(values), len(levels)), np.nan)
    at_low = np.take_along_axis(ordered, low, axis=1)
    at_high = np.take_along_axis(ordered, high, axis=1)
    return np.asarray(at_low + (place - low) * (at_high - at_low))


def level_weights(wanted: Sequence[float], known_levels: NDArray[np.float64] = TABLE_LEVELS) -> NDArray[np.float64]:
    """(known level, wanted level): `table @ weights` reads a table at `wanted`, without ever crossing.

    Linear on the scale on which an exponential tail is straight, as forecaster.quantiles.
    """
    known = _stretch(known_levels)
    weights = np.zeros((len(known), len(wanted)))
    for column, x in enumerate(_stretch(np.asarray(wanted, dtype=np.float64))):
        right = int(np.clip(np.searchsorted(known, x), 1, len(known) - 1))
        left = right - 1
        if x > known[-1]:
            left, right = len(known) - 1 - _TAIL, len(known) - 1
        elif x < known[0]:
            left, right = 0, _TAIL
        share = (x - known[left]) / (known[right] - known[left])
        weights[left, column] += 1 - share
        weights[right, column] += share
    return weights


def _stretch(level: NDArray[np.float64]) -> NDArray[np.float64]:
    high = np.clip(1 - level, 1e-300, None)
    return np.asarray(np.where(level >= 0.5, -np.log(2 * high), np.log(2 * np.clip(level, 1e-300, None))))


def median_regression(
    features: FloatArray,
    target: FloatArray,
    weight: FloatArray,
    rounds: int = 2,
    shrink: float = 3.0,
    prior: FloatArray | None = None,
) -> FloatArray:
    """Coefficients (row, feature) of the conditional median, without intercept, shrunk towards 0.

    features (row, feature, sample), target and weight (row, sample), no NaN; samples of weight 0 do not count.
    Iteratively reweighted least squares (Schlossmacher, JASA 68(344), 1973); `shrink` is worth that many samples of an
    average feature.
    """
    count = features.shape[1]
    turned = features.transpose(0, 2, 1)
    total = np.maximum(weight.sum(axis=1), 1e-9)  # (row,)
    current = weight
    beta: FloatArray = np.zeros((len(features), count))
    for step in range(rounds + 1):
        weighted = features * current[:, None, :]
        gram = (weighted @ turned).astype(np.float64)
        moment = (weighted @ target[:, :, None])[:, :, 0].astype(np.float64)
        size = np.trace(gram, axis1=1, axis2=2) / count
        ridge = size * (shrink / total + 1e-4) + 1e-9
        gram[:, range(count), range(count)] += ridge[:, None]
        beta = np.linalg.solve(gram, moment[:, :, None])[:, :, 0]
        if step == rounds:
            break
        miss = np.abs(target - combined(features, beta))
        typical = (miss * weight).sum(axis=1) / total
        floor = np.maximum(0.1 * typical, 1e-9)[:, None]
        current = (weight * (typical[:, None] + 1e-9) / np.maximum(miss, floor)).astype(features.dtype)
    return np.asarray(beta)


def combined(features: FloatArray, beta: FloatArray) -> FloatArray:
    """(row, sample) sums over features (row, feature, sample) weighted by beta (row, feature)."""
    return np.asarray((beta[:, None, :].astype(features.dtype) @ features)[:, 0])
