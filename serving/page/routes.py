"""Addresses of the pages: each as a whole, and the part of it that the script asks for again."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import anyio.to_thread
from fastapi import FastAPI, Query, Request
from starlette.responses import RedirectResponse, Response

from serving import auth, problems
from serving.page import answers, demo, incidents, listing, workload
from serving.page.answers import HTML, packed
from serving.page.shell import Shell, Viewer
from serving.page.words import text
from serving.past import LONGEST_HOURS, Past
from serving.problems import Problem
from serving.render import MOST_RECENT_INCIDENTS, newest_first

if TYPE_CHECKING:
    from serving.api import Edges

POLL_SECONDS = 10  # an unchanged part is a 304 of some hundred bytes
DEMO_POLL_SECONDS = 2  # its time runs faster

Hours = Annotated[int, Query(ge=1, le=LONGEST_HOURS)]
Text = Annotated[str, Query(max_length=200)]
PastOf = Callable[[str, int], Awaitable[Past]]


def viewer_of(request: Request) -> Viewer:
    principal: auth.Principal = request.state.principal
    return Viewer(principal.csrf, principal.is_operator)


def install(app: FastAPI, edges: Edges, shell: Shell, past_of: PastOf) -> None:
    every = POLL_SECONDS if edges.demo is None else DEMO_POLL_SECONDS

    def live(address: str, markup: str, seconds: int = every) -> str:
        return f'<div id="part" data-part="{text(address)}" data-every="{seconds}">{markup}</div>'

    def scene() -> listing.Scene:
        return listing.Scene(edges.watched(), edges.health, edges.role, edges.monotonic())

    async def list_part(query: str) -> str:
        return await anyio.to_thread.run_sync(listing.part, edges.board.current, scene(), query)

    async def workload_part(request: Request, name: str, hours: int) -> str:
        """Raises the 404 of a name that is not known."""
        past = await past_of(name, hours)
        rendered = edges.board.current
        if rendered is None or name not in rendered.by_name:
            return listing.NO_CYCLE_HERE
        view = workload.View(
            rendered=rendered,
            name=name,
            past=past,
            incidents=[one for one in newest_first(dict(edges.store.incidents.copy())) if one.workload == name],
            may_judge=viewer_of(request).is_operator and edges.role != "loop",
            has_charts=shell.assets.has_charts,
            monotonic=edges.monotonic(),
        )
        return workload.part(view)

    async def demo_part() -> str | None:
        if edges.demo is None:
            return None
        body = await anyio.to_thread.run_sync(edges.demo)
        return demo.BEGINS if body is None else demo.part(json.loads(body), shell.assets.has_charts)

    async def list_page(request: Request, query: str) -> Response:
        markup = await list_part(query)
        address = "/parts/workloads" + (f"?q={quote(query)}" if query else "")
        waiting = edges.board.current is None
        body = f"<h1>Workloads</h1>{listing.filter_form(query)}{live(address, markup, 2 if waiting else every)}"
        soon = "" if waiting else "/api/v1/sparklines?limit=1000"
        html = shell.page("Workloads · Forecaster", body, "/workloads", viewer_of(request), ("list.js",), soon=soon)
        return await packed(request, html, HTML)

    @app.get("/", include_in_schema=False)
    async def index(request: Request, q: Text = "") -> Response:
        if edges.demo is not None:
            return RedirectResponse("/demo", 303)
        return await list_page(request, q)

    @app.get("/workloads", include_in_schema=False)
    async def workloads_page(request: Request, q: Text = "") -> Response:
        return await list_page(request, q)

    @app.get("/parts/workloads", include_in_schema=False)
    async def workloads_part(request: Request, q: Text = "") -> Response:
        return await packed(request, (await list_part(q)).encode(), HTML)

    @app.get("/workloads/{name:path}", include_in_schema=False)
    async def workload_page(request: Request, name: str, hours: Hours = 6) -> Response:
        viewer = viewer_of(request)
        rendered = edges.board.current
        if rendered is None:
            body = f"<h1>{text(name)}</h1>{live('/parts/workloads', listing.part(None, scene()), 2)}"
            html = shell.page(f"{name} · Forecaster", body, "/workloads", viewer, ("live.js",))
            return await packed(request, html, HTML)
        try:
            markup = await workload_part(request, name, hours)
        except Problem as problem:
            near = problem.more.get("didYouMean")
            found = [str(one) for one in near] if isinstance(near, list) else []
            return Response(shell.not_found(problems.shortened(name), found, viewer), 404, media_type=HTML)
        address = f"/parts/workloads/{quote(name)}?hours={hours}"
        body = f'<p class="back"><a href="/workloads">All workloads</a></p><h1>{text(name)}</h1>{live(address, markup)}'
        html = shell.page(f"{name} · Forecaster", body, "/workloads", viewer, ("workload.js",), charts=True)
        return await packed(request, html, HTML)

    @app.get("/parts/workloads/{name:path}", include_in_schema=False)
    async def one_part(request: Request, name: str, hours: Hours = 6) -> Response:
        return await packed(request, (await workload_part(request, name, hours)).encode(), HTML)

    def incidents_part(request: Request, chosen: str) -> str:
        listed = newest_first(edges.store.incidents.copy())[:MOST_RECENT_INCIDENTS]
        may_judge = viewer_of(request).is_operator and edges.role != "loop"
        return incidents.part(incidents.View(listed, may_judge, chosen))

    @app.get("/incidents", include_in_schema=False)
    async def incidents_page(request: Request, id: Text = "") -> Response:
        address = "/parts/incidents" + (f"?id={quote(id, safe='')}" if id else "")
        markup = await anyio.to_thread.run_sync(incidents_part, request, id)
        body = f"<h1>Incidents</h1>{live(address, markup)}"
        html = shell.page("Incidents · Forecaster", body, "/incidents", viewer_of(request), ("incidents.js",))
        return await packed(request, html, HTML)

    @app.get("/parts/incidents", include_in_schema=False)
    async def incidents_again(request: Request, id: Text = "") -> Response:
        return await packed(request, (await anyio.to_thread.run_sync(incidents_part, request, id)).encode(), HTML)

    @app.get("/demo", include_in_schema=False)
    async def demo_page(request: Request) -> Response:
        markup = await demo_part()
        viewer = viewer_of(request)
        if markup is None:
            return Response(shell.page("Demo · Forecaster", demo.OFF, "/demo", viewer), 404, media_type=HTML)
        body = f"<h1>Two futures of the same services</h1>{live('/parts/demo', markup)}"
        html = shell.page("Demo · Forecaster", body, "/demo", viewer, ("demo.js",), charts=True)
        return await packed(request, html, HTML)

    @app.get("/parts/demo", include_in_schema=False)
    async def demo_again(request: Request) -> Response:
        markup = await demo_part()
        if markup is None:
            raise Problem(404, "no-demo", "no demo runs in this process: start `forecaster demo`")
        return await packed(request, markup.encode(), HTML)

    @app.get("/reasons", include_in_schema=False)
    async def reasons_page(request: Request) -> Response:
        return await packed(request, shell.reasons(viewer_of(request)), HTML)

    @app.get("/static/{version}/{name:path}", include_in_schema=False)
    async def static_file(request: Request, version: str, name: str) -> Response:
        found = answers.file(request, shell.assets, version, name)
        if found is None:
            raise Problem(404, "not-found", f"there is no file {problems.shortened(name)!r}")
        return found
