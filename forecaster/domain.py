"""The types that travel between the stations of a cycle.

Arrays for many series, small frozen records for single things. Knows no file, network, clock or library but numpy.
Time inside arrays is int64 Unix seconds, UTC; t is the *end* of an interval: the value at t is known at t.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from forecaster.reasons import Reason

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

LOAD = "load"


class Mode(StrEnum):
    """What we may do for a workload, from most to least cautious."""

    OBSERVE = "observe"
    RECOMMEND = "recommend"
    APPLY = "apply"


# --- what is watched ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SeriesKey:
    """One row of history: a workload's load, or the usage of one of its resources."""

    workload: str
    role: str = LOAD  # "load", or the resource's name


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of the floor. None means: not stated here."""

    min_replicas: int | None = None
    max_replicas: int | None = None
    max_step_up_ratio: float = 1.0  # 1.0 = at most doubled within a minute
    max_step_down_ratio: float = 0.2


@dataclass(frozen=True, slots=True)
class ScheduleWindow:
    """A cron window with its own minimum and maximum. Both ends follow the wall clock of `timezone`."""

    cron: str
    duration: timedelta
    timezone: str = "UTC"
    min_replicas: int | None = None
    max_replicas: int | None = None


@dataclass(frozen=True, slots=True)
class ScaleSpec:
    """How one workload is scaled. Capacity and lead time are as configured; None means learned or measured."""

    namespace: str
    hpa: str
    capacity_per_replica: float | None = None  # load at which one replica is full
    capacity_query: str | None = None  # PromQL that gives it
    lead_time: timedelta | None = None
    risk: float = 0.01  # share of time allowed above capacity
    mode: Mode = Mode.RECOMMEND
    allow_new_peak: bool = False
    target_ratio: float | None = None  # the HPA's target as share of capacity; None: read from the HPA, else 0.7
    hold: timedelta = timedelta(seconds=600)
    bounds: Bounds = field(default_factory=Bounds)
    schedule: tuple[ScheduleWindow, ...] = ()
    valid_for: timedelta | None = None  # None: max(5 min, 2 x lead time)
    raised_target_ratio: float | None = None  # of the request, while all is calm; None: the target is not managed


@dataclass(frozen=True, slots=True)
class ResourceSpec:
    """Usage of one resource and, where known, the limit it must not reach; PromQL each."""

    name: str
    usage: str
    limit: str | None = None
    per_pod: str | None = None  # usage of each pod or node, a series each
    pod_label: str = "pod"  # label that names it


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """One entry of `workloads:`, a plain workload or a `forEach` template, as the reader and the decision need it."""

    name: str  # a template's name may hold {label} placeholders
    load: str  # PromQL
    for_each: tuple[str, ...] = ()  # labels; empty for a plain workload
    max_series: int = 1
    timezone: str = "UTC"
    scale: ScaleSpec | None = None  # namespace and hpa may hold {label} placeholders
    resources: tuple[ResourceSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class Workload:
    """One workload after templates were filled in."""

    name: str
    key: str  # name + hash(load expression, step): identity of stored state
    labels: Mapping[str, str]  # of the forEach template; empty for a plain workload
    spec: WorkloadSpec  # of the entry it came from
    scale: ScaleSpec | None  # with the placeholders filled in


# --- samples -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """What one query answered: series on a common time axis."""

    labels: tuple[Mapping[str, str], ...]  # one per series
    times: IntArray  # (time,) Unix seconds, ascending
    values: FloatArray  # (series, time); NaN where the sample is missing, never 0
    partial: bool = False  # Prometheus answered with warnings
    warnings: tuple[str, ...] = ()
    server_time: datetime | None = None  # of the answer's Date header
    query_seconds: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class SeriesBatch:
    """Samples of many series on one grid, each in the unit of its own series."""

    keys: tuple[SeriesKey, ...]
    origin: datetime  # UTC; time of values[:, -1]
    step: timedelta
    values: FloatArray  # (series, time); NaN where the sample is missing, never 0

    def __post_init__(self) -> None:
        if len(self.keys) != len(self.values):
            raise ValueError(f"{len(self.keys)} keys for values of shape {self.values.shape}")
        view = self.values.view()  # no copy: a batch can hold 10,000 series
        view.flags.writeable = False  # frozen=True does not reach into an array
        object.__setattr__(self, "values", view)

    @property
    def times(self) -> IntArray:
        """(time,) Unix seconds of the columns."""
        n, step = self.values.shape[1], int(self.step.total_seconds())
        return int(self.origin.timestamp()) - step * np.arange(n - 1, -1, -1, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Calendar:
    """The wall clock that each series lives by."""

    timezones: tuple[str, ...]  # IANA name, one per series


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """What a forecaster sees: everything known at `fine.origin`, and nothing after it."""

    fine: SeriesBatch  # at the step
    coarse: SeriesBatch  # means of the fine grid over max(5 min, step), same rows, reaching weeks back
    calendar: Calendar
    masked: BoolArray | None = None  # (series, fine time) samples not to be learned from: incidents, faults, saturation
    coarse_masked: BoolArray | None = None  # (series, coarse time)


@dataclass(frozen=True, slots=True, eq=False)
class ForecastRequest:
    """What is asked of a forecaster, for all series at once."""

    horizons: IntArray  # (horizon,) steps of the fine grid after the origin, ascending, at least 1
    levels: tuple[float, ...]  # quantile levels in (0, 1), ascending, 0.5 among them
    windows: IntArray  # (series,) steps: the peak is the maximum over (origin, origin + window]


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """Quantiles for every series of the context, in the same order.

    Rows with a reason in `missing` are NaN throughout; all others hold no NaN, never cross, and are
    non-negative where the series has been.
    """

    origin: datetime
    step: timedelta
    horizons: IntArray  # (horizon,) steps
    levels: tuple[float, ...]
    values: FloatArray  # (series, horizon, quantile), unit of the series
    peak: FloatArray  # (series, quantile) of the maximum over the window
    windows: IntArray  # (series,) steps
    model: tuple[str, ...]  # (series,) which forecaster gave the row
    missing: tuple[Reason | None, ...]  # (series,) why there is no row
    notes: tuple[tuple[Reason, ...], ...] = ()  # (series,) remarks that do not prevent a forecast; () for none at all


# --- the cluster's side ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HpaFacts:
    """What is known of one HPA now, from kube-state-metrics or the API server; None where it is not known."""

    uid: str | None = None
    min_replicas: int | None = None  # spec.minReplicas as it stands
    users_own: int | None = None  # the user's own minReplicas, where the actuator holds the field and it is known
    mode: Mode | None = None  # by annotation
    owner: str | None = None  # field managers of spec.minReplicas
    max_replicas: int | None = None
    current_replicas: int | None = None
    ready_replicas: int | None = None
    target_ratio: float | None = None  # target utilization as a fraction; the user's own while we hold it
    cpu_target: int | None = None  # averageUtilization of its CPU metric, per cent; the user's own while we hold it
    target_average: float | None = None  # averageValue of its one metric of that type: load per replica it wants
    current_average: float | None = None  # of the same metric, now
    scale_target: str | None = None  # kind/name of scaleTargetRef
    lead_time: timedelta | None = None  # pod creation to first Ready, p90
    lead_time_pods: int = 0  # pods that the lead time rests on


# --- decisions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Override:
    """An operator's word, for one workload or all ("*"), until a stated time."""

    id: str
    workload: str
    kind: str  # "pin" | "pause" | "hold"
    starts_at: datetime
    ends_at: datetime
    min_replicas: int | None = None  # pin
    max_replicas: int | None = None  # pin
    note: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened or will happen: a deploy, a holiday, a marked outage."""

    id: str
    kind: str  # "deploy" | "holiday" | "outage" | "incident" | "other"
    workload: str  # name, or "*" for all
    starts_at: datetime
    ends_at: datetime
    note: str = ""
    exclude: bool = True  # keep the interval out of lags and fitting


@dataclass(frozen=True, slots=True)
class Part:
    """What one series contributes to an incident; fields as those of `Incident`."""

    id: str
    workload: str
    role: str
    kind: str
    direction: str
    severity: str
    opened_at: datetime
    onset: datetime
    closed_at: datetime | None
    score: float
    threshold: float
    observed: float
    expected_low: float
    expected_high: float


@dataclass(frozen=True, slots=True)
class Nearby:
    """Something that happened around the onset of an incident: evidence, no proof."""

    kind: str  # of an Event, or "replicas" | "hpa"
    at: datetime
    text: str  # for people


@dataclass(frozen=True, slots=True)
class Incident:
    """One group of anomalies, opened and closed. Its numbers are those of its worst series."""

    id: str
    workload: str  # name, or "*" where many workloads alarm at once
    role: str  # which series
    kind: str  # "residual" | "data_fault" | … | "common_cause"
    direction: str  # "up" | "down" | "none"
    severity: str  # "info" | "warning" | "critical"
    opened_at: datetime
    onset: datetime  # when it began, which is before it was noticed
    closed_at: datetime | None
    score: float  # highest so far: -log10 of the calibrated p-value
    observed: float
    expected_low: float
    expected_high: float
    sentence: str  # for people
    feedback: str | None = None  # real | false_alarm | expected
    threshold: float = 0.0  # score above which it was opened; 0 where a rule opens, not a score
    parts: tuple[Part, ...] = ()  # the series that contribute, worst first; () before grouping
    nearby: tuple[Nearby, ...] = ()
    cause: str | None = None  # id of the incident of the whole fleet that it is part of

    def part(self) -> Part:
        """Itself as what a single series contributes."""
        return Part(
            self.id,
            self.workload,
            self.role,
            self.kind,
            self.direction,
            self.severity,
            self.opened_at,
            self.onset,
            self.closed_at,
            self.score,
            self.threshold,
            self.observed,
            self.expected_low,
            self.expected_high,
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """One number that was considered for the floor."""

    name: str  # proactive | scheduled | pinned | reactive | …
    replicas: int | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """How many replicas one HPA needs, why, and until when that counts."""

    workload: str
    namespace: str
    hpa: str
    hpa_uid: str | None
    floor: int | None  # None: no floor of ours; the user's own value stands
    desired_replicas: int | None
    reactive: int | None
    made_at: datetime
    valid_for: timedelta
    data_through: datetime | None
    model_version: str
    mode: Mode
    candidates: tuple[Candidate, ...]
    bound_by: str  # the rule that had the last word
    reasons: tuple[Reason, ...]
    raised_target: int | None = None  # per cent of the CPU request; None: the user's own target stands

    @property
    def valid_until(self) -> datetime:
        """For people; machines judge by age."""
        return self.made_at + self.valid_for
