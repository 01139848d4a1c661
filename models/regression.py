"""Small robust ridge regressions of many rows at once, shrunk as far as their newest samples say."""

from __future__ import annotations

import numpy as np

from forecaster.domain import BoolArray, FloatArray
from models.gaps import mean

_RIDGES = (0.02, 0.3, 4.0)  # of the regressors' own size; the one that does best on the newest draws is taken
_NEWEST = 0.3  # share of the draws on which that is seen


def regressed(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Robust ridge regression of y (row, n) on x (row, n, regressor), in the order of time.

    Returns the coefficients (row, regressor), the residuals (row, n), and those of the newest draws by a fit on the
    older ones alone (row, newest), which also choose how far coefficients are shrunk towards 0, that is persistence.
    Errors count by their square, weighted down by their size: nearly the median's regression. A missing regressor
    counts as 0. Rows without a sample are NaN.
    """
    known = ~np.isnan(y)
    x, y = np.nan_to_num(x).astype(np.float32), np.where(known, y, 0.0).astype(np.float32)
    weight = known.astype(np.float32)
    old = y.shape[1] - max(round(_NEWEST * y.shape[1]), 1)
    older, newer = slice(0, old), slice(old, None)
    early = _moments(x[:, older], y[:, older], weight[:, older])
    trials = [_solved(early, np.full(len(x), ridge)) for ridge in _RIDGES]
    held = y[:, newer, None] - x[:, newer] @ np.stack(trials, axis=2)  # (row, newest, ridge)
    held[~known[:, newer]] = np.nan
    chosen = np.nan_to_num(mean(np.abs(np.swapaxes(held, 1, 2))), nan=0.0).argmin(axis=1)
    rows = np.arange(len(x))
    ridge = np.array(_RIDGES)[chosen]
    first = _solved(_moments(x, y, weight), ridge)
    weight = _weights(y - (x @ first[..., None])[..., 0], known)
    beta = _solved(_moments(x, y, weight), ridge)
    miss = np.where(known, y - (x @ beta[..., None])[..., 0], np.nan)
    beta[~known.any(axis=1)] = np.nan
    return beta, miss, held[rows, :, chosen]


def _weights(miss: FloatArray, known: BoolArray) -> FloatArray:
    """(row, n) one over the size of the miss, in units of its mean; 0 where nothing is known."""
    size = np.abs(miss)
    usual = np.nan_to_num(mean(np.where(known, size, np.nan)))[:, None].astype(np.float32) + np.float32(1e-6)
    return np.asarray(np.where(known, usual / np.maximum(size, 0.3 * usual), 0), dtype=np.float32)


def _moments(x: FloatArray, y: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(row, regressor, regressor) and (row, regressor): weighted products of the regressors, and with y."""
    weighted = np.swapaxes(x * weight[..., None], 1, 2)
    return (weighted @ x).astype(np.float64), (weighted @ y[..., None]).astype(np.float64)


def _solved(moments: tuple[FloatArray, FloatArray], ridge: FloatArray) -> FloatArray:
    """(row, regressor) coefficients, shrunk by `ridge` (row,) times the mean square of the regressors."""
    square, product = moments
    size = np.einsum("rii->r", square) / square.shape[1]
    shrunk = square + (ridge * size + 1e-6)[:, None, None] * np.eye(square.shape[1])
    return np.asarray(np.linalg.solve(shrunk, product)[..., 0], dtype=np.float32)
