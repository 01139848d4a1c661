"""Floors of a whole past at once: the rules of `decision.decide`, tick by tick, and the risk dial of `risk.judge`.

Plain functions over arrays that mean the same interpreted and compiled. They are the live rules, without objects,
for the case that a receipt needs: a forecast at each tick, one workload, no schedule, no override, no fault; the tests
hold them to `decide`, `judge` and `issue`. A tick is 15 s, the decision interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecaster.compiling import compiled as machine_code
from forecaster.domain import BoolArray, FloatArray, IntArray
from forecaster.quantiles import at_level
from forecaster.scaling import decision, risk
from forecaster.scaling.hpa import SYNC_SECONDS
from forecaster.scaling.risk import patience

TICKS_A_MINUTE = 4
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


def needs(peaks: FloatArray, levels: tuple[float, ...], wanted: FloatArray, capacity: float) -> IntArray:
    """(tick, wanted level) replicas for the peak (tick, level); -1 where there is no forecast."""
    out = np.full((len(peaks), len(wanted)), -1, dtype=np.int64)
    known = ~np.isnan(peaks).any(axis=1)
    for column, level in enumerate(wanted.tolist()):
        load = np.maximum(at_level(peaks[known], levels, level), 0.0)
        out[known, column] = np.ceil(np.round(load / capacity, 6))
    return out


def most_needed(most_load: FloatArray, capacity: float | FloatArray) -> IntArray:
    """(tick,) the most that a forecast may ask for: 1.5 x the need of the highest load of 14 days."""
    most = np.ceil(np.round(most_load / capacity, 6))
    limit = np.maximum(np.ceil(np.round(decision.NEW_PEAK_RATIO * most, 6)), 1.0)
    return np.where(np.isfinite(most_load), limit, np.iinfo(np.int32).max).astype(np.int64)


def capped(need: IntArray, most_load: FloatArray, capacity: float) -> IntArray:
    """The forecast's word (tick, …) within what the highest load (tick,) of 14 days allows."""
    limit = most_needed(most_load, capacity)
    return np.asarray(np.minimum(need, limit.reshape(-1, *[1] * (need.ndim - 1))))


def floors_of(need: IntArray, rules: FloorRules, *, compiled: bool = True) -> IntArray:
    """(tick,) floors for `need` (tick,) of a level that stands; where that is -1, the user's own minimum."""
    out = np.empty(len(need), dtype=np.int64)
    _machine(run, compiled)(np.ascontiguousarray(need), out, _shape(rules))
    return out


def dialled(
    peaks: FloatArray,
    levels: tuple[float, ...],
    load: FloatArray,
    limit: IntArray,
    rules: FloorRules,
    *,
    capacity: float,
    lead_seconds: float,
    asked: float,
    compiled: bool = True,
) -> tuple[IntArray, FloatArray]:
    """(floors, levels), (tick,) each: the level turns on what each tick shows. `peaks` (tick, level), `load` (tick,).

    The load of a tick is known at the end of it, and judged then against the floors issued until its begin.
    `limit` (tick,): the most that a forecast may ask for, see `most_needed`.
    """
    dial = Dials([capacity], [lead_seconds], [asked], [rules], len(load), levels)
    nothing = np.zeros(1, dtype=np.bool_)
    issued = np.empty(len(load))
    _machine(run_dialled, compiled)(
        np.ascontiguousarray(peaks, dtype=np.float64),
        np.ascontiguousarray(load, dtype=np.float64),
        np.ascontiguousarray(limit, dtype=np.int64),
        nothing,
        issued,
        *dial.arrays,
    )
    return dial.floors[0], issued


