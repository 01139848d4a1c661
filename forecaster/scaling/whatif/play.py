"""Plays policies over a trial: the simulator, day by day, with the sums of each day. Knows no forecaster."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster.cores import side_by_side
from forecaster.domain import FloatArray, IntArray
from forecaster.scaling.cluster import Service
from forecaster.scaling.hpa import SYNC_SECONDS
from forecaster.scaling.simulate import Simulation, Ticks
from forecaster.scaling.whatif import rivals
from forecaster.scaling.whatif.trial import DAY, Trial

_AT_ONCE = 24  # policies of one simulation: memory
_SUMS = ("above", "replica_hours", "offered", "unmet", "events", "reversals")
A_DAY = int(DAY // SYNC_SECONDS)  # ticks


@dataclass(frozen=True, slots=True, eq=False)
class Played:
    """Sums of each day, (policy, day) each; the last day may be shorter."""

    seconds: FloatArray  # (day,) that the day has
    above: FloatArray  # seconds with load above what the ready replicas carry
    replica_hours: FloatArray
    offered: FloatArray  # load x seconds
    unmet: FloatArray
    events: FloatArray
    reversals: FloatArray

    def only(self, policies: Sequence[int]) -> Played:
        """Some of the policies."""
        return Played(self.seconds, *(getattr(self, name)[list(policies)] for name in _SUMS))

    def and_(self, other: Played) -> Played:
        """These and the other ones, over the same days."""
        both = ((getattr(self, name), getattr(other, name)) for name in _SUMS)
        return Played(self.seconds, *(np.concatenate(pair) for pair in both))

    def of(self, policy: int) -> Figures:
        """One policy over all days."""
        return Figures(
            time_above_capacity=float(self.above[policy].sum() / self.seconds.sum()),
            replica_hours=float(self.replica_hours[policy].sum()),
            unmet_load=float(self.unmet[policy].sum() / max(self.offered[policy].sum(), 1e-300)),
            scale_events=int(self.events[policy].sum()),
            reversals=int(self.reversals[policy].sum()),
        )

    def upt(self) -> FloatArray:
        """(policy,) share of time above capacity."""
        return np.asarray(self.above.sum(axis=1) / self.seconds.sum())

    def cost(self) -> FloatArray:
        """(policy,) replica-hours."""
        return np.asarray(self.replica_hours.sum(axis=1))


@dataclass(frozen=True, slots=True)
class Figures:
    """What one policy did in a part; shares are of time and of load."""

    time_above_capacity: float
    replica_hours: float
    unmet_load: float
    scale_events: int
    reversals: int


def play(trial: Trial, services: Sequence[Service], floors: Sequence[IntArray | None], part: str | slice) -> Played:
    """Each service under its floors (tick of the whole trial,), over the `training` or `test` part, or some ticks.

    At the begin of a part the replicas are those that its first load asks for: each part stands alone.
    """
    return play_load(trial.load, services, floors, _ticks(trial, part))


def play_load(load: FloatArray, services: Sequence[Service], floors: Sequence[IntArray | None], ticks: slice) -> Played:
    """`play` for any load (tick,)."""
    load = load[ticks]
    days = [slice(begin, min(begin + A_DAY, len(load))) for begin in range(0, len(load), A_DAY)]
    sums = np.zeros((6, len(services), len(days)))
    size = min(_AT_ONCE, max(-(-len(services) // 2), 1))  # in halves: two are played side by side

    def one(first: int) -> None:
        some = range(first, min(first + size, len(services)))
        taken = [None if floors[i] is None else np.asarray(floors[i])[ticks] for i in some]
        sums[:, some.start : some.stop] = _some([services[i] for i in some], load, taken, days)

    side_by_side(one, range(0, len(services), size))
    seconds = np.array([(day.stop - day.start) * SYNC_SECONDS for day in days])
    return Played(seconds, *sums)


def _ticks(trial: Trial, part: str | slice) -> slice:
    if isinstance(part, slice):
        return part
    return slice(0, trial.cut_tick) if part == "training" else slice(trial.cut_tick, len(trial.load))


def _some(
    services: Sequence[Service], load: FloatArray, floors: Sequence[IntArray | None], days: Sequence[slice]
) -> FloatArray:
    nobody = np.zeros(len(load), dtype=np.int64)
    given = np.stack([nobody if one is None else one for one in floors])
    simulation = Simulation(services, np.full(len(services), load[0]), first_floors=given[:, 0])
    out = np.zeros((6, len(services), len(days)))
    before = np.zeros((6, len(services)))
    for column, day in enumerate(days):
        shared = np.broadcast_to(load[day], (len(services), day.stop - day.start))
        simulation.run(shared, given[:, day], SYNC_SECONDS)
        totals = simulation.totals
        now = np.array(
            [
                totals.seconds_above_capacity,
                totals.replica_hours,
                totals.offered,
                totals.unmet,
                totals.scale_events,
                totals.reversals,
            ]
        )
        out[:, :, column] = now - before
        before = now
    return out


def trace(trial: Trial, service: Service, floors: IntArray | None, part: str = "test") -> Ticks:
    """One policy tick by tick."""
    ticks = _ticks(trial, part)
    load = trial.load[None, ticks]
    given = None if floors is None else floors[None, ticks]
    first = None if given is None else given[:, 0]
    simulation = Simulation([service], load[:, 0], first_floors=first)
    done = simulation.run(load, given, SYNC_SECONDS, trace=True)
    assert done is not None
    return done


def oracle_played(trial: Trial, part: str) -> Played:
    """The oracle's sums; it is no HPA: its replicas are what it asks for, and they are always enough."""
    ticks = _ticks(trial, part)
    load, count = trial.load[ticks], rivals.oracle(trial)[ticks]
    ready = ready_of(count, trial.start_up)
    change = np.diff(count, prepend=count[:1])
    events = change != 0
    turned = _reversals(change)
    over = np.maximum(load - ready * trial.capacity, 0.0)
    per_day = np.arange(0, len(load), A_DAY)

    def summed(values: NDArray[Any]) -> FloatArray:
        return np.asarray(np.add.reduceat(values.astype(np.float64), per_day))[None, :]

    return Played(
        summed(np.full(len(load), SYNC_SECONDS))[0],
        summed((over > 1e-9 * trial.capacity) * SYNC_SECONDS),
        summed(count * SYNC_SECONDS / 3600.0),
        summed(load * SYNC_SECONDS),
        summed(over * SYNC_SECONDS),
        summed(events),
        summed(turned),
    )


def ready_of(count: IntArray, start_up: int) -> IntArray:
    """(tick,) replicas that are ready, where the newest go first and each takes `start_up` seconds."""
    ticks = math.ceil(start_up / SYNC_SECONDS)
    padded = np.concatenate((np.full(ticks, count[0]), count))
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, ticks + 1).min(axis=1))


def _reversals(change: IntArray) -> IntArray:
    """(tick,) 1 where a change goes against the one before it, within ten minutes."""
    out = np.zeros(len(change), dtype=np.int64)
    at, sign = -math.inf, 0
    for tick in np.flatnonzero(change).tolist():
        now, direction = tick * SYNC_SECONDS, 1 if change[tick] > 0 else -1
        out[tick] = sign * direction < 0 and now - at <= 600.0
        at, sign = now, direction
    return out
