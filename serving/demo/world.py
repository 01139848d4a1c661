"""The simulated cluster of the demo: one traffic, two futures, and the scrapes of the second.

Both futures see the same load and the same luck of pods; in the first the HPAs are alone, in the second `minReplicas`
is what the actuator wrote. They part at the demo's begin; before it, both are the plain HPA's.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

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
    def at_start(cls, seed: int, history_days: int) -> World:
        """At START: with a past as it would have been scraped, and six hours of both futures behind it."""
        traffic = Traffic(seed)
        began = START - history_days * DAY
        past = np.arange(began, START - PRELUDE, TICK, dtype=np.int64)
        load = traffic.load(past)
        # Nobody simulated the clusters of those weeks: all that was asked for was served.
        planned = np.maximum(np.ceil(load[NAMES.index(CATALOG)] / (0.7 * SERVICES[NAMES.index(CATALOG)].capacity)), 3)
        memory = traffic.memory_per_pod(past) * planned
        tape = Tape(began, np.vstack([load * traffic.scraped(past), memory]))
        first = load[:, -1]
        services = [one.simulated for one in SERVICES]
        futures = []
        for _ in range(2):  # the same seed: the same luck
            simulation = Simulation(services, first, seed=seed, compiled=False)
            futures.append(Future(simulation, simulation.totals, simulation.step(first)))
        hpas = {one.name: HpaNow(one.min_replicas, one.max_replicas, 0, 0, math.nan) for one in SERVICES}
        source = DemoSource(tape, hpas, _past_starts(seed))
        world = cls(traffic, START - PRELUDE, futures[0], futures[1], source)
        own = {one.name: one.min_replicas for one in SERVICES}
        while world.now < START:
            world.advance(own)
        for future in futures:
            future.before = future.simulation.totals
        return world

    def advance(self, floors: Mapping[str, int]) -> None:
        """15 s: both futures take the load, the second under `floors`; then it is scraped."""
        load, scraped, memory = self._traffic()
        low = np.array([floors[name] for name in NAMES], dtype=np.int64)
        self.alone.last = self.alone.simulation.step(load)
        self.helped.last = self.helped.simulation.step(load, low)
        self.now += TICK
        self._scrape(low, scraped, memory)
        self._minute.append((load, self.alone.last.ready[:, 0], self.helped.last.ready[:, 0]))
        if len(self._minute) == TICKS_PER_POINT:
            loads, alone, helped = (np.array(column) for column in zip(*self._minute, strict=True))
            replicas = self.alone.last.replicas[:, 0], self.helped.last.replicas[:, 0]
            self.points.append(
                Point(self.now, loads.mean(axis=0), (alone.min(axis=0), helped.min(axis=0)), replicas, low)
            )
            self._minute = []

    def _traffic(self) -> tuple[FloatArray, FloatArray, float]:
        """(offered load, share of targets that answer, bytes of a catalog pod) of the tick that begins now."""
        place = (self.now - self._block_at) // TICK
        if self._block_at < 0 or place >= BLOCK:
            times = self.now + TICK * np.arange(BLOCK, dtype=np.int64)
            self._block, self._scraped = self.traffic.load(times), self.traffic.scraped(times)
            self._memory, self._block_at, place = self.traffic.memory_per_pod(times), self.now, 0
        return self._block[:, place], self._scraped[:, place], float(self._memory[place])

    def _scrape(self, low: IntArray, scraped: FloatArray, memory: float) -> None:
        """What is served shows, not what is asked for; a target that does not answer takes its share with it."""
        last = self.helped.last
        served = last.served[:, 0] / TICK * scraped
        ready = last.ready[:, 0]
        self.source.tape.append(np.append(served, memory * ready[NAMES.index(CATALOG)]))
        for row, name in enumerate(NAMES):
            one = self.source.hpas[name]
            one.min_replicas, one.replicas, one.ready = int(low[row]), int(last.replicas[row, 0]), int(ready[row])
            one.series = float(np.ceil(ready[row] * scraped[row]))


def _past_starts(seed: int) -> list[PodStart]:
    found = []
    generator = np.random.default_rng([seed, 1])
    for one in SERVICES:
        for number, seconds in enumerate(one.simulated.startup.draw(generator, PAST_STARTS).tolist()):
            created = START - 6 * HOUR * (number + 1)
            found.append(PodStart(one.name, created, created + seconds))
    return found
