"""Simulates HPAs and their pods under a load: all at once (`simulate`) or step by step (`Simulation`).

    simulated = simulate([Service(capacity_per_replica=100.0)], load, step_seconds=60.0, seed=1)
    simulated.replica_hours, simulated.seconds_above_capacity

What is modelled, and what is not, stands in docs/simulator.md. The HPA syncs each 15 s; one sync is a tick. The same
seed gives the same pods: the k-th pod that a service creates starts as fast whatever the policy, so that two policies
are compared on equal luck. Compiled by numba where `compiled` says so; numba is imported then, not before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster.compiling import compiled as machine_code
from forecaster.scaling import kernel
from forecaster.scaling.cluster import Service, Startup
from forecaster.scaling.hpa import SYNC_SECONDS, Policy, Rules
from forecaster.scaling.kernel import Floats, Ints, Rows, Trace

__all__ = ["DRAWS", "Service", "Simulated", "Simulation", "Startup", "Ticks", "Totals", "simulate"]

DRAWS = 512  # start-up times drawn for each service; the pods after them start as fast as the first ones did
FLEET_NAMES, STATE_NAMES = kernel.FLEET.names or (), kernel.STATE.names or ()
_SELECT = {"Max": kernel.MAX, "Min": kernel.MIN, "Disabled": kernel.DISABLED}


@dataclass(frozen=True, slots=True, eq=False)
class Totals:
    """Sums since the first tick, (service,) each."""

    replica_hours: Floats  # paid from the creation of a pod
    seconds_above_capacity: Floats  # load above what the ready replicas can carry
    offered: Floats  # load x seconds, as the next four
    unmet: Floats  # load above the capacity that was ready
    served: Floats  # with what was served late from the backlog
    backlog: Floats  # still waiting
    dropped: Floats  # found no room in the backlog
    scale_events: Ints
    reversals: Ints  # changes against the one before, within ten minutes

    @property
    def unmet_load_ratio(self) -> Floats:
        """Share of the load that came above the capacity that was ready; NaN where there was none."""
        return np.divide(self.unmet, self.offered, out=np.full_like(self.unmet, np.nan), where=self.offered > 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Ticks:
    """What was, tick by tick: (service, tick) each."""

    replicas: Ints  # after the HPA's pass at the begin of the tick, ready or not
    ready: Ints
    utilization: Floats  # of the ready replicas in the tick, as a share of the request
    served: Floats  # load x seconds
    backlog: Floats  # load x seconds, at the end of the tick
    dropped: Floats  # load x seconds


@dataclass(frozen=True, slots=True, eq=False)
class Simulated:
    """The end of a simulation."""

    totals: Totals
    ticks: Ticks | None  # None: not traced


def simulate(
    services: Sequence[Service],
    load: NDArray[Any],
    step_seconds: float,
    *,
    floors: NDArray[Any] | None = None,
    seed: int | np.random.Generator = 0,
    trace: bool = False,
    compiled: bool = True,
) -> Simulated:
    """A whole load at once. `load` (service, step), each value for its whole step, a multiple of 15 s.

    `floors` (service, step) raise `minReplicas` from the begin of their step, up to `maxReplicas`; None: nothing does.
    Raises ValueError where a load is missing or negative, or shapes disagree.
    """
    loads = np.ascontiguousarray(load, dtype=np.float64)
    if loads.ndim != 2 or len(loads) != len(services):
        raise ValueError(f"load of shape {loads.shape} for {len(services)} services")
    first = loads[:, 0] if loads.shape[1] else np.zeros(len(services))
    first_floors = None if floors is None or not loads.shape[1] else np.asarray(floors)[:, 0]
    simulation = Simulation(services, first, first_floors=first_floors, seed=seed, compiled=compiled)
    ticks = simulation.run(loads, floors, step_seconds, trace=trace)
    return Simulated(simulation.totals, ticks)


class Simulation:
    """Services in mid-air: `run` takes them on by some steps, `step` by one tick."""

    def __init__(
        self,
        services: Sequence[Service],
        first_load: NDArray[Any],
        *,
        first_floors: NDArray[Any] | None = None,
        seed: int | np.random.Generator = 0,
        compiled: bool = True,
    ) -> None:
        """`first_load` (service,): has been there for as long as anything remembers. `first_floors`: likewise."""
        before = _checked(np.asarray(first_load, dtype=np.float64)[:, None], len(services))[:, 0]
        floors = np.zeros(len(services), dtype=np.int64) if first_floors is None else np.asarray(first_floors)
        self.services = tuple(services)
        self.tick = 0  # the next one
        generator = np.random.default_rng(seed)
        startups = [one.startup.draw(generator, DRAWS) for one in services]
        self._fleet = _fleet(services)
        drawn = np.array(startups).reshape(len(services), DRAWS)
        self._states, self._rows = _start(services, self._fleet, before, floors, drawn)
        self._run = machine_code(kernel.run, kernel.HELPERS) if compiled else _interpreted

    @property
    def replicas(self) -> Ints:
        """(service,), ready or not."""
        replicas: Ints = self._states["replicas"].copy()
        return replicas

    @property
    def ready(self) -> Ints:
        """(service,): ready at the begin of the next tick, before the HPA's pass."""
        now = self.tick * SYNC_SECONDS
        pods = zip(self._states, self._rows.pods, strict=True)
        return np.array([kernel.ready_pods(state, own, now) for state, own in pods], dtype=np.int64)

    @property
    def totals(self) -> Totals:
        states = self._states.copy()
        return Totals(
            replica_hours=states["replica_seconds"] / 3600.0,
            seconds_above_capacity=states["seconds_above"],
            offered=states["offered"],
            unmet=states["unmet"],
            served=states["served"],
            backlog=states["backlog"],
            dropped=states["dropped"],
            scale_events=states["events"],
            reversals=states["reversals"],
        )

    def retarget(self, per_cent: NDArray[Any]) -> None:
        """CPU targets (service,) that the HPAs have from their next pass on."""
        self._fleet["target"] = per_cent

    def step(self, load: NDArray[Any], floors: NDArray[Any] | None = None) -> Ticks:
        """One tick: the HPAs' pass under `floors` (service,), then 15 s of `load` (service,)."""
        loads = np.asarray(load, dtype=np.float64)[:, None]
        done = self.run(loads, None if floors is None else np.asarray(floors)[:, None], SYNC_SECONDS, trace=True)
        assert done is not None
        return done

    def run(
        self, load: NDArray[Any], floors: NDArray[Any] | None, step_seconds: float, *, trace: bool = False
    ) -> Ticks | None:
        """Steps of `step_seconds`: `load` and `floors` (service, step). What was, where `trace` asks for it."""
        loads = _checked(load, len(self.services))
        per_step = _whole(step_seconds, "a step")
        raised = np.zeros(loads.shape, np.int64) if floors is None else np.ascontiguousarray(floors, dtype=np.int64)
        if raised.shape != loads.shape:
            raise ValueError(f"floors of shape {raised.shape} for load of shape {loads.shape}")
        shape = (len(loads), loads.shape[1] * per_step if trace else 0)
        ints = [np.zeros(shape, dtype=np.int64) for _ in range(3)]
        traced = Trace(*ints, *[np.zeros(shape) for _ in range(3)])
        self._run(self._fleet, self._states, self._rows, traced, loads, raised, self.tick, per_step, SYNC_SECONDS)
        self.tick += loads.shape[1] * per_step
        if not trace:
            return None
        return Ticks(
            traced.replicas,
            traced.ready,
            traced.utilization / kernel.REQUEST_MILLI,
            traced.served,
            traced.backlog,
            traced.dropped,
        )


