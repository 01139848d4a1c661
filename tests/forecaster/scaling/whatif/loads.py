"""Small loads of a few days at five minutes, for tests of the receipt."""

from __future__ import annotations

import numpy as np

from forecaster.domain import FloatArray, IntArray
from forecaster.scaling.whatif.trial import Hpa, Trial, trial_of

STEP, A_DAY = 300, 288
BEGIN = 1_772_323_200  # 2026-03-01T00:00:00Z


def times(days: float) -> IntArray:
    return BEGIN + STEP * np.arange(1, round(days * A_DAY) + 1, dtype=np.int64)


def daily(days: float, seed: int = 0) -> FloatArray:
    """A daily shape with noise and a jump each morning."""
    rng = np.random.default_rng(seed)
    at = np.arange(round(days * A_DAY))
    load = 1_000.0 * (1.3 - np.cos(2.0 * np.pi * at / A_DAY)) * rng.lognormal(0.0, 0.05, len(at))
    load[108::A_DAY] *= 1.7
    return np.asarray(load)


def trial(values: FloatArray, capacity: float = 60.0, hpa: Hpa | None = None, start_up: int = 600) -> Trial:
    return trial_of("checkout", times(len(values) / A_DAY), values, STEP, start_up, capacity=capacity, hpa=hpa)