class Dials:
    """Dialled floors of many rows in mid-air: `step` takes all of them on by one tick."""

    def __init__(
        self,
        capacity: Sequence[float],
        lead_seconds: Sequence[float],
        asked: Sequence[float],
        rules: Sequence[FloorRules],
        ticks: int,
        levels: tuple[float, ...],
    ) -> None:
        """`capacity`, `lead_seconds`, `asked` and `rules` (row,); room for `ticks`."""
        rows = len(capacity)
        lead = np.floor(np.minimum(lead_seconds, risk.LONGEST_LEAD) / SYNC_SECONDS)
        self._dial = np.column_stack((capacity, lead, asked))
        self._depth = np.clip(-np.log(np.asarray(asked, dtype=np.float64)), _SHALLOWEST, _DEEPEST)
        self.floors = np.zeros((rows, ticks), dtype=np.int64)
        self._memory = np.zeros((rows, _KEPT, 2))
        self._count = np.zeros(rows, dtype=np.int64)
        known = np.asarray(levels, dtype=np.float64)
        stretched = np.where(known >= 0.5, -np.log(2 * (1 - known)), np.log(2 * known))
        self.arrays = (
            self.floors,
            self._depth,
            self._memory,
            self._count,
            self._dial,
            stretched,
            np.stack([_shape(one) for one in rules]),
            np.array([risk.GAIN, _SHALLOWEST, _DEEPEST]),
        )

    @property
    def level(self) -> FloatArray:
        """(row,) that the floors of the last tick were issued at."""
        return np.asarray(-np.expm1(-self._depth))

    def step(
        self, tick: int, peaks: FloatArray, newest: FloatArray, limit: IntArray, saturated: BoolArray, least: IntArray
    ) -> IntArray:
        """(row,) floors of `tick`, from `peaks` (row, level) and what the tick before it showed.

        `newest` (row,) its load, `saturated` (row,) then: a miss, and `least` (row,) is wanted, like the floor before.
        """
        _machine(run_rows, True)(tick, peaks, newest, limit, saturated, least, *self.arrays)
        return self.floors[:, tick]


_SHALLOWEST, _DEEPEST = (-math.log1p(-level) for level in (risk.LOWEST_LEVEL, risk.HIGHEST_LEVEL))


def _shape(rules: FloorRules) -> FloatArray:
    return np.array(
        [rules.users_own, rules.most, rules.hold_seconds, rules.max_step_up_ratio, rules.max_step_down_ratio]
    )


# --- the loops -------------------------------------------------------------------------------------------------------


def run(need: Any, out: Any, shape: Any) -> None:
    """`need` (tick,) to `out` (tick,)."""
    memory = np.zeros((_KEPT, 2))
    count = 0
    for tick in range(need.shape[0]):
        count = ruled(out, tick, need[tick], memory, count, 1.0, shape)


def run_dialled(
    peaks: Any,
    load: Any,
    limit: Any,
    nothing: Any,
    issued: Any,
    out: Any,
    depth: Any,
    memory: Any,
    count: Any,
    dial: Any,
    stretched: Any,
    shape: Any,
    ends: Any,
) -> None:
    """One row over all its ticks: `peaks` (tick, level), `load` and `limit` (tick,) to `out` (1, tick)."""
    for tick in range(load.shape[0]):
        if tick > 0:
            depth[0] = turned(depth[0], load[tick - 1], False, out[0], tick - 1, dial[0], ends)
        issued[tick] = 1.0 - math.exp(-depth[0])
        wanted = needed(peaks[tick], stretched, depth[0], dial[0, 0], limit[tick])
        count[0] = ruled(out[0], tick, wanted, memory[0], count[0], patience(issued[tick]), shape[0])


def run_rows(
    tick: Any,
    peaks: Any,
    newest: Any,
    limit: Any,
    saturated: Any,
    least: Any,
    out: Any,
    depth: Any,
    memory: Any,
    count: Any,
    dial: Any,
    stretched: Any,
    shape: Any,
    ends: Any,
) -> None:
    """All rows over one tick; see `Dials.step`."""
    for row in range(newest.shape[0]):
        if tick > 0:
            depth[row] = turned(depth[row], newest[row], saturated[row], out[row], tick - 1, dial[row], ends)
        wanted = needed(peaks[row], stretched, depth[row], dial[row, 0], limit[row])
        if saturated[row]:
            wanted = max(wanted, min(least[row], limit[row]))
            if tick > 0:
                wanted = max(wanted, out[row, tick - 1])
        level = 1.0 - math.exp(-depth[row])
        count[row] = ruled(out[row], tick, wanted, memory[row], count[row], patience(level), shape[row])


