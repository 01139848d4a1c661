"""All decisions of one cycle: gathers each workload's inputs, turns the risk dial, merges what scales one HPA.

The rules themselves are `decision.decide`; here is what they are fed with and what is remembered between cycles. Knows
arrays of rows, no Prometheus and no forecaster.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType

import numpy as np

from forecaster.cluster_facts import shared_scale_targets
from forecaster.domain import BoolArray, FloatArray, Forecast, HpaFacts, IntArray, Override, ScaleSpec, Workload
from forecaster.quantiles import at_level
from forecaster.reasons import Reason
from forecaster.rows import Rows
from forecaster.scaling import capacity, decision, risk, schedule
from forecaster.scaling.decision import Decision, DecisionInput, DecisionState
from forecaster.scaling.lead_time import lead_time_of
from forecaster.scaling.learned_capacity import Learned, from_average
from forecaster.scaling.short_history import too_short

logger = logging.getLogger(__name__)

_MERGED_KEPT = 16  # entries: when a merged floor was first issued and last, for two minutes


@dataclass(frozen=True, slots=True, eq=False)
class Scaled:
    """One workload that scales an HPA, with what is known of it in this cycle."""

    workload: Workload
    row: int
    scale: ScaleSpec
    facts: HpaFacts | None
    capacity: float | None
    capacity_reason: Reason | None
    lead_time: timedelta
    lead_time_assumed: bool
    hpa_fault: str | None
    learned: Learned | None = None  # where nobody wrote the capacity down


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What all decisions of a cycle rest on; arrays over rows."""

    now: datetime
    forecast: Forecast
    newest: FloatArray
    data_through: FloatArray  # Unix seconds; NaN: never
    most_load: FloatArray  # highest of 14 days
    known_since: FloatArray  # Unix seconds of the first sample; NaN: never
    reasons: Sequence[tuple[Reason, ...]]  # all that is said of a row, except why there is no forecast
    masked: BoolArray  # excluded from learning now
    faults: Sequence[str | None]  # what is wrong with a row's data, in words


@dataclass(frozen=True, slots=True, eq=False)
class Decided:
    """One workload's decision and what recomputes it."""

    scaled: Scaled
    inputs: DecisionInput
    before: DecisionState
    decision: Decision


