"""From a forecast to a floor: one workload, one moment, pure. The order of rules is DESIGN 6, word for word.

Everything the decision needs is in `DecisionInput`, all it remembers is in `DecisionState`, so a stored record replays
bit-equal. Knows no array, clock, network or cluster; anomalies never reach it, save a fault of the data itself.
What the design leaves open is decided in docs/decisions/0003-decision-order.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from forecaster.domain import Candidate, HpaFacts, Mode, Override, Recommendation, ScaleSpec
from forecaster.errors import InputError
from forecaster.reasons import Reason, ReasonCode
from forecaster.rows import Rows
from forecaster.scaling import raised_target
from forecaster.scaling.capacity import replicas_for, usable_capacity
from forecaster.scaling.record import from_json, to_json
from forecaster.scaling.risk import patience
from forecaster.scaling.schedule import IDLE, ScheduleState

STATE_VERSION = 1  # of DecisionState, its rows and its record

MINUTE = 60.0
NEW_PEAK_RATIO = 1.5
DEAD_BAND = 2
DEAD_BAND_RATIO = 0.1
LEAST_VALIDITY = timedelta(minutes=5)
# Samples are missing, partial or contradict themselves: no evidence that fewer replicas suffice.
UNSURE = frozenset(
    {
        ReasonCode.NO_DATA,
        ReasonCode.STALE_DATA,
        ReasonCode.PARTIAL_DATA,
        ReasonCode.QUERY_ERROR,
        ReasonCode.UNAUTHORISED,
        ReasonCode.SERIES_GONE,
        ReasonCode.TOO_MANY_SERIES,
        ReasonCode.DATA_FAULT,
    }
)
_CAUTION = (Mode.OBSERVE, Mode.RECOMMEND, Mode.APPLY)
_WANTED_KEPT = 24  # entries of the hold's memory; more are merged, towards the higher floor
_FLOORS_KEPT = 16  # changes of the floor within the last minute


# --- what goes in and what comes out ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DecisionInput:
    """All that one decision rests on."""

    now: datetime  # aware UTC
    workload: str
    spec: ScaleSpec
    facts: HpaFacts | None = None  # None: nothing is known of the HPA
    # The minReplicas that is the user's, as the actuator keeps it. None: `facts.min_replicas` is the user's, which is
    # wrong as soon as we hold the field, for then that is our own floor and the floor would never come down.
    users_own_min: int | None = None
    mode: Mode = Mode.RECOMMEND  # the effective one
    peak: float | None = None  # quantile of the window's maximum, calibrated, at `level`; None: no forecast
    level: float | None = None  # the issued level
    no_forecast: Reason | None = None  # why `peak` is None
    newest_load: float = math.nan
    capacity: float | None = None  # load at which one replica is full
    capacity_reason: Reason | None = None  # why `capacity` is None
    capacity_note: str = ""  # what a learned one rests on, in words
    target_ratio: float = 0.7  # the HPA's target as share of capacity
    lead_time: timedelta = timedelta(seconds=180)  # control lag included
    lead_time_assumed: bool = False
    overrides: tuple[Override, ...] = ()  # of this workload and of "*"; judged by `now` here
    schedule: ScheduleState = IDLE  # the windows active at `now`
    saturated: bool = False
    data_fault: str | None = None  # what is wrong with the data, in words
    most_needed: int | None = None  # replicas at full capacity for the highest load of 14 days; None: not known
    data_through: datetime | None = None
    reasons: tuple[Reason, ...] = ()  # from reading
    model_version: str = "none"
    hpa_fault: str | None = None  # why the HPA cannot be scaled by a floor (two HPAs on one target, …), in words


@dataclass(frozen=True, slots=True)
class DecisionState:
    """What a decision remembers of the ones before. Times are Unix seconds; NaN: never."""

    at: float = math.nan  # of the last decision
    floor: int | None = None  # last issued
    sure_at: float = math.nan  # data was last complete and sound
    forecast_at: float = math.nan  # a forecast last gave a number
    wanted: tuple[tuple[float, int], ...] = ()  # (time, wanted floor): maxima of the hold's window, falling
    floors: tuple[tuple[float, int], ...] = ()  # (time, floor from then on): as far back as one minute ago
    calm_since: float = math.nan  # since when nothing has spoken against a raised target


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas one workload needs, and every number that led there."""

    workload: str
    namespace: str
    hpa: str
    hpa_uid: str | None
    made_at: datetime
    floor: int | None  # None: no floor of ours; the user's own value stands
    desired_replicas: int | None  # None: nothing is known
    reactive: int | None
    users_own: int | None  # the user's own minimum; None: not known
    most: int | None  # highest floor allowed
    valid_for: timedelta
    data_through: datetime | None
    model_version: str
    mode: Mode
    candidates: tuple[Candidate, ...]
    bound_by: str  # the rule that had the last word
    reasons: tuple[Reason, ...]
    raised_target: int | None = None  # per cent of the CPU request; None: the user's own target stands

    def to_recommendation(self) -> Recommendation | None:
        """What is published; None in `observe`, where the floor only feeds the risk dial."""
        if self.mode is Mode.OBSERVE:
            return None
        return Recommendation(
            workload=self.workload,
            namespace=self.namespace,
            hpa=self.hpa,
            hpa_uid=self.hpa_uid,
            floor=self.floor,
            desired_replicas=self.desired_replicas,
            reactive=self.reactive,
            made_at=self.made_at,
            valid_for=self.valid_for,
            data_through=self.data_through,
            model_version=self.model_version,
            mode=self.mode,
            candidates=self.candidates,
            bound_by=self.bound_by,
            reasons=self.reasons,
            raised_target=self.raised_target,
        )


