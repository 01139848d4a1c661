"""Floors of a whole past at once: the rules of `decision.decide`, tick by tick, and the risk dial of `risk.judge`.

Plain functions over arrays that mean the same interpreted and compiled. They are the live rules, without objects,
for the case that a receipt needs: a forecast at each tick, one workload, no schedule, no override, no fault; the tests
hold them to `decide`, `judge` and `issue`. A tick is 15 s, the decision interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecaster.compiling import compiled as machine_code
from forecaster.domain import FloatArray, IntArray
from forecaster.quantiles import at_level
from forecaster.scaling import decision, risk
from forecaster.scaling.hpa import SYNC_SECONDS

TICKS_A_MINUTE = 4
DEPTHS = 64  # levels that the dial can stand at; it takes the next one above what it wants
FIXED, DIALLED = 0, 1
_KEPT = 26  # of the hold's memory; decision._WANTED_KEPT and room for the newest
_MOST_KEPT = 24


@dataclass(frozen=True, slots=True)
class FloorRules:
    """What of the configuration shapes a floor."""

    users_own: int
    most: int
    hold_seconds: float = 300.0
    max_step_up_ratio: float = 1.0
    max_step_down_ratio: float = 0.2


def depth_levels() -> FloatArray:
    """(DEPTHS,) the levels that the dial can stand at, even in -log(1 - level)."""
    ends = -np.log1p(-np.array([risk.LOWEST_LEVEL, risk.HIGHEST_LEVEL]))
    return np.asarray(-np.expm1(-np.linspace(ends[0], ends[1], DEPTHS)))


def needs(peaks: FloatArray, levels: tuple[float, ...], wanted: FloatArray, capacity: float) -> IntArray:
    """(tick, wanted level) replicas for the peak (tick, level); -1 where there is no forecast."""
    out = np.full((len(peaks), len(wanted)), -1, dtype=np.int64)
    known = ~np.isnan(peaks).any(axis=1)
    for column, level in enumerate(wanted.tolist()):
        load = np.maximum(at_level(peaks[known], levels, level), 0.0)
        out[known, column] = np.ceil(np.round(load / capacity, 6))
    return out


def capped(need: IntArray, most_load: FloatArray, capacity: float) -> IntArray:
    """The forecast's word (tick, …) within 1.5 x the need of the highest load (tick,) of 14 days: no `allowNewPeak`."""
    most = np.ceil(np.round(most_load / capacity, 6))
    limit = np.maximum(np.ceil(np.round(decision.NEW_PEAK_RATIO * most, 6)), 1.0)
    limit = np.where(np.isfinite(most_load), limit, np.iinfo(np.int32).max).astype(np.int64)
    return np.asarray(np.minimum(need, limit.reshape(-1, *[1] * (need.ndim - 1))))


def floors_of(need: IntArray, rules: FloorRules, *, compiled: bool = True) -> IntArray:
    """(tick,) floors for `need` (tick,); where that is -1, the user's own minimum."""
    out = np.empty(len(need), dtype=np.int64)
    shape = _shape(rules)
    nothing = np.zeros(1)
    _run(compiled)(np.ascontiguousarray(need[:, None]), out, nothing, nothing, shape, np.zeros(6), FIXED)
    return out


def dialled(
    need: IntArray,
    load: FloatArray,
    rules: FloorRules,
    *,
    capacity: float,
    lead_seconds: float,
    asked: float,
    compiled: bool = True,
) -> tuple[IntArray, FloatArray]:
    """(floors, levels), (tick,) each: the level turns on what each tick shows. `need` (tick, DEPTHS), `load` (tick,).

    The load of a tick is known at the end of it, and judged then against the floors issued until its begin.
    """
    out, level = np.empty(len(need), dtype=np.int64), np.empty(len(need))
    dial = np.array(
        [
            capacity,
            math.floor(min(lead_seconds, risk.LONGEST_LEAD) / SYNC_SECONDS),
            asked,
            risk.GAIN,
            -math.log1p(-risk.LOWEST_LEVEL),
            -math.log1p(-risk.HIGHEST_LEVEL),
        ]
    )
    loads = np.ascontiguousarray(load, dtype=np.float64)
    _run(compiled)(np.ascontiguousarray(need), out, loads, level, _shape(rules), dial, DIALLED)
    return out, level


