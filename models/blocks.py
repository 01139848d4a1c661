"""Rows of a context made ready for fitting: cut to their past, normalised, gated; and the horizons that are fitted.

Blocks hold rows that share a wall clock and a length of history, so that all index arithmetic is shared too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from forecaster.domain import BoolArray, Context, FloatArray, Forecast, ForecastRequest, IntArray
from forecaster.reasons import Reason, ReasonCode
from models.wall_clock import DAY

MINUTE, HOUR = 60, 3600
LEAST_SECONDS = 30 * MINUTE  # of known samples
LEAST_SAMPLES = 6
_NODES = (1, 2, 3, 5, 10, 15, 30, 60, 180, 360, 720, 1080, 1440)  # minutes
_ROWS = 64  # of one block: its working set stays in the cache
_SAME = 0.8  # share of one and the same value from which a series is sparse
_STICKY = 0.9  # share of steps without a change from which it is piecewise constant


class Gate(IntEnum):
    """What kind of series a row is; all but NORMAL are kept away from regression."""

    NORMAL = 0
    STICKY = 1  # piecewise constant: last value
    SPARSE = 2  # one value nearly always, with short excursions: marginal quantiles
    CONSTANT = 3
    SHORT = 4  # too little history
    EMPTY = 5  # none


def nodes_of(step: int) -> IntArray:
    """(node,) seconds: the horizons and windows at which parameters are fitted, whole multiples of `step`."""
    wanted = {step} | {max(step, round(60 * minutes / step) * step) for minutes in _NODES}
    return np.array(sorted(wanted), dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Rows ready for fitting. Values are (value - center) / scale, float32; masked and missing samples are NaN."""

    rows: IntArray  # (row,) into the context
    timezone: str
    step: int
    coarse_step: int
    fine: FloatArray  # (row, time), cut to the rows' past
    fine_times: IntArray
    coarse: FloatArray
    coarse_times: IntArray
    center: FloatArray  # (row,) float64
    scale: FloatArray  # (row,) float64, > 0
    nonnegative: BoolArray  # (row,)
    span_seconds: FloatArray  # (row,) from the first known sample to the origin
    gate: NDArray[np.int8]  # (row,) Gate

    @property
    def zero(self) -> FloatArray:
        """(row,) where 0 lies on the normalised scale."""
        return np.asarray(-self.center / self.scale)

    @property
    def one_grid(self) -> bool:
        """Whether the fine grid is as coarse as the coarse one."""
        return self.step == self.coarse_step

    def grid_for(self, seconds: int) -> tuple[FloatArray, int]:
        """Values and step to learn from about so many seconds ahead: the fine grid, while it holds a few of them."""
        reached = seconds * 6 <= self.fine.shape[1] * self.step or self.coarse.shape[1] * 6 <= self.fine.shape[1]
        if self.one_grid or not reached:
            return self.coarse, self.coarse_step
        return self.fine, self.step

    def at_times(self, times: IntArray) -> FloatArray:
        """(row, n) samples at Unix seconds `times`: fine where they reach and are known, else the coarse interval's."""
        found = _columns_at(self.fine, self.fine_times, self.step, times)
        coarse = _columns_at(self.coarse, self.coarse_times, self.coarse_step, times)
        return np.where(np.isnan(found), coarse, found)


def _columns_at(values: FloatArray, grid_times: IntArray, step: int, times: IntArray) -> FloatArray:
    columns = values.shape[1] - 1 - (int(grid_times[-1]) - times) // step
    taken = values[:, np.clip(columns, 0, values.shape[1] - 1)]
    taken[:, (columns < 0) | (columns >= values.shape[1])] = np.nan
    return taken


def missing_of(gates: NDArray[np.int8]) -> tuple[Reason | None, ...]:
    """Why rows have no forecast."""
    none = Reason(ReasonCode.NO_DATA)
    said = (
        f"{LEAST_SAMPLES} samples are needed, and where no network is served {LEAST_SECONDS // MINUTE} minutes of them"
    )
    short = Reason(ReasonCode.HISTORY_TOO_SHORT, said)
    by_gate = {Gate.EMPTY: none, Gate.SHORT: short}
    return tuple(by_gate.get(Gate(int(gate))) for gate in gates)


