"""A service as the simulator sees it: its pods, its HPA, and how long a pod takes to become ready. Frozen descriptions.

Knows nothing of load or time; `simulate.py` puts many services into arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from forecaster.scaling.hpa import DOWNSCALE_STABILIZATION_SECONDS, Behavior

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Startup:
    """Seconds from the creation of a pod to its first Ready, as a distribution: its quantiles at `levels`.

    Between two levels the seconds are interpolated; below the first and above the last they stay as they are there.
    """

    levels: tuple[float, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.levels) != len(self.seconds) or not self.levels:
            raise ValueError(f"{len(self.levels)} levels for {len(self.seconds)} values")
        if not all(0.0 <= a < b <= 1.0 for a, b in zip(self.levels, self.levels[1:], strict=False)):
            raise ValueError(f"levels must rise within 0 to 1: {self.levels}")
        if not all(math.isfinite(one) and one >= 0.0 for one in self.seconds) or list(self.seconds) != sorted(
            self.seconds
        ):
            raise ValueError(f"seconds must be finite, at least 0, and not fall: {self.seconds}")

    @classmethod
    def constant(cls, seconds: float) -> Startup:
        """Every pod takes the same time."""
        return cls((0.5,), (seconds,))

    @classmethod
    def lognormal(cls, median: float, p90: float) -> Startup:
        """The log-normal distribution with these two quantiles, cut at its 0.1 % and 99.9 % quantiles."""
        if not 0.0 < median <= p90:
            raise ValueError(f"need 0 < median <= p90, got {median} and {p90}")
        sigma = math.log(p90 / median) / NormalDist().inv_cdf(0.9)
        levels = (0.001, 0.005, *(i / 100 for i in range(1, 100)), 0.995, 0.999)
        return cls(levels, tuple(median * math.exp(sigma * NormalDist().inv_cdf(level)) for level in levels))

    def draw(self, generator: np.random.Generator, count: int) -> Floats:
        """Seconds of `count` pods: (count,)."""
        return np.interp(generator.random(count), self.levels, self.seconds)


@dataclass(frozen=True, slots=True)
class Service:
    """One service with one HPA on its CPU. Load is in any unit, e.g. requests per second; capacity is in the same."""

    capacity_per_replica: float
    """Load at which one replica is full."""
    startup: Startup = field(default_factory=lambda: Startup.constant(60.0))
    pending_seconds: float = 5.0
    """Of the start-up, until the container runs: the HPA takes a Pending pod otherwise than one that is not ready."""
    target_utilization: int = 70
    """Per cent of the request, which is what a full replica uses."""
    min_replicas: int = 1
    """The user's own; a floor of the simulation raises it."""
    max_replicas: int = 100
    behavior: Behavior | None = None
    """With its defaults filled in (`hpa.with_defaults`). None: no `behavior` in the HPA."""
    tolerance: float = 0.1
    """The controller's flag, where `behavior` says nothing else."""
    downscale_stabilization_seconds: float = DOWNSCALE_STABILIZATION_SECONDS
    """The controller's flag."""
    cpu_initialization_seconds: float = 300.0
    """The controller's flag."""
    metric_delay_seconds: float = 30.0
    """Age of the newest sample; a multiple of the HPA's sync period, like the window."""
    metric_window_seconds: float = 60.0
    """A sample is the mean over so long."""
    usage_limit: float = 1.0
    """What a replica can use, as a share of its request. Above 1 its usage shows an overload; it serves no more."""
    backlog_limit_seconds: float = 0.0
    """Work that cannot be served at once waits, at most as much as one replica does in so many seconds, times
    `max_replicas`; what finds no room is dropped. 0: nothing waits."""
    initial_replicas: int | None = None
    """At the first tick, all of them ready. None: what the first load needs at the target, within the bounds."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.capacity_per_replica) and self.capacity_per_replica > 0.0):
            raise ValueError(f"capacity_per_replica must be above 0: {self.capacity_per_replica}")
        if not 0 <= self.min_replicas <= self.max_replicas or self.max_replicas < 1:
            raise ValueError(f"need 0 <= min_replicas <= max_replicas: {self.min_replicas}, {self.max_replicas}")
        if self.target_utilization < 1:
            raise ValueError(f"target_utilization is per cent, at least 1: {self.target_utilization}")
        if self.usage_limit < 1.0:
            raise ValueError(f"usage_limit must be at least 1: {self.usage_limit}")
        if self.metric_window_seconds <= 0.0 or self.metric_delay_seconds < 0.0:
            raise ValueError("a sample must cover some time, and cannot come from the future")
        if min(self.pending_seconds, self.backlog_limit_seconds, self.tolerance) < 0.0:
            raise ValueError("pending_seconds, backlog_limit_seconds and tolerance must be at least 0")

    def replicas_for(self, load: float) -> int:
        """Replicas that a load asks for at the target utilisation, within the bounds."""
        per_replica = self.capacity_per_replica * self.target_utilization / 100
        return min(max(math.ceil(round(load / per_replica, 6)), self.min_replicas, 1), self.max_replicas)
