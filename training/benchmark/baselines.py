"""Baselines of other making: ridge on lags, AutoETS, MSTL, and the small pretrained network `fracast`.

Each answers (origin, horizon, level) quantiles of one series at a time from what was known at the origin, and the 0.9
quantile of the highest moment up to each horizon. NaN where it cannot be fitted. The packages are of the extra [dev].
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from forecaster.domain import FloatArray, IntArray
from training.backtest import LEVELS

UPPER = LEVELS.index(0.9)
ETS_SAMPLES = 576
MSTL_SAMPLES = 2_016  # a week of five minutes
MSTL_SECONDS = 300  # on a finer grid it sees means of so long
RIDGE_DAYS = 14
RIDGE_LAGS = 24
RIDGE_AROUND = 6  # steps to either side of the target's hour, a day ago
RIDGE_ROWS = 2_000  # training origins, thinned
RIDGE_FEWEST = 100
_BANDS = (20.0, 40.0, 60.0, 80.0, 98.0)

Told = tuple[FloatArray, FloatArray]  # (horizon, level) quantiles; (horizon,) upper edge of all up to it


def nothing(horizons: Sequence[int]) -> Told:
    return np.full((len(horizons), len(LEVELS)), np.nan), np.full(len(horizons), np.nan)


def _of_path(path: FloatArray, horizons: Sequence[int], nonnegative: bool) -> Told:
    """Quantiles (time, level) of all steps up to the last horizon."""
    path = np.maximum(path, 0.0) if nonnegative else path
    at = np.array(horizons) - 1
    return path[at], np.maximum.accumulate(path[:, UPPER])[at]


# --- ridge -----------------------------------------------------------------------------------------------------------


def ridge(past: FloatArray, horizons: Sequence[int], step: int) -> Told:
    """Direct ridge regression for each horizon on the last samples and those around the target's hour a day before.

    past (time,) ends at the origin. All inputs and the target are relative to the last value; quantiles are those of
    the residuals in the past. Fitted anew at each origin.
    """
    day = max(1, 86_400 // step)
    past = np.asarray(past[-RIDGE_DAYS * day :], dtype=np.float64)
    known = ~np.isnan(past)
    values, upper = nothing(horizons)
    if not known.any():
        return values, upper
    filled = past[np.maximum.accumulate(np.where(known, np.arange(len(past)), int(known.argmax())))]
    least = np.nanmin(past)
    for i, horizon in enumerate(horizons):
        quantiles = _ridge_at(past, filled, horizon, day)
        if quantiles is not None:
            values[i] = np.maximum(quantiles, 0.0) if least >= 0 else quantiles
    upper[:] = np.maximum.accumulate(values[:, UPPER])
    return values, upper


def _ridge_at(past: FloatArray, filled: FloatArray, horizon: int, day: int) -> FloatArray | None:
    now = len(past) - 1
    lag = -(-(horizon + RIDGE_AROUND) // day) * day if day > RIDGE_AROUND else day * -(-horizon // day)
    around = min(RIDGE_AROUND, lag - horizon)
    first = max(RIDGE_LAGS - 1, lag + around - horizon)
    origins = np.arange(first, now - horizon + 1)
    origins = origins[~np.isnan(past[origins + horizon])] if len(origins) else origins
    if len(origins) < RIDGE_FEWEST:
        return None
    origins = origins[:: -(-len(origins) // RIDGE_ROWS)]

    def inputs(at: IntArray) -> FloatArray:
        recent = filled[at[:, None] - np.arange(1, RIDGE_LAGS)]
        before = filled[at[:, None] + horizon - lag + np.arange(-around, around + 1)]
        return np.concatenate((recent, before), axis=1) - filled[at][:, None]

    x, y = inputs(origins), past[origins + horizon] - filled[origins]
    mean, offset = x.mean(axis=0), y.mean()
    centered = x - mean
    gram = centered.T @ centered
    size = float(np.trace(gram)) / len(gram)
    gram[np.diag_indices_from(gram)] += 1e-3 * size + 1e-12
    beta = np.linalg.solve(gram, centered.T @ (y - offset))
    misses = y - offset - centered @ beta
    said = float(filled[now] + offset + (inputs(np.array([now]))[0] - mean) @ beta)
    return np.asarray(said + np.quantile(misses, LEVELS))


# --- statsforecast ---------------------------------------------------------------------------------------------------


def auto_ets(past: FloatArray, horizons: Sequence[int], step: int) -> Told:
    """AutoETS without a season on the last 576 samples."""
    tail = past[-ETS_SAMPLES:]
    known = ~np.isnan(tail)
    if known.sum() < 24 or np.ptp(tail[known]) == 0:
        return nothing(horizons)
    from statsforecast.models import AutoETS

    return _statistical(AutoETS(season_length=1), tail, horizons, bool(np.nanmin(tail) >= 0))


def mstl(past: FloatArray, horizons: Sequence[int], step: int) -> Told:
    """MSTL with the day as season, AutoETS on what is left; on the last week, on five-minute means where finer."""
    ratio = max(1, MSTL_SECONDS // step)
    tail = means_of(past, ratio, MSTL_SAMPLES)
    day = max(1, 86_400 // (step * ratio))
    known = ~np.isnan(tail)
    if day < 2 or known.sum() < 2 * day or len(tail) < 2 * day + 1 or np.ptp(tail[known]) == 0:
        return nothing(horizons)
    from statsforecast.models import MSTL, AutoETS

    blocks = [max(1, -(-horizon // ratio)) for horizon in horizons]
    model = MSTL(season_length=day, trend_forecaster=AutoETS(model="ZZN"))
    return _statistical(model, tail, blocks, bool(np.nanmin(tail) >= 0))


def _statistical(model: Any, tail: FloatArray, horizons: Sequence[int], nonnegative: bool) -> Told:
    known = ~np.isnan(tail)
    index = np.arange(len(tail))
    filled = np.interp(index, index[known], tail[known])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = model.forecast(y=filled, h=max(horizons), level=list(_BANDS))
    except Exception:  # a baseline that cannot be fitted has no answer there, and the table says how often
        return nothing(horizons)

    def edge(side: str, band: float) -> FloatArray:
        return np.asarray(answer[f"{side}-{band:g}" if f"{side}-{band:g}" in answer else f"{side}-{band}"])

    low, high = [edge("lo", band) for band in reversed(_BANDS)], [edge("hi", band) for band in _BANDS]
    path = np.stack([*low, answer["mean"], *high], axis=1)
    return _of_path(path, horizons, nonnegative) if np.isfinite(path).all() else nothing(horizons)


# --- means of a grid -------------------------------------------------------------------------------------------------


def means_of(past: FloatArray, ratio: int, count: int) -> FloatArray:
    """The last `count` means of `ratio` samples each, up to the origin; NaN where no sample is."""
    whole = past[len(past) % ratio :][-count * ratio :].reshape(-1, ratio)
    known = ~np.isnan(whole)
    number = known.sum(axis=1)
    return np.asarray(np.where(known, whole, 0.0).sum(axis=1) / np.where(number > 0, number, np.nan))


# --- fracast ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _fracast() -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the weights are in the wheel; nothing is to be fetched
    import torch
    from fracast import FracastModel

    torch.set_num_threads(1)
    return FracastModel.from_pretrained(weights="fp32")


def fracast(past: FloatArray, horizons: Sequence[int], step: int) -> Told:
    """fracast on its longest context, 2,048. It reaches 48 steps: for what lies beyond it sees means of as many
    samples as make 48 of them reach (on the tuning parts better than each so many-th sample). Deciles only."""
    model = _fracast()
    values, upper = nothing(horizons)
    places = [int(np.abs(np.array(model.quantiles) - level).argmin()) for level in LEVELS]  # 0.01 and 0.99 go below
    nonnegative = bool(np.nanmin(past, initial=np.inf) >= 0)
    by_ratio: dict[int, list[int]] = {}
    for i, horizon in enumerate(horizons):
        ratio = next(k for k in range(-(-horizon // model.horizon), horizon + 1) if horizon % k == 0)
        by_ratio.setdefault(ratio, []).append(i)
    for ratio, mine in by_ratio.items():
        context = means_of(np.asarray(past, dtype=np.float64), ratio, model.context_length)
        if np.isfinite(context).sum() < 8:
            continue
        path = np.asarray(model.forecast(context.astype(np.float32)), dtype=np.float64)[:, places]
        path = np.sort(path, axis=1)
        values[mine], upper[mine] = _of_path(path, [horizons[i] // ratio for i in mine], nonnegative)
    values[:, 0] = values[:, -1] = np.nan
    return values, upper