# --- the decision ----------------------------------------------------------------------------------------------------


def decide(inputs: DecisionInput, state: DecisionState) -> tuple[Decision, DecisionState]:
    """The floor to recommend now, and what to remember.

    Never raises for bad numbers: a NaN, an infinity or a negative value is "not known", and says so.
    """
    spec = inputs.spec
    now = inputs.now.timestamp()
    valid_for = validity(spec, inputs.lead_time)
    validity_s = valid_for.total_seconds()
    state = _resumed(state, now, validity_s)
    reasons: list[Reason] = list(inputs.reasons)

    # what is known of the data
    faulty = inputs.data_fault is not None
    if inputs.data_fault is not None:
        reasons.append(Reason(ReasonCode.DATA_FAULT, inputs.data_fault))
    unsure = faulty or not math.isfinite(inputs.newest_load) or inputs.newest_load < 0
    for reason in inputs.reasons:
        unsure = unsure or reason.code in UNSURE
        faulty = faulty or reason.code is ReasonCode.DATA_FAULT
    sure_at = state.sure_at if unsure else now
    trusted = now - sure_at < validity_s  # False for NaN

    # the candidates
    capacity = inputs.capacity if inputs.capacity is not None and usable_capacity(inputs.capacity) else None
    proactive, reactive = _from_load(inputs, capacity, reasons)
    if faulty:  # numbers that rest on a load which contradicts itself: a changed unit asks for 100 times the replicas
        proactive = reactive = None
    if not trusted:
        proactive = None
    forecast_at = state.forecast_at if proactive is None else now
    pinned_min, pinned_max, paused, held = _overrides(inputs)
    scheduled = inputs.schedule.min_replicas
    candidates = [
        Candidate("proactive", proactive, _detail(inputs, capacity)),
        Candidate("scheduled", scheduled, "; ".join(inputs.schedule.details)),
        Candidate("pinned", pinned_min),
        Candidate("reactive", reactive),
    ]
    if inputs.saturated:
        reasons.append(Reason(ReasonCode.SATURATED))
    if inputs.lead_time_assumed:
        reasons.append(Reason(ReasonCode.LEAD_TIME_UNKNOWN, f"{inputs.lead_time.total_seconds():.0f} s is assumed"))

    users_own, most, fault = _limits(inputs)
    floor: int | None = None
    bound_by = "none"
    wanted_log: tuple[tuple[float, int], ...] = ()
    floors: tuple[tuple[float, int], ...] = ()
    if fault is not None:
        reasons.append(fault)
        bound_by = fault.code.value
    elif paused is not None:
        reasons.append(Reason(ReasonCode.PAUSED, f"until {paused.ends_at.isoformat()}"))
        bound_by = "paused"
    else:
        assert users_own is not None
        assert most is not None
        rules = _Rules(inputs, state, now, users_own, most)
        if held is not None:
            reasons.append(Reason(ReasonCode.HELD, f"until {held.ends_at.isoformat()}"))
            rules.want(users_own if state.floor is None else state.floor, "held")
        else:
            rules.want(_without_new_peak(inputs, proactive, reasons), "proactive")
            if inputs.saturated and trusted:
                # Every replica is full, so the load we see is a lower bound of what is asked for, and so is what it
                # needs at the HPA's target. A floor that creeps up below that is worse than none: the pods that it
                # adds one by one are not ready yet, and the HPA counts them as idle.
                rules.want(_without_new_peak(inputs, reactive, reasons), "saturated")
            rules.want(scheduled, "scheduled")
        rules.want(pinned_min, "pinned")
        stands = False  # the floor is kept on old knowledge
        if held is None and (unsure or proactive is None):
            kept_since = sure_at if unsure else forecast_at
            stands = state.floor is not None and now - kept_since < validity_s
            kept = stands and rules.keep(state.floor, "missing_data" if unsure else "no_forecast")
            if kept or (unsure and trusted and rules.bound_by in ("proactive", "saturated")):
                # what rests on old knowledge must not outlive that knowledge by being issued again
                valid_for = timedelta(seconds=validity_s - (now - kept_since))
            elif rules.wanted is None and unsure:
                if sure_at == sure_at:
                    reasons.append(Reason(ReasonCode.EXPIRED, f"no sound data for {now - sure_at:.0f} s"))
                bound_by = "expired"
            elif rules.wanted is None and state.floor is not None:
                rules.release()
        if inputs.saturated and state.floor is not None and rules.wanted is not None:
            rules.want(max(state.floor, rules.wanted), "saturated" if rules.wanted < state.floor else rules.bound_by)
        if rules.wanted is not None:
            wanted = rules.wanted
            rules.hold(stands=stands, ended=proactive is None and held is None and not stands)
            rules.dead_band()
            rules.step()
            rules.clamp()
            rules.cap(inputs.schedule.max_replicas, pinned_min, pinned_max)
            if rules.bound_by in ("hold", "dead_band") and not any(r.code is ReasonCode.HELD for r in reasons):
                reasons.append(Reason(ReasonCode.HELD, f"{rules.floor} replicas, {wanted} wanted"))
            if wanted > most:
                reasons.append(Reason(ReasonCode.MAX_REPLICAS_REACHED, f"{wanted} wanted, {most} allowed"))
            bound_by = rules.bound_by
            floor = None if rules.released and rules.floor <= users_own else rules.floor
        wanted_log = rules.wanted_log
        if floor is not None:
            floors = rules.floors_with(floor)

    desired = floor if reactive is None else reactive if floor is None else max(floor, reactive)
    issued = _unique(reasons)
    moment = raised_target.Moment(floor, proactive, inputs.newest_load, capacity, issued)
    calm_since = math.nan
    if raised_target.calm(moment, inputs.facts):
        calm_since = state.calm_since if state.calm_since <= now else now
    decision = Decision(
        workload=inputs.workload,
        namespace=spec.namespace,
        hpa=spec.hpa,
        hpa_uid=None if inputs.facts is None else inputs.facts.uid,
        made_at=inputs.now,
        floor=floor,
        desired_replicas=desired,
        reactive=reactive,
        users_own=users_own,
        most=most,
        valid_for=valid_for,
        data_through=inputs.data_through,
        model_version=inputs.model_version,
        mode=inputs.mode,
        candidates=tuple(candidates),
        bound_by=bound_by,
        reasons=issued,
        raised_target=raised_target.wanted(spec, inputs.facts)
        if now - calm_since >= spec.hold.total_seconds()
        else None,
    )
    return decision, DecisionState(now, floor, sure_at, forecast_at, wanted_log, floors, calm_since)