def _shape(rules: FloorRules) -> FloatArray:
    return np.array(
        [rules.users_own, rules.most, rules.hold_seconds, rules.max_step_up_ratio, rules.max_step_down_ratio]
    )


# --- the loop --------------------------------------------------------------------------------------------------------


def run(need: Any, out: Any, load: Any, levels: Any, shape: Any, dial: Any, kind: int) -> None:
    """`need` (tick, level) to `out` (tick,); with a dial the column turns with `load`, `levels` (tick,) says how."""
    own, most, hold = int(shape[0]), int(shape[1]), shape[2]
    times, wants = np.zeros(_KEPT), np.zeros(_KEPT, dtype=np.int64)
    count = 0
    before = -1
    depth = min(max(-math.log(dial[2]), dial[4]), dial[5]) if kind == DIALLED else 0.0
    columns = need.shape[1]
    for tick in range(need.shape[0]):
        column = 0
        if kind == DIALLED:
            if tick > 0:
                depth = turned(depth, load[tick - 1], out, tick - 1, dial)
            place = (depth - dial[4]) / (dial[5] - dial[4]) * (columns - 1)
            column = min(math.ceil(round(place, 9)), columns - 1)
            levels[tick] = 1.0 - math.exp(-depth)
        wanted = need[tick, column]
        if wanted < 0:
            wanted = own
        now = tick * SYNC_SECONDS
        count = remembered(times, wants, count, now, hold, wanted)
        floor = wanted
        if before >= 0 and wanted < before and wants[0] > wanted:
            floor = min(wants[0], before)
        if before >= 0 and floor > own and floor < before and before - floor < max(2.0, 0.1 * before):
            floor = before
        ago = out[tick - TICKS_A_MINUTE] if tick >= TICKS_A_MINUTE else own
        highest = ago
        for back in range(1, TICKS_A_MINUTE + 1):
            if back <= tick:
                highest = max(highest, out[tick - back])
        up = ago + max(1, math.floor(round(ago * shape[3], 6)))
        down = highest - max(1, math.floor(round(highest * shape[4], 6)))
        floor = min(floor, up if before < 0 else max(up, before))
        floor = min(max(floor, down, own), most)
        out[tick] = floor
        before = floor


def remembered(times: Any, wants: Any, count: int, now: float, hold: float, wanted: int) -> int:
    """Entries of the hold's memory after `wanted`: falling, no older than the hold; see `decision._Rules.hold`."""
    kept = 0
    for i in range(count):
        if times[i] > now - hold and wants[i] > wanted:
            times[kept], wants[kept] = times[i], wants[i]
            kept += 1
    times[kept], wants[kept] = now, wanted
    kept += 1
    while kept > _MOST_KEPT:  # the second and third become one: the higher want, until the time of the lower one
        times[1] = times[2]
        for i in range(2, kept - 1):
            times[i], wants[i] = times[i + 1], wants[i + 1]
        kept -= 1
    return kept


def turned(depth: float, load: float, out: Any, tick: int, dial: Any) -> float:
    """The dial's depth after the load of `tick`: pods asked for at the begin of the lead time are there now."""
    lead = int(dial[1])
    if tick - lead < 0:
        return depth
    obeyed = out[tick]
    for back in range(lead + 1):
        obeyed = min(obeyed, out[tick - back])
    missed = 1.0 if load > dial[0] * obeyed * (1.0 + 1e-9) else 0.0
    moved: float = min(max(depth + dial[3] * (missed - dial[2]), dial[4]), dial[5])
    return moved


def _run(compiled: bool) -> Callable[..., None]:
    """`run`, as machine code where that is asked for."""
    return machine_code(run, (remembered, turned)) if compiled else run
