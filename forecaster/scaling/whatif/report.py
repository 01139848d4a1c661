"""Receipts of many services in the form of the contract (docs/whatif.md), and as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forecaster.scaling.whatif import measures, shadow
from forecaster.scaling.whatif.hindsight import Beside, beside
from forecaster.scaling.whatif.measures import Change, Summary
from forecaster.scaling.whatif.play import Figures
from forecaster.scaling.whatif.receipt import DIAL, RISK, SAFE, Pair, Receipt
from forecaster.scaling.whatif.shadow import Shadow

SCHEMA_VERSION = 1
SATURATED_FROM = 0.02  # of the test part at the highest load: what came is a lower bound
UNFIT_FROM = 0.15  # mean difference of simulated and recorded replicas
COMPARED = ("forecaster", "forecaster_free", *SAFE, "persistence", "fresh_hpa")
TRUE = (0.5, 1.5)  # times what was asked: a dial within is near enough


@dataclass(frozen=True, slots=True)
class Recorded:
    """How far the simulated replicas of the user's HPA are from those that were."""

    difference: float  # mean of |simulated - recorded| over the mean recorded
    samples: int

    @property
    def unfit(self) -> bool:
        return not self.difference <= UNFIT_FROM


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What a run of the verb came to."""

    receipts: Sequence[Receipt]
    kinds: Mapping[str, tuple[str, ...]]  # series -> groups that it counts in; ("",) where there is but one
    left_out: Sequence[tuple[str, str]]  # (series, why)
    price: float | None = None  # of a replica-hour
    recorded: Mapping[str, Recorded] | None = None  # series -> simulated beside recorded
    shadows: Sequence[Shadow] = ()  # what a running service said, beside the replay's promise


def summaries(told: Told) -> list[tuple[int, str, str, Summary]]:
    """(start-up, group, policy, summary) of all series that have it."""
    out = []
    groups = dict.fromkeys(kind for one in told.receipts for kind in told.kinds[one.trial.name])
    for start_up in sorted({one.trial.start_up for one in told.receipts}):
        for kind in groups:
            some = _group(told, start_up, kind)
            for policy in COMPARED:
                entries = [one.entries[policy] for one in some if policy in one.entries]
                if entries:
                    out.append((start_up, kind, policy, measures.summary(entries)))
    return out


@dataclass(frozen=True, slots=True)
class Dial:
    """What one dial came to: all series of a group at one start-up time."""

    start_up: int
    group: str
    observed: str  # offered | served
    behind: str | None  # the floors: nothing | user_hpa; None where load is offered, for then it makes no difference
    asked: float
    came: tuple[float, ...]  # share of time, by series

    @property
    def pooled(self) -> float:
        return sum(self.came) / len(self.came)

    def within(self, least: float, most: float) -> int:
        """Series that came to between so many times what was asked."""
        return sum(least <= one / self.asked <= most for one in self.came)


def dials(told: Told) -> list[Dial]:
    """Load as offered, then as served, of all series for which that was played."""
    groups = dict.fromkeys(kind for one in told.receipts for kind in told.kinds[one.trial.name])
    out = []
    for start_up in sorted({one.trial.start_up for one in told.receipts}):
        for kind in groups:
            some = _group(told, start_up, kind)
            if not some:
                continue
            out += [
                Dial(start_up, kind, "offered", None, asked, tuple(one.dial[asked] for one in some)) for asked in DIAL
            ]
            played = [one.served for one in some if one.served is not None]
            for behind, asked in played[0] if played else ():
                came = tuple(one[behind, asked] for one in played)
                out.append(Dial(start_up, kind, "served", behind, asked, came))
    return out


def hindsights(told: Told) -> list[tuple[int, str, Beside]]:
    """(start-up, group, what a safe policy cost beside the HPA retuned in hindsight)."""
    groups = dict.fromkeys(kind for one in told.receipts for kind in told.kinds[one.trial.name])
    return [
        (start_up, kind, beside(policy, [one.hindsight[policy] for one in some]))
        for start_up in sorted({one.trial.start_up for one in told.receipts})
        for kind in groups
        if (some := _group(told, start_up, kind))
        for policy in SAFE
    ]


def _group(told: Told, start_up: int, kind: str) -> list[Receipt]:
    return [one for one in told.receipts if one.trial.start_up == start_up and kind in told.kinds[one.trial.name]]


def _against(policy: str) -> str:
    return "user_hpa" if policy in SAFE else "tuned_hpa"


# --- JSON ------------------------------------------------------------------------------------------------------------


def as_dict(told: Told) -> dict[str, Any]:
    """Fit for JSON: no infinity and no NaN, null instead."""
    return {
        "schemaVersion": SCHEMA_VERSION,
        "referenceRisk": RISK,
        "rows": [row for one in told.receipts for row in _rows(one, told.price)],
        "pairs": [_pair(one, pair) for one in told.receipts for pair in one.pairs],
        "frontier": [point for one in told.receipts for point in _frontier(one)],
        "summary": [
            {
                "startupSeconds": start_up,
                "group": kind,
                "policy": policy,
                "against": _against(policy),
                **_summary(found),
            }
            for start_up, kind, policy, found in summaries(told)
        ],
        "dial": [
            {
                "startupSeconds": one.start_up,
                "group": one.group,
                "observed": one.observed,
                "behind": one.behind,
                "asked": one.asked,
                "actualPooled": one.pooled,
                "series": len(one.came),
                "within": one.within(*TRUE),
            }
            for one in dials(told)
        ],
        "hindsight": [
            {
                "startupSeconds": start_up,
                "group": kind,
                "policy": one.policy,
                "series": one.series,
                "unreachable": one.unreachable,
                "noDearer": one.no_dearer,
                "replicaHoursChangeMedian": one.cost_median,
            }
            for start_up, kind, one in hindsights(told)
        ],
        "recorded": [
            {"series": name, "difference": _number(one.difference), "samples": one.samples, "unfit": one.unfit}
            for name, one in (told.recorded or {}).items()
        ],
        "shadow": [shadow.as_dict(one) for one in told.shadows],
        "leftOut": [{"series": name, "reason": why} for name, why in told.left_out],
    }


def _rows(one: Receipt, price: float | None) -> list[dict[str, Any]]:
    lower_bound = one.trial.saturated_share >= SATURATED_FROM
    return [
        {
            "series": one.trial.name,
            "policy": row.policy,
            "part": part,
            "startupSeconds": one.trial.start_up,
            "days": round(one.trial.test_days if part == "test" else one.trial.training_days, 2),
            "setting": row.words,
            **_figures(figures, price),
            "lowerBound": lower_bound,
        }
        for row in one.rows
        for part, figures in (("test", row.figures), ("training", row.training))
    ]


def _figures(figures: Figures, price: float | None) -> dict[str, Any]:
    money = {} if price is None else {"cost": round(figures.replica_hours * price, 2)}
    return {
        "replicaHours": figures.replica_hours,
        **money,
        "timeAboveCapacity": figures.time_above_capacity,
        "unmetLoad": figures.unmet_load,
        "scaleEvents": figures.scale_events,
        "reversals": figures.reversals,
    }


def _pair(one: Receipt, pair: Pair) -> dict[str, Any]:
    return {
        "series": one.trial.name,
        "startupSeconds": one.trial.start_up,
        "at": pair.at,
        "policy": pair.policy,
        "against": "tuned_hpa",
        "setting": pair.words,
        "training": _figures(pair.training, None),
        "test": _figures(pair.test, None),
        **_change(pair.change),
    }


def _change(change: Change) -> dict[str, Any]:
    return {
        "timeAboveCapacityChange": _number(change.time),
        "timeAboveCapacityInterval": [_number(value) for value in change.time_interval],
        "replicaHoursChange": _number(change.cost),
        "replicaHoursInterval": [_number(value) for value in change.cost_interval],
        "bothConditions": change.both,
    }


def _frontier(one: Receipt) -> list[dict[str, Any]]:
    import numpy as np

    out = []
    for policy in ("hpa", "forecaster"):
        points = [point for point in one.points if point.policy == policy]
        time, cost = np.array([point.time for point in points]), np.array([point.cost for point in points])
        for place in measures.frontier(time, cost):
            point = points[place]
            out.append(
                {
                    "series": one.trial.name,
                    "startupSeconds": one.trial.start_up,
                    "policy": policy,
                    "setting": point.words,
                    "replicaHoursOverOracle": point.cost,
                    "timeAboveCapacity": point.time,
                }
            )
    return out


def _summary(found: Summary) -> dict[str, Any]:
    return {
        "series": found.series,
        "equalCost": {
            "timeAboveCapacityChangeMedian": _number(found.time_median),
            "interval": [_number(value) for value in found.time_interval],
            "timeAboveCapacityChangePooled": _number(found.time_pooled),
            "replicaHoursChangeMedian": _number(found.time_cost_median),
            "scaleEventsRatioMedian": _number(found.events_median),
            "reversalsRatioMedian": _number(found.reversals_median),
            "bothConditions": found.both,
            "bothConditionsShare": found.both_share,
        },
        "equalRisk": {
            "replicaHoursChangeMedian": _number(found.risk_cost_median),
            "timeAboveCapacityChangeMedian": _number(found.risk_time_median),
            "gapClosed": _number(found.gap_closed),
        },
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


# --- text ------------------------------------------------------------------------------------------------------------


def as_text(told: Told, most: int = 12) -> str:
    """Tables: each service's policies where they are few, else what all of them come to."""
    parts = []
    for name, one in (told.recorded or {}).items():
        parts.append(recorded_line(name, one))
    parts += [shadow.as_text(one) for one in told.shadows]
    parts += [_one(one, told.price) for one in told.receipts[:most]]
    if len(told.receipts) > most:
        parts.append(f"{len(told.receipts)} receipts, {most} shown; all of them with --json.")
    if len(told.receipts) > 1:
        parts.append(all_text(told))
    if told.left_out:
        parts.append("\n".join([f"Left out, {len(told.left_out)}:", *(f"  {why}" for _, why in told.left_out)]))
    return "\n\n".join(parts)


