"""The value one day or one week of the wall clock earlier, with the quantiles that its own misses have had."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from forecaster.domain import Context, FloatArray, Forecast, ForecastRequest, IntArray, SeriesKey
from models import naive, wall_clock
from models.blocks import Block, Gate, blocks_of, nodes_of
from models.extremes import maximum_of, running_maxima
from models.fits import Arrays, FitCache, changed_kind
from models.live_rows import LiveRows
from models.wall_clock import DAY

Season = Literal["day", "week"]
_DAYS: dict[Season, int] = {"day": 1, "week": 7}
_TARGETS = 1008  # of residuals
_PEAK_POINTS = 64  # at most so many points of a window are looked up


@dataclass
class SeasonalNaive:
    """Forecaster of one season ago. Holds its residual tables between calls; a fresh one fits every row."""

    season: Season
    cache: FitCache = field(default_factory=FitCache)

    @property
    def version(self) -> str:
        return f"seasonal-naive-{self.season}/1"

    def forecast(self, context: Context, request: ForecastRequest) -> Forecast:
        """Quantiles for all rows; rows that have not seen a season and a quarter carry a reason instead."""
        days = _DAYS[self.season]

        def fit_all(context: Context, rows: IntArray) -> Arrays:
            return fit(context, rows, days)

        fitted = self.cache.get(context, fit_all, lambda arrays: changed_kind(context, arrays))
        return naive.predict(context, request, fitted, self.version, _SeasonAgo(days))

    def forget(self, series: Collection[SeriesKey]) -> None:
        """Fits these series anew at the next call."""
        self.cache.forget(series)


@dataclass(frozen=True)
class _SeasonAgo:
    days: int

    def values(self, live: LiveRows, times: IntArray) -> FloatArray:
        out = np.full((len(live.rows), len(times)), np.nan)
        for zone, members in live.zones():
            for seasons in (0, 1, 2, 3):  # one season more for each that is missing
                open_rows = members if seasons == 0 else members[np.isnan(out[members]).any(axis=1)]
                if not len(open_rows):
                    break
                earlier = _earlier(zone, times, live.now, self.days, seasons)
                found = live.at_times(earlier, open_rows)
                out[open_rows] = np.where(np.isnan(out[open_rows]), found, out[open_rows])
        last = np.nan_to_num(live.around_last(1))
        filled = np.where(np.isnan(out), last, out)
        return np.asarray(np.where((live.gate == Gate.SPARSE)[:, None], 0.0, filled))

    def peak(self, live: LiveRows, windows: IntArray) -> FloatArray:
        longest = int(windows.max(initial=1))
        steps = np.unique(np.linspace(1, longest, min(longest, _PEAK_POINTS)).round().astype(np.int64))
        values = self.values(live, live.now + steps * live.step)
        inside = steps[None, :] <= windows[:, None]
        return np.asarray(np.where(inside, values, -np.inf).max(axis=1, initial=-np.inf, where=inside))


def _earlier(zone: str, times: IntArray, now: int, days: int, more: int) -> IntArray:
    """The same hours of the wall clock, the fewest seasons back that lie in the past, and `more` seasons."""
    behind = (np.maximum(-(-(times - now) // (days * DAY)), 1) + more) * days
    earlier = times.copy()
    for count in np.unique(behind):
        chosen = behind == count
        earlier[chosen] = wall_clock.days_before(zone, times[chosen], int(count))
    return np.asarray(earlier)


def fit(context: Context, rows: IntArray, days: int) -> Arrays:
    """Residual tables of `rows` for a season of `days`."""
    step = int(context.fine.step.total_seconds())
    return naive.fit_rows(rows, blocks_of(context, rows), step, lambda block, out: _fit_block(block, out, days))


def _fit_block(block: Block, out: Arrays, days: int) -> None:
    short = (block.span_seconds < 1.25 * days * DAY) & (block.gate < Gate.CONSTANT)
    out["gate"][short] = Gate.SHORT
    usable = out["gate"] < Gate.CONSTANT
    if not usable.any():
        return
    x, times = (block.coarse, block.coarse_times) if block.one_grid else (block.fine, block.fine_times)
    sparse = (block.gate == Gate.SPARSE)[:, None]
    earlier = wall_clock.days_before(block.timezone, times, days)
    expected = np.where(sparse, 0.0, block.at_times(earlier)).astype(np.float32)
    miss = x - expected
    stride = max(1, x.shape[1] // _TARGETS)
    # The residual does not depend on the horizon, as long as that is below a season.
    out["table"][:] = naive.residual_table(miss[:, ::stride], 1.0)[:, None, :]
    ours, theirs = running_maxima(x, x.shape[1]), running_maxima(expected, x.shape[1])
    for node, seconds in enumerate(nodes_of(block.step)):
        reach = min(max(int(seconds) // block.step, 1), max(x.shape[1] // 3, 1))
        columns = np.arange(reach - 1, x.shape[1], stride)
        gap = maximum_of(ours, columns, reach) - maximum_of(theirs, columns, reach)
        gap[np.isnan(x[:, columns]) | np.isnan(expected[:, columns])] = np.nan
        out["peak_table"][:, node] = naive.residual_table(gap, reach / stride)
