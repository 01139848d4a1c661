"""What one cycle publishes: immutable, complete, and all that REST, `/metrics` and the store need.

The cycle builds one `Publication` and hands it over by a single assignment; nobody changes it afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from forecaster.domain import (
    Context,
    FloatArray,
    Forecast,
    HpaFacts,
    Incident,
    IntArray,
    Mode,
    Recommendation,
    SeriesBatch,
    SeriesKey,
    Workload,
)
from forecaster.reasons import Reason


@dataclass(frozen=True, slots=True, eq=False)
class SeriesStatus:
    """Arrays over the rows of `Publication.keys`; NaN where not known."""

    load: FloatArray  # (row,) newest value, unit of the series
    data_through: FloatArray  # (row,) Unix seconds of the last real sample; NaN: never
    score: FloatArray  # (row,) -log10 of the calibrated p-value
    expected_low: FloatArray  # (row,)
    expected_high: FloatArray  # (row,)


@dataclass(frozen=True, slots=True)
class WorkloadStatus:
    """One workload's summary for lists, its page and its metrics."""

    workload: Workload
    row: int  # of its load in Publication.keys
    mode: Mode
    model_version: str  # forecaster that is in use; "none" where there is none
    reasons: tuple[Reason, ...]  # all that is to be said now; empty: all is well
    skill: Mapping[str, float] = field(default_factory=dict)  # baseline -> our pinball loss / its own
    coverage: Mapping[str, float] = field(default_factory=dict)  # nominal ("0.8") -> measured
    risk: Mapping[str, float] = field(default_factory=dict)  # asked | issued | actual
    risk_detail: Mapping[str, float] = field(
        default_factory=dict
    )  # longestViolationSeconds, worstHourRatio, judgedSeconds
    lead_time_seconds: float | None = None
    capacity_per_replica: float | None = None
    capacity_note: str = ""  # what a learned one rests on, in words
    budget_used_ratio: float | None = None
    facts: HpaFacts | None = None  # what the cluster says of the HPA now
    min_replicas: int | None = None  # the user's own minimum: the floor is never below it
    max_replicas: int | None = None  # highest floor allowed


@dataclass(frozen=True, slots=True)
class ResourceStatus:
    """What is published of one resource of a workload."""

    workload: str
    resource: str
    seconds_to_limit: Mapping[str, float]  # level, such as "0.5" -> seconds; +Inf: none in sight. Empty: unknown
    usage_per_load: float | None
    usage_per_load_low: float | None  # 90 % interval
    usage_per_load_high: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Recent:
    """The newest part of the history, copied: the grids themselves are written on while a page is drawn.

    Rows as `Publication.keys`; made once a step and shared by the publications until the next.
    """

    fine: SeriesBatch  # at the step, `FINE_SPAN` back
    coarse: SeriesBatch  # means, `COARSE_SPAN` back


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """What was expected in the last hours, each value as it was before its sample came. Not kept over a restart."""

    times: IntArray  # (time,) Unix seconds, ascending; 0 where there was no step yet
    low: FloatArray  # (row, time) rows as Publication.keys; NaN where not known
    high: FloatArray


FINE_SPAN = timedelta(hours=6)
COARSE_SPAN = timedelta(hours=24)


def recent_of(context: Context) -> Recent:
    """Copies some 650 columns of each row: 26 MB and some 15 ms for 10,000 rows."""
    return Recent(_newest(context.fine, FINE_SPAN), _newest(context.coarse, COARSE_SPAN))


def _newest(batch: SeriesBatch, span: timedelta) -> SeriesBatch:
    columns = min(span // batch.step + 1, batch.values.shape[1])  # both ends
    return replace(batch, values=batch.values[:, batch.values.shape[1] - columns :].copy())


@dataclass(frozen=True, slots=True, eq=False)
class Publication:
    """The result of one cycle."""

    made_at: datetime
    cycle: int
    keys: tuple[SeriesKey, ...]
    status: SeriesStatus
    workloads: tuple[WorkloadStatus, ...]
    forecast: Forecast | None  # calibrated and re-anchored; rows as `keys`
    recommendations: tuple[Recommendation, ...]
    incidents: tuple[Incident, ...]  # open ones, and those closed in this cycle
    stations: Mapping[str, float]  # seconds spent per station: read, forecast, calibrate, anomaly, decide
    clock_skew_seconds: float | None = None  # Prometheus' clock minus ours
    notices: tuple[Reason, ...] = ()  # about the service as a whole: Prometheus out of reach, bad configuration
    recent: Recent | None = None  # of the load, for charts
    band: Band | None = None
    resources: tuple[ResourceStatus, ...] = ()
    rejected_rows: Mapping[str, int] = field(default_factory=dict)  # forecaster -> rows it lost so far, see Foresight
