"""Examples for fitting: what was known at an origin, what was asked, and what came. A Context ends at its origin.

An example is one (series, origin) with a few queries of different horizons. Inputs are made by models.inputs, the same
code as in service. Examples are kept as float16: inputs are numbers without a unit, of moderate size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster.domain import BoolArray, Context, FloatArray, IntArray, SeriesBatch, SeriesKey
from forecaster.past import Past
from models.inputs import CANDIDATES, DISTRIBUTIONS, LEVELS, POINTS, QUERY, SERIES, Queries, inputs_of

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
    saturated: BoolArray | None = None  # (series, time) lower bounds of demand: neither input nor target
    kind: IntArray | None = None  # (series,) index of the recipe, for reports

    def __post_init__(self) -> None:
        if self.first_end % self.step:
            raise ValueError(f"first_end {self.first_end} is no multiple of the step {self.step}")

    @property
    def demand(self) -> FloatArray:
        """(series, time) the samples that say what was wanted; NaN where one is missing or only a lower bound."""
        return self.values if self.saturated is None else np.where(self.saturated, np.nan, self.values)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How examples are drawn from a group."""

    origins: int = 24
    horizons: int = 9  # values a query each
    peaks: int = 2  # maxima over windows
    shorten: bool = True  # some origins see a shorter past, some a gap at the end


def contexts_of(
    group: SeriesGroup, columns: Sequence[int], rng: np.random.Generator | None = None
) -> Iterator[Context]:
    """What was known at the end of each column; with `rng`, some of it shortened or with a gap at the end."""
    keys = tuple(SeriesKey(str(i)) for i in range(len(group.values)))
    head = datetime.fromtimestamp(group.first_end + (group.values.shape[1] - 1) * group.step, UTC)
    series = SeriesBatch(keys, head, timedelta(seconds=group.step), group.demand)
    past = Past(series, timezones=(group.timezone,) * len(keys))
    for column in columns:
        context = past.at(column)
        yield context if rng is None else _worse(context, rng)


def _worse(context: Context, rng: np.random.Generator) -> Context:
    """Sometimes a shorter past, sometimes the newest samples missing."""
    fine, coarse = context.fine.values, context.coarse.values
    step, coarse_step = context.fine.step.total_seconds(), context.coarse.step.total_seconds()
    if rng.random() < _SHORT:
        reach = np.exp(rng.uniform(np.log(8 * step), np.log(HISTORY_SECONDS)))
        fine = fine[:, -max(int(reach / step), 6) :]
        coarse = coarse[:, -max(int(reach / coarse_step), 3) :]
    if rng.random() < _HELD:
        lost = int(np.exp(rng.uniform(0, np.log(max(min(fine.shape[1] // 4, 60), 2)))))
        fine = np.concatenate((fine[:, :-lost], np.full((len(fine), lost), np.nan, dtype=fine.dtype)), axis=1)
        if step == coarse_step:  # one grid: the coarse one must not tell
            coarse = (
                fine
                if fine.shape[1] >= coarse.shape[1]
                else np.concatenate(
                    (coarse[:, :-lost], np.full((len(coarse), lost), np.nan, dtype=coarse.dtype)), axis=1
                )
            )
    return replace(context, fine=replace(context.fine, values=fine), coarse=replace(context.coarse, values=coarse))


def examples_of(
    group: SeriesGroup, sampling: Sampling, rng: np.random.Generator, since: int = 0, until: int | None = None
) -> Examples:
    """Examples of a group: origins from column `since` on, targets before column `until`."""
    width = group.values.shape[1] if until is None else until
    usual = min(LONGEST // group.step, width // 3)
    first = max(since, min(24, width // 4))
    if first >= width - 1:
        return nothing(sampling)
    columns = np.unique(rng.integers(first, max(width - 1, first + 1), size=sampling.origins))
    parts: list[dict[str, NDArray[Any]]] = []
    demand = group.demand
    for column, context in zip(
        columns.tolist(), contexts_of(group, columns.tolist(), rng if sampling.shorten else None), strict=True
    ):
        room = min(width - 1 - column, usual)
        if room < 1:
            continue
        queries = drawn_queries(group.step, room, sampling, rng)
        target = targets(demand, group.step, column, queries)
        for rows, inputs in inputs_of(context, np.arange(len(group.values)), queries):
            part = {f.name: getattr(inputs, f.name) for f in fields(Examples) if hasattr(inputs, f.name)}
            scaled = (target[rows] - inputs.center[:, None]) / inputs.unit
            part["target"] = np.clip(scaled, -CLIP, CLIP).astype(np.float32)
            part["kind"] = (np.zeros(len(rows)) if group.kind is None else group.kind[rows]).astype(np.int16)
            some = ~np.isnan(scaled).all(axis=1)
            parts.append({name: _stored(name, array[some]) for name, array in part.items()})
    return joined(parts) if parts else nothing(sampling)


def nothing(sampling: Sampling) -> Examples:
    """No examples, in the shapes of some."""
    queries = sampling.horizons + sampling.peaks
    return Examples(
        series=np.zeros((0, SERIES), dtype=np.float16),
        query=np.zeros((0, queries, QUERY), dtype=np.float16),
        points=np.zeros((0, queries, POINTS), dtype=np.float16),
        spreads=np.zeros((0, queries, DISTRIBUTIONS, len(LEVELS)), dtype=np.float16),
        available=np.zeros((0, queries, CANDIDATES), dtype=np.bool_),
        target=np.zeros((0, queries), dtype=np.float32),
        kind=np.zeros(0, dtype=np.int16),
    )


def drawn_queries(step: int, room: int, sampling: Sampling, rng: np.random.Generator) -> Queries:
    """Horizons, log-uniform to a day and a few beyond, and windows to six hours; in steps that fit into `room`."""
    day = max(min(86_400 // step, room), 1)
    near = np.exp(rng.uniform(0, np.log(day + 0.999), size=sampling.horizons - 1))
    far = np.exp(rng.uniform(0, np.log(room + 0.999), size=1))
    windows = np.exp(rng.uniform(0, np.log(max(min(6 * 3_600 // step, room), 1) + 0.999), size=sampling.peaks))
    steps = np.concatenate((near, far, windows)).astype(np.int64)
    return Queries(steps * step, np.arange(len(steps)) >= sampling.horizons)


def targets(values: FloatArray, step: int, column: int, queries: Queries) -> FloatArray:
    """(series, query) what came after `column` of values (series, time); NaN where a sample is missing."""
    out = np.full((len(values), len(queries.seconds)), np.nan)
    for i, (seconds, peak) in enumerate(zip(queries.seconds.tolist(), queries.peak.tolist(), strict=True)):
        steps = seconds // step
        part = values[:, column + 1 : column + 1 + steps]
        out[:, i] = part.max(axis=1) if peak else part[:, -1]  # a NaN inside a window makes its maximum NaN
    return out


def joined(parts: Sequence[dict[str, NDArray[Any]]]) -> Examples:
    """Examples of several parts, in their order."""
    return Examples(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _stored(name: str, array: NDArray[Any]) -> NDArray[Any]:
    return array if name in ("available", "target", "kind") else array.astype(np.float16)
