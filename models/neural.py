"""The network as a Forecaster: an artifact, its inputs, and a runtime that multiplies matrices.

Kinds of rows that need no network are answered without it: a constant row is its constant, a row without samples has a
reason. What comes out is brought back to the unit of the series, never negative where the series never was.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from forecaster.cores import one_thread_a_product, side_by_side
from forecaster.domain import Context, FloatArray, Forecast, ForecastRequest, IntArray, SeriesKey
from forecaster.errors import ModelError
from models import inputs
from models.artifact import Artifact, digest
from models.blocks import LEAST_SAMPLES, Gate, forecast_of
from models.empirical import level_weights
from models.fits import Arrays, FitCache
from models.inputs import LEVELS, Inputs, Queries
from models.numpy_network import NumpyNetwork
from models.past import tables_of
from models.unanimous import with_agreed

ARCHITECTURE = "network/1"
Runtime = Callable[[Inputs], NDArray[np.float32]]


@dataclass
class Neural:
    """Forecaster of an artifact. Keeps what it measured of the rows (models.past) between calls: it changes slowly."""

    artifact: Artifact
    runtime: Runtime | None = None  # None: plain numpy
    version: str = ""
    cache: FitCache = field(default_factory=FitCache)

    def __post_init__(self) -> None:
        card = self.artifact.card
        if card.architecture != ARCHITECTURE:
            raise ModelError(f"architecture {card.architecture!r}: this release runs {ARCHITECTURE!r}")
        if tuple(card.quantile_levels) != LEVELS:
            raise ModelError(f"quantile levels {card.quantile_levels}: {ARCHITECTURE} has {LEVELS}")
        check_shapes(self.artifact.tensors)
        self.version = self.version or f"network/{digest(self.artifact)[:8]}"
        self._longest = 0  # seconds that the cache reaches ahead
        self._run = self.runtime or NumpyNetwork(self.artifact.tensors)

    def forecast(self, context: Context, request: ForecastRequest) -> Forecast:
        """Quantiles for all rows; rows of fewer than six samples carry a reason instead."""
        with one_thread_a_product():
            return self._forecast(context, request)

    def _forecast(self, context: Context, request: ForecastRequest) -> Forecast:
        rows, levels = len(context.fine.keys), tuple(request.levels)
        step = int(context.fine.step.total_seconds())
        values = np.full((rows, len(request.horizons), len(levels)), np.nan)
        peak = np.full((rows, len(levels)), np.nan)
        gate = np.full(rows, Gate.EMPTY, dtype=np.int8)
        weights = level_weights(levels, np.asarray(LEVELS))
        windows = np.asarray(request.windows, dtype=np.int64)
        tables = self._tables(context, int(request.horizons[-1]) * step, windows * step)

        def one(work: tuple[IntArray, int]) -> None:
            part, window = work
            seconds = np.append(np.asarray(request.horizons, dtype=np.int64), window) * step
            queries = Queries(seconds, np.arange(len(seconds)) == len(seconds) - 1)
            for block, given in inputs.inputs_of(context, part, queries, tables):
                gate[block] = kinds(given)
                answer = finished(self._run(given), given, weights)
                values[block], peak[block] = answer[:, :-1], answer[:, -1]

        most = inputs.block_of(len(request.horizons) + 1)
        work = [
            (members[first : first + most], int(window))
            for window in np.unique(windows)
            for members in (np.flatnonzero(windows == window),)
            for first in range(0, len(members), most)
        ]
        side_by_side(one, work)
        return forecast_of(context, request, values, peak, gate, self.version)

    def forget(self, series: Collection[SeriesKey]) -> None:
        """Measures these series anew at the next call."""
        self.cache.forget(series)

    def _tables(self, context: Context, longest: int, windows: IntArray) -> Arrays:
        """What was measured of all rows, lately; anew where a row is asked for another window."""
        if longest != self._longest:
            self.cache, self._longest = FitCache(self.cache.renews), longest

        def fit(context: Context, rows: IntArray) -> Arrays:
            return tables_of(context, rows, longest, windows[rows])

        return self.cache.get(context, fit, lambda kept: np.asarray(kept["window"] != windows))


def kinds(given: Inputs) -> NDArray[np.int8]:
    """(row,) Gate: NORMAL, CONSTANT, SHORT or EMPTY."""
    out = np.full(len(given.center), Gate.NORMAL, dtype=np.int8)
    out[given.constant] = Gate.CONSTANT
    out[given.samples < LEAST_SAMPLES] = Gate.SHORT
    out[given.samples == 0] = Gate.EMPTY
    return out


def finished(normal: NDArray[np.float32], given: Inputs, weights: NDArray[np.float64]) -> FloatArray:
    """(row, query, level) in the unit of the series, of normalised quantiles at LEVELS."""
    read = with_agreed(normal, given) @ weights
    out = given.center[:, None, None] + given.unit[..., None] * read
    out = np.maximum.accumulate(out, axis=-1)  # beyond the outermost levels lines could meet
    out = np.where(given.nonnegative[:, None, None], np.maximum(out, 0.0), out)
    return np.asarray(np.where(given.constant[:, None, None], given.center[:, None, None], out))


def check_shapes(tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """Raises ModelError where weights do not fit together or to the inputs of this release."""
    try:
        wide, asked = tensors["series_in.weight"].shape[1], tensors["query_in.weight"].shape[1]
        outputs = tensors["head.weight"].shape[0]
    except KeyError as error:
        raise ModelError(f"the weights lack {error.args[0]!r}: they are not of {ARCHITECTURE}") from error
    wanted = (inputs.SERIES, inputs.QUERY, inputs.CANDIDATES + len(LEVELS))
    if (wide, asked, outputs) != wanted:
        raise ModelError(f"the weights take and give {(wide, asked, outputs)} numbers, this release {wanted}")
