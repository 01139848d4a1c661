"""What a benchmark of anomaly detection found, as tables for the terminal and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from training.anomalies.events import Outcome
from training.anomalies.faults import FaultRow
from training.anomalies.nulls import NullRow
from training.anomalies.run import BUDGETS, FamilyRow, Told
from training.benchmark.panels import Skipped
from training.benchmark.writing import digits, new_table, percent, terminal, without_nan

SCHEMA_VERSION = 1


# --- JSON ------------------------------------------------------------------------------------------------------------


def as_json(told: Told, by_series: bool, nulls: Sequence[NullRow], faults: Sequence[FaultRow]) -> str:
    """Figures that are not known are null."""
    out: dict[str, Any] = {
        "schemaVersion": SCHEMA_VERSION,
        "models": list(told.models),
        "leftOut": dict(told.left_out),
        "rows": [_row(row, budget) for row in told.rows for budget in BUDGETS],
        "skipped": [_said(one) for one in told.skipped],
        "notes": [_said(one) for one in told.notes],
        "seconds": {name: round(spent, 3) for name, spent in told.seconds.items()},
    }
    if by_series:
        out["series"] = [
            {
                "family": row.family,
                "series": row.series,
                "model": row.model,
                "vusPr": row.vus_pr,
                "budget": budget,
                **_outcome(row.learned[budget]),
            }
            for row in told.series
            for budget in BUDGETS
        ]
    if nulls:
        out["nulls"] = [
            {
                "family": row.family,
                "model": row.model,
                "budget": row.budget,
                "seriesWeeks": row.outcome.weeks,
                "falseAlarms": row.outcome.false_alarms,
                "falseAlarmsPerWeek": row.outcome.false_alarms_per_week,
                "overBudget": row.outcome.false_alarms_per_week / row.budget,
            }
            for row in nulls
        ]
    if faults:
        out["faults"] = [
            {
                "kind": row.kind,
                "model": row.model,
                "budget": row.budget,
                "injected": row.injected,
                "recall": row.recall,
                "delaySeconds": row.delay(0.5),
                "delayP90Seconds": row.delay(0.9),
                "inTime": row.in_time,
                "oneIncident": row.one_incident,
                "falseAlarmsPerWeek": row.before.false_alarms_per_week,
            }
            for row in faults
        ]
    return json.dumps(without_nan(out), allow_nan=False)


def _row(row: FamilyRow, budget: float) -> dict[str, Any]:
    equal = row.equal[budget]
    return {
        "task": "anomaly",
        "family": row.family,
        "model": row.model,
        "budget": budget,
        "series": row.series,
        "vusPr": row.vus_pr,
        "vusPrHour": row.vus_pr_hour,
        "nabScore": row.nab["standard"],
        "nabScoreLowFalsePositives": row.nab["rewardLowFalsePositives"],
        "nabScoreLowFalseNegatives": row.nab["rewardLowFalseNegatives"],
        **_outcome(row.learned[budget].outcome),
        "atEqualFalseAlarms": {"factor": equal.factor, **_outcome(equal.outcome)},
    }


def _outcome(one: Outcome) -> dict[str, Any]:
    return {
        "events": one.events,
        "seriesWeeks": one.weeks,
        "eventRecall": one.recall,
        "eventPrecision": one.precision,
        "falseAlarms": one.false_alarms,
        "falseAlarmsPerWeek": one.false_alarms_per_week,
        "delaySeconds": one.delay(0.5),
        "delayP90Seconds": one.delay(0.9),
        "falselyAlarmedRatio": one.alarmed / one.weeks if one.weeks else math.nan,
    }


def _said(one: Skipped) -> dict[str, str]:
    return {"family": one.family, "series": one.series, "why": one.why}


# --- the terminal ----------------------------------------------------------------------------------------------------


def as_text(
    told: Told, by_series: bool, nulls: Sequence[NullRow], faults: Sequence[FaultRow], width: int | None
) -> str:
    """Tables, then what was left out; `width` of the terminal, None where there is none."""
    file, console = terminal(width)
    console.print(_ranked(told))
    for budget in BUDGETS:
        console.print(_events(told, budget, equal=True))
        console.print(_events(told, budget, equal=False))
    if by_series:
        console.print(_by_series(told))
    if nulls:
        console.print(_nulls(nulls))
    if faults:
        console.print(_faults(faults))
    for name, package in told.left_out.items():
        console.print(f"left out: {name}: {package} is not installed", soft_wrap=True)
    for word, them in (("left out", told.skipped), ("note", told.notes)):
        for one in them:
            console.print(f"{word}: {one.family}/{one.series}: {one.why}", soft_wrap=True, markup=False)
    return file.getvalue().rstrip()


def _ranked(told: Told) -> Table:
    table = new_table(
        "Without a threshold",
        *("family", "model", "series", "VUS-PR", "VUS-PR, 1 h", "NAB", "low FP", "low FN", "CPU s"),
    )
    for row in told.rows:
        table.add_row(
            row.family,
            row.model,
            str(row.series),
            digits(row.vus_pr),
            digits(row.vus_pr_hour),
            *(digits(score, 1) for score in row.nab.values()),
            digits(told.seconds[row.model], 1),
        )
    return table


def _events(told: Told, budget: float, equal: bool) -> Table:
    how = "at so many as measured" if equal else "thresholds learned without labels"
    table = new_table(
        f"{budget:g} false alarms per series-week, {how}",
        *("family", "model", "events", "weeks", "recall", "precision", "false/week", "delay", "p90", "falsely on"),
        left=2,
    )
    for row in told.rows:
        one = (row.equal if equal else row.learned)[budget].outcome
        table.add_row(row.family, row.model, str(one.events), digits(one.weeks, 0), *_cells(one))
    return table


def _cells(one: Outcome) -> list[str]:
    return [
        percent(one.recall),
        percent(one.precision),
        digits(one.false_alarms_per_week, 2),
        _minutes(one.delay(0.5)),
        _minutes(one.delay(0.9)),
        percent(one.alarmed / one.weeks if one.weeks else math.nan),
    ]


def _minutes(seconds: float) -> str:
    return "-" if math.isnan(seconds) else f"{seconds / 60:.0f} min"


def _by_series(told: Told) -> Table:
    least = BUDGETS[0]
    table = new_table(
        f"Series, thresholds learned for {least:g} per week",
        *("family", "series", "model", "VUS-PR", "events", "recall", "false alarms"),
        left=3,
    )
    for row in told.series:
        one = row.learned[least]
        cells = (digits(row.vus_pr), str(one.events), percent(one.recall), str(one.false_alarms))
        table.add_row(row.family, row.series, row.model, *cells)
    return table


def _nulls(nulls: Sequence[NullRow]) -> Table:
    table = new_table(
        "Series without an anomaly: what a budget comes to",
        *("family", "model", "budget", "weeks", "false/week", "over budget"),
    )
    for row in nulls:
        rate = row.outcome.false_alarms_per_week
        table.add_row(
            row.family,
            row.model,
            f"{row.budget:g}",
            digits(row.outcome.weeks, 0),
            digits(rate, 2),
            f"{rate / row.budget:.2f} x",
        )
    return table


def _faults(faults: Sequence[FaultRow]) -> Table:
    table = new_table(
        "Injected faults, thresholds learned before them",
        *("fault", "model", "budget", "injected", "recall", "delay", "p90", "in time", "one incident", "false/week"),
    )
    for row in faults:
        table.add_row(
            row.kind,
            row.model,
            f"{row.budget:g}",
            str(row.injected),
            percent(row.recall),
            _minutes(row.delay(0.5)),
            _minutes(row.delay(0.9)),
            percent(row.in_time),
            percent(row.one_incident),
            digits(row.before.false_alarms_per_week, 2),
        )
    return table
