"""Incidents: the sentence, how bad, since when, the evidence, and what people say of it; one list for all workloads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from forecaster.anomaly import grouping
from forecaster.domain import Incident, Part
from serving.page import words
from serving.page.words import number, table, text

FEEDBACK = (("real", "Real"), ("expected", "Expected"), ("false_alarm", "False alarm"))
MOST_LISTED = 200
SAID = '<p id="said" role="status" data-keep="said"></p>'
NONE = (
    "<p>None. When the load or a resource leaves what was expected for longer than chance allows, it "
    "stands here; <code>alarms.falseAlarmsPerWorkloadPerWeek</code> sets how readily.</p>"
)


@dataclass(frozen=True, slots=True)
class View:
    """What the list shows."""

    incidents: Sequence[Incident]  # open ones first, newest first
    may_judge: bool  # an operator, in a process that takes feedback
    chosen: str = ""  # id of the one that a link leads to


def part(view: View) -> str:
    """Everything below the heading; the script asks for it again."""
    opened = [one for one in view.incidents if one.closed_at is None]
    closed = "; what closed stands below, newest first" if len(opened) < len(view.incidents) else ""
    count = f"{len(opened)} open" if opened else "None is open"
    out = [f'<p class="summary">{count}{closed}. Times are those of this browser.</p>']
    chosen = next((one for one in view.incidents if one.id == view.chosen), None)
    if view.chosen and chosen is None:
        out.append(words.note("The incident that the link names is not kept any more."))
    if chosen is not None:
        out.append(_section("The one that the link names", [chosen], view))
    for title, wanted in (("Open", opened), ("Closed", [one for one in view.incidents if one.closed_at is not None])):
        listed = [one for one in wanted if one is not chosen]
        if listed:
            out.append(_section(title, listed[:MOST_LISTED], view))
            if len(listed) > MOST_LISTED:
                out.append(f'<p>{len(listed) - MOST_LISTED} more: <a href="/api/v1/anomalies?limit=1000">REST</a>.</p>')
    if not view.incidents:
        out.append(f'<section class="card">{NONE}</section>')
    return "".join([*out, how_to_judge(view.may_judge), SAID])


def _section(title: str, incidents: Sequence[Incident], view: View) -> str:
    items = "".join(item(one, view.may_judge, with_workload=True, opened=one.id == view.chosen) for one in incidents)
    return f'<section class="card"><h2>{title}</h2><ul class="incidents">{items}</ul></section>'


def how_to_judge(may_judge: bool) -> str:
    """What stands below a list of incidents."""
    if may_judge:
        return (
            '<p class="no-script">Saying what an incident was needs JavaScript here, or <code>POST '
            "/api/v1/anomalies/ID/feedback</code>.</p>"
        )
    return "<p>An operator can say here what each of them was.</p>"


def item(one: Incident, may_judge: bool, with_workload: bool = False, opened: bool = False) -> str:
    """One incident. `opened`: its evidence shows without a click."""
    ended = f"closed {words.moment(one.closed_at)}" if one.closed_at else "<strong>open</strong>"
    where = ""
    if with_workload and one.workload != grouping.FLEET:
        where = f'<a href="/workloads/{quote(one.workload)}#incidents">{text(one.workload)}</a> · '
    cause = ""
    if one.cause is not None:
        cause = f' <a href="/incidents?id={quote(one.cause, safe="")}">Part of a common cause.</a>'
    return (
        f'<li data-key="{text(one.id)}" data-incident="{text(one.id)}" class="{text(one.severity)}">'
        f'<p><span class="pill severity-{text(one.severity)}">{text(one.severity)}</span> '
        f"<strong>{text(one.sentence)}</strong></p>"
        f"<p>{where}Began {words.moment(one.onset)}, noticed {words.moment(one.opened_at)}, {ended}.{cause}</p>"
        f"{_evidence(one, opened)}{_judge(one, may_judge)}</li>"
    )


def _evidence(one: Incident, opened: bool) -> str:
    parts = one.parts or (one.part(),)
    fleet = one.kind == grouping.COMMON_CAUSE
    rows = [_row(part, fleet) for part in parts]
    head = ("workload" if fleet else "series", "kind", "observed", "expected", "score", "threshold", "began")
    near = "".join(f"<li>{text(each.text)}</li>" for each in one.nearby)
    count = f"{len(parts)} {'workloads' if fleet else 'series'}" if len(parts) > 1 else "1 series"
    happened = f", {len(one.nearby)} nearby" if one.nearby else ""
    nearby = f"<p>Nearby, which is no proof:</p><ul>{near}</ul>" if near else ""
    explain = ""
    if not fleet:
        explain = f"<p><code>forecaster explain --incident {text(one.id)}</code> recomputes these numbers.</p>"
    return (
        f"<details{' open' if opened else ''}><summary>Evidence: {count}{happened}</summary>"
        f"{table('What contributes, worst first', head, rows, numbers_from=2)}{nearby}{explain}</details>"
    )


def _row(part: Part, fleet: bool) -> tuple[str, ...]:
    name = f'<a href="/workloads/{quote(part.workload)}">{text(part.workload)}</a>' if fleet else text(part.role)
    way = {"up": " ↑", "down": " ↓"}.get(part.direction, "")
    scored = part.threshold > 0
    return (
        f"{name}{way}",
        text(part.kind),
        number(part.observed),
        f"{number(part.expected_low)} to {number(part.expected_high)}",
        number(part.score) if scored else words.MISSING,
        number(part.threshold) if scored else words.MISSING,
        words.moment(part.onset),
    )


def _judge(one: Incident, may_judge: bool) -> str:
    if may_judge:
        buttons = "".join(
            f'<button type="button" data-feedback="{value}" '
            f'aria-pressed="{"true" if one.feedback == value else "false"}">{title}</button> '
            for value, title in FEEDBACK
        )
        return f'<div class="judge" role="group" aria-label="What was it?" hidden>What was it? {buttons}</div>'
    if one.feedback:
        return f"<p>Said to be: {dict(FEEDBACK).get(one.feedback, text(one.feedback)).lower()}</p>"
    return ""