def validity(spec: ScaleSpec, lead_time: timedelta) -> timedelta:
    """How long a recommendation counts: as configured, else the longer of 5 minutes and twice the lead time."""
    return spec.valid_for if spec.valid_for is not None else max(LEAST_VALIDITY, 2 * lead_time)


class _Rules:
    """The floor on its way through the rules, and which of them bound it last. Lives for one decision only."""

    __slots__ = (
        "_asked",
        "_base",
        "_now",
        "_patience",
        "_spec",
        "_state",
        "bound_by",
        "floor",
        "most",
        "released",
        "users_own",
        "wanted",
        "wanted_log",
    )

    def __init__(self, inputs: DecisionInput, state: DecisionState, now: float, users_own: int, most: int) -> None:
        self._spec, self._state, self._now = inputs.spec, state, now
        self._patience = 1.0 if inputs.level is None else patience(inputs.level)
        self.users_own, self.most = users_own, most
        self.wanted: int | None = None
        self._asked: int | None = None  # the part of it that somebody asks for now
        self.floor = users_own
        self.bound_by = "none"
        self.released = False
        self.wanted_log = state.wanted
        # Where no floor of ours has been: what stands in the HPA, which may be an older floor of ours.
        stands = None if inputs.facts is None else inputs.facts.min_replicas
        self._base = users_own if stands is None else max(users_own, stands)

    def want(self, replicas: int | None, name: str) -> None:
        """A candidate; the highest counts, and of equals the one that outranks (named later)."""
        if replicas is not None and (self.wanted is None or replicas >= self.wanted):
            self.wanted, self._asked, self.bound_by = replicas, replicas, name

    def keep(self, replicas: int | None, name: str) -> bool:
        """Not below `replicas`, which nobody asks for anew. True if that is what counts now."""
        if replicas is None or (self.wanted is not None and self.wanted >= replicas):
            return False
        self.wanted, self.bound_by = replicas, name
        return True

    def release(self) -> None:
        """Nobody wants a floor any more: walk down to the user's own value."""
        self.wanted, self.bound_by, self.released = self.users_own, "released", True

    def hold(self, *, stands: bool, ended: bool) -> None:
        """Downwards only what every decision of the hold's window has wanted.

        While the floor `stands` on old knowledge the hold's clock stands still. Once the forecast has `ended` nothing
        is held: what it wanted has expired, and schedules and pins end when they say.
        """
        assert self.wanted is not None
        self.floor = self.wanted
        asked = () if self._asked is None else ((self._now, self._asked),)
        if ended:
            self.wanted_log = asked
            return
        log = self._state.wanted
        if stands:
            elapsed = self._now - self._state.at
            log = tuple((at + elapsed, wanted) for at, wanted in log)
        since = self._now - self._patience * self._spec.hold.total_seconds()
        lowest = -1 if self._asked is None else self._asked
        kept = [entry for entry in log if entry[0] > since and entry[1] > lowest]
        kept.extend(asked)
        while len(kept) > _WANTED_KEPT:  # the higher want lives on until the time of the lower one: never too low
            kept[1:3] = [(kept[2][0], kept[1][1])]
        self.wanted_log = tuple(kept)
        before = self._state.floor
        if before is not None and kept and self.wanted < before and kept[0][1] > self.wanted:
            # an old want above the floor in force was cut by a step or a clamp: holding must not raise
            self._bind(min(kept[0][1], before), "hold")

    def dead_band(self) -> None:
        """A small step down is not worth an event, except the last one to the user's own value."""
        before = self._state.floor
        if before is None or self.floor <= self.users_own or self.floor >= before:
            return
        if before - self.floor < self._patience * max(DEAD_BAND, DEAD_BAND_RATIO * before):
            self._bind(before, "dead_band")

    def step(self) -> None:
        """At most maxStepUp above the floor one minute ago, at most maxStepDown below the highest floor since then."""
        ago, highest = self._minute_ago()
        bounds = self._spec.bounds
        up = ago + max(1, math.floor(round(ago * bounds.max_step_up_ratio, 6)))
        down = highest - max(1, math.floor(round(highest * bounds.max_step_down_ratio, 6)))
        before = self._state.floor
        self._bind(min(self.floor, up if before is None else max(up, before)), "step_up")  # never a way down
        self._bind(max(self.floor, down), "step_down")

    def clamp(self) -> None:
        """Within the user's own minimum and the lower of the bounds' and the HPA's maximum."""
        self._bind(max(self.floor, self.users_own), "users_own")
        self._bind(min(self.floor, self.most), "maximum")

    def cap(self, scheduled_max: int | None, pinned_min: int | None, pinned_max: int | None) -> None:
        """Maxima of people cap our floor, not the HPA; never below the user's own minimum, which stands anyway."""
        if scheduled_max is not None:  # a pin outranks a schedule
            cap = scheduled_max if pinned_min is None else max(scheduled_max, pinned_min)
            self._bind(min(self.floor, max(cap, self.users_own)), "scheduled_maximum")
        if pinned_max is not None:
            self._bind(min(self.floor, max(pinned_max, self.users_own)), "pinned_maximum")

    def floors_with(self, floor: int) -> tuple[tuple[float, int], ...]:
        """The memory of the step limit with `floor` from now on; changes only, back to what stood a minute ago."""
        floors = self._state.floors or ((-math.inf, self._base),)
        if floors[-1][1] != floor:
            floors = (*floors, (self._now, floor))
        minute_ago = self._now - MINUTE
        first = 0
        while first + 1 < len(floors) and floors[first + 1][0] <= minute_ago:
            first += 1
        return floors[max(first, len(floors) - _FLOORS_KEPT) :]

    def _minute_ago(self) -> tuple[int, int]:
        floors = self._state.floors
        if not floors:
            return self._base, self._base
        minute_ago = self._now - MINUTE
        first = 0
        while first + 1 < len(floors) and floors[first + 1][0] <= minute_ago:
            first += 1
        return floors[first][1], max(floor for _, floor in floors[first:])

    def _bind(self, floor: int, name: str) -> None:
        if floor != self.floor:
            self.floor, self.bound_by = floor, name


