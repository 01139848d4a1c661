"""Reads a quantile of any level off the few that a forecast holds."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from forecaster.domain import FloatArray


def at_level(quantiles: FloatArray, levels: tuple[float, ...], wanted: ArrayLike) -> FloatArray:
    """(row,) the quantile of level `wanted` (row,) or one for all, from `quantiles` (row, level) at `levels`.

    Linear in -log(1 - level) above the median and in log(level) below it, inside and outside of the given levels: an
    exponential tail, continued with its last slope. Rows of NaN give NaN. Raises ValueError for a level outside (0, 1).
    """
    rows = len(quantiles)
    level = np.asarray(wanted, dtype=np.float64)  # one for all stays one: the same sums, once
    if level.ndim:
        level = np.broadcast_to(level, (rows,))
    if not ((level > 0) & (level < 1)).all():
        raise ValueError("a quantile level lies strictly between 0 and 1")
    if len(levels) < 2:
        raise ValueError("at least two levels are needed")
    known = _stretch(np.asarray(levels, dtype=np.float64))
    x = _stretch(level)
    right = np.clip(np.searchsorted(known, x), 1, len(known) - 1)  # (row,) outside: the outermost pair
    left = right - 1
    row = np.arange(rows) if level.ndim else slice(None)
    low, high = quantiles[row, left].astype(np.float64), quantiles[row, right].astype(np.float64)
    share = (x - known[left]) / (known[right] - known[left])
    return np.asarray(low + share * (high - low))


def _stretch(level: FloatArray) -> FloatArray:
    """A scale on which an exponential tail is a straight line on either side; 0 at the median."""
    return np.asarray(np.where(level >= 0.5, -np.log(2 * (1 - level)), np.log(2 * level)))