def recorded_line(name: str, one: Recorded) -> str:
    said = f"{name}: the simulated HPA's replicas differ from the recorded ones by {one.difference:.0%} on average"
    if not one.samples:
        return f"{name}: no replicas of its HPA are recorded: whether the simulation fits is not known"
    verdict = "UNFIT: above 15 %, this receipt says little about this service" if one.unfit else "fit"
    return f"{said} ({one.samples} samples): {verdict}"


def _one(one: Receipt, price: float | None) -> str:
    trial = one.trial
    head = (
        f"{trial.name}, start-up {trial.start_up} s: test part {trial.test_days:.1f} days, settings from the "
        f"{trial.training_days:.1f} days before"
    )
    money = "" if price is None else f" {'cost':>10}"
    lines = [
        head,
        f"  {'policy':<20} {'replica-h':>10}{money} {'above cap.':>10} {'unmet':>8} {'events':>7} {'reversals':>9}"
        "  setting",
    ]
    for row in one.rows:
        f = row.figures
        paid = "" if price is None else f" {f.replica_hours * price:>10.2f}"
        lines.append(
            f"  {row.policy:<20} {f.replica_hours:>10.1f}{paid} {100 * f.time_above_capacity:>9.3f}% "
            f"{100 * f.unmet_load:>7.3f}% {f.scale_events:>7} {f.reversals:>9}  {row.words}"
        )
    lines.append("  beside the tuned HPA, in the test part (90 % interval over days):")
    lines += [_beside(pair) for pair in one.pairs if pair.policy in ("forecaster", "forecaster_free")]
    if not one.is_reachable:
        lines.append(
            f"  No HPA alone keeps time above capacity at {RISK:.1%} on the training part: the safest is shown."
        )
    if trial.saturated_share >= SATURATED_FROM:
        lines.append(
            f"  {trial.saturated_share:.0%} of the load lies at its highest value: it may have been cut there by what "
            "served it, and all figures are lower bounds."
        )
    return "\n".join(lines)