def _checked(load: NDArray[Any], services: int) -> Floats:
    loads = np.ascontiguousarray(load, dtype=np.float64)
    if loads.ndim != 2 or len(loads) != services:
        raise ValueError(f"load of shape {loads.shape} for {services} services")
    if not (np.isfinite(loads).all() and (loads >= 0.0).all()):
        raise ValueError("a load must be finite and at least 0: fill gaps before, as fits the purpose")
    return loads


def _whole(seconds: float, what: str) -> int:
    ticks = round(seconds / SYNC_SECONDS)
    if ticks * SYNC_SECONDS != seconds or ticks < 0:
        raise ValueError(f"{what} must be a multiple of {SYNC_SECONDS:.0f} s: {seconds}")
    return ticks


# --- into arrays -----------------------------------------------------------------------------------------------------


def _fleet(services: Sequence[Service]) -> NDArray[Any]:
    """(service,) of kernel.FLEET."""
    fleet = np.zeros(len(services), dtype=kernel.FLEET)
    for s, one in enumerate(services):
        up, down = _rules(one, "scale_up"), _rules(one, "scale_down")
        down_window = down.stabilization_window_seconds
        fleet[s] = (
            one.capacity_per_replica,
            one.target_utilization,
            one.tolerance if down.tolerance is None else down.tolerance,
            one.tolerance if up.tolerance is None else up.tolerance,
            one.min_replicas,
            one.max_replicas,
            _whole(one.metric_delay_seconds, "metric_delay_seconds"),
            _whole(one.metric_window_seconds, "metric_window_seconds"),
            one.usage_limit,
            one.backlog_limit_seconds * one.capacity_per_replica * one.max_replicas,
            one.pending_seconds,
            one.cpu_initialization_seconds,
            one.behavior is not None,
            up.stabilization_window_seconds or 0.0,
            one.downscale_stabilization_seconds if down_window is None else down_window,
            _SELECT[up.select_policy],
            _SELECT[down.select_policy],
        )
    return fleet


