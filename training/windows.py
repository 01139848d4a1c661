"""Examples for fitting: what was known at an origin, what was asked, and what came. No look-ahead: a Context ends at it.

An example is one (series, origin) with a few queries of different horizons. Inputs are made by models.inputs, the same
code as in service. Examples are kept as float16: inputs are numbers without a unit, of moderate size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster import grid
from forecaster.domain import BoolArray, Calendar, Context, FloatArray, IntArray, SeriesBatch, SeriesKey
from models.inputs import Queries, inputs_of

FINE_COLUMNS = 2_880  # as the service keeps
HISTORY_SECONDS = 28 * 86_400
LONGEST = 7 * 86_400
CLIP = 50.0  # units beyond which a target counts no more
_SHORT = 0.35  # share of origins that see less than the whole past
_HELD = 0.15  # share of origins with a recent gap


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Many examples; first axis (example,)."""

    series: NDArray[np.float16]  # (example, SERIES)
    query: NDArray[np.float16]  # (example, query, QUERY)
    points: NDArray[np.float16]
    spreads: NDArray[np.float16]
    available: NDArray[np.bool_]
    target: NDArray[np.float32]  # (example, query) in units from the center; NaN where nothing is to be learned
    kind: NDArray[np.int16]  # (example,) index of the group's recipe or file, for reports

    def __len__(self) -> int:
        return len(self.series)


@dataclass(frozen=True, slots=True, eq=False)
class SeriesGroup:
    """Series on one grid, as a file or a generator gives them."""

    values: FloatArray  # (series, time); NaN where missing
    step: int  # seconds
    first_end: int  # Unix seconds: end of the first interval
    timezone: str = "UTC"
    saturated: BoolArray | None = None  # (series, time) lower bounds: never a target
    kind: IntArray | None = None  # (series,) index of the recipe, for reports


@dataclass(frozen=True, slots=True)
class Sampling:
    """How examples are drawn from a group."""

    origins: int = 24
    horizons: int = 9  # values a query each
    peaks: int = 2  # maxima over windows
    shorten: bool = True  # some origins see a shorter past, some a gap at the end


def contexts_of(group: SeriesGroup, columns: Sequence[int], rng: np.random.Generator | None = None) -> Iterator[Context]:
    """What was known at the end of each column; with `rng`, some of it shortened or with a gap."""
    step = group.step
    coarse_step = grid.coarse_step(step)
    ratio = coarse_step // step
    keys = tuple(SeriesKey(str(i)) for i in range(len(group.values)))
    calendar = Calendar((group.timezone,) * len(keys))
    lead = -((group.first_end - step) // step) % ratio  # columns before the first whole coarse interval
    whole = (group.values.shape[1] - lead) // ratio
    held = group.values if group.saturated is None else np.where(group.saturated, np.nan, group.values)
    coarse = grid.pool_mean(held[:, lead : lead + whole * ratio], ratio) if ratio > 1 else held
    for column in columns:
        origin = group.first_end + column * step
        reach = HISTORY_SECONDS
        if rng is not None and rng.random() < _SHORT:
            reach = int(np.exp(rng.uniform(np.log(8 * step), np.log(HISTORY_SECONDS))))
        fine = held[:, max(column + 1 - min(FINE_COLUMNS, max(reach // step, 6)), 0) : column + 1]
        if rng is not None and rng.random() < _HELD:
            fine = fine.copy()
            fine[:, -int(np.exp(rng.uniform(0, np.log(max(min(fine.shape[1] // 4, 60), 2))))) :] = np.nan
        last = (column + 1 - lead) // ratio if ratio > 1 else column + 1  # whole coarse intervals that are over
        means = coarse[:, max(last - max(reach // coarse_step, 3), 0) : max(last, 1)]
        head = grid.floor_to(origin, coarse_step)
        yield Context(
            SeriesBatch(keys, datetime.fromtimestamp(origin, UTC), timedelta(seconds=step), fine),
            SeriesBatch(keys, datetime.fromtimestamp(head, UTC), timedelta(seconds=coarse_step), means),
            calendar,
        )


def examples_of(
    group: SeriesGroup, sampling: Sampling, rng: np.random.Generator, since: int = 0, until: int | None = None
) -> Examples:
    """Examples of a group: origins from column `since` on, targets before column `until`."""
    width = group.values.shape[1] if until is None else until
    usual = min(LONGEST // group.step, width // 3)
    first = max(since, min(24, width // 4))
    columns = np.unique(rng.integers(first, max(width - 1, first + 1), size=sampling.origins))
    parts: list[dict[str, NDArray[Any]]] = []
    for column, context in zip(
        columns.tolist(), contexts_of(group, columns.tolist(), rng if sampling.shorten else None), strict=True
    ):
        room = min(width - 1 - column, usual)
        if room < 1:
            continue
        queries = drawn_queries(group.step, room, sampling, rng)
        target = targets(group, column, queries)
        for rows, inputs in inputs_of(context, np.arange(len(group.values)), queries):
            part = {f.name: getattr(inputs, f.name) for f in fields(Examples) if hasattr(inputs, f.name)}
            scaled = (target[rows] - inputs.center[:, None]) / inputs.unit
            part["target"] = np.clip(scaled, -CLIP, CLIP).astype(np.float32)
            part["kind"] = (np.zeros(len(rows)) if group.kind is None else group.kind[rows]).astype(np.int16)
            some = ~np.isnan(scaled).all(axis=1)
            parts.append({name: _stored(name, array[some]) for name, array in part.items()})
    return joined(parts)


def drawn_queries(step: int, room: int, sampling: Sampling, rng: np.random.Generator) -> Queries:
    """Horizons, log-uniform to a day and a few beyond, and windows to six hours; in steps that fit into `room`."""
    day = max(min(86_400 // step, room), 1)
    near = np.exp(rng.uniform(0, np.log(day + 0.999), size=sampling.horizons - 1))
    far = np.exp(rng.uniform(0, np.log(room + 0.999), size=1))
    windows = np.exp(rng.uniform(0, np.log(max(min(6 * 3_600 // step, room), 1) + 0.999), size=sampling.peaks))
    steps = np.concatenate((near, far, windows)).astype(np.int64)
    return Queries(steps * step, np.arange(len(steps)) >= sampling.horizons)


def targets(group: SeriesGroup, column: int, queries: Queries) -> FloatArray:
    """(series, query) what came; NaN where a sample is missing or only a lower bound."""
    values = group.values if group.saturated is None else np.where(group.saturated, np.nan, group.values)
    out = np.full((len(values), len(queries.seconds)), np.nan)
    for i, (seconds, peak) in enumerate(zip(queries.seconds.tolist(), queries.peak.tolist(), strict=True)):
        steps = seconds // group.step
        part = values[:, column + 1 : column + 1 + steps]
        out[:, i] = part.max(axis=1) if peak else part[:, -1]  # a NaN inside a window makes its maximum NaN
    return out


def joined(parts: Sequence[dict[str, NDArray[Any]]]) -> Examples:
    """Examples of several parts, in their order."""
    return Examples(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _stored(name: str, array: NDArray[Any]) -> NDArray[Any]:
    return array if name in ("available", "target", "kind") else array.astype(np.float16)
