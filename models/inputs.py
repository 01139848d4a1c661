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

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster.domain import BoolArray, Context, FloatArray, IntArray
from models import wall_clock
from models.extremes import maximum_of
from models.fits import Arrays
from models.gaps import between, bounded, faded, mean, most, padded, quantiles, spread, taken
from models.past import DAYS, HOUR, TABLES, WEEK, Past
from models.past import LEVELS as LEVELS
from models.wall_clock import DAY

POINTS = 13  # candidates that are one value
DISTRIBUTIONS = 7  # candidates with a spread
CANDIDATES = POINTS + DISTRIBUTIONS
CHANGE, DAY_LEVEL, WEEK_LEVEL, SAME_HOUR = (
    0,
    2,
    3,
    4,
)  # of the distributions: the changes, the last day, the last week, …
DAY_AGO, WEEK_AGO = 6, 11  # of the points: the values at the same time of a day and of one or two weeks before

_BLOCK = 256  # rows that are worked on together: their arrays stay in the cache
_QUERIES = 16_384  # at most so many queries of rows together: they need 1 kB each
_FINE = 48  # newest samples that are seen one by one
_PYRAMID = (48, 96, 192, 384, 768)  # fine samples between which mean, maximum and spread are seen
_COMPARED = (1, 2, 3, 7, 14)  # days over which the newest past is compared with earlier days
_FADE = 0.85  # weight of a day beside the one after it
_SEVEN = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
_SHOWN = (1, 2, 6, 10, 11)  # of LEVELS: those of a distribution that are inputs, too
_FLOOR = 0.02  # of the scale: no unit is smaller
SERIES, QUERY = 267, 113  # numbers in the inputs
IS_PEAK = 2  # of the numbers of a query: 1 where a maximum is asked, 0 where a value is


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


def inputs_of(
    context: Context, rows: IntArray, queries: Queries, tables: Arrays | None = None
) -> Iterator[tuple[IntArray, Inputs]]:
    """Blocks of `rows` with their inputs; every row is in exactly one.

    `tables`: what models.past.tables_of measured for all rows of the context, lately; measured anew where it is None.
    """
    zones = np.array(context.calendar.timezones)
    rows = np.asarray(rows, dtype=np.int64)
    most = block_of(len(queries.seconds))
    for zone in np.unique(zones[rows]):
        members = rows[zones[rows] == zone]
        for first in range(0, len(members), most):
            part = members[first : first + most]
            known = None if tables is None else {name: table[part] for name, table in tables.items()}
            yield part, _inputs(Past(context, part, str(zone)), queries, known)


