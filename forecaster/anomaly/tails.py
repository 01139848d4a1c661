"""Distances in deviations as surprises in nats, for numbers whose law is about normal in the middle.

The far tail is nobody's normal distribution: what these give is ranked against a row's own past by
`residual.calibrated` before anyone calls it a probability.
"""

from __future__ import annotations

import math

import numpy as np

from forecaster.domain import FloatArray

_HALF = 8 / math.pi  # makes the tail exactly one half at 0


def upper(z: FloatArray) -> FloatArray:
    """-log of the probability that a standard normal exceeds z, elementwise; NaN stays NaN. Off by at most 0.06.

    Q(z) = 2 phi(z) / (z + sqrt(z^2 + 8/pi)) for z >= 0, of the family of bounds of Birnbaum, "An inequality for Mill's
    ratio", Annals of Mathematical Statistics 13(2), 1942; exact at 0 and far out.
    """
    z = np.asarray(z, dtype=np.float64)
    size = np.abs(z)
    far = 0.5 * size * size + 0.5 * math.log(2 * math.pi) - math.log(2) + np.log(size + np.sqrt(size * size + _HALF))
    return np.asarray(np.where(z >= 0, far, -np.log1p(-np.exp(-far))))


def two_sided(z: FloatArray) -> FloatArray:
    """-log of the probability that a standard normal is further from 0 than z, elementwise: 0 at 0."""
    return np.asarray(np.maximum(upper(np.abs(z)) - math.log(2), 0.0))


def either(first: FloatArray, second: FloatArray) -> FloatArray:
    """Two surprises in nats as one, by Fisher's method: -log P(their sum or more), were both of nothing.

    The sum of two surprises has the tail e^-s (1 + s). A NaN counts as not asked; NaN where both are.
    """
    both = np.nan_to_num(first) + np.nan_to_num(second)
    fisher = both - np.log1p(both)
    out = np.where(np.isnan(first), second, np.where(np.isnan(second), first, fisher))
    return np.asarray(out, dtype=np.float64)
