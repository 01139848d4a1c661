"""The worst hours of a test part: what stood and what was needed, tick by tick, with each decision explained.

The explanation is the live decision, run again over the hours before: its own words, candidates and rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from forecaster.domain import Bounds, FloatArray, HpaFacts, IntArray, ScaleSpec
from forecaster.quantiles import at_level
from forecaster.scaling import decision
from forecaster.scaling.decision import Decision, DecisionInput, DecisionState
from forecaster.scaling.hpa import SYNC_SECONDS
from forecaster.scaling.whatif.peaks import LEVELS
from forecaster.scaling.whatif.play import trace
from forecaster.scaling.whatif.settings import Setting, highest_load, service_of
from forecaster.scaling.whatif.trial import Trial

HOURS = 3
TICKS = 240  # of an hour
_BEFORE = 6 * TICKS  # ticks after which a decision remembers nothing of where it began
_AROUND = 40  # ticks shown before and behind


@dataclass(frozen=True, slots=True)
class Explained:
    """One change of our floor."""

    at: int  # Unix seconds
    floor: int
    words: str


@dataclass(frozen=True, slots=True, eq=False)
class Hour:
    """One hour and a little around it, (tick,) each."""

    times: IntArray  # Unix seconds, begin of each tick
    needed: FloatArray  # load in full replicas
    user: IntArray  # ready under the user's HPA
    ours: IntArray  # ready under ours
    floor: IntArray | None
    user_seconds: float  # above capacity within the hour
    our_seconds: float
    decisions: tuple[Explained, ...]


def worst_hours(trial: Trial, setting: Setting, floors: IntArray | None, peaks: FloatArray) -> tuple[Hour, ...]:
    """The hours of the test part in which load was longest above what either policy had ready; worst first."""
    user = trace(trial, trial.service(), None).ready[0]
    ours = trace(trial, service_of(trial, setting), floors).ready[0]
    load = trial.load[trial.cut_tick :] / trial.capacity
    whole = len(load) // TICKS * TICKS
    short = np.stack([load > user, load > ours])[:, :whole].reshape(2, -1, TICKS).sum(axis=2) * SYNC_SECONDS
    order = np.argsort(-short.max(axis=0), kind="stable")[:HOURS]
    out = []
    for hour in order.tolist():
        if not short[:, hour].max():
            break
        begin, end = max(hour * TICKS - _AROUND, 0), min((hour + 1) * TICKS + _AROUND, len(load))
        ticks = slice(trial.cut_tick + begin, trial.cut_tick + end)
        out.append(
            Hour(
                times=tick_times(trial)[ticks],
                needed=load[begin:end],
                user=user[begin:end],
                ours=ours[begin:end],
                floor=None if floors is None else floors[ticks],
                user_seconds=float(short[0, hour]),
                our_seconds=float(short[1, hour]),
                decisions=() if floors is None else _changes(trial, setting, peaks, ticks),
            )
        )
    return tuple(out)


def tick_times(trial: Trial) -> IntArray:
    """(tick,) Unix seconds at which each tick begins."""
    begin = int(trial.times[0]) + (trial.first - 1) * trial.step
    return begin + int(SYNC_SECONDS) * np.arange(len(trial.load), dtype=np.int64)


def _changes(trial: Trial, setting: Setting, peaks: FloatArray, ticks: slice) -> tuple[Explained, ...]:
    made = decisions(trial, setting, peaks, max(ticks.start - _BEFORE, 0), ticks.stop)
    shown = made[-(ticks.stop - ticks.start) :]
    out, before = [], None
    for one in shown:
        if one.floor is not None and one.floor != before and before is not None:
            out.append(Explained(int(one.made_at.timestamp()), one.floor, words_of(one)))
        before = one.floor
    return tuple(out)


def decisions(trial: Trial, setting: Setting, peaks: FloatArray, first: int, last: int) -> list[Decision]:
    """The live decisions of the ticks from `first` to before `last`; they begin without memory."""
    spec = ScaleSpec(
        "-",
        trial.name,
        capacity_per_replica=trial.capacity,
        lead_time=timedelta(seconds=trial.start_up),
        target_ratio=setting.target / 100,
        hold=timedelta(seconds=setting.hold),
        bounds=Bounds(trial.hpa.min_replicas, trial.hpa.max_replicas),
    )
    facts = HpaFacts(min_replicas=trial.hpa.min_replicas, max_replicas=trial.hpa.max_replicas)
    state, out, times = DecisionState(), [], tick_times(trial)
    quantile = at_level(peaks[first:last], LEVELS, setting.level or 0.5)
    highest = highest_load(trial)[first:last]
    for place, tick in enumerate(range(first, last)):
        peak, most = float(quantile[place]), float(highest[place])
        inputs = DecisionInput(
            now=datetime.fromtimestamp(int(times[tick]), UTC),
            workload=trial.name,
            spec=spec,
            facts=facts,
            users_own_min=trial.hpa.min_replicas,
            peak=max(peak, 0.0) if np.isfinite(peak) else None,
            level=setting.level,
            newest_load=float(trial.load[max(tick - 1, 0)]),
            capacity=trial.capacity,
            target_ratio=setting.target / 100,
            lead_time=timedelta(seconds=trial.start_up),
            most_needed=int(np.ceil(round(most / trial.capacity, 6))) if np.isfinite(most) else None,
        )
        made, state = decision.decide(inputs, state)
        out.append(made)
    return out


def words_of(made: Decision) -> str:
    """One decision in a line."""
    wanted = next(one for one in made.candidates if one.name == "proactive")
    said = f"{wanted.replicas} wanted ({wanted.detail})" if wanted.replicas is not None else "no forecast"
    reasons = "; ".join(f"{one.code.value} {one.detail}".strip() for one in made.reasons)
    return f"{said}, bound by {made.bound_by}; the HPA alone would want {made.reactive}" + (
        f" [{reasons}]" if reasons else ""
    )
