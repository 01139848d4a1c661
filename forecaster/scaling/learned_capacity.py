"""What one replica carries, learned from what pods used: usage = a * ready + k * load, robust, with an interval.

A replica is full where it uses its limit, or its request where it has none: at load (full - a) / k. The lower end of
the interval is what counts, for too high a capacity is a service above it. Refused where load does not explain usage,
and while a changed cost per load (a deploy) is younger than six hours. Pure: arrays of a window of the past in, one
answer out; nothing is remembered, so a restart changes nothing. Knows no Prometheus.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from forecaster.domain import BoolArray, FloatArray, IntArray
from forecaster.reasons import Reason, ReasonCode
from forecaster.scaling.capacity import SATURATED_FROM

LEAST_SECONDS = 6 * 3_600  # of sound samples; a day is better, and its interval says so
SETTLING_SECONDS = 900  # after ready replicas rose: new pods warm up, and their usage is not that of their load
CHANGED = 1.2  # factor of the cost of a load that is another regime
_BLOCK_SECONDS = 7_200  # of the bootstrap and of the search for regimes: usage is autocorrelated
_NARROW = 1.3  # 90 % over 10 % quantile of the load per replica below which idle use cannot be told from cost
_UNEXPLAINED = 0.25  # median miss over median usage beyond which load does not explain usage
_WIDE = 2.0  # upper over lower end beyond which nothing is known
_RELATED = 4 / 3  # factor within which the HPA's own metric must come to the load
_COMPARED = 6  # samples after a change that must lie where there were some before
_DRAWS, _INTERVAL = 200, (0.025, 0.975)
_ROUNDS = 10  # of reweighting
_HUBER = 1.5  # deviations (from the median absolute one) beyond which a miss counts no further


@dataclass(frozen=True, slots=True)
class Full:
    """What one pod may use, in the unit of usage; None where it is not known."""

    limit: float | None = None
    request: float | None = None

    @property
    def at(self) -> float | None:
        """Usage at which a pod is full: its limit, else its request."""
        for value in (self.limit, self.request):
            if value is not None and math.isfinite(value) and value > 0:
                return value
        return None

    @property
    def request_ratio(self) -> float:
        """The request as a share of what fills a pod: the HPA's per cent are of the request."""
        full = self.at
        if full is None or self.request is None or not self.request > 0:
            return 1.0
        return self.request / full


@dataclass(frozen=True, slots=True)
class Learned:
    """What is known of one workload's capacity; `capacity` is the lower end of the interval."""

    capacity: float | None
    reason: Reason | None  # why `capacity` is None
    estimate: float = math.nan
    high: float = math.nan
    idle: float = math.nan  # a: usage of a replica without load
    per_load: float = math.nan  # k: usage per unit of load
    full: float = math.nan  # usage at which a replica is full
    request_ratio: float = 1.0
    samples: int = 0
    since: int = 0  # Unix seconds: where the present regime begins

    @property
    def words(self) -> str:
        """For people: every number that the capacity rests on."""
        if self.capacity is None:
            return "" if self.reason is None else self.reason.detail
        if not self.samples:
            return f"the HPA wants {self.full:.4g} a replica, at the target's share of {self.capacity:.4g}"
        return (
            f"learned from {self.samples} samples: a replica is full at {self.full:.4g}, uses {self.idle:.3g} without "
            f"load and {self.per_load:.3g} per unit of load; {self.capacity:.4g} is the low end of an interval to "
            f"{self.high:.4g}, {self.estimate:.4g} its middle"
        )


