"""What measuring does to a synthetic load: its unit, rounding, held and stuck values, missing samples."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from forecaster.domain import BoolArray, FloatArray
from models.wall_clock import DAY
from training.synthetic_clock import HOUR, Clock
from training.synthetic_random import autoregression, chance, log_uniform
from training.synthetic_recipes import Load

MOST_MISSING = 0.7  # share of a series


def in_a_unit(rng: Generator, load: Load) -> FloatArray:
    """(size,) in a unit between 1e-6 and 1e9 of the recipe's own; some upon a level of many times their swing.

    Counts stay whole more often than not, and keep their 0.
    """
    values = load.values
    if load.counts and chance(rng, 0.7):
        return values
    if not load.counts and chance(rng, 0.12):
        swing = float(np.abs(values - values.mean()).mean())
        values = values + swing * log_uniform(rng, 1.0, 1_000.0)
    return values * float(10 ** rng.uniform(-6, 9)) if chance(rng, 0.85) else values


def measured(rng: Generator, clock: Clock, values: FloatArray, bounded: BoolArray | None) -> FloatArray:
    """(size,) after averaging, rounding, holding, sticking; `bounded` marks values that only rounding may touch."""
    if bounded is None and chance(rng, 0.3 if clock.step <= 120 else 0.05):
        values = _overlapping(rng, clock, values)
    if chance(rng, 0.4):
        quantum = float(np.abs(values - np.median(values)).mean()) * log_uniform(rng, 0.003, 3.0)
        if quantum > 0:
            values = np.round(values / quantum) * quantum
    if bounded is None and chance(rng, 0.05):
        every = int(rng.integers(2, 7))
        values = np.repeat(values[::every], every)[: clock.size]
    if bounded is None and chance(rng, 0.04):
        values = values.copy()
        for start in rng.integers(0, clock.size, int(rng.integers(1, 4))):
            stop = start + 1 + int(clock.steps(log_uniform(rng, 10 * 60, 2 * DAY)))
            values[start:stop] = values[start]
    if bounded is None and chance(rng, 0.05):
        wrong = rng.integers(0, clock.size, int(rng.integers(1, 5)))
        values = values.copy()
        values[wrong] *= np.exp(rng.uniform(-3, 3, len(wrong)))
    return values


def _overlapping(rng: Generator, clock: Clock, values: FloatArray) -> FloatArray:
    """What `rate(...[5m])` read at a finer step shows: the mean of a trailing window; or a load average, fading."""
    window = clock.steps(log_uniform(rng, 2.0 * clock.step, max(4.0 * clock.step, 600.0)))
    if chance(rng, 0.3):
        phi = math.exp(-1.0 / window)
        return np.asarray(values[0] + autoregression((values - values[0]) * (1 - phi), phi))
    width = max(2, round(window))
    total = np.cumsum(np.concatenate([np.repeat(values[:1], width), values]))
    return np.asarray(np.maximum((total[width:] - total[:-width]) / width, values.min()))


def missing(rng: Generator, clock: Clock) -> BoolArray:
    """(size,) true where no sample arrived: none for most, else single ones, runs, days, a late start, or much."""
    gone = np.zeros(clock.size, dtype=np.bool_)
    if chance(rng, 0.22):
        gone |= rng.random(clock.size) < log_uniform(rng, 1e-4, 0.05)
    if chance(rng, 0.15):
        for _ in range(1 + int(rng.poisson(log_uniform(rng, 0.3, 20.0)))):
            _erase(gone, int(rng.integers(clock.size)), clock.steps(log_uniform(rng, 60.0, 12 * HOUR)))
    if chance(rng, 0.05):
        for _ in range(int(rng.integers(1, 4))):
            gone |= clock.day == rng.integers(clock.days)
    if chance(rng, 0.05):  # half of it: a sampler that is there now and then
        share = rng.uniform(0.05, 0.5)
        length = max(1.0, clock.steps(log_uniform(rng, 60.0, 6 * HOUR)))
        for _ in range(math.ceil(-math.log(1 - share) * clock.size / length)):
            _erase(gone, int(rng.integers(clock.size)), length * rng.standard_exponential())
    if chance(rng, 0.06):
        gone[: int(clock.size * rng.uniform(0.02, 0.6))] = True
    while gone.mean() > MOST_MISSING:
        gone &= rng.random(clock.size) < 0.8
    return gone


def _erase(gone: BoolArray, start: int, length: float) -> None:
    gone[start : start + max(1, round(length))] = True