def _resumed(state: DecisionState, now: float, validity_s: float) -> DecisionState:
    """The state as far as it still counts at `now`: after a gap, or when the clock jumped back."""
    gap = now - state.at
    if 0 <= gap <= MINUTE or gap != gap:
        return state
    if gap > validity_s:  # what was issued last has expired: whoever acted on it has walked back
        return DecisionState(sure_at=min(state.sure_at, now), forecast_at=min(state.forecast_at, now))
    # Time in which nothing was decided is no evidence: the hold's clock stood still, and it never runs backwards.
    stood = gap - MINUTE if gap > 0 else gap
    return replace(
        state,
        at=now if gap < 0 else state.at,
        sure_at=min(state.sure_at, now),
        forecast_at=min(state.forecast_at, now),
        wanted=tuple((at + stood, wanted) for at, wanted in state.wanted),
        floors=state.floors if gap > 0 else tuple((at + stood, floor) for at, floor in state.floors),
        calm_since=state.calm_since + stood,
    )


def _from_load(inputs: DecisionInput, capacity: float | None, reasons: list[Reason]) -> tuple[int | None, int | None]:
    """(proactive, reactive), None each where it cannot be known; the reasons why are added."""
    if capacity is None:
        reasons.append(inputs.capacity_reason or Reason(ReasonCode.CAPACITY_UNKNOWN))
    peak = inputs.peak
    if peak is None:
        reasons.append(inputs.no_forecast or Reason(ReasonCode.MODEL_UNAVAILABLE, "no forecast was given"))
    elif not (math.isfinite(peak) and peak >= 0):
        reasons.append(Reason(ReasonCode.MODEL_UNAVAILABLE, f"the forecast is {peak}"))
    if capacity is None:
        return None, None
    proactive = replicas_for(peak, capacity) if peak is not None else None
    return proactive, replicas_for(inputs.newest_load, capacity * inputs.target_ratio)


