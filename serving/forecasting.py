"""Forecasts of values that somebody posts, or of a query: the same forecasters as the cycle's, without its state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from forecaster import blend, grid, skill
from forecaster.domain import Context, FloatArray, Forecast, ForecastRequest, SeriesKey
from forecaster.errors import InputError
from forecaster.foresight import LEVELS, REFERENCE, answer_of, horizons, name_of
from forecaster.ports import Forecaster, MetricSource
from forecaster.promql import limits_for_untrusted
from forecaster.reasons import Reason, ReasonCode
from models.posted import context_of
from serving.render import reason_json
from serving.schemas import ForecastBody, in_words

QUERY_SPAN = timedelta(days=14)
MOST_QUERY_POINTS = 21_000


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Values whose last one is at `origin` (Unix seconds)."""

    values: FloatArray
    origin: int


def fetched(body: ForecastBody, source: MetricSource, now: datetime) -> Series:
    """The series of a query that came by REST. Raises InputError and SourceError."""
    assert body.query is not None
    step = int(body.step.total_seconds())
    end = grid.floor_to(now.timestamp(), step)
    span = min(QUERY_SPAN.total_seconds(), MOST_QUERY_POINTS * step)
    start = grid.floor_to(body.start.timestamp(), step) if body.start else end - int(span // step) * step
    if not 0 < (end - start) / step <= MOST_QUERY_POINTS:
        raise InputError(f"start: it gives {(end - start) / step:.0f} points, 1 to {MOST_QUERY_POINTS} are allowed")
    return queried(body.query, body.step, start, end, source)


def queried(query: str, every: timedelta, start: int, end: int, source: MetricSource) -> Series:
    """One series of an untrusted query between two times of its grid (Unix seconds), from its first sample on."""
    limits_for_untrusted(query)
    step = int(every.total_seconds())
    found = source.range(query, datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC), every)
    if len(found.labels) != 1:
        raise InputError(f"query: it answers {len(found.labels)} series, one is needed: aggregate it, e.g. with sum(…)")
    values = grid.on_grid(found.times, found.values[0], end, step, round((end - start) / step) + 1)
    known = np.flatnonzero(~np.isnan(values))
    return Series(values[known[0] :] if len(known) else values, end)


def posted(body: ForecastBody) -> Series:
    assert body.values is not None
    assert body.start is not None
    values = np.array([np.nan if value is None else value for value in body.values], dtype=np.float64)
    return Series(values, int(body.start.timestamp()) + (len(values) - 1) * int(body.step.total_seconds()))


def answers(
    bodies: Sequence[ForecastBody], series: Sequence[Series], forecasters: Callable[[], Sequence[Forecaster]]
) -> list[dict[str, Any]]:
    """One answer per body, in order; those that share a grid are forecast in one call."""
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for i, (body, one) in enumerate(zip(bodies, series, strict=True)):
        alike = len(one.values).bit_length()  # one long series must not make a long row of each short one
        groups[body.step, one.origin, body.horizon, tuple(body.quantiles), alike].append(i)
    out: list[dict[str, Any]] = [{} for _ in bodies]
    for rows in groups.values():
        told = _group([bodies[i] for i in rows], [series[i] for i in rows], forecasters)
        for i, answer in zip(rows, told, strict=True):
            out[i] = answer
    return out


def _group(
    bodies: Sequence[ForecastBody], series: Sequence[Series], forecasters: Callable[[], Sequence[Forecaster]]
) -> list[dict[str, Any]]:
    first, origin = bodies[0], datetime.fromtimestamp(series[0].origin, UTC)
    longest = max(len(one.values) for one in series)
    values = np.full((len(series), longest), np.nan)
    for i, one in enumerate(series):
        values[i, longest - len(one.values) :] = one.values
    keys = [SeriesKey(f"posted-{i}") for i in range(len(series))]
    context = context_of(keys, values, origin, first.step)
    steps = int(first.horizon / first.step)
    asked = tuple(first.quantiles)
    levels = tuple(sorted({*asked, 0.5}))
    request = ForecastRequest(
        np.arange(1, steps + 1, dtype=np.int64), levels, np.full(len(series), min(steps, 10), dtype=np.int64)
    )
    columns = [levels.index(level) for level in asked]
    out: list[dict[str, Any] | None] = [None] * len(series)
    chain = forecasters()
    answered = [answer_of(forecaster, context, request)[0] for forecaster in chain]
    if len(chain) > 1:
        answered.insert(0, _mixed(context, request, chain, answered, forecasters))
    why: list[Reason | None] = [None] * len(series)
    for forecast in answered:
        for i, reason in enumerate(forecast.missing):
            if out[i] is not None:
                continue
            if reason is not None:
                why[i] = why[i] or reason
                continue
            notes = forecast.notes[i] if forecast.notes else ()
            out[i] = {
                "origin": origin,
                "step": in_words(first.step),
                "quantiles": asked,
                "values": forecast.values[i][:, columns].astype(np.float64).tolist(),
                "modelVersion": forecast.model[i],
                "reason": reason_json(notes[0]) if notes else None,
            }
    nothing = {"origin": origin, "step": in_words(first.step), "quantiles": asked, "values": [], "modelVersion": "none"}
    unknown = Reason(ReasonCode.MODEL_UNAVAILABLE, "no forecaster gave an answer")
    return [one or {**nothing, "reason": reason_json(why[i] or unknown)} for i, one in enumerate(out)]


def _mixed(
    context: Context,
    request: ForecastRequest,
    chain: Sequence[Forecaster],
    answers: Sequence[Forecast],
    forecasters: Callable[[], Sequence[Forecaster]],
) -> Forecast:
    """The mixture of the chain, weighted as the service weighs a new series: by a back-test on its newest day."""
    step = int(context.fine.step.total_seconds())
    names = tuple(name_of(forecaster) for forecaster in chain)
    followed = horizons(step)[1]
    layout = blend.Layout(step, tuple(followed.tolist()), names, names.index(REFERENCE))
    keys = [f"{i}" for i in range(len(context.fine.keys))]
    trial = forecasters()  # of their own: they are led back in time
    asked = ForecastRequest(followed, LEVELS, request.windows)

    def ask(past: Context) -> Sequence[Forecast]:
        return [answer_of(forecaster, past, asked)[0] for forecaster in trial]

    weights = blend.with_prior(blend.blank(keys, layout), layout, context, skill.back_test(context, ask))
    return blend.mixed(weights, layout, answers, blend.label(chain[0].version))
