"""Never worse than the HPA: what becomes of load and cost when the forecaster fails in the test part.

A floor at the default dial, hold and step limits stands on the user's own HPA, as in production. Each fault begins at
one moment of the test part and stays; what came before is sound. What defends is what defends a live service: the
choice by measured skill with persistence behind it, the limit of new peaks, the dial, step limits, the end of a
validity and the walk back. The model that ships fails alone, with profile and persistence behind it, or together with
the profile. Pure; forecasts come from outside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np

from forecaster import blend, skill
from forecaster.domain import BoolArray, FloatArray, Forecast, IntArray, ScaleSpec
from forecaster.foresight import PROVEN, REFERENCE
from forecaster.scaling import decision
from forecaster.scaling.hpa import SYNC_SECONDS
from forecaster.scaling.simulate import Simulation
from forecaster.scaling.whatif import floors, peaks
from forecaster.scaling.whatif.floors import TICKS_A_MINUTE
from forecaster.scaling.whatif.peaks import LEVELS, Said
from forecaster.scaling.whatif.settings import highest_load
from forecaster.scaling.whatif.shadow import rules_of
from forecaster.scaling.whatif.trial import DAY, Trial

NONE, DEAD = "none", "dead"
WRONG = ("nan", "frozen", "x10", "x0", "late")  # the same load, another word
MODEL = {f"model_{how}": how for how in WRONG}  # of the model that ships
BOTH = {f"both_{how}": how for how in WRONG}  # of the model and the profile: persistence alone is left
LOADS = ("regime_up", "regime_down", "incident")  # another load: forecasts are made anew on it
KINDS = (NONE, DEAD, *MODEL, *BOTH, *LOADS)
ONSET = 0.25  # of the test part
LATE_SECONDS = 3600
DEAD_SECONDS = 2 * 3600  # of one death; then the service comes back
_BETWEEN_DEATHS = 31 * 3600  # so that each hour of the day gets its turn
REGIMES = {"regime_up": 2.0, "regime_down": 0.5}
_INCIDENT_DAYS, _INCIDENT_HOURS, _INCIDENT_RATIO = 7, (9, 13), 3.0
MOST_TIME, MOST_COST, MOST_EXTRA = 0.001, 0.05, 0.5  # share of time, share of replica-hours, minutes for each death
_NAMES = (blend.NAME, *blend.PEAKS, REFERENCE)
CHAIN = skill.Chain(_NAMES, _NAMES.index(REFERENCE), 0, _NAMES.index(PROVEN))  # the live one, less seasonal naives
_SCORED = [LEVELS.index(level) for level in skill.LEVELS]
_HORIZONS = np.array([1], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One fault on one series, from its onset to the end of the test part, beside the HPA alone."""

    kind: str
    seconds: float
    above: float  # seconds above capacity, ours
    above_hpa: float
    replica_hours: float  # outside of the validity and the walk back after each onset
    replica_hours_hpa: float
    deaths: int = 0
    extra_minutes: float = 0.0  # above capacity more than the HPA, in all deaths together

    @property
    def time(self) -> float:
        """Share of time above capacity, more than the HPA alone."""
        return (self.above - self.above_hpa) / self.seconds

    @property
    def cost(self) -> float:
        return self.replica_hours / self.replica_hours_hpa - 1.0


def onset(trial: Trial) -> int:
    """Step of the trial, counted from the begin of training, at which a fault begins."""
    return trial.cut - trial.first + round(ONSET * (trial.end - trial.cut))


def changed(trial: Trial, kind: str) -> Trial:
    """The trial under another load: the level changes for good at the onset, or incidents fill the week before it."""
    begin = trial.first + onset(trial)
    ratio = np.ones(len(trial.values))
    if kind in REGIMES:
        ratio[begin:] = REGIMES[kind]
    else:
        hour = trial.times % DAY / 3600
        low, high = _INCIDENT_HOURS
        week = np.arange(len(ratio)) >= begin - _INCIDENT_DAYS * DAY // trial.step
        ratio[week & (hour > low) & (hour <= high)] = _INCIDENT_RATIO
        ratio[begin:] = 1.0
    ticks = np.repeat(ratio[trial.first : trial.end], trial.per_step)
    return replace(trial, values=trial.values * ratio, load=trial.load * ticks)


