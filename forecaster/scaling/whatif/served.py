"""The risk dial where load is seen only as it was served: in a closed loop of forecast, floors, pods and clients.

A replica serves what it can carry and no more. Of what it cannot, `RETRIED` comes again in the next tick. Forecasts,
the new-peak limit and the dial see served load alone, and the mark of saturation; the truth is judged on demand,
retries included. Two things may stand behind the floors: nothing, so that what a floor misses is lost, or the user's
HPA. All is played step by step, for a lower floor changes what every later forecast sees.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
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
from forecaster.history import FINE_COLUMNS
from forecaster.past import SPAN
from forecaster.ports import Forecaster
from forecaster.scaling.capacity import saturated
from forecaster.scaling.hpa import SYNC_SECONDS
from forecaster.scaling.simulate import Simulation
from forecaster.scaling.whatif import floors, peaks, rivals
from forecaster.scaling.whatif.peaks import LEVELS
from forecaster.scaling.whatif.settings import CALM_HOLD
from forecaster.scaling.whatif.trial import DAY, Trial

RETRIED = 0.8  # of what was not served
NOTHING, HPA = "nothing", "user_hpa"  # behind the floors
WARM_UP_DAYS = 5  # of the dial, before the test part
_PEAK_DAYS = 14  # of the new-peak limit
_MEAN_TICKS = 4  # 60 s

Came = Mapping[tuple[str, float], float]  # (behind, asked) -> share of time above capacity


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    """One loop: a trial, a dial and what is behind it."""

    trial: Trial
    asked: float
    behind: str
    midnight: int  # step of the series that ends at the midnight at or before the begin


def play_served(
    trials: Sequence[Trial],
    make: Callable[[], Forecaster],
    asked: Sequence[float],
    behind: Sequence[str] = (NOTHING, HPA),
    done: Callable[[float], None] = lambda share: None,
) -> list[Came]:
    """For each of `trials`, all of one step: the share of its test part in which floors alone were not enough.

    `make` gives a forecaster that keeps its fits; a fresh one is taken at each midnight, as in `peaks.replay`.
    """
    step = trials[0].step
    if any(one.step != step for one in trials):
        raise ValueError("trials of several steps")
    rows = [
        _Row(one, share, what, _midnight(one)) for one, share, what in itertools.product(trials, tuple(asked), behind)
    ]
    loop = _Loop(rows, step)
    a_day = DAY // step
    forecaster = make()
    for place in range(loop.first, loop.end):
        if place % a_day == 0:
            forecaster = make()
            loop.learn_memory()
        loop.step(place, forecaster)
        if place % 60 == 0:
            done((place - loop.first) / (loop.end - loop.first))
    per_trial = len(asked) * len(behind)
    came = loop.came()
    return [
        {(row.behind, row.asked): float(came[first + i]) for i, row in enumerate(rows[first : first + per_trial])}
        for first in range(0, len(rows), per_trial)
    ]


def _begin(trial: Trial) -> int:
    """First step that is played."""
    return max(trial.first, trial.cut - WARM_UP_DAYS * DAY // trial.step)


def _midnight(trial: Trial) -> int:
    before = _begin(trial) - 1
    return before - int(trial.times[0] + before * trial.step) % DAY // trial.step


class _Loop:
    """All rows side by side at the same time of day: place 0 is the end of each row's `midnight`."""

    def __init__(self, rows: Sequence[_Row], step: int) -> None:
        self._rows, self._step, self._per_step = rows, step, int(step // SYNC_SECONDS)
        self.first = max(_begin(one.trial) - 1 - one.midnight for one in rows)
        self.end = max(one.trial.end - 1 - one.midnight for one in rows)
        self._seen = _Seen(rows, step, self.first, self.end)
        count, ticks = len(rows), (self.end - self.first) * self._per_step
        self._offered, self._judged = self._loads(ticks)
        self._capacity = np.array([one.trial.capacity for one in rows])
        self._target = np.array([one.trial.hpa.target / 100 for one in rows])
        lead = np.array([one.trial.start_up for one in rows], dtype=np.float64)
        self._windows = peaks.windows_of(step, [one.trial.start_up for one in rows])
        hpas = [one.trial.hpa for one in rows]
        limits = [floors.FloorRules(one.min_replicas, one.max_replicas, CALM_HOLD) for one in hpas]
        self._dials = floors.Dials(
            self._capacity.tolist(), lead.tolist(), [one.asked for one in rows], limits, ticks, LEVELS
        )
        self._lead = np.floor(lead / SYNC_SECONDS).astype(np.int64)
        first = rivals.needed(self._offered[:, 0], self._capacity * self._target)
        self._before = np.clip(first, [one.min_replicas for one in hpas], [one.max_replicas for one in hpas])
        self._alone = np.array([one.behind == NOTHING for one in rows])
        self._behind = np.flatnonzero(~self._alone)
        self._hpas = (
            Simulation([rows[i].trial.service() for i in self._behind.tolist()], self._offered[self._behind, 0])
            if len(self._behind)
            else None
        )
        self._retried = np.zeros(count)
        self._recent = np.repeat(self._offered[:, :1], _MEAN_TICKS, axis=1)  # served, the last ticks
        self._newest, self._full = np.full(count, np.nan), np.zeros(count, dtype=np.bool_)
        self._missed = np.zeros(count)
        self._tau = np.full(count, reanchor.DEFAULT_MEMORY_SECONDS)
        self._medians: list[FloatArray] = []  # (row, 2) of each step
        self._tick = 0

    def _loads(self, ticks: int) -> tuple[FloatArray, BoolArray]:
        """(row, tick) offered load, held after the end of a row; and whether the tick is of the test part."""
        offered, judged = np.empty((len(self._rows), ticks)), np.zeros((len(self._rows), ticks), dtype=np.bool_)
        for row, one in enumerate(self._rows):
            trial = one.trial
            first = (one.midnight + self.first + 1 - trial.first) * self._per_step
            load = trial.load[first:]
            offered[row, : len(load)], offered[row, len(load) :] = load, load[-1]
            judged[row, trial.cut_tick - first : len(load)] = True
        return offered, judged

    def step(self, place: int, forecaster: Forecaster) -> None:
        """One step of all rows: a forecast at the end of `place`, then the ticks of the step after it."""
        context, limit = self._seen.context(place), self._seen.limit(place, self._capacity)
        asked = ForecastRequest(np.array([1, reanchor.FAR], dtype=np.int64), LEVELS, self._windows)
        said = forecaster.forecast(context, asked)
        self._medians.append(np.asarray(said.values[:, :, LEVELS.index(0.5)], dtype=np.float64))
        served = np.zeros(len(self._rows))
        for k in range(self._per_step):
            served += self._ticked(self._peaks(said, k), limit)
        self._seen.add(place + 1, served / self._per_step)

    def _peaks(self, said: Forecast, k: int) -> FloatArray:
        """(row, level) at the k-th tick of a step, moved by the load that the tick before it showed."""
        if not k:
            return np.asarray(said.peak, dtype=np.float64)
        seconds = int(k * SYNC_SECONDS)
        at = np.full(len(self._rows), int(said.origin.timestamp()) + seconds, dtype=np.int64)
        moved = reanchor.reanchored(said, said.origin + timedelta(seconds=seconds), self._newest, at, self._tau)
        return np.asarray(moved.peak, dtype=np.float64)

    def _ticked(self, peak: FloatArray, limit: IntArray) -> FloatArray:
        """(row,) load that is served in one tick."""
        tick = self._tick
        least = rivals.needed(np.nan_to_num(self._newest), self._capacity * self._target)
        floor = self._dials.step(tick, peak, self._newest, limit, self._full, least)
        obeyed = self._obeyed(tick)
        demand = self._offered[:, tick] + self._retried
        ready = obeyed.copy()
        served = np.minimum(demand, ready * self._capacity)
        if self._hpas is not None:
            ticks = self._hpas.step(demand[self._behind], floor[self._behind])
            ready[self._behind] = ticks.ready[:, 0]
            served[self._behind] = ticks.served[:, 0] / SYNC_SECONDS
        self._retried = RETRIED * np.maximum(demand - served, 0.0)
        self._missed += (demand > self._capacity * obeyed * (1 + 1e-9)) & self._judged[:, tick]
        self._recent[:, tick % _MEAN_TICKS] = served
        self._full = saturated(self._recent.mean(axis=1), self._capacity, ready.astype(np.float64))
        self._newest = served
        self._tick += 1
        return np.asarray(served, dtype=np.float64)

    def _obeyed(self, tick: int) -> IntArray:
        """(row,) replicas to count on: the lowest floor since the lead time began."""
        out = np.empty(len(self._rows), dtype=np.int64)
        for lead in np.unique(self._lead).tolist():
            rows = self._lead == lead
            lowest = self._dials.floors[rows, max(0, tick - lead) : tick + 1].min(axis=1)
            out[rows] = self._before[rows] if tick < lead else lowest
        return out

    def learn_memory(self) -> None:
        """Tau of re-anchoring from all misses that are known."""
        if len(self._medians) > 2 * reanchor.FAR:
            said = np.stack(self._medians, axis=1)  # (row, step, 2)
            came = self._seen.last(said.shape[1])
            for row in range(len(came)):
                self._tau[row] = peaks.memory_of(came[row], said[row], self._step)

    def came(self) -> FloatArray:
        """(row,) share of the test part above what the floors alone carry."""
        return np.asarray(self._missed / np.maximum(self._judged.sum(axis=1), 1))


class _Seen:
    """Served load on the two grids of the history; as it was read before the begin, as it was played after."""

    def __init__(self, rows: Sequence[_Row], step: int, first: int, end: int) -> None:
        self._step, self._coarse_step = step, grid.coarse_step(step)
        self._ratio = self._coarse_step // step
        self._lead = int(SPAN.total_seconds()) // step  # columns before place 0
        self._fine = np.full((len(rows), self._lead + end + 1), np.nan, dtype=np.float32)
        self._known = np.zeros(self._fine.shape, dtype=np.bool_)
        for row, one in enumerate(rows):
            values, shift = one.trial.values, self._lead - one.midnight  # column of a step
            until = min(one.midnight + first + 1, len(values))
            since = max(0, -shift)
            self._fine[row, since + shift : until + shift] = values[since:until]
            after = values[until : one.trial.end]
            self._known[row, until + shift : until + shift + len(after)] = np.isfinite(after)
        self._keys = tuple(SeriesKey(f"{one.trial.name}#{i}") for i, one in enumerate(rows))
        self._calendar = Calendar(("UTC",) * len(rows))
        self._clock = int(rows[0].trial.times[0]) // DAY * DAY + int(SPAN.total_seconds())  # of place 0
        whole = (self._lead + first) // self._ratio
        coarse = np.full((len(rows), self._fine.shape[1] // self._ratio + 1), np.nan, dtype=np.float32)
        coarse[:, 1 : whole + 1] = grid.pool_mean(self._fine[:, 1 : whole * self._ratio + 1], self._ratio)
        self._coarse = coarse
        self._newest = self._lead + first
        self._top = np.full(len(rows), np.nan)

    def add(self, place: int, served: FloatArray) -> None:
        """The mean of the step that ends at `place`; where nothing was read, nothing is seen."""
        column = self._lead + place
        self._fine[:, column] = np.where(self._known[:, column], served, np.nan)
        if column % self._ratio == 0:
            block = self._fine[:, column - self._ratio + 1 : column + 1]
            self._coarse[:, column // self._ratio] = grid.pool_mean(block, self._ratio)[:, 0]
        self._newest = column

    def context(self, place: int) -> Context:
        column, now = self._lead + place, self._clock + place * self._step
        head = column // self._ratio
        columns = max(FINE_COLUMNS * self._step, int(SPAN.total_seconds())) // self._coarse_step
        return Context(
            fine=SeriesBatch(
                self._keys,
                datetime.fromtimestamp(now, UTC),
                timedelta(seconds=self._step),
                self._fine[:, max(0, column + 1 - FINE_COLUMNS) : column + 1],
            ),
            coarse=SeriesBatch(
                self._keys,
                datetime.fromtimestamp(grid.floor_to(now, self._coarse_step), UTC),
                timedelta(seconds=self._coarse_step),
                self._coarse[:, max(0, head + 1 - columns) : head + 1],
            ),
            calendar=self._calendar,
        )

    def limit(self, place: int, capacity: FloatArray) -> IntArray:
        """(row,) the most that a forecast may ask for; the highest load of 14 days is renewed once an hour."""
        column = self._lead + place
        if place % max(3600 // self._step, 1) == 0 or not np.isfinite(self._top).any():
            width = _PEAK_DAYS * DAY // self._step
            self._top = np.fmax.reduce(self._fine[:, max(0, column + 1 - width) : column + 1], axis=1)
        self._top = np.fmax(self._top, self._fine[:, column])
        return floors.most_needed(np.asarray(self._top, dtype=np.float64), capacity)

    def last(self, steps: int) -> FloatArray:
        """(row, step) the newest samples."""
        return self._fine[:, self._newest + 1 - steps : self._newest + 1].astype(np.float64)
