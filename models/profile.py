"""The robust statistical default: level on a day × week profile, with residual quantiles by horizon and of the peak.

Median at t + h: the level of the last five minutes, moved by a small linear model whose inputs are longer levels, the
change that the day profile, yesterday and last weeks showed between the same two hours of the wall clock, and how far
the level stands from each. Coefficients per row and horizon by median regression, shrunk towards "no change". The
residual's scale follows the predicted value and the recent roughness as far as the row's own past says so; its
quantiles are empirical. The peak has its own regression and its own quantiles: the quantile of a maximum is not the
maximum of quantiles. Parameters are fitted at few horizons (blocks.nodes_of) and read in between.

A gap at the end is bridged from the last known sample with a longer horizon. Kinds of rows in which profiles go wrong
are gated (blocks.Gate): constant, piecewise constant, nearly always one value.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from forecaster.cores import side_by_side
from forecaster.domain import BoolArray, Context, FloatArray, Forecast, ForecastRequest, IntArray, SeriesKey
from models import wall_clock
from models.blocks import HOUR, MINUTE, Block, Gate, blocks_of, forecast_of, nodes_of, season_of
from models.empirical import TABLE_LEVELS, combined, level_weights, median_regression, sample_quantiles
from models.extremes import maximum_of, running_maxima
from models.fits import Arrays, FitCache, changed_kind
from models.gaps import between, smoothed, taken
from models.live_rows import LiveRows
from models.wall_clock import DAY

VERSION = "profile/1"

FEATURES = 12
PEAK_FEATURES = 6
_CHANGES = [5, 7, 9, 11]  # features that are changes of a season between now and then
_ORIGINS = 512  # training origins of one grid
_FEWEST = 24  # samples of a node below which it takes over its neighbour's parameters
_LEARN = 0.22  # weight of the newest day in the day profile, once there are enough
_SHRINK_SLOPES = 2.0  # of the regression on log |residual|
_LONGEST_PEAK = 3 * HOUR  # windows beyond it take over its residuals: the median path holds the shape
_CALM = 24  # coarse steps over which roughness is measured
_ROW_BLOCK = 256  # of one forecast
_HORIZON_BLOCK = 512


@dataclass
class Profile:
    """Forecaster of the statistical default. Holds its fits between calls (FitCache): a fresh one fits every row."""

    version: str = VERSION
    cache: FitCache = field(default_factory=FitCache)

    def forecast(self, context: Context, request: ForecastRequest) -> Forecast:
        """Quantiles for all rows; rows of less than 30 minutes of samples, or six of them, carry a reason instead."""
        fitted = self.cache.get(context, fit, lambda arrays: changed_kind(context, arrays))
        return predict(context, request, fitted, self.version)

    def forget(self, series: Collection[SeriesKey]) -> None:
        """Fits these series anew at the next call."""
        self.cache.forget(series)


# --- the past of a block ---------------------------------------------------------------------------------


class _Past:
    """What all fits of one block share: running sums, the lag series, the day profile before each day."""

    def __init__(self, block: Block) -> None:
        self.block = block
        cs = block.coarse_step
        x = block.coarse
        self.width = x.shape[1]
        self.first = int(block.coarse_times[0])
        self.smooth = smoothed(x) if cs <= 600 else x
        known = ~np.isnan(x)
        self.sums, self.counts = _running(np.where(known, x, 0.0)), _running(known)
        jump = np.abs(np.diff(x, axis=1, prepend=np.nan))
        jumps_known = ~np.isnan(jump)
        self.jump_sums, self.jump_counts = _running(np.where(jumps_known, jump, 0.0)), _running(jumps_known)
        total = np.maximum(self.jump_counts[:, -1], 1)
        self.rough_floor = 0.1 * self.jump_sums[:, -1] / total + 1e-6  # (row,)
        self.slots = -(-DAY // cs)
        local = block.coarse_times + wall_clock.utc_offsets(block.timezone, block.coarse_times)
        self.day0 = int(local[0]) // DAY
        self.days = int(local[-1]) // DAY - self.day0 + 1
        table = np.full((len(x), self.days, self.slots), np.nan, dtype=np.float32)
        table[:, local // DAY - self.day0, (local % DAY) // cs] = self.smooth
        self.before = _day_profiles(table)  # (row, day + 1, slot)
        self.lag_reach = _usual_distance(table - self.before[:, :-1])

    def mean(self, columns: IntArray, count: int) -> FloatArray:
        """(row, n) mean of the `count` coarse values up to each column; NaN where none is known."""
        return _window_mean(self.sums, self.counts, columns, count)

    def rough(self, columns: IntArray) -> FloatArray:
        """(row, n) mean absolute change from one coarse step to the next, lately; never 0."""
        jump = _window_mean(self.jump_sums, self.jump_counts, columns, _CALM)
        floor = self.rough_floor[:, None]
        return np.asarray(np.where(np.isnan(jump), 10 * floor, jump) + floor)

    def day(self, times: IntArray) -> FloatArray:
        """(row, n) day profile at coarse stamps `times`, as known before the day of each."""
        cs = self.block.coarse_step
        local = times + wall_clock.utc_offsets(self.block.timezone, times)
        share = ((local % DAY) % cs / cs).astype(np.float32)
        here = self._profile(local)
        return here if not share.any() else between(here, self._profile(local + cs), share)

    def _profile(self, local: IntArray) -> FloatArray:
        day = np.clip(local // DAY - self.day0, 0, self.days)
        return np.asarray(self.before[:, day, (local % DAY) // self.block.coarse_step])

    def lag(self, times: IntArray, days: int) -> FloatArray:
        """(row, n) smoothed values `days` days of the wall clock before `times`."""
        return _read_at(self.smooth, wall_clock.days_before(self.block.timezone, times, days), self)

    def week(self, times: IntArray) -> FloatArray:
        """(row, n) mean of the values one and two weeks before, of those that are known."""
        one, two = self.lag(times, 7), self.lag(times, 14)
        return np.asarray(np.where(np.isnan(two), one, np.where(np.isnan(one), two, (one + two) / 2)))


def _read_at(values: FloatArray, times: IntArray, past: _Past) -> FloatArray:
    offset = times - past.first
    low = offset // past.block.coarse_step
    share = (offset % past.block.coarse_step / past.block.coarse_step).astype(np.float32)
    here = taken(values, low)
    return here if not share.any() else between(here, taken(values, low + 1), share)


def _running(values: FloatArray | BoolArray) -> FloatArray:
    """(row, time + 1) sums of all before each column, float64."""
    out = np.zeros((len(values), values.shape[1] + 1))
    np.cumsum(values, axis=1, out=out[:, 1:])
    return out


def _window_mean(sums: FloatArray, counts: FloatArray, columns: IntArray, count: int) -> FloatArray:
    high = np.clip(columns + 1, 0, sums.shape[1] - 1)
    low = np.clip(columns + 1 - count, 0, sums.shape[1] - 1)
    n = counts[:, high] - counts[:, low]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(((sums[:, high] - sums[:, low]) / np.where(n > 0, n, np.nan)).astype(np.float32))


def _usual_distance(away: FloatArray) -> FloatArray:
    """(row,) five times the median distance from the profile; at least twice the mean of the nearer 98 %."""
    size = np.abs(away.reshape(len(away), -1))
    size = np.sort(size[:, :: max(size.shape[1] // 2003, 1)], axis=1)
    count = np.maximum((~np.isnan(size)).sum(axis=1), 1)
    row = np.arange(len(size))
    middle, far = size[row, (count - 1) // 2], size[row, ((count - 1) * 0.98).astype(np.int64)]
    inside = np.arange(size.shape[1]) < (0.98 * count)[:, None]
    mean = np.where(inside, np.nan_to_num(size), 0).sum(axis=1) / np.maximum(inside.sum(axis=1), 1)
    reach = np.maximum(np.maximum(5 * middle, 2 * mean), far)
    return np.asarray(np.nan_to_num(reach).astype(np.float32))


def _day_profiles(table: FloatArray) -> FloatArray:
    """(row, day + 1, slot): for each day the profile of the days before it, NaN where a slot was never seen.

    A mean at first, then exponentially weighted; an innovation counts at most three times its usual size.
    """
    rows, days, slots = table.shape
    before = np.empty((rows, days + 1, slots), dtype=np.float32)
    profile = np.full((rows, slots), np.nan, dtype=np.float32)
    seen = np.zeros((rows, slots), dtype=np.float32)
    usual = np.zeros((rows, slots), dtype=np.float32)
    for day in range(days):
        before[:, day] = profile
        x = table[:, day]
        known = ~np.isnan(x)
        step = np.where(known & (seen > 0), x - profile, 0)
        size = np.abs(step)
        limit = np.where(seen >= 3, 3 * usual, np.inf)
        rate = np.maximum(1 / (seen + 1), _LEARN)
        moved = profile + rate * np.clip(step, -limit, limit)
        usual = np.where(
            known & (seen > 0), usual + np.maximum(1 / np.maximum(seen, 1), _LEARN) * (size - usual), usual
        )
        profile = np.where(known, np.where(seen > 0, moved, x), profile)
        seen += known
    before[:, days] = profile
    return before


# --- features --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Levels:
    """What is known of the level at the origins, (row, origin) each, NaN nowhere but in unusable origins."""

    last: FloatArray
    m5: FloatArray  # the anchor
    m15: FloatArray
    m60: FloatArray
    m6h: FloatArray
    m24h: FloatArray
    top: FloatArray  # maximum of the last hour
    rough: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class _Season:
    """Day profile, yesterday and the weeks before at some times, NaN where not known."""

    day: FloatArray
    lag: FloatArray
    week: FloatArray


def _features(
    levels: _Levels,
    origin: _Season,
    target: _Season,
    zero: FloatArray,
    nonnegative: BoolArray,
    season: NDArray[np.int8],
    lag_reach: FloatArray,
) -> tuple[FloatArray, BoolArray]:
    """(row, FEATURES, n) inputs, and whether all that the row's seasons promise was really there.

    Shapes of `levels` and `origin` broadcast against `target`; zero, nonnegative and season likewise.
    """
    a = levels.m5
    no_day = np.isnan(origin.day) | np.isnan(target.day) | (season < 1)
    day_o, day_t = np.where(no_day, a, origin.day), np.where(no_day, a, target.day)
    no_lag = np.isnan(origin.lag) | np.isnan(target.lag) | (season < 1)
    # One day's spike must not come back the next day: a lag counts as far as lags usually stand from the profile.
    lag_o = np.where(no_lag, day_o, np.clip(origin.lag, day_o - lag_reach, day_o + lag_reach))
    lag_t = np.where(no_lag, day_t, np.clip(target.lag, day_t - lag_reach, day_t + lag_reach))
    no_week = np.isnan(origin.week) | np.isnan(target.week) | (season < 2)
    week_o = np.where(no_week, day_o, np.clip(origin.week, day_o - 2 * lag_reach, day_o + 2 * lag_reach))
    week_t = np.where(no_week, day_t, np.clip(target.week, day_t - 2 * lag_reach, day_t + 2 * lag_reach))
    with np.errstate(over="ignore"):
        ratio = np.clip((a - zero) / np.maximum(day_o - zero, 0.05), 0.25, 4.0)
    shape = np.broadcast_shapes(a.shape, day_t.shape)
    out = np.empty((shape[0], FEATURES, shape[1]), dtype=np.float32)
    out[:, 0] = levels.last - a
    out[:, 1] = levels.m15 - a
    out[:, 2] = levels.m60 - a
    out[:, 3] = levels.m6h - a
    out[:, 4] = levels.m24h - a
    out[:, 5] = day_t - day_o
    out[:, 6] = day_o - a
    out[:, 7] = lag_t - lag_o
    out[:, 8] = lag_o - a
    out[:, 9] = week_t - week_o
    out[:, 10] = week_o - a
    out[:, 11] = np.where(nonnegative, ratio * (day_t - day_o), 0.0)
    complete = ~(no_day & (season >= 1)) & ~(no_lag & (season >= 1)) & ~(no_week & (season >= 2))
    return out, np.broadcast_to(complete, shape)


def _levels(last: FloatArray, chain: list[FloatArray], top: FloatArray, rough: FloatArray) -> _Levels:
    m5, m15, m60, m6h, m24h = _filled(chain)
    return _Levels(last, m5, m15, m60, m6h, m24h, top, rough)


def _filled(levels: list[FloatArray]) -> list[FloatArray]:
    """Longer levels, each replaced by the next shorter one where it is missing."""
    out = [levels[0]]
    for level in levels[1:]:
        out.append(np.where(np.isnan(level), out[-1], level).astype(np.float32))
    return out


# --- fitting ---------------------------------------------------------------------------------------------


def fit(context: Context, rows: IntArray) -> Arrays:
    """Parameters of `rows`, each array with one entry per row in that order; from the past of `context` alone."""
    step, coarse_step = int(context.fine.step.total_seconds()), int(context.coarse.step.total_seconds())
    place = {int(row): i for i, row in enumerate(rows)}
    out = _blank(len(rows), len(nodes_of(step)), -(-DAY // coarse_step))

    def one(block: Block) -> None:
        at = np.array([place[int(row)] for row in block.rows])
        for name, array in _fit_block(block).items():
            out[name][at] = array

    side_by_side(one, blocks_of(context, rows))
    return out


def _blank(rows: int, nodes: int, slots: int) -> Arrays:
    levels = len(TABLE_LEVELS)
    return {
        "gate": np.full(rows, Gate.EMPTY, dtype=np.int8),
        "season": np.zeros(rows, dtype=np.int8),
        "nonnegative": np.zeros(rows, dtype=np.bool_),
        "lag_reach": np.zeros(rows, dtype=np.float32),
        "center": np.zeros(rows),
        "scale": np.ones(rows),
        "span_seconds": np.zeros(rows),
        "rough_floor": np.ones(rows, dtype=np.float32),
        "beta": np.zeros((rows, nodes, FEATURES), dtype=np.float32),
        "slope": np.zeros((rows, nodes, 2), dtype=np.float32),
        "table": np.zeros((rows, nodes, levels), dtype=np.float32),
        "peak_beta": np.zeros((rows, nodes, PEAK_FEATURES), dtype=np.float32),
        "peak_slope": np.zeros((rows, nodes, 2), dtype=np.float32),
        "peak_table": np.zeros((rows, nodes, levels), dtype=np.float32),
        "day": np.full((rows, slots), np.nan, dtype=np.float32),
        "day_before": np.full((rows, slots), np.nan, dtype=np.float32),
        "day_through": np.zeros(rows, dtype=np.int64),
    }


def _fit_block(block: Block) -> Arrays:
    nodes = nodes_of(block.step)
    out = _blank(len(block.rows), len(nodes), -(-DAY // block.coarse_step))
    season = season_of(block.span_seconds)
    out["gate"], out["season"], out["nonnegative"] = block.gate, season, block.nonnegative
    out["center"], out["scale"], out["span_seconds"] = block.center, block.scale, block.span_seconds
    usable = block.gate < Gate.CONSTANT
    if not usable.any():
        return out
    past = _Past(block)
    out["lag_reach"] = past.lag_reach
    out["rough_floor"] = past.rough_floor.astype(np.float32)
    out["day"], out["day_before"], out["day_through"] = _live_tables(past)
    near = nodes < (0 if block.one_grid else 30 * MINUTE)
    fits = _NodeFits(block, past, season, nodes, out)
    if near.any():
        fine = _fine_origins(block, past)
        fits.values(fine, np.flatnonzero(near))
    coarse = _coarse_origins(block, past)
    fits.values(coarse, np.flatnonzero(~near))
    fits.spread_to_neighbours()
    if near.any():
        fits.peaks(fine, np.flatnonzero(nodes <= HOUR))
        fits.peaks(coarse, np.flatnonzero((nodes > HOUR) & (nodes <= _LONGEST_PEAK)))
        fits.add_fine_noise(np.flatnonzero(~near))
    else:
        fits.peaks(coarse, np.flatnonzero((nodes <= _LONGEST_PEAK) | (nodes == block.step)))
    fits.peaks_to_neighbours()
    fits.gates()
    return out


def _live_tables(past: _Past) -> tuple[FloatArray, FloatArray, IntArray]:
    """The day profile now, the one before the newest update of each slot, and the newest slot's absolute number."""
    block, cs = past.block, past.block.coarse_step
    last = int(block.coarse_times[-1])
    local = last + int(wall_clock.utc_offsets(block.timezone, np.array([last]))[0])
    slot = (local % DAY) // cs
    now, today, yesterday = past.before[:, -1], past.before[:, -2], past.before[:, max(past.days - 2, 0)]
    before = np.where(np.arange(past.slots) <= slot, today, yesterday)
    through = np.full(len(block.rows), (local // DAY) * past.slots + slot, dtype=np.int64)
    return now, before, through


@dataclass(frozen=True, slots=True, eq=False)
class _Origins:
    """Training origins on one grid."""

    values: FloatArray  # (row, time) of that grid
    step: int
    columns: IntArray  # (origin,)
    times: IntArray  # (origin,)
    levels: _Levels
    usable: BoolArray  # (row, origin)
    season: _Season  # at the origins
    maxima: list[FloatArray]  # running maxima over 1, 2, 4, … columns up to and including each
    medians: dict[int, FloatArray]  # by node, (row, origin): what the fitted model says


def _pick(width: int, lead: int) -> IntArray:
    """At most _ORIGINS columns, evenly over all but the first `lead`, the last column left out."""
    lead = min(lead, max(width - 2, 0))
    count = width - 1 - lead
    if count <= _ORIGINS:
        return np.arange(lead, width - 1)
    return np.asarray(np.linspace(lead, width - 2, _ORIGINS).round().astype(np.int64))


def _fine_origins(block: Block, past: _Past) -> _Origins:
    x, step = block.fine, block.step
    columns = _pick(x.shape[1], min(HOUR // step, x.shape[1] // 4))
    times = block.fine_times[columns]
    known = ~np.isnan(x)
    sums, counts = _running(np.where(known, x, 0.0)), _running(known)
    anchor = _window_mean(sums, counts, columns, max(block.coarse_step // step, 1))
    last = x[:, columns]
    usable = ~np.isnan(last) & ~np.isnan(anchor)
    last, anchor = np.where(usable, last, 0), np.where(usable, anchor, 0)
    upto = (times - past.first) // block.coarse_step
    chain = [
        anchor.astype(np.float32),
        _window_mean(sums, counts, columns, max(15 * MINUTE // step, 1)),
        _window_mean(sums, counts, columns, max(HOUR // step, 1)),
        past.mean(upto, max(6 * HOUR // block.coarse_step, 1)),
        past.mean(upto, max(DAY // block.coarse_step, 1)),
    ]
    maxima = running_maxima(x, 24 * HOUR // step)
    top = maximum_of(maxima, columns, max(HOUR // step, 1))
    levels = _levels(last.astype(np.float32), chain, np.fmax(top, last), past.rough(upto))
    season = _Season(past.day(times), past.lag(times, 1), past.week(times))
    return _Origins(x, step, columns, times, levels, usable, season, maxima, {})


def _coarse_origins(block: Block, past: _Past) -> _Origins:
    x, step = block.coarse, block.coarse_step
    width = x.shape[1]
    lead = min(DAY // step if width > 2 * DAY // step else HOUR // step, width // 4)
    columns = _pick(width, lead)
    times = block.coarse_times[columns]
    last = x[:, columns]
    usable = ~np.isnan(last)
    last = np.where(usable, last, 0).astype(np.float32)
    chain = [last, *(past.mean(columns, max(span // step, 1)) for span in (900, HOUR, 6 * HOUR, DAY))]
    maxima = running_maxima(x, 24 * HOUR // step)
    top = np.fmax(maximum_of(maxima, columns, max(HOUR // step, 1)), last)
    levels = _levels(last, chain, top, past.rough(columns))
    season = _Season(past.day(times), past.lag(times, 1), past.week(times))
    return _Origins(x, step, columns, times, levels, usable, season, maxima, {})


class _NodeFits:
    """Fits node by node and writes into the block's arrays."""

    def __init__(self, block: Block, past: _Past, season: NDArray[np.int8], nodes: IntArray, out: Arrays) -> None:
        self.block, self.past, self.season, self.nodes, self.out = block, past, season, nodes, out
        self.zero = block.zero[:, None].astype(np.float32)
        self.nonnegative = block.nonnegative[:, None]
        self.count = np.zeros((len(block.rows), len(nodes)))  # samples behind each node
        self.peak_count = np.zeros((len(block.rows), len(nodes)))

    def target_season(self, origins: _Origins, ahead: int | IntArray) -> _Season:
        # A coarse value is the mean of the steps in its interval: a finer step lies half an interval before its stamp.
        times = origins.times + ahead + (self.block.coarse_step - origins.step) // 2
        return _Season(self.past.day(times), self.past.lag(times, 1), self.past.week(times))

    def inputs(self, origins: _Origins, ahead: int | IntArray) -> tuple[FloatArray, BoolArray]:
        target = self.target_season(origins, ahead)
        season = self.season[:, None]
        return _features(
            origins.levels, origins.season, target, self.zero, self.nonnegative, season, self.past.lag_reach[:, None]
        )

    def ahead(self, node: int, origins: _Origins) -> IntArray:
        """(origin,) columns ahead.

        A whole day ahead is fitted a little short of it, so that the lag's smoothing stays known. Between half a day
        and a day the parameters are those of all such horizons together: of a single one, a fixed part of the day
        apart, what the profile's change is worth could not be told.
        """
        seconds, step, count = int(self.nodes[node]), origins.step, len(origins.columns)
        if DAY // 2 < seconds < DAY:
            spread = (np.arange(count) * 0.6180339887 % 1.0) * (DAY // 2 - 2 * step) + DAY // 2 + step
            return np.asarray((spread // step).astype(np.int64))
        reach = self.block.coarse_step if seconds >= DAY and self.block.coarse_step <= 600 else 0
        return np.full(count, max(round((seconds - reach) / step), 1), dtype=np.int64)

    def values(self, origins: _Origins, which: IntArray) -> None:
        if not len(origins.columns):
            return
        for node in which:
            ahead = self.ahead(int(node), origins)
            columns = origins.columns + ahead
            target = taken(origins.values, columns)
            inputs, complete = self.inputs(origins, ahead * origins.step)
            good = origins.usable & ~np.isnan(target)
            weight = self._weights(good, complete)
            aim = np.where(good, target - origins.levels.m5, 0).astype(np.float32)
            beta = self._coefficients(int(node), inputs, aim, weight)
            self.out["beta"][:, node] = beta
            move = combined(inputs, beta)
            origins.medians[int(node)] = origins.levels.m5 + move
            miss = np.where(weight > 0, aim - move, np.nan)
            self.count[:, node] = (weight > 0).sum(axis=1)
            slope, table = self._spread(
                miss, origins.levels.m5 + move, origins.levels.rough, FEATURES, int(ahead.mean()), origins
            )
            self.out["slope"][:, node], self.out["table"][:, node] = slope, table

    def _coefficients(self, node: int, inputs: FloatArray, aim: FloatArray, weight: FloatArray) -> FloatArray:
        if self.nodes[node] < DAY or node == 0:
            return median_regression(inputs, aim, weight)
        # A day ahead every season stands where it stands now: what its changes are worth is kept from shorter horizons,
        # for the horizons beyond a day, and only the rest is fitted.
        known = np.array(self.out["beta"][:, node - 1], dtype=np.float32)
        rest = aim - combined(inputs, known)
        level = inputs.copy()
        level[:, _CHANGES] = 0
        return known + median_regression(level, rest, weight)

    @staticmethod
    def _weights(good: BoolArray, complete: BoolArray) -> FloatArray:
        """Only origins whose seasons were known count, where there are enough of them."""
        full = good & complete
        enough = full.sum(axis=1) >= np.minimum(100, 0.3 * good.sum(axis=1))
        return np.where(enough[:, None], full, good).astype(np.float32)

    def _spread(
        self, miss: FloatArray, level: FloatArray, rough: FloatArray, terms: int, ahead: int, origins: _Origins
    ) -> tuple[FloatArray, FloatArray]:
        """Exponents of the residual's scale and the quantiles of the scaled residual, widened for what fitting hid."""
        drivers = _drivers(level, rough, self.zero, self.nonnegative)  # (row, n, 2)
        slope = _scale_slopes(miss, drivers)
        scaled = miss / _scale(drivers, slope[:, None, :])
        table = sample_quantiles(scaled)
        count = np.maximum((~np.isnan(miss)).sum(axis=1), 1)[:, None]
        spacing = max((origins.columns[-1] - origins.columns[0]) / len(origins.columns), 1)
        independent = np.maximum(count * min(spacing / ahead, 1.0), 1.0)
        widen = (1 + terms / (2 * count)) * (1 + np.minimum(0.5 / np.sqrt(independent), 1.0))
        middle = table[:, len(TABLE_LEVELS) // 2][:, None]
        return slope, np.nan_to_num((middle + widen * (table - middle)).astype(np.float32))

    def peaks(self, origins: _Origins, which: IntArray) -> None:
        if not len(which) or not len(origins.columns):
            return
        medians = origins.medians
        for node in which:
            if int(node) not in medians:  # fitted on the other grid
                inputs, _ = self.inputs(origins, int(self.nodes[node]))
                medians[int(node)] = origins.levels.m5 + combined(inputs, np.asarray(self.out["beta"])[:, node])
        for node in which:
            ahead = max(int(self.nodes[node]) // origins.step, 1)
            columns = origins.columns + ahead
            inside = columns < origins.values.shape[1]
            top = maximum_of(origins.maxima, np.minimum(columns, origins.values.shape[1] - 1), ahead)
            good = origins.usable & inside[None, :] & np.isfinite(top)
            base = np.maximum.reduce([m for n, m in medians.items() if n <= node])
            inputs = _peak_features(base, medians[int(node)], origins.levels)
            aim = np.where(good, top - base, 0).astype(np.float32)
            beta = median_regression(inputs, aim, good.astype(np.float32))
            self.out["peak_beta"][:, node] = beta
            move = combined(inputs, beta)
            miss = np.where(good, aim - move, np.nan)
            self.peak_count[:, node] = good.sum(axis=1)
            slope, table = self._spread(miss, base + move, origins.levels.rough, PEAK_FEATURES, ahead, origins)
            self.out["peak_slope"][:, node], self.out["peak_table"][:, node] = slope, table

    def spread_to_neighbours(self) -> None:
        self._take_over(self.count, ("beta", "slope"), "table")

    def peaks_to_neighbours(self) -> None:
        self._take_over(self.peak_count, ("peak_beta", "peak_slope"), "peak_table")

    def _take_over(self, count: FloatArray, copied: tuple[str, str], table: str) -> None:
        """Nodes beyond the reach of the past take the nearest shorter one's parameters, spread as a random walk.

        The shortest ones, where the fine grid is empty, take the next longer one's as they are.
        """
        for node in range(len(self.nodes) - 2, -1, -1):
            poor = (count[:, node] < _FEWEST) & (count[:, node + 1] >= _FEWEST)
            for name in (*copied, table):
                self.out[name][poor, node] = self.out[name][poor, node + 1]
            count[poor, node] = count[poor, node + 1]
        for node in range(1, len(self.nodes)):
            poor = (count[:, node] < _FEWEST) & (count[:, node - 1] > count[:, node])
            if not poor.any():
                continue
            for name in copied:
                self.out[name][poor, node] = self.out[name][poor, node - 1]
            growth = np.sqrt(self.nodes[node] / self.nodes[node - 1])
            if table == "peak_table" and self.nodes[node] > _LONGEST_PEAK:
                growth = 1.0
            limit = 6.0  # on the normalised scale: several times the usual distance from the median
            wider = np.asarray(self.out[table])[poor, node - 1] * growth
            most = np.maximum(np.abs(wider).max(axis=1, keepdims=True), 1e-9)
            self.out[table][poor, node] = wider * np.minimum(1.0, np.maximum(limit / most, 1 / growth))
            count[poor, node] = count[poor, node - 1]

    def add_fine_noise(self, which: IntArray) -> None:
        """Nodes fitted on means are widened by what single steps scatter about their mean."""
        ratio = self.block.coarse_step // self.block.step
        whole = self.block.fine.shape[1] // ratio * ratio
        if not whole:
            return
        offset = int((self.block.fine_times[-1] - self.block.coarse_times[-1]) // self.block.step) % ratio
        end = self.block.fine.shape[1] - offset
        whole = end // ratio * ratio
        if not whole:
            return
        parts = self.block.fine[:, end - whole : end].reshape(len(self.block.rows), -1, ratio)
        known = ~np.isnan(parts)
        n = known.sum(axis=2)
        mean = np.where(known, parts, 0).sum(axis=2) / np.maximum(n, 1)
        noise = np.where(known & (n == ratio)[:, :, None], parts - mean[:, :, None], np.nan)
        table = sample_quantiles(noise.reshape(len(parts), -1)[:, -2880:])
        reach = np.nan_to_num(table[:, 9] - table[:, 3])[:, None]
        rough = self.past.rough(np.array([self.past.width - 1]))
        level = np.nan_to_num(self.past.mean(np.array([self.past.width - 1]), DAY // self.block.coarse_step))
        drivers = _drivers(level, rough, self.zero, self.nonnegative)[:, 0]
        for node in which:
            tables = np.asarray(self.out["table"])
            scale = _scale(drivers, np.asarray(self.out["slope"])[:, node])[:, None]
            own = scale * (tables[:, node, 9] - tables[:, node, 3])[:, None]
            wider = np.sqrt(1 + np.minimum(reach / np.maximum(own, 1e-6), 10.0) ** 2)
            middle = tables[:, node, len(TABLE_LEVELS) // 2][:, None]
            self.out["table"][:, node] = middle + wider * (tables[:, node] - middle)
        top = np.where(known, parts, -np.inf).max(axis=2) - mean
        extra = sample_quantiles(np.where(n == ratio, top, np.nan), np.array([0.5]))
        late = np.flatnonzero(self.nodes > HOUR)
        self.out["peak_table"][:, late] += np.nan_to_num(extra)[:, :, None].astype(np.float32)

    def gates(self) -> None:
        """Piecewise constant rows: the last value. Sparse rows: marginal quantiles, written as residuals of 0."""
        sticky, sparse = self.block.gate == Gate.STICKY, self.block.gate == Gate.SPARSE
        for name in ("beta", "slope", "peak_beta", "peak_slope"):
            self.out[name][sticky | sparse] = 0
        if not (sticky | sparse).any():
            return
        enough = (~np.isnan(self.block.fine)).sum(axis=1) >= 200
        for rows, use_fine in ((enough, True), (~enough, False)):
            for kind, chosen in ((Gate.STICKY, sticky & rows), (Gate.SPARSE, sparse & rows)):
                if chosen.any():
                    self._gated(np.flatnonzero(chosen), kind, use_fine)

    def _gated(self, rows: IntArray, kind: Gate, use_fine: bool) -> None:
        x = (self.block.fine if use_fine else self.block.coarse)[rows]
        step = self.block.step if use_fine else self.block.coarse_step
        maxima = running_maxima(x, x.shape[1])
        columns = np.arange(x.shape[1])
        for node, seconds in enumerate(self.nodes):
            ahead = max(int(seconds) // step, 1)
            reach = min(ahead, max(x.shape[1] // 4, 1))
            before = x[:, :-reach] if kind == Gate.STICKY else 0.0
            top = maximum_of(maxima, columns[reach:], reach)
            self.out["table"][rows, node] = np.nan_to_num(sample_quantiles(x[:, reach:] - before))
            self.out["peak_table"][rows, node] = np.nan_to_num(sample_quantiles(top - before))


def _drivers(level: FloatArray, rough: FloatArray, zero: FloatArray, nonnegative: BoolArray) -> FloatArray:
    """(row, n, 2) logs of what the residual's scale may follow: the value above 0, and the roughness."""
    value = np.where(nonnegative, np.log(np.maximum(level - zero, 0.02)), 0.0)
    return np.stack((value, np.log(rough)), axis=-1).astype(np.float32)


def _scale(drivers: FloatArray, slope: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):
        return np.asarray(np.exp((drivers * slope).sum(axis=-1)))


def _scale_slopes(miss: FloatArray, drivers: FloatArray) -> FloatArray:
    """(row, 2) exponents between 0 and 1, from a ridge regression of log |residual|; 0 if nothing speaks for more."""
    miss, drivers = miss[:, ::2], drivers[:, ::2]
    known = ~np.isnan(miss)
    n = np.maximum(known.sum(axis=1), 1)[:, None]
    size = np.where(known, np.abs(miss), 0)
    typical = size.sum(axis=1, keepdims=True) / n
    dy = np.log(size + 0.05 * typical + 1e-9)
    dy = np.where(known, dy - (dy * known).sum(axis=1, keepdims=True) / n, 0)
    d0, d1 = (
        np.where(known, d - (d * known).sum(axis=1, keepdims=True) / n, 0) for d in (drivers[..., 0], drivers[..., 1])
    )
    a, b, c = (np.einsum("rn,rn->r", x, y).astype(np.float64) for x, y in ((d0, d0), (d0, d1), (d1, d1)))
    p, q = (np.einsum("rn,rn->r", x, dy).astype(np.float64) for x in (d0, d1))
    a, c = a + _SHRINK_SLOPES, c + _SHRINK_SLOPES
    determinant = a * c - b * b
    return np.asarray(np.clip(np.stack(((c * p - b * q), (a * q - b * p)), axis=1) / determinant[:, None], 0.0, 1.0))


def _peak_features(base: FloatArray, end: FloatArray, levels: _Levels) -> FloatArray:
    a = levels.m5
    parts = (base - a, end - a, levels.top - a, levels.m60 - a, levels.rough + 0 * a, levels.last - a)
    return np.stack(np.broadcast_arrays(*parts), axis=1).astype(np.float32)


# --- forecasting -----------------------------------------------------------------------------------------


def predict(context: Context, request: ForecastRequest, fitted: Arrays, version: str) -> Forecast:
    """The forecast of all rows of `context` from parameters fitted on it, or on an earlier context of the same rows."""
    rows, levels = len(context.fine.keys), tuple(request.levels)
    values = np.full((rows, len(request.horizons), len(levels)), np.nan)
    peak = np.full((rows, len(levels)), np.nan)
    gate = np.array(fitted["gate"], dtype=np.int8)
    weights = level_weights(levels)

    def one(first: int) -> None:
        part = np.arange(first, min(first + _ROW_BLOCK, rows))
        part = part[gate[part] < Gate.SHORT]
        if not len(part):
            return
        live = _Live(context, part, fitted)
        gate[part[live.unknown]] = Gate.EMPTY
        for start in range(0, len(request.horizons), _HORIZON_BLOCK):
            some = slice(start, start + _HORIZON_BLOCK)
            values[part, some] = live.values(np.asarray(request.horizons[some]), weights)
        peak[part] = live.peak(np.asarray(request.windows)[part], weights)

    side_by_side(one, range(0, rows, _ROW_BLOCK))
    return forecast_of(context, request, values, peak, gate, version)


class _Live(LiveRows):
    """Some rows at the moment of the forecast: their last known level, and parameters read between nodes."""

    def __init__(self, context: Context, rows: IntArray, fitted: Arrays) -> None:
        super().__init__(context, rows, fitted)
        self.season = self.fitted["season"][:, None]
        self.zero = (-self.center / self.scale).astype(np.float32)
        self._find_levels()

    def _find_levels(self) -> None:
        self.unknown = ~self.find_since()
        by_fine, upto = self.fine_column >= 0, self.coarse_upto
        columns = np.where(by_fine, self.fine_column, -(10**9))[:, None]
        hour = self.taken(False, columns - np.arange(max(HOUR // self.step, 1)))
        with np.errstate(invalid="ignore"):
            last = hour[:, 0]
            m5, m15, m60 = (_known_mean(hour[:, : max(span // self.step, 1)]) for span in (self.cs, 900, HOUR))
        day = self.taken(True, upto - np.arange(max(DAY // self.cs, _CALM + 1)))
        m5 = np.where(np.isnan(m5), day[:, 0], m5)
        last = np.where(np.isnan(last), m5, last)
        m5, last = np.nan_to_num(m5), np.nan_to_num(last)
        chain = [
            m5,
            m15,
            m60,
            _known_mean(day[:, : max(6 * HOUR // self.cs, 1)]),
            _known_mean(day[:, : DAY // self.cs]),
        ]
        jump = _known_mean(np.abs(np.diff(day[:, : _CALM + 1], axis=1)))
        floor = self.fitted["rough_floor"]
        rough = np.where(np.isnan(jump), 10 * floor, jump) + floor
        top = np.fmax(np.fmax.reduce(hour, axis=1), last)
        sticky, sparse = self.gate == Gate.STICKY, self.gate == Gate.SPARSE
        column = [part.astype(np.float32)[:, None] for part in (last, top, rough)]
        self.levels = _levels(column[0], [part.astype(np.float32)[:, None] for part in chain], column[1], column[2])
        self.anchor = np.where(sparse, 0.0, np.where(sticky, last, m5)).astype(np.float32)[:, None]
        self.plain = (sticky | sparse)[:, None]
        self.origin = self._season(np.broadcast_to(self.since[:, None], (len(self.rows), 1)), at_origin=True)

    def _season(self, times: IntArray, at_origin: bool) -> _Season:
        """Season values of (row, n) or of common (1, n) times."""
        shape = (len(self.rows), times.shape[1])
        day, lag, week = (np.full(shape, np.nan, dtype=np.float32) for _ in range(3))
        if not (self.season >= 1).any():
            return _Season(day, lag, week)
        for zone, members in self.zones():
            own = times if len(times) == 1 else times[members]
            day[members] = self._day(zone, own, members, at_origin)
            lag[members] = self._lag(zone, own, members, 1)
            if (self.season[members] >= 2).any():
                one = self._lag(zone, own, members, 7)
                two = self._lag(zone, own, members, 14, least=1)
                week[members] = np.where(np.isnan(two), one, np.where(np.isnan(one), two, (one + two) / 2))
        return _Season(day, lag, week)

    def _day(self, zone: str, times: IntArray, members: IntArray, at_origin: bool) -> FloatArray:
        local = times + wall_clock.utc_offsets(zone, times)
        share = ((local % DAY) % self.cs / self.cs).astype(np.float32)
        here = self._profile(local, members, at_origin)
        return here if not share.any() else between(here, self._profile(local + self.cs, members, at_origin), share)

    def _profile(self, local: IntArray, members: IntArray, at_origin: bool) -> FloatArray:
        slots = self.fitted["day"].shape[1]
        slot = (local % DAY) // self.cs
        now = self.fitted["day"][members[:, None], slot]
        if not at_origin:
            return np.asarray(now)
        # The level is compared with the profile of the days before: today's sample is in the level itself.
        done = (local // DAY) * slots + slot <= self.fitted["day_through"][members][:, None]
        return np.asarray(np.where(done, self.fitted["day_before"][members[:, None], slot], now))

    def _lag(self, zone: str, times: IntArray, members: IntArray, days: int, least: int = 0) -> FloatArray:
        """Smoothed values a whole number of lags before `times`: one, or as many as it takes to be in the past."""
        period = 7 if days >= 7 else 1
        behind = np.maximum(-(-(times - self.head) // (period * DAY)), 1) * period + least * 7
        earlier = times.copy()
        for count in np.unique(behind):
            chosen = behind == count
            earlier[chosen] = wall_clock.days_before(zone, times[chosen], int(count))
        offset = earlier - self.head
        low = offset // self.cs + self.context.coarse.values.shape[1] - 1
        share = (offset % self.cs / self.cs).astype(np.float32)
        low, share = np.broadcast_to(low, (len(members), low.shape[1])), share
        if not share.any():
            return self._smoothed(low, members, 1)[0]
        here, after = self._smoothed(low, members, 2)
        return between(here, after, share)

    def _smoothed(self, columns: IntArray, members: IntArray, count: int) -> list[FloatArray]:
        """Coarse samples at `columns`, and at the `count` - 1 columns after them, each smoothed with its neighbours."""
        width = columns.shape[1]
        around = range(-1, count + 1)
        whole = np.full((len(self.rows), width * len(around)), -1, dtype=np.int64)
        whole[members] = np.concatenate([columns + shift for shift in around], axis=1)
        seen = self.taken(True, whole)[members].reshape(len(members), len(around), width)
        if self.cs > 600:
            return [seen[:, place].astype(np.float32) for place in range(1, count + 1)]
        known = 1.0 * ~np.isnan(seen)
        filled = np.nan_to_num(seen)
        out = []
        for place in range(1, count + 1):
            total = 2 * filled[:, place] + filled[:, place - 1] + filled[:, place + 1]
            mass = 2.0 * known[:, place] + known[:, place - 1] + known[:, place + 1]
            with np.errstate(invalid="ignore", divide="ignore"):
                out.append(np.asarray(np.where(mass > 0, total / mass, np.nan).astype(np.float32)))
        return out

    def _medians(self, ahead: IntArray) -> tuple[FloatArray, tuple[IntArray, IntArray, FloatArray]]:
        """(row, n) normalised model values `ahead` (n,) seconds after now."""
        times = (self.now + ahead + (self.cs - self.step) // 2)[None, :]
        season = self._season(times, at_origin=False)
        inputs, _ = _features(
            self.levels,
            self.origin,
            season,
            self.zero,
            self.nonnegative,
            self.season,
            self.fitted["lag_reach"][:, None],
        )
        at = self.between_nodes(ahead[None, :] + self.gap)
        beta = self.parameter("beta", at)
        return self.anchor + np.einsum("rkh,rhk->rh", inputs, beta), at

    def values(self, horizons: IntArray, weights: NDArray[np.float64]) -> FloatArray:
        """(row, horizon, level) in the unit of the series."""
        model, at = self._medians(horizons.astype(np.int64) * self.step)
        table = self.parameter("table", at) @ weights.astype(np.float32)
        scale = self._spread(model, self.parameter("slope", at))
        return self.finished(model[..., None] + scale[..., None] * table)

    def _spread(self, level: FloatArray, slope: FloatArray) -> FloatArray:
        return _scale(_drivers(level, self.levels.rough + 0 * level, self.zero, self.nonnegative), slope)

    def peak(self, windows: IntArray, weights: NDArray[np.float64]) -> FloatArray:
        """(row, level) of the maximum over each row's window."""
        seconds = windows.astype(np.int64)[:, None] * self.step
        left, right, _ = self.between_nodes(seconds)
        needed = int(right.max()) + 1
        medians, _ = self._medians(self.nodes[:needed])
        base = np.maximum.accumulate(medians, axis=1)
        row = np.arange(len(self.rows))[:, None]
        out_left, _, share = self.between_nodes(seconds + self.gap)
        tops = np.stack([self._peak_at(medians, base, node, out_left - left) for node in range(needed)], axis=1)
        tops = np.maximum.accumulate(tops @ weights.astype(np.float32), axis=1)  # a longer window has no lower peak
        low, high = tops[row[:, 0], left[:, 0]], tops[row[:, 0], right[:, 0]]
        return self.finished((low + share * (high - low))[:, None])[:, 0]

    def _peak_at(self, medians: FloatArray, base: FloatArray, node: int, later: IntArray) -> FloatArray:
        """(row, table level) of the peak over a window of `node`; after a gap with the parameters of a later node."""
        at = np.minimum(node + later[:, 0], len(self.nodes) - 1)
        row = np.arange(len(self.rows))
        inputs = _peak_features(base[:, [node]], medians[:, [node]], self.levels)[:, :, 0]  # (row, feature)
        moved = base[:, node] + (inputs * self.fitted["peak_beta"][row, at]).sum(axis=-1)
        model = np.where(self.plain[:, 0], self.anchor[:, 0], moved)[:, None]
        scale = self._spread(model, self.fitted["peak_slope"][row, at][:, None])
        return np.asarray(model + scale * self.fitted["peak_table"][row, at])


def _known_mean(values: FloatArray) -> FloatArray:
    """(row,) mean of what is known; NaN where nothing is."""
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    return np.asarray(np.where(known, values, 0).sum(axis=1) / np.where(count > 0, count, np.nan))
