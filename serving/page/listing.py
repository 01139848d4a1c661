"""The list of workloads: state, reason, load, floor, desired and actual replicas, one row each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from forecaster.publication import WorkloadStatus
from forecaster.reasons import ADVICE
from serving.health import Health
from serving.page import words
from serving.page.words import MISSING, note, number, pill, reason_line, text, whole
from serving.render import Rendered

MOST_ROWS = 2_000
MOST_KEPT = 500  # lists of one publication, by what was filtered for

SNIPPET = """workloads:
  - name: checkout
    load: sum(rate(http_requests_total{app="checkout"}[1m]))
    scale: {hpa: shop/checkout, capacityPerReplica: 120}"""
NONE_WATCHED = (
    "<h2>No workload is watched yet</h2><p>A workload is a PromQL expression and the HPA that it scales. Add one to "
    f"the configuration file; the file is read again by itself:</p><pre>{text(SNIPPET)}</pre>"
    "<p><code>forecaster check</code> says whether the query and the HPA are found. Forecasts of values that you post "
    'work already: <a href="/docs">POST /api/v1/forecast</a>.</p>'
)
NO_CYCLE_HERE = (
    "<h2>This process runs no cycles</h2><p>It was started with <code>--role api</code>: it answers REST from "
    "the store and forecasts posted values, but it does not know the present state of any workload. Open the page of "
    "the process that runs the cycles (<code>--role all</code> or <code>loop</code>).</p>"
)


@dataclass(frozen=True, slots=True)
class Scene:
    """What the list is made from, besides the publication."""

    watched: int  # entries in the configuration
    health: Health
    role: str
    monotonic: float


def part(rendered: Rendered | None, scene: Scene, query: str = "") -> str:
    """Everything below the heading; the script asks for it again."""
    out = [_degraded(scene.health)]
    if rendered is None:
        out.append(_waiting(scene))
        return "".join(out)
    out.append(banners(rendered))
    if not rendered.names:
        out.append(NONE_WATCHED if not scene.watched else _nothing_found(scene))
        return "".join(out)
    soon = min(rendered.recommendation_expiries, default=math.inf)
    key = (f"list\n{query}", 0)
    made = rendered.pages.get(key) if scene.monotonic < soon else None
    if made is None:
        made = _listed(rendered, scene, query.strip().lower(), query).encode()
        if scene.monotonic < soon and len(rendered.pages) < MOST_KEPT:
            rendered.pages[key] = made
    return "".join(out) + made.decode()


def _listed(rendered: Rendered, scene: Scene, wanted: str, query: str) -> str:
    """Summary and table; the same for everybody until the next cycle, or until a recommendation expires."""
    publication = rendered.publication
    count = dict.fromkeys(words.STATES, 0)
    rows: list[str] = []
    hidden = 0
    for name in rendered.names:
        one = rendered.by_name[name]
        state = words.state_of(publication, one)
        count[state] += 1
        if wanted and wanted not in _searched(one, state):
            continue
        if len(rows) == MOST_ROWS:
            hidden += 1
            continue
        rows.append(_row(rendered, one, state, scene.monotonic))
    told = ", ".join(f"{n:,} {state}" for state, n in count.items() if n)
    total = len(rendered.names)
    out = [
        f'<p class="summary"><strong>{total:,} workload{"" if total == 1 else "s"}</strong>: {told}. '
        f"Last cycle {words.moment(publication.made_at)}.</p>"
    ]
    if rows:
        out.append(_table(rows))
    else:
        out.append(f"<p>No workload holds <q>{text(query)}</q> in its name, HPA or state. Clear the filter.</p>")
    if hidden:
        out.append(f"<p>{hidden:,} more are not shown: write part of a name into the filter and press Enter.</p>")
    return "".join(out)


def filter_form(query: str) -> str:
    """Filters in place with the script, by the server without it."""
    return (
        '<form class="filter" role="search" method="get" action="/workloads"><label for="q">Filter</label> '
        f'<input id="q" name="q" type="search" value="{text(query)}" placeholder="name, namespace, state, reason" '
        'autocomplete="off"> <button>Filter</button> <span id="shown" role="status"></span></form>'
    )


def banners(rendered: Rendered) -> str:
    """What is to be said of the service as a whole."""
    out = []
    for one in rendered.notices:
        meaning, todo = ADVICE[one.code]
        said = text(one.detail) if one.detail else words.prose(meaning)
        out.append(note(f"{words.code(one)} {said} <em>What to do:</em> {words.prose(todo)}", "bad"))
    return "".join(out)


def _degraded(health: Health) -> str:
    why = health.degraded()
    return "" if why is None else note(f"State is kept in memory only: {text(why)}", "bad")


def _waiting(scene: Scene) -> str:
    if scene.role == "api":
        return NO_CYCLE_HERE
    if not scene.watched:
        return NONE_WATCHED
    entries = f"{scene.watched} configuration entr{'y' if scene.watched == 1 else 'ies'}"
    if scene.health.failures:
        return (
            f"<h2>No cycle has ended well yet</h2><p>{scene.health.failures} of them failed; the log says why "
            "(<code>cycle failed</code>). The next one comes by itself, and this page with it.</p>"
        )
    return (
        f"<h2>The first cycle is running</h2><p>It reads the history of {entries} from Prometheus, which takes seconds "
        "for a few workloads and up to a minute for thousands. This page refreshes by itself.</p>"
    )


def _nothing_found(scene: Scene) -> str:
    return (
        f"<h2>No workload was found</h2><p>The configuration has {scene.watched} entries, but the templates among them "
        "(<code>forEach</code>) matched no series yet. Run <code>forecaster check</code>: it shows what each query "
        "returns.</p>"
    )


def _table(rows: Sequence[str]) -> str:
    return (
        '<div class="scroll wide"><table class="list" id="list"><caption class="quiet">Workloads, by name</caption>'
        '<thead><tr><th scope="col" data-sort="name" aria-sort="ascending">Workload</th>'
        '<th scope="col" data-sort="state">State</th>'
        '<th scope="col" class="optional">Load, last day</th>'
        '<th scope="col" class="number" data-sort="load">Load</th>'
        '<th scope="col" class="number" data-sort="floor">Floor</th>'
        '<th scope="col" class="number optional" data-sort="desired">Desired</th>'
        '<th scope="col" class="number" data-sort="actual">Actual</th></tr></thead>'
        f'<tbody data-rows="">{"".join(rows)}</tbody></table></div>'
    )


def _searched(one: WorkloadStatus, state: str) -> str:
    scale = one.workload.scale
    hpa = f"{scale.namespace}/{scale.hpa}" if scale else ""
    said = " ".join(reason.code.value for reason in one.reasons)
    return f"{one.workload.name} {hpa} {state} {one.mode.value} {said}".lower()


def _row(rendered: Rendered, one: WorkloadStatus, state: str, monotonic: float) -> str:
    name, scale = one.workload.name, one.workload.scale
    recommendation, expiry = rendered.recommended.get(name, (None, 0.0))
    counts = recommendation is not None and monotonic < expiry
    floor = recommendation.floor if recommendation and counts else None
    desired = recommendation.desired_replicas if recommendation and counts else None
    load = float(rendered.publication.status.load[one.row])
    facts = one.facts
    actual = MISSING
    if facts is not None and facts.current_replicas is not None:
        actual = whole(facts.current_replicas)
        if facts.ready_replicas is not None and facts.ready_replicas != facts.current_replicas:
            actual = f"{facts.ready_replicas}/{facts.current_replicas}"
    target = f"{scale.namespace}/{scale.hpa} · {one.mode.value}" if scale else "no HPA: forecast only"
    reasons = "".join(f"<li>{reason_line(reason)}</li>" for reason in one.reasons[:3])
    if len(one.reasons) > 3:
        reasons += f"<li>and {len(one.reasons) - 3} more</li>"
    why = f"<ul>{reasons}</ul>" if reasons else ""
    value = f' data-v="{load:.6g}"' if load == load else ""
    return (
        f'<tr data-key="{text(name)}"><th scope="row"><a href="/workloads/{quote(name)}">{text(name)}</a>'
        f"<small>{text(target)}</small></th><td>{pill(state)}{why}</td>"
        f'<td class="spark optional" data-keep="spark"></td><td class="number"{value}>{number(load)}</td>'
        f'<td class="number">{whole(floor)}</td><td class="number optional">{whole(desired)}</td>'
        f'<td class="number">{actual}</td></tr>'
    )
