"""Measures of forecasts against what came: losses, scaled errors, coverage, and how far chance moves a coverage.

Pure functions of arrays; NaN among the observed means "no sample" and never counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from forecaster.domain import BoolArray, FloatArray


def quantile_loss(observed: FloatArray, forecast: FloatArray, levels: FloatArray) -> FloatArray:
    """Quantile (pinball) loss of every step and level, in the unit of the series.

    observed (horizon,), forecast (horizon, quantile), levels (quantile,) each in (0, 1);
    returns (horizon, quantile), NaN where `observed` is NaN. Leading axes are allowed, the same for both.
    Raises ValueError if the shapes disagree.
    Source: Koenker and Bassett, "Regression Quantiles", Econometrica 46(1), 1978.
    """
    observed, forecast, levels = (np.asarray(a, dtype=np.float64) for a in (observed, forecast, levels))
    if forecast.shape != (*observed.shape, len(levels)):
        raise ValueError(f"forecast of shape {forecast.shape} for observed {observed.shape} and {len(levels)} levels")
    if not ((levels > 0) & (levels < 1)).all():
        raise ValueError("a quantile level lies strictly between 0 and 1")
    miss = observed[..., None] - forecast
    return np.asarray(np.where(miss >= 0, levels * miss, (levels - 1) * miss))


def mean_quantile_losses(observed: FloatArray, forecasts: FloatArray, levels: Sequence[float]) -> FloatArray:
    """(n, forecaster) quantile loss of several forecasts of the same, the mean over `levels`; NaN where either is.

    observed (n,), forecasts (n, forecaster, level).
    """
    beside = np.broadcast_to(np.asarray(observed)[:, None], forecasts.shape[:2])
    return np.asarray(quantile_loss(beside, forecasts, np.asarray(levels)).mean(axis=-1))


def wql(observed: FloatArray, forecast: FloatArray, levels: FloatArray) -> float:
    """Weighted quantile loss: 2 × the sum of quantile losses, averaged over levels, per sum of |observed|.

    Shapes as quantile_loss. NaN where nothing was observed; infinite where all that was observed is 0 and was missed.
    """
    loss = 2 * quantile_loss(observed, forecast, levels)
    known = ~np.isnan(np.asarray(observed, dtype=np.float64))
    if not known.any():
        return math.nan
    total = float(np.abs(np.asarray(observed)[known]).sum())
    missed = float(loss[known].mean(axis=-1).sum())
    if total == 0:
        return 0.0 if missed == 0 else math.inf
    return missed / total


def mase(observed: FloatArray, median: FloatArray, past: FloatArray, season: int) -> float:
    """Mean absolute error of `median` over the mean absolute seasonal difference of `past` (time,).

    NaN where there is nothing to compare, or the past never changed over a season.
    Source: Hyndman and Koehler, International Journal of Forecasting 22(4), 2006.
    """
    past = np.asarray(past, dtype=np.float64)
    change = np.abs(past[season:] - past[:-season]) if season < len(past) else np.array([math.nan])
    miss = np.abs(np.asarray(observed, dtype=np.float64) - np.asarray(median, dtype=np.float64))
    if np.isnan(change).all() or np.isnan(miss).all():
        return math.nan
    usual = float(np.nanmean(change))
    return float(np.nanmean(miss)) / usual if usual > 0 else math.nan


def inside(observed: FloatArray, low: FloatArray, high: FloatArray) -> BoolArray:
    """Whether each observed value lies in its band, both ends included; False where it is NaN."""
    with np.errstate(invalid="ignore"):
        return np.asarray((observed >= low) & (observed <= high))


def coverage(observed: FloatArray, low: FloatArray, high: FloatArray) -> float:
    """Share of the observed values that lie in the band; NaN where nothing was observed."""
    known = ~np.isnan(np.asarray(observed, dtype=np.float64))
    return float(inside(observed, low, high)[known].mean()) if known.any() else math.nan


def binomial_band(nominal: float, count: int, confidence: float = 0.999) -> tuple[float, float]:
    """Shares between which `count` independent trials of probability `nominal` fall with `confidence`, two-sided.

    Wilson's interval turned around (score test): shares that a test of level 1 - confidence would not refuse.
    With count 0 everything is possible: (0, 1).
    """
    if not 0 < nominal < 1 or not 0 < confidence < 1:
        raise ValueError("nominal and confidence lie strictly between 0 and 1")
    if count <= 0:
        return 0.0, 1.0
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(nominal * (1 - nominal) / count)
    reach += 0.5 / count  # a count moves in whole numbers
    return max(0.0, nominal - reach), min(1.0, nominal + reach)