def needed(peak: Any, stretched: Any, depth: float, capacity: float, limit: int) -> int:
    """Replicas for the quantile of `peak` (level,) at `depth`, as `quantiles.at_level`; -1 where there is none."""
    for value in peak:
        if math.isnan(value):
            return -1
    level = 1.0 - math.exp(-depth)
    x = depth - math.log(2.0) if level >= 0.5 else math.log(2.0 * level)
    right = 1
    while right < len(stretched) - 1 and stretched[right] < x:
        right += 1
    left = right - 1
    share = (x - stretched[left]) / (stretched[right] - stretched[left])
    load = max(peak[left] + share * (peak[right] - peak[left]), 0.0)
    replicas: int = min(math.ceil(round(load / capacity, 6)), limit)
    return replicas


def ruled(out: Any, tick: int, wanted: int, memory: Any, count: int, patient: float, shape: Any) -> int:
    """Writes the floor of `tick` to `out` (tick,), for `wanted` replicas; returns the entries of the hold's memory.

    `patient`: share of the hold and of the dead band that counts, see `risk.patience`.
    """
    own, most, hold = int(shape[0]), int(shape[1]), shape[2] * patient
    before = out[tick - 1] if tick > 0 else -1
    if wanted < 0:
        wanted = own
    count = remembered(memory, count, tick * SYNC_SECONDS, hold, wanted)
    floor = wanted
    if before >= 0 and wanted < before and memory[0, 1] > wanted:
        floor = min(int(memory[0, 1]), before)
    if before >= 0 and floor > own and floor < before and before - floor < patient * max(2.0, 0.1 * before):
        floor = before
    ago = out[tick - TICKS_A_MINUTE] if tick >= TICKS_A_MINUTE else own
    highest = ago
    for back in range(1, TICKS_A_MINUTE + 1):
        if back <= tick:
            highest = max(highest, out[tick - back])
    up = ago + max(1, math.floor(round(ago * shape[3], 6)))
    down = highest - max(1, math.floor(round(highest * shape[4], 6)))
    floor = min(floor, up if before < 0 else max(up, before))
    out[tick] = min(max(floor, down, own), most)
    return count


def remembered(memory: Any, count: int, now: float, hold: float, wanted: int) -> int:
    """Entries of the hold's memory (time, want) after `wanted`: falling, no older than the hold; see `decision`."""
    kept = 0
    for i in range(count):
        if memory[i, 0] > now - hold and memory[i, 1] > wanted:
            memory[kept, 0], memory[kept, 1] = memory[i, 0], memory[i, 1]
            kept += 1
    memory[kept, 0], memory[kept, 1] = now, wanted
    kept += 1
    while kept > _MOST_KEPT:  # the second and third become one: the higher want, until the time of the lower one
        memory[1, 0] = memory[2, 0]
        for i in range(2, kept - 1):
            memory[i, 0], memory[i, 1] = memory[i + 1, 0], memory[i + 1, 1]
        kept -= 1
    return kept


def turned(depth: float, load: float, saturated: bool, out: Any, tick: int, dial: Any, ends: Any) -> float:
    """The dial's depth after the load of `tick`: pods asked for at the begin of the lead time are there now."""
    lead = int(dial[1])
    if tick - lead < 0 or math.isnan(load):
        return depth
    obeyed = out[tick]
    for back in range(lead + 1):
        obeyed = min(obeyed, out[tick - back])
    missed = 1.0 if saturated or load > dial[0] * obeyed * (1.0 + 1e-9) else 0.0
    moved: float = min(max(depth + ends[0] * (missed - dial[2]), ends[1]), ends[2])
    return moved


def _machine(loop: Callable[..., None], compiled: bool) -> Callable[..., None]:
    """A loop, as machine code where that is asked for."""
    return machine_code(loop, (remembered, ruled, turned, needed, patience)) if compiled else loop
