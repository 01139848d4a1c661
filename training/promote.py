"""The gate between challenger and champion, and what a promotion and a roll-back write. No data, no network is read.

The gate compares two models on the same moments of a part of the past that neither has learned from. Its unit is the
block: one workload on one day, the mean over the workload's rows of log(loss of the challenger / loss of the champion).
The mean over workloads is put beside its bootstrap distribution (workloads are drawn, then days within each:
Davison and Hinkley, "Bootstrap Methods and their Application", 1997, 3.8), for the days of one workload are alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from forecaster.domain import BoolArray, FloatArray, IntArray
from models.registry import PREVIOUS, Registry, Version

ROLLED_BACK = "forecaster.rolledBack"  # tag of a version: when an operator took it back
LEAST_BLOCKS = 8  # below, a percentile of the bootstrap promises more than it holds
_MOST_RATIO = 10.0  # one block counts as ten times better or worse at most
_LEAST_ANSWERED = 0.99  # of the champion's forecasts, the challenger must give


@dataclass(frozen=True, slots=True)
class Gate:
    """How much better a challenger must be."""

    margin: float = 0.01  # of the loss
    confidence: float = 0.95
    worst: float = 0.05  # by which a protected workload's loss may grow
    resamples: int = 2_000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate has found; `reasons` say why not, and are empty for a promotion."""

    reasons: tuple[str, ...]
    mean_log_ratio: float = math.nan  # below 0: the challenger is better
    upper_log_ratio: float = math.nan  # end of its one-sided confidence interval
    blocks: int = 0
    by_workload: Mapping[str, float] = field(default_factory=dict)  # loss of the challenger over that of the champion

    @property
    def promote(self) -> bool:
        return not self.reasons

    def figures(self) -> dict[str, float]:
        """Finite numbers by name, as they are recorded."""
        ratios = sorted(self.by_workload.values())
        found = {
            "gate_mean_log_ratio": self.mean_log_ratio,
            "gate_upper_log_ratio": self.upper_log_ratio,
            "gate_loss_ratio": math.exp(self.mean_log_ratio),
            "gate_blocks": float(self.blocks),
            "gate_workloads": float(len(ratios)),
            "gate_better_ratio": sum(ratio < 1 for ratio in ratios) / len(ratios) if ratios else math.nan,
            "gate_worst_ratio": ratios[-1] if ratios else math.nan,
        }
        return {name: value for name, value in found.items() if math.isfinite(value)}


def judge(
    champion: FloatArray,
    challenger: FloatArray,
    workloads: Sequence[str],
    days: IntArray,
    protected: BoolArray,
    gate: Gate,
) -> Verdict:
    """Losses (row, origin) of both, NaN where there is none; the workload of each row, the day (origin,), and which
    rows (row,) no promotion may make worse."""
    both = np.isfinite(champion) & np.isfinite(challenger)
    asked = int(np.isfinite(champion).sum())
    if not both.any():
        return Verdict(("there is no moment at which both models could be compared",))
    reasons = []
    if both.sum() < _LEAST_ANSWERED * asked:
        reasons.append(f"the challenger has a forecast for {both.sum() / asked:.1%} of the champion's only")
    names = list(dict.fromkeys(workloads))
    place = {name: i for i, name in enumerate(names)}
    rows_of = np.array([place[name] for name in workloads], dtype=np.int64)
    sums = [_by_day(np.where(both, loss, 0.0), days) for loss in (champion, challenger)]
    counted = _by_day(both.astype(np.float64), days) > 0
    blocks = _by_workload(_log_ratio(sums[0], sums[1], counted), rows_of, len(names))  # (workload, day)
    known = ~np.isnan(blocks)
    mean = float(np.nanmean(blocks[known.any(axis=1)], axis=1).mean())
    upper = float(np.quantile(_resampled(blocks, gate), gate.confidence))
    whole = _log_ratio(sums[0].sum(axis=1), sums[1].sum(axis=1), np.asarray(counted.any(axis=1)))
    ratios = np.exp(_by_workload(whole[:, None], rows_of, len(names))[:, 0])
    if known.sum() < LEAST_BLOCKS:
        reasons.append(f"{known.sum()} days of workloads are too few to judge by: {LEAST_BLOCKS} are needed")
    if not upper < math.log1p(-gate.margin):
        reasons.append(
            f"the loss is {math.exp(mean):.3f} times the champion's, at most {math.exp(upper):.3f} with "
            f"{gate.confidence:.0%} confidence: below {1 - gate.margin:.3f} is needed"
        )
    guarded = np.flatnonzero(protected & (whole > math.log1p(gate.worst)))
    if len(guarded):
        worst = int(guarded[whole[guarded].argmax()])
        reasons.append(
            f"{workloads[worst]} is scaled and its loss grows {math.exp(whole[worst]):.2f} times"
            + (f", {len(guarded) - 1} more like it" if len(guarded) > 1 else "")
        )
    return Verdict(
        reasons=tuple(reasons),
        mean_log_ratio=mean,
        upper_log_ratio=upper,
        blocks=int(known.sum()),
        by_workload={name: float(ratio) for name, ratio in zip(names, ratios, strict=True) if math.isfinite(ratio)},
    )


