"""A small generated cluster for the quick start and its test: load of a few services, as Prometheus would scrape it.

Deterministic in (seed, time): the back-filled history and the live exporter continue each other without a seam.
Nothing here is part of the product.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DAY = 86_400
PODS = ("a", "b", "c")


@dataclass(frozen=True)
class Service:
    """One service: its mean load in requests per second and the shape of its day."""

    namespace: str
    app: str
    base: float  # requests per second
    daily: float  # amplitude of the day, share of base
    weekend: float  # factor on Saturday and Sunday
    noise: float  # standard deviation of the minute noise, share of the level
    job_at: int | None  # minute of the day at which a batch job adds load for 20 minutes
    capacity: float  # requests per second that fill one replica


SERVICES = (
    Service("shop", "checkout", 420.0, 0.65, 0.55, 0.04, None, 60.0),
    Service("shop", "search", 1400.0, 0.55, 0.8, 0.03, None, 150.0),
    Service("shop", "payments", 160.0, 0.5, 0.4, 0.06, 2 * 60 + 30, 40.0),
    Service("ml", "inference", 90.0, 0.35, 0.9, 0.12, None, 8.0),
)


class Load:
    """Requests per second and their integral for one service between two Unix times, on a 15 s grid."""

    def __init__(self, service: Service, start: int, end: int) -> None:
        self.service = service
        self.times: NDArray[np.int64] = np.arange(start - start % 15, end + 15, 15, dtype=np.int64)
        self.rate = _rate(service, self.times)
        self.total = np.concatenate([[0.0], np.cumsum(self.rate[1:] * 15.0)])

    def rate_at(self, time: float) -> float:
        return float(np.interp(time, self.times, self.rate))

    def total_at(self, time: float) -> float:
        """Requests since `start`; what a counter would show."""
        return float(np.interp(time, self.times, self.total))

    def replicas_at(self, time: float) -> int:
        return max(2, math.ceil(self.rate_at(time) / (0.7 * self.service.capacity)))


def _rate(service: Service, times: NDArray[np.int64]) -> NDArray[np.float64]:
    seconds = (times % DAY).astype(np.float64)
    weekday = (times // DAY + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    day = 1.0 + service.daily * np.sin(2 * np.pi * (seconds / DAY - 0.33)) + 0.15 * np.sin(4 * np.pi * seconds / DAY)
    level = service.base * np.maximum(day, 0.08) * np.where(weekday >= 5, service.weekend, 1.0)
    if service.job_at is not None:
        begin = service.job_at * 60
        level = level + service.base * 0.9 * ((seconds >= begin) & (seconds < begin + 1200))
    minutes = times // 60
    seed = sum(map(ord, service.app))
    noise = _noise(minutes, seed) + 0.5 * _noise(times // 900, seed + 1)
    return level * np.maximum(1.0 + service.noise * noise, 0.05)


def _noise(index: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Standard normal noise that depends on nothing but index and seed (splitmix64, then Box-Muller)."""
    with np.errstate(over="ignore"):
        z = index.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed * 7919 + 1)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    u = ((z >> np.uint64(40)).astype(np.float64) + 0.5) / 2.0**24
    v = ((z & np.uint64(0xFFFFFF)).astype(np.float64) + 0.5) / 2.0**24
    return np.asarray(np.sqrt(-2.0 * np.log(u)) * np.cos(2 * np.pi * v))


def openmetrics(loads: list[Load], start: int, end: int, scrape: int = 15) -> Iterator[str]:
    """The history from start to end as OpenMetrics text, for `promtool tsdb create-blocks-from openmetrics`."""
    times = np.arange(start - start % scrape, end, scrape, dtype=np.int64)
    stamps = times.tolist()
    yield "# TYPE http_requests counter\n"
    for load in loads:
        share = np.interp(times, load.times, load.total) / len(PODS)
        for pod in PODS:
            name = f'http_requests_total{{{_labels(load.service)},pod="{load.service.app}-{pod}"}} '
            yield "".join([f"{name}{value:.0f} {t}\n" for value, t in zip(share.tolist(), stamps, strict=True)])
    sparse = times[::4]
    for family in _kube(loads[0], 0.0):
        yield f"# TYPE {family} gauge\n"
        for load in loads:
            rows = []
            replicas = np.maximum(2, np.ceil(np.interp(sparse, load.times, load.rate) / (0.7 * load.service.capacity)))
            for t, count in zip(sparse.tolist(), replicas.tolist(), strict=True):
                labels, value = _kube(load, count)[family]
                rows.append(f"{family}{{{labels}}} {value:g} {t}\n")
            yield "".join(rows)
    yield "# EOF\n"


def exposition(loads: list[Load], now: float) -> str:
    """The same series as a scrape at `now` sees them."""
    lines = ["# TYPE http_requests_total counter"]
    for load in loads:
        value = load.total_at(now) / len(PODS)
        lines += [
            f'http_requests_total{{{_labels(load.service)},pod="{load.service.app}-{pod}"}} {value:.0f}' for pod in PODS
        ]
    for family in _kube(loads[0], 0.0):
        lines.append(f"# TYPE {family} gauge")
        for load in loads:
            labels, value = _kube(load, float(load.replicas_at(now)))[family]
            lines.append(f"{family}{{{labels}}} {value:g}")
    return "\n".join(lines) + "\n"


def _labels(service: Service) -> str:
    return f'namespace="{service.namespace}",app="{service.app}"'


def _kube(load: Load, replicas: float) -> dict[str, tuple[str, float]]:
    """What kube-state-metrics would say of the service's HPA and Deployment."""
    service = load.service
    hpa = f'namespace="{service.namespace}",horizontalpodautoscaler="{service.app}"'
    deployment = f'namespace="{service.namespace}",deployment="{service.app}"'
    prefix = "kube_horizontalpodautoscaler"
    return {
        f"{prefix}_info": (f'{hpa},scaletargetref_kind="Deployment",scaletargetref_name="{service.app}"', 1),
        f"{prefix}_spec_min_replicas": (hpa, 2),
        f"{prefix}_spec_max_replicas": (hpa, 40),
        f"{prefix}_status_current_replicas": (hpa, replicas),
        f"{prefix}_spec_target_metric": (f'{hpa},metric_name="cpu",metric_target_type="utilization"', 70),
        "kube_deployment_status_replicas_ready": (deployment, replicas),
    }
