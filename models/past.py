"""The past of some rows as the network's inputs are made of it: both grids, and what was measured on them.

Values are less the center, the last known one: small ups and downs of a large level survive in float32.
"""

from __future__ import annotations

from functools import cached_property
from threading import Lock

import numpy as np

from forecaster.cores import side_by_side
from forecaster.domain import BoolArray, Context, FloatArray, IntArray
from models import wall_clock
from models.extremes import maximum_of, running_maxima
from models.fits import Arrays
from models.gaps import mean, middle, most, moving_mean, padded, quantiles, smoothed, taken, thinned
from models.regression import regressed
from models.wall_clock import DAY

LEVELS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
MINUTE, HOUR, WEEK = 60, 3_600, 7 * DAY
_FINE_COLUMNS = 2_880
_NODES = tuple(MINUTE * m for m in (1, 2, 3, 5, 10, 15, 30, 60, 180, 360, 720, 1440, 2880, 4320, 10080))
_DRAWS = 128  # past origins that an empirical distribution is made of
_REGRESSORS = 9
_BLOCK = 256  # rows that are worked on together
DAYS = 14  # of daily lags and daily means
TABLES = (
    "beta",
    "miss",
    "miss_size",
    "newest_miss",
    "newest_change",
    "newest_season",
    "change",
    "season",
    "change_size",
    "season_size",
)


