"""What faults came to, over many series: as JSON, and as the table of docs/whatif.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecaster.scaling.whatif import faults
from forecaster.scaling.whatif.faults import Outcome
from forecaster.scaling.whatif.trial import Trial

SCHEMA_VERSION = 2
Found = Sequence[tuple[Trial, tuple[Outcome, ...]]]
_SAID = {
    "nan": "NaN",
    "frozen": "the same for ever",
    "x10": "10 times too much",
    "x0": "0",
    "late": "the word of an hour ago",
}
WORDS = {
    "none": "nothing fails",
    "dead": "service dead for 2 h, each 31 h",
    **{f"model_{how}": f"model says {_SAID[how]}" for how in faults.WRONG},
    **{f"both_{how}": f"model and profile say {_SAID[how]}" for how in faults.WRONG},
    "regime_up": "load doubles for good",
    "regime_down": "load halves for good",
    "incident": "week before: 4 h a day at 3 times the load",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One fault over all series at one start-up time; differences to the HPA alone."""

    start_up: int
    kind: str
    series: int
    time: float  # share of time, mean over series
    time_worst: float
    time_kept: int  # series within the bound
    cost: float  # of replica-hours, pooled
    cost_median: float
    cost_worst: float
    cost_kept: int
    cost_over_sound: float  # pooled: what the fault itself costs, over a sound forecaster's cost
    extra_minutes: float | None  # above capacity in each death; None: nobody died

    @property
    def kept(self) -> bool:
        """All bounds, over all series together."""
        extra = self.extra_minutes is None or self.extra_minutes <= faults.MOST_EXTRA
        return self.time <= faults.MOST_TIME and self.cost <= faults.MOST_COST and extra


def lines(found: Found) -> list[Line]:
    out = []
    for start_up in sorted({trial.start_up for trial, _ in found}):
        here = [outcomes for trial, outcomes in found if trial.start_up == start_up]
        sound = _cost([_of(one, faults.NONE) for one in here])
        for kind in faults.KINDS:
            some = [_of(one, kind) for one in here]
            time, cost = np.array([one.time for one in some]), np.array([one.cost for one in some])
            deaths = sum(one.deaths for one in some)
            out.append(
                Line(
                    start_up,
                    kind,
                    len(some),
                    float(time.mean()),
                    float(time.max()),
                    int((time <= faults.MOST_TIME).sum()),
                    _cost(some),
                    float(np.median(cost)),
                    float(cost.max()),
                    int((cost <= faults.MOST_COST).sum()),
                    (1 + _cost(some)) / (1 + sound) - 1,
                    sum(one.extra_minutes for one in some) / deaths if deaths else None,
                )
            )
    return out


def _of(outcomes: Sequence[Outcome], kind: str) -> Outcome:
    return next(one for one in outcomes if one.kind == kind)


def _cost(some: Sequence[Outcome]) -> float:
    """Each series counts the same: a large service must not drown the others."""
    return float(np.mean([one.replica_hours / one.replica_hours_hpa for one in some]) - 1.0)


def as_dict(found: Found, left_out: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return {
        "schemaVersion": SCHEMA_VERSION,
        "bounds": {
            "timeAboveCapacity": faults.MOST_TIME,
            "replicaHours": faults.MOST_COST,
            "extraMinutesEachDeath": faults.MOST_EXTRA,
        },
        "summary": [
            {
                "startupSeconds": one.start_up,
                "fault": one.kind,
                "series": one.series,
                "timeAboveCapacityDifference": one.time,
                "timeAboveCapacityWorst": one.time_worst,
                "timeWithin": one.time_kept,
                "replicaHoursDifference": one.cost,
                "replicaHoursMedian": one.cost_median,
                "replicaHoursWorst": one.cost_worst,
                "replicaHoursWithin": one.cost_kept,
                "replicaHoursOverSound": one.cost_over_sound,
                "extraMinutesEachDeath": one.extra_minutes,
                "kept": one.kept,
            }
            for one in lines(found)
        ],
        "rows": [
            {
                "series": trial.name,
                "startupSeconds": trial.start_up,
                "fault": one.kind,
                "timeAboveCapacity": one.above / one.seconds,
                "timeAboveCapacityHpa": one.above_hpa / one.seconds,
                "replicaHours": one.replica_hours,
                "replicaHoursHpa": one.replica_hours_hpa,
                "deaths": one.deaths,
                "extraMinutes": one.extra_minutes,
            }
            for trial, outcomes in found
            for one in outcomes
        ],
        "leftOut": [{"series": name, "reason": why} for name, why in left_out],
    }


def as_text(found: Found, left_out: Sequence[tuple[str, str]]) -> str:
    """A table in Markdown, which docs/whatif.md shows as it is."""
    said = lines(found)
    many = said[0].series if said else 0
    out = [
        f"Beside the HPA alone, from the onset of the fault to the end of the test part, {many} series; replica-hours "
        "without validity and walk back.",
        "",
        "| start-up | fault | time above capacity, points | worst series | within | replica-hours | median | "
        "worst series | within | of it the fault's own | extra minutes each death |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in said:
        extra = "" if one.extra_minutes is None else f"{one.extra_minutes:+.2f}"
        out.append(
            f"| {one.start_up} s | {WORDS[one.kind]} | {100 * one.time:+.2f} | {100 * one.time_worst:+.2f} | "
            f"{one.time_kept} of {one.series} | {100 * one.cost:+.1f} % | {100 * one.cost_median:+.1f} % | "
            f"{100 * one.cost_worst:+.1f} % | {one.cost_kept} of {one.series} | {100 * one.cost_over_sound:+.1f} % | "
            f"{extra} |"
        )
    broken = [one for one in said if not one.kept]
    out += [
        "",
        f"Bounds, mean over series: {100 * faults.MOST_TIME:+.1f} points, {100 * faults.MOST_COST:+.0f} % "
        f"replica-hours, {faults.MOST_EXTRA} minutes each death: "
        + ("all are kept." if not broken else f"{len(said) - len(broken)} of {len(said)} lines keep them."),
    ]
    if left_out:
        out += ["", f"Left out, {len(left_out)}:", *(f"  {why}" for _, why in left_out)]
    return "\n".join(out)
