"""Detectors of PyOD (BSD 2-Clause, an extra of development) on windows of the last rows, fitted on the past only.

A window is the last WINDOW samples, less their mean. The detector is fitted anew whenever the past has grown by a
quarter, at the latest after a week, and judges the windows that follow. Of PyOD's detectors those are used that judge
a window by itself: ECOD and COPOD mix the windows that they are asked about with each other, which looks ahead.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from forecaster.domain import FloatArray, IntArray

WINDOW = 12
SAMPLE = 1_000  # windows of the past that a detector is fitted on, evenly spread
GROWTH = 1.25
_FIRST_DAYS, _LONGEST_DAYS = 1, 7
_HIGHEST = 1_000.0
DAY = 86_400


def iforest(values: FloatArray, step: int, times: IntArray) -> FloatArray:
    """Isolation forest, 50 trees."""
    return _by(lambda: _forest(), values, step)


def knn(values: FloatArray, step: int, times: IntArray) -> FloatArray:
    """Distance to the fifth nearest window of the past."""
    return _by(lambda: _nearest(), values, step)


def _forest() -> Any:
    from pyod.models.iforest import IForest

    return IForest(n_estimators=50, random_state=0, n_jobs=1)


def _nearest() -> Any:
    from pyod.models.knn import KNN

    return KNN(n_neighbors=5, n_jobs=1)


def _by(make: Any, values: FloatArray, step: int) -> FloatArray:
    out = np.full(len(values), np.nan)
    rows = np.flatnonzero(~np.isnan(values))
    day = max(DAY // step, WINDOW)
    if len(rows) <= WINDOW + day:
        return out
    windows = np.lib.stride_tricks.sliding_window_view(values[rows], WINDOW)  # ends at rows[WINDOW - 1:]
    windows = windows - windows.mean(axis=1, keepdims=True)
    start = _FIRST_DAYS * day
    while start < len(windows):
        end = min(len(windows), max(round(start * GROWTH), start + day), start + _LONGEST_DAYS * day)
        past = windows[np.linspace(0, start - 1, min(SAMPLE, start)).astype(np.int64)]
        scale = float(past.std()) or 1.0
        detector = make().fit(past / scale)
        usual = np.asarray(detector.decision_scores_)
        middle = float(np.median(usual))
        spread = 1.4826 * float(np.median(np.abs(usual - middle))) or float(usual.std()) or 1.0
        found = (np.asarray(detector.decision_function(windows[start:end] / scale)) - middle) / spread
        out[rows[WINDOW - 1 + start : WINDOW - 1 + end]] = np.clip(found, 0.0, _HIGHEST)
        start = end
    return out
