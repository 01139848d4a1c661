"""The highest load of 14 days: what the tripwire of new peaks measures a forecast by."""

from __future__ import annotations

import numpy as np

from forecaster.domain import BoolArray, Context, FloatArray, SeriesBatch, SeriesKey

SPAN = 14 * 86_400  # seconds
RENEW_EVERY = 3_600  # seconds; between, the newest column is taken in


class HighestLoad:
    """Maxima of all rows, renewed from the history once an hour."""

    def __init__(self) -> None:
        self._keys: tuple[SeriesKey, ...] = ()
        self._renewed_at = 0
        self._masked = False
        self._highest: FloatArray = np.zeros(0)

    def of(self, context: Context, complete: bool) -> FloatArray:
        """(row,) highest sample of the last 14 days that is not masked; NaN where there is none.

        While the history is not `complete` it is renewed each time: back-fill brings older samples.
        """
        head = int(context.fine.origin.timestamp())
        fresh = 0 <= head - self._renewed_at < RENEW_EVERY and complete
        if fresh and context.fine.keys is self._keys and self._masked == (context.masked is not None):
            newest = np.asarray(context.fine.values[:, -1], dtype=np.float64)
            if context.masked is not None:
                newest = np.where(context.masked[:, -1], np.nan, newest)
            self._highest = np.fmax(self._highest, newest)
            return self._highest
        fine, coarse = _top(context.fine, context.masked), _top(context.coarse, context.coarse_masked)
        self._highest = np.fmax(fine, coarse)
        self._keys, self._masked = context.fine.keys, context.masked is not None
        self._renewed_at = head if complete else 0
        return self._highest


def _top(batch: SeriesBatch, masked: BoolArray | None) -> FloatArray:
    columns = min(batch.values.shape[1], SPAN // int(batch.step.total_seconds()))
    values = batch.values[:, -columns:]
    if masked is not None:
        values = np.where(masked[:, -columns:], np.nan, values)
    return np.asarray(np.fmax.reduce(values, axis=1), dtype=np.float64)
