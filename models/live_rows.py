"""Rows of a context at the moment of a forecast: the samples that may be used, and fitted parameters between nodes."""

from __future__ import annotations

import numpy as np

from forecaster.domain import BoolArray, Context, FloatArray, IntArray
from models.blocks import Gate, nodes_of
from models.fits import Arrays


class LiveRows:
    """Some rows of a context beside what was fitted for them. Values are normalised as they were for fitting."""

    def __init__(self, context: Context, rows: IntArray, fitted: Arrays) -> None:
        self.context, self.rows = context, rows
        self.step = int(context.fine.step.total_seconds())
        self.cs = int(context.coarse.step.total_seconds())
        self.now = int(context.fine.origin.timestamp())
        self.head = int(context.coarse.origin.timestamp())
        self.nodes = nodes_of(self.step)
        self.fitted = {name: np.asarray(array)[rows] for name, array in fitted.items()}
        self.gate = self.fitted["gate"]
        self.center, self.scale = self.fitted["center"][:, None], self.fitted["scale"][:, None]
        self.nonnegative = self.fitted["nonnegative"][:, None]

    def taken(self, coarse: bool, columns: IntArray) -> FloatArray:
        """(row, n) normalised samples at columns (row, n), NaN outside, where missing and where masked."""
        batch = self.context.coarse if coarse else self.context.fine
        masked = self.context.coarse_masked if coarse else self.context.masked
        width = batch.values.shape[1]
        inside = np.clip(columns, 0, width - 1)
        raw = batch.values[self.rows[:, None], inside]
        out: FloatArray = (raw.astype(np.float64) - self.center) / self.scale
        out[(columns < 0) | (columns >= width)] = np.nan
        if masked is not None:
            out[masked[self.rows[:, None], inside]] = np.nan
        return out

    def last_known(self, coarse: bool) -> IntArray:
        """(row,) column of the last sample that may be used; -1 where there is none."""
        batch = self.context.coarse if coarse else self.context.fine
        width = batch.values.shape[1]
        found = np.full(len(self.rows), -1, dtype=np.int64)
        open_rows = np.arange(len(self.rows))
        reach, end = 8, width
        while len(open_rows) and end > 0:
            columns = np.arange(max(end - reach, 0), end)
            known = ~np.isnan(batch.values[self.rows[open_rows][:, None], columns])
            masked = self.context.coarse_masked if coarse else self.context.masked
            if masked is not None:
                known &= ~masked[self.rows[open_rows][:, None], columns]
            hit = known.any(axis=1)
            newest = columns[0] + known.shape[1] - 1 - known[:, ::-1].argmax(axis=1)
            found[open_rows[hit]] = newest[hit]
            open_rows, end, reach = open_rows[~hit], int(columns[0]), reach * 4
        return found

    def between_nodes(self, seconds: IntArray) -> tuple[IntArray, IntArray, FloatArray]:
        """The nodes on either side of (row, n) seconds ahead, and the share of the right one; linear in the log."""
        seconds = np.broadcast_to(seconds, (len(self.rows), seconds.shape[1]))
        right = np.clip(np.searchsorted(self.nodes, seconds), 1, max(len(self.nodes) - 1, 1))
        right = np.minimum(right, len(self.nodes) - 1)
        left = np.maximum(right - 1, 0)
        logs = np.log(self.nodes.astype(np.float64))
        width = np.maximum(logs[right] - logs[left], 1e-9)
        share = np.clip((np.log(np.maximum(seconds, 1)) - logs[left]) / width, 0, 1)
        return left, right, share.astype(np.float32)

    def parameter(self, name: str, at: tuple[IntArray, IntArray, FloatArray]) -> FloatArray:
        left, right, share = at
        row = np.arange(len(self.rows))[:, None]
        array = self.fitted[name]
        low = array[row, left]
        return np.asarray(low + share[..., None] * (array[row, right] - low))

    def finished(self, normal: FloatArray) -> FloatArray:
        """(row, n, level) back in the unit of the series, within what the series can be."""
        out = self.center[..., None] + self.scale[..., None] * normal.astype(np.float64)
        out = np.maximum.accumulate(out, axis=-1)
        out = np.where(self.nonnegative[..., None], np.maximum(out, 0.0), out)
        constant = (self.gate == Gate.CONSTANT)[:, None, None]
        return np.asarray(np.where(constant, self.center[..., None], out))

    def zones(self) -> list[tuple[str, IntArray]]:
        """The wall clocks in use, each with the rows that live by it."""
        names = np.array([self.context.calendar.timezones[row] for row in self.rows])
        return [(str(name), np.flatnonzero(names == name)) for name in np.unique(names)]

    def find_since(self) -> BoolArray:
        """Sets `since`, `gap` and the columns of the last sample that may be used; (row,) whether there is one."""
        fine_width, coarse_width = self.context.fine.values.shape[1], self.context.coarse.values.shape[1]
        self.fine_column = self.last_known(coarse=False)
        by_fine = self.fine_column >= 0
        coarse = np.full(len(self.rows), -1, dtype=np.int64)
        if not by_fine.all() and coarse_width:
            coarse = np.where(by_fine, -1, self.last_known(coarse=True))
        fine_time = self.now - (fine_width - 1 - self.fine_column) * self.step
        coarse_time = self.head - (coarse_width - 1 - coarse) * self.cs
        self.since = np.where(by_fine, fine_time, np.where(coarse >= 0, coarse_time, self.now))  # (row,)
        self.gap = np.maximum(self.now - self.since, 0)[:, None]
        self.coarse_upto = (coarse_width - 1 - -(-(self.head - self.since) // self.cs))[:, None]
        return np.asarray(by_fine | (coarse >= 0))

    def around_last(self, count: int) -> FloatArray:
        """(row, count) the last known sample and those before it, newest first; of means where only they are known."""
        by_fine = self.fine_column >= 0
        columns = np.where(by_fine, self.fine_column, -(10**9))[:, None]
        fine = self.taken(False, columns - np.arange(count))
        if by_fine.all():
            return fine
        coarse = self.taken(True, self.coarse_upto - np.arange(count))
        return np.where(by_fine[:, None], fine, coarse)

    def at_times(self, times: IntArray, members: IntArray) -> FloatArray:
        """(member, n) samples at Unix seconds `times` (n,): fine where they reach and are known, else coarse."""
        every = np.full((len(self.rows), len(times)), -1, dtype=np.int64)
        every[members] = self.context.fine.values.shape[1] - 1 - (self.now - times) // self.step
        found = self.taken(False, every)[members]
        if not np.isnan(found).any():
            return found
        # The coarse value whose interval the time lies in.
        every[members] = self.context.coarse.values.shape[1] - 1 - (self.head - times) // self.cs
        return np.asarray(np.where(np.isnan(found), self.taken(True, every)[members], found))
