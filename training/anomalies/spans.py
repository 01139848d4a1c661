"""Runs of marked rows: label windows and alarm states as first and last row."""

from __future__ import annotations

import numpy as np

from forecaster.domain import BoolArray, IntArray


def runs(marked: BoolArray) -> IntArray:
    """(k, 2) first and last row of each maximal run of marked rows of (n,)."""
    edge = np.diff(np.concatenate([[False], np.asarray(marked, dtype=np.bool_), [False]]).astype(np.int8))
    return np.stack([np.flatnonzero(edge == 1), np.flatnonzero(edge == -1) - 1], axis=1)


def joined(spans: IntArray, times: IntArray, step: int, gap: int) -> IntArray:
    """Spans (k, 2) of rows of which those that lie at most `gap` seconds apart are one.

    times (n,) are ends of intervals of `step` seconds, so that two neighbouring rows lie 0 s apart.
    """
    if len(spans) < 2:
        return spans
    apart = times[spans[1:, 0]] - step - times[spans[:-1, 1]] > gap
    starts = np.concatenate([spans[:1, 0], spans[1:, 0][apart]])
    ends = np.concatenate([spans[:-1, 1][apart], spans[-1:, 1]])
    return np.stack([starts, ends], axis=1)