def learned(
    times: IntArray,
    load: FloatArray,
    usage: FloatArray,
    ready: FloatArray,
    full: Full,
    masked: BoolArray | None = None,
) -> Learned:
    """Capacity from a window of the past, arrays (time,) on one grid of `times` (Unix seconds, ends of intervals).

    load and usage are sums over all replicas, ready is how many there were; NaN where not known. `masked` samples
    (marked incidents, faults) teach nothing, nor do those while new pods warm up or every replica is full.
    """
    at = full.at
    if at is None:
        return _refused("neither a CPU limit nor a request of its pods is known: what fills a replica?", full)
    step = int(times[1] - times[0]) if len(times) > 1 else _BLOCK_SECONDS
    known = _sound(load, usage, ready, at, max(SETTLING_SECONDS // step, 1))
    if masked is not None:
        known &= ~masked
    least = max(LEAST_SECONDS // step, 12)
    if int(known.sum()) < least:
        text = f"{int(known.sum())} samples of load, CPU usage and ready replicas, {least} are needed"
        return _refused(text, full, samples=int(known.sum()))
    x, u, when = load[known] / ready[known], usage[known] / ready[known], times[known]
    block = (when - when[0]) // _BLOCK_SECONDS
    begin, change = _regime(x, u, block)
    since = int(when[begin])
    x, u, block = x[begin:], u[begin:], block[begin:]
    if len(x) < least:
        text = (
            f"the CPU cost of its load changed to {change:.2f} times what it was; {len(x)} samples since, "
            f"{least} are needed"
        )
        return Learned(None, Reason(ReasonCode.CAPACITY_UNSTABLE, text), samples=len(x), since=since)
    found = _fitted(x, u, block, full, at, since)
    hot = _full_at(times, load, usage, ready, at)
    if found.capacity is not None and hot * CHANGED < found.capacity:
        text = (
            f"replicas are full at {hot:.4g} each, where {found.capacity:.4g} was learned: does a load cost more now?"
        )
        return Learned(None, Reason(ReasonCode.CAPACITY_UNSTABLE, text), samples=found.samples, since=since)
    return found


def _full_at(times: IntArray, load: FloatArray, usage: FloatArray, ready: FloatArray, full: float) -> float:
    """Load per replica of the last two hours where most of them were full; inf where they were not.

    Full replicas teach no capacity, since load goes on rising while usage cannot; but they bound it from above.
    """
    recent = times > times[-1] - _BLOCK_SECONDS
    with np.errstate(invalid="ignore", divide="ignore"):
        share, each = usage / ready, load / ready
    known = recent & np.isfinite(share) & np.isfinite(each)
    hot = known & (share >= SATURATED_FROM * full)
    return float(np.median(each[hot])) if known.any() and 2 * hot.sum() > known.sum() else math.inf


def _sound(load: FloatArray, usage: FloatArray, ready: FloatArray, full: float, settling: int) -> BoolArray:
    """(time,) samples that teach."""
    with np.errstate(invalid="ignore", divide="ignore"):
        fine = np.isfinite(load) & np.isfinite(usage) & (ready >= 1) & (load > 0) & (usage > 0)
        fine &= usage / ready < SATURATED_FROM * full
        rose = np.concatenate(([False], ready[1:] > ready[:-1]))
    warming = np.convolve(rose.astype(np.float64), np.ones(settling))[: len(ready)] > 0.5
    return np.asarray(fine & ~warming)


def _refused(text: str, full: Full, samples: int = 0) -> Learned:
    return Learned(None, Reason(ReasonCode.CAPACITY_UNKNOWN, text), request_ratio=full.request_ratio, samples=samples)


def from_average(target: float, current: float | None, ready: int | None, load: float, target_ratio: float) -> Learned:
    """Capacity from the averageValue of the HPA's own metric: what a replica shall carry, over its share of full.

    Only where that metric is the load: its present average times the ready replicas comes to the load within a third.
    """
    full = Full()
    if not (math.isfinite(target) and target > 0):
        return _refused(f"the HPA's averageValue is {target:g}", full)
    if current is None or not ready or not math.isfinite(load):
        return _refused("the present value of the HPA's metric, or the load, is not known", full)
    if not 1 / _RELATED <= (current * ready + 1e-9 * target) / (load + 1e-9 * target) <= _RELATED:
        text = f"the HPA's metric is {current:.4g} on average of {ready} replicas, the load {load:.4g}: not the same"
        return _refused(text, full)
    return Learned(target / target_ratio, None, target / target_ratio, target / target_ratio, full=target)


# --- regimes ---------------------------------------------------------------------------------------------------------


def _regime(x: FloatArray, u: FloatArray, block: IntArray) -> tuple[int, float]:
    """(first sample of the present regime, cost there over cost before).

    Looked for is the step in cost per load, block by block, that explains most. It counts where the fit before it is
    off by more than CHANGED after it, at a load or a usage that was seen before: under an HPA usage stays where it was
    and the load per replica falls. What the newer part holds is looked through again.
    """
    begin, change = 0, 1.0
    for _ in range(4):
        numbers, first = np.unique(block[begin:], return_index=True)
        bounds = np.append(first, len(x) - begin)
        cost = np.log(u[begin:] / x[begin:])
        level = np.array([np.median(cost[a:b]) for a, b in pairwise(bounds)])
        if len(numbers) < 2:
            break
        place = begin + int(first[_split(level)])
        factor = _changed(x[begin:place], u[begin:place], x[place:], u[place:])
        if abs(math.log(factor)) <= math.log(CHANGED):
            break
        begin, change = place, factor
    return begin, change


def _split(level: FloatArray) -> int:
    """The block at which the step begins that explains most of `level` (block,)."""
    off = [
        np.abs(level[:place] - np.median(level[:place])).sum() + np.abs(level[place:] - np.median(level[place:])).sum()
        for place in range(1, len(level))
    ]
    return 1 + int(np.argmin(off))


def _changed(x: FloatArray, u: FloatArray, later_x: FloatArray, later_u: FloatArray) -> float:
    """Cost after over cost before, 1 where it cannot be compared or lies within what it scattered before."""
    idle, slope, _ = _robust(x, u)
    if not slope > 0:
        return 1.0
    scatter = 1.4826 * float(np.median(np.abs(np.log(np.maximum(u, 1e-300) / (idle + slope * x)))))
    found = 1.0
    for here, there in ((x, later_x), (u, later_u)):
        low, high = np.quantile(here, (0.02, 0.98))
        seen = (there >= 0.9 * low) & (there <= 1.1 * high)
        if seen.sum() < _COMPARED:
            continue
        if here is x:
            ratio = later_u[seen] / (idle + slope * later_x[seen])
        else:
            ratio = np.maximum(later_u[seen] - idle, 1e-3 * later_u[seen]) / (slope * later_x[seen])
        factor = float(np.median(ratio))
        if abs(math.log(factor)) > max(abs(math.log(found)), 2.0 * scatter):
            found = factor
    return found


# --- the fit ---------------------------------------------------------------------------------------------------------


def _fitted(x: FloatArray, u: FloatArray, block: IntArray, full: Full, at: float, since: int) -> Learned:
    idle, slope, weight = _robust(x, u)
    miss = float(np.median(np.abs(u - idle - slope * x)) / np.median(u))
    if not slope > 0 or miss > _UNEXPLAINED:
        return _refused(f"load does not explain CPU usage: the median miss is {miss:.0%} of it", full, len(x))
    if idle >= SATURATED_FROM * at:
        return _refused(f"without load a replica already uses {idle:.3g} of the {at:.3g} that fill it", full, len(x))
    drawn = _drawn(x, u, weight, block)
    with np.errstate(divide="ignore", invalid="ignore"):
        capacities = np.where(drawn[:, 1] > 0, (at - drawn[:, 0]) / drawn[:, 1], np.inf)
    low, high = (float(q) for q in np.quantile(capacities, _INTERVAL, method="nearest"))
    if not (low > 0 and high < _WIDE * low):
        return _refused(f"between {low:.4g} and {high:.4g} a replica: too wide to act upon", full, len(x))
    return Learned(low, None, (at - idle) / slope, high, idle, slope, at, full.request_ratio, len(x), since)


def _robust(x: FloatArray, u: FloatArray) -> tuple[float, float, FloatArray]:
    """(a, k, weight (sample,)) of u = a + k x by Huber's weights, a at least 0.

    Where the load per replica hardly varies, a cannot be told from k x, and is taken for 0: that makes the capacity
    too low, never too high, as long as replicas are not full.
    """
    through_zero = _is_narrow(x)
    weight = np.ones(len(x))
    idle, slope = 0.0, 1.0
    for _ in range(_ROUNDS):
        idle, slope = _least_squares(x, u, weight, through_zero)
        off = np.abs(u - idle - slope * x)
        scale = max(1.4826 * float(np.median(off)), 1e-9 * float(np.median(u)))
        weight = np.minimum(1.0, _HUBER * scale / np.maximum(off, 1e-300))
    return idle, slope, weight


def _is_narrow(x: FloatArray) -> bool:
    low, high = np.quantile(x, (0.1, 0.9))
    return bool(high < _NARROW * max(low, 1e-12))


def _least_squares(x: FloatArray, u: FloatArray, weight: FloatArray, through_zero: bool) -> tuple[float, float]:
    total = weight.sum()
    if not through_zero and total > 0:
        mx, mu = (weight * x).sum() / total, (weight * u).sum() / total
        spread = (weight * (x - mx) ** 2).sum()
        if spread > 0:
            slope = float((weight * (x - mx) * (u - mu)).sum() / spread)
            if mu - slope * mx >= 0:
                return float(mu - slope * mx), slope
    return 0.0, float((weight * x * u).sum() / max((weight * x * x).sum(), 1e-300))


def _drawn(x: FloatArray, u: FloatArray, weight: FloatArray, block: IntArray) -> FloatArray:
    """(draw, 2) a and k of blocks drawn with replacement: neighbouring samples err together."""
    through_zero = _is_narrow(x)
    numbers, place = np.unique(block, return_inverse=True)
    rng = np.random.default_rng(0)
    out = np.empty((_DRAWS, 2))
    for i in range(_DRAWS):
        times = np.bincount(rng.integers(0, len(numbers), size=len(numbers)), minlength=len(numbers))
        out[i] = _least_squares(x, u, weight * times[place], through_zero)
    return out
