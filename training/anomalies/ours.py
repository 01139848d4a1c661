"""Our detector in the benchmark: the change statistics of the live path, on one series and without forecasts.

The benchmark wants one number a row that is to be high through an event and yet, as an alarm, to come once. So rows
that are news score as in `forecaster.anomaly.statistics`, all others by the size of their evidence, squeezed below what
an alarm can have.
"""

from __future__ import annotations

import numpy as np

from forecaster.anomaly import kernel, statistics
from forecaster.domain import FloatArray, IntArray

CEILING = 3.0  # -log10 p: budgets of a few false alarms a week and fewer ask for more


def scores(values: FloatArray, step: int, times: IntArray) -> FloatArray:
    """See `detectors.Detector`."""
    _, found = statistics.measured(statistics.blank(), np.asarray(values, dtype=np.float64)[None])
    parts, score, news = found.parts[0], found.score[0], found.news[0]
    size = np.abs(parts)
    size[:, kernel.DRIFT] = np.maximum(size[:, kernel.DRIFT] - kernel.QUIET_DRIFT, 0.0)
    size = np.sqrt(np.nansum(size**2, axis=1))
    squeezed = CEILING * (1 - np.exp(-size / CEILING))
    over = np.maximum(news - CEILING, 0.0)
    told = CEILING + 2 * np.log1p(over / 2)  # a mean of thresholds is not to hang on one wonder
    return np.asarray(np.where(np.isnan(score), np.nan, np.where(over > 0, told, squeezed)))
