"""Bodies of the REST API: what is accepted, and what is answered (for OpenAPI alone; answers are ready bytes)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator
from pydantic.alias_generators import to_camel

from forecaster.scaling.lead_time import LONGEST

LONGEST_HORIZON = timedelta(days=7)
SHORTEST_STEP, LONGEST_STEP = timedelta(seconds=1), timedelta(days=1)
MOST_STEPS = 10_080  # of a forecast: a week of minutes
MOST_VALUES = 100_000  # of one series
MOST_WHATIF_VALUES = 50_000  # of a receipt: five weeks of minutes
MOST_ITEMS = 1_000
MOST_NUMBERS = 2_000_000  # of one answer
MOST_QUANTILES = 21
MOST_NOTE = 1_000
FIRST, LAST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def duration(value: object) -> timedelta:
    """`90s`, `5m`, `1h30m`, `7d`, or a number of seconds. Raises ValueError."""
    if isinstance(value, timedelta):
        return value
    seconds: float | None = None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and len(value) <= 32:
        match = _DURATION.fullmatch(value.strip())
        if match and any(match.groups()):
            parts = (float(part or 0) for part in match.groups())
            seconds = sum(part * unit for part, unit in zip(parts, (86_400, 3_600, 60, 1), strict=True))
        elif re.fullmatch(r"\d+(\.\d+)?", value.strip()):
            seconds = float(value)
    if seconds is None or not 0 < seconds <= 400 * 86_400:
        raise ValueError("write a duration, e.g. 90s, 5m, 1h30m or 7d")
    return timedelta(seconds=seconds)


def in_words(value: timedelta) -> str:
    """A duration as it is written in requests: 90 s is `1m30s`."""
    seconds = value.total_seconds()
    whole = int(seconds)
    parts = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if whole >= size:
            parts.append(f"{whole // size}{unit}")
            whole %= size
    rest = whole + (seconds - int(seconds))
    if rest or not parts:
        parts.append(f"{rest:g}s")
    return "".join(parts)


def _sensible(value: datetime) -> datetime:
    if not FIRST <= value < LAST:
        raise ValueError("times lie between 2000 and 2100")
    return value.astimezone(UTC)


_DURATION_SCHEMA = {
    "anyOf": [
        {"type": "string", "pattern": r"^(?=\d)(\d+(\.\d+)?d)?(\d+(\.\d+)?h)?(\d+(\.\d+)?m)?(\d+(\.\d+)?s)?$"},
        {"type": "number", "exclusiveMinimum": 0},
    ],
    "description": "A duration such as 90s, 5m, 1h30m or 7d, or seconds.",
}
Duration = Annotated[
    timedelta,
    BeforeValidator(duration),
    PlainSerializer(in_words, return_type=str),
    Field(json_schema_extra=_DURATION_SCHEMA),
]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-1e18, le=1e18)]
Load = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=1e18)]
Level = Annotated[float, Field(strict=True, gt=0.0, lt=1.0)]
Moment = Annotated[AwareDatetime, BeforeValidator(lambda v: _text_only(v)), Field(description="RFC 3339 with a zone.")]
WorkloadName = Annotated[str, Field(min_length=1, max_length=512)]
Note = Annotated[str, Field(max_length=MOST_NOTE)]


def _text_only(value: object) -> object:
    """pydantic would take numbers for Unix seconds."""
    if not isinstance(value, (str, datetime)):
        raise ValueError("write a time as RFC 3339 text, e.g. 2026-01-31T08:00:00Z")
    return value


class Body(BaseModel):
    """What a caller sends."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, validate_by_name=False)


class ForecastBody(Body):
    """A series to be forecast: posted values, or PromQL (operators only)."""

    start: Moment | None = Field(None, description="Time of the first value; needed with `values`.")
    step: Duration
    values: Annotated[list[Number | None], Field(min_length=1, max_length=MOST_VALUES)] | None = Field(
        None, description="They end right before the first step of the forecast; null: missing."
    )
    query: Annotated[str, Field(min_length=1, max_length=4_096)] | None = None
    horizon: Duration
    quantiles: Annotated[list[Level], Field(min_length=1, max_length=MOST_QUANTILES)] = Field([0.1, 0.5, 0.9])

    @model_validator(mode="after")
    def _sound(self) -> ForecastBody:
        if not SHORTEST_STEP <= self.step <= LONGEST_STEP:
            raise ValueError(f"step: {in_words(self.step)} is outside of 1s to 1d")
        if self.step.total_seconds() % 1:
            raise ValueError("step: write whole seconds")
        if self.horizon > LONGEST_HORIZON:
            raise ValueError(f"horizon: {in_words(self.horizon)} is too long: at most 7d")
        if self.horizon < self.step:
            raise ValueError("horizon: it is shorter than one step")
        if self.horizon / self.step > MOST_STEPS:
            raise ValueError(f"horizon: {self.horizon / self.step:.0f} steps, at most {MOST_STEPS} are allowed")
        if (self.values is None) == (self.query is None):
            raise ValueError("give either values or query")
        if self.values is not None and self.start is None:
            raise ValueError("start: needed with values")
        if self.start is not None:
            _sensible(self.start)
        if sorted(set(self.quantiles)) != self.quantiles:
            raise ValueError("quantiles: write them ascending, each once")
        return self


