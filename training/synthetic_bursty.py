"""Recipes of synthetic loads with bursts, regimes and jobs, and of those that wander without a season."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from forecaster.domain import FloatArray
from models.wall_clock import DAY
from training import synthetic_events as events
from training import synthetic_random as chaos
from training import synthetic_seasons as seasons
from training.synthetic_clock import HOUR, MINUTE, Clock
from training.synthetic_random import chance, log_uniform, standard
from training.synthetic_recipes import Load, counted, eventful, noisy


def vm_regimes(rng: Generator, clock: Clock) -> Load:
    """CPU of a business VM in 0..100 %: idle and busy regimes, each with noise of its own, and now and then a day."""
    busy = chaos.regimes(rng, clock)
    idle, full = log_uniform(rng, 0.2, 10.0), log_uniform(rng, 3.0, 95.0)
    rough = np.exp(log_uniform(rng, 0.02, 0.6) * chaos.noise(rng, clock).clip(-4, 4))
    values = idle * np.exp(log_uniform(rng, 0.01, 0.5) * rng.standard_normal(clock.size)) + full * busy * rough
    if chance(rng, 0.3):
        values = values * seasons.load_season(rng, clock)
    return Load(np.clip(values + 3 * (chance(rng, 0.3) * events.jobs(rng, clock)), 0, 100))


def modes(rng: Generator, clock: Clock) -> Load:
    """A machine that changes its behaviour every few hours to days: level, roughness, comb and ramps differ by mode."""
    count = int(rng.integers(2, 6))
    behaviours = [_behaviour(rng, clock) for _ in range(count)]
    longest = clock.steps(log_uniform(rng, 6 * HOUR, 8 * DAY))
    mode = np.zeros(clock.size, dtype=np.int64)
    start = 0
    while start < clock.size:
        stop = start + 1 + int(longest * log_uniform(rng, 0.01, 2.0))
        mode[start:stop] = rng.integers(count)
        start = stop
    values = np.choose(mode, behaviours)
    return Load(np.minimum(values, np.quantile(values, rng.uniform(0.9, 1.0))) if chance(rng, 0.3) else values)


def _behaviour(rng: Generator, clock: Clock) -> FloatArray:
    """(size,) what a machine does in one mode: a level of its own; quiet, combed, flapping, rough, busy or idle."""
    level = log_uniform(rng, 0.03, 3.0)
    kind = chaos.pick(rng, ("quiet", "comb", "flap", "rough", "busy", "idle"))
    flat = np.ones(clock.size)
    if kind == "quiet":
        return level * noisy(rng, clock, flat, 0.002, 0.05)
    if kind == "comb":
        wave = seasons.other_period(rng, clock, 2.5 * clock.step, 60.0 * clock.step)
        return level * noisy(rng, clock, np.maximum(1 + log_uniform(rng, 0.05, 0.6) * wave, 0.0), 0.002, 0.1)
    if kind == "flap":
        busy = chaos.regimes(rng, clock, 2.0 * clock.step, 60.0 * clock.step)
        return noisy(rng, clock, 0.05 * level + level * busy, 0.002, 0.1)
    if kind == "rough":
        return level * noisy(rng, clock, flat, 0.1, 0.6)
    if kind == "busy":
        return level * noisy(rng, clock, seasons.load_season(rng, clock), 0.01, 0.3)
    return level * 0.01 * np.abs(chaos.noise(rng, clock)) * (rng.random(clock.size) < log_uniform(rng, 0.01, 1.0))


def server_metric(rng: Generator, clock: Clock) -> Load:
    """A metric of a server where a little of all is going on: faint day, combs, spikes, shifts, noise with a tail."""
    values = 1 + log_uniform(rng, 0.01, 1.0) * (seasons.load_season(rng, clock) - 1)
    for _ in range(int(rng.integers(0, 3))):
        values = values + log_uniform(rng, 0.03, 2.0) * events.jobs(rng, clock, "minutes" if chance(rng, 0.6) else "")
    if chance(rng, 0.6):
        values = values + log_uniform(rng, 0.3, 20.0) * events.bursts(rng, clock)
    if chance(rng, 0.4):
        values = values + log_uniform(rng, 0.3, 20.0) * np.abs(events.spikes(rng, clock))
    if chance(rng, 0.5):
        values = values * events.level_shifts(rng, clock)
    if chance(rng, 0.3):
        wave = seasons.other_period(rng, clock, 2.5 * clock.step, 40.0 * clock.step)
        values = values * np.maximum(1 + log_uniform(rng, 0.03, 0.5) * wave, 0.05)
    return Load(noisy(rng, clock, np.maximum(values, 0.0), 0.01, 0.6))


def nearly_full(rng: Generator, clock: Clock) -> Load:
    """Memory or cache near its limit: drops when something is freed, refills straight or fading, faint use between."""
    drops = events.poisson_times(rng, clock, log_uniform(rng, 0.3, 100.0))
    sizes = 0.3 * events.heavy_sizes(rng, len(drops)).clip(0, 3)
    freed = chaos.shots(clock, drops, sizes, log_uniform(rng, 2.0 * clock.step, 6 * HOUR))
    use = log_uniform(rng, 0.001, 0.1) * np.abs(chaos.wandering(rng, clock))
    use = use + log_uniform(rng, 0.001, 0.1) * seasons.daily(rng, clock)
    return Load(np.maximum(1 - freed - use, 0.02) + log_uniform(rng, 1e-5, 0.01) * rng.standard_normal(clock.size))


def vm_jobs(rng: Generator, clock: Clock) -> Load:
    """A quiet machine with one to four schedules: backups, log rotation, reports."""
    values = np.full(clock.size, log_uniform(rng, 0.01, 1.0))
    for _ in range(int(rng.integers(1, 5))):
        values = values + log_uniform(rng, 0.1, 5.0) * events.jobs(rng, clock)
    return Load(noisy(rng, clock, values, 0.01, 0.5))


def nightly_batch(rng: Generator, clock: Clock) -> Load:
    """Long work each night or on some days, of varying length; quiet or seasonal in between."""
    base = seasons.load_season(rng, clock) if chance(rng, 0.4) else np.ones(clock.size)
    work = events.jobs(rng, clock, chaos.pick(rng, ("nightly", "nightly", "daily", "weekdays", "weekly")))
    inner = np.exp(log_uniform(rng, 0.02, 0.6) * chaos.wandering(rng, clock, 6 * HOUR))
    return Load(noisy(rng, clock, base + log_uniform(rng, 0.5, 30.0) * work * inner, 0.01, 0.3))


def cron_spikes(rng: Generator, clock: Clock) -> Load:
    """Short spikes each hour or every N minutes upon a load."""
    base = seasons.load_season(rng, clock) if chance(rng, 0.5) else np.ones(clock.size)
    spikes = events.jobs(rng, clock, chaos.pick(rng, ("minutes", "hourly")))
    return Load(noisy(rng, clock, base + log_uniform(rng, 0.2, 10.0) * spikes, 0.005, 0.2))


def self_exciting(rng: Generator, clock: Clock) -> Load:
    """Requests of which each brings others (Hawkes), counted."""
    where = seasons.load_season(rng, clock) if chance(rng, 0.5) else None
    times = events.hawkes_times(rng, clock, log_uniform(rng, 20.0, 5_000.0), where)
    return Load(chaos.shots(clock, times, np.ones(len(times)), 0.0), counts=True)


def on_off(rng: Generator, clock: Clock) -> Load:
    """One to three units that are on or off for minutes to hours, each with its own draw."""
    values = np.full(clock.size, log_uniform(rng, 0.001, 1.0))
    for _ in range(int(rng.integers(1, 4))):
        values = values + log_uniform(rng, 0.3, 3.0) * chaos.regimes(rng, clock, 2 * MINUTE, DAY / 2)
    return Load(noisy(rng, clock, values, 0.002, 0.2))


def heavy_bursts(rng: Generator, clock: Clock) -> Load:
    """Shot noise with heavy tails over a low base; bursts gather in busy hours for some."""
    base = seasons.load_season(rng, clock) if chance(rng, 0.5) else np.ones(clock.size)
    bursts = events.bursts(rng, clock, base if chance(rng, 0.6) else None)
    return Load(noisy(rng, clock, base + log_uniform(rng, 0.3, 30.0) * bursts, 0.01, 0.4))


def flash_crowds(rng: Generator, clock: Clock) -> Load:
    """A season with one to many crowds of two to twenty times the load."""
    load = seasons.load_season(rng, clock) * events.crowds(rng, clock)
    return Load(noisy(rng, clock, load * (events.crowds(rng, clock) if chance(rng, 0.3) else 1.0), 0.01, 0.3))


def network_bursts(rng: Generator, clock: Clock) -> Load:
    """Network of one machine: a lognormal level over decades, chatter, transfers and schedules."""
    level = np.exp(rng.uniform(0.3, 1.5) * chaos.wandering(rng, clock, DAY))
    load = level * (seasons.load_season(rng, clock) if chance(rng, 0.5) else 1.0)
    load = load + log_uniform(rng, 0.5, 50.0) * events.bursts(rng, clock)
    if chance(rng, 0.4):
        load = load + log_uniform(rng, 0.5, 50.0) * events.jobs(rng, clock)
    return Load(noisy(rng, clock, load, 0.02, 0.4))


def sparse_work(rng: Generator, clock: Clock) -> Load:
    """Work that arrives with requests to a small service: many empty intervals, sizes with heavy tails, busy hours."""
    where = seasons.load_season(rng, clock, depth=rng.uniform(0.5, 1.0))
    where = where * np.exp(log_uniform(rng, 0.1, 1.5) * chaos.wandering(rng, clock, DAY))
    arrivals = events.hawkes_times if chance(rng, 0.6) else events.poisson_times
    times = arrivals(rng, clock, DAY / clock.step * log_uniform(rng, 0.1, 8.0), where)
    sizes = events.heavy_sizes(rng, len(times)) if chance(rng, 0.5) else np.ones(len(times))
    return Load(chaos.shots(clock, times, sizes, 0.0), counts=bool(len(sizes)) and bool((sizes == 1).all()))


# Loads that wander


def wandering_level(rng: Generator, clock: Clock) -> Load:
    """One to four Ornstein-Uhlenbeck processes, on the linear or the logarithmic scale."""
    wander, size = chaos.wandering(rng, clock), log_uniform(rng, 0.02, 1.2)
    values = np.exp(size * wander) if chance(rng, 0.6) else np.maximum(1 + size / 2 * wander, 0.0)
    return Load(noisy(rng, clock, values, 0.001, 0.2))


def random_walk(rng: Generator, clock: Clock) -> Load:
    """A random walk, Gaussian, heavy-tailed or with rare steps; kept positive by the logarithm for half of them."""
    walk, size = chaos.random_walk(rng, clock.size), log_uniform(rng, 0.02, 1.0)
    values = np.exp(size * walk) if chance(rng, 0.5) else 3 + size * walk
    return Load(values + log_uniform(rng, 1e-4, 0.1) * size * chaos.noise(rng, clock))


def ringing(rng: Generator, clock: Clock) -> Load:
    """An ARMA process, half of them ringing at a period that does not keep its phase."""
    values = 1 + log_uniform(rng, 0.02, 0.5) * chaos.arma(rng, clock)
    return Load(np.maximum(values, 0.0) if chance(rng, 0.7) else values)


def long_memory(rng: Generator, clock: Clock) -> Load:
    """Noise with power at all time scales, between white and a random walk; network and disk traffic."""
    values = log_uniform(rng, 0.05, 1.0) * chaos.long_memory(rng, clock.size, rng.uniform(0.2, 1.8))
    return Load(noisy(rng, clock, np.exp(values), 0.003, 0.2) if chance(rng, 0.7) else 1 + values)


def clustered_volatility(rng: Generator, clock: Clock) -> Load:
    """Calm and rough times of hours to days around a level that hardly moves."""
    rough = chaos.volatility(rng, clock) * chaos.volatility(rng, clock)
    values = rough * chaos.noise(rng, clock) * log_uniform(rng, 0.01, 0.3)
    return Load(np.abs(1 + values + log_uniform(rng, 0.01, 0.2) * chaos.wandering(rng, clock)))


def shifting_level(rng: Generator, clock: Clock) -> Load:
    """Levels held between deploys, with little in between."""
    values = events.level_shifts(rng, clock) * events.level_shifts(rng, clock)
    return Load(noisy(rng, clock, values, 0.002, 0.15))


def latency(rng: Generator, clock: Clock) -> Load:
    """Latency: a floor, a part that grows with a busy season, heavy tails upwards."""
    season = seasons.load_season(rng, clock)
    busy = season / season.max() * rng.uniform(0.2, 0.97)
    values = (1 + log_uniform(rng, 0.1, 2.0) * busy / (1 - busy)) * np.exp(0.1 * chaos.wandering(rng, clock))
    tail = np.exp(rng.uniform(0.05, 0.8) * np.abs(rng.standard_normal(clock.size)))
    return Load(values * tail + chance(rng, 0.5) * log_uniform(rng, 0.3, 20.0) * events.bursts(rng, clock))


def temperature(rng: Generator, clock: Clock) -> Load:
    """Temperature-like: slow, smooth, a faint day, around a level that means nothing."""
    values = rng.uniform(-1, 1) * standard(seasons.daily(rng, clock, ("harmonics", "smooth")))
    values = values + log_uniform(rng, 0.2, 3.0) * chaos.long_memory(rng, clock.size, rng.uniform(1.4, 2.4))
    values = values + log_uniform(rng, 0.001, 0.2) * rng.standard_normal(clock.size)
    return Load(rng.uniform(5, 80) + log_uniform(rng, 0.5, 8.0) * values)


def ratio(rng: Generator, clock: Clock) -> Load:
    """A share between 0 and 1, such as hits of a cache or errors: near one end for most."""
    odds = rng.uniform(-5, 5) + rng.uniform(0.1, 1.0) * standard(seasons.load_season(rng, clock))
    odds = odds + log_uniform(rng, 0.03, 1.0) * chaos.wandering(rng, clock)
    odds = odds + log_uniform(rng, 0.01, 0.5) * chaos.noise(rng, clock)
    share = 1 / (1 + np.exp(-np.clip(odds, -30, 30)))
    if chance(rng, 0.4):  # measured on few requests
        trials = rng.poisson(log_uniform(rng, 20, 2_000) * np.ones(clock.size)) + 1
        share = rng.binomial(trials, share) / trials
    return Load(share)


def population(rng: Generator, clock: Clock) -> Load:
    """Sessions or connections that come and go: arrivals of a season, stays of minutes to hours, counted."""
    arrivals = eventful(rng, clock, seasons.load_season(rng, clock)) * log_uniform(rng, 0.05, 300.0)
    stay = math.exp(-clock.step / log_uniform(rng, MINUTE, 6 * HOUR))
    return Load(chaos.autoregression(counted(rng, arrivals), stay).round(), counts=True)
