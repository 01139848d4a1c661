"""What is unusual of a row beside its forecasts: change, spread, level, shape and drift of its newest samples, against
the row's own past.

Season-free and cheap: a few hundred numbers a row, a fixed amount of work a sample. `kernel.py` has the arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from forecaster.anomaly import kernel
from forecaster.compiling import compiled
from forecaster.domain import FloatArray, IntArray
from forecaster.rows import Arrays

KINDS = ("residual", "variance", "level_shift", "shape", "drift", "residual")
"""Kind of incident by the statistic that speaks loudest, in the kernel's order."""
_STATE = ("ring", "coarse", "marks", "covariance", "axes", "own_past", "combined", "block_maxima")


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What the samples (row, time) said."""

    score: FloatArray  # (row, time) -log10 p of all statistics together, 0 to 20; NaN during warm-up and without sample
    news: FloatArray  # (row, time) the same, at most EDGE for an echo, or the plateau, of what was told lately
    loud: IntArray  # (row, time) the statistic that speaks loudest
    side: IntArray  # (row, time) +1 above, -1 below, of that one
    parts: FloatArray  # (row, time, statistic) signed -log10 p of each, NaN where not known
    band: FloatArray  # (row, time, 3) low, middle and high expected of the sample before it came: 1 %, 50 %, 99 %


def blank() -> Arrays:
    """One row of state."""
    marks = np.zeros((1, kernel.MARKS))
    marks[0, kernel.PLACE], marks[0, kernel.SPREAD] = kernel.PRIOR_PLACE, kernel.PRIOR_SPREAD
    marks[0, [kernel.EXPECTED, kernel.BELOW, kernel.ABOVE]] = math.nan
    inverse = np.eye(kernel.REGRESSORS) * 10.0
    marks[0, kernel.INVERSE : kernel.INVERSE + inverse.size] = inverse.ravel()
    # any three directions that are not orthogonal to what comes: the first cosines of the window
    place = np.arange(kernel.LAG)
    axes = np.stack([np.cos(math.pi * (place + 0.5) * (a + 1) / kernel.LAG) for a in range(kernel.AXES)], axis=1)
    axes /= np.linalg.norm(axes, axis=0)
    # combined sizes begin as if they were -log10 p of one statistic, with the weight of the samples a score needs
    edges = kernel.LOWEST + kernel.BIN_WIDTH * np.arange(kernel.BINS + 1)
    beyond = np.exp(-np.exp(edges) * math.log(10.0))
    beyond[0], beyond[-1] = 1.0, 0.0
    return {
        "ring": np.zeros((1, kernel.WINDOW)),
        "coarse": np.zeros((1, kernel.COARSE)),
        "marks": marks,
        "covariance": np.zeros((1, kernel.LAG, kernel.LAG), dtype=np.float32),
        "axes": axes[None].astype(np.float32),
        "own_past": np.zeros((1, kernel.LEARNED, 2, kernel.BINS), dtype=np.float32),
        "combined": (kernel.LEAST * (beyond[:-1] - beyond[1:]))[None].astype(np.float32),
        "block_maxima": np.zeros((1, kernel.BLOCKS), dtype=np.float32),
    }


def warm_up() -> None:
    """Makes the machine code that `measured` runs: ten seconds' work where none is kept. No cycle then waits for it."""
    measured(blank(), np.zeros((1, 1)))


def measured(state: Arrays, values: FloatArray, forecast: FloatArray | None = None) -> tuple[Arrays, Measured]:
    """(state after, what they said) of samples (row, time) in order of time; those that are NaN change nothing.

    `forecast` (row, time): signed -log10 p of the samples against a forecast, NaN for none.
    """
    x = np.ascontiguousarray(values, dtype=np.float64)
    against = np.full(x.shape, math.nan) if forecast is None else np.ascontiguousarray(forecast, dtype=np.float64)
    after: Arrays = {name: np.array(state[name]) for name in _STATE}
    rows, times = x.shape
    out = Measured(
        score=np.empty((rows, times)),
        news=np.empty((rows, times)),
        loud=np.zeros((rows, times), dtype=np.int64),
        side=np.zeros((rows, times), dtype=np.int64),
        parts=np.empty((rows, times, kernel.STATISTICS)),
        band=np.empty((rows, times, 3)),
    )
    run = compiled(kernel.run, kernel.HELPERS)
    run(x, against, *after.values(), out.score, out.news, out.parts, out.loud, out.side, out.band)
    return after, out