class ForecastBatch(Body):
    """Many series at once."""

    items: Annotated[list[ForecastBody], Field(min_length=1, max_length=MOST_ITEMS)]

    @model_validator(mode="after")
    def _sound(self) -> ForecastBatch:
        numbers = sum(int(one.horizon / one.step) * len(one.quantiles) for one in self.items)
        if numbers > MOST_NUMBERS:
            raise ValueError(f"items: the answer would hold {numbers} numbers, at most {MOST_NUMBERS} are allowed")
        return self


class WhatifBody(Body):
    """A past to be replayed: posted values, or PromQL, with the HPA that stands on it."""

    name: WorkloadName = "posted"
    start: Moment | None = Field(None, description="Time of the first value; needed with `values`.")
    step: Duration = timedelta(minutes=1)
    values: Annotated[list[Load | None], Field(min_length=1, max_length=MOST_WHATIF_VALUES)] | None = Field(
        None, description="Load, each for the step that ends at its time; null: missing."
    )
    query: Annotated[str, Field(min_length=1, max_length=4_096)] | None = None
    history: Duration = Field(timedelta(days=24), description="Of a query; 24 days give both parts their full length.")
    startups: Annotated[list[Duration], Field(min_length=1, max_length=3)] = Field([timedelta(seconds=180)])
    capacity_per_replica: Annotated[float, Field(strict=True, gt=0, le=1e18, allow_inf_nan=False)] | None = None
    replicas: Annotated[int, Field(strict=True, ge=1, le=10_000)] = Field(
        28, description="Without a capacity: the 99.5 % quantile of the load fills so many."
    )
    min_replicas: Annotated[int, Field(strict=True, ge=0, le=1_000)] = 2
    max_replicas: Annotated[int, Field(strict=True, ge=1, le=1_000)] = 200
    target: Annotated[int, Field(strict=True, ge=1, le=100)] = Field(70, description="Of the HPA, per cent.")
    stabilization: Annotated[int, Field(strict=True, ge=0, le=3_600)] = Field(300, description="Of the HPA, seconds.")
    price: Annotated[float, Field(strict=True, ge=0, le=1e9, allow_inf_nan=False)] | None = Field(
        None, description="Of a replica-hour."
    )

    @model_validator(mode="after")
    def _sound(self) -> WhatifBody:
        if self.step.total_seconds() % 15 or not self.step <= LONGEST_STEP:
            raise ValueError("step: write a multiple of 15 s, at most 1d")
        if (self.values is None) == (self.query is None):
            raise ValueError("give either values or query")
        if self.values is not None and self.start is None:
            raise ValueError("start: needed with values")
        if self.query is not None and self.start is not None:
            raise ValueError("start: a query reads the newest past: write history")
        if self.start is not None:
            _sensible(self.start)
        if self.history / self.step > MOST_WHATIF_VALUES:
            raise ValueError(
                f"history: {self.history / self.step:.0f} points, at most {MOST_WHATIF_VALUES} are allowed"
            )
        if self.values is not None and len(self.values) * self.step > timedelta(days=400):
            raise ValueError("values: they last longer than 400 days")
        for one in self.startups:
            if one.total_seconds() % 15 or one > LONGEST:
                raise ValueError("startups: write multiples of 15 s, at most 15m")
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"minReplicas: {self.min_replicas} is above maxReplicas {self.max_replicas}")
        return self


class FeedbackBody(Body):
    feedback: Literal["real", "false_alarm", "expected"]


class EventBody(Body):
    """Something that happened or will happen."""

    kind: Literal["deploy", "holiday", "outage", "incident", "other"]
    workload: WorkloadName = "*"
    starts_at: Moment
    ends_at: Moment
    note: Note = ""
    exclude: bool = Field(True, description="Keep the interval out of what is learned from.")

    @model_validator(mode="after")
    def _ordered(self) -> EventBody:
        _ordered(self.starts_at, self.ends_at)
        return self


