"""Since when a load is known: two days of it are the least that a floor is built on.

Less shows no second day that the first one can be compared with, whatever a network makes of it. Until then the HPA
reacts alone; schedules and pins count.
"""

from __future__ import annotations

import math

import numpy as np

from forecaster.domain import Context, FloatArray, IntArray, SeriesBatch, SeriesKey
from forecaster.reasons import Reason, ReasonCode

LEAST_SECONDS = 2 * 86_400
RENEW_EVERY = 3_600  # seconds; between, nothing older can turn up once the history is complete


class KnownSince:
    """The time of the first known sample of all rows."""

    def __init__(self) -> None:
        self._keys: tuple[SeriesKey, ...] = ()
        self._renewed_at = 0
        self._since: FloatArray = np.zeros(0)

    def of(self, context: Context, complete: bool) -> FloatArray:
        """(row,) Unix seconds, begin of the first interval with a sample; NaN where there is none.

        While the history is not `complete` it is renewed each time: back-fill brings older samples.
        """
        head = int(context.fine.origin.timestamp())
        if complete and 0 <= head - self._renewed_at < RENEW_EVERY and context.fine.keys is self._keys:
            unknown = np.flatnonzero(np.isnan(self._since))
            if len(unknown):  # a first sample is a new one: it lies in the fine grid
                self._since = self._since.copy()
                self._since[unknown] = _first(context.fine, unknown)
            return self._since
        rows = np.arange(len(context.fine.keys))
        self._since = np.fmin(_first(context.fine, rows), _first(context.coarse, rows))
        self._keys, self._renewed_at = context.fine.keys, head if complete else 0
        return self._since


def too_short(since: float, now: float) -> Reason | None:
    """Why no floor can rest on a load that is known since then; None where it can, or where nothing is known at all."""
    known = now - since
    if math.isnan(known) or known >= LEAST_SECONDS:
        return None
    said = f"{max(known, 0.0) / 3600:.1f} hours of load are known, a floor needs {LEAST_SECONDS // 3600}"
    return Reason(ReasonCode.HISTORY_TOO_SHORT, said)


def _first(batch: SeriesBatch, rows: IntArray) -> FloatArray:
    there = ~np.isnan(batch.values[rows])
    begins = batch.times[there.argmax(axis=1)] - batch.step.total_seconds()
    return np.where(there.any(axis=1), begins, np.nan)
