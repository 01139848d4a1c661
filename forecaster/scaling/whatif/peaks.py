"""Quantiles of the window's maximum that a forecaster would have given at each tick of the past. Strictly causal.

All days of a series run side by side: row d of a context is the series as it stood d days after the first row, so
that all rows share the time of day. A forecaster keeps its parameters for a day and sees new samples at each step. That
is coarser than the service, which renews them every two hours, mixes several forecasters and calibrates each: its own
code would take hours for a fortnight. One that is slow is asked now and then, and `averaged` keeps its difference to
the other in between. Between steps `reanchor.reanchored` moves the peak with the newest tick.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from forecaster import grid, reanchor
from forecaster.domain import (
    BoolArray,
    Calendar,
    Context,
    FloatArray,
    Forecast,
    ForecastRequest,
    IntArray,
    SeriesBatch,
    SeriesKey,
)
from forecaster.past import Past
from forecaster.ports import Forecaster
from forecaster.scaling.hpa import SYNC_SECONDS
from forecaster.scaling.whatif.trial import DAY, Trial

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
_HORIZONS = np.array([1, reanchor.FAR], dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """What a forecaster said at the end of each step from the one before the training part on."""

    medians: FloatArray  # (step, 2) one step ahead, and reanchor.FAR
    peaks: FloatArray  # (step, window, level); NaN where it had nothing to say


def windows_of(step: int, start_ups: Sequence[int]) -> IntArray:
    """Steps that a decision looks ahead: start-up and one interval, counted from the end of the last whole step."""
    return np.array([math.ceil((seconds + SYNC_SECONDS) / step) for seconds in start_ups], dtype=np.int64)


def replay(
    trials: Sequence[Trial],
    forecaster: Forecaster,
    start_ups: Sequence[int],
    done: Callable[[float], None] = lambda share: None,
    every: int = 1,
) -> list[Said]:
    """What `forecaster`, a fresh one that keeps its fits for a day, said of each trial; all of one step.

    A trial's own `start_up` does not count here. Asked at each `every`-th step from midnight on; NaN in between.
    """
    step = trials[0].step
    if any(one.step != step for one in trials):
        raise ValueError("trials of several steps")
    a_day, windows = DAY // step, windows_of(step, start_ups)
    pasts = [_Days(one, a_day) for one in trials]
    keys = tuple(SeriesKey(f"{one.name}#{day}") for one, past in zip(trials, pasts, strict=True) for day in past.days)
    medians = np.full((len(keys), a_day, len(_HORIZONS)), np.nan, dtype=np.float32)
    peaks = np.full((len(keys), a_day, len(windows), len(LEVELS)), np.nan, dtype=np.float32)
    clock = int(trials[0].times[0]) // DAY * DAY
    for place in range(0, a_day, every):
        context = _together([past.at(place) for past in pasts], keys, clock + place * step, step)
        for column, window in enumerate(windows.tolist()):
            asked = ForecastRequest(_HORIZONS, LEVELS, np.full(len(keys), window, dtype=np.int64))
            answer = forecaster.forecast(context, asked)
            peaks[:, place, column] = answer.peak
            if not column:
                medians[:, place] = answer.values[:, :, LEVELS.index(0.5)]
        done((place + 1) / a_day)
    out, first = [], 0
    for one, past in zip(trials, pasts, strict=True):
        rows = slice(first, first + len(past.days))
        first += len(past.days)
        steps = one.end - one.first
        out.append(
            Said(
                medians[rows].reshape(-1, len(_HORIZONS))[past.skipped :][:steps],
                peaks[rows].reshape(-1, len(windows), len(LEVELS))[past.skipped :][:steps],
            )
        )
    return out


def averaged(one: Said, other: Said, every: int) -> Said:
    """`one`, its peaks the plain mean of both (forecaster.blend.PEAKS).

    `other` was asked at each `every`-th step: until the next one its peaks keep their difference to those of `one`.
    """
    away, counts = _away(one, other, every)
    half = 0.5 * np.where(counts, away, 0.0)
    moved = np.maximum.accumulate(one.peaks + half, axis=2)  # an old difference could make quantiles cross
    return Said(one.medians, moved.astype(np.float32))


def held(one: Said, other: Said, every: int) -> Said:
    """`other` at all steps, as `averaged` takes it, with the medians of `one`; NaN where it had nothing to say."""
    away, counts = _away(one, other, every)
    moved = np.maximum.accumulate(one.peaks + np.where(counts, away, np.nan), axis=2)
    return Said(one.medians, moved.astype(np.float32))


def _away(one: Said, other: Said, every: int) -> tuple[FloatArray, BoolArray]:
    """(peaks of `other` less those of `one` when it was last asked, (step, 1, 1) whether that is still true)."""
    away = other.peaks - one.peaks
    steps = np.arange(len(away))
    last = asked_at(other)
    counts = (last >= 0) & (steps - last < every)
    return away[np.maximum(last, 0)], counts[:, None, None]


def asked_at(said: Said) -> IntArray:
    """(step,) the newest step so far at which it answered; -1 before the first."""
    answered: BoolArray = np.asarray(np.isfinite(said.peaks).all(axis=(1, 2)))
    return np.asarray(np.maximum.accumulate(np.where(answered, np.arange(len(answered)), -1)), dtype=np.int64)


class _Days:
    """The days of one trial, each from midnight on: what was known at the same time of each of them."""

    def __init__(self, trial: Trial, a_day: int) -> None:
        origin = datetime.fromtimestamp(int(trial.times[-1]), UTC)
        values = np.asarray(trial.values, dtype=np.float32)[None, :]
        self._past = Past(SeriesBatch((SeriesKey(trial.name),), origin, timedelta(seconds=trial.step), values))
        before = trial.first - 1  # its end is the first moment of the training part
        after_midnight = int(trial.times[0] + before * trial.step) % DAY // trial.step
        self._column = before - after_midnight
        self.skipped = after_midnight
        self.days = range(-(-(trial.end - trial.first + after_midnight) // a_day))
        self._a_day, self._last = a_day, trial.end - 1

    def at(self, place: int) -> tuple[FloatArray, FloatArray]:
        """(day, time) twice, fine and coarse, `place` steps after each midnight; all NaN before the series begins."""
        columns = np.minimum(self._column + place + self._a_day * np.array(self.days, dtype=np.int64), self._last)
        return self._past.together(np.maximum(columns, -1))


def _together(each: list[tuple[FloatArray, FloatArray]], keys: tuple[SeriesKey, ...], now: int, step: int) -> Context:
    """Rows of one context, all of them at the time of day `now`; what is shorter has NaN before it."""
    coarse_step = grid.coarse_step(step)
    fine = _stacked([one for one, _ in each])
    coarse = _stacked([one for _, one in each])
    head = now // coarse_step * coarse_step
    return Context(
        fine=SeriesBatch(keys, datetime.fromtimestamp(now, UTC), timedelta(seconds=step), fine),
        coarse=SeriesBatch(keys, datetime.fromtimestamp(head, UTC), timedelta(seconds=coarse_step), coarse),
        calendar=Calendar(("UTC",) * len(keys)),
    )


def _stacked(parts: list[FloatArray]) -> FloatArray:
    """Rows of all parts, their newest values last."""
    width = max(part.shape[1] for part in parts)
    out = np.full((sum(map(len, parts)), width), np.nan, dtype=np.float32)
    first = 0
    for part in parts:
        out[first : first + len(part), width - part.shape[1] :] = part
        first += len(part)
    return out


# --- on ticks --------------------------------------------------------------------------------------------------------


def on_ticks(trial: Trial, said: Said, column: int) -> FloatArray:
    """(tick, level) quantiles of the maximum over [now, now + start-up + interval], renewed with each tick's load.

    At the begin of a tick the loads of the ticks before it are known. `column`: of the windows of `said`.
    """
    steps, per_step = trial.end - trial.first, trial.per_step
    out = np.empty((steps, per_step, len(LEVELS)), dtype=np.float32)
    load = trial.load.reshape(steps, per_step)
    tau = _memory(trial, said)
    origin = datetime.fromtimestamp(0, UTC)
    window = int(windows_of(trial.step, [trial.start_up])[0])
    base = Forecast(
        origin=origin,
        step=timedelta(seconds=trial.step),
        horizons=_HORIZONS,
        levels=LEVELS,
        values=np.repeat(said.medians[:, :, None].astype(np.float64), len(LEVELS), axis=2),
        peak=said.peaks[:, column].astype(np.float64),
        windows=np.full(steps, window, dtype=np.int64),
        model=("",) * steps,
        missing=(None,) * steps,
    )
    out[:, 0] = base.peak
    for k in range(1, per_step):
        seconds = int(k * SYNC_SECONDS)
        at = np.full(steps, seconds, dtype=np.int64)
        moved = reanchor.reanchored(base, origin + timedelta(seconds=seconds), load[:, k - 1], at, tau)
        out[:, k] = moved.peak
    return out.reshape(steps * per_step, len(LEVELS))


def _memory(trial: Trial, said: Said) -> FloatArray:
    """(step,) tau of re-anchoring, renewed after each day of the trial from the misses before it."""
    steps, came = trial.end - trial.first, trial.values[trial.first : trial.end]
    a_day = DAY // trial.step
    tau = np.full(steps, reanchor.DEFAULT_MEMORY_SECONDS)
    for begin in range(a_day, steps, a_day):
        tau[begin : begin + a_day] = memory_of(came[:begin], said.medians[:begin], trial.step)
    return tau


def memory_of(came: FloatArray, medians: FloatArray, step: int) -> float:
    """Tau of re-anchoring, from the misses of `medians` (step, 2) that the loads `came` (step,) of the same steps show.

    What was said of a step of `came` was said one step, and reanchor.FAR steps, before its time.
    """
    far = reanchor.FAR
    until = len(came) - far  # the far miss of a later one is not known yet
    near, late = came[:until] - medians[:until, 0], came[far - 1 :][:until] - medians[:until, 1]
    known = np.isfinite(near) & np.isfinite(late)
    near, late = np.where(known, near, 0.0), np.where(known, late, 0.0)
    limit = 4.0 * np.sqrt(np.mean(near**2))
    one, other = np.clip(near, -limit, limit), np.clip(late, -limit, limit)
    state = {
        "with_itself": np.array([(one * one).sum()]),
        "with_later": np.array([(one * other).sum()]),
        "pairs": np.array([float(known.sum())]),
    }
    return float(reanchor.memory_seconds(state, step, far)[0])
