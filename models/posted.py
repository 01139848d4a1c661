"""Makes a forecaster's context out of plain values, as a request or a file brings them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from forecaster import grid
from forecaster.domain import BoolArray, Calendar, Context, FloatArray, SeriesBatch, SeriesKey


def context_of(
    keys: Sequence[SeriesKey],
    values: FloatArray,
    origin: datetime,
    step: timedelta,
    timezones: Sequence[str] | None = None,
    masked: BoolArray | None = None,
) -> Context:
    """The context of `values` (series, time), NaN where missing, the last column at `origin` (end of its interval).

    The coarse grid is made of their means; a block at the border that is not whole counts with what it has.
    """
    keys = tuple(keys)
    seconds = int(step.total_seconds())
    coarse_seconds = grid.coarse_step(seconds)
    ratio = coarse_seconds // seconds
    newest = int(origin.timestamp())
    head = grid.floor_to(newest, coarse_seconds)
    behind = (newest - head) // seconds  # columns after the last whole block
    used = np.asarray(values, dtype=np.float64)
    clean = used if masked is None else np.where(masked, np.nan, used)
    coarse = clean[:, : max(clean.shape[1] - behind, 0)]
    lead = -coarse.shape[1] % ratio
    coarse = np.concatenate((np.full((len(coarse), lead), np.nan), coarse), axis=1)
    means = grid.pool_mean(coarse, ratio)
    if not means.shape[1]:
        means = np.full((len(used), 1), np.nan)
    return Context(
        fine=SeriesBatch(keys, origin, step, used),
        coarse=SeriesBatch(keys, datetime.fromtimestamp(head, UTC), timedelta(seconds=coarse_seconds), means),
        calendar=Calendar(tuple(timezones) if timezones is not None else ("UTC",) * len(keys)),
        masked=masked,
    )
