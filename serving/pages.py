"""The plain pages: an index of workloads, the log-in form, the list of routes. No script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from urllib.parse import quote

from serving.render import Rendered

MOST_ROWS = 2_000

STYLE = b"""
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 70rem; margin: 0 auto; padding: 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
code, pre { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
.note { border-left: 4px solid #b60; padding-left: .8rem; }
input, button { font: inherit; padding: .3rem .6rem; }
"""

EMPTY = """<p>No workload is watched yet. Name one in the configuration file; it is read again by itself:</p>
<pre>workloads:
  - name: checkout
    load: sum(rate(http_requests_total{app="checkout"}[1m]))
    scale: {hpa: shop/checkout, capacityPerReplica: 120}</pre>
<p><code>forecaster check</code> says whether the query and the HPA are found. Forecasts of values that you post work
already: <a href="/docs">POST /api/v1/forecast</a>.</p>"""


def page(title: str, body: str) -> bytes:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="stylesheet" href="/style.css"></head><body>{body}</body></html>'
    ).encode()


def index(
    rendered: Rendered | None, watched: int, monotonic: float, degraded: str | None, session: str | None
) -> bytes:
    """All workloads with state and reasons. `watched`: entries in the configuration."""
    parts = ["<h1>Forecaster</h1>"]
    if session is not None:
        parts.append(
            f'<form method="post" action="/logout"><input type="hidden" name="csrf" value="{escape(session)}">'
            "<button>Log out</button></form>"
        )
    if degraded is not None:
        parts.append(f'<p class="note" role="status">State is kept in memory only: {escape(degraded)}</p>')
    if rendered is None:
        parts.append("<p>The first cycle is running: reload in a moment.</p>" if watched else EMPTY)
    else:
        parts += _workloads(rendered, monotonic)
    parts.append(
        '<p><a href="/api/v1/recommendations">Recommendations</a> · <a href="/api/v1/anomalies">anomalies</a> · '
        '<a href="/api/v1/events">events</a> · <a href="/api/v1/overrides">overrides</a> · '
        '<a href="/metrics">metrics</a> · <a href="/docs">all routes</a></p>'
    )
    return page("Forecaster", "".join(parts))


def _workloads(rendered: Rendered, monotonic: float) -> Iterable[str]:
    made_at = rendered.publication.made_at
    stamp = made_at.isoformat(timespec="seconds")
    yield f'<p>Last cycle: <time datetime="{stamp}">{made_at:%Y-%m-%d %H:%M:%S} UTC</time></p>'
    for notice in rendered.notices:
        yield f'<p class="note" role="status"><code>{notice.code.value}</code> {escape(notice.detail)}</p>'
    if not rendered.names:
        yield EMPTY
        return
    yield "<table><caption>Workloads</caption><thead><tr>"
    yield "".join(f'<th scope="col">{name}</th>' for name in ("workload", "load", "floor", "needed", "mode", "state"))
    yield "</tr></thead><tbody>"
    for name in rendered.names[:MOST_ROWS]:
        one = rendered.workload(name, monotonic)
        link = f"/api/v1/workloads/{quote(name)}"
        state = "<br>".join(f"<code>{r['code']}</code> {escape(r['detail'])}" for r in one["reasons"]) or "ok"
        yield (
            f'<tr><th scope="row"><a href="{escape(link)}">{escape(name)}</a> '
            f'(<a href="{escape(link)}/forecast">forecast</a>)</th>'
            f'<td class="number">{_number(one["load"])}</td><td class="number">{_whole(one["floor"])}</td>'
            f'<td class="number">{_whole(one["desiredReplicas"])}</td><td>{one["mode"]}</td><td>{state}</td></tr>'
        )
    yield "</tbody></table>"
    if len(rendered.names) > MOST_ROWS:
        more = len(rendered.names) - MOST_ROWS
        yield f'<p>{more} more: <a href="/api/v1/workloads?limit=1000">/api/v1/workloads</a></p>'


def login(failed: bool) -> bytes:
    note = '<p class="note" role="alert">That is not a token.</p>' if failed else ""
    return page(
        "Log in: Forecaster",
        f'<h1>Forecaster</h1>{note}<form method="post" action="/login"><label>Token '
        '<input type="password" name="token" autocomplete="current-password" required autofocus></label> '
        "<button>Log in</button></form>",
    )


def routes(listed: Iterable[tuple[str, str, str]]) -> bytes:
    """(methods, path, summary) each."""
    rows = "".join(
        f"<tr><td><code>{escape(methods)}</code></td><td><code>{escape(path)}</code></td><td>{escape(summary)}</td></tr>"
        for methods, path, summary in listed
    )
    return page(
        "Routes: Forecaster",
        '<h1>Routes</h1><p>For machines: <a href="/openapi.json">/openapi.json</a>.</p><table><thead><tr>'
        '<th scope="col">method</th><th scope="col">path</th><th scope="col">what</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>",
    )


def _number(value: float) -> str:
    return "–" if value != value else f"{value:,.4g}"


def _whole(value: int | None) -> str:
    return "–" if value is None else str(value)