def _beside(pair: Pair) -> str:
    change = pair.change
    return (
        f"    {pair.policy:<18} {pair.at.replace('_', ' '):<10}  time above capacity {_percent(change.time)} "
        f"{_span(change.time_interval)}, replica-hours {_percent(change.cost)} {_span(change.cost_interval)}"
    )


def all_text(told: Told) -> str:
    lines = [
        "All series, test part.",
        "Equal cost: time above capacity, median [90 % interval over series] (pooled);",
        "replica-hours; both: no dearer than +2 % and time halved.",
        "Equal risk: replica-hours; share of the gap to the oracle that is closed.",
        f"  {'start-up':>8} {'group':<8} {'policy':<18} {'n':>3}  {'time above capacity':<30} {'cost':>6} {'both':>9}  "
        f"{'events':>6} {'revers.':>7}  {'cost':>6} {'gap':>6}",
    ]
    for start_up, kind, policy, s in summaries(told):
        time = f"{_percent(s.time_median)} {_span(s.time_interval)} ({_percent(s.time_pooled)})"
        lines.append(
            f"  {start_up:>6} s {kind:<8} {policy:<18} {s.series:>3}  {time:<30} {_percent(s.time_cost_median):>6} "
            f"{s.both:>3} of {s.series:<3} {s.events_median:>5.1f}x {s.reversals_median:>6.1f}x  "
            f"{_percent(s.risk_cost_median):>6} {_percent(s.gap_closed):>6}"
        )
    lines.append(f"  {' and '.join(SAFE)} stand beside the user's HPA, everything else beside the tuned one.")
    lines.append("Safety beside the cheapest HPA that was as safe, chosen in hindsight: replica-hours, median")
    for start_up, kind, one in hindsights(told):
        cost = "n/a" if one.cost_median is None else _percent(one.cost_median)
        lines.append(
            f"  {start_up:>6} s {kind:<8} {one.policy:<18} {cost:>5}, no dearer on {one.no_dearer} of {one.series} "
            f"({one.unreachable} of them: no HPA alone was as safe)"
        )
    lines.append("Risk dial, floors alone: asked -> came to, pooled (series within 0.5 to 1.5 times); load as observed")
    for dial in dials(told):
        seen = dial.observed if dial.behind is None else f"{dial.observed}, {dial.behind.replace('_', ' ')} behind"
        lines.append(
            f"  {dial.start_up:>6} s {dial.group:<8} {dial.asked:.1%} -> {dial.pooled:.2%} "
            f"({dial.within(*TRUE)} of {len(dial.came)})  {seen}"
        )
    return "\n".join(lines)


def _percent(share: float) -> str:
    return "n/a" if math.isnan(share) else "none before" if math.isinf(share) else f"{100 * share:+.0f}%"


def _span(interval: tuple[float, float]) -> str:
    return f"[{_percent(interval[0])}, {_percent(interval[1])}]"