def _detail(inputs: DecisionInput, capacity: float | None) -> str:
    if inputs.peak is None or inputs.level is None or capacity is None:
        return ""
    return f"{inputs.level:.4g} quantile of the window's maximum {inputs.peak:.6g} / {capacity:.6g} per replica"


def _without_new_peak(inputs: DecisionInput, proactive: int | None, reasons: list[Reason]) -> int | None:
    """The forecast's word within 1.5 x the 14-day maximum need; people may ask for more, a forecast may not."""
    if proactive is None or inputs.most_needed is None or inputs.spec.allow_new_peak:
        return proactive
    limit = max(1, math.ceil(round(NEW_PEAK_RATIO * inputs.most_needed, 6)))
    if proactive <= limit:
        return proactive
    reasons.append(
        Reason(
            ReasonCode.MAX_REPLICAS_REACHED,
            f"the forecast asks for {proactive}, 14 days needed at most {inputs.most_needed}: allowNewPeak is off",
        )
    )
    return limit


def _overrides(inputs: DecisionInput) -> tuple[int | None, int | None, Override | None, Override | None]:
    """(pinned minimum, pinned maximum, pause, hold) in force: highest minimum, lowest maximum, latest end."""
    low: int | None = None
    high: int | None = None
    paused: Override | None = None
    held: Override | None = None
    for override in inputs.overrides:
        if not override.starts_at <= inputs.now < override.ends_at or override.workload not in (inputs.workload, "*"):
            continue
        if override.kind == "pin":
            if override.min_replicas is not None:
                low = override.min_replicas if low is None else max(low, override.min_replicas)
            if override.max_replicas is not None:
                high = override.max_replicas if high is None else min(high, override.max_replicas)
        elif override.kind == "pause":
            paused = override if paused is None or override.ends_at > paused.ends_at else paused
        elif override.kind == "hold":
            held = override if held is None or override.ends_at > held.ends_at else held
    return low, high, paused, held


