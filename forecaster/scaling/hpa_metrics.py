"""The replica calculator of the Kubernetes HPA, one metric at a time, bit for bit as in v1.36.

Amounts are whole milli-units, targets too, save utilization targets, which are per cent. Times are seconds. A
calculation gives a proposal or says why there is none. Knows no stored state: that is `hpa.py`.
Source: kubernetes/kubernetes pkg/controller/podautoscaler/replica_calculator.go and metrics/utilization.go.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

INT32_MAX = 2**31 - 1
_INT64_MAX = 2**63 - 1
CPU = "cpu"


@dataclass(frozen=True, slots=True)
class Container:
    """A container's request of the resource in question."""

    name: str
    request: int | None = None
    sidecar: bool = False  # a restartable init container: counts like any other


@dataclass(frozen=True, slots=True)
class Pod:
    """`count` pods that are alike."""

    count: int = 1
    phase: str = "Running"
    deleting: bool = False
    ready: str | None = None  # status of the Ready condition; None: there is none
    started_at: float | None = None
    ready_since: float | None = None  # last transition of Ready
    usage: int | None = None  # None: no sample
    sampled_at: float = 0.0
    sample_window: float = 0.0  # that the sample covers
    containers: tuple[Container, ...] = ()
    pod_request: int | None = None  # pod-level request
    listed: bool = True  # False: a sample exists, but the pod cache does not know the pod


@dataclass(frozen=True, slots=True)
class Tolerances:
    """Shares by which a ratio may differ from 1 without a change of replicas."""

    down: float = 0.1
    up: float = 0.1

    def within(self, ratio: float) -> bool:
        return 1.0 - self.down <= ratio <= 1.0 + self.up


@dataclass(frozen=True, slots=True)
class Readiness:
    """How CPU samples of starting pods are judged."""

    cpu_initialization_seconds: float = 300.0
    initial_readiness_delay_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Proposal:
    """What one metric asks for; `error` says why there is none."""

    replicas: int = 0
    usage: int | None = None  # mean per pod; total for Object and External Value; None where it cannot be said
    utilization: int | None = None  # per cent
    error: str | None = None


@dataclass(slots=True)
class _Grouped:
    ready: int = 0
    unready: list[Pod] = field(default_factory=list)
    missing: list[Pod] = field(default_factory=list)
    known: list[Pod] = field(default_factory=list)  # their samples count