def notes_of(gates: NDArray[np.int8]) -> tuple[tuple[Reason, ...], ...]:
    """Remarks of rows; () where no row has one."""
    if not (gates == Gate.CONSTANT).any():
        return ()
    said = (Reason(ReasonCode.CONSTANT_SERIES),)
    return tuple(said if gate == Gate.CONSTANT else () for gate in gates)


def forecast_of(
    context: Context,
    request: ForecastRequest,
    values: FloatArray,
    peak: FloatArray,
    gate: NDArray[np.int8],
    version: str,
) -> Forecast:
    """values (row, horizon, level) and peak (row, level) as a forecast; rows that are gated become NaN, in place."""
    gone = gate >= Gate.SHORT
    values[gone], peak[gone] = np.nan, np.nan
    return Forecast(
        origin=context.fine.origin,
        step=context.fine.step,
        horizons=request.horizons,
        levels=tuple(request.levels),
        values=values,
        peak=peak,
        windows=request.windows,
        model=(version,) * len(values),
        missing=missing_of(gate),
        notes=notes_of(gate),
    )


def blocks_of(context: Context, rows: IntArray) -> Iterator[Block]:
    """The blocks of `rows`; every row is in exactly one of them."""
    rows = np.asarray(rows, dtype=np.int64)
    fine_used = _used(context.fine.values, context.masked, rows)
    coarse_used = _used(context.coarse.values, context.coarse_masked, rows)
    zones = context.calendar.timezones
    groups: dict[tuple[str, int, int], list[int]] = {}
    for i, row in enumerate(rows):
        key = (zones[row], _bucket(int(fine_used[i])), _bucket(int(coarse_used[i])))
        groups.setdefault(key, []).append(i)
    for (zone, fine_columns, coarse_columns), members in groups.items():
        for first in range(0, len(members), _ROWS):
            part = np.array(members[first : first + _ROWS], dtype=np.int64)
            used = (fine_used[part], coarse_used[part])
            yield _block(context, rows[part], zone, (fine_columns, coarse_columns), used)


def _bucket(columns: int) -> int:
    return 1 << max(columns - 1, 0).bit_length()


def _used(values: FloatArray, masked: BoolArray | None, rows: IntArray) -> IntArray:
    """(row,) columns from the first known sample to the end; 0 where none is known."""
    used = np.zeros(len(rows), dtype=np.int64)
    width = values.shape[1]
    if not width:
        return used
    for first in range(0, len(rows), 512):
        part = rows[first : first + 512]
        known = ~np.isnan(values[part])
        if masked is not None:
            known &= ~masked[part]
        used[first : first + 512] = np.where(known.any(axis=1), width - known.argmax(axis=1), 0)
    return used


def _block(
    context: Context, rows: IntArray, zone: str, columns: tuple[int, int], used: tuple[IntArray, IntArray]
) -> Block:
    step, coarse_step = int(context.fine.step.total_seconds()), int(context.coarse.step.total_seconds())
    fine, fine_raw_least = _cut(context.fine.values, context.masked, rows, columns[0])
    coarse, coarse_raw_least = _cut(context.coarse.values, context.coarse_masked, rows, columns[1])
    span = np.maximum(used[0] * step, used[1] * coarse_step).astype(np.float64)
    fine_known, coarse_known = (~np.isnan(fine)).sum(axis=1), (~np.isnan(coarse)).sum(axis=1)
    center, scale, low, high = _location(fine, coarse)
    gate = _gates(fine)
    few_fine = fine_known < 200
    if few_fine.any():
        gate[few_fine] = _gates(coarse[few_fine])
    gate[(gate == Gate.CONSTANT) & (high > low)] = Gate.STICKY  # constant for two days, but not always
    gate[high <= low] = Gate.CONSTANT
    seconds = np.maximum(fine_known * step, coarse_known * coarse_step)
    few = np.maximum(fine_known, coarse_known) < LEAST_SAMPLES
    gate[few | (seconds < LEAST_SECONDS)] = Gate.SHORT
    gate[(fine_known == 0) & (coarse_known == 0)] = Gate.EMPTY
    normal = [((part - center[:, None]) / scale[:, None]).astype(np.float32) for part in (fine, coarse)]
    return Block(
        rows=rows,
        timezone=zone,
        step=step,
        coarse_step=coarse_step,
        fine=normal[0],
        fine_times=context.fine.times[context.fine.values.shape[1] - fine.shape[1] :],
        coarse=normal[1],
        coarse_times=context.coarse.times[context.coarse.values.shape[1] - coarse.shape[1] :],
        center=center,
        scale=scale,
        nonnegative=np.minimum(fine_raw_least, coarse_raw_least) >= 0,
        span_seconds=span,
        gate=gate,
    )


