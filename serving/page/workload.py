"""One workload: what is known, what is forecast, what was decided and why, and what was out of the ordinary.

Each chart stands beside a sentence with its numbers and a table of its data, made here; the script only draws. Whatever
is not there says why, and what to do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import quote

import numpy as np

from forecaster.domain import Forecast, Incident, Mode, Recommendation
from forecaster.publication import Publication, WorkloadStatus
from forecaster.quantiles import at_level
from forecaster.reasons import ADVICE, Reason, ReasonCode
from serving.page import assets, incidents, words
from serving.page.listing import banners
from serving.page.words import MISSING, code, note, number, percent, pill, prose, span, table, text, whole
from serving.past import Column, Past, moment
from serving.render import Rendered

RANGES = (6, 24)  # hours shown
MOST_INCIDENTS = 20
TABLE_ROWS = 24  # of a chart's data table, per part
_TELLING_SECONDS = 86_400.0  # judged ones from which the share of time above capacity says something
LATE_START = 600.0  # seconds without a decision at the beginning of the chart that are worth a word


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """All that the page of one workload shows."""

    rendered: Rendered
    name: str
    past: Past
    incidents: Sequence[Incident]  # of this workload, newest first
    may_judge: bool  # an operator, in a process that takes feedback
    has_charts: bool
    monotonic: float

    @property
    def publication(self) -> Publication:
        return self.rendered.publication

    @property
    def status(self) -> WorkloadStatus:
        return self.rendered.by_name[self.name]

    @property
    def missing(self) -> Reason | None:
        """Why there is no forecast; None where there is one."""
        forecast = self.publication.forecast
        if forecast is None:
            return next(iter(self.status.reasons), Reason(ReasonCode.HISTORY_TOO_SHORT))
        return forecast.missing[self.status.row]

    @property
    def ahead(self) -> timedelta:
        """How far the chart looks ahead: half of what it looks back, as far as the forecast reaches."""
        forecast = self.publication.forecast
        reach = forecast.horizons[-1] * forecast.step if forecast is not None and len(forecast.horizons) else None
        wanted = timedelta(hours=self.past.hours / 2)
        return wanted if reach is None else min(wanted, reach)

    @property
    def recommendation(self) -> Recommendation | None:
        """The newest one while it counts."""
        found, expiry = self.rendered.recommended.get(self.name, (None, -math.inf))
        return found if found is not None and self.monotonic < expiry else None


def part(view: View) -> str:
    """Everything below the heading; the script asks for it again."""
    one = view.status
    state = words.state_of(view.publication, one)
    scale = one.workload.scale
    target = f"scales <code>{text(scale.namespace)}/{text(scale.hpa)}</code>" if scale else "scales no HPA"
    return "".join(
        [
            banners(view.rendered),
            f'<p class="summary">{pill(state)} {target} · mode <strong>{one.mode.value}</strong> · model '
            f"<code>{text(one.model_version)}</code> · last cycle {words.moment(view.publication.made_at)}</p>",
            _figures(view),
            words.advice(one.reasons) if one.reasons else "",
            _ranges(view),
            "" if view.has_charts else note(assets.MISSING),
            _load_chart(view),
            _replica_chart(view),
            _decision(view),
            _quality(view),
            _incidents(view),
        ]
    )


def _figures(view: View) -> str:
    one, status = view.status, view.publication.status
    made = view.recommendation
    facts = one.facts
    actual = MISSING
    if facts is not None and facts.current_replicas is not None:
        ready = "" if facts.ready_replicas is None else f"{facts.ready_replicas} of "
        actual = f"{ready}{facts.current_replicas}{' ready' if ready else ''}"
    bounds = MISSING
    if one.min_replicas is not None or one.max_replicas is not None:
        bounds = f"{whole(one.min_replicas)} to {whole(one.max_replicas)}"
    cells = [
        ("Load now", number(float(status.load[one.row]))),
        ("Floor", whole(made.floor if made else None)),
        ("Desired", whole(made.desired_replicas if made else None)),
        ("Actual replicas", actual),
        ("Bounds", bounds),
        ("Capacity of a replica", number(one.capacity_per_replica)),
        ("Lead time", span(one.lead_time_seconds)),
    ]
    return '<dl class="figures">' + "".join(f"<div><dt>{n}</dt><dd>{v}</dd></div>" for n, v in cells) + "</dl>"


def _ranges(view: View) -> str:
    links = "".join(
        f'<a href="?hours={hours}"{" aria-current=true" if hours == view.past.hours else ""}>{hours} h</a> '
        for hours in RANGES
    )
    return f'<p class="ranges">Look back {links}</p>'


# --- load ------------------------------------------------------------------------------------------------------------


def _load_chart(view: View) -> str:
    past, missing = view.past, view.missing
    out = ['<section class="card"><h2>Load and forecast</h2>']
    if missing is not None:
        said = any(reason.code is missing.code for reason in view.status.reasons)
        meaning, todo = ADVICE[missing.code]
        more = (
            " What it means and what to do stands above."
            if said
            else f" {prose(meaning)} <em>What to do:</em> {prose(todo)}"
        )
        out.append(note(f"<strong>No forecast:</strong> {code(missing)}.{more}"))
    if past.note is not None:
        out.append(note(text(f"{past.note[0].upper()}{past.note[1:]}.")))
    known = [value for value in past.load if value is not None]
    if known or missing is None:
        address = quote(view.name)
        reach = f"{view.ahead.total_seconds():.0f}s"
        out.append(
            _figure(
                view,
                "load",
                _load_sentence(view, known),
                f'data-history="/api/v1/workloads/{address}/history?hours={past.hours}" '
                f'data-forecast="{"" if missing else f"/api/v1/workloads/{address}/forecast?horizon={reach}"}"',
                (
                    ("load", "load"),
                    ("expected", "what was expected before"),
                    ("median", "median of the forecast"),
                    ("fan", "forecast: 50, 80 and 98 % of the time inside"),
                    ("capacity", "capacity of the ready replicas"),
                ),
            )
        )
        out.append(_load_table(view))
    else:
        out.append(f"<p>No sample of the load is known in the last {past.hours} h, so there is nothing to draw.</p>")
    return "".join([*out, "</section>"])


def _load_sentence(view: View, known: Sequence[float]) -> str:
    past = view.past
    told = f"Load over the last {past.hours} h: "
    if known:
        told += f"lowest {number(min(known))}, highest {number(max(known))}, last {number(known[-1])}."
    else:
        told += "no sample is known."
    forecast = view.publication.forecast
    if forecast is not None and view.missing is None:
        ahead = view.ahead.total_seconds()
        low, middle, high = _at(forecast, view.status.row, ahead, (0.1, 0.5, 0.9))
        told += (
            f" Forecast for {span(ahead)} ahead: {number(middle)}, with 80 % between {number(low)} and {number(high)}."
        )
    capacity = _last(past.decided["capacity"])
    if capacity is not None:
        told += f" The ready replicas carry {number(capacity)}."
    return told


def _load_table(view: View) -> str:
    past = view.past
    before = [
        (words.moment(moment(past.times[i])), number(past.load[i]), _expected(past, i), "", "", "")
        for i in _thinned(len(past.times))
    ]
    out = [
        table(
            "Load, measured and forecast",
            ("time", "load", "expected", "10 %", "median", "90 %"),
            [*before, *_future(view)],
        )
    ]
    return _details("Data of this chart", out, view)


def _expected(past: Past, i: int) -> str:
    low, high = past.expected_low[i], past.expected_high[i]
    return "" if low is None or high is None else f"{number(low)} to {number(high)}"


def _future(view: View) -> list[tuple[str, ...]]:
    """Rows of what is forecast, thinned."""
    forecast = view.publication.forecast
    if forecast is None or view.missing is not None:
        return []
    step = forecast.step.total_seconds()
    within = [float(h) * step for h in forecast.horizons.tolist() if h * step <= view.ahead.total_seconds()]
    rows: list[tuple[str, ...]] = []
    for i in _thinned(len(within)):
        low, middle, high = _at(forecast, view.status.row, within[i], (0.1, 0.5, 0.9))
        at = forecast.origin + timedelta(seconds=within[i])
        rows.append((words.moment(at), "", "", number(low), number(middle), number(high)))
    return rows


def _at(forecast: Forecast, row: int, ahead: float, levels: Sequence[float]) -> list[float]:
    """Quantiles `ahead` seconds after the origin, between the horizons that there are."""
    seconds = forecast.horizons * forecast.step.total_seconds()
    values = np.array([np.interp(ahead, seconds, column) for column in forecast.values[row].T])[None, :]
    return [float(at_level(values, forecast.levels, level)[0]) for level in levels]


# --- replicas --------------------------------------------------------------------------------------------------------


def _replica_chart(view: View) -> str:
    past = view.past
    out = ['<section class="card"><h2>Replicas</h2>']
    if view.status.workload.scale is None:
        return "".join(
            [
                *out,
                "<p>No HPA is configured for this workload: its load is forecast and watched, and nothing is decided. "
                "To get a floor, name the HPA that it scales:</p>",
                f"<pre>  - name: {text(view.name)}\n    scale: {{hpa: namespace/name, capacityPerReplica: 120}}</pre>"
                "</section>",
            ]
        )
    if all(value is None for column in past.decided.values() for value in column):
        out.append(
            f"<p>No decision of the last {past.hours} h holds a number yet. The first is stored with the first cycle "
            "that finds the HPA; the reasons above say what it waits for.</p></section>"
        )
        return "".join(out)
    rows = [
        (words.moment(moment(past.decided_at[i])), *(whole(past.decided[name][i]) for name in
         ("floor", "desired", "current", "ready", "lowest", "highest")))
        for i in _thinned(len(past.decided_at))
    ]  # fmt: skip
    head = ("from", "floor", "desired", "current", "ready", "minimum", "maximum")
    data = table("Replicas, from that time on", head, rows)
    if len(rows) < 2:
        out.append(f"<p>Only the newest decision is known yet; a line needs the next ones.</p>{data}</section>")
        return "".join(out)
    out.append(
        _figure(
            view,
            "replicas",
            _replica_sentence(past),
            f'data-history="/api/v1/workloads/{quote(view.name)}/history?hours={past.hours}"',
            (
                ("floor", "floor"),
                ("desired", "desired"),
                ("current", "current"),
                ("ready", "ready"),
                ("bounds", "bounds of the floor"),
            ),
        )
    )
    if past.decided_at[0] - (past.made_at.timestamp() - 3_600 * past.hours) > LATE_START:
        out.append(f"<p>Decisions are known since {words.moment(moment(past.decided_at[0]))}.</p>")
    out.append(_details("Data of this chart", [data], view))
    return "".join([*out, "</section>"])


def _replica_sentence(past: Past) -> str:
    told = [f"Replicas over the last {past.hours} h."]
    for name, title in (("floor", "Floor"), ("desired", "Desired"), ("current", "Current"), ("ready", "Ready")):
        known = [value for value in past.decided[name] if value is not None]
        if known:
            told.append(f"{title}: {whole(min(known))} to {whole(max(known))}, now {whole(past.decided[name][-1])}.")
    low, high = _last(past.decided["lowest"]), _last(past.decided["highest"])
    if low is not None or high is not None:
        told.append(f"The floor may lie between {whole(low)} and {whole(high)}.")
    return " ".join(told)


# --- the decision ----------------------------------------------------------------------------------------------------


def _decision(view: View) -> str:
    one = view.status
    head = '<section class="card"><h2>Last decision</h2>'
    if one.workload.scale is None:
        return f"{head}<p>Nothing is decided without an HPA.</p></section>"
    made = view.recommendation
    if made is None:
        if one.mode is Mode.OBSERVE:
            said = "The mode is <code>observe</code>: load is forecast, and no floor is recommended. Set "
            said += "<code>scale.mode: recommend</code> to get one."
        else:
            said = f"{code(Reason(ReasonCode.EXPIRED))} There is no recommendation that still counts. "
            said += "Look at the reasons above: data age, errors of queries, or a pause."
        return f"{head}<p>{said}</p></section>"
    rows = [
        (
            f"{words.CANDIDATES.get(c.name, text(c.name))} <small>{text(c.name)}</small>",
            whole(c.replicas),
            text(c.detail),
        )
        for c in made.candidates
    ]
    bound = words.BOUND_BY.get(made.bound_by)
    if bound is None:  # a reason code: why nothing was decided
        known = made.bound_by in ReasonCode.__members__.values()
        bound = text(ADVICE[ReasonCode(made.bound_by)][0]) if known else text(made.bound_by)
    floor = "no floor of ours, the user's own stands" if made.floor is None else f"floor {made.floor}"
    return (
        f"{head}<p><strong>{floor}</strong>, desired {whole(made.desired_replicas)} (the larger of floor and what the "
        f"load needs now). The last word had <code>{text(made.bound_by)}</code>: {bound}.</p>"
        f"{_raised(view, made)}"
        f"{table('Every candidate', ('candidate', 'replicas', 'how'), rows, numbers_from=9)}"
        f"<p>Decided {words.moment(made.made_at)} on data through {words.moment(made.data_through)}; counts for "
        f"{span(made.valid_for.total_seconds())}. <code>forecaster explain {text(view.name)}</code> recomputes every "
        "number of it.</p></section>"
    )


def _raised(view: View, made: Recommendation) -> str:
    scale = view.status.workload.scale
    if scale is None or scale.raised_target_ratio is None:
        return ""
    if made.raised_target is not None:
        return f"<p>The HPA may aim at <strong>{made.raised_target} %</strong> of the CPU request: all is calm.</p>"
    return (
        "<p>The user's own CPU target stands: a raised one waits until nothing has spoken against it for "
        f"{span(scale.hold.total_seconds())}.</p>"
    )


def _so_far(judged: float) -> str:
    """A floor that has just begun to climb was short for most of its life: that says little of the dial."""
    return f"; {span(judged)} judged so far: too early to tell" if judged < _TELLING_SECONDS else ""


def _quality(view: View) -> str:
    one = view.status
    rows = []
    asked = one.risk.get("asked")
    if asked is not None:
        actual, issued = one.risk.get("actual"), one.risk.get("issued")
        rows.append(
            (
                "Time above capacity if the floor is obeyed",
                percent(actual, 2),
                f"{percent(asked, 2)} is asked; the dial stands at {percent(issued, 2)}"
                + (
                    f"; longest {span(one.risk_detail['longestViolationSeconds'])}"
                    if "longestViolationSeconds" in one.risk_detail
                    else ""
                )
                + _so_far(one.risk_detail.get("judgedSeconds", math.nan)),
            )
        )
    for nominal, measured in one.coverage.items():
        rows.append((f"Inside the {percent(float(nominal))} band", percent(measured), "of the forecasts that came due"))
    for baseline, ratio in one.skill.items():
        better = "ours is better" if ratio < 1 else "it does better" if ratio > 1 else "as good"
        rows.append((f"Loss against {text(baseline)}", number(ratio), f"below 1 is better: {better}"))
    if one.budget_used_ratio is not None and math.isfinite(one.budget_used_ratio):
        rows.append(("Budget of false alarms used", percent(one.budget_used_ratio), "of this week's"))
    head = '<section class="card"><h2>How true it is</h2>'
    if not rows:
        return (
            f"{head}<p>Nothing is measured yet: forecasts must come due first. Coverage and skill appear within a day "
            "or two.</p></section>"
        )
    return f"{head}{table('Measured on this workload', ('what', 'measured', ''), rows, numbers_from=9)}</section>"


# --- incidents -------------------------------------------------------------------------------------------------------


def _incidents(view: View) -> str:
    head = '<section class="card" id="incidents"><h2>Incidents</h2>'
    if not view.incidents:
        return f"{head}{incidents.NONE}</section>"
    out = [head, '<ul class="incidents">']
    out += [incidents.item(one, view.may_judge) for one in view.incidents[:MOST_INCIDENTS]]
    out.append("</ul>")
    if len(view.incidents) > MOST_INCIDENTS:
        address = f"/api/v1/anomalies?workload={quote(view.name, safe='')}"
        out.append(f'<p>{len(view.incidents) - MOST_INCIDENTS} older ones: <a href="{text(address)}">REST</a>.</p>')
    return "".join([*out, incidents.how_to_judge(view.may_judge), f"{incidents.SAID}</section>"])


# --- parts -----------------------------------------------------------------------------------------------------------


def _figure(view: View, kind: str, sentence: str, data: str, legend: Sequence[tuple[str, str]]) -> str:
    """Where the script draws; without it, or without uPlot, only the sentence shows."""
    if not view.has_charts:
        return f"<p>{text(sentence)}</p>"
    items = "".join(f'<li class="key-{name}">{title}</li>' for name, title in legend)
    return (
        f'<figure><div class="chart" role="img" aria-label="{text(sentence)}" data-chart="{kind}" data-keep="{kind}" '
        f'data-now="{view.past.made_at.timestamp():.0f}" data-hours="{view.past.hours}" '
        f'data-ahead="{view.ahead.total_seconds():.0f}" {data}></div>'
        f'<figcaption><ul class="legend">{items}</ul>'
        f'<p class="readout" data-keep="readout {kind}" aria-hidden="true"></p>'
        f'<p class="sentence">{text(sentence)}</p></figcaption></figure>'
    )


def _details(title: str, tables: Sequence[str], view: View) -> str:
    opened = "" if view.has_charts else " open"
    return f"<details{opened}><summary>{title}</summary>{''.join(tables)}</details>"


def _thinned(count: int) -> list[int]:
    """Places of at most TABLE_ROWS of `count` items, evenly, the newest among them."""
    every = max(1, math.ceil(count / TABLE_ROWS))
    return list(range(count - 1, -1, -every))[::-1]


def _last(column: Column) -> float | None:
    return column[-1] if column else None
