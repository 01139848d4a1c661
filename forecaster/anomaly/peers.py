"""Is one pod or node unlike its siblings, and unlike itself: what moves all of them belongs to the workload.

Each pod is compared with the median of the others, in their usual distance from it; that is smoothed over fifteen
minutes and joined with how far the pod is from its own usual place among them. A pod that has just come is warming up
and is neither judged nor a sibling to judge by. Pods are rows; a group is a workload's pods.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from forecaster.anomaly import residual, tails
from forecaster.domain import BoolArray, FloatArray, IntArray
from forecaster.rows import Arrays

SMOOTH = 900.0  # seconds
WARM_UP = 900.0  # seconds of samples before a pod counts
OWN_LEAST = 2 * 3_600.0  # seconds of samples before it has a usual place of its own
OWN_MEMORY = 86_400.0
LEAST_PEERS = 4
FLOOR = 0.05  # of the siblings' median: pods that agree to the last digit are no reason to call a hundredth a wonder
SIBLINGS_FLOOR = 0.02  # the same, of a pod's distance from its own usual place
GONE = 3_600.0  # seconds without a sample after which a pod begins anew
KIND = "peer"
_MAD = 1.4826


def blank() -> Arrays:
    """One row of state: a pod."""
    return {
        "seen": np.zeros(1),  # seconds of samples
        "seen_at": np.zeros(1),
        "apart": np.full(1, math.nan),  # smoothed distance from the siblings' median, relative to it
        "own": np.full(1, math.nan),  # usual value of that
        "own_spread": np.full(1, math.nan),  # usual |distance| from it
    }


def blank_group() -> Arrays:
    """One row of a group's state: how surprising its most surprising pod has been."""
    return {
        "past": residual.blank()["past"],
        "spread": np.full(1, math.nan),
        "siblings": np.full(1, math.nan),  # usual relative deviation of smoothed pods from their median
        "judged": np.zeros(1),  # seconds
    }


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What one step said."""

    apart: FloatArray  # (pod,) smoothed distance from the siblings, relative: 0.5 is half more; NaN where not judged
    nats: FloatArray  # (pod,) surprise, before calibration
    siblings: FloatArray  # (pod,) median of the others, unit of the usage
    spread: FloatArray  # (pod,) one deviation of the siblings, relative, with its floor
    score: FloatArray  # (group,) of its most surprising pod: -log10 of the calibrated p-value
    worst: IntArray  # (group,) that pod; -1 where none is judged
    worst_nats: FloatArray  # (group,)


def stepped(
    state: Arrays, groups: Arrays, usage: FloatArray, group: IntArray, now: int, step_seconds: float
) -> tuple[Arrays, Judged]:
    """(state of pods, what the step says) of usage (pod,), NaN where missing, and `group` (pod,), rows of `groups`.

    Nothing is learned of what is usual; that is `learned`.
    """
    used = np.asarray(usage, dtype=np.float64)
    a = dict(state)
    here = ~np.isnan(used)
    anew = here & (now - np.asarray(state["seen_at"], dtype=np.float64) > GONE)
    seen = np.where(anew, 0.0, np.asarray(state["seen"], dtype=np.float64)) + here * step_seconds
    warm = here & (seen > WARM_UP)
    a["seen"], a["seen_at"] = seen, np.where(here, float(now), np.asarray(state["seen_at"], dtype=np.float64))
    counted = np.where(warm, used, np.nan)
    size = len(np.asarray(groups["judged"]))
    peers = np.bincount(group[warm], minlength=size)
    judged = warm & (peers[group] >= LEAST_PEERS)
    middle = without_each(counted, group)
    with np.errstate(divide="ignore", invalid="ignore"):
        now_apart = np.where(judged & (middle > 0), used / middle - 1, np.nan)
    before = np.where(anew, np.nan, np.asarray(state["apart"], dtype=np.float64))
    mix = min(1.0, step_seconds / SMOOTH)
    apart = np.where(
        np.isnan(before), now_apart, np.where(np.isnan(now_apart), before, before + mix * (now_apart - before))
    )
    a["apart"] = apart
    for name in ("own", "own_spread"):
        a[name] = np.where(anew, np.nan, np.asarray(state[name], dtype=np.float64))
    # where all siblings' smoothed places are spread about, that is how pods are
    placed = np.where(judged, apart, np.nan)
    deviation = _MAD * without_each(np.abs(placed - without_each(placed, group)), group)
    usual = np.asarray(groups["siblings"], dtype=np.float64)[group]
    spread = np.fmax(np.fmax(deviation, usual), FLOOR)
    peer = tails.two_sided((placed - without_each(placed, group)) / spread)
    own_spread = np.fmax(1.2533 * np.asarray(a["own_spread"], dtype=np.float64), SIBLINGS_FLOOR)
    known = (seen >= OWN_LEAST) & ~np.isnan(np.asarray(a["own"], dtype=np.float64))
    own = np.where(known, tails.two_sided((placed - np.asarray(a["own"], dtype=np.float64)) / own_spread), np.nan)
    # both must speak: a pod may always have had more of the load, and all pods may have changed their places
    nats = np.minimum(np.where(np.isnan(own), peer, tails.either(np.minimum(peer, own), peer)), residual.MOST_SURPRISE)
    nats = np.where(np.isnan(own), nats, np.minimum(nats, 2 * own))
    worst, worst_nats = _worst(nats, group, size)
    score = residual.calibrated(np.asarray(groups["past"], dtype=np.float64), worst_nats)
    return a, Judged(
        apart=placed,
        nats=np.where(judged, nats, np.nan),
        siblings=np.where(judged, middle, np.nan),
        spread=spread,
        score=score,
        worst=worst,
        worst_nats=worst_nats,
    )


def learned(
    state: Arrays, groups: Arrays, said: Judged, group: IntArray, learn: BoolArray, step_seconds: float
) -> tuple[Arrays, Arrays]:
    """(state of pods, of groups) with this step taken in where `learn` (group,): no incident, no mark, no fault."""
    a, g = dict(state), dict(groups)
    # a pod that is odd from its birth is told once, by its siblings, and has its own place after two hours all the same
    young = np.asarray(state["seen"], dtype=np.float64) < OWN_LEAST
    taken = (learn[group] | young) & ~np.isnan(said.apart)
    own, spread = np.asarray(state["own"], dtype=np.float64), np.asarray(state["own_spread"], dtype=np.float64)
    part = np.clip(
        step_seconds
        / np.maximum(np.minimum(np.asarray(state["seen"], dtype=np.float64) - WARM_UP, OWN_MEMORY), step_seconds),
        0,
        1,
    )
    off = np.abs(said.apart - own)
    a["own"] = np.where(taken, np.where(np.isnan(own), said.apart, own + part * (said.apart - own)), own)
    first = taken & np.isnan(spread) & ~np.isnan(off)
    a["own_spread"] = np.where(first, off, np.where(taken & ~np.isnan(spread), spread + part * (off - spread), spread))
    size = len(np.asarray(groups["judged"]))
    away = np.where(taken, np.abs(said.apart), 0.0)
    count = np.bincount(group[taken], minlength=size)
    mean = np.bincount(group, weights=away, minlength=size) / np.maximum(count, 1)
    usual, seen = np.asarray(groups["siblings"], dtype=np.float64), np.asarray(groups["judged"], dtype=np.float64)
    some = count > 0
    share = step_seconds / np.clip(seen, step_seconds, OWN_MEMORY)
    g["siblings"] = np.where(some, np.where(np.isnan(usual), mean, usual + share * (mean - usual)), usual)
    g["judged"] = seen + some * step_seconds
    g.update(
        residual.learned(
            {"past": groups["past"], "spread": groups["spread"]}, said.worst_nats, said.worst_nats, learn & some
        )
    )
    return a, g


def accepted(state: Arrays, groups: BoolArray, group: IntArray) -> Arrays:
    """The state of pods after incidents of `groups` (group,) were accepted: each pod's place is where it is."""
    if not groups.any():
        return state
    rows = groups[group]
    own, apart = np.asarray(state["own"], dtype=np.float64), np.asarray(state["apart"], dtype=np.float64)
    return {**state, "own": np.where(rows & ~np.isnan(apart), apart, own)}


