"""Maxima over windows of many rows, by doubling."""

from __future__ import annotations

import numpy as np

from forecaster.domain import FloatArray, IntArray


def running_maxima(x: FloatArray, longest: int) -> list[FloatArray]:
    """[k]: maximum of the 2^k columns up to and including each; -inf where none is known."""
    tables = [np.where(np.isnan(x), -np.inf, x).astype(np.float32)]
    while 2 ** len(tables) <= min(longest, x.shape[1]):
        last, reach = tables[-1], 2 ** (len(tables) - 1)
        wider = last.copy()
        np.maximum(last[:, reach:], last[:, :-reach], out=wider[:, reach:])
        tables.append(wider)
    return tables


def maximum_of(tables: list[FloatArray], columns: IntArray, count: int) -> FloatArray:
    """(row, n) maximum of the `count` columns that end at `columns`, of those that are known; NaN where none is."""
    level = min(max(count, 1).bit_length() - 1, len(tables) - 1)
    table, reach = tables[level], 2**level
    end = table[:, columns]
    top = np.maximum(end, table[:, np.clip(columns - count + reach, 0, columns)])
    return np.asarray(np.where(np.isfinite(top), top, np.nan))
