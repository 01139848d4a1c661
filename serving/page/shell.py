"""What surrounds every page: head, navigation, foot; and the pages that hold nothing else.

No inline script or style, nothing from elsewhere: the Content-Security-Policy allows our own files only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from forecaster.reasons import ADVICE, ReasonCode
from serving.page import assets as files
from serving.page.words import note, prose, table, text

LINKS = (
    ("/workloads", "Workloads"),
    ("/incidents", "Incidents"),
    ("/reasons", "Reasons"),
    ("/docs", "REST"),
    ("/metrics", "Metrics"),
)


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks: their session's token for writing (None: no session), and what they may do."""

    csrf: str | None
    is_operator: bool


@dataclass(frozen=True, slots=True)
class Shell:
    """The frame of all pages of one service."""

    assets: files.Assets
    has_demo: bool = False

    def page(
        self,
        title: str,
        body: str,
        here: str = "",
        viewer: Viewer | None = None,
        modules: Sequence[str] = (),
        charts: bool = False,
        soon: str = "",
    ) -> bytes:
        """`here`: address of the page in the navigation; `charts`: loads uPlot, too, where it is; `soon`: data that a
        module asks for as its first thing."""
        url = self.assets.url
        head = [f'<link rel="stylesheet" href="{url("page.css")}">', f'<link rel="icon" href="{url("icon.svg")}">']
        if charts and self.assets.has_charts:
            head.append(f'<link rel="stylesheet" href="{url(files.UPLOT_CSS)}">')
            head.append(f'<script src="{url(files.UPLOT_JS)}" defer></script>')
        if modules:
            head.append(f'<link rel="modulepreload" href="{url("live.js")}">')
        if soon:
            head.append(f'<link rel="preload" as="fetch" crossorigin href="{soon}">')
        head += [f'<script type="module" src="{url(name)}"></script>' for name in modules]
        if viewer is not None and viewer.csrf is not None:
            head.append(f'<meta name="csrf" content="{text(viewer.csrf)}">')
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark">'
            f"<title>{text(title)}</title>{''.join(head)}</head><body>"
            f'<a class="skip" href="#main">Skip to content</a>{self._header(here, viewer)}'
            f'<main id="main" tabindex="-1">{body}</main></body></html>'
        ).encode()

    def _header(self, here: str, viewer: Viewer | None) -> str:
        links = (("/demo", "Demo"), *LINKS) if self.has_demo else LINKS
        items = "".join(
            f'<li><a href="{address}"{" aria-current=page" if address == here else ""}>{name}</a></li>'
            for address, name in links
        )
        leave = ""
        if viewer is not None and viewer.csrf is not None:
            leave = (
                f'<form method="post" action="/logout"><input type="hidden" name="csrf" value="{text(viewer.csrf)}">'
                "<button>Log out</button></form>"
            )
        return (
            f'<header class="top"><a class="brand" href="/">Forecaster</a>'
            f'<nav aria-label="Pages"><ul>{items}</ul></nav>{leave}</header>'
        )

    def login(self, failed: bool, after: str = "") -> bytes:
        said = note("That is not a token of this service.", "bad") if failed else ""
        going = f'<input type="hidden" name="next" value="{text(after)}">' if after else ""
        return self.page(
            "Log in · Forecaster",
            f'<h1>Log in</h1>{said}<form class="login" method="post" action="/login">{going}<label>Token '
            '<input type="password" name="token" autocomplete="current-password" required autofocus></label> '
            "<button>Log in</button></form>"
            "<p>You are not signed in. Tokens stand in the file that <code>auth.tokenFile</code> names, one "
            "<code>name: role: token</code> a line; ask whoever runs this service for yours.</p>",
        )

    def routes(self, listed: Iterable[tuple[str, str, str]], viewer: Viewer) -> bytes:
        """(methods, path, summary) each."""
        rows = [
            (f"<code>{text(methods)}</code> <code>{text(path)}</code>", text(summary))
            for methods, path, summary in listed
        ]
        body = (
            '<h1>REST API</h1><p>For machines: <a href="/openapi.json">/openapi.json</a>.</p>'
            f"{table('Routes', ('route', 'what it does'), rows, numbers_from=9)}"
        )
        return self.page("REST API · Forecaster", body, "/docs", viewer)

    def reasons(self, viewer: Viewer) -> bytes:
        """The closed list of codes, as docs/reasons.md has it."""
        items = "".join(
            f'<dt id="{code.value}"><code>{code.value}</code></dt><dd>{prose(ADVICE[code][0])} '
            f"<em>What to do:</em> {prose(ADVICE[code][1])}</dd>"
            for code in ReasonCode
        )
        body = (
            "<h1>Reason codes</h1><p>Whenever something is missing, held back or bound, one of these codes says why, "
            f"here as in REST and in the metrics.</p><dl>{items}</dl>"
        )
        return self.page("Reasons · Forecaster", body, "/reasons", viewer)

    def not_found(self, name: str, near: Sequence[str], viewer: Viewer) -> bytes:
        hint = ""
        if near:
            links = ", ".join(f'<a href="/workloads/{quote(one)}">{text(one)}</a>' for one in near)
            hint = f"<p>Did you mean {links}?</p>"
        body = (
            f"<h1>No such workload</h1><p>No workload is called <code>{text(name)}</code>. It may have been renamed or "
            f'taken out of the configuration file.</p>{hint}<p><a href="/workloads">All workloads</a></p>'
        )
        return self.page("No such workload · Forecaster", body, "/workloads", viewer)