def block_of(queries: int) -> int:
    """Rows that are worked on together where each has so many queries."""
    return int(np.clip(_QUERIES // max(queries, 1), 1, _BLOCK))


def _inputs(past: Past, queries: Queries, tables: Arrays | None) -> Inputs:
    seconds, peak = np.asarray(queries.seconds, dtype=np.int64), np.asarray(queries.peak)
    parts = [] if peak.all() else [_Asked(past, seconds[~peak], peak=False, tables=tables)]
    parts += [_Asked(past, seconds[[i]], peak=True, tables=tables) for i in np.flatnonzero(peak).tolist()]
    order = np.argsort(np.concatenate((np.flatnonzero(~peak), np.flatnonzero(peak))))
    is_sorted = bool((np.diff(order) > 0).all())

    def joined(pieces: list[Any]) -> Any:
        whole = np.concatenate(pieces, axis=1) if len(pieces) > 1 else pieces[0]
        return whole if is_sorted else whole[:, order]

    return Inputs(
        series=_series(past),
        query=joined([part.features() for part in parts]),
        points=joined([part.points for part in parts]),
        spreads=joined([part.spreads for part in parts]),
        available=joined([part.available for part in parts]),
        center=past.center,
        unit=joined([part.unit for part in parts]),
        nonnegative=past.nonnegative,
        constant=past.constant,
        samples=past.samples,
    )


# --- the series as a whole -------------------------------------------------------------------------------------------


def _series(past: Past) -> NDArray[np.float32]:
    """(row, SERIES)."""
    s = past.scale[:, None]
    newest = padded(past.fine, _FINE)
    parts: list[FloatArray | BoolArray] = [np.arcsinh(newest / s), ~np.isnan(newest)]
    for low, high in pairwise(_PYRAMID):
        piece = padded(past.fine, high)[:, : high - low]
        parts.append(np.arcsinh(np.stack((mean(piece), most(piece), spread(piece)), axis=1) / s))
    halves = past.means(1_800, 48)
    parts += [np.arcsinh(halves / s), ~np.isnan(halves[:, ::4])]
    parts += [np.arcsinh(past.means(DAY, DAYS) / s), np.arcsinh(past.pooled(DAY, DAYS, most) / s)]
    parts.append(np.arcsinh(_agreement(past) / s))
    for window, points in ((HOUR, 60), (6 * HOUR, 72), (DAY, 96), (WEEK, 168)):
        parts.append(np.arcsinh(quantiles(past.recent(window, points), _SEVEN) / s))
    parts.append(_character(past))
    return np.concatenate([np.nan_to_num(np.asarray(part, dtype=np.float32)) for part in parts], axis=1)


def _agreement(past: Past) -> FloatArray:
    """(row, …) how the last 1, 6 and 24 hours stood beside the same hours of earlier days: mean and spread."""
    out = []
    per_day = DAY // past.cs
    for lag in _COMPARED:
        both = padded(past.coarse, (lag + 1) * per_day)
        away = both[:, -per_day:] - both[:, :per_day]
        for hours in (1, 6, 24):
            piece = away[:, -max(hours * HOUR // past.cs, 1) :]
            out += [mean(piece), spread(piece)]
    return np.stack(out, axis=1)


def _character(past: Past) -> FloatArray:
    """(row, …) what kind of series it is, without a unit."""
    day = past.recent(DAY, 288)
    zero = -past.center[:, None].astype(np.float32)
    at_zero = np.isclose(day, zero, rtol=1e-6, atol=0)
    kept = np.diff(day, axis=1) == 0
    s = past.scale
    each = (
        np.log(past.step / 60.0),
        np.log1p(past.span / HOUR),
        np.log1p(past.gap / past.step),
        np.log1p(past.gap / HOUR),
        np.isnan(padded(past.fine, 240)).mean(axis=1),
        np.isnan(past.coarse).mean(axis=1),
        past.nonnegative,
        np.arcsinh(np.where(past.nonnegative, past.center, 0.0) / s),
        at_zero.mean(axis=1),
        kept.mean(axis=1) if kept.shape[1] else 0.0,
        np.log(past.noise / s + 1e-3),
        np.log(past.roughness[:, 0] / s + 1e-3),
        np.log(past.roughness[:, 1] / s + 1e-3),
    )
    return np.stack([np.broadcast_to(np.asarray(part, dtype=np.float64), (past.count,)) for part in each], axis=1)


# --- one query -------------------------------------------------------------------------------------------------------


class _Asked:
    """Some queries of one kind on one past: unit, candidates and inputs."""

    def __init__(self, past: Past, seconds: IntArray, peak: bool, tables: Arrays | None) -> None:
        self.past, self.seconds, self.peak = past, seconds, peak
        self.shape = (past.count, len(seconds))
        self.times = past.now + self.seconds
        self.local = self.times + wall_clock.utc_offsets(past.zone, self.times)
        self.day = (self.local - 1) // DAY
        now_local = past.now + int(wall_clock.utc_offsets(past.zone, np.array([past.now]))[0])
        self.weekend = _weekend(self.day)
        self.other_kind = self.weekend != _weekend(np.array([(now_local - 1) // DAY]))[0]
        self._look_back()
        self._distributions(tables)
        self.unit = self._unit()
        self._candidates()

    def _look_back(self) -> None:
        """The same hours of earlier days: `then` (row, query, day) and how they had `moved` since the hour of now."""
        past = self.past
        least = np.maximum(-(-self.seconds // DAY), 1)  # whole days back that lie in the past
        shape = (*self.shape, DAYS)
        self.then = np.full(shape, np.nan, dtype=np.float32)
        self.moved, self.moved_hour = self.then.copy(), self.then.copy()
        self.near = np.full((*self.shape, 3), np.nan, dtype=np.float32)  # one day ago: not smoothed, before and after
        alike = np.zeros((len(self.seconds), DAYS), dtype=np.bool_)
        for k in range(DAYS):
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
        weight = alike[None] * _FADE ** np.arange(DAYS)
        self.then_alike = faded(self.then, weight)
        self.moved_alike = faded(self.moved, weight)
        self.moved_hour_alike = faded(self.moved_hour, weight)
        self.week = self._week(least)

    def _week(self, least: IntArray) -> FloatArray:
        """(2, row, query) one or two whole weeks before: the value, and how it had moved."""
        index = (-least) % 7 + 0  # least + index is a multiple of 7
        at = np.broadcast_to(np.minimum(index, DAYS - 1)[None, :, None], (*self.shape, 1))
        return np.stack([np.take_along_axis(x, at, axis=2)[..., 0] for x in (self.then, self.moved)])

    def _top(self, reference: int, seconds: int) -> FloatArray:
        """(row,) maximum of the coarse grid over the window that begins after column `reference`."""
        count = max(round(seconds / self.past.cs), 1)
        end = reference + count
        if reference < 0 or end >= self.past.coarse.shape[1]:
            return np.full(self.past.count, np.nan, dtype=np.float32)
        return maximum_of(self.past.maxima(False, seconds), np.array([end]), count)[:, 0].astype(np.float32)

    def _distributions(self, known: Arrays | None) -> None:
        """Empirical distributions of the change and of what simple rules do not explain of it, and of the level."""
        past = self.past
        longest = int(self.seconds.max())
        if known is None:
            known = past.peak_tables(longest) if self.peak else past.tables(longest)
        if self.peak:
            tables = {name: np.asarray(known[f"peak_{name}"])[:, None] for name in (*TABLES, "top_day", "top_week")}
            center = past.center[:, None, None]
            self.day_level, self.week_level = tables["top_day"] - center, tables["top_week"] - center
            levels = past.now_levels(longest)[:, None]
        else:
            nodes = past.nodes(longest)
            at = np.interp(np.log(self.seconds), np.log(nodes), np.arange(len(nodes)))
            left = np.minimum(at.astype(np.int64), max(len(nodes) - 2, 0))
            right, share = np.minimum(left + 1, len(nodes) - 1), (at - left).astype(np.float32)
            stacked: Arrays = {name: known[name] for name in TABLES}
            stacked["now"] = np.stack([past.now_levels(node) for node in nodes], axis=1)
            tables = {
                name: between(table[:, left], table[:, right], share if table.ndim == 2 else share[:, None])
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
        ordered = quantiles(self.then.reshape(-1, DAYS), LEVELS).reshape(*self.shape, -1)
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
        one = np.empty((*self.shape, POINTS), dtype=np.float32)
        for i, point in enumerate(points):
            np.divide(point, self.unit, out=one[..., i], casting="same_kind")
        many = np.empty((*self.shape, DISTRIBUTIONS, len(LEVELS)), dtype=np.float32)
        for i, x in enumerate(spreads):
            np.divide(x, u, out=many[..., i, :], casting="same_kind")
        self.available: BoolArray = np.concatenate((np.isfinite(one), np.isfinite(many).all(axis=3)), axis=2)
        self.points = bounded(one, self.available[..., :POINTS])
        self.spreads = bounded(many, self.available[..., POINTS:, None])

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
        ordered = quantiles(self.moved.reshape(-1, DAYS), (0.05, 0.25, 0.5, 0.75, 0.95)).reshape(*self.shape, -1)
        in_units: list[FloatArray] = [
            self.points[..., 1:],
            self.spreads[..., _SHOWN].reshape(*self.shape, -1),
            *[x / u[..., None] for x in (*away, ordered, self.near - self.then[..., :1])],
            spread(self.moved)[..., None] / u[..., None],
            zero[..., None],
        ]
        out = np.empty((*self.shape, QUERY), dtype=np.float32)
        at = 0
        for x in per_query:
            out[..., at] = x
            at += 1
        for x in logs:
            out[..., at] = x
            at += 1
        for x in in_units:
            np.arcsinh(x, out=out[..., at : at + x.shape[-1]], casting="same_kind")
            at += x.shape[-1]
        out[..., at : at + CANDIDATES - 1] = self.available[..., 1:]
        out[..., -1] = known_days
        return np.nan_to_num(out, copy=False)


def _weekend(day: IntArray) -> BoolArray:
    """Whether days since 1970-01-01, a Thursday, are a Saturday or Sunday."""
    return np.asarray((np.asarray(day) + 3) % 7 >= 5)
