"""The last known value, with the quantiles that its own changes over each horizon have had."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from forecaster.domain import Context, FloatArray, Forecast, ForecastRequest, IntArray, SeriesKey
from models import naive
from models.blocks import Block, Gate, blocks_of, nodes_of
from models.extremes import maximum_of, running_maxima
from models.fits import Arrays, FitCache, changed_kind
from models.live_rows import LiveRows

VERSION = "persistence/1"
_ORIGINS = 480


@dataclass
class Persistence:
    """Forecaster of the last value. Holds its residual tables between calls; a fresh one fits every row."""

    version: str = VERSION
    cache: FitCache = field(default_factory=FitCache)

    def forecast(self, context: Context, request: ForecastRequest) -> Forecast:
        """Quantiles for all rows; rows of less than 30 minutes of samples, or six of them, carry a reason instead."""
        fitted = self.cache.get(context, fit, lambda arrays: changed_kind(context, arrays))
        return naive.predict(context, request, fitted, self.version, _LastValue())

    def forget(self, series: Collection[SeriesKey]) -> None:
        """Fits these series anew at the next call."""
        self.cache.forget(series)


class _LastValue:
    def values(self, live: LiveRows, times: IntArray) -> FloatArray:
        return np.repeat(_last(live)[:, None], len(times), axis=1)

    def peak(self, live: LiveRows, windows: IntArray) -> FloatArray:
        return _last(live)


def _last(live: LiveRows) -> FloatArray:
    """(row,) last known value; the median of the last three where the newest is missing. 0 where the row is sparse."""
    few = live.around_last(3)
    ordered = np.sort(few, axis=1)
    count = np.maximum((~np.isnan(few)).sum(axis=1), 1)
    middle = ordered[np.arange(len(few)), (count - 1) // 2]
    value = np.where(live.gap[:, 0] > 0, middle, few[:, 0])
    return np.asarray(np.where(live.gate == Gate.SPARSE, 0.0, np.nan_to_num(value)))


def fit(context: Context, rows: IntArray) -> Arrays:
    """Residual tables of `rows`."""
    step = int(context.fine.step.total_seconds())
    return naive.fit_rows(rows, blocks_of(context, rows), step, _fit_block)


def _fit_block(block: Block, out: Arrays) -> None:
    usable = block.gate < Gate.CONSTANT
    if not usable.any():
        return
    sparse = block.gate == Gate.SPARSE
    maxima: dict[int, list[FloatArray]] = {}
    for node, seconds in enumerate(nodes_of(block.step)):
        x, step = block.grid_for(int(seconds))
        reach = min(max(round(int(seconds) / step), 1), max(x.shape[1] // 3, 1))
        if x.shape[1] <= reach:
            continue
        if step not in maxima:
            maxima[step] = running_maxima(x, x.shape[1])
        table = maxima[step]
        before = np.unique(np.linspace(0, x.shape[1] - 1 - reach, _ORIGINS).round().astype(np.int64))
        origin = np.where(sparse[:, None], np.where(np.isnan(x[:, before]), np.nan, 0), x[:, before])
        growth = np.float32(np.sqrt(max(int(seconds) / (reach * step), 1.0)))  # horizons beyond the past: a random walk
        spacing = max((before[-1] - before[0]) / len(before), 1.0)
        out["table"][:, node] = growth * naive.residual_table(x[:, before + reach] - origin, reach / spacing)
        top = maximum_of(table, before + reach, reach)
        out["peak_table"][:, node] = growth * naive.residual_table(top - origin, reach / spacing)
