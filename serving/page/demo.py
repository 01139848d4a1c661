"""The demo's page: two futures of the same services side by side, plain HPA and with Forecaster.

Made from the answer of `GET /api/v1/demo`; its clock runs faster than ours, so every time comes from there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from serving.page import assets, words
from serving.page.words import MISSING, note, number, percent, span, table, text, whole

Told = Mapping[str, Any]
NAMES = {"hpa": "Plain HPA", "forecaster": "With Forecaster"}
TABLE_ROWS = 24
OFF = (
    "<h1>Demo</h1><p>No demo runs in this process. Start one with <code>forecaster demo</code>: it simulates a "
    "cluster, faster than real time, once scaled by the plain HPA and once with Forecaster's floor.</p>"
    '<p><a href="/workloads">All workloads</a></p>'
)
BEGINS = "<p>The simulated cluster begins in a moment: its history are being made.</p>"


def part(told: Told, has_charts: bool) -> str:
    """Everything below the heading; the script asks for it again."""
    services = told.get("services") or []
    out = [_clock(told), _totals(told)]
    if not has_charts:
        out.append(note(assets.MISSING))
    if not services:
        out.append("<p>The simulated cluster has no service yet: it begins in a moment.</p>")
    out += [_service(one, has_charts) for one in services]
    out.append(_events(told.get("events") or []))
    return "".join(out)


def _clock(told: Told) -> str:
    return (
        f'<p class="summary" data-now="{text(told.get("now", ""))}">In the simulated cluster it is '
        f"<strong>{_when(told.get('now'))}</strong>, {span(_float(told.get('simulatedSeconds')))} after the beginning; "
        f"time runs {number(_float(told.get('speed')))} times as fast as real time.</p>"
    )


def _totals(told: Told) -> str:
    policies = told.get("policies") or {}
    rows = [
        (
            NAMES[name],
            number(_float(one.get("replicaHours"))),
            span(_float(one.get("secondsAboveCapacity"))),
            percent(_float(one.get("unmetLoadRatio")), 3),
        )
        for name in NAMES
        if (one := policies.get(name))
    ]
    if not rows:
        return "<p>Totals come with the first simulated minutes.</p>"
    head = ("policy", "replica-hours", "time above capacity", "load not served")
    return (
        '<section class="card"><h2>So far, all services</h2>'
        f'<p class="verdict">{difference(policies.get("hpa"), policies.get("forecaster"))}</p>'
        f"{table('Totals', head, rows)}</section>"
    )


def difference(hpa: Told | None, ours: Told | None) -> str:
    """In words: what Forecaster cost and what it saved."""
    if not hpa or not ours:
        return "There is nothing to compare yet."
    cost, saved = _more(hpa, ours, "replicaHours", _hours), _more(hpa, ours, "secondsAboveCapacity", span)
    return f"With Forecaster: {cost}, {saved}."


def _hours(value: float) -> str:
    return f"{number(value)} replica-hours"


def _more(hpa: Told, ours: Told, name: str, show: Any) -> str:
    before, after = _float(hpa.get(name)), _float(ours.get(name))
    what = "" if name == "replicaHours" else " above capacity"
    if not (math.isfinite(before) and math.isfinite(after)):
        return f"{name} not known"
    change = after - before
    if abs(change) < 1e-9 or abs(change) < 0.0005 * abs(before):
        return f"as many {'replica-hours' if not what else 'seconds' + what}"
    share = f" ({'+' if change > 0 else '−'}{percent(abs(change) / before, 0)})" if before > 0 else ""
    return f"{show(abs(change))} {'more' if change > 0 else 'less'}{what}{share}"


def _service(one: Told, has_charts: bool) -> str:
    name = str(one.get("name", ""))
    pays = one.get("pays")
    verdict = "Prediction pays here" if pays else "Prediction does not pay here"
    kind = "forecasting" if pays else "observed"
    mine = {key: one.get(key) or {} for key in NAMES}
    out = [
        f'<section class="card"><h2><a href="/workloads/{quote(name)}">{text(name)}</a> '
        f'<span class="pill {kind}">{verdict}</span></h2>'
        f"<p>{text(one.get('sentence', ''))} <small>Starts in {span(_float(one.get('startupSeconds')))}.</small></p>"
        f'<p class="verdict">{difference(mine["hpa"], mine["forecaster"])}</p>'
    ]
    if has_charts:
        out.append('<div class="futures">')
        out += [_future(one, key) for key in NAMES]
        out.append("</div>")
        legend = (
            ("load", "load"),
            ("capacity", "capacity"),
            ("above", "above capacity"),
            ("current", "replicas"),
            ("floor", "floor"),
        )
        out.append('<ul class="legend">' + "".join(f'<li class="key-{k}">{t}</li>' for k, t in legend) + "</ul>")
    else:
        out += [f"<p>{text(_sentence(one, key))}</p>" for key in NAMES]
    return "".join([*out, _data(one, has_charts), "</section>"])


def _future(one: Told, key: str) -> str:
    mine = one.get(key) or {}
    name = text(one.get("name", ""))
    return (
        f"<figure><figcaption><strong>{NAMES[key]}</strong> {number(_float(mine.get('replicaHours')))} replica-hours, "
        f"{span(_float(mine.get('secondsAboveCapacity')))} above capacity</figcaption>"
        f'<div class="chart small" role="img" aria-label="{text(_sentence(one, key))}" data-chart="demo-load" '
        f'data-keep="{name} {key}" data-service="{name}" data-policy="{key}"></div>'
        f'<div class="chart tiny" role="img" aria-label="{text(_replicas(one, key))}" data-chart="demo-replicas" '
        f'data-keep="{name} {key} replicas" data-service="{name}" data-policy="{key}"></div></figure>'
    )


def _sentence(one: Told, key: str) -> str:
    capacity = "capacityHpa" if key == "hpa" else "capacityForecaster"
    load, full = _floats(one.get("load")), _floats(one.get(capacity))
    pairs = [(a, b) for a, b in zip(load, full, strict=False) if math.isfinite(a) and math.isfinite(b)]
    if not pairs:
        return f"{NAMES[key]}: no minute has been simulated yet."
    above = sum(a > b for a, b in pairs)
    return (
        f"{NAMES[key]}: load between {number(min(a for a, _ in pairs))} and {number(max(a for a, _ in pairs))}, "
        f"capacity between {number(min(b for _, b in pairs))} and {number(max(b for _, b in pairs))}; load was above "
        f"capacity at {above} of {len(pairs)} points."
    )


def _replicas(one: Told, key: str) -> str:
    known = [v for v in _floats(one.get("replicasHpa" if key == "hpa" else "replicasForecaster")) if math.isfinite(v)]
    if not known:
        return f"{NAMES[key]}: no replicas yet."
    return f"{NAMES[key]}: {whole(min(known))} to {whole(max(known))} replicas, now {whole(known[-1])}."


def _data(one: Told, has_charts: bool) -> str:
    times = one.get("times") or []
    columns = [
        _floats(one.get(name))
        for name in ("load", "capacityHpa", "replicasHpa", "capacityForecaster", "replicasForecaster", "floor")
    ]
    every = max(1, math.ceil(len(times) / TABLE_ROWS))
    rows = [
        (_when(times[i]), *(number(column[i]) if i < len(column) else MISSING for column in columns))
        for i in list(range(len(times) - 1, -1, -every))[::-1]
    ]
    head = ("time", "load", "HPA: capacity", "replicas", "Forecaster: capacity", "replicas", "floor")
    opened = "" if has_charts else " open"
    return f"<details{opened}><summary>Data of these charts</summary>{table('Both futures', head, rows)}</details>"


def _events(events: Sequence[Told]) -> str:
    head = '<section class="card"><h2>What happened</h2>'
    if not events:
        return f"{head}<p>Nothing yet: flash crowds, deploys and faults come as the demo goes on.</p></section>"
    items = "".join(
        f"<li>{_when(one.get('time'))} <strong>{text(one.get('workload', ''))}</strong> "
        f'<span class="pill observed">{text(one.get("kind", ""))}</span> {text(one.get("sentence", ""))}</li>'
        for one in reversed(events[-50:])
    )
    return f'{head}<ul class="events">{items}</ul></section>'


def _when(value: object) -> str:
    """RFC 3339 or Unix seconds."""
    try:
        if isinstance(value, (int, float)):
            return words.moment(datetime.fromtimestamp(value, UTC))
        at = datetime.fromisoformat(str(value))
    except (ValueError, OverflowError, OSError):
        return MISSING
    return words.moment(at if at.tzinfo else at.replace(tzinfo=UTC))


def _float(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _floats(values: object) -> list[float]:
    return [_float(value) for value in values] if isinstance(values, list) else []
