"""Regular grids of many series: alignment, a rolling window that is written in place, and means of it.

Times are Unix seconds; a grid's times are whole multiples of its step, and t is the end of an interval.
"""

from __future__ import annotations

import math

import numpy as np

from forecaster.domain import FloatArray, IntArray

COARSE_SECONDS = 300  # the coarse step, or the next multiple of the fine step
_SHIFT_ROWS = 512  # moved at a time, so that a shift needs no second copy of the whole grid


def floor_to(seconds: float, step: int) -> int:
    """The newest grid time at or before `seconds`."""
    return math.floor(seconds / step) * step


def coarse_step(step: int) -> int:
    """Step of the coarse grid for a fine one: at least five minutes, and a whole number of fine steps."""
    return step * math.ceil(max(COARSE_SECONDS, step) / step)


def on_grid(times: IntArray | FloatArray, values: FloatArray, origin: int, step: int, columns: int) -> FloatArray:
    """Samples (n,) of one series in any order -> (columns,), the last at `origin`.

    A cell holds the newest sample in (t - step, t] that is a number; the order of the input and repeated samples make
    no difference (of two values for one time the larger counts).
    """
    times, values = np.asarray(times, dtype=np.float64), np.asarray(values, dtype=np.float64)
    cells = np.ceil((times - origin) / step).astype(np.int64) + columns - 1
    good = np.isfinite(values) & (cells >= 0) & (cells < columns)
    times, values, cells = times[good], values[good], cells[good]
    order = np.lexsort((values, times))
    row = np.full(columns, np.nan)
    row[cells[order]] = values[order]  # the last one written counts
    return row


def pool_mean(values: FloatArray, ratio: int) -> FloatArray:
    """Means (series, time / ratio) of `ratio` columns each, of those that are there; NaN where none is."""
    rows, columns = values.shape
    blocks = values.reshape(rows, columns // ratio, ratio)
    known = ~np.isnan(blocks)
    count = known.sum(axis=2)
    total = np.where(known, blocks, 0).sum(axis=2, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / np.where(count, count, np.nan), dtype=np.float64)


class RollingGrid:
    """The newest `columns` grid points of many series, float32, written in place.

    `view` is a window on the buffer, without a copy: it stands still until the next call that writes.
    """

    def __init__(self, step: int, columns: int, head: int) -> None:
        self.step, self.columns, self.head = step, columns, head
        self._rows = 0
        self._width = columns + max(8, columns // 24)  # room to advance in before anything has to move
        self._end = columns
        self._buffer = np.full((0, self._width), np.nan, dtype=np.float32)

    @property
    def first(self) -> int:
        """Time of the oldest column."""
        return self.head - (self.columns - 1) * self.step

    @property
    def rows(self) -> int:
        return self._rows

    @property
    def times(self) -> IntArray:
        """(columns,) Unix seconds."""
        return self.first + self.step * np.arange(self.columns, dtype=np.int64)

    def view(self) -> FloatArray:
        """(rows, columns), the last column at `head`."""
        return self._buffer[: self._rows, self._end - self.columns : self._end]

    def between(self, after: int, until: int) -> FloatArray:
        """(rows, k): the columns in (after, until], both grid times inside the window."""
        first, last = self._column(after) + 1, self._column(until) + 1
        return self._buffer[: self._rows, first:last]

    def add_rows(self, count: int) -> None:
        """New rows at the end, all missing."""
        rows = self._rows + count
        if rows > len(self._buffer):
            grown = np.empty((rows + rows // 16, self._width), dtype=np.float32)
            grown[: self._rows] = self._buffer[: self._rows]
            grown[self._rows :] = np.nan
            self._buffer = grown
        self._buffer[self._rows : rows] = np.nan
        self._rows = rows

    def keep_rows(self, rows: IntArray) -> None:
        """Only these rows (ascending) stay, in their order."""
        self._buffer[: len(rows)] = self._buffer[rows]
        self._rows = len(rows)

    def advance(self, head: int) -> None:
        """Moves the window on to `head`, a grid time not before the present one; new columns are missing."""
        new = (head - self.head) // self.step
        assert new >= 0
        if new >= self.columns:
            self._buffer[: self._rows] = np.nan
            self._end = self.columns
        else:
            if self._end + new > self._width:
                stay = self.columns - new
                for first in range(0, self._rows, _SHIFT_ROWS):
                    block = self._buffer[first : min(first + _SHIFT_ROWS, self._rows)]
                    block[:, :stay] = block[:, self._end - stay : self._end].copy()
                self._end = stay
            self._buffer[: self._rows, self._end : self._end + new] = np.nan
            self._end += new
        self.head = head

    def write(self, rows: IntArray, first: int, values: FloatArray, open_from: int) -> None:
        """Writes values (len(rows), k) at times first, first + step, …; what lies outside of the window is left out.

        A missing value never erases a number. Points before `open_from` keep the number that they have: two replicas
        behind a balancer, with different gaps, must not rewrite each other's past.
        """
        at = self._column(first)
        low, high = self._end - self.columns, self._end
        skip = max(0, low - at)
        values = values[:, skip : max(skip, high - at)]
        if not values.size:
            return
        at += skip
        with np.errstate(over="ignore"):
            fresh = values.astype(np.float32)
        usable = np.isfinite(fresh)
        target = self._buffer[rows, at : at + fresh.shape[1]]
        closed = (open_from - (self.head - (self._end - 1 - at) * self.step)) // self.step
        if closed > 0:
            usable[:, :closed] &= np.isnan(target[:, :closed])
        self._buffer[rows, at : at + fresh.shape[1]] = np.where(usable, fresh, target)

    def _column(self, time: int) -> int:
        return self._end - 1 - (self.head - time) // self.step
