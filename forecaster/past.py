"""What the live history would have shown at an earlier moment: two grids, and nothing after it. Knows no file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property

import numpy as np

from forecaster import grid
from forecaster.domain import Calendar, Context, FloatArray, IntArray, SeriesBatch
from forecaster.foresight import only
from forecaster.history import FINE_COLUMNS

SPAN = timedelta(days=28)


class Past:
    """What the live history would have shown at any column of `series`: two grids, `span` back, and nothing after."""

    def __init__(self, series: SeriesBatch, span: timedelta = SPAN, timezones: Sequence[str] | None = None) -> None:
        self.series = series
        self._values = np.asarray(series.values, dtype=np.float32)
        self._calendar = Calendar(tuple(timezones) if timezones is not None else ("UTC",) * len(series.keys))
        self._step = int(series.step.total_seconds())
        self._coarse_step = grid.coarse_step(self._step)
        ratio = self._coarse_step // self._step
        self._times = series.times
        first = int(self._times[0]) if series.values.shape[1] else 0
        self._phase = first % self._step  # the live grids have none; those of somebody's series may
        # end of the first coarse interval
        self._coarse_first = self._phase - grid.floor_to(self._phase - first, self._coarse_step)
        lead = (first - (self._coarse_first - self._coarse_step)) // self._step - 1
        whole = (lead + self._values.shape[1]) // ratio * ratio
        padded = np.concatenate((np.full((len(self._values), lead), np.nan, dtype=np.float32), self._values), axis=1)
        self._coarse = grid.pool_mean(padded[:, :whole], ratio).astype(np.float32)
        self._columns = max(FINE_COLUMNS * self._step, int(span.total_seconds())) // self._coarse_step

    def together(self, columns: IntArray) -> tuple[FloatArray, FloatArray]:
        """(column, time) twice: the fine and the coarse values that `at` gives of the first row at several columns.

        The newest value is last; shorter pasts have NaN before them. A column of -1 knows nothing.
        """
        origins = self._times[np.maximum(columns, 0)]
        heads = (origins - self._phase) // self._coarse_step * self._coarse_step + self._phase
        ends = np.maximum((heads - self._coarse_first) // self._coarse_step + 1, 0)
        fine, coarse = self._windows
        return _until(fine, columns + 1), _until(coarse, np.where(columns < 0, 0, ends))

    @cached_property
    def _windows(self) -> tuple[FloatArray, FloatArray]:
        """(end, time) twice: the fine and the coarse values of the first row before each end; views, no copies."""
        return _windows(self._values[0], FINE_COLUMNS), _windows(self._coarse[0], self._columns)

    def at(self, column: int, rows: IntArray | None = None) -> Context:
        """What was known at the end of `column`, of some rows or of all; of all without a copy."""
        fine = self._values[:, max(0, column + 1 - FINE_COLUMNS) : column + 1]
        origin = int(self._times[column])
        head = grid.floor_to(origin - self._phase, self._coarse_step) + self._phase
        end = max((head - self._coarse_first) // self._coarse_step + 1, 0)
        coarse = self._coarse[:, max(0, end - self._columns) : end]
        if not coarse.shape[1]:
            coarse = np.full((len(fine), 1), np.nan, dtype=np.float32)
        keys = self.series.keys
        whole = Context(
            fine=SeriesBatch(keys, datetime.fromtimestamp(origin, UTC), self.series.step, fine),
            coarse=SeriesBatch(keys, datetime.fromtimestamp(head, UTC), timedelta(seconds=self._coarse_step), coarse),
            calendar=self._calendar,
        )
        return whole if rows is None or len(rows) == len(keys) else only(whole, rows)


def _windows(values: FloatArray, width: int) -> FloatArray:
    padded = np.concatenate((np.full(width, np.nan, dtype=values.dtype), values))
    return np.lib.stride_tricks.sliding_window_view(padded, width)


def _until(windows: FloatArray, ends: IntArray) -> FloatArray:
    """(end, time) of some ends, as wide as the longest past, one column at least."""
    most = windows.shape[1]
    width = max(min(int(ends.max(initial=0)), most), 1)
    return np.asarray(windows[ends, most - width :])
