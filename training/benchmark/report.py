"""What a benchmark found, as a table for the terminal and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from training.benchmark.answers import ENOUGH, OURS, SINGLE
from training.benchmark.measures import LONGEST_PEAK, geometric
from training.benchmark.panels import HORIZONS
from training.benchmark.run import Best, FamilyRow, Told, beside_best, over_families, worst_hour
from training.benchmark.speed import Timed
from training.benchmark.writing import digits, new_table, percent, terminal, without_nan

SCHEMA_VERSION = 1
_SHORT = {
    "seasonal_naive_day": "naive day",
    "seasonal_naive_week": "naive week",
    "auto_ets": "AutoETS",
    "mstl": "MSTL",
}


# --- JSON ------------------------------------------------------------------------------------------------------------


def as_json(told: Told, by_series: bool, speed: Sequence[Timed]) -> str:
    """Figures that are not known are null."""
    out: dict[str, Any] = {
        "schemaVersion": SCHEMA_VERSION,
        "part": told.asked.part,
        "origins": told.asked.origins,
        "models": list(told.models),
        "leftOut": dict(told.left_out),
        "rows": [_row(row) for row in told.rows],
        "summary": {
            "horizons": [_horizon(told, horizon) for horizon in _horizons(told)],
            "bestBaselines": [_best(one) for one in told.best],
            "worst": _best(max(told.best, key=lambda one: one.ratio, default=None)),
        },
        "skipped": [{"family": one.family, "series": one.series, "why": one.why} for one in told.skipped],
        "seconds": {name: round(spent, 3) for name, spent in told.seconds.items()},
        "forecasts": dict(told.forecasts),
    }
    if by_series:
        out["series"] = [
            {
                "family": row.family,
                "series": row.series,
                "horizon": row.horizon,
                "model": row.model,
                "origins": row.origins,
                "wql": row.wql,
                "relativeWql": row.loss,
                "forecasterRelativeWql": row.ours,
                "mase": row.mase,
                "coverage80": row.inside80 / row.origins if row.origins else None,
                "naiveIsPerfect": row.naive_is_perfect,
            }
            for row in told.series
        ]
    if speed:
        out["speed"] = [
            {
                "model": one.model,
                "what": one.what,
                "series": one.series,
                "horizons": one.horizons,
                "quantiles": one.levels,
                "seconds": one.seconds,
                "cpuSeconds": one.cpu_seconds,
                "millisecondsPerSeries": one.milliseconds_each,
            }
            for one in speed
        ]
    return json.dumps(without_nan(out), allow_nan=False)


def _row(row: FamilyRow) -> dict[str, Any]:
    return {"task": "forecast", "family": row.family, "horizon": row.horizon, "model": row.model, **row.figures}


def _best(one: Best | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {"family": one.family, "horizon": one.horizon, "baseline": one.baseline, "ratio": one.ratio}


def _horizon(told: Told, horizon: str) -> dict[str, Any]:
    ratio, worst = beside_best(told, horizon)
    count, hits = told.hours.count.get(horizon), told.hours.inside.get(horizon)
    hour = worst_hour(told, horizon)
    return {
        "horizon": horizon,
        "families": len({row.family for row in told.rows if row.horizon == horizon}),
        "relativeToBestBaseline": ratio,
        "worst": _best(worst),
        "relativeWql": {name: over_families(told, horizon, name) for name in told.models},
        "coverage80ByHour": None
        if count is None or hits is None
        else [h / n if n else math.nan for h, n in zip(hits.tolist(), count.tolist(), strict=True)],
        "worstHour": None if hour is None else {"hour": hour[0], "coverage80": hour[1]},
    }


# --- the terminal ----------------------------------------------------------------------------------------------------


def as_text(told: Told, by_series: bool, speed: Sequence[Timed], width: int | None) -> str:
    """Tables and a summary; `width` of the terminal, None where there is none."""
    file, console = terminal(width)
    console.print(_by_family(told))
    console.print(_by_model(told))
    if by_series:
        console.print(_by_series(told))
    for line in _summary(told):
        console.print(line, soft_wrap=True)
    if speed:
        console.print(_speed(speed))
    return file.getvalue().rstrip()


def _horizons(told: Told) -> list[str]:
    return [horizon for horizon in HORIZONS if any(row.horizon == horizon for row in told.rows)]


def _short(name: str) -> str:
    return _SHORT.get(name, name)


def _by_family(told: Told) -> Table:
    """Relative WQL of each family and horizon, a column a model."""
    by = {(row.family, row.horizon, row.model): row.figures for row in told.rows}
    best = {(one.family, one.horizon): one for one in told.best}
    title = (
        f"WQL over that of daily seasonal naive, {told.asked.part} part; in brackets that of ours on the same origins "
        "and series, where a model has fewer"
    )
    ours = OURS in told.models
    tail = ("best of others", "ours over it") if ours else ()
    table = new_table(title, "family", "horizon", "series", "origins", *(_short(name) for name in told.models), *tail)
    previous = ""
    for family, horizon in dict.fromkeys((row.family, row.horizon) for row in told.rows):
        whole = next(by[family, horizon, name] for name in told.models if (family, horizon, name) in by)
        cells = []
        for name in told.models:
            one = by.get((family, horizon, name))
            cells.append("-" if one is None else _cell(one, whole))
        if ours:
            found = best.get((family, horizon))
            cells += ["-", "-"] if found is None else [_short(found.baseline), digits(found.ratio)]
        table.add_row(
            family if family != previous else "", horizon, str(whole["series"]), str(whole["origins"]), *cells
        )
        previous = family
    table.add_section()
    for horizon in _horizons(told):
        means = [digits(over_families(told, horizon, name)) for name in told.models]
        families = len({row.family for row in told.rows if row.horizon == horizon})
        closing = ["", digits(beside_best(told, horizon)[0])] if ours else []
        table.add_row("geometric mean", horizon, "", f"{families} families", *means, *closing)
    return table


def _cell(one: Any, whole: Any) -> str:
    text = digits(one["relativeWql"])
    fewer = one["origins"] < whole["origins"]
    return f"{text} ({digits(one['forecasterRelativeWql'])})" if fewer and not _unknown(one) else text


def _unknown(one: Any) -> bool:
    return math.isnan(one["forecasterRelativeWql"])


def _by_model(told: Told) -> Table:
    """The other measures over all families, each family counting once."""
    longest = LONGEST_PEAK // 60
    title = (
        f"Means over families; peaks up to {longest} min: rises of 20 % and more that were seen, and calls without one"
    )
    table = new_table(
        title, "horizon", "model", "answered", "MASE", "in 80 %", "in 98 %", "rises", "seen", "false", "seconds", "each"
    )
    for horizon in _horizons(told):
        for name in told.models:
            rows = [row.figures for row in told.rows if row.horizon == horizon and row.model == name]
            if not rows:
                continue
            each = told.seconds[name] / max(told.forecasts[name], 1)
            table.add_row(
                horizon,
                _short(name),
                percent(_mean([row["answered"] for row in rows])),
                digits(geometric(row["mase"] for row in rows if row["mase"] > 0)),
                *(percent(_mean([row[key] for row in rows])) for key in ("coverage80", "coverage98")),
                str(sum(int(row["rises"]) for row in rows)),
                *(percent(_mean([row[key] for row in rows])) for key in ("peakRecall", "peakFalse")),
                f"{told.seconds[name]:.0f}",
                f"{1e3 * each:.1f} ms",
            )
        table.add_section()
    return table


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _by_series(told: Told) -> Table:
    table = new_table(
        "Series", "family", "series", "horizon", "model", "origins", "WQL", "rel.", "ours", "MASE", left=4
    )
    for row in told.series:
        cells = (digits(row.wql, 4), digits(row.loss), digits(row.ours), digits(row.mase))
        table.add_row(row.family, row.series, row.horizon, _short(row.model), str(row.origins), *cells)
    return table


def _summary(told: Told) -> list[str]:
    lines = []
    for horizon in _horizons(told):
        ratio, worst = beside_best(told, horizon)
        if worst is not None:
            lines.append(
                f"{horizon:>4}: ours over the best baseline of each family, chosen in hindsight: {digits(ratio)}; "
                f"worst {digits(worst.ratio)} ({worst.family}, {_short(worst.baseline)})"
            )
        hour = worst_hour(told, horizon)
        if hour is not None:
            lines.append(
                f"      our 80 % band by hour of the day: furthest off at {hour[0]:02} h UTC, {percent(hour[1])}"
            )
    perfect = {(row.family, row.series) for row in told.series if row.naive_is_perfect}
    if perfect:
        lines.append(
            f"{len(perfect)} series on which daily seasonal naive makes no error at some horizon count, floored."
        )
    often = {name: SINGLE[name].every for name in told.models if name in SINGLE and SINGLE[name].every > 1}
    if often:
        lines.append(
            f"one origin in so many, of panels above {ENOUGH} forecasts: "
            + ", ".join(f"{_short(name)} {every}" for name, every in often.items())
        )
    lines += [
        f"left out: {_short(name)}, for {package} is not installed (pip install {package})"
        for name, package in told.left_out.items()
    ]
    lines += [f"skipped: {one.family} {one.series}: {one.why}" for one in told.skipped]
    if not told.rows:
        lines.append("no series could be scored")
    return lines


def _speed(speed: Sequence[Timed]) -> Table:
    table = new_table("Speed", "model", "call", "series", "horizons", "quantiles", "seconds", "of CPU", "ms a series")
    for one in speed:
        cells = (f"{one.series:,}", str(one.horizons), str(one.levels), f"{one.seconds:.3f}", f"{one.cpu_seconds:.3f}")
        table.add_row(_short(one.model), one.what, *cells, f"{one.milliseconds_each:.3f}")
    return table
