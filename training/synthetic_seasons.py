"""Seasons of synthetic loads: days, weeks, other periods, the year. All by the wall clock of the group."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from forecaster.domain import FloatArray
from models.wall_clock import DAY
from training.synthetic_clock import HOUR, Clock
from training.synthetic_random import autoregression, chance, log_uniform, pick, smooth, standard

BINS = 1_440  # minutes of a day
_HOURS = np.arange(BINS) / 60.0
DAY_SHAPES = ("harmonics", "plateau", "peaks", "sawtooth", "opening", "humps", "shifts", "smooth", "trough")


def day_shape(rng: Generator, name: str) -> FloatArray:
    """(BINS,) load over the minutes of a day, 0 to 1. Raises ValueError for a name not in `DAY_SHAPES`."""
    if name == "harmonics":
        table = _harmonics(rng)
    elif name == "plateau":
        table = _plateau(rng)
    elif name == "peaks":
        kappas = [log_uniform(rng, 1.0, 300.0) for _ in range(int(rng.integers(1, 4)))]
        table = np.sum([rng.uniform(0.2, 1) * _mises(rng.uniform(0, 24), k) for k in kappas], axis=0)
    elif name == "sawtooth":
        rise, gone = rng.uniform(0.01, 0.99), (_HOURS / 24 + rng.random()) % 1
        table = np.where(gone < rise, gone / rise, (1 - gone) / (1 - rise)) ** log_uniform(rng, 0.5, 2.0)
    elif name == "opening":
        since = (_HOURS - rng.uniform(5, 11)) % 24
        ramp = log_uniform(rng, 0.02, 0.5)
        table = (1 - np.exp(-since / ramp)) * np.exp(-since / log_uniform(rng, 1.0, 10.0))
        table = table + rng.uniform(0, 0.8) * _mises(rng.uniform(12, 22), log_uniform(rng, 2.0, 10.0))
    elif name == "humps":
        first, second = rng.uniform(6, 12), rng.uniform(14, 22)
        table = rng.uniform(0.4, 1) * _mises(first, log_uniform(rng, 2, 40)) + _mises(second, log_uniform(rng, 2, 40))
        table = table + rng.uniform(0, 1) * _mises((first + second) / 2, 1.0)
    elif name == "shifts":
        turns = np.sort(rng.uniform(0, 24, int(rng.integers(2, 9))))
        table = rng.uniform(0, 1, len(turns))[np.searchsorted(turns, _HOURS) % len(turns)]
    elif name == "smooth":
        scale = log_uniform(rng, 0.4, 5.0) / 24
        waves = np.arange(1, 40)
        size = np.exp(-((math.pi * waves * scale) ** 2)) * rng.standard_normal((2, 39))
        angle = 2 * math.pi * waves[:, None] * _HOURS / 24
        table = size[0] @ np.cos(angle) + size[1] @ np.sin(angle)
    elif name == "trough":
        table = -_mises(rng.uniform(0, 24), log_uniform(rng, 1.0, 60.0))
    else:
        raise ValueError(f"no day shape {name!r}: one of {', '.join(DAY_SHAPES)}")
    low, high = table.min(), table.max()
    return np.asarray((table - low) / max(high - low, 1e-12))


def _harmonics(rng: Generator) -> FloatArray:
    waves = np.arange(1, int(rng.integers(2, 10)))
    size = waves ** -rng.uniform(0.5, 2.5) * rng.standard_normal(len(waves))
    phase = rng.uniform(0, 2 * math.pi, len(waves))
    return np.asarray(size @ np.cos(2 * math.pi * waves[:, None] * _HOURS / 24 + phase[:, None]))


def _plateau(rng: Generator) -> FloatArray:
    opens, length = rng.uniform(5, 11), rng.uniform(4, 14)
    up, down = log_uniform(rng, 0.05, 3.0), log_uniform(rng, 0.05, 4.0)
    hours = (_HOURS - opens + 6) % 24 - 6  # the plateau starts at 0 and does not wrap
    table = (
        1
        / (1 + np.exp(-np.clip(hours / up * 4, -50, 50)))
        / (1 + np.exp(np.clip((hours - length) / down * 4, -50, 50)))
    )
    if chance(rng, 0.4):  # lunch
        table = table * (1 - rng.uniform(0.1, 0.6) * _mises(opens + length * rng.uniform(0.35, 0.55), 30.0))
    return np.asarray(table + rng.uniform(-0.3, 0.3) * table * hours / length)


def _mises(hour: float, kappa: float) -> FloatArray:
    return np.asarray(np.exp(kappa * (np.cos(2 * math.pi * (_HOURS - hour) / 24) - 1)))


def week_factors(rng: Generator) -> FloatArray:
    """(7,) factor of each day from Monday, about 1 on working days; all 1 for a load that knows no week."""
    if chance(rng, 0.3):
        return np.ones(7)
    factors = 1 + log_uniform(rng, 0.003, 0.25) * rng.standard_normal(7)
    weekend = log_uniform(rng, 0.05, 1.3)
    factors[5:] *= weekend * np.exp(rng.uniform(0.01, 0.2) * rng.standard_normal(2))
    if chance(rng, 0.1):  # a week of its own: markets, a closed day, a weekly event
        factors *= np.exp(0.5 * rng.standard_normal(7))
    return np.asarray(factors.clip(0.02))


def by_weekday(rng: Generator, clock: Clock, factors: FloatArray) -> FloatArray:
    """(size,) the factor of the day, passing into the next over a few hours around a turn of its own."""
    turn, ramp = rng.uniform(-3, 5) * HOUR, log_uniform(rng, 0.2, 5.0) * HOUR
    local = clock.local - turn
    today = (local // DAY).astype(np.int64) + 3
    share = np.minimum(local % DAY / ramp, 1.0)
    return np.asarray(factors[(today - 1) % 7] * (1 - share) + factors[today % 7] * share)


def day_walk(rng: Generator, clock: Clock, spread: float) -> FloatArray:
    """(size,) of mean 0 and deviation `spread` that changes from day to day with a memory, and smoothly inside."""
    days = clock.days + 2
    phi = rng.uniform(0.0, 0.95)
    nodes = autoregression(rng.standard_normal(days + 20) * math.sqrt(1 - phi * phi), phi)[20:]
    return np.asarray(spread * np.interp(clock.day + clock.day_fraction, np.arange(days) - 0.5, nodes))


def look_up(clock: Clock, table: FloatArray, shift: FloatArray | float = 0.0) -> FloatArray:
    """(size,) value of a day table (BINS,) at the time of day, `shift` days later, between minutes by a line."""
    position = ((clock.day_fraction - shift) % 1.0) * len(table) - 0.5
    floor = np.floor(position)
    left = floor.astype(np.int64) % len(table)
    return np.asarray(table[left] + (position - floor) * (table[(left + 1) % len(table)] - table[left]))


def daily(rng: Generator, clock: Clock, names: tuple[str, ...] = DAY_SHAPES) -> FloatArray:
    """(size,) 0 to about 1: the shape of the day, its day-to-day jitter, its weekends and its drift."""
    table = day_shape(rng, pick(rng, names))
    if chance(rng, 0.15):
        table = 1 - table
    if chance(rng, 0.25):
        table = 0.7 * table + 0.3 * day_shape(rng, pick(rng, DAY_SHAPES))
    if chance(rng, 0.5):  # users in other zones than the clock of the data
        table = np.roll(table, int(rng.integers(BINS)))
    shift: FloatArray | float = day_walk(rng, clock, log_uniform(rng, 1.0, 60.0) / BINS) if chance(rng, 0.4) else 0.0
    values = look_up(clock, table, shift)
    if chance(rng, 0.3):
        share = rng.uniform(0.3, 1.0)
        other = look_up(clock, day_shape(rng, pick(rng, names)), shift)
        values = np.where(clock.weekday >= 5, (1 - share) * values + share * other, values)
    if chance(rng, 0.15):  # the shape itself changes over the span
        new = np.linspace(0, rng.uniform(0.3, 1), clock.size)
        values = (1 - new) * values + new * look_up(clock, day_shape(rng, pick(rng, names)), shift)
    if chance(rng, 0.15):  # an early end on Fridays
        leave = rng.uniform(12, 17) / 24
        late = (clock.weekday == 4) * np.clip((clock.day_fraction - leave) * 12, 0, 1)
        values = values * (1 - rng.uniform(0.2, 0.8) * late)
    return np.asarray(values * np.exp(day_walk(rng, clock, log_uniform(rng, 0.003, 0.4))))


def load_season(rng: Generator, clock: Clock, names: tuple[str, ...] = DAY_SHAPES, depth: float = 0.0) -> FloatArray:
    """(size,) positive, mean 1: day times week. `depth` is the share that has a season; drawn from 0.05 to 1 if 0."""
    swing = depth if depth > 0 else 1 - log_uniform(rng, 0.005, 0.95)
    values = daily(rng, clock, names)
    if chance(rng, 0.3):
        values = values ** log_uniform(rng, 0.5, 3.0)
    factors = by_weekday(rng, clock, week_factors(rng))
    if chance(rng, 0.5):  # weekends touch the busy hours only
        values = 1 - swing + swing * values * factors
    else:
        values = (1 - swing + swing * values) * factors
    if chance(rng, 0.15):  # 10 to 1,000 times between night and day
        values = np.exp(rng.uniform(2.0, 6.0) * (values / values.max() - 1))
    return np.asarray(values / values.mean())


def other_period(rng: Generator, clock: Clock, shortest: float = 600.0, longest: float = DAY / 2) -> FloatArray:
    """(size,) standardised wave of a period from 10 min to 12 h, unknown to calendars; strict, or drifting."""
    period = log_uniform(rng, max(shortest, 2.5 * clock.step), max(longest, 8 * clock.step))
    phase = (clock.edges[1:] - clock.edges[0]) / period + rng.random()
    if chance(rng, 0.4):
        phase = phase + log_uniform(rng, 0.01, 1.0) * smooth(rng, clock.size, clock.steps(DAY))
    table = day_shape(rng, pick(rng, DAY_SHAPES))
    position = (phase % 1.0) * BINS
    return standard(table[position.astype(np.int64) % BINS])


def evolving_day(rng: Generator, clock: Clock) -> FloatArray:
    """(size,) standardised: each day is the last one times phi plus smooth news, a seasonal autoregression."""
    phi, scale = 1 - log_uniform(rng, 0.003, 0.5), log_uniform(rng, 0.5, 4.0) * 12
    bins, days = 288, clock.days + 1
    news = smooth(rng, bins * (days + 12), scale).reshape(days + 12, bins)
    news[:12] += rng.uniform(0, 3) * day_shape(rng, pick(rng, DAY_SHAPES))[:: BINS // bins]
    rows = autoregression(news.T * math.sqrt(1 - phi * phi), phi).T[12:]
    position = (clock.day + clock.day_fraction) * bins
    return standard(np.interp(position, np.arange(rows.size) + 0.5, rows.ravel()))


def week_table(rng: Generator, clock: Clock) -> FloatArray:
    """(size,) 0 to 1: a week of 168 hours drawn as a whole, stepped or smooth, with days of its own."""
    nodes = smooth(rng, 168, log_uniform(rng, 0.5, 8.0)) + rng.uniform(0, 2) * np.tile(
        day_shape(rng, pick(rng, DAY_SHAPES))[::60], 7
    )
    hour = (clock.local / HOUR + 72) % 168
    if chance(rng, 0.3):
        values = nodes[hour.astype(np.int64) % 168]
    else:
        values = np.interp(hour, np.arange(169), np.append(nodes, nodes[0]))
    return np.asarray((values - nodes.min()) / max(np.ptp(nodes), 1e-9))
