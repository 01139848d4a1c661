"""What the network sees of a series: numbers without a unit, made of both grids, the same in training and in service.

Each (row, query) has a center (the last known value) and a unit (about the error that the best naive rule has had at
that horizon); every input and output is counted in them, so that ×1000 input gives ×1000 output. Beside plain samples
there is what a long context would have to teach: where earlier days went between the same two hours of the wall clock,
how far such rules were off lately, the empirical quantiles of changes and of levels. The same quantities, as whole
quantile functions, are the *candidates* that the network mixes; it adds to the mixture what they lack.

A query is a value at a horizon, or the maximum over a window: the same inputs, with maxima in the place of values.
Missing and masked samples are NaN on the way and 0 beside an availability bit in the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from forecaster.domain import BoolArray, Context, FloatArray, IntArray
from models import wall_clock
from models.extremes import maximum_of, running_maxima
from models.wall_clock import DAY

LEVELS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
POINTS = 13  # candidates that are one value
DISTRIBUTIONS = 7  # candidates with a spread
CANDIDATES = POINTS + DISTRIBUTIONS

MINUTE, HOUR, WEEK = 60, 3_600, 7 * DAY
BLOCK = 256  # rows that are worked on together: their arrays stay in the cache
_FINE_COLUMNS = 2_880
_FINE = 48  # newest samples that are seen one by one
_PYRAMID = (48, 96, 192, 384, 768)  # fine samples between which mean, maximum and spread are seen
_DAYS = 14  # of daily lags and daily means
_COMPARED = (1, 2, 3, 7, 14)  # days over which the newest past is compared with earlier days
_NODES = tuple(MINUTE * m for m in (1, 2, 3, 5, 10, 15, 30, 60, 180, 360, 720, 1440, 2880, 4320, 10080))
_DRAWS = 128  # past origins that an empirical distribution is made of
_REGRESSORS = 9
_RIDGES = (0.02, 0.3, 4.0)  # of the regressors' own size; the one that does best on the newest draws is taken
_NEWEST = 0.3  # share of the draws on which that is seen
_FADE = 0.85  # weight of a day beside the one after it
_SEVEN = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
_SHOWN = (1, 2, 6, 10, 11)  # of LEVELS: those of a distribution that are inputs, too
_FLOOR = 0.02  # of the scale: no unit is smaller
SERIES, QUERY = 267, 113  # numbers in the inputs


@dataclass(frozen=True, slots=True, eq=False)
class Queries:
    """What is asked of all rows alike."""

    seconds: IntArray  # (query,) ahead of the origin
    peak: BoolArray  # (query,) the maximum over (origin, origin + seconds] instead of the value


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """Inputs of some rows and their queries; nothing in them is NaN."""

    series: NDArray[np.float32]  # (row, SERIES)
    query: NDArray[np.float32]  # (row, query, QUERY)
    points: NDArray[np.float32]  # (row, query, POINTS) candidates in units from the center; 0 where unavailable
    spreads: NDArray[np.float32]  # (row, query, DISTRIBUTIONS, level) likewise
    available: BoolArray  # (row, query, CANDIDATES) points first
    center: FloatArray  # (row,) float64
    unit: FloatArray  # (row, query) float64, > 0
    nonnegative: BoolArray  # (row,) never below 0 so far
    constant: BoolArray  # (row,) never another value than the center
    samples: IntArray  # (row,) known samples, of the grid that has more of them


def inputs_of(context: Context, rows: IntArray, queries: Queries) -> Iterator[tuple[IntArray, Inputs]]:
    """Blocks of `rows` with their inputs; every row is in exactly one."""
    zones = np.array(context.calendar.timezones)
    rows = np.asarray(rows, dtype=np.int64)
    for zone in np.unique(zones[rows]):
        members = rows[zones[rows] == zone]
        for first in range(0, len(members), BLOCK):
            part = members[first : first + BLOCK]
            yield part, Past(context, part, str(zone)).inputs(queries)


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

    def inputs(self, queries: Queries) -> Inputs:
        parts = [_Asked(self, np.asarray(queries.seconds)[~queries.peak], peak=False)] if not queries.peak.all() else []
        parts += [_Asked(self, np.array([w]), peak=True) for w in np.asarray(queries.seconds)[queries.peak].tolist()]
        order = np.argsort(np.concatenate((np.flatnonzero(~queries.peak), np.flatnonzero(queries.peak))))
        unit = np.concatenate([part.unit for part in parts], axis=1)[:, order]
        query = np.concatenate([part.features() for part in parts], axis=1)[:, order]
        points = np.concatenate([part.points for part in parts], axis=1)[:, order]
        spreads = np.concatenate([part.spreads for part in parts], axis=1)[:, order]
        available = np.concatenate([part.available for part in parts], axis=1)[:, order]
        return Inputs(
            series=self.features(),
            query=query,
            points=points,
            spreads=spreads,
            available=available,
            center=self.center,
            unit=unit,
            nonnegative=self.nonnegative,
            constant=self.constant,
            samples=self.samples,
        )

    def _last_known(self, fine: FloatArray, coarse: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(row,) last sample that may be used, and the seconds since; 0 where there is none."""
        value, when = np.zeros(self.count), np.full(self.count, -np.inf)
        for grid, end, step in ((coarse, self.head, self.cs), (fine, self.now, self.step)):
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
    def noise(self) -> FloatArray:
        """(row,) mean distance of fine samples from their neighbourhood: what coarse means do not show."""
        fine = self.fine[:, -240:]
        return np.asarray(np.nan_to_num(mean(np.abs(fine - moving_mean(fine, 2, 2)))))

    @cached_property
    def roughness(self) -> FloatArray:
        """(row, 2) mean absolute change from sample to sample in the last 30 and over all fine ones."""
        return np.stack([np.nan_to_num(mean(np.abs(np.diff(self.fine[:, -n:], axis=1)))) for n in (31, 1_441)], axis=1)

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
        values = self.fine if fine else self.coarse
        last = np.array([values.shape[1] - 1])
        change = -values[:, max(values.shape[1] - 2, 0) :][:, :1]  # from the sample before to the center
        return np.asarray(np.nan_to_num(np.concatenate((*self.levels(fine, last), change), axis=1)))

    def maxima(self, fine: bool, seconds: int) -> list[FloatArray]:
        """Running maxima of one grid, for windows up to so many seconds; kept until longer ones are wanted."""
        values, step = (self.fine, self.step) if fine else (self.coarse, self.cs)
        longest = max(round(seconds / step), 1)
        if 2 ** len(self._maxima[fine]) <= min(longest, values.shape[1]) or not self._maxima[fine]:
            self._maxima[fine] = running_maxima(values, longest)
        return self._maxima[fine]

    # --- inputs of the series as a whole ---

    def features(self) -> NDArray[np.float32]:
        """(row, SERIES)."""
        s = self.scale[:, None]
        newest = padded(self.fine, _FINE)
        parts: list[FloatArray | BoolArray] = [np.arcsinh(newest / s), ~np.isnan(newest)]
        for low, high in pairwise(_PYRAMID):
            piece = padded(self.fine, high)[:, : high - low]
            parts.append(np.arcsinh(np.stack((mean(piece), most(piece), spread(piece)), axis=1) / s))
        halves = self.means(1_800, 48)
        parts += [np.arcsinh(halves / s), ~np.isnan(halves[:, ::4])]
        parts += [np.arcsinh(self.means(DAY, _DAYS) / s), np.arcsinh(self.pooled(DAY, _DAYS, most) / s)]
        parts.append(np.arcsinh(self._agreement() / s))
        for window, points in ((HOUR, 60), (6 * HOUR, 72), (DAY, 96), (WEEK, 168)):
            parts.append(np.arcsinh(quantiles(self.recent(window, points), _SEVEN) / s))
        parts.append(self._character())
        return np.concatenate([np.nan_to_num(np.asarray(part, dtype=np.float32)) for part in parts], axis=1)

    def _agreement(self) -> FloatArray:
        """(row, …) how the last 1, 6 and 24 hours stood beside the same hours of earlier days: mean and spread."""
        out = []
        per_day = DAY // self.cs
        for lag in _COMPARED:
            both = padded(self.coarse, (lag + 1) * per_day)
            away = both[:, -per_day:] - both[:, :per_day]
            for hours in (1, 6, 24):
                piece = away[:, -max(hours * HOUR // self.cs, 1) :]
                out += [mean(piece), spread(piece)]
        return np.stack(out, axis=1)

    def _character(self) -> FloatArray:
        """(row, …) what kind of series it is, without a unit."""
        known = ~np.isnan(self.coarse)
        first = np.where(known.any(axis=1), known.shape[1] - known.argmax(axis=1), 0)
        span = np.maximum(first * self.cs, (~np.isnan(self.fine)).sum(axis=1) * self.step).astype(np.float64)
        day = self.recent(DAY, 288)
        zero = -self.center[:, None].astype(np.float32)
        at_zero = np.isclose(day, zero, rtol=1e-6, atol=0)
        kept = np.diff(day, axis=1) == 0
        s = self.scale
        each = (
            np.log(self.step / 60.0),
            np.log1p(span / HOUR),
            np.log1p(self.gap / self.step),
            np.log1p(self.gap / HOUR),
            np.isnan(padded(self.fine, 240)).mean(axis=1),
            np.isnan(self.coarse).mean(axis=1),
            self.nonnegative,
            np.arcsinh(np.where(self.nonnegative, self.center, 0.0) / s),
            at_zero.mean(axis=1),
            kept.mean(axis=1) if kept.shape[1] else 0.0,
            np.log(self.noise / s + 1e-3),
            np.log(self.roughness[:, 0] / s + 1e-3),
            np.log(self.roughness[:, 1] / s + 1e-3),
        )
        return np.stack([np.broadcast_to(np.asarray(part, dtype=np.float64), (self.count,)) for part in each], axis=1)


class _Asked:
    """Some queries of one kind on one past: unit, candidates and inputs."""

    def __init__(self, past: Past, seconds: IntArray, peak: bool) -> None:
        self.past, self.seconds, self.peak = past, np.asarray(seconds, dtype=np.int64), peak
        self.shape = (past.count, len(seconds))
        self.times = past.now + self.seconds
        self.local = self.times + wall_clock.utc_offsets(past.zone, self.times)
        self.day = (self.local - 1) // DAY
        now_local = past.now + int(wall_clock.utc_offsets(past.zone, np.array([past.now]))[0])
        self.weekend = _weekend(self.day)
        self.other_kind = self.weekend != _weekend(np.array([(now_local - 1) // DAY]))[0]
        self._look_back()
        self._distributions()
        self.unit = self._unit()
        self._candidates()

    def _look_back(self) -> None:
        """The same hours of earlier days: `then` (row, query, day) and how they had `moved` since the hour of now."""
        past = self.past
        least = np.maximum(-(-self.seconds // DAY), 1)  # whole days back that lie in the past
        shape = (*self.shape, _DAYS)
        self.then = np.full(shape, np.nan, dtype=np.float32)
        self.moved, self.moved_hour = self.then.copy(), self.then.copy()
        self.near = np.full((*self.shape, 3), np.nan, dtype=np.float32)  # one day ago: not smoothed, before and after
        alike = np.zeros((len(self.seconds), _DAYS), dtype=np.bool_)
        for k in range(_DAYS):
            for days in np.unique(least + k).tolist():
                chosen = np.flatnonzero(least + k == days)
                reference = past.columns_at(past.earlier(np.array([past.now]), days))
                columns = past.columns_at(past.earlier(self.times[chosen], days))
                if self.peak:
                    then = self._top(int(reference[0]), int(self.seconds[0]))[:, None]
                else:
                    then = taken(past.smooth, columns)
                self.then[:, chosen, k] = then
                self.moved[:, chosen, k] = then - taken(past.smooth, reference)
                self.moved_hour[:, chosen, k] = then - past.hour_until(int(reference[0]))[:, None]
                alike[chosen, k] = _weekend(self.day[chosen] - days) == self.weekend[chosen]
                if k == 0 and not self.peak:
                    for i, offset in enumerate((-1, 0, 1)):
                        self.near[:, chosen, i] = taken(past.coarse, columns + offset)
        weight = alike[None] * _FADE ** np.arange(_DAYS)
        self.then_alike = faded(self.then, weight)
        self.moved_alike = faded(self.moved, weight)
        self.moved_hour_alike = faded(self.moved_hour, weight)
        self.week = self._week(least)

    def _week(self, least: IntArray) -> FloatArray:
        """(2, row, query) one or two whole weeks before: the value, and how it had moved."""
        index = (-least) % 7 + 0  # least + index is a multiple of 7
        at = np.broadcast_to(np.minimum(index, _DAYS - 1)[None, :, None], (*self.shape, 1))
        return np.stack([np.take_along_axis(x, at, axis=2)[..., 0] for x in (self.then, self.moved)])

    def _top(self, reference: int, seconds: int) -> FloatArray:
        """(row,) maximum of the coarse grid over the window that begins after column `reference`."""
        count = max(round(seconds / self.past.cs), 1)
        end = reference + count
        if reference < 0 or end >= self.past.coarse.shape[1]:
            return np.full(self.past.count, np.nan, dtype=np.float32)
        return maximum_of(self.past.maxima(False, seconds), np.array([end]), count)[:, 0].astype(np.float32)

    def _distributions(self) -> None:
        """Empirical distributions of the change and of what simple rules do not explain of it, and of the level."""
        past = self.past
        if self.peak:
            tables = {name: x[:, None] for name, x in past.measured(int(self.seconds[0]), peak=True).items()}
            self.day_level, self.week_level = tables["top_day"], tables["top_week"]
            levels = past.now_levels(int(self.seconds[0]))[:, None]
        else:
            nodes = past.nodes(int(self.seconds.max()))
            at = np.interp(np.log(self.seconds), np.log(nodes), np.arange(len(nodes)))
            left = np.minimum(at.astype(np.int64), max(len(nodes) - 2, 0))
            right, share = np.minimum(left + 1, len(nodes) - 1), (at - left).astype(np.float32)
            parts = [past.measured(node, peak=False) for node in nodes]
            stacked = {name: np.stack([part[name] for part in parts], axis=1) for name in parts[0]}
            stacked["now"] = np.stack([past.now_levels(node) for node in nodes], axis=1)
            tables = {
                name: _between(table[:, left], table[:, right], share if table.ndim == 2 else share[:, None])
                for name, table in stacked.items()
            }
            both = (quantiles(past.recent(window, points), LEVELS) for window, points in ((DAY, 144), (WEEK, 252)))
            self.day_level, self.week_level = (np.broadcast_to(x[:, None], (*self.shape, len(LEVELS))) for x in both)
            levels = tables["now"]
        self.change, self.season, self.miss = tables["change"], tables["season"], tables["miss"]
        self.change_size, self.season_size = tables["change_size"], tables["season_size"]
        self.miss_size = tables["miss_size"]
        self.newest = [tables[name] for name in ("newest_miss", "newest_change", "newest_season")]
        stood = self.then[..., 0] - self.moved[..., 0]  # a day ago at this hour
        moves = np.stack((self.moved[..., 0], self.moved[..., 1], stood, self.week[1]), axis=2)
        now = np.concatenate((levels, moves), axis=2)
        self.expected = (tables["beta"] * np.nan_to_num(now)).sum(axis=2)  # by the regression, from the center

    def _unit(self) -> FloatArray:
        s = self.past.scale[:, None]
        marginal = (self.day_level[..., 10] - self.day_level[..., 2]) / 3.3  # mean distance from the median, about
        sizes = np.stack([self.change_size, self.season_size, self.miss_size, marginal + 0 * self.change_size])
        best = np.fmin.reduce(sizes, axis=0)
        return np.asarray(np.where(np.isnan(best), s, best) + _FLOOR * s, dtype=np.float64)

    def _candidates(self) -> None:
        past = self.past
        now, hour = past.level5[:, None], past.longer[:, :1]
        with np.errstate(divide="ignore", invalid="ignore"):
            level = self.then_alike - self.moved_hour_alike + past.center[:, None]  # of earlier days at the hour of now
            ratio = np.clip((hour + past.center[:, None]) / level, 0.2, 5.0)
        scaled = ratio * (self.then_alike + past.center[:, None]) - past.center[:, None]
        usable = past.nonnegative[:, None] & (level > 0.05 * past.scale[:, None])
        points = (
            np.zeros(self.shape),
            now,
            hour,
            past.longer[:, 1:2],
            past.longer[:, 2:3],
            now + self.moved[..., 0],
            self.then[..., 0],
            now + self.moved_alike,
            hour + self.moved_hour_alike,
            self.then_alike,
            now + self.week[1],
            self.week[0],
            np.where(usable, scaled, np.nan),
        )
        tiny = 1e-9 * past.scale
        swing = np.clip((past.roughness[:, 0] + tiny) / (past.roughness[:, 1] + tiny), 0.2, 5.0)[:, None, None]
        ordered = quantiles(self.then.reshape(-1, _DAYS), LEVELS).reshape(*self.shape, -1)
        expected = (now + self.moved_alike)[..., None]
        spreads = (
            self.change,
            self.change * swing,
            self.day_level,
            self.week_level,
            ordered,
            expected + self.season,
            self.expected[..., None] + self.miss,
        )
        u = self.unit[..., None]
        one = np.stack([np.broadcast_to(point, self.shape) for point in points], axis=2) / u
        many = np.stack([np.broadcast_to(x, (*self.shape, len(LEVELS))) for x in spreads], axis=2) / u[..., None]
        self.available: BoolArray = np.concatenate((np.isfinite(one), np.isfinite(many).all(axis=3)), axis=2)
        self.points = _bounded(one, self.available[..., :POINTS])
        self.spreads = _bounded(many, self.available[..., POINTS:, None])

    def features(self) -> NDArray[np.float32]:
        """(row, query, QUERY)."""
        past, u = self.past, self.unit
        s = past.scale[:, None]
        angle = 2 * np.pi * (self.local % DAY) / DAY
        known_days = (~np.isnan(self.then)).mean(axis=2)
        per_query = [
            np.log(self.seconds / 60.0),
            np.log(self.seconds / past.step),
            np.full(len(self.seconds), float(self.peak)),
            np.sin(angle),
            np.cos(angle),
            np.sin(2 * angle),
            np.cos(2 * angle),
            self.weekend,
            self.other_kind,
            *[(self.day + 3) % 7 == weekday for weekday in range(7)],
        ]
        zero = np.where(past.nonnegative, -past.center, 0.0)[:, None] / u
        logs = [
            np.log(u / s),
            np.log(self.change_size / u + 1e-3),
            np.log(self.season_size / u + 1e-3),
            np.log(self.miss_size / u + 1e-3),
            *[np.log(size / u + 1e-3) for size in self.newest],
            np.log(past.noise[:, None] / u + 1e-3),
            np.log(past.roughness[:, :1] / u + 1e-3),
            np.log(past.roughness[:, 1:] / u + 1e-3),
        ]
        away = self.then[..., (0, 1, 2, 6, 13)], self.moved[..., (0, 1, 2, 6, 13)]
        ordered = quantiles(self.moved.reshape(-1, _DAYS), (0.05, 0.25, 0.5, 0.75, 0.95)).reshape(*self.shape, -1)
        in_units: list[FloatArray] = [
            self.points[..., 1:],
            self.spreads[..., _SHOWN].reshape(*self.shape, -1),
            *[x / u[..., None] for x in (*away, ordered, self.near - self.then[..., :1])],
            spread(self.moved)[..., None] / u[..., None],
            zero[..., None],
        ]
        parts: list[FloatArray | BoolArray] = [
            *[np.broadcast_to(np.asarray(x, dtype=np.float32)[None, :, None], (*self.shape, 1)) for x in per_query],
            *[np.broadcast_to(x, self.shape)[..., None] for x in logs],
            *[np.arcsinh(x) for x in in_units],
            self.available[..., 1:],
            known_days[..., None],
        ]
        return np.concatenate([np.nan_to_num(np.asarray(part, dtype=np.float32)) for part in parts], axis=2)


# --- arrays with gaps ------------------------------------------------------------------------------------------------


def _cut(values: FloatArray, masked: BoolArray | None, rows: IntArray, columns: int) -> FloatArray:
    """The last `columns` of the rows in float64, masked samples NaN."""
    first = max(values.shape[1] - columns, 0)
    part = values[rows, first:].astype(np.float64)
    if masked is not None:
        part[masked[rows, first:]] = np.nan
    return part


def taken(values: FloatArray, columns: IntArray) -> FloatArray:
    """(row, n) values at common columns (n,), NaN outside."""
    part = values[:, np.clip(columns, 0, values.shape[1] - 1)]
    outside = (columns < 0) | (columns >= values.shape[1])
    if outside.any():
        part[:, outside] = np.nan
    return part


def draws(width: int, reach: int, longest: int) -> IntArray:
    """Columns of about _DRAWS past origins whose target, `reach` columns later, is known."""
    return np.unique(np.linspace(max(width - longest, 0), width - 1 - reach, _DRAWS).round().astype(np.int64))


def thinned(values: FloatArray, points: int) -> FloatArray:
    """Every k-th column counted from the end."""
    return values[:, ::-1][:, :: max(-(-values.shape[1] // points), 1)][:, ::-1]


def padded(values: FloatArray, columns: int) -> FloatArray:
    """The last `columns`, NaN before the first."""
    if values.shape[1] >= columns:
        return values[:, values.shape[1] - columns :]
    out = np.full((len(values), columns), np.nan, dtype=values.dtype)
    if values.shape[1]:
        out[:, -values.shape[1] :] = values
    return out


def mean(values: FloatArray) -> FloatArray:
    """(...,) mean of what is known along the last axis; NaN where nothing is."""
    known = ~np.isnan(values)
    count = known.sum(axis=-1)
    total = np.where(known, values, 0).sum(axis=-1, dtype=np.float64)
    return np.asarray(total / np.where(count > 0, count, np.nan))


def most(values: FloatArray) -> FloatArray:
    top = np.where(np.isnan(values), -np.inf, values).max(axis=-1, initial=-np.inf)
    return np.asarray(np.where(np.isfinite(top), top, np.nan))


def spread(values: FloatArray) -> FloatArray:
    """(...,) mean absolute distance from the mean."""
    return mean(np.abs(values - mean(values)[..., None]))


def middle(values: FloatArray) -> FloatArray:
    """(row,) median, the lower one of two; NaN where nothing is known."""
    if not values.shape[1]:
        return np.full(len(values), np.nan)
    ordered = np.sort(values, axis=1)
    count = (~np.isnan(ordered)).sum(axis=1)
    return np.asarray(ordered[np.arange(len(values)), np.maximum(count - 1, 0) // 2])


def quantiles(values: FloatArray, levels: Sequence[float]) -> FloatArray:
    """(row, level) of values (row, sample), leaving NaN out; rows without a sample are NaN."""
    if not values.shape[1]:
        return np.full((len(values), len(levels)), np.nan, dtype=np.float32)
    ordered = np.sort(values, axis=1)  # NaN goes last
    count = (~np.isnan(ordered)).sum(axis=1)[:, None]
    last = np.maximum(count - 1, 0)
    place = np.clip(np.asarray(levels)[None, :] * count - 0.5, 0, last)
    low = place.astype(np.int64)
    at_low = np.take_along_axis(ordered, low, axis=1)
    at_high = np.take_along_axis(ordered, np.minimum(low + 1, last), axis=1)
    return np.asarray((at_low + (place - low) * (at_high - at_low)).astype(np.float32))


def regressed(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Robust ridge regression of y (row, n) on x (row, n, regressor), in the order of time.

    Returns the coefficients (row, regressor), the residuals (row, n), and those of the newest draws by a fit on the
    older ones alone (row, newest), which also choose how far coefficients are shrunk towards 0, that is persistence.
    Errors count by their square, weighted down by their size: nearly the median's regression. A missing regressor
    counts as 0. Rows without a sample are NaN.
    """
    known = ~np.isnan(y)
    x, y = np.nan_to_num(x).astype(np.float32), np.where(known, y, 0.0).astype(np.float32)
    weight = known.astype(np.float32)
    old = y.shape[1] - max(round(_NEWEST * y.shape[1]), 1)
    older, newer = slice(0, old), slice(old, None)
    early = _moments(x[:, older], y[:, older], weight[:, older])
    trials = [_solved(early, np.full(len(x), ridge)) for ridge in _RIDGES]
    held = y[:, newer, None] - x[:, newer] @ np.stack(trials, axis=2)  # (row, newest, ridge)
    held[~known[:, newer]] = np.nan
    chosen = np.nan_to_num(mean(np.abs(np.swapaxes(held, 1, 2))), nan=0.0).argmin(axis=1)
    rows = np.arange(len(x))
    ridge = np.array(_RIDGES)[chosen]
    first = _solved(_moments(x, y, weight), ridge)
    weight = _weights(y - (x @ first[..., None])[..., 0], known)
    beta = _solved(_moments(x, y, weight), ridge)
    miss = np.where(known, y - (x @ beta[..., None])[..., 0], np.nan)
    beta[~known.any(axis=1)] = np.nan
    return beta, miss, held[rows, :, chosen]


def _weights(miss: FloatArray, known: BoolArray) -> FloatArray:
    """(row, n) one over the size of the miss, in units of its mean; 0 where nothing is known."""
    size = np.abs(miss)
    usual = np.nan_to_num(mean(np.where(known, size, np.nan)))[:, None].astype(np.float32) + np.float32(1e-6)
    return np.asarray(np.where(known, usual / np.maximum(size, 0.3 * usual), 0), dtype=np.float32)


def _moments(x: FloatArray, y: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(row, regressor, regressor) and (row, regressor): weighted products of the regressors, and with y."""
    weighted = np.swapaxes(x * weight[..., None], 1, 2)
    return (weighted @ x).astype(np.float64), (weighted @ y[..., None]).astype(np.float64)


def _solved(moments: tuple[FloatArray, FloatArray], ridge: FloatArray) -> FloatArray:
    """(row, regressor) coefficients, shrunk by `ridge` (row,) times the mean square of the regressors."""
    square, product = moments
    size = np.einsum("rii->r", square) / square.shape[1]
    shrunk = square + (ridge * size + 1e-6)[:, None, None] * np.eye(square.shape[1])
    return np.asarray(np.linalg.solve(shrunk, product)[..., 0], dtype=np.float32)


def moving_mean(values: FloatArray, before: int, after: int) -> FloatArray:
    """Means of what is known from `before` columns before to `after` columns after; NaN where nothing is."""
    known = ~np.isnan(values)
    sums = np.zeros((len(values), values.shape[1] + 1))
    counts = np.zeros((len(values), values.shape[1] + 1), dtype=np.int32)
    np.cumsum(np.where(known, values, 0), axis=1, out=sums[:, 1:])
    np.cumsum(known, axis=1, out=counts[:, 1:])
    columns = np.arange(values.shape[1])
    high, low = np.minimum(columns + after + 1, values.shape[1]), np.maximum(columns - before, 0)
    n = counts[:, high] - counts[:, low]
    return np.asarray(((sums[:, high] - sums[:, low]) / np.where(n > 0, n, np.nan)).astype(np.float32))


def smoothed(values: FloatArray) -> FloatArray:
    """Weights 1, 2, 1 over neighbours that are known; NaN where nothing is."""
    known = ~np.isnan(values)
    value, weight = np.where(known, values, np.float32(0)), known.astype(np.float32)
    total, mass = 2 * value, 2 * weight
    for x, into in ((value, total), (weight, mass)):
        into[:, 1:] += x[:, :-1]
        into[:, :-1] += x[:, 1:]
    return np.asarray(np.divide(total, mass, out=np.full_like(total, np.nan), where=mass > 0))


def faded(values: FloatArray, weight: FloatArray) -> FloatArray:
    """(row, query) weighted mean of what is known of values (row, query, day)."""
    known = ~np.isnan(values)
    mass = (known * weight).sum(axis=2)
    total = (np.where(known, values, 0) * weight).sum(axis=2)
    return np.asarray(total / np.where(mass > 0, mass, np.nan))


def _bounded(values: FloatArray, available: BoolArray) -> NDArray[np.float32]:
    return np.clip(np.where(available, values, 0.0), -1e4, 1e4).astype(np.float32)


def _between(left: FloatArray, right: FloatArray, share: FloatArray) -> FloatArray:
    mixed = left + share * (right - left)
    mixed = np.where(np.isnan(right), left, mixed)
    return np.asarray(np.where(np.isnan(left), right, mixed))


def _weekend(day: IntArray) -> BoolArray:
    """Whether days since 1970-01-01, a Thursday, are a Saturday or Sunday."""
    return np.asarray((np.asarray(day) + 3) % 7 >= 5)