def _rules(service: Service, side: str) -> Rules:
    if service.behavior is None:
        return Rules()
    rules: Rules = getattr(service.behavior, side)
    return rules


def _policies(lists: Sequence[tuple[Policy, ...]]) -> Floats:
    """(service, policy, 3)."""
    table = np.zeros((len(lists), max([1, *map(len, lists)]), 3))
    for s, policies in enumerate(lists):
        for p, policy in enumerate(policies):
            kind = kernel.PODS if policy.type == "Pods" else kernel.PERCENT
            table[s, p] = kind, policy.value, policy.period_seconds
    return table


def _start(
    services: Sequence[Service], fleet: NDArray[Any], before: Floats, floors: NDArray[Any], startups: Floats
) -> tuple[NDArray[Any], Rows]:
    """The state at the first tick: all pods ready for long, under the load `before` (service,)."""
    count = len(services)
    states = np.zeros(count, dtype=kernel.STATE)
    for s, one in enumerate(services):
        wanted = min(max(one.replicas_for(float(before[s])), int(floors[s])), one.max_replicas)
        states["replicas"][s] = wanted if one.initial_replicas is None else one.initial_replicas
    states["settled"] = states["replicas"]
    states["changed_at"] = -math.inf
    pods = max([1, *(one.max_replicas for one in services), *states["replicas"].tolist()])
    capacity = states["replicas"] * fleet["capacity"]
    share = np.divide(before, capacity, out=np.zeros(count), where=capacity > 0.0)
    usage = np.floor(np.minimum(share, fleet["usage_limit"]) * kernel.REQUEST_MILLI + 0.5).astype(np.int64)
    ring = int(np.max(fleet["delay_ticks"] + fleet["window_ticks"], initial=1))
    up_policies = _policies([_rules(one, "scale_up").policies for one in services])
    down_policies = _policies([_rules(one, "scale_down").policies for one in services])
    rows = Rows(
        pods=np.full((count, pods, 2), -math.inf),
        usage=np.repeat(usage[:, None], ring, axis=1),
        highs=np.zeros((count, _slots(fleet["down_window"]), 2)),
        lows=np.zeros((count, _slots(fleet["up_window"]), 2)),
        ups=np.zeros((count, _slots(up_policies[..., 2]), 3)),
        downs=np.zeros((count, _slots(down_policies[..., 2]), 3)),
        up_policies=up_policies,
        down_policies=down_policies,
        startups=startups,
    )
    return states, rows


def _slots(seconds: Floats) -> int:
    """Ticks within so many seconds, and room for both ends and the first entry."""
    return int(np.max(seconds, initial=0.0) // SYNC_SECONDS) + 4


# --- interpreted -----------------------------------------------------------------------------------------------------


def _interpreted(fleet: NDArray[Any], states: NDArray[Any], *rest: Any) -> None:
    """`kernel.run` by Python, on plain objects: the fields of a numpy record are ten times slower to reach."""
    ones = [SimpleNamespace(**dict(zip(FLEET_NAMES, one.item(), strict=True))) for one in fleet]
    plain = [SimpleNamespace(**dict(zip(STATE_NAMES, one.item(), strict=True))) for one in states]
    kernel.run(ones, plain, *rest)
    for s, one in enumerate(plain):
        states[s] = tuple(getattr(one, name) for name in STATE_NAMES)
