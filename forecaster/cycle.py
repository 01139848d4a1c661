"""The order of a cycle: read, learn from what came due, judge it, forecast, calibrate, decide, publish.

Only this file knows that order; the service, the sidecar and a replay call it. `run` is called once an interval; the
grid moves, and the forecasters run, once a step (docs/decisions/0002-cadences.md). Time is passed in; what a cycle
remembers is dumped and restored as named arrays.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, ClassVar

import numpy as np

from forecaster import calibration
from forecaster.anomaly import causes, feedback, follow
from forecaster.anomaly.gathering import Gathering
from forecaster.cluster_facts import with_hpas
from forecaster.domain import (
    LOAD,
    BoolArray,
    Event,
    FloatArray,
    Forecast,
    Incident,
    IntArray,
    Mode,
    Override,
    SeriesKey,
    Workload,
    WorkloadSpec,
)
from forecaster.errors import InputError
from forecaster.foresight import LEVELS, Blocked, Foresight, Make
from forecaster.history import STALE_STEPS, History, Reading
from forecaster.ports import HpaReader, MetricSource
from forecaster.publication import Publication, Recent, SeriesStatus, WorkloadStatus, recent_of
from forecaster.reasons import Reason, ReasonCode
from forecaster.rows import Rows
from forecaster.scaling import decision
from forecaster.scaling.deciding import Decided, Deciding, Known, Scaled
from forecaster.scaling.new_peak import HighestLoad
from forecaster.scaling.record import to_json
from forecaster.scaling.short_history import KnownSince
from forecaster.starts import Starts
from forecaster.vigil import Vigil
from forecaster.watch import SHARE, Watch

DEFAULT_WINDOW = timedelta(minutes=5)  # of rows that scale nothing

Told = Callable[[], tuple[dict[str, Any], dict[str, Any]]]


class Cycle:
    """Everything between a metric source and a publication. One thread at a time."""

    STATE_VERSIONS: ClassVar[Mapping[str, int]] = {
        "calibration": 1,
        "skill": 1,
        "blend": 1,
        "reanchor": 1,
        "anomaly": follow.STATE_VERSION,
        "incidents": 1,
        "tripwires": 1,
        "excluded": 1,
        "groups": 1,
        "causes": causes.STATE_VERSION,
        "causes_pods": causes.STATE_VERSION,
        "causes_incidents": 1,
        "risk": 1,
        "decision": decision.STATE_VERSION,
        "decision_merged": 1,
    }

    def __init__(
        self,
        specs: Sequence[WorkloadSpec],
        *,
        step: timedelta,
        interval: timedelta,
        span: timedelta,
        source: MetricSource,
        forecasters: Make,
        alarms_budget: float = 0.1,
        timer: Callable[[], float] = time.perf_counter,
        hpas: HpaReader | None = None,
    ) -> None:
        """`forecasters` makes the chain, best first, persistence among them; each call gives fresh ones.

        `hpas` knows HPAs better than kube-state-metrics does: their uid, and the user's own minimum while we hold it.
        """
        self.history = History(specs, step, span, interval)
        self._source, self._timer, self._hpas = source, timer, hpas
        self._step = int(step.total_seconds())
        self._foresight = Foresight(forecasters, step)
        self._budget = alarms_budget
        self._vigil = Vigil(step, LEVELS, alarms_budget, span, SHARE)
        self._watch = Watch(self._step, alarms_budget)
        self._deciding = Deciding(interval)
        self._highest = HighestLoad()
        self._most_load: FloatArray = np.zeros(0)
        self._oldest = KnownSince()
        self._known_since: FloatArray = np.zeros(0)
        self._events: tuple[Event, ...] = ()
        self._overrides: tuple[Override, ...] = ()
        self._notices: list[Reason] = []
        self._judged: tuple[Incident, ...] = ()
        self._timezones: dict[str, str] = {}
        self._series: tuple[SeriesKey, ...] = ()
        self._row_of: dict[str, int] = {}
        self._resources: dict[str, list[int]] = {}
        self._decided: list[Decided] = []
        self._gathering = Gathering(self._step)
        self._accounts: Mapping[str, Mapping[str, Any]] = {}
        self._count = 0
        self._recent: Recent | None = None
        self.reading: Reading | None = None  # of the last cycle; holds until the next

    # --- a cycle ---

    def run(self, now: datetime) -> Publication:
        """One cycle at `now` (aware UTC). Faults of Prometheus are reasons in what it returns, never exceptions."""
        began = self._timer()
        reading = self.history.read(self._source, now)
        if self._hpas is not None:
            reading = replace(reading, facts=with_hpas(reading.facts, self._hpas.facts()))
        self.reading = reading
        spent = {"read": self._timer() - began}
        other_rows = self._align(reading)
        scaled = self._deciding.gather(
            reading.workloads, self._row_of, reading.facts, reading.capacity, reading.learned, reading.newest
        )
        saturated = self._deciding.saturated(scaled, reading.newest)
        self._remember_saturation(reading, scaled, saturated)
        self._gathering.begin()
        self._accounts = {}
        for name in ("calibrate", "anomaly", "forecast", "decide"):
            spent[name] = 0.0
        if reading.new_column or other_rows or self._foresight.is_stale:
            self._recent = recent_of(reading.context)
            self._step_forward(reading, scaled, other_rows, spent)
        began = self._timer()
        forecast = self._foresight.issue(reading.now, reading.newest, reading.newest_at, self._blocked(reading))
        spent["calibrate"] += self._timer() - began
        began = self._timer()
        known = self._known(reading, forecast, now)
        self._decided = self._deciding.decide(scaled, known, saturated, self._overrides)
        decisions = self._deciding.merge(self._decided, now)
        spent["decide"] = self._timer() - began
        self._count += 1
        notices, self._notices = (*reading.notices, *self._notices), []
        return Publication(
            made_at=now,
            cycle=self._count,
            keys=reading.context.fine.keys,
            status=self._status(reading),
            workloads=tuple(self._statuses(reading, known, scaled)),
            forecast=forecast,
            recommendations=tuple(one for made in decisions if (one := made.to_recommendation()) is not None),
            incidents=self._gathering.all,
            stations=spent,
            clock_skew_seconds=reading.clock_skew_seconds,
            notices=notices,
            recent=self._recent,
            band=self._vigil.band,
            resources=self._watch.status(),
            rejected_rows=dict(self._foresight.rejected),
        )

    def _align(self, reading: Reading) -> bool:
        """Brings all state to the rows of the reading; True where they are others than before."""
        series = reading.context.fine.keys
        if series is self._series:
            return False
        key_of = {workload.name: workload.key for workload in reading.workloads}
        keys = tuple(f"{key_of[one.workload]}/{one.role}" for one in series)
        others = keys != self._foresight.keys or not self._series
        self._foresight.align(keys, series)
        self._vigil.align(keys, series)
        self._watch.align(keys, series)
        self._series = series
        self._row_of = {one.workload: row for row, one in enumerate(series) if one.role == LOAD}
        self._resources = {}
        for row, one in enumerate(series):
            if one.role != LOAD:
                self._resources.setdefault(one.workload, []).append(row)
        if others:
            self._timezones = {one.name: one.spec.timezone for one in reading.workloads}
            self._teach()
        return others

    def _step_forward(
        self, reading: Reading, scaled: Sequence[Scaled], other_rows: bool, spent: dict[str, float]
    ) -> None:
        """The grid has moved: learn, judge, forecast."""
        context = reading.context
        head = int(context.fine.origin.timestamp())
        windows = self._windows(scaled)
        if reading.new_column:
            began = self._timer()
            self._foresight.observe(context, windows)
            spent["calibrate"] += self._timer() - began
            began = self._timer()
            if self._judge(reading, scaled, head):  # what was just excluded is not learned from in this step either
                masked, coarse_masked = self.history.masks()
                context = replace(context, masked=masked, coarse_masked=coarse_masked)
            spent["anomaly"] = self._timer() - began
        began = self._timer()
        complete = self.history.backlog == 0
        self._most_load = self._highest.of(context, complete)
        self._known_since = self._oldest.of(context, complete)
        self._foresight.run(context, windows, complete)
        spent["forecast"] = self._timer() - began
        self._vigil.freeze(self._foresight.frozen())

    def _judge(self, reading: Reading, scaled: Sequence[Scaled], head: int) -> bool:
        """Faults and anomalies of the newest samples; True where that changed what is not to be learned from."""
        context = reading.context
        rows = len(context.fine.keys)
        ready = np.full(rows, np.nan)
        for one in scaled:
            if one.facts is not None and one.facts.ready_replicas is not None:
                ready[one.row] = one.facts.ready_replicas
        masked = np.zeros(rows, dtype=np.bool_) if context.masked is None else context.masked[:, -1].copy()
        observed = np.asarray(context.fine.values[:, -1], dtype=np.float64)
        before = {key: list(spans) for key, spans in self._vigil.excluded.items()}
        self._vigil.step(head, observed, reading.series_count, ready, masked, reading.reasons)
        assert self._vigil.followed is not None
        assert self._vigil.faults is not None
        faulty = np.asarray(self._vigil.faults.kind) != 0
        faulty |= np.array([bool(said) for said in reading.reasons], dtype=np.bool_)
        self._watch.step(head, observed, reading.limits, ready, masked, faulty, reading.pods)
        self._accounts = {**self._vigil.accounts, **self._watch.accounts}
        facts = {one.workload.name: one.facts for one in scaled if one.facts is not None}
        found = (*self._vigil.open_incidents(), *self._vigil.followed.closed)
        found += (*self._watch.open_incidents(), *self._watch.closed_incidents())
        self._gathering.step(found, facts, self._events, reading.now, len(reading.workloads))
        self._foresight.restart(self._vigil.new_regime())
        if self._vigil.excluded == before:
            return False
        self._exclude()
        return True

    def _exclude(self) -> None:
        self.history.exclude(self._events, self._vigil.own_spans())

    def _windows(self, scaled: Sequence[Scaled]) -> IntArray:
        """(row,) steps that the decision of the row's workload looks ahead."""
        windows = np.full(len(self._series), max(1, math.ceil(DEFAULT_WINDOW.total_seconds() / self._step)))
        for one in scaled:
            windows[one.row] = math.ceil(self._deciding.window(one).total_seconds() / self._step)
        return windows.astype(np.int64)

    def _remember_saturation(self, reading: Reading, scaled: Sequence[Scaled], saturated: BoolArray) -> None:
        flags = np.zeros(len(self._series), dtype=np.bool_)
        for one, full in zip(scaled, saturated.tolist(), strict=True):
            flags[one.row] = full
        # the sample of this moment belongs to the interval that ends at the next grid point
        ends = math.ceil(reading.now.timestamp() / self._step) * self._step
        self._foresight.saw_saturation(ends, flags)

    def _blocked(self, reading: Reading) -> Blocked:
        """Why rows have no forecast though the model gave one: it rests on samples that are too old."""
        age = reading.now.timestamp() - reading.data_through
        old = ~(age <= STALE_STEPS * self._step)
        out: list[Reason | None] = [None] * len(self._series)
        for row in np.flatnonzero(old).tolist():
            said = reading.reasons[row]
            out[row] = said[0] if said else Reason(ReasonCode.STALE_DATA)
        return tuple(out)

    def _known(self, reading: Reading, forecast: Forecast, now: datetime) -> Known:
        remarks, followed = self._foresight.remarks, self._vigil.followed
        assert remarks is not None
        context = reading.context
        masked = np.zeros(len(self._series), dtype=np.bool_)
        if context.masked is not None:
            masked |= context.masked[:, -1]
        if followed is not None:
            masked |= followed.exclude
        reasons = [
            (*said, *notes) if said and missing is None else notes if missing is None else said
            for said, notes, missing in zip(reading.reasons, remarks.notes, forecast.missing, strict=True)
        ]
        faults: list[str | None] = [None] * len(self._series)
        if self._vigil.faults is not None:
            for row in np.flatnonzero(self._vigil.faults.kind).tolist():
                faults[row] = self._vigil.fault_words(row)
        return Known(
            now=now,
            forecast=forecast,
            newest=reading.newest,
            data_through=reading.data_through,
            most_load=self._most_load,
            known_since=self._known_since,
            reasons=reasons,
            masked=masked,
            faults=faults,
        )

    # --- what is published ---

    def _status(self, reading: Reading) -> SeriesStatus:
        followed = self._vigil.followed
        unknown = np.full(len(self._series), np.nan)
        return SeriesStatus(
            load=reading.newest,
            data_through=reading.data_through,
            score=unknown if followed is None else followed.score,
            expected_low=unknown if followed is None else followed.low,
            expected_high=unknown if followed is None else followed.high,
        )

    def _statuses(self, reading: Reading, known: Known, scaled: Sequence[Scaled]) -> list[WorkloadStatus]:
        scaled_of = {one.workload.name: (i, one) for i, one in enumerate(scaled)}
        decided_of = {one.scaled.workload.name: one.decision for one in self._decided}
        skills, coverages, budget = self._shares()
        out = []
        for workload in reading.workloads:
            row = self._row_of[workload.name]
            made, found = decided_of.get(workload.name), scaled_of.get(workload.name)
            missing = known.forecast.missing[row]
            out.append(
                WorkloadStatus(
                    workload=workload,
                    row=row,
                    mode=Mode.OBSERVE if workload.scale is None else workload.scale.mode,
                    model_version="none" if missing is not None else known.forecast.model[row],
                    reasons=self._said(workload, row, made, known, reading),
                    skill={} if missing is not None else skills[row],
                    coverage=coverages[row],
                    risk={} if found is None else self._risk(found[0], found[1]),
                    risk_detail={} if found is None else self._risk_detail(found[0]),
                    lead_time_seconds=None if found is None else found[1].lead_time.total_seconds(),
                    capacity_per_replica=None if found is None else found[1].capacity,
                    capacity_note="" if found is None or found[1].learned is None else found[1].learned.words,
                    budget_used_ratio=budget[row],
                    facts=None if found is None else found[1].facts,
                    min_replicas=None if made is None else made.users_own,
                    max_replicas=None if made is None else made.most,
                )
            )
        return out

    def _said(
        self, workload: Workload, row: int, made: decision.Decision | None, known: Known, reading: Reading
    ) -> tuple[Reason, ...]:
        said = list(made.reasons) if made is not None else list(known.reasons[row])
        missing = known.forecast.missing[row]
        if missing is not None and not any(reason.code is missing.code for reason in said):
            said.append(missing)
        if made is None and known.faults[row] is not None:
            said.append(Reason(ReasonCode.DATA_FAULT, str(known.faults[row])))
        for other in self._resources.get(workload.name, ()):
            role = self._series[other].role
            said += [Reason(one.code, f"{role}: {one.detail}".rstrip(": ")) for one in reading.reasons[other]]
        return tuple(dict.fromkeys(said))

    def _shares(self) -> tuple[list[dict[str, float]], list[dict[str, float]], list[float | None]]:
        """(skill, coverage, budget used) of all rows."""
        remarks, followed = self._foresight.remarks, self._vigil.followed
        assert remarks is not None
        names, rows = self._foresight.chain.names, np.arange(len(self._series))
        mine = remarks.skill[rows, np.maximum(remarks.chosen, 0)]
        relative = (mine[:, None] / remarks.skill).tolist()
        chosen = remarks.chosen.tolist()
        skills = [
            {name: ratio for i, (name, ratio) in enumerate(zip(names, line, strict=True)) if i != pick}
            for line, pick in zip(relative, chosen, strict=True)
        ]
        nominal = [f"{band:g}" for band in calibration.BANDS]
        coverages = [
            {name: share for name, share in zip(nominal, line, strict=True) if share == share}
            for line in remarks.coverage.tolist()
        ]
        budget: list[float | None] = [None] * len(rows)
        if followed is not None:
            budget = list(followed.budget_used.tolist())
        return skills, coverages, budget

    def _risk(self, place: int, one: Scaled) -> dict[str, float]:
        report = self._deciding.report
        assert report is not None
        shares = {"asked": one.scale.risk, "issued": float(report.issued[place]), "actual": float(report.actual[place])}
        return {name: share for name, share in shares.items() if share == share}

    def _risk_detail(self, place: int) -> dict[str, float]:
        report = self._deciding.report
        assert report is not None
        found = {
            "longestViolationSeconds": float(report.longest_violation_seconds[place]),
            "worstHourRatio": float(report.worst_hour_ratio[place]),
            "judgedSeconds": float(report.judged_seconds[place]),
        }
        return {name: value for name, value in found.items() if value == value}

    def decision_records(self) -> Sequence[tuple[str, str, object, Told]]:
        """Per decision of the last cycle: workload key, name, what is new when it changes, and what to store of it."""
        return [
            (
                one.scaled.workload.key,
                one.scaled.workload.name,
                (one.decision.floor, one.decision.bound_by, frozenset(reason.code for reason in one.decision.reasons)),
                _teller(one),
            )
            for one in self._decided
        ]

    def incident_accounts(self) -> Mapping[str, Mapping[str, Any]]:
        """What recomputes the digits of incidents that opened or worsened in the last cycle, by id of the row's."""
        return self._accounts

    # --- from outside ---

    def set_events(self, events: Sequence[Event]) -> None:
        self._events = tuple(events)
        self._exclude()

    def set_feedback(self, incidents: Sequence[Incident]) -> None:
        """All incidents of which people said what they were."""
        self._judged = tuple(incidents)
        self._teach()

    def _teach(self) -> None:
        said = feedback.taught(self._judged, self._timezones)
        self._vigil.teach(said)
        self._watch.teach(said)
        self._exclude()

    def set_overrides(self, overrides: Sequence[Override]) -> None:
        self._overrides = tuple(overrides)

    def reconfigure(self, specs: Sequence[WorkloadSpec], alarms_budget: float | None = None) -> None:
        """Takes other workloads between two cycles; those that stay keep all that was learned of them."""
        self.history.reconfigure(specs)
        self._budget = self._budget if alarms_budget is None else alarms_budget
        self._vigil.spend(self._budget)
        self._watch.spend(self._budget)

    def take_model(self, forecasters: Make, measured: Starts | None = None) -> None:
        """Another chain from the next cycle on; `measured` is where rows begin that get its new model."""
        self._foresight.take(forecasters, measured)

    # --- stored ---

    def dump(self) -> Mapping[str, Rows]:
        """All that a restart needs besides the history."""
        return {
            **self._foresight.dump(),
            **self._vigil.dump(),
            **self._watch.dump(),
            **self._gathering.dump(),
            **self._deciding.dump(),
        }

    def restore(self, states: Mapping[str, Rows]) -> None:
        """Takes what `dump` gave, before the first cycle. Raises ValueError or KeyError where it does not fit."""
        for text in self._foresight.restore(states):
            self._notices.append(Reason(ReasonCode.CALIBRATING, text))
        try:
            self._vigil.restore(states)
            self._watch.restore(states)
            self._gathering.restore(states)
        except InputError as error:
            raise ValueError(str(error)) from error
        self._deciding.restore(states)


def _teller(one: Decided) -> Told:
    return lambda: (decision.record(one.inputs, one.before), to_json(one.decision))
