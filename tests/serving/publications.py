"""Publications, a cycle and a forecaster made for tests of the serving side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import numpy as np

from forecaster.domain import (
    Candidate,
    Context,
    Event,
    FloatArray,
    Forecast,
    ForecastRequest,
    HpaFacts,
    Incident,
    Mode,
    Override,
    Recommendation,
    ScaleSpec,
    SeriesBatch,
    SeriesKey,
    Workload,
    WorkloadSpec,
)
from forecaster.publication import COARSE_SPAN, FINE_SPAN, Publication, Recent, SeriesStatus, WorkloadStatus
from forecaster.reasons import Reason, ReasonCode
from forecaster.rows import Rows

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
LEVELS = (0.1, 0.5, 0.9, 0.99)


def recommendation(name: str, made_at: datetime = NOW, floor: int | None = 4, valid_for: float = 300) -> Recommendation:
    return Recommendation(
        workload=name,
        namespace="shop",
        hpa=name,
        hpa_uid=None,
        floor=floor,
        desired_replicas=None if floor is None else floor + 1,
        reactive=3,
        made_at=made_at,
        valid_for=timedelta(seconds=valid_for),
        data_through=made_at,
        model_version="profile/1",
        mode=Mode.RECOMMEND,
        candidates=(Candidate("proactive", floor, "430 / 120"),),
        bound_by="proactive",
        reasons=(Reason(ReasonCode.HPA_NOT_FOUND, "shop/" + name),),
    )


def incident(id: str = "i1", workload: str = "checkout", closed_at: datetime | None = None) -> Incident:
    return Incident(
        id=id,
        workload=workload,
        role="load",
        kind="residual",
        direction="up",
        severity="warning",
        opened_at=NOW - timedelta(minutes=5),
        onset=NOW - timedelta(minutes=7),
        closed_at=closed_at,
        score=6.5,
        observed=900.0,
        expected_low=100.0,
        expected_high=float("nan"),
        sentence="load is far above what was expected",
    )


def publication(
    names: Sequence[str] = ("checkout",),
    made_at: datetime = NOW,
    cycle: int = 1,
    floor: int | None = 4,
    incidents: Sequence[Incident] = (),
    valid_for: float = 300,
) -> Publication:
    """One row per workload; the last one has never had a sample when there are several."""
    rows, keys = len(names), tuple(SeriesKey(name) for name in names)
    load = np.linspace(100, 200, rows).astype(np.float32)
    through = np.full(rows, made_at.timestamp() - 20)
    if rows > 1:
        load[-1], through[-1] = np.nan, np.nan
    spec = WorkloadSpec("checkout", "sum(rate(http_requests_total[1m]))")
    horizons = np.array([1, 2, 5, 10, 60, 1440], dtype=np.int64)
    shape = np.array([0.8, 1.0, 1.2, 1.4], dtype=np.float32)
    values = np.nan_to_num(load)[:, None, None] * np.ones(len(horizons), np.float32)[None, :, None] * shape
    missing: list[Reason | None] = [None] * rows
    if rows > 1:
        values[-1] = np.nan
        missing[-1] = Reason(ReasonCode.NO_DATA)
    return Publication(
        made_at=made_at,
        cycle=cycle,
        keys=keys,
        status=SeriesStatus(load, through, np.full(rows, 0.3), load * 0.8, load * 1.2),
        workloads=tuple(
            WorkloadStatus(
                Workload(name, f"{name}#abc", {}, spec, ScaleSpec("shop", name)),
                i,
                Mode.RECOMMEND,
                "profile/1",
                () if missing[i] is None else (Reason(ReasonCode.NO_DATA, "never a sample"),),
                skill={"persistence": 0.8},
                coverage={"0.8": 0.79, "0.98": float("nan")},
                risk={"asked": 0.01},
                budget_used_ratio=0.5,
                lead_time_seconds=180.0,
                capacity_per_replica=50.0,
                facts=HpaFacts(current_replicas=5, ready_replicas=4, min_replicas=2, max_replicas=20),
                min_replicas=2,
                max_replicas=20,
            )
            for i, name in enumerate(names)
        ),
        forecast=Forecast(
            origin=made_at,
            step=timedelta(minutes=1),
            horizons=horizons,
            levels=LEVELS,
            values=values,
            peak=values[:, 3] * np.float32(1.1),
            windows=np.full(rows, 5, dtype=np.int64),
            model=("profile/1",) * rows,
            missing=tuple(missing),
        ),
        recommendations=tuple(recommendation(name, made_at, floor, valid_for) for name in names),
        incidents=tuple(incidents),
        stations={"read": 0.1, "forecast": 0.02},
        clock_skew_seconds=0.5,
        recent=recent(keys, load, made_at),
    )


def recent(keys: tuple[SeriesKey, ...], load: FloatArray, made_at: datetime) -> Recent:
    """A day that ends in `load`: a wave, with a hole an hour ago; all missing where the load is."""

    def batch(step: timedelta, span: timedelta) -> SeriesBatch:
        origin = datetime.fromtimestamp(made_at.timestamp() // step.total_seconds() * step.total_seconds(), UTC)
        ago = np.arange(span // step, -1, -1) * step.total_seconds()
        wave = (1 + 0.5 * np.sin(2 * np.pi * ago / 86_400)).astype(np.float32)
        wave[(ago > 3_600) & (ago < 5_400)] = np.nan
        return SeriesBatch(keys, origin, step, load[:, None] * wave[None, :])

    return Recent(batch(timedelta(minutes=1), FINE_SPAN), batch(timedelta(minutes=5), COARSE_SPAN))


class LastValue:
    """A forecaster that repeats the last value."""

    version = "last-value/1"

    def forecast(self, context: Context, request: ForecastRequest) -> Forecast:
        last = np.nan_to_num(context.fine.values[:, -1:, None].astype(np.float64))
        shape = (len(last), len(request.horizons), len(request.levels))
        short = np.isnan(context.fine.values).all(axis=1)
        values = np.broadcast_to(last, shape).copy()
        values[short] = np.nan
        return Forecast(
            context.fine.origin,
            context.fine.step,
            request.horizons,
            request.levels,
            values,
            values[:, 0],
            request.windows,
            (self.version,) * len(last),
            tuple(Reason(ReasonCode.HISTORY_TOO_SHORT) if row else None for row in short),
        )


@dataclass
class FakeChunk:
    id: str
    until: int
    body: bytes

    def to_bytes(self) -> bytes:
        return self.body


@dataclass
class FakeHistory:
    chunks: list[FakeChunk] = field(default_factory=list)

    def dump(self, changed_only: bool = False) -> list[FakeChunk]:
        return list(self.chunks)


@dataclass
class FakeCycle:
    """Publishes one workload; raises what it is told to raise."""

    STATE_VERSIONS: ClassVar[Mapping[str, int]] = {"decision": 1, "calibration": 3}
    fails: list[Exception] = field(default_factory=list)
    runs: list[datetime] = field(default_factory=list)
    floor: int = 4
    events: Sequence[Event] = ()
    overrides: Sequence[Override] = ()
    judged: Sequence[Incident] = ()
    incidents: Sequence[Incident] = ()
    history: FakeHistory = field(default_factory=FakeHistory)
    before_end: Callable[[], object] = lambda: None

    def run(self, now: datetime) -> Publication:
        self.runs.append(now)
        if self.fails:
            raise self.fails.pop(0)
        self.before_end()
        return publication(made_at=now, cycle=len(self.runs), floor=self.floor, incidents=self.incidents)

    def dump(self) -> Mapping[str, Rows]:
        row = np.array([float(len(self.runs))])
        return {"decision": Rows(("checkout#abc",), {"floor": row}), "calibration": Rows(("a",), {"shift": row})}

    def decision_records(
        self,
    ) -> Sequence[tuple[str, str, object, Callable[[], tuple[dict[str, Any], dict[str, Any]]]]]:
        told = {"floor": self.floor, "desired_replicas": self.floor, "bound_by": "proactive", "reasons": []}
        return [("checkout#abc", "checkout", self.floor, lambda: ({"inputs": 1}, told))]

    def incident_accounts(self) -> Mapping[str, Mapping[str, Any]]:
        return {}

    def set_events(self, events: Sequence[Event]) -> None:
        self.events = events

    def set_overrides(self, overrides: Sequence[Override]) -> None:
        self.overrides = overrides

    def set_feedback(self, incidents: Sequence[Incident]) -> None:
        self.judged = incidents
