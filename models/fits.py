"""Keeps what was fitted per row between calls, and says which rows are due again: a rotating share each step."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster.domain import BoolArray, Context, IntArray, SeriesKey
from models.blocks import Gate

Arrays = dict[str, NDArray[Any]]
Fit = Callable[[Context, IntArray], Arrays]

REFRESH_SECONDS = 7200  # an old fit is renewed about that often; its inputs are new at each call
_MOST = 8  # at most one row in eight is renewed in one call, however long the pause was
_FEW = 256  # … but this many always


@dataclass
class FitCache:
    """Fitted arrays by row. The answer depends on the sequence of contexts seen, never on a clock.

    A row is fitted at once when it is new, when time went back, or when the grid changed; a fresh cache therefore fits
    everything. Otherwise the rows most overdue are renewed, so many a call that all come round in REFRESH_SECONDS;
    rows with a short past (`span_seconds` among the arrays) come round when it has grown by an eighth.
    """

    renews: bool = True  # False: a row is fitted once, for replays that go through a day with one fit
    keys: tuple[SeriesKey, ...] = ()
    step: int = 0
    seen: int = 0  # origin of the last call, Unix seconds
    arrays: Arrays = field(default_factory=dict)

    def get(self, context: Context, fit: Fit, forced: Callable[[Arrays], BoolArray] | None = None) -> Arrays:
        """The fitted arrays for the rows of `context`, in order; `forced` names rows that must be fitted anew."""
        origin, step = int(context.fine.origin.timestamp()), int(context.fine.step.total_seconds())
        keys, count = context.fine.keys, len(context.fine.keys)
        if not self.arrays or step != self.step or origin < self.seen:
            self.arrays = self._stamped(fit(context, np.arange(count)), origin, count)
        else:
            if keys != self.keys:
                self._align(keys)
            due = self._due(origin, step) if self.renews else np.flatnonzero(np.asarray(self.arrays["fitted_at"]) < 0)
            if forced is not None:
                due = np.union1d(due, np.flatnonzero(forced(self.arrays)))
            if len(due):
                for name, fresh in self._stamped(fit(context, due), origin, len(due)).items():
                    self.arrays[name][due] = fresh
        self.keys, self.step, self.seen = keys, step, origin
        return self.arrays

    def forget(self, keys: Collection[SeriesKey]) -> None:
        """Fits the rows of `keys` anew at the next call."""
        for row, key in enumerate(self.keys):
            if key in keys:
                self.arrays["fitted_at"][row] = -1

    @staticmethod
    def _stamped(arrays: Arrays, origin: int, count: int) -> Arrays:
        return {**arrays, "fitted_at": np.full(count, origin, dtype=np.int64)}

    def _align(self, keys: tuple[SeriesKey, ...]) -> None:
        row_of = {key: i for i, key in enumerate(self.keys)}
        source = np.array([row_of.get(key, -1) for key in keys], dtype=np.int64)
        self.arrays = {name: array[source] for name, array in self.arrays.items()}
        self.arrays["fitted_at"][source < 0] = -1

    def _due(self, origin: int, step: int) -> IntArray:
        fitted = np.asarray(self.arrays["fitted_at"], dtype=np.int64)
        new = fitted < 0
        span = np.asarray(self.arrays["span_seconds"], dtype=np.float64)
        period = np.clip(span / 8, step, REFRESH_SECONDS)
        age = (origin - fitted) / period
        age[new] = -np.inf
        short = (period < REFRESH_SECONDS) & (age >= 1)
        elapsed = origin - self.seen
        quota = min(-(-len(fitted) * elapsed // REFRESH_SECONDS), max(_FEW, len(fitted) // _MOST))
        oldest = np.argsort(-age, kind="stable")[:quota]
        oldest = oldest[age[oldest] > 0]
        eager = np.flatnonzero(short)[: max(_FEW, len(fitted) // _MOST)]
        return np.unique(np.concatenate((np.flatnonzero(new), oldest, eager)))


def changed_kind(context: Context, fitted: Arrays) -> BoolArray:
    """Rows that were constant, or never negative, and are not any more. Too short ones come round by their span."""
    gate = np.asarray(fitted["gate"])
    newest = context.fine.values[:, -1].astype(np.float64)
    with np.errstate(invalid="ignore"):
        changed = (gate == Gate.CONSTANT) & (np.abs(newest - fitted["center"]) > 0)
    negative = np.asarray(fitted["nonnegative"]) & (newest < 0)
    return np.asarray(changed | negative)
