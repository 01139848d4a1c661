"""Never worse than the HPA: what our floors on the user's own HPA do while something of ours is broken.

A fault spoils what the forecasters say, the history that they learned from, or the service itself, in spans of the
test part. What answers instead is decided by the live rules: the chain's choice by skill (forecaster.skill), the
decision's rules and the risk dial (whatif.floors), validity and walking back as the actuator does. The HPA alone plays
the same load. Strictly causal, as the receipt is. Knows no model and no file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np

from forecaster import blend, skill
from forecaster.domain import FloatArray, Forecast, IntArray
from forecaster.reasons import Reason, ReasonCode
from forecaster.scaling.decision import LEAST_VALIDITY
from forecaster.scaling.hpa import SYNC_SECONDS
from forecaster.scaling.whatif import floors as rules
from forecaster.scaling.whatif import peaks
from forecaster.scaling.whatif.peaks import LEVELS, Said
from forecaster.scaling.whatif.play import sums_of
from forecaster.scaling.whatif.settings import SAFETY_RISK, Floors, Setting
from forecaster.scaling.whatif.trial import DAY, Trial

DAYS = 7  # of the test part at most
WARM_DAYS = 1  # before it, in which the choice by skill learns
MOST_TIME, MOST_COST, MOST_DEATH = 0.001, 0.05, 30.0  # a point is 0.01; share of replica-hours; seconds a death
HOLD = 300.0  # seconds
CHAIN = skill.Chain((blend.NAME, "profile", "persistence"), 2, 0, 1)

Heard = Mapping[str, Said]  # "blend", "profile", "persistence": what each said of one trial
Span = tuple[int, int]  # first step and the one behind the last, from the begin of the trial's training part


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to be broken."""

    name: str
    words: str
    every_hours: int  # from the begin of one span to that of the next
    hours: float  # that it lasts; inf: to the end of the part
    spoil: Callable[[FloatArray, FloatArray], FloatArray] | None = None  # (before, said) to what is said instead
    dies: bool = False  # the service: what was recommended last expires


def _held(before: FloatArray, said: FloatArray) -> FloatArray:
    return np.broadcast_to(before[-1], said.shape)


def _late(before: FloatArray, said: FloatArray) -> FloatArray:
    """What was said one hour earlier."""
    late = np.concatenate((before, said))
    hour = len(before)
    return late[: len(said)] if hour else said


