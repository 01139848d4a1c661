"""Where the series' own distributions agree to the digit, no network is asked.

A series that is nearly always 0 has 0 at most levels of its changes, of its last day, of its last week and of this hour
of earlier days alike. A network that answers 0.004 there is wrong by nothing that a picture shows, and by hundreds of
times the error of the plainest rule. At a horizon at which the last value tells no more than the level does, the
changes are no witness. A value counts only where it is one of many equal ones, so that neighbouring levels have it too:
the medians of a day and of a week of a smooth curve may be equal and mean nothing. Where it was another a day or a week
ago, there may be a job with a schedule, and the network is asked.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from forecaster.domain import FloatArray, IntArray
from models.inputs import CHANGE, DAY_AGO, DAY_LEVEL, LEVELS, POINTS, SAME_HOUR, WEEK_AGO, WEEK_LEVEL, Inputs

_ALIKE = 1e-4  # units: inputs are float32
_MIDDLE = LEVELS.index(0.5)


def with_agreed(normal: NDArray[np.float32], given: Inputs) -> NDArray[np.float32]:
    """(row, query, level) normalised quantiles, replaced where all witnesses, two at least, agree.

    Levels between and beside agreed ones are kept between and beside them, so that quantiles do not cross.
    """
    known = given.available[..., POINTS:]
    alike = np.abs(given.spreads[:, :, DAY_LEVEL] - given.spreads[:, :, WEEK_LEVEL]) <= _ALIKE
    row, query = np.nonzero(alike.any(axis=-1) | ~known[..., DAY_LEVEL] | ~known[..., WEEK_LEVEL])
    if not len(row):
        return normal  # most series: nothing of what follows is worth its time
    told = _witnesses(given, row, query)  # (pair, witness, level)
    lowest, highest = np.fmin.reduce(told, axis=1), np.fmax.reduce(told, axis=1)
    enough = (~np.isnan(told[..., 0])).sum(axis=1) >= 2
    with np.errstate(invalid="ignore"):
        agreed = enough[:, None] & (highest - lowest <= _ALIKE)
        level = np.diff(lowest, axis=-1) <= _ALIKE  # (pair, level): as the next one
        agreed &= np.pad(level, ((0, 0), (0, 1))) | np.pad(level, ((0, 0), (1, 0)))
        for point in (DAY_AGO, WEEK_AGO):
            other = np.abs(given.points[row, query, point, None] - lowest) > _ALIKE
            agreed &= ~(other & given.available[row, query, point, None])
    floor = np.maximum.accumulate(np.where(agreed, lowest, -np.inf), axis=-1)
    ceiling = np.minimum.accumulate(np.where(agreed, lowest, np.inf)[..., ::-1], axis=-1)[..., ::-1]
    out = normal.copy()
    out[row, query] = np.clip(normal[row, query], floor, ceiling)
    return out


def _witnesses(given: Inputs, row: IntArray, query: IntArray) -> FloatArray:
    """Quantile functions (pair, witness, level), the changes first; NaN where one is not known or tells nothing."""
    members = [CHANGE, DAY_LEVEL, WEEK_LEVEL, SAME_HOUR]
    known = given.available[row, query, POINTS:][:, members]
    told = np.where(known[..., None], given.spreads[row, query][:, members], np.float32(np.nan))
    size = np.abs(told - told[..., _MIDDLE : _MIDDLE + 1]).mean(axis=-1)
    with np.errstate(invalid="ignore"):
        useless = size[:, 0] >= np.fmax(size[:, 1], size[:, 2])  # False where one is NaN
    told[useless, 0] = np.nan
    zero = np.where(given.nonnegative[row], -given.center[row] / given.unit[row, query], -np.inf)
    return np.asarray(np.maximum(told, zero[:, None, None]))  # NaN stays NaN
