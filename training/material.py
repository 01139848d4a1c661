"""What a retrain job learns from and judges by: the history that serving sees, and its split in time.

Models are compared on the coarse grid, for the fine one reaches back two days only; the part that both are judged on is
the newest one, and no model has learned from it. What events, incidents and faults have marked is left out of both, and
so are the samples at which every replica was full.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np

from forecaster.chunks import Span
from forecaster.config import Config
from forecaster.cycle import DEFAULT_WINDOW
from forecaster.domain import LOAD, BoolArray, Context, Event, IntArray, ScaleSpec, SeriesBatch, SeriesKey
from forecaster.errors import SourceError
from forecaster.history import History, Reading
from forecaster.ports import MetricSource
from forecaster.reasons import ReasonCode
from forecaster.scaling.lead_time import lead_time_of
from training import saturation
from training.saturation import Loads
from training.windows import SeriesGroup

DAY = 86_400
HELD_SHARE = 0.2  # of the history, on which the models are compared; a day at least
_HORIZONS = (300, 600, 900, 1_800, 3_600, 10_800)  # seconds; what decisions look at, and what they rest on
_OUT_OF_REACH = frozenset({ReasonCode.STALE_DATA, ReasonCode.UNAUTHORISED})  # of the source as a whole
_STRIDE = 3_600  # seconds between moments at which both models are asked


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """One reading of the history, of all rows."""

    context: Context
    keys: tuple[str, ...]  # of rows, as stored state names them
    windows: IntArray  # (row,) steps that decisions look ahead
    protected: BoolArray  # (row,) loads that something is scaled by
    saturated_ratio: float = math.nan  # share of the samples of the loads of which it is known; NaN: of none
    remarks: tuple[str, ...] = ()  # what a reader of the outcome should know

    @property
    def workloads(self) -> tuple[str, ...]:
        """(row,) the workload's name."""
        return tuple(key.workload for key in self.context.fine.keys)


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The coarse history up to a whole day: columns before `cut` to learn from, the rest to judge by."""

    series: SeriesBatch  # what is marked is NaN
    timezones: tuple[str, ...]
    cut: int
    columns: IntArray  # (origin,) moments at which models are asked, none before `cut` - 1
    horizons: IntArray  # steps
    days: IntArray  # (origin,)

    @property
    def first(self) -> datetime:
        return datetime.fromtimestamp(int(self.series.times[0]), UTC)

    @property
    def learned_through(self) -> datetime:
        return datetime.fromtimestamp(int(self.series.times[self.cut - 1]), UTC)

    def groups(self) -> list[SeriesGroup]:
        """The part to learn from, by time zone."""
        step = int(self.series.step.total_seconds())
        first = int(self.first.timestamp())
        out = []
        for zone in dict.fromkeys(self.timezones):
            rows = np.array([one == zone for one in self.timezones])
            out.append(SeriesGroup(self.series.values[rows, : self.cut], step, first, zone))
        return out


def read(
    config: Config,
    source: MetricSource,
    now: datetime,
    events: Sequence[Event] = (),
    excluded: Mapping[str, Sequence[Span]] | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Material:
    """The whole history, piece by piece as the service reads it. `excluded`: row key -> spans not to be learned from.

    Raises SourceError where Prometheus does not answer. Rows of a query that it refuses are missing.
    """
    history = History(config.specs(), config.step, config.history, config.interval)
    reading = history.read(source, now)
    most = max(history.backlog, 1)
    while history.backlog:
        before = history.backlog
        reading = history.read(source, now)
        progress(1 - history.backlog / most)
        if history.backlog >= before:  # a query that is never answered must not keep the others from being learned
            break
    trouble = next((one for one in reading.notices if one.code in _OUT_OF_REACH), None)
    if trouble is not None:
        raise SourceError(f"Prometheus did not give the history: {trouble.detail or trouble.code}")
    loads = saturation.loads_of(reading)
    fine, coarse = (saturation.marked(source, loads, one) for one in (reading.context.fine, reading.context.coarse))
    made = _material(history, reading, config, events, excluded or {})
    return _without_saturated(made, loads, fine, coarse)


def _without_saturated(made: Material, loads: Loads, fine: BoolArray, coarse: BoolArray) -> Material:
    context, remarks = made.context, []
    known = ~np.isnan(context.coarse.values[loads.rows])
    if loads.unknown:
        some = ", ".join(loads.unknown[:3]) + (" …" if len(loads.unknown) > 3 else "")
        remarks.append(
            f"of {len(loads.unknown)} scaled workloads it is not known when every replica was full, so that such "
            f"samples count as demand: {some}; needed are their capacity and kube-state-metrics"
        )
    return replace(
        made,
        context=replace(
            context, masked=_either(context.masked, fine), coarse_masked=_either(context.coarse_masked, coarse)
        ),
        saturated_ratio=float(coarse[loads.rows][known].mean()) if known.any() else math.nan,
        remarks=tuple(remarks),
    )


def _either(known: BoolArray | None, more: BoolArray) -> BoolArray | None:
    if not more.any():
        return known
    return more if known is None else known | more


def _material(
    history: History,
    reading: Reading,
    config: Config,
    events: Sequence[Event],
    excluded: Mapping[str, Sequence[Span]],
) -> Material:
    context = reading.context
    series = context.fine.keys
    key_of = {workload.name: workload.key for workload in reading.workloads}
    keys = tuple(f"{key_of[one.workload]}/{one.role}" for one in series)
    own: dict[SeriesKey, Sequence[Span]] = {
        one: excluded[key] for key, one in zip(keys, series, strict=True) if key in excluded
    }
    history.exclude(events, own)
    masked, coarse_masked = history.masks()
    scales = {workload.name: workload.scale for workload in reading.workloads}
    step, windows, protected = config.step, [], []
    for one in series:
        scale = scales[one.workload] if one.role == LOAD else None
        windows.append(max(1, math.ceil(_window(scale, reading, config) / step)))
        protected.append(scale is not None)
    return Material(
        replace(context, masked=masked, coarse_masked=coarse_masked),
        keys,
        np.array(windows, dtype=np.int64),
        np.array(protected, dtype=np.bool_),
    )


def _window(scale: ScaleSpec | None, reading: Reading, config: Config) -> timedelta:
    """How far ahead the service's decision looks."""
    if scale is None:
        return DEFAULT_WINDOW
    return (
        lead_time_of(scale, reading.facts.get(f"{scale.namespace}/{scale.hpa}"), config.interval)[0] + config.interval
    )