class Past:
    """Both grids of some rows of one time zone, and what all queries share. Values are less the center."""

    def __init__(self, context: Context, rows: IntArray, zone: str) -> None:
        self.zone, self.count = zone, len(rows)
        self.step, self.cs = int(context.fine.step.total_seconds()), int(context.coarse.step.total_seconds())
        self.now, self.head = int(context.fine.origin.timestamp()), int(context.coarse.origin.timestamp())
        fine = _cut(context.fine.values, context.masked, rows, _FINE_COLUMNS)
        coarse = _cut(context.coarse.values, context.coarse_masked, rows, 28 * DAY // self.cs)
        if self.cs == self.step:  # one grid: the one that reaches further, and to now
            longer = _cut(context.fine.values, context.masked, rows, 28 * DAY // self.cs)
            fine = coarse = longer if longer.shape[1] >= coarse.shape[1] or self.head != self.now else coarse
            self.head = self.now
        low = np.fmin(np.fmin.reduce(fine, axis=1, initial=np.inf), np.fmin.reduce(coarse, axis=1, initial=np.inf))
        high = np.fmax(np.fmax.reduce(fine, axis=1, initial=-np.inf), np.fmax.reduce(coarse, axis=1, initial=-np.inf))
        self.nonnegative: BoolArray = low >= 0
        self.constant: BoolArray = low >= high
        self.samples: IntArray = np.maximum((~np.isnan(fine)).sum(axis=1), (~np.isnan(coarse)).sum(axis=1))
        self.center, self.gap = self._last_known(fine, coarse)
        # Less the center in float64: small ups and downs of a large level survive in float32.
        self.fine: FloatArray = (fine - self.center[:, None]).astype(np.float32)
        self.coarse: FloatArray = self.fine if coarse is fine else (coarse - self.center[:, None]).astype(np.float32)
        self.smooth = smoothed(self.coarse) if self.cs <= 600 else self.coarse
        self.scale = self._scale()
        self._maxima: dict[bool, list[FloatArray]] = {False: [], True: []}
        self._levels_now: dict[bool, FloatArray] = {}

    def _last_known(self, fine: FloatArray, coarse: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(row,) last sample that may be used, and the seconds since; 0 where there is none."""
        value, when = np.zeros(self.count), np.full(self.count, -np.inf)
        for grid, end, step in ((coarse, self.head, self.cs), (fine, self.now, self.step)):
            if grid.shape[1] and not np.isnan(grid[:, -1]).any():
                known = np.ones((self.count, 1), dtype=np.bool_)
            else:
                known = ~np.isnan(grid)
            some = known.any(axis=1) if grid.shape[1] else np.zeros(self.count, dtype=np.bool_)
            if not some.any():
                continue
            last = grid.shape[1] - 1 - known[:, ::-1].argmax(axis=1)
            at = end - (grid.shape[1] - 1 - last) * step
            newer = some & (at >= when)
            value = np.where(newer, grid[np.arange(self.count), last], value)
            when = np.where(newer, at, when)
        return value, np.where(np.isfinite(when), np.maximum(self.now - when, 0), 0.0)

    def _scale(self) -> FloatArray:
        """(row,) size of the ups and downs of the series; never 0."""
        week, day = thinned(self.coarse[:, -WEEK // self.cs :], 336), self.recent(DAY, 288)
        away = mean(np.abs(week - middle(week)[:, None])), mean(np.abs(day - middle(day)[:, None]))
        jumps = mean(np.abs(np.diff(self.fine[:, -49:], axis=1)))
        scale = 0.4 * np.nan_to_num(away[0]) + 0.4 * np.nan_to_num(away[1]) + 0.2 * np.nan_to_num(jumps)
        size = np.maximum(np.abs(self.center), np.nan_to_num(most(np.abs(week))))
        return np.asarray(np.maximum(scale, np.where(size > 0, 1e-7 * size, 1.0)), dtype=np.float64)

    # --- pieces of the past ---

    def recent(self, seconds: int, points: int) -> FloatArray:
        """(row, n) about `points` samples of the last `seconds`: fine while they reach that far."""
        reach = min(seconds, self.coarse.shape[1] * self.cs)
        if self.fine.shape[1] * self.step >= reach:
            return thinned(self.fine[:, -max(seconds // self.step, 3) :], points)
        return thinned(self.coarse[:, -max(seconds // self.cs, 3) :], points)

    def means(self, seconds: int, count: int) -> FloatArray:
        """(row, count) means of the last intervals of so many seconds, oldest first; held where the grid is coarser."""
        if self.cs <= seconds:
            return self.pooled(seconds, count, mean)
        held = padded(self.coarse, -(-seconds * count // self.cs))
        return np.repeat(held, self.cs // seconds, axis=1)[:, -count:]

    def pooled(self, seconds: int, count: int, by: object) -> FloatArray:
        each = max(seconds // self.cs, 1)
        blocks = padded(self.coarse, each * count).reshape(self.count * count, each)
        return np.asarray(by(blocks)).reshape(self.count, count)  # type: ignore[operator]

    def columns_at(self, times: IntArray) -> IntArray:
        """(n,) coarse columns whose interval holds the samples that end at `times`; outside: below 0 or too large."""
        begin = self.head - self.coarse.shape[1] * self.cs
        return np.asarray((times - self.step // 2 - 1 - begin) // self.cs)

    def hour_until(self, column: int) -> FloatArray:
        """(row,) mean of the hour up to and including a coarse column; NaN where nothing of it is known."""
        part = self.coarse[:, max(column + 1 - max(HOUR // self.cs, 1), 0) : max(column + 1, 0)]
        return mean(part)

    def earlier(self, times: IntArray, days: int) -> IntArray:
        return wall_clock.days_before(self.zone, times, days)

    @cached_property
    def level5(self) -> FloatArray:
        """(row,) mean of the last five minutes, at least of three steps; the center where nothing is there."""
        return np.asarray(
            np.nan_to_num(mean(self.fine[:, -max(5 * MINUTE // self.step, 3 if self.step < 300 else 1) :]))
        )

    @cached_property
    def longer(self) -> FloatArray:
        """(row, 3) means of the last 1, 6 and 24 hours, each replaced by the shorter one where it is missing."""
        out = [self.level5]
        for seconds in (HOUR, 6 * HOUR, DAY):
            long = mean(self.recent(seconds, 10_000))
            out.append(np.where(np.isnan(long), out[-1], long))
        return np.stack(out[1:], axis=1)

    @cached_property
    def span(self) -> FloatArray:
        """(row,) seconds from the first known sample to now."""
        known = ~np.isnan(self.coarse)
        first = np.where(known.any(axis=1), known.shape[1] - known.argmax(axis=1), 0)
        fine = (~np.isnan(self.fine)).sum(axis=1) * self.step
        return np.asarray(np.maximum(first * self.cs, fine), dtype=np.float64)

    @cached_property
    def noise(self) -> FloatArray:
        """(row,) mean distance of fine samples from their neighbourhood: what coarse means do not show."""
        fine = self.fine[:, -240:]
        return np.asarray(np.nan_to_num(mean(np.abs(fine - moving_mean(fine, 2, 2)))))

    @cached_property
    def roughness(self) -> FloatArray:
        """(row, 2) mean absolute change from sample to sample in the last 30 and over all fine ones."""
        return np.stack([np.nan_to_num(mean(np.abs(np.diff(self.fine[:, -n:], axis=1)))) for n in (31, 1_441)], axis=1)

    # --- what is measured on it; changes slowly ---

    def tables(self, longest: int) -> Arrays:
        """TABLES (row, node, …) at the nodes up to `longest` seconds ahead."""
        parts = [self.measured(node, peak=False) for node in self.nodes(longest)]
        return {name: np.stack([part[name] for part in parts], axis=1) for name in TABLES}

    def peak_tables(self, seconds: int) -> Arrays:
        """`peak_…` (row, …) for the maximum over a window; levels among them are not less the center."""
        part = self.measured(seconds, peak=True)
        part |= {name: part[name] + self.center[:, None] for name in ("top_day", "top_week")}
        return {f"peak_{name}": table for name, table in part.items()}

    def nodes(self, longest: int) -> list[int]:
        """Seconds at which distributions and regressions are measured, to be read in between."""
        inside = [node for node in _NODES if node > self.step]
        beyond = [i for i, node in enumerate(inside) if node >= longest]
        return [self.step, *(inside[: beyond[0] + 1] if beyond else inside)]

    def on_fine(self, seconds: int) -> bool:
        """Whether the fine grid is long enough to learn from about so many seconds ahead."""
        return self.cs > self.step and seconds * 6 <= self.fine.shape[1] * self.step

    def measured(self, seconds: int, peak: bool) -> dict[str, FloatArray]:
        """Empirical distributions at one horizon or window: (row, …) each; NaN where the past is too short.

        `change` from the last value, `season` what a day ago does not explain of it, `miss` of the regression `beta`;
        `top_…` the targets themselves.
        """
        fine = self.on_fine(seconds)
        values, step = (self.fine, self.step) if fine else (self.coarse, self.cs)
        width = values.shape[1]
        reach = min(max(round(seconds / step), 1), max(width // 3, 1))
        if width <= reach:
            none = np.full((self.count, 1), np.nan, dtype=np.float32)
            return self._distributions(
                none, none, np.full((self.count, 1, _REGRESSORS), np.nan, dtype=np.float32), none
            )
        origins = draws(width, reach, max(WEEK // step, 200) + reach)
        times = (self.now if fine else self.head) - (width - 1 - origins) * step
        now = values[:, origins]
        day = self._before(times, 1, reach * step, peak)
        week = self._before(times, 7, reach * step, peak)
        top = maximum_of(self.maxima(fine, seconds), origins + reach, reach) if peak else values[:, origins + reach]
        growth = np.float32(1.0 if peak else np.sqrt(max(seconds / (reach * step), 1.0)))  # else a random walk
        change = (top - now) * growth
        before = self._before(times, 2, reach * step, peak)[0]
        last = now - values[:, np.maximum(origins - 1, 0)]
        levels = [level - now for level in self.levels(fine, origins)]
        regressors = np.stack((*levels, last, day[0], before, day[1] - now, week[0]), axis=2)
        return self._distributions(change, change - day[0] * growth, regressors.astype(np.float32), top)

    def _before(self, times: IntArray, days: int, ahead: int, peak: bool) -> tuple[FloatArray, FloatArray]:
        """(row, n) how the series had moved over the next `ahead` seconds so many days before, and where it stood."""
        reference = self.columns_at(self.earlier(times, days))
        then = taken(self.smooth, reference)
        if not peak:
            return taken(self.smooth, self.columns_at(self.earlier(times + ahead, days))) - then, then
        count = max(round(ahead / self.cs), 1)
        inside = (reference >= 0) & (reference + count < self.coarse.shape[1])
        ends = np.clip(reference + count, 0, self.coarse.shape[1] - 1)
        return np.where(inside, maximum_of(self.maxima(False, ahead), ends, count), np.nan) - then, then

    def levels(self, fine: bool, columns: IntArray) -> list[FloatArray]:
        """(row, n) means of the last 3 samples, hour, 6 hours and day up to each column; of what is known of them."""
        sums, counts, first = self._sums[fine]
        step = self.step if fine else self.cs
        out: list[FloatArray] = []
        for seconds in (3 * step, HOUR, 6 * HOUR, DAY):
            length = max(seconds // step, 3)
            high, low = np.maximum(columns + 1 - first, 0), np.maximum(columns + 1 - length - first, 0)
            n = counts[:, high] - counts[:, low]
            level = (sums[:, high] - sums[:, low]) / np.where(n > 0, n, np.nan)
            out.append(np.where(n > 0, level, out[-1] if out else np.nan))
        return out

    @cached_property
    def _sums(self) -> dict[bool, tuple[FloatArray, IntArray, int]]:
        """Running sums and counts of the fine grid and of the newest days of the coarse one, and their first column."""
        out = {}
        for fine, values in ((True, self.fine), (False, self.coarse)):
            first = 0 if fine else max(values.shape[1] - 9 * max(DAY // self.cs, 24), 0)
            known = ~np.isnan(values[:, first:])
            sums = np.zeros((self.count, known.shape[1] + 1))
            counts = np.zeros((self.count, known.shape[1] + 1), dtype=np.int64)
            np.cumsum(np.where(known, values[:, first:], 0), axis=1, out=sums[:, 1:])
            np.cumsum(known, axis=1, out=counts[:, 1:])
            out[fine] = (sums, counts, first)
        return out

    def _distributions(
        self, change: FloatArray, season: FloatArray, regressors: FloatArray, top: FloatArray
    ) -> dict[str, FloatArray]:
        beta, miss, held = regressed(regressors / self.scale[:, None, None], change / self.scale[:, None])
        miss, held = miss * self.scale[:, None], held * self.scale[:, None]
        usual = mean(np.abs(miss))
        # What was fitted looks better than what is forecast. More than that is not read off so few draws: they may be
        # of another time of day.
        wider = np.clip(np.nan_to_num(mean(np.abs(held)) / (usual + 1e-9 * self.scale), nan=1.0), 1.05, 1.3)
        newest = slice(change.shape[1] - held.shape[1], None)
        return {
            "beta": beta,
            "miss": quantiles(miss * wider[:, None], LEVELS),
            "miss_size": usual * wider,
            "newest_miss": mean(np.abs(held)),
            "newest_change": mean(np.abs(change[:, newest])),
            "newest_season": mean(np.abs(season[:, newest])),
            "change": quantiles(change, LEVELS),
            "season": quantiles(season, LEVELS),
            "change_size": mean(np.abs(change - middle(change)[:, None])),
            "season_size": mean(np.abs(season - middle(season)[:, None])),
            "top_day": quantiles(top[:, -max(top.shape[1] // 7, 3) :], LEVELS),
            "top_week": quantiles(top, LEVELS),
        }

    def now_levels(self, seconds: int) -> FloatArray:
        """(row, 5) `levels` of this moment and the last change, on the grid that `measured` takes."""
        fine = self.on_fine(seconds)
        if fine not in self._levels_now:
            values, step = (self.fine, self.step) if fine else (self.coarse, self.cs)
            out: list[FloatArray] = []
            for reach in (3 * step, HOUR, 6 * HOUR, DAY):
                level = mean(values[:, -max(reach // step, 3) :])
                out.append(np.where(np.isnan(level), out[-1], level) if out else level)
            out.append(-values[:, max(values.shape[1] - 2, 0) :][:, 0])  # from the sample before to the center
            self._levels_now[fine] = np.nan_to_num(np.stack(out, axis=1))
        return self._levels_now[fine]

    def maxima(self, fine: bool, seconds: int) -> list[FloatArray]:
        """Running maxima of one grid, for windows up to so many seconds; kept until longer ones are wanted."""
        values, step = (self.fine, self.step) if fine else (self.coarse, self.cs)
        longest = max(round(seconds / step), 1)
        if 2 ** len(self._maxima[fine]) <= min(longest, values.shape[1]) or not self._maxima[fine]:
            self._maxima[fine] = running_maxima(values, longest)
        return self._maxima[fine]


def _cut(values: FloatArray, masked: BoolArray | None, rows: IntArray, columns: int) -> FloatArray:
    """The last `columns` of the rows in float64, masked samples NaN."""
    first = max(values.shape[1] - columns, 0)
    part = values[rows, first:].astype(np.float64)
    if masked is not None:
        part[masked[rows, first:]] = np.nan
    return part


def draws(width: int, reach: int, longest: int) -> IntArray:
    """Columns of about _DRAWS past origins whose target, `reach` columns later, is known."""
    return np.unique(np.linspace(max(width - longest, 0), width - 1 - reach, _DRAWS).round().astype(np.int64))


def tables_of(context: Context, rows: IntArray, longest: int, windows: IntArray) -> Arrays:
    """What is measured of `rows`, each array with one entry per row in that order, as FitCache keeps it.

    Tables up to `longest` seconds ahead, and those of the maximum over each row's own window, windows (row,) seconds.
    """
    zones = np.array(context.calendar.timezones)[rows]
    work: list[tuple[str, int, IntArray]] = []
    for zone, window in sorted(set(zip(zones.tolist(), windows.tolist(), strict=True))):
        members = np.flatnonzero((zones == zone) & (windows == window))
        work += [(zone, window, members[first : first + _BLOCK]) for first in range(0, len(members), _BLOCK)]
    out: Arrays = {}
    lock = Lock()

    def one(asked: tuple[str, int, IntArray]) -> None:
        zone, window, part = asked
        past = Past(context, rows[part], zone)
        tables = past.tables(longest) | past.peak_tables(window)
        tables |= {"span_seconds": past.span, "window": np.full(len(part), window)}
        with lock:
            for name, table in tables.items():
                if name not in out:
                    out[name] = np.empty((len(rows), *table.shape[1:]), dtype=table.dtype)
                out[name][part] = table

    side_by_side(one, work)
    return out
