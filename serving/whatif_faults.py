"""`forecaster whatif --faults`: replays the forecasters on what each fault makes of a past, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from forecaster.scaling.whatif import faults, peaks
from forecaster.scaling.whatif.faults import FAULTS, Fault, Outcome, Total
from forecaster.scaling.whatif.trial import Trial
from models.fits import FitCache
from models.persistence import Persistence
from serving.whatif import mixture_of

SCHEMA_VERSION = 1


def outcomes(trials: Sequence[Trial], done: Callable[[float], None] = lambda share: None) -> list[Outcome]:
    """Every trial under every fault."""
    out: list[Outcome] = []
    groups = sorted({(one.step, one.start_up) for one in trials})
    heard: dict[tuple[int, str], list[faults.Heard]] = {}
    turns = len(groups) * len(FAULTS)
    for number, (step, start_up) in enumerate(groups):
        start_ups = sorted({one.start_up for one in trials if one.step == step})
        for place, fault in enumerate(FAULTS):
            some = [faults.shortened(one, fault) for one in trials if (one.step, one.start_up) == (step, start_up)]
            history = fault.name if _changes_the_load(fault) else ""
            if (step, history) not in heard:
                heard[step, history] = _heard(some, start_ups)
            out += _under(some, heard[step, history], fault, start_ups.index(start_up))
            done((number * len(FAULTS) + place + 1) / turns)
    return out


def _changes_the_load(fault: Fault) -> bool:
    return fault.name.startswith("regime") or fault.name == "poisoned"


def _heard(trials: Sequence[Trial], start_ups: Sequence[int]) -> list[faults.Heard]:
    mixture, profile = mixture_of(trials, start_ups)
    last = peaks.replay(trials, Persistence(cache=FitCache(renews=False)), start_ups)
    return [
        {"blend": one, "profile": two, "persistence": three}
        for one, two, three in zip(mixture, profile, last, strict=True)
    ]


def _under(trials: Sequence[Trial], heard: Sequence[faults.Heard], fault: Fault, column: int) -> list[Outcome]:
    spans = [faults.spans_of(one, fault) for one in trials]
    some = [i for i, one in enumerate(spans) if one]
    spoilt = [faults.spoilt(heard[i], fault, spans[i], trials[i].step) for i in some]
    told = faults.chosen([trials[i] for i in some], spoilt, column) if some else []
    return [
        faults.outcome(trials[i], said, who, column, fault, spans[i]) for i, (said, who) in zip(some, told, strict=True)
    ]


def as_dict(found: Sequence[Outcome]) -> dict[str, Any]:
    """The form of the contract (docs/whatif.md)."""
    return {
        "schemaVersion": SCHEMA_VERSION,
        "bounds": {
            "timeAboveCapacity": faults.MOST_TIME,
            "replicaHours": faults.MOST_COST,
            "secondsPerDeath": faults.MOST_DEATH,
        },
        "totals": [_total(one) for one in faults.totals(found)],
        "rows": [_row(one) for one in found],
    }


def _total(one: Total) -> dict[str, Any]:
    return {
        "startupSeconds": one.start_up,
        "fault": one.fault,
        "what": one.words,
        "series": one.series,
        "timeAboveCapacity": one.time,
        "timeAboveCapacityAlone": one.time_alone,
        "worstTimeDifference": one.worst_time,
        "replicaHoursChange": one.cost,
        "worstReplicaHoursChange": one.worst_cost,
        "extraSecondsPerSpan": one.extra_seconds,
        "otherForecaster": one.switched,
        "holds": one.holds,
    }


def _row(one: Outcome) -> dict[str, Any]:
    return {
        "series": one.series,
        "startupSeconds": one.start_up,
        "fault": one.fault,
        "seconds": one.seconds,
        "timeAboveCapacity": one.above / one.seconds,
        "timeAboveCapacityAlone": one.above_alone / one.seconds,
        "replicaHours": one.replica_hours,
        "replicaHoursAlone": one.replica_hours_alone,
        "boundedSecondsAbove": one.bounded_above,
        "boundedSecondsAboveAlone": one.bounded_above_alone,
        "spans": one.spans,
        "otherForecaster": one.switched,
    }


def as_text(found: Sequence[Outcome]) -> str:
    """A table for the terminal."""
    lines = []
    for start_up in sorted({one.start_up for one in found}):
        some = [one for one in faults.totals(found) if one.start_up == start_up]
        count = max(one.series for one in some)
        lines.append(f"start-up {start_up} s, {count} series: a floor dialled at 1 % on the HPA")
        lines.append(_HEAD)
        lines += [_line(one) for one in some]
        lines.append("")
    lines += [f"{one.name}: {one.words}" for one in FAULTS]
    lines += [
        "worst: of one series, in points and per cent. extra s: above capacity beyond the HPA's while what was said",
        "before still counts, for each span. other: share of time in which the chain used another forecaster.",
    ]
    return "\n".join(lines)


_HEAD = (
    f"{'fault':<12} {'above capacity':>15} {'HPA alone':>10} {'worst':>8} {'replica-hours':>14} {'worst':>8} "
    f"{'extra s':>8} {'other':>6}  holds"
)


def _line(one: Total) -> str:
    return (
        f"{one.fault:<12} {100 * one.time:>13.3f} % {100 * one.time_alone:>8.3f} % {100 * one.worst_time:>+7.2f} "
        f"{100 * one.cost:>+12.1f} % {100 * one.worst_cost:>+6.1f} % {one.extra_seconds:>+8.1f} "
        f"{100 * one.switched:>4.0f} %  {'yes' if one.holds else 'NO'}"
    )
