"""`forecaster forecast`: one forecast of a PromQL expression, or of the series of a tidy file.

The same forecasters as the service's, best first; the first that has an answer gives it. Nothing is calibrated online
here, for there is no past of our own forecasts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from forecaster.config import PrometheusConfig, load_config
from forecaster.config_values import http_url, parse_duration
from forecaster.domain import FloatArray, IntArray
from forecaster.errors import InputError, SourceError
from forecaster.history import Reading, read_once
from forecaster.prometheus import PrometheusSource
from forecaster.reasons import ReasonCode
from forecaster.tidy import read_tidy
from models import chain
from serving import forecasting
from serving.schemas import MOST_QUANTILES, ForecastBody

SCHEMA_VERSION = 1
LONGEST_HORIZON = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of the verb, as they were typed."""

    prometheus: str | None
    query: str | None
    data: Path | None
    config: Path | None
    series: str | None
    horizon: str
    step: str | None
    history: str
    quantiles: str
    stamps_end: bool


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """One series, its past, and what was forecast of it."""

    name: str
    times: IntArray  # (time,) Unix seconds, ends of intervals
    values: FloatArray  # (time,) NaN where missing
    step: timedelta
    answer: Mapping[str, Any]  # as POST /api/v1/forecast answers


def foretell(asked: Asked, now: datetime, environ: Mapping[str, str]) -> list[Told]:
    """Raises InputError for what the user must mend, also where Prometheus is out of reach."""
    horizon = _option("--horizon", asked.horizon)
    if horizon > LONGEST_HORIZON:
        raise InputError(f"--horizon: {asked.horizon} is too long: write at most 7d")
    levels = _levels(asked.quantiles)
    pasts = pasts_of(asked, now, environ)
    bodies = []
    for past in pasts:
        if past.step > horizon:
            raise InputError(f"--horizon: {asked.horizon} is shorter than the step {past.step} of {past.name}")
        bodies.append(
            ForecastBody(step=past.step, query="-", horizon=horizon // past.step * past.step, quantiles=levels)
        )
    series = [forecasting.Series(past.values, int(past.times[-1])) for past in pasts]
    answers = forecasting.answers(bodies, series, chain.shipped())
    return [
        Told(past.name, past.times, past.values, past.step, answer) for past, answer in zip(pasts, answers, strict=True)
    ]


def as_json(told: list[Told]) -> str:
    items = [{"series": one.name, **one.answer} for one in told]
    return json.dumps({"schemaVersion": SCHEMA_VERSION, "items": items}, default=_text)


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """One series on its grid."""

    name: str
    times: IntArray  # (time,) Unix seconds, ends of intervals
    values: FloatArray  # (time,) NaN where missing
    step: timedelta
    quirks: tuple[str, ...] = ()  # what was odd about the rows of its file


def pasts_of(asked: Asked, now: datetime, environ: Mapping[str, str], shortest: int = 2) -> list[Past]:
    """The series of the file, or the one of the query. Raises InputError for what the user must mend.

    `shortest` 1 lets a series of one row pass, on a step of a minute.
    """
    return _from_file(asked, shortest) if asked.data is not None else [_from_prometheus(asked, now, environ)]


def _from_file(asked: Asked, shortest: int) -> list[Past]:
    if asked.prometheus is not None or asked.query is not None:
        raise InputError("--data: write either a file, or --prometheus and --query")
    assert asked.data is not None
    found = []
    for one in read_tidy(asked.data, asked.stamps_end):
        if asked.series is not None and one.name != asked.series:
            continue
        if not one.usual_step and shortest > 1:
            raise InputError(f"{asked.data}: {one.name} has one row: a forecast needs six at least")
        step = int(_option("--step", asked.step).total_seconds()) if asked.step else one.usual_step or 60
        try:
            times, values = one.on_grid(step)
        except ValueError as error:
            raise InputError(f"{asked.data}: {error}: give a longer --step") from None
        found.append(Past(one.name, times, values, timedelta(seconds=step), one.quirks))
    if not found:
        raise InputError(f"--series: {asked.series!r} is not in {asked.data}")
    return found


def _from_prometheus(asked: Asked, now: datetime, environ: Mapping[str, str]) -> Past:
    if asked.query is None:
        raise InputError("--query: write PromQL, or --data FILE")
    config, step = None, timedelta(minutes=1)
    if asked.config is not None:
        whole = load_config(asked.config, environ)
        config, step = whole.prometheus, whole.step
    if asked.prometheus is not None:
        config = PrometheusConfig(url=_url(asked.prometheus))
    if config is None:
        raise InputError("--prometheus: write the address of Prometheus, or --config FILE that holds it")
    if asked.step:
        step = _option("--step", asked.step)
        if step < timedelta(seconds=1) or step % timedelta(seconds=1):
            raise InputError(f"--step: {asked.step} is not a whole number of seconds")
    source = PrometheusSource(config)
    try:
        reading = read_once(source, asked.query, now, _option("--history", asked.history), step)
        if not _has_samples(reading):
            raise InputError(f"--query: {asked.query!r} {_why_none(source, asked, reading, now)}")
    except SourceError as error:
        raise InputError(str(error)) from error
    finally:
        source.close()
    fine, coarse = reading.context.fine, reading.context.coarse
    return _joined(asked.query, coarse.times, coarse.values[0], fine.times, fine.values[0], step)


def _has_samples(reading: Reading) -> bool:
    context = reading.context
    return bool(np.isfinite(context.coarse.values).any() or np.isfinite(context.fine.values).any())


def _why_none(source: PrometheusSource, asked: Asked, reading: Reading, now: datetime) -> str:
    """Why an expression gave nothing to forecast; of series that have ended a reading sees only that none is there."""
    answer = source.instant(f"count(last_over_time(({asked.query})[{asked.history}:1h]))", now)
    count = int(answer.values[0, 0]) if answer.values.size and np.isfinite(answer.values[0, 0]) else 0
    if count > 1:
        code = ReasonCode.TOO_MANY_SERIES.value
        return f"gives {count} series where one is wanted ({code}): aggregate the expression, as by sum(…)"
    why = list(reading.reasons[0]) or list(reading.notices)
    words = "; ".join(f"{reason.code.value}: {reason.detail}" for reason in why)
    return f"gives no samples: {words}"


def _joined(
    name: str, coarse_times: IntArray, coarse: FloatArray, times: IntArray, fine: FloatArray, step: timedelta
) -> Past:
    """The coarse past before the fine one, on the fine grid: each mean stands for its whole interval."""
    seconds = int(step.total_seconds())
    before = coarse_times <= times[0] - seconds
    ratio = int(coarse_times[1] - coarse_times[0]) // seconds if len(coarse_times) > 1 else 1
    start = int(coarse_times[before][0]) - (ratio - 1) * seconds if before.any() else int(times[0])
    grid_times = np.arange(start, int(times[-1]) + 1, seconds, dtype=np.int64)
    values = np.full(len(grid_times), np.nan)
    place = (coarse_times[before] - start) // seconds
    for back in range(ratio):
        values[place - back] = coarse[before]
    values[(times - start) // seconds] = fine
    known = np.flatnonzero(~np.isnan(values))
    first = int(known[0]) if len(known) else 0
    return Past(name, grid_times[first:], values[first:], step)


def _option(name: str, text: str) -> timedelta:
    try:
        found = parse_duration(text)
    except ValueError as error:
        raise InputError(f"{name}: {text!r} {error}") from None
    if found <= timedelta(0):
        raise InputError(f"{name}: {text!r} is not above zero")
    return found


def _url(text: str) -> str:
    try:
        return http_url(text)
    except ValueError as error:
        raise InputError(f"--prometheus: {text!r} {error}") from None


def _levels(text: str) -> list[float]:
    try:
        levels = sorted({float(part) for part in text.split(",")})
    except ValueError:
        levels = []
    if not levels or not all(0 < level < 1 for level in levels) or len(levels) > MOST_QUANTILES:
        raise InputError(f"--quantiles: {text!r} are not levels between 0 and 1: write 0.1,0.5,0.9")
    return levels


def _text(value: object) -> str:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)
