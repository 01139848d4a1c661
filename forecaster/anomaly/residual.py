"""How surprising a sample is: against a forecast frozen before it, and by rank against the row's own past surprises.

Vectorised over rows, and no more than arithmetic: thresholds are in `budget.py`, incidents in `incidents.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from forecaster.domain import BoolArray, FloatArray
from forecaster.rows import Arrays

HIGHEST_SCORE = 20.0
MOST_SURPRISE = 100.0  # nats
BINS, BIN_WIDTH = 64, 0.25  # of the histogram of past surprises, in nats: 0 to 16, the last bin holds all beyond
PRIOR = 200.0  # samples that the belief "the quantiles are right" weighs at the start
MEMORY = 20_160.0  # samples that the histogram remembers: two weeks of minutes
TAIL_SHARE, TAIL_LEAST = 0.01, 20.0  # the fitted tail begins where this share, or this many samples, lie beyond
LEAST_MEAN_EXCESS = 0.5  # nats; a tail that ends at once would make of any new maximum a wonder
RELATIVE_SPREAD = 0.01  # of the median, per nat: on a constant series 10 % off is p = 5e-5
OWN_SPREAD = 0.1  # of the row's usual distance from its median, per nat


def blank() -> Arrays:
    """One row of state: past surprises as a histogram that begins as if the quantiles were right."""
    edges = np.exp(-np.arange(BINS + 1) * BIN_WIDTH)
    edges[-1] = 0.0
    return {
        "past": (PRIOR * (edges[:-1] - edges[1:]))[None, :].astype(np.float32),
        "spread": np.array([math.nan]),  # usual |observed - median|, unit of the series
    }


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Samples against what was forecast for them; (row,) each, NaN where not known."""

    surprise: FloatArray  # signed nats
    score: FloatArray
    median: FloatArray
    low: FloatArray  # the outermost quantiles
    high: FloatArray


def judged(
    observed: FloatArray,
    one_step: FloatArray,
    one_hour: FloatArray,
    levels: tuple[float, ...],
    spread: FloatArray,
    past: FloatArray,
) -> Judged:
    """Scores samples (row,) against the more surprised of two forecasts (row, level), issued one step and one hour
    before. `spread` and `past` as in the state, before this sample is learned."""
    near, far = widened(one_step, levels, spread), widened(one_hour, levels, spread)
    s_near, s_far = surprise(observed, near, levels), surprise(observed, far, levels)
    further = np.abs(np.nan_to_num(s_far)) > np.abs(np.nan_to_num(s_near))
    s = np.where(np.isnan(s_near) | (further & ~np.isnan(s_far)), s_far, s_near)
    expected = np.where((np.isnan(s_near) | further)[:, None] & ~np.isnan(s_far)[:, None], far, near)
    middle = int(np.argmin(np.abs(np.asarray(levels) - 0.5)))
    return Judged(s, calibrated(past, s), expected[:, middle], expected[:, 0], expected[:, -1])


def widened(quantiles: FloatArray, levels: tuple[float, ...], spread: FloatArray) -> FloatArray:
    """(row, level) the quantiles, nowhere closer to their median than a robust floor says. NaN rows stay NaN.

    A constant series has quantiles that are all equal: without a floor its first rounding error is a wonder.
    """
    q = np.asarray(quantiles, dtype=np.float64)
    middle = int(np.argmin(np.abs(np.asarray(levels) - 0.5)))
    median = q[:, middle]
    least = np.fmax(RELATIVE_SPREAD * np.abs(median), OWN_SPREAD * np.asarray(spread, dtype=np.float64))
    least = np.fmax(least, 1e-30)[:, None]
    depth = _depth(levels)
    depth = depth - depth[middle]
    away = q - median[:, None]
    return np.asarray(
        median[:, None] + np.where(depth >= 0, np.fmax(away, least * depth), np.fmin(away, least * depth))
    )