def split(material: Material) -> Split | str:
    """The history up to the last midnight (UTC), cut in two; or why it is too short."""
    coarse = material.context.coarse
    step = int(coarse.step.total_seconds())
    until = int(coarse.times[-1]) // DAY * DAY
    values = np.asarray(coarse.values, dtype=np.float32)
    if material.context.coarse_masked is not None:
        values = np.where(material.context.coarse_masked, np.float32(np.nan), values)
    values = values[:, : values.shape[1] - (int(coarse.times[-1]) - until) // step]
    known = ~np.isnan(values)
    if not known.any():
        return "there is no history before the last midnight (UTC)"
    values = values[:, int(known.any(axis=0).argmax()) :]
    width, a_day = values.shape[1], DAY // step
    held = max(a_day, math.ceil(HELD_SHARE * width / a_day) * a_day)
    if width < held + a_day:
        return f"{width / a_day:.1f} days of history up to midnight: two are needed, one to learn from, one to judge by"
    horizons = np.unique(np.maximum(1, np.array(_HORIZONS) // step)).astype(np.int64)
    cut = width - held
    columns = np.arange(cut - 1, width - int(horizons[-1]), max(1, _STRIDE // step), dtype=np.int64)
    series = SeriesBatch(coarse.keys, datetime.fromtimestamp(until, UTC), coarse.step, values)
    # a moment counts for the day that its forecasts are about
    return Split(
        series, material.context.calendar.timezones, cut, columns, horizons, (series.times[columns] + 1) // DAY
    )
