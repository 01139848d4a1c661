"""What one cycle publishes: immutable, complete, and all that REST, `/metrics` and the store need.

The cycle builds one `Publication` and hands it over by a single assignment; nobody changes it afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from forecaster.domain import (
    FloatArray,
    Forecast,
    Incident,
    Mode,
    Recommendation,
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
    risk_detail: Mapping[str, float] = field(default_factory=dict)  # longestViolationSeconds, worstHourRatio
    lead_time_seconds: float | None = None
    capacity_per_replica: float | None = None
    budget_used_ratio: float | None = None


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