NONE = Fault("none", "nothing is broken", 24, 12)
DEAD = Fault("dead", "the service dies for an hour, every three hours", 3, 1, dies=True)
FAULTS = (
    NONE,
    DEAD,
    Fault("frozen", "network and profile say for 12 hours what they said at its begin", 24, 12, _held),
    Fault("nan", "network and profile answer nothing for 12 hours", 24, 12, lambda before, said: said * np.nan),
    Fault("x10", "network and profile say ten times as much for 12 hours", 24, 12, lambda before, said: said * 10.0),
    Fault("x0", "network and profile say 0 for 12 hours", 24, 12, lambda before, said: said * 0.0),
    Fault("late", "network and profile say for 12 hours what they said an hour before", 24, 12, _late),
    Fault("regime_up", "the load doubles on the second day and stays", 10**6, math.inf),
    Fault("regime_down", "the load halves on the second day and stays", 10**6, math.inf),
    Fault(
        "poisoned", "three hours of each of the last three days before the test part had four times the load", 24, 12
    ),
)
_REGIMES = {"regime_up": 2.0, "regime_down": 0.5}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One trial under one fault. `bounded` is the time in which what was said before may still count."""

    series: str
    start_up: int
    fault: str
    seconds: float  # under the fault, less the bounded time
    above: float  # of them above capacity, with our floors
    above_alone: float  # … under the HPA alone
    replica_hours: float
    replica_hours_alone: float
    bounded_above: float  # seconds, in the bounded time
    bounded_above_alone: float
    spans: int
    switched: float  # share of the faulty steps in which the chain used another forecaster than the mixture


def bounded_seconds(trial: Trial) -> float:
    """How long what was said before may still be felt.

    The validity of a recommendation, the hold, eight minutes of walking down (by five sixths at 20 % a minute), and
    the stabilization of the HPA, which then follows.
    """
    return validity_seconds(trial.start_up) + HOLD + 8 * 60.0 + trial.hpa.stabilization_seconds


def validity_seconds(start_up: float) -> float:
    """DESIGN 6: max(5 min, 2 L), L with one interval of control lag."""
    return max(LEAST_VALIDITY.total_seconds(), 2.0 * (start_up + SYNC_SECONDS))


# --- what is played --------------------------------------------------------------------------------------------------


def shortened(trial: Trial, fault: Fault) -> Trial:
    """A day before the test part and the first seven of it, with the load that the fault makes of it."""
    a_day = DAY // trial.step
    first, end = max(trial.cut - WARM_DAYS * a_day, trial.first), min(trial.cut + DAYS * a_day, trial.end)
    ticks = slice((first - trial.first) * trial.per_step, (end - trial.first) * trial.per_step)
    factor = np.ones(len(trial.values))
    begin = trial.cut + a_day
    if fault.name in _REGIMES:
        factor[begin:] = _REGIMES[fault.name]
    if fault.name == "poisoned":
        hour = 3_600 // trial.step
        for day in (1, 2, 3):
            at = max(trial.cut - day * a_day, 0)
            factor[at : at + 3 * hour] = 4.0
    values = np.asarray(trial.values, dtype=np.float64) * factor
    load = trial.load[ticks] * np.repeat(factor[first:end], trial.per_step)
    return replace(trial, values=values, first=first, end=end, load=load)


def spans_of(trial: Trial, fault: Fault) -> list[Span]:
    """When the fault is there, in steps from the begin of the training part; the first from the sixth hour on."""
    begin, steps = trial.cut - trial.first, trial.end - trial.first
    hour = 3_600 / trial.step
    if math.isinf(fault.hours):
        return [(begin + DAY // trial.step, steps)]
    first = begin + round(6 * hour) if fault.name != "poisoned" else begin
    out = []
    while first + round(fault.hours * hour) <= steps:
        out.append((first, first + round(fault.hours * hour)))
        first += round(fault.every_hours * hour)
    return out


def spoilt(heard: Heard, fault: Fault, spans: Sequence[Span], step: int) -> dict[str, Said]:
    """What was heard under the fault: the mixture and the profile are hit, persistence is what is left of the chain."""
    if fault.spoil is None:
        return dict(heard)
    hour = 3_600 // step
    out = dict(heard)
    for name in (blend.NAME, "profile"):
        medians, tops = heard[name].medians.astype(np.float64), heard[name].peaks.astype(np.float64)
        for array in (medians, tops):
            whole = array.copy()
            for first, end in spans:
                array[first:end] = fault.spoil(whole[max(first - hour, 0) : first], whole[first:end])
        out[name] = Said(medians, tops)
    return out


# --- the chain -------------------------------------------------------------------------------------------------------


def chosen(trials: Sequence[Trial], heard: Sequence[Heard], column: int) -> list[tuple[Said, IntArray]]:
    """What the chain says of each trial, and the index in CHAIN of who said it (step,); -1: nobody.

    The live choice, step by step over all trials: skill of what was judged until then.
    """
    step, longest = trials[0].step, max(one.end - one.first for one in trials)
    window = int(peaks.windows_of(step, [trials[0].start_up])[0])
    rows = len(trials)
    tops = np.full((len(CHAIN.names), rows, longest, len(LEVELS)), np.nan)
    came = np.full((rows, longest), np.nan)
    for row, (trial, said) in enumerate(zip(trials, heard, strict=True)):
        for place, name in enumerate(CHAIN.names):
            tops[place, row, : trial.end - trial.first] = said[name].peaks[:, column]
        came[row, : trial.end - trial.first] = trial.values[trial.first : trial.end]
    state = skill.blank([str(row) for row in range(rows)], CHAIN)
    used = np.full((rows, longest), -1, dtype=np.int64)
    # `peaks.replay` stands one step before the first sample of the part: at column k, k samples of it are known.
    clock = step * np.arange(longest + 1, dtype=np.int64) + DAY
    back = window + 10
    for k in range(longest):
        first = max(k - back, 0)
        if k:
            state = skill.observe(state, CHAIN, step, clock[first + 1 : k + 1], came[:, first:k])
        answers = [_forecast(tops[place, :, k], step, window, name) for place, name in enumerate(CHAIN.names)]
        given = np.asarray(blend.answered(answers))
        picked, state = skill.choose(state, given, CHAIN.first, CHAIN.proven)
        state = skill.issue(state, answers, int(clock[k]))
        used[:, k] = picked
    out = []
    for row, (trial, said) in enumerate(zip(trials, heard, strict=True)):
        steps = trial.end - trial.first
        who = used[row, :steps]
        out.append((_said_by(said, who), who))
    return out


def _forecast(peak: FloatArray, step: int, window: int, name: str) -> Forecast:
    none = Reason(ReasonCode.MODEL_UNAVAILABLE, name)
    given = np.asarray(np.isfinite(peak).all(axis=1))
    missing = tuple(None if one else none for one in given.tolist())
    return Forecast(
        origin=datetime.fromtimestamp(0, UTC),
        step=timedelta(seconds=step),
        horizons=np.array([1], dtype=np.int64),
        levels=LEVELS,
        values=peak[:, None, :],
        peak=peak,
        windows=np.full(len(peak), window, dtype=np.int64),
        model=(name,) * len(peak),
        missing=missing,
    )


def _said_by(heard: Heard, who: IntArray) -> Said:
    first = heard[CHAIN.names[0]]
    medians, tops = np.full_like(first.medians, np.nan), np.full_like(first.peaks, np.nan)
    for place, name in enumerate(CHAIN.names):
        rows = who == place
        medians[rows], tops[rows] = heard[name].medians[rows], heard[name].peaks[rows]
    return Said(medians, tops)


# --- floors under a fault --------------------------------------------------------------------------------------------


def outcome(trial: Trial, said: Said, who: IntArray, column: int, fault: Fault, spans: Sequence[Span]) -> Outcome:
    """A floor on the user's own HPA, dialled at 1 %, beside that HPA alone."""
    ours = Floors(trial, peaks.on_ticks(trial, said, column))
    setting = Setting(trial.hpa.target, trial.hpa.stabilization_seconds, HOLD, 1 - SAFETY_RISK, dialled=True)
    given = ours.of(setting)
    assert given is not None
    ticks = [(first * trial.per_step, end * trial.per_step) for first, end in spans]
    if fault.dies:
        given = expired(given, ticks, ours.rules(setting), validity_seconds(trial.start_up))
    bound = round(bounded_seconds(trial) / SYNC_SECONDS)
    lag = round(trial.start_up / SYNC_SECONDS)  # what was decided under the fault is felt so much longer
    parts: list[slice] = []
    at = 0
    for first, end in ticks:
        end = min(end + lag, len(trial.load))
        middle = min(first + bound, end)
        parts += [slice(at, first), slice(first, middle), slice(middle, end)]
        at = end
    service = trial.service()
    sums = sums_of([service, service], trial.load, [given, None], [part for part in parts if part.stop > part.start])
    kept = [i for i, part in enumerate(parts) if part.stop > part.start]
    kind = np.array([i % 3 for i in kept])
    after, within = kind == 2, kind == 1
    faulty = np.concatenate([who[first:end] for first, end in spans])
    return Outcome(
        series=trial.name,
        start_up=trial.start_up,
        fault=fault.name,
        seconds=float(sum(parts[i].stop - parts[i].start for i in kept if i % 3 == 2)) * SYNC_SECONDS,
        above=float(sums["above"][0, after].sum()),
        above_alone=float(sums["above"][1, after].sum()),
        replica_hours=float(sums["replica_hours"][0, after].sum()),
        replica_hours_alone=float(sums["replica_hours"][1, after].sum()),
        bounded_above=float(sums["above"][0, within].sum()),
        bounded_above_alone=float(sums["above"][1, within].sum()),
        spans=len(spans),
        switched=float((faulty != CHAIN.first).mean()),
    )


