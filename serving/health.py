"""What the service knows of itself: counters that the loop writes and `/metrics` and the health routes read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol


class QueryStats(Protocol):
    """What a metric source tells of its work (forecaster.prometheus.SourceStats)."""

    @property
    def queries(self) -> int: ...
    @property
    def retries(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def samples(self) -> int: ...
    @property
    def received_bytes(self) -> int: ...
    @property
    def outcomes(self) -> Mapping[str, int]: ...
    @property
    def slowed(self) -> bool: ...


class Deliveries(Protocol):
    """What is told of how incidents are delivered (serving.delivery.delivery.Delivery)."""

    @property
    def counts(self) -> Mapping[tuple[str, str], int]: ...
    @property
    def waiting(self) -> Mapping[str, int]: ...
    @property
    def pushes(self) -> bool: ...


@dataclass(slots=True)
class ModelStatus:
    """Of the model at the head of the chain. Written by the thread that watches it."""

    error: str | None = None  # why another model than the wanted one is used, or the registry cannot be asked
    reachable: bool | None = None  # the registry, at the last look; None: there is none, or no look yet
    loads: Counter[str] = field(default_factory=Counter)  # loaded | refused | unreachable -> count
    info: Mapping[str, str] = field(default_factory=dict)  # name, version, sha256, source; {}: no network


@dataclass(slots=True)
class Health:
    """Written by the loop's thread alone; a reader sees each number whole, if not all of one moment."""

    started_at: float  # Unix seconds
    cycles: int = 0  # finished and published
    failures: int = 0  # raised
    overruns: int = 0  # due times that were skipped because a cycle ran late
    unpublished: int = 0  # finished so late that nothing of it was published
    clock_jumps: int = 0
    last_cycle_at: float | None = None  # Unix seconds
    last_cycle_monotonic: float | None = None
    last_cycle_seconds: float | None = None
    render_seconds: float | None = None
    save_seconds: float | None = None
    stations: Mapping[str, float] = field(default_factory=dict)  # of the last cycle
    config_error: str | None = None
    config_reloads: Counter[str] = field(default_factory=Counter)  # outcome -> count
    finished_first: bool = False
    queries: Callable[[], QueryStats] | None = None
    degraded: Callable[[], str | None] = lambda: None  # why the store cannot be written
    model: ModelStatus = field(default_factory=ModelStatus)
    deliveries: Callable[[], Deliveries | None] = lambda: None