def pods_proposal(
    pods: Sequence[Pod],
    current: int,
    target: int,
    *,
    now: float,
    tolerances: Tolerances,
    readiness: Readiness,
    resource: str = "",
    container: str | None = None,
    utilization: bool = False,
) -> Proposal:
    """Of a Pods or Resource metric. `target` per pod, or per cent of the request where `utilization`."""
    if not any(pod.usage is not None for pod in pods):
        return Proposal(error="noMetrics")
    listed = [pod for pod in pods if pod.listed]
    if not listed:
        return Proposal(error="noPods")
    grouped = _grouped(pods, resource, now, readiness)
    if not grouped.known:
        return Proposal(error="noUsableMetrics")
    if utilization:
        for pod in listed:
            request = _request(pod, container)
            if isinstance(request, str):
                return Proposal(error=request)
    samples = [(pod, _usage(pod)) for pod in grouped.known]
    measure: Callable[[list[tuple[Pod, int]]], tuple[float, int, int | None] | None] = (
        (lambda found: _utilization(found, target, container)) if utilization else (lambda found: _mean(found, target))
    )
    first = measure(samples)
    if first is None:
        return Proposal(error="zeroRequests")
    ratio, usage, percent = first
    up_unready = bool(grouped.unready) and ratio > 1.0
    if not up_unready and not grouped.missing:
        replicas = current if tolerances.within(ratio) else math.ceil(ratio * grouped.ready)
        return Proposal(replicas, usage, percent)
    if ratio < 1.0:
        share = max(100, target)
        samples += [
            (pod, _total(_request(pod, container)) * share // 100 if utilization else target) for pod in grouped.missing
        ]
    elif ratio > 1.0:
        samples += [(pod, 0) for pod in grouped.missing]
    if up_unready:
        samples += [(pod, 0) for pod in grouped.unready]
    second = measure(samples)
    if second is None:
        return Proposal(error="zeroRequests")
    again = second[0]
    if tolerances.within(again) or (ratio < 1.0 < again) or (again < 1.0 < ratio):
        return Proposal(current, usage, percent)
    replicas = math.ceil(again * sum(pod.count for pod, _ in samples))
    if (again < 1.0 and replicas > current) or (again > 1.0 and replicas < current):
        replicas = current
    return Proposal(replicas, usage, percent)


def value_proposal(
    values: Sequence[int] | None, current: int, target: int, pods: Sequence[Pod], tolerances: Tolerances
) -> Proposal:
    """Of an Object or External metric with a target of type Value. `current`: spec replicas."""
    if not values:
        return Proposal(error="noMetrics")
    usage = sum(values)
    ratio = usage / target
    if current == 0:
        return Proposal(min(math.ceil(ratio), INT32_MAX), usage)
    if tolerances.within(ratio):
        return Proposal(current, usage)
    listed = [pod for pod in pods if pod.listed]
    if not listed:
        return Proposal(error="noPods")
    ready = sum(pod.count for pod in listed if pod.phase == "Running" and pod.ready == "True")
    return Proposal(min(math.ceil(ratio * ready), INT32_MAX), usage)


def average_proposal(
    values: Sequence[int] | None, status_replicas: int, target: int, tolerances: Tolerances, external: bool
) -> Proposal:
    """Of an Object or External metric with a target of type AverageValue."""
    if not values:
        return Proposal(error="noMetrics")
    total = 0
    for value in values:
        total += value
        if external and total < 0:  # taken for an overflow of the sum
            return Proposal(INT32_MAX, _per_replica(_INT64_MAX, status_replicas))
    replicas = status_replicas
    if status_replicas == 0 or not tolerances.within(total / (target * status_replicas)):
        replicas = math.ceil(total / target)
    if external:
        replicas = min(replicas, INT32_MAX)
    return Proposal(replicas, _per_replica(total, status_replicas))


# --- pods ------------------------------------------------------------------------------------------------------------


def _grouped(pods: Sequence[Pod], resource: str, now: float, readiness: Readiness) -> _Grouped:
    out = _Grouped()
    for pod in pods:
        if not pod.listed:
            out.known.append(pod)
        elif pod.deleting or pod.phase == "Failed":
            continue
        elif pod.phase == "Pending":
            out.unready.append(pod)
        elif pod.usage is None:
            out.missing.append(pod)
        elif resource == CPU and _is_unready(pod, now, readiness):
            out.unready.append(pod)
        else:
            out.ready += pod.count
            out.known.append(pod)
    return out


def _is_unready(pod: Pod, now: float, readiness: Readiness) -> bool:
    """A CPU sample that says nothing: of a pod that starts, or never was ready."""
    if pod.ready is None or pod.started_at is None:
        return True
    since = 0.0 if pod.ready_since is None else pod.ready_since
    if pod.started_at + readiness.cpu_initialization_seconds > now:
        return pod.ready == "False" or pod.sampled_at < since + pod.sample_window
    return pod.ready == "False" and pod.started_at + readiness.initial_readiness_delay_seconds > since


def _request(pod: Pod, container: str | None) -> int | str:
    """Requested by a pod, or the error."""
    if container is None and pod.pod_request is not None:
        return pod.pod_request
    total, found = 0, False
    for one in pod.containers:
        if container is not None and one.name != container:
            continue
        found = True
        if one.request is None:
            return "missingRequest"
        total += one.request
    return total if found or container is None else "containerNotFound"


def _total(request: int | str) -> int:
    assert isinstance(request, int)  # an error has ended the calculation before
    return request


def _usage(pod: Pod) -> int:
    assert pod.usage is not None
    return pod.usage


def _utilization(
    samples: list[tuple[Pod, int]], target: int, container: str | None
) -> tuple[float, int, int | None] | None:
    """(ratio, mean usage, per cent) over the pods that are known; None where nothing is requested."""
    known = [(pod, usage) for pod, usage in samples if pod.listed]
    used = sum(pod.count * usage for pod, usage in known)
    requested = sum(pod.count * _total(_request(pod, container)) for pod, _ in known)
    if requested == 0:
        return None
    percent = _quotient(used * 100, requested)
    return percent / target, _quotient(used, sum(pod.count for pod, _ in known)), percent


def _mean(samples: list[tuple[Pod, int]], target: int) -> tuple[float, int, int | None]:
    mean = _quotient(sum(pod.count * usage for pod, usage in samples), sum(pod.count for pod, _ in samples))
    return mean / target, mean, None


def _quotient(a: int, b: int) -> int:
    """Go's integer division: towards zero."""
    return a // b if (a >= 0) == (b > 0) else -(-a // b)


def _per_replica(total: int, replicas: int) -> int | None:
    return None if replicas == 0 else -(-total // replicas)