def without_each(values: FloatArray, group: IntArray) -> FloatArray:
    """(pod,) median of the other known values of a pod's group; NaN where there is no other. Any order of pods."""
    out = np.full(len(values), np.nan)
    known = np.flatnonzero(~np.isnan(values))
    if not len(known):
        return out
    order = known[np.lexsort((values[known], group[known]))]
    of = group[order]
    begins = np.flatnonzero(np.concatenate([[True], of[1:] != of[:-1]]))
    sizes = np.diff(np.concatenate([begins, [len(of)]]))
    first, size = np.repeat(begins, sizes), np.repeat(sizes, sizes)
    rank = np.arange(len(of)) - first
    others = size - 1
    # the k-th of the others is the k-th of all below a pod's own rank and the one after it from there on
    low, high = np.maximum(others - 1, 0) // 2, others // 2
    place = [first + np.minimum(at + (at >= rank), size - 1) for at in (low, high)]
    middle = (values[order][place[0]] + values[order][place[1]]) / 2
    out[order] = np.where(others > 0, middle, np.nan)
    return out


def sentence(workload: str, resource: str, pod: str, apart: float, siblings: float, count: int, since: str) -> str:
    """What happened, for people. `apart` is relative to the siblings' median."""
    where = "more" if apart > 0 else "less"
    return (
        f"{workload}: pod {pod} uses {abs(apart):.0%} {where} {resource} than its {count - 1} siblings, "
        f"whose median is {siblings:.4g}, since {since}"
    )


def _worst(nats: FloatArray, group: IntArray, size: int) -> tuple[IntArray, FloatArray]:
    """((group,), (group,)) the pod of the highest surprise, and that."""
    most = np.full(size, -np.inf)
    np.maximum.at(most, group, np.nan_to_num(nats, nan=-np.inf))
    worst = np.full(size, -1, dtype=np.int64)
    top = np.flatnonzero(~np.isnan(nats) & (nats >= most[group]))
    worst[group[top[::-1]]] = top[::-1]  # the first of equals
    return worst, np.where(worst >= 0, most, np.nan)
