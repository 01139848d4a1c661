"""Events of synthetic loads: jobs, bursts, crowds, shifts, outages, trends. Each is (size,) to add or to multiply."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from forecaster.domain import FloatArray
from models.wall_clock import DAY
from training.synthetic_clock import HOUR, MINUTE, Clock
from training.synthetic_random import (
    autoregression,
    chance,
    hours_long,
    log_uniform,
    ornstein_uhlenbeck,
    pick,
    pulses,
    random_walk,
    shots,
)

_MOST_EVENTS = 50_000


def poisson_times(rng: Generator, clock: Clock, per_day: float, where: FloatArray | None = None) -> FloatArray:
    """Unix times of events, `per_day` in the mean; `where` (size,) is the relative rate over time."""
    mean = min(per_day * clock.span / DAY, _MOST_EVENTS)
    count = int(rng.poisson(mean))
    if where is None:
        return np.asarray(clock.edges[0] + rng.uniform(0, clock.span, count))
    total = np.concatenate([[0.0], np.cumsum(where)])
    return np.asarray(np.interp(rng.uniform(0, total[-1], count), total, clock.edges))


def hawkes_times(rng: Generator, clock: Clock, per_day: float, where: FloatArray | None = None) -> FloatArray:
    """Unix times of events of which each starts others: a self-exciting process, drawn generation by generation."""
    children, delay = rng.uniform(0.3, 0.95), log_uniform(rng, 5.0, 4 * HOUR)
    generation = poisson_times(rng, clock, per_day * (1 - children), where)
    times, total = [generation], len(generation)
    while len(generation) and total < _MOST_EVENTS:
        born = rng.poisson(children, len(generation))
        generation = np.repeat(generation, born) + rng.standard_exponential(int(born.sum())) * delay
        times.append(generation)
        total += len(generation)
    return np.concatenate(times)


def heavy_sizes(rng: Generator, count: int) -> FloatArray:
    """(count,) positive sizes of median about 1: Pareto, lognormal, exponential or all alike."""
    kind = pick(rng, ("pareto", "lognormal", "exponential", "alike"))
    if kind == "pareto":
        return np.minimum((1 - rng.random(count)) ** (-1 / rng.uniform(0.8, 3.0)) / 1.5, 300.0)
    if kind == "lognormal":
        return np.asarray(np.exp(rng.uniform(0.2, 1.8) * rng.standard_normal(count)))
    if kind == "exponential":
        return rng.standard_exponential(count)
    return np.asarray(1 + 0.05 * rng.standard_normal(count))


def bursts(rng: Generator, clock: Clock, where: FloatArray | None = None) -> FloatArray:
    """Bursts of heavy-tailed size that fade over seconds to hours, at random, self-excited or gathered where busy."""
    per_day = log_uniform(rng, 0.5, 300.0)
    arrivals = hawkes_times if chance(rng, 0.4) else poisson_times
    times = arrivals(rng, clock, per_day, where)
    sizes = heavy_sizes(rng, len(times))
    if chance(rng, 0.35):  # rectangles
        shortest = max(clock.step / HOUR / 3, 0.01)
        return pulses(clock, times, hours_long(rng, shortest, shortest * log_uniform(rng, 2, 60), len(times)), sizes)
    return shots(clock, times, sizes, log_uniform(rng, 20.0, 3 * HOUR), log_uniform(rng, 1.0, 20 * MINUTE))


def spikes(rng: Generator, clock: Clock) -> FloatArray:
    """Single samples out of line, rare, of either sign now and then."""
    hit = rng.random(clock.size) < log_uniform(rng, 1e-4, 0.02)
    sizes = hit * 1.0
    sizes[hit] = heavy_sizes(rng, int(hit.sum()))
    if chance(rng, 0.15):
        sizes[hit] *= rng.choice([-1.0, 1.0], int(hit.sum()))
    return sizes


def crowds(rng: Generator, clock: Clock, most: float = 20.0) -> FloatArray:
    """Factor >= 1: flash crowds, fast to rise and slow to fall; matches of fixed length; newsletters."""
    kind = pick(rng, ("flash", "flash", "match", "newsletter"))
    per_week = log_uniform(rng, 0.3, 8.0)
    count = max(1, int(rng.poisson(per_week * clock.span / DAY / 7)))
    sizes = np.exp(rng.uniform(math.log(1.3), math.log(most), count)) - 1
    if kind == "match":
        hour = rng.choice(rng.uniform(10, 22, 3), count) * HOUR
        starts = clock.moments(rng.integers(0, clock.days, count), hour)
        plateau = pulses(clock, starts, np.full(count, rng.uniform(1.5, 3.0) * HOUR), sizes)
        ramp = math.exp(-clock.step / log_uniform(rng, 3 * MINUTE, 40 * MINUTE))
        return np.asarray(1 + autoregression(plateau * (1 - ramp), ramp))
    if kind == "newsletter":
        days = np.arange(int(rng.integers(7)), clock.days, int(rng.choice([1, 2, 7, 7, 14])))
        starts = clock.moments(
            days, np.full(len(days), rng.uniform(6, 20) * HOUR) + 60 * rng.standard_normal(len(days))
        )
        sizes = math.exp(rng.uniform(0.2, 1.5)) * np.exp(0.3 * rng.standard_normal(len(days)))
    else:
        starts = clock.edges[0] + rng.uniform(0, clock.span, count)
    fall = log_uniform(rng, 10 * MINUTE, 12 * HOUR)
    return 1 + shots(clock, starts, sizes, fall, rise=log_uniform(rng, 10.0, 15 * MINUTE))


def jobs(rng: Generator, clock: Clock, kind: str = "") -> FloatArray:
    """Height-1 work of a scheduler: every N minutes, hourly, daily, on working days, weekly, or nightly and long."""
    kind = kind or pick(rng, ("minutes", "hourly", "daily", "weekdays", "weekly", "nightly"))
    if kind in ("minutes", "hourly"):
        every = HOUR if kind == "hourly" else int(rng.choice([5, 10, 15, 20, 30, 120, 180, 240, 360, 720])) * MINUTE
        every = max(every, 2 * clock.step)
        first = (clock.edges[0] // every) * every + int(rng.integers(every // MINUTE)) * MINUTE
        starts = np.arange(first, clock.edges[-1], every, dtype=np.float64)
        length = every * log_uniform(rng, 0.01, 0.5)
    else:
        days = np.arange(-1, clock.days)
        if kind == "weekdays":
            days = days[clock.weekday_of(days) < 5]
        elif kind == "weekly":
            days = days[clock.weekday_of(days) == int(rng.integers(7))]
        hour = rng.uniform(22, 30) if kind == "nightly" else rng.uniform(0, 24)
        minute = np.full(len(days), round(hour * 12) * 5.0 * MINUTE)
        starts = clock.moments(days, minute)
        length = log_uniform(rng, 1.0, 6.0) * HOUR if kind == "nightly" else log_uniform(rng, 1 * MINUTE, 4 * HOUR)
    late = log_uniform(rng, 1.0, 120.0) if chance(rng, 0.5) else 0.0
    starts = starts + late * rng.standard_exponential(len(starts))
    lengths = length * np.exp(log_uniform(rng, 0.01, 0.7) * rng.standard_normal(len(starts)))
    heights = np.exp(log_uniform(rng, 0.01, 0.6) * rng.standard_normal(len(starts)))
    run = rng.random(len(starts)) >= (rng.uniform(0, 0.3) if chance(rng, 0.3) else 0.0)  # some are skipped
    return pulses(clock, starts[run], lengths[run], heights[run])


def level_shifts(rng: Generator, clock: Clock) -> FloatArray:
    """Positive factor: deploys and moved customers, as steps or as ramps of minutes to days, some taken back."""
    count = 1 + int(rng.poisson(log_uniform(rng, 0.3, 6.0)))
    log_level = np.zeros(clock.size)
    for start in rng.integers(0, clock.size, count):
        ramp = max(1.0, clock.steps(log_uniform(rng, 1.0, 2 * DAY))) if chance(rng, 0.4) else 1.0
        size = rng.choice([-1.0, 1.0]) * log_uniform(rng, 0.02, 1.2)
        since = np.arange(clock.size) - start
        log_level += size * np.clip(since / ramp, 0, 1)
        if chance(rng, 0.25):
            log_level -= size * (since > clock.steps(log_uniform(rng, HOUR, 5 * DAY)))
    return np.asarray(np.exp(log_level))


def outages(rng: Generator, clock: Clock) -> FloatArray:
    """Factor: falls to 0 (or to a rest) for minutes to hours, then overshoots while clients come back."""
    count = 1 + int(rng.poisson(1.0))
    starts = clock.edges[0] + rng.uniform(0, clock.span, count)
    lengths = hours_long(rng, max(2 * clock.step / HOUR, 0.05), 12.0, count)
    down = np.minimum(pulses(clock, starts, lengths), 1.0)
    over = rng.uniform(0, 1.0) if chance(rng, 0.5) else 0.0
    back = shots(clock, starts + lengths, np.full(count, over), log_uniform(rng, 5 * MINUTE, 2 * HOUR))
    return np.asarray((1 - rng.choice([1.0, 1.0, rng.uniform(0.3, 0.99)]) * down) * (1 + back * (1 - down)))


def trend(rng: Generator, clock: Clock) -> FloatArray:
    """Positive factor of mean 1: linear, exponential, saturating, a slow walk, part of a year's wave, or a launch."""
    kind = pick(rng, ("linear", "exponential", "saturating", "walk", "year", "launch"))
    x = np.linspace(0, 1, clock.size)
    size = rng.choice([-1.0, 1.0]) * log_uniform(rng, 0.02, 1.5)
    if kind == "linear":
        values = 1 + max(size, -0.95) * x
    elif kind == "exponential":
        values = np.exp(size * x)
    elif kind == "saturating":
        values = 1 + max(size, -0.95) * (1 - np.exp(-np.clip(x - rng.uniform(0, 0.6), 0, None) * rng.uniform(2, 20)))
    elif kind == "walk":
        values = np.exp(0.4 * abs(size) * random_walk(rng, clock.size))
    elif kind == "launch":  # next to nothing, then ten to a hundred times as much
        values = 1 + rng.uniform(10, 100) / (
            1 + np.exp(-(x - rng.uniform(0.1, 0.9)) * log_uniform(rng, 5.0, 300.0)).clip(max=1e9)
        )
    else:
        years = (clock.edges[1:] / (365.25 * DAY)) + rng.random()
        values = 1 + min(abs(size), 0.9) * np.sin(2 * math.pi * years)
    return np.asarray(values / values.mean())


def modulation(rng: Generator, clock: Clock) -> FloatArray:
    """Positive factor that swells and falls over hours to a week."""
    wander = ornstein_uhlenbeck(rng, clock.size, clock.steps(log_uniform(rng, 2 * HOUR, 7 * DAY)))
    return np.asarray(np.exp(log_uniform(rng, 0.05, 0.8) * wander))