def _cut(values: FloatArray, masked: BoolArray | None, rows: IntArray, columns: int) -> tuple[FloatArray, FloatArray]:
    """The last `columns` of the rows in float64 without masked samples, and the least value, masked ones too."""
    first = max(values.shape[1] - max(columns, 1), 0)
    part = values[rows, first:].astype(np.float64)
    least = np.where(np.isnan(part), np.inf, part).min(axis=1, initial=np.inf)
    if masked is not None:
        part[masked[rows, first:]] = np.nan
    return part, least


def _location(fine: FloatArray, coarse: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Center (median), scale (mean distance from it, the far tail cut), least and greatest, of both grids."""
    both = np.concatenate((_thinned(coarse), fine[:, -min(fine.shape[1], 720) :]), axis=1)
    ordered = np.sort(both, axis=1)
    count = np.maximum((~np.isnan(ordered)).sum(axis=1), 1)
    row = np.arange(len(both))
    center = np.nan_to_num(ordered[row, (count - 1) // 2])
    low = np.fmin(np.fmin.reduce(fine, axis=1), np.fmin.reduce(coarse, axis=1))
    high = np.fmax(np.fmax.reduce(fine, axis=1), np.fmax.reduce(coarse, axis=1))
    away = np.abs(both - center[:, None])
    missing = np.isnan(away)
    reach = np.maximum(ordered[row, (count * 99) // 100 - (count >= 100)] - center, center - ordered[row, count // 100])
    reach = np.where(reach > 0, 3 * reach, np.inf)
    scale = np.where(missing, 0.0, np.minimum(np.where(missing, 0.0, away), reach[:, None])).sum(axis=1) / count
    fallback = np.where(high > low, high - low, np.where(center != 0, np.abs(center), 1.0))
    return center, np.nan_to_num(np.where(scale > 0, scale, fallback), nan=1.0), low, high


def _thinned(values: FloatArray) -> FloatArray:
    """Every k-th column counted from the end, about 2,000 of them: enough for quantiles."""
    return values[:, ::-1][:, :: max(values.shape[1] // 1999, 1)]


def _gates(values: FloatArray) -> NDArray[np.int8]:
    """Gate by how often the median's own value and the step before occur."""
    known = ~np.isnan(values)
    count = np.maximum(known.sum(axis=1), 1)
    ordered = np.sort(_thinned(values), axis=1)
    half = (np.maximum((~np.isnan(ordered)).sum(axis=1), 1) - 1) // 2
    middle = ordered[np.arange(len(values)), half][:, None]
    same = (values == middle).sum(axis=1) / count
    pairs = known[:, 1:] & known[:, :-1]
    kept = (values[:, 1:] == values[:, :-1]) & pairs
    unchanged = kept.sum(axis=1) / np.maximum(pairs.sum(axis=1), 1)
    away = pairs & (values[:, :-1] != middle)
    stays = (kept & away).sum(axis=1) / np.maximum(away.sum(axis=1), 1)  # share of excursions that go on
    gate = np.full(len(values), Gate.NORMAL, dtype=np.int8)
    gate[unchanged >= _STICKY] = Gate.STICKY
    gate[(same >= _SAME) & (stays < 0.5)] = Gate.SPARSE
    gate[same >= 1] = Gate.CONSTANT
    return gate


def season_of(span_seconds: FloatArray) -> NDArray[np.int8]:
    """0: no season seen twice; 1: the day; 2: the week too."""
    return np.asarray((span_seconds >= 2 * DAY).astype(np.int8) + (span_seconds >= 14 * DAY).astype(np.int8))