def surprise(observed: FloatArray, quantiles: FloatArray, levels: tuple[float, ...]) -> FloatArray:
    """(row,) signed nats: |s| = -log of the two-sided p-value, positive above the median; NaN where not known.

    The probability integral transform, linear in -log(1 - level) above the median and in log(level) below it: straight
    lines between the quantiles, an exponential tail with the last slope outside. `quantiles` (row, level) must rise
    strictly (`widened`).
    """
    x, q = np.asarray(observed, dtype=np.float64), np.asarray(quantiles, dtype=np.float64)
    depth = _depth(levels)
    with np.errstate(invalid="ignore"):
        right = np.clip((q < x[:, None]).sum(axis=1), 1, len(levels) - 1)
    rows = np.arange(len(x))
    low, high = q[rows, right - 1], q[rows, right]
    with np.errstate(invalid="ignore", divide="ignore"):
        s = depth[right - 1] + (x - low) / (high - low) * (depth[right] - depth[right - 1])
    return np.asarray(np.clip(s, -MOST_SURPRISE, MOST_SURPRISE))


def calibrated(past: FloatArray, s: FloatArray) -> FloatArray:
    """(row,) score: -log10 of the share of the row's past that was at least as surprising as |s|, at most 20.

    Ranks where enough of the past lies beyond, an exponential tail fitted to it outside: a rank alone can never be
    rarer than the history is long.
    """
    size = np.abs(np.asarray(s, dtype=np.float64))
    beyond = np.zeros((len(size), BINS + 1))  # (row, edge) weight at or above each edge
    beyond[:, :-1] = np.cumsum(np.asarray(past, dtype=np.float64)[:, ::-1], axis=1)[:, ::-1]
    total = beyond[:, 0]
    rows = np.arange(len(size))
    known = np.where(np.isnan(size), 0.0, size)

    # where the fitted tail begins, and its mean excess: the integral of the survival beyond, over the survival there
    enough = np.maximum(TAIL_LEAST, TAIL_SHARE * total)
    begin = np.maximum((beyond >= enough[:, None]).sum(axis=1) - 1, 0)
    area = np.cumsum(((beyond[:, :-1] + beyond[:, 1:]) / 2 * BIN_WIDTH)[:, ::-1], axis=1)[:, ::-1]
    there = beyond[rows, begin]
    excess = np.maximum(area[rows, np.minimum(begin, BINS - 1)] / np.maximum(there, 1e-12), LEAST_MEAN_EXCESS)
    tail = np.log(there / total) - (known - begin * BIN_WIDTH) / excess

    at = np.minimum((known / BIN_WIDTH).astype(np.int64), BINS - 1)
    part = np.minimum(known / BIN_WIDTH - at, 1.0)
    inside = beyond[rows, at] * (1 - part) + beyond[rows, at + 1] * part
    with np.errstate(divide="ignore"):
        log_p = np.where(known <= begin * BIN_WIDTH, np.log(inside / total), tail)
    score = np.clip(-log_p / math.log(10), 0.0, HIGHEST_SCORE)
    return np.asarray(np.where(np.isnan(size), np.nan, score))


def learned(state: Arrays, s: FloatArray, distance: FloatArray, learn: BoolArray) -> Arrays:
    """The histogram with |s| (row,) and the spread with `distance` from the median (row,), where `learn` allows."""
    past = np.array(state["past"], dtype=np.float32)
    full = past.sum(axis=1) > MEMORY
    past[full & learn] *= np.float32(1 - 1 / MEMORY)
    rows = np.flatnonzero(learn & ~np.isnan(s))
    at = np.minimum((np.abs(s[rows]) / BIN_WIDTH).astype(np.int64), BINS - 1)
    past[rows, at] += 1
    spread = np.asarray(state["spread"], dtype=np.float64)
    capped = np.where(np.isnan(spread), distance, np.minimum(distance, 10 * spread + 1e-300))  # no outlier counts far
    mixed = np.where(np.isnan(spread), distance, spread + (capped - spread) / 1000)
    spread = np.where(learn & ~np.isnan(distance), np.where((spread == 0) & (distance > 0), distance, mixed), spread)
    return {"past": past, "spread": spread}


def _depth(levels: tuple[float, ...]) -> FloatArray:
    """Levels on the scale on which an exponential tail is a straight line on either side; 0 at the median."""
    level = np.asarray(levels, dtype=np.float64)
    return np.asarray(np.where(level >= 0.5, -np.log(2 * (1 - level)), np.log(2 * level)))