def expired(given: IntArray, spans: Sequence[Span], shape: rules.FloorRules, validity: float) -> IntArray:
    """(tick,) the floor in force where the service is dead in `spans` of ticks.

    What was recommended last counts for `validity` seconds; then the actuator walks down, a step a minute.
    """
    out = np.asarray(given).copy()
    for first, end in spans:
        floor = int(out[max(first - 1, 0)])
        for tick in range(first, end):
            since = (tick - first) * SYNC_SECONDS - validity
            if since >= 0 and since % 60 == 0:
                floor = max(shape.users_own, floor - max(1, math.floor(floor * shape.max_step_down_ratio)))
            out[tick] = floor
    return out


# --- many series -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Total:
    """All series under one fault at one start-up time."""

    start_up: int
    fault: str
    words: str
    series: int
    time: float  # share of time above capacity with our floors, pooled
    time_alone: float
    worst_time: float  # the largest difference of a series, in share of time
    cost: float  # replica-hours over those of the HPA alone, pooled; 0.01 is 1 % more
    worst_cost: float  # … of a series
    extra_seconds: float  # above capacity beyond the HPA's in the bounded time, for each span
    switched: float

    @property
    def holds(self) -> bool:
        """Whether all bounds hold, pooled."""
        return self.time <= self.time_alone + MOST_TIME and self.cost <= MOST_COST and self.extra_seconds <= MOST_DEATH


def totals(outcomes: Sequence[Outcome]) -> list[Total]:
    """By start-up time and fault, in the order of FAULTS."""
    out = []
    for start_up in sorted({one.start_up for one in outcomes}):
        for fault in FAULTS:
            some = [one for one in outcomes if one.start_up == start_up and one.fault == fault.name]
            if not some:
                continue
            seconds = sum(one.seconds for one in some)
            spans = sum(one.spans for one in some)
            out.append(
                Total(
                    start_up,
                    fault.name,
                    fault.words,
                    len(some),
                    sum(one.above for one in some) / seconds,
                    sum(one.above_alone for one in some) / seconds,
                    max((one.above - one.above_alone) / one.seconds for one in some),
                    sum(one.replica_hours for one in some) / sum(one.replica_hours_alone for one in some) - 1,
                    max(one.replica_hours / one.replica_hours_alone - 1 for one in some),
                    sum(one.bounded_above - one.bounded_above_alone for one in some) / spans,
                    sum(one.switched for one in some) / len(some),
                )
            )
    return out
