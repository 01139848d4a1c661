"""The receipt as one HTML page that needs nothing else: tables, the frontier and the worst hours as inline SVG."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from forecaster.errors import InputError
from forecaster.scaling.whatif import measures, report, shadow
from forecaster.scaling.whatif.hours import Hour
from forecaster.scaling.whatif.receipt import Receipt
from forecaster.scaling.whatif.report import Told
from forecaster.scaling.whatif.shadow import Shadow

MOST = 12  # receipts of one page; --json has all
_OURS, _HPA, _NEED = "#1f77b4", "#d95f02", "#333333"
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;display:block;overflow-x:auto}
th,td{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #ddd}
th:first-child,td:first-child,td:last-child{text-align:left}
svg{max-width:100%;height:auto}pre{overflow-x:auto;background:#f6f6f6;padding:.7rem}
.warn{background:#fff3cd;padding:.5rem .8rem}
"""


def write(told: Told, file: Path) -> None:
    """Raises InputError where the file cannot be written."""
    try:
        file.write_text(page(told), encoding="utf-8")
    except OSError as error:
        raise InputError(f"--html: {file} cannot be written: {error.strerror or error}") from error


def page(told: Told) -> str:
    parts = [_recorded(told), *(_shadow(one) for one in told.shadows)]
    if len(told.receipts) > 1:
        parts.append(f"<h2>All series</h2><pre>{escape(report.all_text(told))}</pre>")
    parts += [_section(one, told.price) for one in told.receipts[:MOST]]
    if len(told.receipts) > MOST:
        parts.append(f"<p>{len(told.receipts)} receipts, {MOST} shown; all of them with <code>--json</code>.</p>")
    if told.left_out:
        rows = "".join(f"<li>{escape(why)}</li>" for _, why in told.left_out)
        parts.append(f"<h2>Left out, {len(told.left_out)}</h2><ul>{rows}</ul>")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Forecaster: receipt</title>'
        f"<style>{_STYLE}</style>"
        f"<h1>What if Forecaster had scaled this?</h1>{''.join(parts)}</html>\n"
    )


def _recorded(told: Told) -> str:
    return "".join(
        f"<p{' class=warn' if one.unfit else ''}>{escape(report.recorded_line(name, one))}</p>"
        for name, one in (told.recorded or {}).items()
    )


def _shadow(one: Shadow) -> str:
    rows = "".join(
        f"<tr><td>{row.policy}<td>{row.figures.replica_hours:.1f}<td>{100 * row.figures.time_above_capacity:.3f} %"
        f"<td>{shadow.dial_text(row.dial)}<td>{row.figures.scale_events}<td>{escape(row.words)}"
        for row in one.rows
    )
    return (
        f"<h2>{escape(one.series)}: what the service said, start-up {one.start_up} s</h2>"
        f"<p>{escape(shadow.sentence(one))}</p><table><tr><th>policy<th>replica-hours<th>time above capacity"
        f"<th>floor alone short<th>scale events<th>what{rows}</table>"
    )


def _section(one: Receipt, price: float | None) -> str:
    trial = one.trial
    head = f"{trial.name}, start-up {trial.start_up} s"
    money = "" if price is None else "<th>cost"
    rows = []
    for row in one.rows:
        f = row.figures
        paid = "" if price is None else f"<td>{f.replica_hours * price:.2f}"
        rows.append(
            f"<tr><td>{row.policy}<td>{f.replica_hours:.1f}{paid}<td>{100 * f.time_above_capacity:.3f} %"
            f"<td>{100 * f.unmet_load:.3f} %<td>{f.scale_events}<td>{f.reversals}<td>{escape(row.words)}"
        )
    table = (
        f"<table><tr><th>policy<th>replica-hours{money}<th>time above capacity<th>unmet load<th>scale events"
        f"<th>reversals<th>setting{''.join(rows)}</table>"
    )
    said = (
        f"<p>Test part: {trial.test_days:.1f} days. Settings were chosen on the {trial.training_days:.1f} days before "
        "it; every forecast knew only what came before it.</p>"
    )
    if trial.saturated_share >= report.SATURATED_FROM:
        said += '<p class="warn">The load may have been cut at its highest value: all figures are lower bounds.</p>'
    hours = "".join(_hour(trial.capacity, hour) for hour in one.hours)
    return f"<h2>{escape(head)}</h2>{said}{table}<h3>Frontier</h3>{_frontier(one)}<h3>Worst hours</h3>{hours}"


def _frontier(one: Receipt) -> str:
    """Cost against time above capacity, all settings in hindsight; lower left is better."""
    if not one.points:
        return ""
    figure, axis = _axes(9.0, 4.2)
    for policy, colour, label in (("hpa", _HPA, "HPA: target and stabilization"), ("forecaster", _OURS, "ours")):
        points = [point for point in one.points if point.policy == policy]
        cost = np.array([point.cost for point in points])
        time = 100 * np.array([point.time for point in points])
        axis.scatter(cost, time, s=9, color=colour, alpha=0.35, linewidths=0)
        best = measures.frontier(time, cost)
        axis.step(cost[best], time[best], where="post", color=colour, label=label)
    for name, marker in (("user_hpa", "s"), ("tuned_hpa", "^"), ("forecaster", "o")):
        row, least = one.row(name).figures, one.row("oracle").figures.replica_hours
        at = (row.replica_hours / least, 100 * row.time_above_capacity)
        axis.plot(*at, marker=marker, color=_NEED, linestyle="", label=name)
    axis.set_yscale("symlog", linthresh=0.05)
    axis.set_xlim(0.95, 2.2)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("replica-hours, as a multiple of perfect foresight")
    axis.set_ylabel("time above capacity, %")
    axis.legend(fontsize=8, frameon=False)
    return _svg(figure)


def _hour(capacity: float, hour: Hour) -> str:
    figure, axis = _axes(10.0, 3.0)
    when = [datetime.fromtimestamp(second, UTC) for second in hour.times.tolist()]
    axis.plot(when, hour.needed, color=_NEED, linewidth=0.9, label="load, in full replicas")
    axis.step(when, hour.user, where="post", color=_HPA, label="ready, user's HPA")
    axis.step(when, hour.ours, where="post", color=_OURS, label="ready, ours")
    if hour.floor is not None:
        axis.step(when, hour.floor, where="post", color=_OURS, linestyle=":", label="our floor")
    axis.set_ylim(bottom=0)
    axis.tick_params(axis="x", labelrotation=20, labelsize=8)
    axis.legend(fontsize=8, frameon=False, ncols=4)
    lines = "\n".join(
        f"{datetime.fromtimestamp(one.at, UTC):%H:%M:%S}  floor {one.floor}: {one.words}" for one in hour.decisions
    )
    told = escape(lines) if lines else "no decision changed the floor"
    return (
        f"<h4>{when[0]:%Y-%m-%d %H:%M} UTC: above capacity {hour.user_seconds:.0f} s under the user's HPA, "
        f"{hour.our_seconds:.0f} s under ours</h4>{_svg(figure)}<details><summary>Decisions</summary><pre>{told}</pre>"
        f"<p>One replica is full at {capacity:.6g}.</p></details>"
    )


def _axes(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    axis = figure.subplots()
    axis.grid(alpha=0.25)
    return figure, axis


def _svg(figure: Any) -> str:
    """The figure for a page: without the XML head, whose address of a DTD is no business of an offline page."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return re.sub(r"<metadata>.*?</metadata>", "", out.getvalue()[out.getvalue().index("<svg") :], flags=re.DOTALL)
