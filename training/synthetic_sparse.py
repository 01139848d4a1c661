"""Recipes of synthetic series that hardly move, stick, climb and fall back, or are mostly zero."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from forecaster.domain import BoolArray, FloatArray
from models.wall_clock import DAY
from training import synthetic_events as events
from training import synthetic_random as chaos
from training import synthetic_seasons as seasons
from training.synthetic_clock import HOUR, MINUTE, Clock
from training.synthetic_random import chance, log_uniform
from training.synthetic_recipes import Load, noisy


def rare_counter(rng: Generator, clock: Clock) -> Load:
    """The rate of a counter that seldom counts: 60-99.9 % zeros, single hits or bursts, whole or smeared."""
    share = log_uniform(rng, 0.001, 0.4)
    hit: BoolArray = rng.random(clock.size) < share
    if chance(rng, 0.5):  # hits come together
        gathered = chaos.wandering(rng, clock, DAY)
        hit = np.asarray(gathered + 0.3 * rng.standard_normal(clock.size) > np.quantile(gathered, 1 - share))
    values = np.zeros(clock.size)
    count = int(hit.sum())
    values[hit] = np.ceil(events.heavy_sizes(rng, count)) if chance(rng, 0.6) else events.heavy_sizes(rng, count)
    return Load(np.abs(values), counts=True)


def intermittent_demand(rng: Generator, clock: Clock) -> Load:
    """Demand at near-regular gaps of minutes to a day, of nearly one size."""
    gap = log_uniform(rng, max(2.0 * clock.step, 5 * MINUTE), DAY)
    gaps = gap * np.exp(rng.uniform(0.01, 0.8) * rng.standard_normal(int(clock.span / gap * 2) + 5))
    times = clock.edges[0] + np.cumsum(gaps)
    sizes = log_uniform(rng, 1.0, 100.0) * np.exp(rng.uniform(0, 0.8) * rng.standard_normal(len(times)))
    return Load(np.round(chaos.shots(clock, times, sizes, 0.0)), counts=True)


def disk_rate(rng: Generator, clock: Clock) -> Load:
    """Reads or writes of a database: nothing, then compactions of heavy-tailed size, flushes on a schedule."""
    hits = events.poisson_times(rng, clock, DAY / clock.step * log_uniform(rng, 0.001, 0.3))
    values = chaos.shots(clock, hits, events.heavy_sizes(rng, len(hits)), log_uniform(rng, 1.0, 3.0 * clock.step))
    if chance(rng, 0.4):
        values = values + log_uniform(rng, 0.05, 2.0) * events.jobs(rng, clock, "minutes")
    return Load(np.where(values < 0.02, 0.0, values))


def near_constant(rng: Generator, clock: Clock) -> Load:
    """One value with a noise of a thousandth or less, or none at all."""
    size = 0.0 if chance(rng, 0.25) else log_uniform(rng, 1e-6, 3e-3)
    return Load(1 + size * (chaos.noise(rng, clock) + rng.uniform(0, 2) * chaos.wandering(rng, clock)))


def constant_with_spikes(rng: Generator, clock: Clock) -> Load:
    """A constant, 0 or not, and single samples out of line, at random or on a schedule."""
    level = rng.choice([0.0, 1.0])
    values = level + log_uniform(rng, 0.05, 30.0) * events.spikes(rng, clock)
    if chance(rng, 0.3):
        values = values + log_uniform(rng, 0.05, 3.0) * events.jobs(rng, clock)
    return Load(np.maximum(values, 0.0))


def sticky(rng: Generator, clock: Clock) -> Load:
    """Values held for long and changed now and then: configured limits, pool sizes, replicas."""
    moves = rng.random(clock.size) < log_uniform(rng, 3.0 / clock.size, 0.1)
    levels = np.exp(rng.uniform(0.05, 1.0) * rng.standard_normal(clock.size))
    if chance(rng, 0.5):  # small steps from the last value
        levels = np.exp(
            np.cumsum(np.where(moves, rng.uniform(0.02, 0.3) * rng.standard_normal(clock.size), 0.0)).clip(-6, 6)
        )
    held = _hold(levels, moves)
    if chance(rng, 0.4):
        held = np.ceil(held * log_uniform(rng, 1.0, 50.0))
    return Load(held)


def memory(rng: Generator, clock: Clock) -> Load:
    """Memory: a slow level, staircases that follow a faint season, sticky between changes."""
    slow = chaos.ornstein_uhlenbeck(rng, clock.size, clock.steps(log_uniform(rng, 3 * HOUR, 10 * DAY)))
    level = np.exp(log_uniform(rng, 0.01, 0.3) * slow + log_uniform(rng, 0.002, 0.2) * seasons.daily(rng, clock))
    level = level * events.level_shifts(rng, clock) if chance(rng, 0.4) else level
    if chance(rng, 0.6):
        level = _hold(level, rng.random(clock.size) < log_uniform(rng, 0.005, 0.7))
    return Load(level * (1 + log_uniform(rng, 1e-5, 0.01) * rng.standard_normal(clock.size)))


def leak(rng: Generator, clock: Clock) -> Load:
    """Memory that leaks until a restart: at a limit, on a schedule or by deploys; steeper where busy for some."""
    rate = seasons.load_season(rng, clock) if chance(rng, 0.5) else np.ones(clock.size)
    rate = rate * np.exp(rng.uniform(0.05, 0.6) * chaos.wandering(rng, clock))
    life = clock.steps(log_uniform(rng, 3 * HOUR, 8 * DAY))
    if chance(rng, 0.5):  # killed at a limit
        age = np.cumsum(rate) % max(life * rate.mean(), 1e-9) / max(life * rate.mean(), 1e-9)
    else:
        lives = np.maximum(life * rng.gamma(4.0, 0.25, int(clock.size / life * 3) + 8), 1.0)
        born = np.concatenate([[0.0], np.cumsum(lives)])
        which = np.searchsorted(born, np.arange(clock.size), side="right") - 1
        used = np.cumsum(rate)
        first = np.minimum(born[which].astype(np.int64), clock.size - 1)
        age = (used - used[first]) / max(life * rate.mean(), 1e-9)
    bend = log_uniform(rng, 0.4, 1.5)
    return Load(noisy(rng, clock, log_uniform(rng, 0.1, 3.0) + np.maximum(age, 0.0) ** bend, 1e-4, 0.03))


def collector(rng: Generator, clock: Clock) -> Load:
    """The heap of a collected runtime: a fast sawtooth whose pace follows the load."""
    rate = np.exp(rng.uniform(0.05, 0.5) * chaos.wandering(rng, clock))
    rate = rate * (seasons.load_season(rng, clock) if chance(rng, 0.6) else 1.0)
    cycle = clock.steps(log_uniform(rng, max(5 * MINUTE, 3.0 * clock.step), 12 * HOUR))
    filled = np.cumsum(rate) / max(cycle * rate.mean(), 1e-9) % 1.0
    slow = np.exp(0.1 * chaos.wandering(rng, clock))
    return Load(noisy(rng, clock, (log_uniform(rng, 0.1, 5.0) + filled) * slow, 1e-4, 0.03))


def per_replica(rng: Generator, clock: Clock) -> Load:
    """Usage per replica under an autoscaler: kept near a target, with a tooth at each change of the replicas."""
    load = noisy(rng, clock, seasons.load_season(rng, clock, depth=rng.uniform(0.3, 0.95)), 0.005, 0.15)
    late = max(1, int(clock.steps(log_uniform(rng, 3 * MINUTE, 30 * MINUTE))))
    needed = load / load.mean() * log_uniform(rng, 1.5, 40.0)
    past = np.concatenate([np.repeat(needed[:1], late), needed[:-late]])
    window = max(1, int(clock.steps(rng.choice([0, 300, 900]))))
    recent = np.maximum.reduce(
        [np.concatenate([np.repeat(past[:1], k), past[: clock.size - k]]) for k in range(window)]
    )
    return Load(needed / np.ceil(recent).clip(1))


def held_samples(rng: Generator, clock: Clock) -> Load:
    """A load that is measured less often than it is read: each value stands for 2 to 60 steps (not joined by lines)."""
    load = noisy(rng, clock, events.level_shifts(rng, clock) * seasons.load_season(rng, clock))
    every = int(log_uniform(rng, 2.0, 60.0))
    moves: BoolArray = np.arange(clock.size) % every == 0
    if chance(rng, 0.4):
        moves = rng.random(clock.size) < 1 / every
    return Load(_hold(load, moves))


def raw_counter(rng: Generator, clock: Clock) -> Load:
    """A counter that only grows, with resets for some: what a query without `rate` reads."""
    rate = noisy(rng, clock, seasons.load_season(rng, clock))
    total = np.cumsum(rate)
    if chance(rng, 0.5):
        for start in np.sort(rng.integers(1, clock.size, int(rng.integers(1, 5)))):
            total[start:] -= total[start]
    return Load(np.maximum(total, 0.0))


def _hold(values: FloatArray, moves: BoolArray) -> FloatArray:
    """Each value stands until the next column where `moves` is true; the first column always counts."""
    last = np.where(moves, np.arange(len(values)), 0)
    return np.asarray(values[np.maximum.accumulate(last)])