@dataclass(slots=True, eq=False)
class Deciding:
    """Decision states, the risk dial, merged floors. One thread at a time."""

    interval: timedelta
    states: dict[str, DecisionState] = field(default_factory=dict)  # by workload key
    dial: Rows = field(default_factory=lambda: Rows((), {}))
    report: risk.RiskReport | None = None
    merged: dict[str, list[tuple[float, int]]] = field(default_factory=dict)  # HPA -> (time, floor) of the last minute
    averages: dict[str, tuple[tuple[float, float], Learned]] = field(default_factory=dict)  # HPA -> its own metric's

    def gather(
        self,
        workloads: Sequence[Workload],
        row_of: Mapping[str, int],
        facts: Mapping[str, HpaFacts],
        queried: Mapping[str, float],
        learned: Mapping[str, Learned] = MappingProxyType({}),
        newest: FloatArray | None = None,
    ) -> list[Scaled]:
        """The workloads that have an HPA, with capacity and lead time.

        `queried` are capacities from PromQL, `learned` those from usage, by workload; `newest` (row,) the loads, by
        which the HPA's own metric is recognised as the load: once is enough, for its value comes a minute late.
        """
        shared = shared_scale_targets(facts)
        found = []
        for workload in workloads:
            scale = workload.scale
            if scale is None:
                continue
            name = f"{scale.namespace}/{scale.hpa}"
            known = facts.get(name)
            load = math.nan if newest is None else float(newest[row_of[workload.name]])
            found_out = self._found_out(name, scale, known, learned.get(workload.name), load)
            full, why = capacity.capacity_of(
                scale,
                queried.get(workload.name),
                None if found_out is None else found_out.capacity,
                None if found_out is None else found_out.reason,
            )
            lead, assumed = lead_time_of(scale, known, self.interval)
            others = shared.get(name)
            fault = f"{', '.join(others)} scales the same target" if others else None
            found.append(
                Scaled(workload, row_of[workload.name], scale, known, full, why, lead, assumed, fault, found_out)
            )
        return found

    def _found_out(
        self, name: str, scale: ScaleSpec, facts: HpaFacts | None, from_usage: Learned | None, load: float
    ) -> Learned | None:
        """What is known of a capacity that nobody wrote down: from CPU usage, or from the HPA's own metric."""
        if scale.capacity_per_replica is not None or scale.capacity_query is not None:
            return None
        if facts is None or facts.target_average is None or (from_usage is not None and from_usage.capacity):
            return from_usage
        wanted = (facts.target_average, capacity.target_ratio_of(scale, facts))
        if name not in self.averages or self.averages[name][0] != wanted:
            made = from_average(wanted[0], facts.current_average, facts.ready_replicas, load, wanted[1])
            if made.capacity is None:
                return made
            self.averages[name] = (wanted, made)
        return self.averages[name][1]

    def window(self, scaled: Scaled) -> timedelta:
        """How far ahead its decision looks: lead time and one decision interval."""
        return scaled.lead_time + self.interval

    def saturated(self, scaled: Sequence[Scaled], newest: FloatArray) -> BoolArray:
        """(workload,) every replica is full now."""
        full = np.array([math.nan if one.capacity is None else one.capacity for one in scaled])
        ready = np.array([_ready(one.facts) for one in scaled])
        return capacity.saturated(newest[[one.row for one in scaled]], full, ready)

    def decide(
        self, scaled: Sequence[Scaled], known: Known, saturated: BoolArray, overrides: Sequence[Override]
    ) -> list[Decided]:
        """A decision for each workload, in order; one whose decision fails is left out, with a trace in the log."""
        rows = np.array([one.row for one in scaled], dtype=np.int64)
        report = self._judge(scaled, known, rows, saturated)
        peaks = at_level(known.forecast.peak[rows], known.forecast.levels, report.level)
        said_of: dict[str, list[Override]] = {}
        for override in overrides:
            said_of.setdefault(override.workload, []).append(override)
        everywhere = said_of.get("*", [])
        out: list[Decided] = []
        floors = np.full(len(scaled), np.nan)
        states: dict[str, DecisionState] = {}
        for i, one in enumerate(scaled):
            own = (*everywhere, *said_of.get(one.workload.name, ()))
            before = self.states.get(one.workload.key, DecisionState())
            try:
                inputs = _inputs(one, known, float(peaks[i]), float(report.level[i]), bool(saturated[i]), own)
                made, after = decision.decide(inputs, before)
            except Exception:  # one workload must not stop the others
                logger.exception("decision failed: workload=%s", one.workload.name)
                states[one.workload.key] = before
                continue
            states[one.workload.key] = after
            floor = made.floor if made.floor is not None else made.users_own
            floors[i] = np.nan if floor is None else floor
            out.append(Decided(one, inputs, before, made))
        self.states = states
        self.dial = risk.issue(self.dial, int(known.now.timestamp()), floors)
        return out

    def merge(self, decided: Sequence[Decided], now: datetime) -> list[Decision]:
        """One decision per HPA, in order of the first workload that scales it."""
        by_hpa: dict[str, list[Decided]] = {}
        for one in decided:
            by_hpa.setdefault(f"{one.scaled.scale.namespace}/{one.scaled.scale.hpa}", []).append(one)
        out: list[Decision] = []
        kept: dict[str, list[tuple[float, int]]] = {}
        for name, members in by_hpa.items():
            log = self.merged.get(name, [])
            if len(members) == 1 and not log:
                out.append(members[0].decision)
                continue
            at = now.timestamp()
            before = next((floor for then, floor in reversed(log) if then <= at - decision.MINUTE), None)
            if before is None and log:
                before = log[0][1]
            ratio = members[0].scaled.scale.bounds.max_step_down_ratio
            made = decision.merge_for_hpa([member.decision for member in members], before, ratio)
            out.append(made)
            if made.floor is not None and (len(members) > 1 or made.floor != members[0].decision.floor):
                recent = [entry for entry in log if entry[0] > at - 2 * decision.MINUTE and entry[0] <= at]
                if len(recent) > 1 and recent[-1][1] == recent[-2][1] == made.floor:
                    recent.pop()
                kept[name] = [*recent, (at, made.floor)][-_MERGED_KEPT:]
        self.merged = kept
        return out

    def _judge(self, scaled: Sequence[Scaled], known: Known, rows: IntArray, saturated: BoolArray) -> risk.RiskReport:
        asked = np.array([one.scale.risk for one in scaled], dtype=np.float64)
        keys = tuple(one.workload.key for one in scaled)
        if self.dial.keys != keys or not self.dial.arrays:
            self.dial = risk.start(keys, asked, self.dial, self.interval)
        seen = risk.Judged(
            now=int(known.now.timestamp()),
            load=known.newest[rows],
            capacity=np.array([math.nan if one.capacity is None else one.capacity for one in scaled]),
            saturated=saturated,
            masked=known.masked[rows],
            # the newest load stands for the interval before now: what counts are pods that were ready at its begin
            lead_seconds=np.array([self.window(one).total_seconds() for one in scaled]),
            asked=asked,
        )
        self.dial, self.report = risk.judge(self.dial, seen)
        return self.report

    # --- stored ---

    def dump(self) -> dict[str, Rows]:
        at = np.full((len(self.merged), _MERGED_KEPT), np.nan)
        floor = np.full((len(self.merged), _MERGED_KEPT), np.nan)
        for i, log in enumerate(self.merged.values()):
            for j, (then, value) in enumerate(log):
                at[i, j], floor[i, j] = then, value
        return {
            "decision": decision.states_to_rows(self.states),
            "decision_merged": Rows(tuple(self.merged), {"at": at, "floor": floor}),
            "risk": self.dial,
        }

    def restore(self, states: Mapping[str, Rows]) -> None:
        """Takes what `dump` gave, before the first cycle. Raises ValueError where it does not fit."""
        if "decision" in states:
            self.states = decision.rows_to_states(states["decision"])
        if "risk" in states:
            self.dial = states["risk"]
        if "decision_merged" in states:
            rows = states["decision_merged"]
            for key, at, floor in zip(
                rows.keys, rows.arrays["at"].tolist(), rows.arrays["floor"].tolist(), strict=True
            ):
                log = [(then, int(value)) for then, value in zip(at, floor, strict=True) if then == then]
                self.merged[key] = log