class OverrideBody(Body):
    """An operator's word until `endsAt`."""

    workload: WorkloadName
    kind: Literal["pin", "pause", "hold"]
    starts_at: Moment | None = Field(None, description="Now, where it is not given.")
    ends_at: Moment
    min_replicas: Annotated[int, Field(strict=True, ge=0, le=1_000_000)] | None = None
    max_replicas: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] | None = None
    note: Note = ""

    @model_validator(mode="after")
    def _sound(self) -> OverrideBody:
        _sensible(self.ends_at)
        if self.starts_at is not None:
            _ordered(self.starts_at, self.ends_at)
        pinned = self.min_replicas is not None or self.max_replicas is not None
        if pinned != (self.kind == "pin"):
            raise ValueError("a pin needs minReplicas or maxReplicas; pause and hold take neither")
        if self.min_replicas is not None and self.max_replicas is not None and self.min_replicas > self.max_replicas:
            raise ValueError("minReplicas: it is above maxReplicas")
        return self


def _ordered(start: datetime, end: datetime) -> None:
    if _sensible(start) >= _sensible(end):
        raise ValueError("endsAt: it is not after startsAt")


# --- answers ---------------------------------------------------------------------------------------------------------


class Answer(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")


class ReasonOut(Answer):
    code: str
    detail: str


class ProblemOut(BaseModel):
    """RFC 9457."""

    model_config = ConfigDict(extra="allow")
    type: str
    title: str
    status: int
    detail: str


class WorkloadOut(Answer):
    name: str
    key: str
    labels: dict[str, str]
    namespace: str | None
    hpa: str | None
    mode: Literal["observe", "recommend", "apply"]
    model_version: str
    load: float | None
    data_through: datetime | None
    score: float | None
    expected_low: float | None
    expected_high: float | None
    floor: int | None
    desired_replicas: int | None
    current_replicas: int | None = Field(description="Of the HPA, as the cluster says; `readyReplicas` likewise.")
    ready_replicas: int | None
    min_replicas: int | None = Field(description="The user's own minimum: the floor is never below it.")
    max_replicas: int | None = Field(description="Highest floor allowed.")
    reasons: list[ReasonOut]
    skill: dict[str, float | None]
    coverage: dict[str, float | None]
    risk: dict[str, float | None]
    risk_detail: dict[str, float | None]
    lead_time_seconds: float | None
    capacity_per_replica: float | None
    budget_used_ratio: float | None


class WorkloadsOut(Answer):
    items: list[WorkloadOut]
    next: str | None
    made_at: datetime | None


class SeriesOut(Answer):
    series: str
    value: float | None
    data_through: datetime | None
    score: float | None
    expected_low: float | None
    expected_high: float | None


class CandidateOut(Answer):
    name: str
    replicas: int | None
    detail: str


class RecommendationOut(Answer):
    workload: str
    namespace: str
    hpa: str
    hpa_uid: str | None
    floor: int | None
    desired_replicas: int | None
    reactive: int | None
    made_at: datetime
    valid_until: datetime
    valid_for_seconds: float
    data_through: datetime | None
    model_version: str
    mode: Literal["observe", "recommend", "apply"]
    candidates: list[CandidateOut]
    bound_by: str
    reasons: list[ReasonOut]
    raised_target: int | None = Field(
        description="Per cent of the CPU request that the HPA may aim at for five minutes; null: the user's own stands."
    )


class RecommendationsOut(Answer):
    items: list[RecommendationOut]
    next: str | None
    made_at: datetime | None


class PartOut(Answer):
    """One series that contributes to an incident."""

    id: str
    workload: str
    series: str
    kind: str
    direction: str
    severity: str
    opened_at: datetime
    onset: datetime
    closed_at: datetime | None
    score: float | None = Field(description="Highest so far: -log10 of the calibrated p-value.")
    threshold: float | None = Field(description="Score above which it was opened; 0 where a rule opens, not a score.")
    observed: float | None
    expected_low: float | None
    expected_high: float | None


class NearbyOut(Answer):
    """What happened around the onset of an incident: evidence, no proof."""

    kind: str = Field(description="deploy, holiday, outage, incident, other, replicas or hpa.")
    at: datetime
    text: str


class IncidentOut(PartOut):
    """One incident: what alarmed together in one workload. Its numbers are those of its worst series."""

    sentence: str
    feedback: str | None
    contributing: list[PartOut] = Field(description="The series that it is made of, worst first.")
    nearby: list[NearbyOut]
    common_cause: str | None = Field(description="Id of the incident of the whole fleet that it is part of.")


class IncidentDetailOut(IncidentOut):
    accounts: dict[str, dict[str, Any]] = Field(
        description="Id of a contributing series -> what its digits rest on; floats as hex text."
    )


class IncidentsOut(Answer):
    items: list[IncidentOut]
    next: str | None


class WorkloadDetailOut(WorkloadOut):
    series: list[SeriesOut]
    recommendation: RecommendationOut | None
    incidents: list[IncidentOut]
    made_at: datetime


class PeakOut(Answer):
    window_seconds: float
    values: list[float | None]


class WorkloadForecastOut(Answer):
    workload: str
    origin: datetime | None
    step_seconds: float | None
    quantiles: list[float]
    times: list[datetime]
    values: list[list[float | None]]
    peak: PeakOut | None
    model_version: str
    reason: ReasonOut | None
    reasons: list[ReasonOut]
    made_at: datetime


class ReplicasOut(Answer):
    """Stored decisions as columns; a value stands from its time until the next."""

    times: list[datetime]
    floor: list[int | None]
    desired_replicas: list[int | None]
    current_replicas: list[int | None]
    ready_replicas: list[int | None]
    min_replicas: list[int | None]
    max_replicas: list[int | None]
    ready_capacity: list[float | None] = Field(description="Load that the ready replicas carry when full.")


class HistoryOut(Answer):
    workload: str
    hours: int
    step_seconds: float | None
    times: list[datetime]
    load: list[float | None]
    expected_low: list[float | None] = Field(description="What was expected at these times, before the sample came.")
    expected_high: list[float | None]
    replicas: ReplicasOut
    incidents: list[IncidentOut]
    note: str | None = Field(description="Why something is missing, or coarser than elsewhere.")
    made_at: datetime


class SparklineOut(Answer):
    name: str
    highest: float | None
    values: list[int | None] = Field(description="Percent of the highest, oldest first; null where nothing is known.")


class SparklinesOut(Answer):
    items: list[SparklineOut]
    next: str | None
    step_seconds: float | None
    through: datetime | None = Field(description="Time of the last value.")
    made_at: datetime | None


class ForecastOut(Answer):
    origin: datetime | None
    step: str
    quantiles: list[float]
    values: list[list[float | None]]
    model_version: str
    reason: ReasonOut | None


class ForecastsOut(Answer):
    items: list[ForecastOut]


class WhatifOut(Answer):
    """What docs/whatif.md lists."""

    schema_version: int
    reference_risk: float
    rows: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    frontier: list[dict[str, Any]]
    summary: list[dict[str, Any]]
    dial: list[dict[str, Any]]
    hindsight: list[dict[str, Any]]
    recorded: list[dict[str, Any]]
    shadow: list[dict[str, Any]]
    left_out: list[dict[str, Any]]


class DecisionOut(Answer):
    workload: str
    workload_key: str
    at: datetime
    record: dict[str, Any]
    decision: dict[str, Any]


class DecisionsOut(Answer):
    items: list[DecisionOut]
    next: str | None


class EventOut(Answer):
    id: str
    kind: str
    workload: str
    starts_at: datetime
    ends_at: datetime
    note: str
    exclude: bool


class EventsOut(Answer):
    items: list[EventOut]
    next: str | None


class OverrideOut(Answer):
    id: str
    workload: str
    kind: str
    starts_at: datetime
    ends_at: datetime
    min_replicas: int | None
    max_replicas: int | None
    note: str


class OverridesOut(Answer):
    items: list[OverrideOut]
    next: str | None


class DemoSumsOut(Answer):
    """Sums since the demo's begin."""

    replica_hours: float
    seconds_above_capacity: float
    unmet_load_ratio: float | None
    scale_events: int


class DemoPoliciesOut(Answer):
    hpa: DemoSumsOut
    forecaster: DemoSumsOut


class DemoServiceOut(Answer):
    name: str
    sentence: str
    startup_seconds: float
    pays: bool
    hpa: DemoSumsOut
    forecaster: DemoSumsOut
    times: list[datetime]
    load: list[float]
    capacity_hpa: list[float]
    capacity_forecaster: list[float]
    replicas_hpa: list[int]
    replicas_forecaster: list[int]
    floor: list[int]


class DemoEventOut(Answer):
    time: datetime
    workload: str
    kind: Literal["flash_crowd", "deploy", "memory_leak", "missing_scrapes", "scrape_gap"]
    sentence: str


class DemoOut(Answer):
    schema_version: int
    now: datetime
    started_at: datetime
    speed: float | None
    simulated_seconds: float
    policies: DemoPoliciesOut
    services: list[DemoServiceOut]
    events: list[DemoEventOut]