def _by_day(values: FloatArray, days: IntArray) -> FloatArray:
    """(row, day) sums of (row, origin)."""
    return np.stack([values[:, days == day].sum(axis=1) for day in np.unique(days)], axis=1)


def _log_ratio(champion: FloatArray, challenger: FloatArray, counted: BoolArray) -> FloatArray:
    """log(challenger / champion), clipped; 0 where both are 0, NaN where nothing was counted."""
    tiny = 1e-12 * np.maximum(np.abs(champion), np.abs(challenger)) + 1e-300
    ratio = np.log((challenger + tiny) / (champion + tiny))
    limit = math.log(_MOST_RATIO)
    return np.asarray(np.where(counted, np.clip(ratio, -limit, limit), np.nan))


def _by_workload(values: FloatArray, rows_of: IntArray, count: int) -> FloatArray:
    """(workload, …) mean over its rows of what is known; NaN where nothing is."""
    known = ~np.isnan(values)
    total, number = np.zeros((count, values.shape[1])), np.zeros((count, values.shape[1]))
    np.add.at(total, rows_of, np.where(known, values, 0.0))
    np.add.at(number, rows_of, known)
    return np.asarray(total / np.where(number > 0, number, np.nan))


def _resampled(blocks: FloatArray, gate: Gate) -> FloatArray:
    """(resample,) means over drawn workloads of the means over drawn days."""
    random = np.random.default_rng(gate.seed)
    some = blocks[(~np.isnan(blocks)).any(axis=1)]
    counts = (~np.isnan(some)).sum(axis=1)
    order = np.argsort(np.isnan(some), axis=1, kind="stable")  # known days first
    packed = np.nan_to_num(np.take_along_axis(some, order, axis=1))
    inside = np.arange(packed.shape[1])[None, :]
    out = np.empty(gate.resamples)
    for i in range(gate.resamples):
        drawn = random.integers(len(packed), size=len(packed))
        number = counts[drawn]
        day = (random.random((len(drawn), packed.shape[1])) * number[:, None]).astype(np.int64)
        taken = packed[drawn[:, None], day] * (inside < number[:, None])
        out[i] = (taken.sum(axis=1) / number).mean()
    return out


# --- what is written -------------------------------------------------------------------------------------------------


def promote(registry: Registry, alias: str, version: Version) -> str | None:
    """Makes the alias mean `version`; says why not where an operator has rolled it back before.

    The version's own tags name the champion before it, and its digest, since it was made: this is one write, the last.
    """
    current = registry.version(version.number) or version
    taken_back = current.tags.get(ROLLED_BACK)
    if taken_back is not None:
        return f"version {version.number} was rolled back at {taken_back}: it is not promoted again"
    registry.point(alias, version)
    return None


def roll_back(registry: Registry, alias: str, now: datetime) -> tuple[Version, Version] | str:
    """Makes the alias mean the champion before this one: (left, taken), or why there is none.

    The version that is left is marked first, so that no job promotes it again, even if this is cut off here.
    """
    left = registry.resolve(alias)
    if left is None:
        return f"{alias} means no version of {registry.name}"
    number = left.tags.get(PREVIOUS)
    taken = registry.version(number) if number else None
    if taken is None:
        return f"version {left.number} of {registry.name} has no champion before it"
    registry.tag(left, ROLLED_BACK, now.isoformat(timespec="seconds"))
    registry.point(alias, taken)
    return left, taken
