"""Coverage where samples repeat: a sample that equals quantiles counts in proportion, as a randomised probability
integral transform would count it on average. Plain coverage counts it as inside, whatever the band.

Source: Czado, Gneiting and Held, "Predictive Model Assessment for Count Data", Biometrics 65(4), 2009.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forecaster.domain import FloatArray


def share_inside(
    observed: FloatArray, quantiles: FloatArray, levels: Sequence[float], band: tuple[float, float], tolerance: float
) -> FloatArray:
    """(origin,) in 0 … 1: how much of each sample lies inside the band between two of `levels`.

    observed (origin,) without NaN, quantiles (origin, level) in order. What lies within `tolerance` of a sample, in its
    unit, equals it. A sample that equals the quantiles of the levels a … b has its rank anywhere from half-way below a
    (0 where a is the lowest level) to half-way above b (1 where b is the highest), for where between two levels a
    quantile begins to equal the sample is not told. Levels at which a model says nothing are left out.
    """
    said = ~np.isnan(quantiles).any(axis=0)
    known, values = np.array(levels)[said], quantiles[:, said]
    low, high = (int(np.abs(known - one).argmin()) for one in band)
    if max(abs(known[low] - band[0]), abs(known[high] - band[1])) > 1e-9:
        return np.full(len(observed), np.nan)
    y = observed[:, None]
    plain = (observed >= values[:, low]) & (observed <= values[:, high])
    same = np.abs(values - y) <= tolerance
    first, last = same.argmax(axis=1), same.shape[1] - 1 - same[:, ::-1].argmax(axis=1)
    edges = np.concatenate(([0.0], (known[1:] + known[:-1]) / 2, [1.0]))
    begin, end = edges[first], edges[last + 1]
    within = np.maximum(np.minimum(end, band[1]) - np.maximum(begin, band[0]), 0.0)
    return np.where(same.any(axis=1), within / np.maximum(end - begin, 1e-9), plain)
