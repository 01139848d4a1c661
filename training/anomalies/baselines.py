"""Simple causal detectors, one configuration each for all series: what ours has to beat.

Each takes values (n,) with NaN where no sample came, the step in seconds and the times (n,), and answers a score (n,)
of 0 and more: larger is more unusual, NaN where it cannot say. Row t rests on rows up to t.
"""

from __future__ import annotations

import numpy as np

from forecaster.domain import FloatArray, IntArray
from training.anomalies.rolling import before, last_known, median_before, shifted, surprise

HOUR, DAY = 3_600, 86_400
SEASONS = 7  # days that the seasonal expectation is the mean of
HIGHEST = 1_000.0  # a score above it says no more: spreads can be next to nothing
FLOOR = 0.01  # of the spread of all that came: a smaller one of the last day counts as it
_LEAST = 24  # samples before the first score


def rolling_z(values: FloatArray, step: int, times: IntArray) -> FloatArray:
    """Distance to the mean of the last day, in its standard deviations."""
    mean, spread = before(values, max(DAY // step, _LEAST), _LEAST)
    return _in_spreads(values - mean, spread, values)


def seasonal_residual(values: FloatArray, step: int, times: IntArray) -> FloatArray:
    """Distance to the mean of this time of day over the last week, in standard deviations of such distances."""
    day = max(DAY // step, 1)
    same = np.stack([shifted(values, back * day) for back in range(1, SEASONS + 1)])
    known = (~np.isnan(same)).sum(axis=0)
    expected = np.where(known > 0, np.nansum(same, axis=0) / np.maximum(known, 1), np.nan)
    residual = values - expected
    mean, spread = before(residual, SEASONS * day, max(_LEAST, day // 4))
    return _in_spreads(residual - mean, spread, residual)


def differences(values: FloatArray, step: int, times: IntArray) -> FloatArray:
    """Change since the last sample, in standard deviations of the changes of the last day."""
    change = values - last_known(values)
    _, spread = before(change, max(DAY // step, _LEAST), _LEAST)
    return _in_spreads(change, spread, change)


def median_residual(values: FloatArray, step: int, times: IntArray) -> FloatArray:
    """Distance to the median of the last 24 rows, in standard deviations of such distances over the last week."""
    residual = values - median_before(values, 24, 12)
    _, spread = before(residual, max(7 * DAY // step, _LEAST), _LEAST)
    return _in_spreads(residual, spread, residual)


def adaptive_band(values: FloatArray, step: int, times: IntArray) -> FloatArray:
    """Place in the band of Grafana's `promql-anomaly-detection`, strategy `adaptive`: 1 is its edge.

    Band: hourly mean ± 50 % of it, ± 2 standard deviations (mean over 26 h of those hours that varied by more than half
    of their mean), and ± 2 of them around the hourly means of 23.5 h and 167.5 h ago; the widest of these counts. Where
    an hour has fewer than six rows, six rows are its hour.
    """
    hour = max(HOUR // step, 6)
    mean, spread = _through_now(values, hour)
    size = np.abs(mean)
    wild, _ = _through_now(np.where(spread > 0.5 * size, spread, np.nan), max(26 * HOUR // step, 6))
    half = np.fmax(0.5 * size, 2 * np.nan_to_num(wild))
    upper, lower = mean + half, mean - half
    for back in (round(23.5 * HOUR), round(167.5 * HOUR)):
        then = shifted(mean, round(back / step))
        upper, lower = np.fmax(upper, then + 2 * spread), np.fmin(lower, then - 2 * spread)
    with np.errstate(divide="ignore", invalid="ignore"):
        above, below = (values - mean) / (upper - mean), (mean - values) / (mean - lower)
    score = np.fmax(np.fmax(above, below), 0.0)
    ready = np.arange(len(values)) >= DAY // step  # its authors ask for 24 to 26 h
    return np.where(ready & ~np.isnan(values), np.minimum(score, HIGHEST), np.nan)


def three_residuals(values: FloatArray, step: int, times: IntArray) -> FloatArray:
    """Sum of the surprise of three residuals without a model, mean of three rows.

    Change since the last sample, distance to the median of 24 rows, and the mean of 12 rows less that of the 12 before.
    """
    now, _ = _through_now(values, 12)
    parts = [values - last_known(values), values - median_before(values, 24, 12), now - shifted(now, 12)]
    block, least = max(DAY // step, 1), 48
    total = np.sum([surprise(np.abs(part), block, least) for part in parts], axis=0)
    smooth, _ = _through_now(total, 3)
    return np.where(np.isnan(total), np.nan, np.maximum(smooth, 0.0))  # a running sum rounds


def _through_now(values: FloatArray, width: int) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of the last `width` rows, this one included."""
    mean, spread = before(np.append(values, np.nan), width, 1)
    return mean[1:], spread[1:]


def _in_spreads(distance: FloatArray, spread: FloatArray, whole: FloatArray) -> FloatArray:
    """|distance| in spreads; a spread is at least FLOOR of that of all rows of `whole` before."""
    _, ever = before(whole, len(whole), _LEAST)
    wide = np.fmax(spread, FLOOR * ever)
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.abs(distance) / wide
    score = np.where((distance == 0) & (wide == 0), 0.0, score)  # constant, and it stays so
    return np.asarray(np.minimum(score, HIGHEST))
