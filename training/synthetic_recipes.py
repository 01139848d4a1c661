"""Recipes of synthetic loads with a season or with bursts: each draws one series from a generator and a clock.

A recipe returns a `Load` in a unit of its own. Gaps, rounding and the overall scale come later (`synthetic_artefacts`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from forecaster.domain import BoolArray, FloatArray
from models.wall_clock import DAY
from training import synthetic_events as events
from training import synthetic_random as chaos
from training import synthetic_seasons as seasons
from training.synthetic_clock import HOUR, MINUTE, Clock
from training.synthetic_random import chance, log_uniform, standard


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """One series before artefacts."""

    values: FloatArray  # (time,)
    saturated: BoolArray | None = None  # (time,) where served load was clipped; None is nowhere
    counts: bool = False  # whole numbers, which stay whole more often than not


def noisy(rng: Generator, clock: Clock, load: FloatArray, low: float = 0.008, high: float = 0.6) -> FloatArray:
    """A positive load with level noise and observation noise, in proportion to it, to its root or to its mean."""
    size, memory = log_uniform(rng, low, high), rng.random() ** 1.5
    wander = chaos.wandering(rng, clock) * size * memory
    busy = load / max(load.max(), 1e-12)
    white = chaos.noise(rng, clock, busy) * size * (1 - memory)
    if chance(rng, 0.5):
        values = load * np.exp(np.clip(wander, -4, 4)) * (1 + white)
    else:
        values = load * np.exp(np.clip(wander, -4, 4)) + load.mean() * (busy**0.5 if chance(rng, 0.5) else 1.0) * white
    return np.asarray(np.maximum(values, 0.0) if chance(rng, 0.8) else np.abs(values))


def eventful(rng: Generator, clock: Clock, load: FloatArray) -> FloatArray:
    """A positive load with the events of a life in production, each of them rare enough that most series have few."""
    mean = load.mean()
    if chance(rng, 0.2):
        load = load * events.trend(rng, clock)
    if chance(rng, 0.15):
        load = load * events.level_shifts(rng, clock)
    if chance(rng, 0.10):
        load = load * events.crowds(rng, clock)
    if chance(rng, 0.2):
        load = load + mean * log_uniform(rng, 0.03, 2.0) * events.jobs(rng, clock)
    if chance(rng, 0.18):
        load = load + mean * log_uniform(rng, 0.03, 3.0) * events.bursts(rng, clock, load + 1e-9 * mean + 1e-30)
    if chance(rng, 0.12):
        load = load + mean * log_uniform(rng, 0.2, 10.0) * np.abs(events.spikes(rng, clock))
    if chance(rng, 0.06):
        load = load * events.outages(rng, clock)
    return load


def counted(rng: Generator, rate: FloatArray) -> FloatArray:
    """Poisson counts of the mean `rate` (time,), often more spread out than Poisson (negative binomial)."""
    if chance(rng, 0.4):
        k = log_uniform(rng, 0.3, 100.0)
        rate = rate * rng.standard_gamma(k, len(rate)) / k
    return rng.poisson(np.clip(rate, 0.0, 1e12)).astype(np.float64)


# Loads with a season


def daily_season(rng: Generator, clock: Clock) -> Load:
    """Day times week of any shape, level and noise drawn freely: the usual service."""
    return Load(noisy(rng, clock, eventful(rng, clock, seasons.load_season(rng, clock))))


def noise_free(rng: Generator, clock: Clock) -> Load:
    """A season and nothing else: a probe, a simulator, a mean over a whole fleet. One day is as the last."""
    load = seasons.load_season(rng, clock)
    return Load(load * events.trend(rng, clock) if chance(rng, 0.3) else load)


def business_hours(rng: Generator, clock: Clock) -> Load:
    """Plateaus with ramps on working days, quiet nights and weekends."""
    table = seasons.day_shape(rng, "plateau")
    factors = seasons.week_factors(rng)
    factors[5:] = rng.uniform(0.02, 0.5)
    busy = seasons.look_up(clock, table) * seasons.by_weekday(rng, clock, factors)
    busy = busy * np.exp(seasons.day_walk(rng, clock, log_uniform(rng, 0.01, 0.3)))
    return Load(noisy(rng, clock, eventful(rng, clock, log_uniform(rng, 0.01, 0.5) + busy)))


def web_requests(rng: Generator, clock: Clock) -> Load:
    """Counts of requests: a seasonal rate from a few a day to thousands a second, Poisson or wider."""
    rate = eventful(rng, clock, seasons.load_season(rng, clock))
    rate = rate * np.exp(log_uniform(rng, 0.01, 0.4) * chaos.wandering(rng, clock))
    return Load(counted(rng, rate / rate.mean() * log_uniform(rng, 0.3, 1e5)), counts=True)


def link_traffic(rng: Generator, clock: Clock) -> Load:
    """Bytes on a link: smooth days of few harmonics, long-memory noise that grows with the load."""
    load = seasons.load_season(rng, clock, ("harmonics", "smooth", "humps"), depth=rng.uniform(0.4, 0.95))
    hurst = chaos.long_memory(rng, clock.size, rng.uniform(0.4, 1.1))
    load = load * np.exp(log_uniform(rng, 0.01, 0.2) * hurst)
    return Load(noisy(rng, clock, eventful(rng, clock, load), 0.001, 0.03))


def fleet_average(rng: Generator, clock: Clock) -> Load:
    """Mean over hundreds of machines: faint noise, slow wandering, a weak to clear season."""
    load = seasons.load_season(rng, clock, depth=log_uniform(rng, 0.05, 0.8))
    load = load * np.exp(log_uniform(rng, 0.01, 0.25) * chaos.wandering(rng, clock, 2 * DAY))
    load = load * (1 + log_uniform(rng, 3e-4, 0.02) * chaos.noise(rng, clock))
    return Load(eventful(rng, clock, np.maximum(load, 0.0)) if chance(rng, 0.4) else np.maximum(load, 0.0))


def weekly_profile(rng: Generator, clock: Clock) -> Load:
    """A week of 168 hours drawn as a whole, so that every day differs."""
    load = log_uniform(rng, 0.02, 3.0) + seasons.week_table(rng, clock)
    return Load(noisy(rng, clock, eventful(rng, clock, load)))


def cpu_daily(rng: Generator, clock: Clock) -> Load:
    """CPU of one machine in 0..100 %: season, jobs and bursts, bent towards full."""
    load = seasons.load_season(rng, clock) * np.exp(log_uniform(rng, 0.02, 0.5) * chaos.wandering(rng, clock))
    load = noisy(rng, clock, eventful(rng, clock, load), 0.02, 0.5)
    used = load * log_uniform(rng, 0.01, 0.8) / max(load.mean(), 1e-12)
    return Load(100 * used / (1 + used**4) ** 0.25 + log_uniform(rng, 0.01, 3.0))


def evolving_season(rng: Generator, clock: Clock) -> Load:
    """A seasonal autoregression: each day resembles the last one, and after weeks nothing is left of the first."""
    wave = seasons.evolving_day(rng, clock)
    load = np.exp(log_uniform(rng, 0.05, 0.8) * wave) * seasons.by_weekday(rng, clock, seasons.week_factors(rng))
    return Load(noisy(rng, clock, eventful(rng, clock, load)))


def drifting_season(rng: Generator, clock: Clock) -> Load:
    """A season on a level that is a random walk, so that yesterday's shape fits and yesterday's level does not."""
    level = np.exp(log_uniform(rng, 0.1, 1.0) * chaos.random_walk(rng, clock.size))
    return Load(noisy(rng, clock, level * seasons.load_season(rng, clock), 0.003, 0.15))


def standardised_kpi(rng: Generator, clock: Clock) -> Load:
    """A KPI of mean 0 and deviation 1 with both signs: season, wandering and noise, events of either sign."""
    load = standard(seasons.load_season(rng, clock)) * rng.uniform(0.3, 1.0)
    load = load + log_uniform(rng, 0.03, 0.7) * chaos.wandering(rng, clock)
    load = load + log_uniform(rng, 0.01, 0.5) * chaos.noise(rng, clock)
    if chance(rng, 0.4):
        load = load + rng.choice([-1.0, 1.0]) * log_uniform(rng, 0.3, 8.0) * events.bursts(rng, clock)
    if chance(rng, 0.3):
        load = load * rng.uniform(0.5, 2) + np.log(events.level_shifts(rng, clock))
    return Load(standard(load))


def commuters(rng: Generator, clock: Clock) -> Load:
    """Two rush hours on working days, one broad hump at weekends, weather from day to day, the year in the level."""
    morning, evening, width = rng.uniform(6.5, 9.5), rng.uniform(16, 19), log_uniform(rng, 3.0, 40.0)
    hour = np.arange(seasons.BINS) / 60
    peaks = [np.exp(k * (np.cos(2 * math.pi * (hour - at) / 24) - 1)) for at, k in ((morning, width), (evening, width))]
    work = peaks[0] * rng.uniform(0.5, 1.1) + peaks[1] + rng.uniform(0.05, 0.4) * (hour > 6)
    rest = rng.uniform(0.3, 1.2) * np.exp(3 * (np.cos(2 * math.pi * (hour - rng.uniform(12, 16)) / 24) - 1))
    load = np.where(clock.weekday < 5, seasons.look_up(clock, work), seasons.look_up(clock, rest)) + 0.01
    weather = np.exp(seasons.day_walk(rng, clock, rng.uniform(0.05, 0.5)))
    years = 1 + rng.uniform(0, 0.8) * np.sin(2 * math.pi * clock.edges[1:] / (365.25 * DAY) + rng.uniform(0, 6.3))
    return Load(counted(rng, load * weather * years * log_uniform(rng, 3.0, 2_000.0)), counts=True)


def other_season(rng: Generator, clock: Clock) -> Load:
    """A period of 10 min to 12 h that no calendar knows, alone or upon a day; weak to dominant."""
    wave = seasons.other_period(rng, clock)
    load = seasons.load_season(rng, clock) if chance(rng, 0.5) else np.ones(clock.size)
    load = load * np.maximum(1 + log_uniform(rng, 0.03, 0.5) * wave, 0.02)
    return Load(noisy(rng, clock, eventful(rng, clock, load)))


def growing(rng: Generator, clock: Clock) -> Load:
    """A trend that dominates: growth, decline, saturation, with a season upon it."""
    load = events.trend(rng, clock) * events.trend(rng, clock) * seasons.load_season(rng, clock)
    return Load(noisy(rng, clock, load))


def kernel_sum(rng: Generator, clock: Clock) -> Load:
    """A Gaussian-process-like sum or product of smooth draws, periods and seasons (after KernelSynth)."""
    terms = []
    for _ in range(int(rng.integers(2, 5))):
        kind = chaos.pick(rng, ("smooth", "period", "day", "walk", "pink"))
        if kind == "smooth":
            term = chaos.smooth(rng, clock.size, clock.steps(log_uniform(rng, 2.0, 200.0) * max(clock.step, 600)))
        elif kind == "period":
            term = seasons.other_period(rng, clock)
        elif kind == "day":
            term = standard(seasons.daily(rng, clock))
        elif kind == "walk":
            term = chaos.random_walk(rng, clock.size)
        else:
            term = chaos.long_memory(rng, clock.size, rng.uniform(0.5, 1.5))
        terms.append(term)
    total = terms[0]
    for term in terms[1:]:
        total = total + rng.uniform(0.3, 1.5) * term if chance(rng, 0.7) else total * (1 + 0.5 * term)
    return Load(standard(total) * log_uniform(rng, 0.02, 1.0) + rng.choice([0.0, 1.0, 3.0]))


def clipped(rng: Generator, clock: Clock, demand: FloatArray) -> Load:
    """What a service of limited capacity serves of `demand`: the rest is lost, or queued and served later.

    Capacity stands still or changes with the replicas every few hours. Marked is where demand or a queue was waiting:
    the value there is the capacity, a lower bound of the demand.
    """
    capacity = np.full(clock.size, np.quantile(demand, rng.uniform(0.7, 0.99)))
    if chance(rng, 0.5):
        hold = max(1, int(clock.steps(log_uniform(rng, HOUR, 2 * DAY))))
        factors = np.exp(rng.uniform(0.05, 0.3) * rng.standard_normal(clock.size // hold + 1))
        capacity = capacity * np.repeat(factors, hold)[: clock.size]
    if chance(rng, 0.5):
        return Load(np.minimum(demand, capacity), demand >= capacity)
    surplus = np.cumsum(demand - capacity)
    queue = surplus - np.minimum(np.minimum.accumulate(surplus), 0.0)
    queue = np.minimum(queue, capacity.mean() * clock.steps(log_uniform(rng, 10 * MINUTE, 6 * HOUR)))  # clients give up
    waiting = np.concatenate([[0.0], queue[:-1]])
    offered = demand + waiting
    return Load(np.minimum(offered, capacity), offered >= capacity)


def saturated_service(rng: Generator, clock: Clock) -> Load:
    """A seasonal load cut off at capacity, with loss or with a queue."""
    return clipped(rng, clock, noisy(rng, clock, eventful(rng, clock, seasons.load_season(rng, clock)), 0.01, 0.2))


def closed_loop(rng: Generator, clock: Clock) -> Load:
    """Clients that wait for an answer before they ask again: the load bends softly towards capacity."""
    demand = noisy(rng, clock, eventful(rng, clock, seasons.load_season(rng, clock)), 0.01, 0.2)
    full = np.quantile(demand, rng.uniform(0.6, 0.98))
    sharp = rng.uniform(2, 12)
    served = demand / (1 + (demand / full) ** sharp) ** (1 / sharp)
    return Load(served * (1 + log_uniform(rng, 1e-4, 0.02) * rng.standard_normal(clock.size)), demand >= full)


def retries(rng: Generator, clock: Clock) -> Load:
    """Attempts, not requests: above capacity each refused request is tried again, so peaks are inflated."""
    demand = noisy(rng, clock, eventful(rng, clock, seasons.load_season(rng, clock)), 0.01, 0.2)
    over = np.maximum(demand - np.quantile(demand, rng.uniform(0.8, 0.995)), 0.0)
    again = chaos.autoregression(over, math.exp(-clock.step / log_uniform(rng, 30.0, 20 * MINUTE)))
    return Load(demand + rng.uniform(0.5, 3.0) * again)