def _limits(inputs: DecisionInput) -> tuple[int | None, int | None, Reason | None]:
    """(user's own minimum, highest floor allowed, why there can be no floor)."""
    bounds, facts = inputs.spec.bounds, inputs.facts
    own = inputs.users_own_min
    if own is None and facts is not None and bounds.min_replicas is None:
        own = facts.min_replicas
    if bounds.min_replicas is not None:
        own = bounds.min_replicas if own is None else max(own, bounds.min_replicas)
    of_hpa = None if facts is None else facts.max_replicas
    most = of_hpa if bounds.max_replicas is None else bounds.max_replicas
    if of_hpa is not None and most is not None:
        most = min(most, of_hpa)
    if inputs.hpa_fault is not None:
        return own, most, Reason(ReasonCode.HPA_INVALID, inputs.hpa_fault)
    if most is None:
        what = f"no maximum is known of {inputs.spec.namespace}/{inputs.spec.hpa}"
        return own, None, Reason(ReasonCode.HPA_NOT_FOUND, what)
    own = 1 if own is None else own  # the default of the API
    if own > most:
        return own, most, Reason(ReasonCode.HPA_INVALID, f"the minimum {own} is above the maximum {most}")
    return own, most, None


def _unique(reasons: list[Reason]) -> tuple[Reason, ...]:
    """In order, each code once, the first that has a detail."""
    if len(reasons) < 2:
        return tuple(reasons)
    chosen: dict[ReasonCode, Reason] = {}
    for reason in reasons:
        known = chosen.get(reason.code)
        if known is None or (not known.detail and reason.detail):
            chosen[reason.code] = reason
    return tuple(chosen.values())


# --- several workloads, several voices -------------------------------------------------------------------------------


def effective_mode(*modes: Mode | None) -> Mode:
    """The most cautious of what configuration, annotation and command line say; None says nothing."""
    said = [mode for mode in modes if mode is not None]
    return min(said, key=_CAUTION.index) if said else Mode.RECOMMEND


def merge_for_hpa(
    decisions: Sequence[Decision], before: int | None = None, max_step_down_ratio: float = 0.2
) -> Decision:
    """One decision for the HPA that several workloads scale: the maximum of each number, the most cautious mode.

    `before` is the merged floor of a minute ago: when the workload that asked for most falls silent, the others' floor
    is far below, and the fall keeps to `max_step_down_ratio` a minute like any other.
    Raises ValueError for no decision, or for those of two HPAs.
    """
    if not decisions:
        raise ValueError("no decision to merge")
    first = decisions[0]
    if any((d.namespace, d.hpa) != (first.namespace, first.hpa) for d in decisions):
        raise ValueError("decisions for different HPAs")
    if len(decisions) == 1 and before is None:
        return first
    top = max(decisions, key=lambda d: (-1 if d.floor is None else d.floor, d.desired_replicas or 0))
    floor, bound_by = top.floor, top.bound_by
    if floor is not None and before is not None:
        least = before - max(1, math.floor(round(max_step_down_ratio * before, 6)))
        if floor < least:
            floor, bound_by = least if top.most is None else min(least, top.most), "step_down"
    reactive = _highest(d.reactive for d in decisions)
    if len(decisions) == 1:  # the others fell silent, or could not be decided
        return replace(
            first, floor=floor, desired_replicas=_highest((floor, reactive)), bound_by=bound_by, raised_target=None
        )
    through = [d.data_through for d in decisions if d.data_through is not None]
    return replace(
        top,
        workload=", ".join(d.workload for d in decisions),
        floor=floor,
        reactive=reactive,
        desired_replicas=_highest((floor, reactive)),
        data_through=min(through) if len(through) == len(decisions) else None,
        mode=effective_mode(*(d.mode for d in decisions)),
        candidates=tuple(
            replace(candidate, name=f"{d.workload}: {candidate.name}") for d in decisions for candidate in d.candidates
        ),
        bound_by=bound_by,
        reasons=_unique([reason for d in decisions for reason in d.reasons]),
        raised_target=_lowest(d.raised_target for d in decisions),
    )