def broken(said: Said, how: str, begin: int, step: int) -> Said:
    """What a forecaster says that fails from step `begin` on; one asked now and then says it when it is asked."""
    if how in ("x10", "x0", "nan"):
        factor = {"x10": 10.0, "x0": 0.0, "nan": math.nan}[how]
        medians, tops = said.medians.copy(), said.peaks.copy()
        medians[begin:] *= factor
        tops[begin:] *= factor
        return Said(medians, tops)
    steps = np.arange(len(said.peaks))
    asked = peaks.asked_at(said)
    known = np.maximum(np.minimum(steps, begin) if how == "frozen" else steps - LATE_SECONDS // step, 0)
    places = np.where((steps >= begin) & (asked == steps), np.maximum(asked[known], 0), steps)
    return Said(said.medians[places], said.peaks[places])


def chain_of(profile: Said, network: Said, persistence: Said, every: int) -> tuple[Said, ...]:
    """What the forecasters of CHAIN say, in its order. `network` was asked at each `every`-th step."""
    mixture = peaks.averaged(profile, network, every)
    return mixture, peaks.held(profile, network, every), profile, persistence


# --- the choice by skill ---------------------------------------------------------------------------------------------


def gated(trials: Sequence[Trial], given: Sequence[Sequence[Said]], column: int) -> list[Said]:
    """Each row's forecast as the live choice by skill would have issued it, step by step; all of one step.

    `given`: (row, forecaster of CHAIN). `column`: of their windows.
    """
    step, rows = trials[0].step, len(trials)
    steps = max(one.end - one.first for one in trials)
    window = int(peaks.windows_of(step, [trials[0].start_up])[0])
    windows = np.full(rows, window, dtype=np.int64)
    came = _padded([one.values[one.first : one.end] for one in trials], steps)
    of_each = list(zip(*given, strict=True))  # (forecaster, row)
    tops = [_padded([said.peaks[:, column, _SCORED] for said in some], steps) for some in of_each]
    answered = [_padded([np.isfinite(said.peaks[:, column]).all(axis=1) for said in some], steps) for some in of_each]
    available = np.stack(answered, axis=2) == 1.0
    known = np.arange(1, steps + 1, dtype=np.int64) * step + DAY  # time of each sample
    state = skill.blank([str(row) for row in range(rows)], CHAIN)
    picks = np.zeros((rows, steps), dtype=np.int64)
    reach = window + 2 * skill.PENDING
    for place in range(steps):
        if place:
            seen = slice(max(place - reach, 0), place)
            state = skill.observe(state, CHAIN, step, known[seen], came[:, seen])
        picks[:, place], state = skill.choose(state, available[:, place], CHAIN.first, CHAIN.proven)
        now = place * step + DAY
        answers = [_answer(top[:, place], windows, step, now) for top in tops]
        state = skill.issue(state, answers, now)
    return [_picked(some, picks[row, : len(some[0].peaks)]) for row, some in enumerate(given)]


def _picked(some: Sequence[Said], pick: IntArray) -> Said:
    """Each step of the forecaster `pick` (step,); of the first where none answers."""
    medians, tops = some[0].medians.copy(), some[0].peaks.copy()
    for index, said in enumerate(some):
        taken = pick == index
        medians[taken], tops[taken] = said.medians[taken], said.peaks[taken]
    return Said(medians, tops)


def _padded(parts: Sequence[FloatArray], steps: int) -> FloatArray:
    out = np.full((len(parts), steps, *parts[0].shape[1:]), np.nan)
    for row, part in enumerate(parts):
        out[row, : len(part)] = part
    return out


def _answer(peak: FloatArray, windows: IntArray, step: int, now: int) -> Forecast:
    rows = len(peak)
    return Forecast(
        origin=datetime.fromtimestamp(now, UTC),
        step=timedelta(seconds=step),
        horizons=_HORIZONS,
        levels=skill.LEVELS,
        values=np.zeros((rows, len(skill.LEVELS), 1)),
        peak=peak,
        windows=windows,
        model=("",) * rows,
        missing=(None,) * rows,
    )


# --- floors ----------------------------------------------------------------------------------------------------------


def floors_under(trial: Trial, said: Said, column: int) -> tuple[IntArray, FloatArray]:
    """(floors, levels of the dial), (tick,) each, at the default dial, hold and step limits."""
    scale = ScaleSpec("-", trial.name)
    return floors.dialled(
        peaks.on_ticks(trial, said, column),
        LEVELS,
        trial.load,
        floors.most_needed(highest_load(trial), trial.capacity),
        rules_of(trial, scale),
        capacity=trial.capacity,
        lead_seconds=float(trial.start_up),
        asked=scale.risk,
    )


def validity_ticks(trial: Trial) -> int:
    """How long the last floor counts."""
    seconds = decision.validity(ScaleSpec("-", trial.name), timedelta(seconds=trial.start_up)).total_seconds()
    return math.ceil(seconds / SYNC_SECONDS)


def walk_back(floor: int, own: int, valid: int, ticks: int) -> IntArray:
    """(tick,) minReplicas after the last word: it counts for `valid` ticks, then walks back, a step a minute."""
    out = np.full(ticks, floor, dtype=np.int64)
    ratio = ScaleSpec("-", "-").bounds.max_step_down_ratio
    for begin in range(valid, ticks, TICKS_A_MINUTE):
        floor = max(own, floor - max(1, math.floor(floor * ratio)))
        out[begin:] = floor
    return out


def deaths(trial: Trial) -> list[int]:
    """Ticks at which the service dies, each DEAD_SECONDS long."""
    begin, every = onset(trial) * trial.per_step, int(_BETWEEN_DEATHS // SYNC_SECONDS)
    return list(range(begin, max(len(trial.load) - 2 * int(DEAD_SECONDS // SYNC_SECONDS), begin + 1), every))


def dying(trial: Trial, sound: IntArray) -> IntArray:
    """(tick,) floors where the service dies and comes back, again and again.

    It comes back without memory: its floor grows from the user's own by the step limit, up to the sound one.
    """
    out, own, valid = sound.copy(), trial.hpa.min_replicas, validity_ticks(trial)
    length, ratio = int(DEAD_SECONDS // SYNC_SECONDS), ScaleSpec("-", "-").bounds.max_step_up_ratio
    for begin in deaths(trial):
        end = min(begin + length, len(out))
        out[begin:end] = walk_back(int(out[begin - 1]), own, valid - 1, end - begin)
        most = own
        for tick in range(end, len(out)):
            if (tick - end) % TICKS_A_MINUTE == 0:
                most += max(1, math.floor(most * ratio))
            if most >= sound[tick]:
                break
            out[tick] = most
    return out


# --- beside the HPA alone --------------------------------------------------------------------------------------------


def outcomes(trial: Trial, given: Sequence[tuple[str, IntArray]]) -> list[Outcome]:
    """`given`: (kind, floors (tick,)) of faults under the load of `trial`; all beside the HPA alone under it."""
    count, load = len(given) + 1, trial.load[trial.cut_tick :]
    alone = np.zeros(len(load), dtype=np.int64)
    stacked = np.stack([alone, *(one[trial.cut_tick :] for _, one in given)])
    loads = np.broadcast_to(load, (count, len(load)))
    simulation = Simulation([trial.service()] * count, loads[:, 0], first_floors=stacked[:, 0])
    done = simulation.run(loads, stacked, SYNC_SECONDS, trace=True)
    assert done is not None
    above = (loads > done.ready * trial.capacity) * SYNC_SECONDS
    hours = done.replicas * SYNC_SECONDS / 3600.0
    begin = onset(trial) * trial.per_step - trial.cut_tick
    out = []
    for row, (kind, floor) in enumerate(given, start=1):
        starts = [one - trial.cut_tick for one in deaths(trial)] if kind == DEAD else [begin]
        counted = _counted(trial, floor, starts, begin)
        dead = np.zeros(len(load), dtype=np.bool_)
        for one in starts if kind == DEAD else ():
            dead[one : one + int(DEAD_SECONDS // SYNC_SECONDS)] = True
        out.append(
            Outcome(
                kind=kind,
                seconds=float((len(load) - begin) * SYNC_SECONDS),
                above=float(above[row, begin:].sum()),
                above_hpa=float(above[0, begin:].sum()),
                replica_hours=float(hours[row, counted].sum()),
                replica_hours_hpa=float(hours[0, counted].sum()),
                deaths=len(starts) if kind == DEAD else 0,
                extra_minutes=float((above[row, dead].sum() - above[0, dead].sum()) / 60.0),
            )
        )
    return out


def _counted(trial: Trial, floor: IntArray, starts: Sequence[int], begin: int) -> BoolArray:
    """(tick of the test part,) from `begin` on, without the validity and the walk back after each onset."""
    counted = np.ones(len(floor) - trial.cut_tick, dtype=np.bool_)
    counted[:begin] = False
    own, valid = trial.hpa.min_replicas, validity_ticks(trial)
    for one in starts:
        before = int(floor[trial.cut_tick + one - 1])
        walked = walk_back(before, own, valid, len(counted) - one)
        counted[one : one + int((walked > own).sum()) + valid * (before <= own)] = False
    return counted
