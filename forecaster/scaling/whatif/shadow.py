"""The receipt of what a running service really said: floors of its log over the same load, beside the replay's promise.

The log holds a decision where floor or reasons changed, else one every few minutes. What it shows of each tick is one
floor, or nothing: the service was down, or what it said last had expired; then the user's HPA was alone. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecaster.domain import BoolArray, FloatArray, IntArray, ScaleSpec
from forecaster.errors import InputError
from forecaster.scaling.capacity import MOST_REPLICAS
from forecaster.scaling.hpa import SYNC_SECONDS
from forecaster.scaling.whatif import floors
from forecaster.scaling.whatif.hours import tick_times
from forecaster.scaling.whatif.peaks import LEVELS
from forecaster.scaling.whatif.play import Figures, play, ready_of
from forecaster.scaling.whatif.settings import highest_load
from forecaster.scaling.whatif.trial import DAY, Trial

LEAST_SECONDS = DAY  # of log: a daily pattern must have been there once
_LATE = 60.0  # seconds that a decision may come after its time: a long cycle
USER, PROMISED, RECORDED = "user_hpa", "promised", "recorded"


@dataclass(frozen=True, slots=True)
class Issued:
    """One decision of the log."""

    at: float  # Unix seconds
    floor: int | None  # None: the user's own minimum
    valid_seconds: float
    renewed: bool  # it rests on data and a forecast of its moment: what came after and said the same was not stored


@dataclass(frozen=True, slots=True)
class ShadowRow:
    """One policy over the span of the log."""

    policy: str
    words: str
    figures: Figures
    dial: float | None  # share of time in which the floors alone would not have carried the load; None: has none


@dataclass(frozen=True, slots=True)
class Shadow:
    """Log and promise of one service at one start-up time, over the same ticks."""

    series: str
    start_up: int
    begin: int  # Unix seconds
    end: int
    covered: float  # share of the span in which a decision of the log stood
    asked: float  # the dial
    rows: tuple[ShadowRow, ...]

    def row(self, policy: str) -> ShadowRow:
        return next(one for one in self.rows if one.policy == policy)

    @property
    def time_difference(self) -> float:
        """Share of time above capacity, log less promise."""
        return self.row(RECORDED).figures.time_above_capacity - self.row(PROMISED).figures.time_above_capacity

    @property
    def cost_difference(self) -> float:
        """Replica-hours, log over promise less 1."""
        return self.row(RECORDED).figures.replica_hours / self.row(PROMISED).figures.replica_hours - 1.0


def shadow_of(trial: Trial, peaks: FloatArray, log: Sequence[Issued], scale: ScaleSpec, every: float) -> Shadow:
    """`peaks` (tick, level) as for a receipt; `log` ascending, at least one entry each `every` seconds while it runs.

    The promise is the replay of what is configured: dial, hold and step limits on the user's own HPA; nothing is
    tuned. Raises InputError: the log is too short, or not of the trial's time.
    """
    times = tick_times(trial)
    floor, stood = standing(log, times, every, trial.hpa.min_replicas)
    places = np.flatnonzero(stood)
    seconds = len(places) * SYNC_SECONDS
    if seconds < LEAST_SECONDS:
        raise InputError(
            f"{trial.name}: log_too_short: decisions of {seconds / 3600:.1f} h stand in the store for the time of the "
            f"load, {LEAST_SECONDS / 3600:.0f} h are needed: let `serve` run on, or name its store in the configuration"
        )
    span = slice(int(places[0]), len(times))
    rules = rules_of(trial, scale)
    promised = _promised(trial, peaks, scale, rules)
    recorded = np.minimum(np.maximum(floor, rules.users_own), rules.most)
    judged = _judged(stood, trial.start_up)
    service = trial.service()
    played = play(trial, [service] * 3, [None, promised, recorded], span)
    dialled = f"dial {100 * scale.risk:g} %, hold {scale.hold.total_seconds():.0f} s"
    words = ("the user's HPA alone", f"replay: {dialled}", f"log: {dialled}")
    dials = (None, _missed(trial, promised, judged), _missed(trial, recorded, judged))
    rows = zip((USER, PROMISED, RECORDED), words, dials, strict=True)
    return Shadow(
        series=trial.name,
        start_up=trial.start_up,
        begin=int(times[span.start]),
        end=int(times[-1] + SYNC_SECONDS),
        covered=float(stood[span].mean()),
        asked=scale.risk,
        rows=tuple(ShadowRow(name, said, played.of(i), dial) for i, (name, said, dial) in enumerate(rows)),
    )


def standing(log: Sequence[Issued], times: IntArray, every: float, users_own: int) -> tuple[IntArray, BoolArray]:
    """(floor, whether a decision stood), (tick,) each, for ticks that begin at `times`.

    A decision stands until the next one, or until it expires. Where the next one is stored in time, the service was
    alive between them and said the same anew, so that nothing expired; unless it only kept what it had said before.
    """
    floor, stood = np.full(len(times), users_own, dtype=np.int64), np.zeros(len(times), dtype=np.bool_)
    if not log:
        return floor, stood
    at = np.array([one.at for one in log])
    following = np.append(at[1:], math.inf)
    until = at + np.array([one.valid_seconds for one in log])
    alive = np.array([one.renewed for one in log]) & (following - at <= every + _LATE)
    until = np.where(alive, np.maximum(until, following), until)
    said = np.array([users_own if one.floor is None else one.floor for one in log], dtype=np.int64)
    place = np.searchsorted(at, times, side="right") - 1
    stood = (place >= 0) & (times < until[np.maximum(place, 0)])
    return np.where(stood, said[np.maximum(place, 0)], floor), stood


def rules_of(trial: Trial, scale: ScaleSpec) -> floors.FloorRules:
    """What of the configuration shapes the floors of a trial."""
    bounds = scale.bounds
    own, most = trial.hpa.min_replicas, trial.hpa.max_replicas
    return floors.FloorRules(
        own if bounds.min_replicas is None else min(max(own, bounds.min_replicas), most),
        most if bounds.max_replicas is None else max(min(most, bounds.max_replicas), own),
        scale.hold.total_seconds(),
        bounds.max_step_up_ratio,
        bounds.max_step_down_ratio,
    )


def _promised(trial: Trial, peaks: FloatArray, scale: ScaleSpec, rules: floors.FloorRules) -> IntArray:
    limit = floors.most_needed(highest_load(trial), trial.capacity)
    if scale.allow_new_peak:
        limit = np.full(len(limit), MOST_REPLICAS, dtype=np.int64)
    made, _ = floors.dialled(
        peaks,
        LEVELS,
        trial.load,
        limit,
        rules,
        capacity=trial.capacity,
        lead_seconds=float(trial.start_up),
        asked=scale.risk,
    )
    return made


def _judged(stood: BoolArray, start_up: int) -> BoolArray:
    """(tick,) where a decision stood during the whole start-up before: a gap is nothing that the dial answers for."""
    return ready_of(stood.astype(np.int64), start_up).astype(np.bool_)


def _missed(trial: Trial, given: IntArray, judged: BoolArray) -> float:
    ready = ready_of(given, trial.start_up)
    missed = trial.load > trial.capacity * ready * (1 + 1e-9)
    return float(missed[judged].mean()) if judged.any() else math.nan


# --- told ------------------------------------------------------------------------------------------------------------


def sentence(one: Shadow) -> str:
    """How far promise and reality differ."""
    was, promised = one.row(RECORDED), one.row(PROMISED)
    uncovered = f", for {1 - one.covered:.1%} of the span the log is silent and the HPA was alone" * (one.covered < 1)
    return (
        f"{one.series}: what was said came to {100 * was.figures.time_above_capacity:.3f} % above capacity where "
        f"the replay promises {100 * promised.figures.time_above_capacity:.3f} % ({100 * one.time_difference:+.3f} "
        f"points), and to {was.figures.replica_hours:.1f} replica-hours where it promises "
        f"{promised.figures.replica_hours:.1f} ({100 * one.cost_difference:+.1f} %){uncovered}."
    )


def as_text(one: Shadow) -> str:
    days = (one.end - one.begin) / DAY
    lines = [
        f"{one.series}, start-up {one.start_up} s: the log of the last {days:.1f} days",
        f"  {'policy':<18} {'replica-h':>10} {'above cap.':>10} {'floor alone':>11} {'events':>7}  what",
    ]
    for row in one.rows:
        f = row.figures
        lines.append(
            f"  {row.policy:<18} {f.replica_hours:>10.1f} {100 * f.time_above_capacity:>9.3f}% "
            f"{dial_text(row.dial):>11} {f.scale_events:>7}  {row.words}"
        )
    return "\n".join([*lines, f"  {sentence(one)}"])


def dial_text(dial: float | None) -> str:
    return "" if dial is None else "n/a" if math.isnan(dial) else f"{100 * dial:.3f}%"


def as_dict(one: Shadow) -> dict[str, Any]:
    """Fit for JSON: null is "not known"."""
    return {
        "series": one.series,
        "startupSeconds": one.start_up,
        "begin": one.begin,
        "end": one.end,
        "covered": one.covered,
        "asked": one.asked,
        "rows": [
            {
                "policy": row.policy,
                "setting": row.words,
                "replicaHours": row.figures.replica_hours,
                "timeAboveCapacity": row.figures.time_above_capacity,
                "unmetLoad": row.figures.unmet_load,
                "scaleEvents": row.figures.scale_events,
                "reversals": row.figures.reversals,
                "floorAlone": row.dial if row.dial is not None and math.isfinite(row.dial) else None,
            }
            for row in one.rows
        ],
        "timeAboveCapacityDifference": one.time_difference,
        "replicaHoursDifference": one.cost_difference,
        "sentence": sentence(one),
    }