def _lowest(values: Any) -> int | None:
    """None where one of them is: all must agree that a target may be raised."""
    found = list(values)
    return None if None in found else min(found)


def _highest(values: Any) -> int | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None


# --- stored and restored ---------------------------------------------------------------------------------------------


def record(inputs: DecisionInput, before: DecisionState) -> dict[str, Any]:
    """What recomputes the decision bit by bit, fit for JSON: its inputs and the state before it."""
    return {"stateVersion": STATE_VERSION, "inputs": to_json(inputs), "before": to_json(before)}


def replay(stored: Mapping[str, Any]) -> Decision:
    """The decision of a record, computed anew. Raises InputError where the record is of another version or damaged."""
    if stored.get("stateVersion") != STATE_VERSION:
        raise InputError(f"the record is of version {stored.get('stateVersion')!r}, this release reads {STATE_VERSION}")
    if "inputs" not in stored or "before" not in stored:
        raise InputError("the record lacks its inputs or the state before")
    return decide(from_json(DecisionInput, stored["inputs"]), from_json(DecisionState, stored["before"]))[0]


def states_to_rows(states: Mapping[str, DecisionState]) -> Rows:
    """Arrays with one row per key; -1 stands for no floor, NaN for no entry."""
    n = len(states)
    arrays = {name: np.repeat(row, n, axis=0) for name, row in BLANK.items()}
    for i, state in enumerate(states.values()):
        arrays["at"][i] = state.at
        arrays["floor"][i] = -1 if state.floor is None else state.floor
        arrays["sure_at"][i] = state.sure_at
        arrays["forecast_at"][i] = state.forecast_at
        arrays["calm_since"][i] = state.calm_since
        for name, entries in (("wanted", state.wanted), ("floors", state.floors)):
            for j, entry in enumerate(entries):
                arrays[name][i, j] = entry
    return Rows(tuple(states), arrays)


def rows_to_states(rows: Rows) -> dict[str, DecisionState]:
    """The states of `states_to_rows`. Raises ValueError where an array is missing or misshapen."""
    if "calm_since" not in rows.arrays:  # a release before raised targets
        rows = Rows(rows.keys, {**rows.arrays, "calm_since": np.full(len(rows.keys), math.nan)})
    for name, row in BLANK.items():
        if name not in rows.arrays or rows.arrays[name].shape[1:] != row.shape[1:]:
            raise ValueError(f"the rows hold no sound {name!r}")
    lists = {name: rows.arrays[name].tolist() for name in BLANK}
    return {
        key: DecisionState(
            at=lists["at"][i],
            floor=None if lists["floor"][i] < 0 else lists["floor"][i],
            sure_at=lists["sure_at"][i],
            forecast_at=lists["forecast_at"][i],
            wanted=_entries(lists["wanted"][i]),
            floors=_entries(lists["floors"][i]),
            calm_since=lists["calm_since"][i],
        )
        for i, key in enumerate(rows.keys)
    }


def _entries(pairs: list[list[float]]) -> tuple[tuple[float, int], ...]:
    return tuple((at, int(value)) for at, value in pairs if at == at)


BLANK = {
    "at": np.array([math.nan]),
    "floor": np.array([-1], dtype=np.int64),
    "sure_at": np.array([math.nan]),
    "forecast_at": np.array([math.nan]),
    "calm_since": np.array([math.nan]),
    "wanted": np.full((1, _WANTED_KEPT, 2), math.nan),
    "floors": np.full((1, _FLOORS_KEPT, 2), math.nan),
}
