"""The simulated cluster of the demo: one traffic, two futures, and the scrapes of the second.

Both futures see the same load and the same luck of pods; in the first the HPAs are alone, in the second `minReplicas`
is what the actuator wrote. They part at the demo's begin; before it, both are the plain HPA's.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np

from forecaster.domain import FloatArray, IntArray
from forecaster.scaling.simulate import Simulation, Ticks, Totals
from serving.demo.services import CATALOG, NAMES, SERVICES
from serving.demo.source import DemoSource, HpaNow, PodStart, Tape
from serving.demo.traffic import DAY, HOUR, START, TICK, Traffic

PRELUDE = 6 * HOUR  # both futures are simulated before the begin, so that there is something to see at once
PAST_STARTS = 40  # pods of each service that kube-state-metrics remembers
SHOWN = 360  # points of a series, one a minute
TICKS_PER_POINT = 4
_CATALOG = NAMES.index(CATALOG)
BLOCK = 240  # ticks of traffic that are made at a time


@dataclass(slots=True, eq=False)
class Future:
    """One way it goes on."""

    simulation: Simulation
    before: Totals  # at the begin of the demo
    last: Ticks  # of the newest tick

    def since_start(self) -> dict[str, FloatArray]:
        """Sums since the demo's begin, (service,) each."""
        now, before = self.simulation.totals, self.before
        names = ("replica_hours", "seconds_above_capacity", "offered", "unmet", "dropped", "scale_events")
        return {name: np.asarray(getattr(now, name) - getattr(before, name), dtype=np.float64) for name in names}


@dataclass(slots=True)
class Point:
    """A minute of all services, (service,) each, for the page."""

    time: int
    load: FloatArray  # mean of the minute
    ready: tuple[IntArray, IntArray]  # the fewest in the minute; HPA alone, with our floor
    replicas: tuple[IntArray, IntArray]  # at its end
    floor: IntArray  # minReplicas in force at its end, of the second future


@dataclass(slots=True, eq=False)
class World:
    """Advances by one HPA sync at a time. One thread."""

    traffic: Traffic
    now: int
    alone: Future
    helped: Future
    source: DemoSource
    points: deque[Point] = field(default_factory=lambda: deque(maxlen=SHOWN))
    _minute: list[tuple[FloatArray, IntArray, IntArray]] = field(default_factory=list)
    _block_at: int = -1
    _block: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))
    _scraped: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))
    _memory: FloatArray = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def at_start(cls, traffic: Traffic, history_days: int) -> World:
        """At START: with a past as it would have been scraped, and six hours of both futures behind it."""
        seed = traffic.seed
        times = np.arange(START - history_days * DAY, START, TICK, dtype=np.int64)
        load, scraped = traffic.load(times), traffic.scraped(times)
        since = len(times) - PRELUDE // TICK
        simulation = Simulation([one.simulated for one in SERVICES], load[:, since], seed=seed, compiled=False)
        lived = simulation.run(load[:, since:], None, TICK, trace=True)
        assert lived is not None
        # Nobody simulated the cluster of the weeks before: all that was asked for was served.
        served = np.hstack([load[:, :since], lived.served / TICK])
        pods = np.full(len(times), lived.ready[_CATALOG, 0])
        pods[since:] = lived.ready[_CATALOG]
        tape = Tape(int(times[0]), np.vstack([served * scraped, traffic.memory_per_pod(times) * pods]))
        alone = Future(simulation, simulation.totals, _column(lived, -1))
        helped = Future(copy.deepcopy(simulation), alone.before, alone.last)  # the same luck from here on, too
        hpas = {one.name: HpaNow(one.min_replicas, one.max_replicas, 0, 0, math.nan) for one in SERVICES}
        world = cls(traffic, START, alone, helped, DemoSource(tape, hpas, _past_starts(seed)))
        own = np.array([one.min_replicas for one in SERVICES], dtype=np.int64)
        for place in range(lived.ready.shape[1]):
            last = _column(lived, place)
            world._show(int(times[since + place]) + TICK, load[:, since + place], (last, last), own)
        world._tell(own, scraped[:, -1])
        return world

    def advance(self, floors: Mapping[str, int]) -> None:
        """15 s: both futures take the load, the second under `floors`; then it is scraped."""
        load, scraped, memory = self._traffic()
        low = np.array([floors[name] for name in NAMES], dtype=np.int64)
        self.alone.last = self.alone.simulation.step(load)
        self.helped.last = self.helped.simulation.step(load, low)
        self.now += TICK
        # What is served shows, not what is asked for; a target that does not answer takes its share with it.
        served = self.helped.last.served[:, 0] / TICK * scraped
        self.source.tape.append(np.append(served, memory * self.helped.last.ready[_CATALOG, 0]))
        self._tell(low, scraped)
        self._show(self.now, load, (self.alone.last, self.helped.last), low)

    def replicas(self) -> dict[str, int]:
        """That the HPAs of the second future have."""
        return {name: one.replicas for name, one in self.source.hpas.items()}

    def _traffic(self) -> tuple[FloatArray, FloatArray, float]:
        """(offered load, share of targets that answer, bytes of a catalog pod) of the tick that begins now."""
        place = (self.now - self._block_at) // TICK
        if self._block_at < 0 or place >= BLOCK:
            times = self.now + TICK * np.arange(BLOCK, dtype=np.int64)
            self._block, self._scraped = self.traffic.load(times), self.traffic.scraped(times)
            self._memory, self._block_at, place = self.traffic.memory_per_pod(times), self.now, 0
        return self._block[:, place], self._scraped[:, place], float(self._memory[place])

    def _tell(self, low: IntArray, scraped: FloatArray) -> None:
        """What kube-state-metrics says now, of the second future."""
        last = self.helped.last
        for row, name in enumerate(NAMES):
            one, ready = self.source.hpas[name], int(last.ready[row, 0])
            one.min_replicas, one.replicas, one.ready = int(low[row]), int(last.replicas[row, 0]), ready
            one.series = float(np.ceil(ready * scraped[row]))

    def _show(self, time: int, load: FloatArray, last: tuple[Ticks, Ticks], low: IntArray) -> None:
        """A tick that ended at `time`, for the page."""
        self._minute.append((load, last[0].ready[:, 0], last[1].ready[:, 0]))
        if len(self._minute) < TICKS_PER_POINT:
            return
        loads, alone, helped = (np.array(column) for column in zip(*self._minute, strict=True))
        ready = alone.min(axis=0), helped.min(axis=0)
        replicas = last[0].replicas[:, 0], last[1].replicas[:, 0]
        self.points.append(Point(time, loads.mean(axis=0), ready, replicas, low))
        self._minute = []


def _column(ticks: Ticks, place: int) -> Ticks:
    """One tick of many."""
    return Ticks(*(getattr(ticks, one.name)[:, place, None] for one in fields(Ticks)))


def _past_starts(seed: int) -> list[PodStart]:
    found = []
    generator = np.random.default_rng([seed, 1])
    for one in SERVICES:
        for number, seconds in enumerate(one.simulated.startup.draw(generator, PAST_STARTS).tolist()):
            created = START - 6 * HOUR * (number + 1)
            found.append(PodStart(one.name, created, created + seconds))
    return found