def _inputs(
    one: Scaled, known: Known, peak: float, level: float, saturated: bool, overrides: tuple[Override, ...]
) -> DecisionInput:
    row, missing = one.row, known.forecast.missing[one.row]
    if missing is None:
        missing = too_short(float(known.known_since[row]), known.now.timestamp())
    most = None
    if one.capacity is not None and math.isfinite(known.most_load[row]):
        most = capacity.replicas_for(float(known.most_load[row]), one.capacity)
    through = float(known.data_through[row])
    return DecisionInput(
        now=known.now,
        workload=one.workload.name,
        spec=one.scale,
        facts=one.facts,
        users_own_min=None if one.facts is None else one.facts.users_own,
        mode=decision.effective_mode(one.scale.mode, None if one.facts is None else one.facts.mode),
        peak=None if missing is not None else peak,
        level=level,
        no_forecast=missing,
        newest_load=float(known.newest[row]),
        capacity=one.capacity,
        capacity_reason=one.capacity_reason,
        target_ratio=target_ratio(one),
        capacity_note="" if one.learned is None else one.learned.words,
        lead_time=one.lead_time,
        lead_time_assumed=one.lead_time_assumed,
        overrides=overrides,
        schedule=schedule.active(one.scale.schedule, known.now),
        saturated=saturated,
        data_fault=known.faults[row],
        most_needed=most,
        data_through=datetime.fromtimestamp(through, known.now.tzinfo) if math.isfinite(through) else None,
        reasons=tuple(known.reasons[row]),
        model_version="none" if missing is not None else known.forecast.model[row],
        hpa_fault=one.hpa_fault,
    )


def target_ratio(one: Scaled) -> float:
    """The HPA's target as a share of capacity: its per cent are of the request, what is learned may be of the limit."""
    ratio = capacity.target_ratio_of(one.scale, one.facts)
    return ratio if one.learned is None or one.scale.target_ratio is not None else ratio * one.learned.request_ratio


def _ready(facts: HpaFacts | None) -> float:
    if facts is None or facts.ready_replicas is None:
        return math.nan
    return float(facts.ready_replicas)
