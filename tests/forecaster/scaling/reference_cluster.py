"""The simulator once more, slowly and with objects: passes by `hpa.reconcile`, samples by `hpa_metrics`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from forecaster.scaling.cluster import Service
from forecaster.scaling.hpa import SYNC_SECONDS, Hpa, HpaState, reconcile
from forecaster.scaling.hpa_metrics import Container, Pod, Readiness, Tolerances, pods_proposal


def replicas_of(
    service: Service, startups: Sequence[float], initial: int, loads: Sequence[float], floors: Sequence[int]
) -> tuple[list[int], list[int]]:
    """(replicas, ready) tick by tick. `startups`: seconds of the pods that are created, in order."""
    pods = [(-math.inf, -math.inf)] * initial  # (running, ready) since
    usages: list[int] = []
    before = _milli(service, loads[0], initial)
    state, backlog, made = HpaState(), 0.0, 0
    replicas_out, ready_out = [], []
    for tick, (load, floor) in enumerate(zip(loads, floors, strict=True)):
        now = tick * SYNC_SECONDS
        proposal = pods_proposal(
            [_pod(service, one, usages, before, tick) for one in pods],
            len(pods),
            service.target_utilization,
            now=now,
            tolerances=_tolerances(service),
            readiness=Readiness(cpu_initialization_seconds=service.cpu_initialization_seconds),
            resource="cpu",
            utilization=True,
        )
        hpa = Hpa(
            max_replicas=service.max_replicas,
            min_replicas=min(max(floor, service.min_replicas), service.max_replicas),
            behavior=service.behavior,
            downscale_stabilization=service.downscale_stabilization_seconds,
        )
        done, state = reconcile(hpa, len(pods), [proposal], state, now)
        while len(pods) < done.replicas:
            startup = startups[made % len(startups)]
            made += 1
            pods.append((now + min(service.pending_seconds, startup), now + startup))
        pods = pods[: done.replicas]
        ready = sum(one[1] <= now for one in pods)
        demand = load * SYNC_SECONDS + backlog
        usages.append(_milli(service, demand / SYNC_SECONDS, ready))
        left = demand - min(demand, ready * service.capacity_per_replica * SYNC_SECONDS)
        backlog = min(left, service.backlog_limit_seconds * service.capacity_per_replica * service.max_replicas)
        replicas_out.append(len(pods))
        ready_out.append(ready)
    return replicas_out, ready_out


def _milli(service: Service, rate: float, ready: int) -> int:
    if ready == 0:
        return 0
    share = min(rate * SYNC_SECONDS / (ready * service.capacity_per_replica * SYNC_SECONDS), service.usage_limit)
    return int(share * 1000 + 0.5)


def _pod(service: Service, one: tuple[float, float], usages: Sequence[int], before: int, tick: int) -> Pod:
    """What the controller sees of a pod at the begin of a tick."""
    running, ready = one
    now = tick * SYNC_SECONDS
    sampled_at = now - service.metric_delay_seconds
    since = sampled_at - service.metric_window_seconds
    ticks = range(round(since / SYNC_SECONDS), round(sampled_at / SYNC_SECONDS))
    used = [0 if i * SYNC_SECONDS < ready else usages[i] if i >= 0 else before for i in ticks]
    is_ready = ready <= now
    return Pod(
        phase="Pending" if now < running else "Running",
        ready="True" if is_ready else "False",
        started_at=running,
        ready_since=ready if is_ready else running,
        usage=sum(used) // len(used) if since >= running else None,
        sampled_at=sampled_at,
        sample_window=service.metric_window_seconds,
        containers=(Container("app", 1000),),
    )


def _tolerances(service: Service) -> Tolerances:
    up = down = None
    if service.behavior is not None:
        up, down = service.behavior.scale_up.tolerance, service.behavior.scale_down.tolerance
    own = service.tolerance
    return Tolerances(down=own if down is None else down, up=own if up is None else up)
