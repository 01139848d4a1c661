"""The REST API: routes, and nothing that computes. Hot collections are bytes that the loop made.

The handlers run in the event loop as long as they only hand out bytes; what reads the store or runs a model goes to a
thread, so that `/healthz` answers while a model runs.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl

import anyio
import anyio.to_thread
from fastapi import FastAPI, Query, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from forecaster.anomaly import feedback
from forecaster.domain import Event, Override
from forecaster.errors import InputError
from forecaster.ports import Forecaster, MetricSource
from serving import auth, forecasting, metrics_text, past, problems, promview, schemas, whatif_posted
from serving.health import Health
from serving.limits import TokenBucket, body_of
from serving.loop import Board
from serving.page import assets
from serving.page import routes as pages
from serving.page.answers import packed
from serving.page.shell import Shell
from serving.problems import Problem
from serving.render import (
    MOST_RECENT_INCIDENTS,
    Rendered,
    dumps,
    event_json,
    incident_json,
    newest_first,
    override_json,
)
from serving.store import Store

JSON = "application/json"
MOST_PAGE = 1_000
LONGEST_POLL = 30.0
MOST_EVENTS = 10_000
MOST_OVERRIDES = 1_000
MOST_PASTS = 100  # kept of one publication, for those who look at the same workload
LOGIN_BYTES = 4_096
FORM_BYTES = 64 * 2**10

Limit = Annotated[int, Query(ge=1, le=MOST_PAGE, description="Items of one page.")]
Next = Annotated[str, Query(max_length=512, description="`next` of the page before.")]
B = TypeVar("B", bound=BaseModel)


@dataclass(slots=True)
class Edges:
    """All that the API reads and writes; the server builds it, a test passes fakes."""

    board: Board
    health: Health
    store: Store
    forecasters: Callable[[], Sequence[Forecaster]] = tuple  # fresh ones: they remember fits of the rows they saw
    source: MetricSource | None = None
    watched: Callable[[], int] = lambda: 0  # entries in the configuration
    role: str = "all"  # all | loop | api
    tokens: auth.Tokens | None = None
    allowed_hosts: Iterable[str] | None = ("localhost", "127.0.0.1", "[::1]")
    wall: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic
    demo: Callable[[], bytes | None] | None = None  # the answer of GET /api/v1/demo; it gives None until it has begun
    static: assets.Assets = field(default_factory=assets.load)  # what pages load
    queries: TokenBucket = field(default_factory=lambda: TokenBucket(per_second=1.0, burst=10.0))


def version() -> str:
    try:
        return installed_version("forecaster-k8s")
    except PackageNotFoundError:
        return "unknown"


def _answers(model: type[BaseModel], *errors: int, status: int = 200, **more: Any) -> dict[str, Any]:
    """Keywords of a route: what it answers, for the OpenAPI document."""
    problem = {"content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemOut"}}}}
    listed: dict[int | str, Any] = {status: {"model": model, "description": "Success"}}
    for code in (400, 401, 403, 404, 405, 413, 421, 422, 500, *errors):
        listed[code] = {"description": "Problem", **problem}
    return {"responses": listed, "status_code": status, "response_class": Response, **more}


def _takes(*models: type[BaseModel]) -> dict[str, Any]:
    refs = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in models]
    schema = refs[0] if len(refs) == 1 else {"anyOf": refs}
    return {"openapi_extra": {"requestBody": {"required": True, "content": {JSON: {"schema": schema}}}}}


def build(edges: Edges) -> Any:
    """The ASGI application with its gatekeeper around it."""
    app = FastAPI(
        title="Forecaster",
        version=version(),
        docs_url=None,  # the stock page loads scripts from elsewhere
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
    )
    problems.install(app)
    _health_routes(app, edges)
    _reading_routes(app, edges)
    _page_routes(app, edges)
    _view_routes(app, edges)
    if edges.role != "loop":
        _forecast_route(app, edges)
        _whatif_route(app, edges)
        _writing_routes(app, edges)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    sessions = auth.Sessions(edges.tokens) if edges.tokens else None
    app.state.sessions = sessions
    return auth.Gatekeeper(app, edges.tokens, sessions, edges.allowed_hosts)


# --- health ----------------------------------------------------------------------------------------------------------


def _health_routes(app: FastAPI, edges: Edges) -> None:
    @app.get("/healthz", summary="The process answers.", response_class=PlainTextResponse)
    async def healthz() -> Response:
        return Response("ok\n", media_type="text/plain")

    @app.get(
        "/readyz",
        summary="A first cycle has ended, or there is nothing to do. Stays ready while Prometheus is down.",
        responses={503: {"description": "Not ready", "content": {"text/plain": {}}}},
        response_class=PlainTextResponse,
    )
    async def readyz() -> Response:
        ready = edges.role == "api" or edges.health.finished_first or edges.watched() == 0
        return Response("ready\n" if ready else "first cycle\n", 200 if ready else 503, media_type="text/plain")

    @app.get("/metrics", summary="Prometheus metrics.", response_class=PlainTextResponse)
    async def metrics() -> Response:
        now, rendered = edges.monotonic(), edges.board.current
        notices = {one.code.value: 1 for one in rendered.notices} if rendered else {}
        publication = rendered.publication if rendered else None
        own = metrics_text.health_text(edges.health, publication, version(), now, notices)
        body = (rendered.metrics_at(now) if rendered else b"") + own
        return Response(body, headers={"Content-Type": metrics_text.CONTENT_TYPE})


# --- reading ---------------------------------------------------------------------------------------------------------


def _reading_routes(app: FastAPI, edges: Edges) -> None:
    @app.get("/api/v1/workloads", summary="All workloads, by name.", **_answers(schemas.WorkloadsOut))
    async def workloads(limit: Limit = 100, next: Next = "") -> Response:
        rendered = edges.board.current
        if rendered is None:
            return _json({"items": [], "next": None, "madeAt": None})
        return _ready(rendered.workloads_page(next, limit, edges.monotonic()))

    @app.get(
        "/api/v1/workloads/{name:path}/forecast",
        summary="Quantiles of the load over the next `horizon`.",
        **_answers(schemas.WorkloadForecastOut),
    )
    async def workload_forecast(
        name: str,
        horizon: Annotated[str, Query(max_length=32, description="Duration; all there is where not given.")] = "",
        quantiles: Annotated[str, Query(max_length=300, description="Levels, e.g. 0.1,0.5,0.9.")] = "",
    ) -> Response:
        rendered = _watched(edges, name)
        reach = _horizon(horizon)
        return _json(rendered.forecast(name, reach, _levels(quantiles)))

    @app.get(
        "/api/v1/workloads/{name:path}/decisions",
        summary="Stored decisions with all that recomputes them, newest first.",
        **_answers(schemas.DecisionsOut),
    )
    async def workload_decisions(
        name: str,
        at: Annotated[str, Query(max_length=40, description="RFC 3339: the newest at or before it.")] = "",
        limit: Limit = 20,
    ) -> Response:
        until = _moment(at, "at") if at else None
        found = await anyio.to_thread.run_sync(lambda: edges.store.decisions(name, until, limit))
        if not found:
            _watched(edges, name)
        items = [
            {
                "workload": one.workload,
                "workloadKey": one.workload_key,
                "at": one.at,
                "record": one.record,
                "decision": one.decision,
            }
            for one in found
        ]
        return _json({"items": items, "next": None})

    @app.get(
        "/api/v1/workloads/{name:path}/history",
        summary="Load, floors and replicas over the last hours.",
        **_answers(schemas.HistoryOut, 304, 503),
    )
    async def workload_history(
        request: Request,
        name: str,
        hours: Annotated[int, Query(ge=1, le=past.LONGEST_HOURS, description="The load as means beyond 6.")] = 6,
    ) -> Response:
        return await packed(request, dumps(past.past_json(await _past(edges, name, hours))), JSON)

    @app.get(
        "/api/v1/sparklines",
        summary="A small line of the last day's load per workload, by name.",
        **_answers(schemas.SparklinesOut, 304),
    )
    async def sparklines(request: Request, limit: Limit = 100, next: Next = "") -> Response:
        rendered = edges.board.current
        if rendered is None:
            return _json({"items": [], "next": None, "stepSeconds": None, "through": None, "madeAt": None})
        return await packed(request, await anyio.to_thread.run_sync(past.sparklines, rendered, next, limit), JSON)

    @app.get("/api/v1/workloads/{name:path}", summary="One workload.", **_answers(schemas.WorkloadDetailOut))
    async def workload(name: str) -> Response:
        return _json(_watched(edges, name).workload_detail(name, edges.monotonic()))

    @app.get(
        "/api/v1/recommendations",
        summary="What each HPA needs. ETag over the decisions; `after` waits until they differ from it.",
        **_answers(schemas.RecommendationsOut, 304),
    )
    async def recommendations(
        request: Request, after: Annotated[str, Query(max_length=100, description="An ETag of before.")] = ""
    ) -> Response:
        rendered = edges.board.current
        if after:
            rendered = await edges.board.changed(after, LONGEST_POLL)
        if rendered is None:
            return _json({"items": [], "next": None, "madeAt": None})
        body, etag = rendered.recommendations_at(edges.monotonic())
        stamp = rendered.publication.made_at.isoformat()
        # Made-At stands on a 304, too: the decisions are the same, but they were made anew.
        headers = {"ETag": etag, "Cache-Control": "no-cache", "Made-At": stamp}
        asked = [one.strip() for one in request.headers.get("if-none-match", "").split(",")]
        if etag in asked or after == etag:
            return Response(status_code=304, headers=headers)
        return _ready(body, headers)

    @app.get(
        "/api/v1/anomalies",
        summary="Incidents: open ones, then closed ones, newest first.",
        **_answers(schemas.IncidentsOut),
    )
    async def anomalies(
        workload: Annotated[str, Query(max_length=512)] = "", limit: Limit = 100, next: Next = ""
    ) -> Response:
        await _refreshed(edges)
        found = newest_first(dict(edges.store.incidents))[:MOST_RECENT_INCIDENTS]
        return _page([incident_json(one) for one in found if not workload or one.workload == workload], limit, next)

    @app.get(
        "/api/v1/anomalies/{id}",
        summary="One incident, with what recomputes its digits.",
        **_answers(schemas.IncidentDetailOut),
    )
    async def anomaly(id: str) -> Response:
        await _refreshed(edges)
        known = edges.store.incidents.get(id)
        if known is None:
            raise _unknown_incident(id)
        ids = [part.id for part in feedback.rows_of(known)]
        accounts = await anyio.to_thread.run_sync(edges.store.accounts, ids)
        return _json({**incident_json(known), "accounts": accounts})

    @app.get(
        "/api/v1/demo",
        summary="Both futures of `forecaster demo`; nothing else has them.",
        **_answers(schemas.DemoOut, 503),
    )
    async def demo(request: Request) -> Response:
        if edges.demo is None:
            raise Problem(404, "no-demo", "no demo runs in this process: start `forecaster demo`")
        body = await anyio.to_thread.run_sync(edges.demo)
        if body is None:
            raise Problem(503, "starting", "the demo has not begun yet", {"Retry-After": "1"})
        return await packed(request, body, JSON)

    @app.get("/api/v1/events", summary="Deploys, holidays, marked outages.", **_answers(schemas.EventsOut))
    async def events(limit: Limit = 100, next: Next = "") -> Response:
        await _refreshed(edges)
        found = sorted(edges.store.events.copy().values(), key=lambda one: (-one.starts_at.timestamp(), one.id))
        return _page([event_json(one) for one in found], limit, next)

    @app.get("/api/v1/overrides", summary="Pins, pauses, holds.", **_answers(schemas.OverridesOut))
    async def overrides(limit: Limit = 100, next: Next = "") -> Response:
        await _refreshed(edges)
        found = sorted(edges.store.overrides.copy().values(), key=lambda one: (one.ends_at, one.id))
        return _page([override_json(one) for one in found], limit, next)


# --- writing ---------------------------------------------------------------------------------------------------------


def _forecast_route(app: FastAPI, edges: Edges) -> None:
    one_at_a_time = anyio.CapacityLimiter(1)  # a model run takes all of a core

    @app.post(
        "/api/v1/forecast",
        summary="Forecasts posted values, or a query (operators); `items` for many.",
        **_answers(schemas.ForecastOut, 408, 429, 502, 503),
        **_takes(schemas.ForecastBody, schemas.ForecastBatch),
    )
    async def forecast(request: Request) -> Response:
        body = await body_of(request)
        batch = await anyio.to_thread.run_sync(_forecast_bodies, body)
        bodies = batch.items if isinstance(batch, schemas.ForecastBatch) else [batch]
        queried = sum(one.query is not None for one in bodies)
        if queried:
            _may_query(request, edges, queried)

        def read() -> list[forecasting.Series]:
            return [
                forecasting.posted(one) if one.query is None else forecasting.fetched(one, _source(edges), edges.wall())
                for one in bodies
            ]

        def compute() -> bytes:
            told = forecasting.answers(bodies, series, edges.forecasters)
            return dumps(told[0] if isinstance(batch, schemas.ForecastBody) else {"items": told})

        series = await anyio.to_thread.run_sync(read)  # outside of the limit: a slow Prometheus delays no other
        return _ready(await anyio.to_thread.run_sync(compute, limiter=one_at_a_time))


def _whatif_route(app: FastAPI, edges: Edges) -> None:
    busy = anyio.Lock()  # a receipt takes a core for seconds

    @app.post(
        "/api/v1/whatif",
        summary="The receipt of a posted past, or of a query's.",
        **_answers(schemas.WhatifOut, 408, 429, 502, 503),
        **_takes(schemas.WhatifBody),
    )
    async def whatif(request: Request) -> Response:
        raw = await body_of(request)
        body = await anyio.to_thread.run_sync(_parsed, schemas.WhatifBody, raw)
        try:
            busy.acquire_nowait()
        except anyio.WouldBlock:
            raise Problem(429, "busy", "another receipt is being made: try again", {"Retry-After": "15"}) from None
        try:
            if body.query is not None:
                _may_query(request, edges, 1)
                source = _source(edges)
                past = await anyio.to_thread.run_sync(whatif_posted.fetched, body, source, edges.wall())
            else:
                past = whatif_posted.posted(body)
            return _ready(await whatif_posted.receipt(body, past))
        finally:
            busy.release()


def _writing_routes(app: FastAPI, edges: Edges) -> None:
    @app.post(
        "/api/v1/anomalies/{id}/feedback",
        summary="Says what an incident was.",
        **_answers(schemas.IncidentOut, 408),
        **_takes(schemas.FeedbackBody),
    )
    async def say(id: str, request: Request) -> Response:
        body = _parsed(schemas.FeedbackBody, await body_of(request))
        known = edges.store.set_feedback(id, body.feedback)
        if known is None:
            raise _unknown_incident(id)
        await anyio.to_thread.run_sync(edges.store.flush)
        return _json(incident_json(known))

    @app.post(
        "/api/v1/events",
        summary="Marks a deploy, a holiday, an outage.",
        **_answers(schemas.EventOut, 408, 409, status=201),
        **_takes(schemas.EventBody),
    )
    async def add_event(request: Request) -> Response:
        body = _parsed(schemas.EventBody, await body_of(request))
        _must_exist(edges, body.workload)
        if len(edges.store.events) >= MOST_EVENTS:
            raise Problem(409, "too-many", f"there are {MOST_EVENTS} events already")
        event = Event(
            uuid.uuid4().hex,
            body.kind,
            body.workload,
            _utc(body.starts_at),
            _utc(body.ends_at),
            body.note,
            body.exclude,
        )
        edges.store.put_event(event)
        await anyio.to_thread.run_sync(edges.store.flush)
        return _json(event_json(event), 201)

    @app.post(
        "/api/v1/overrides",
        summary="Pins, pauses or holds a workload until a stated time.",
        **_answers(schemas.OverrideOut, 408, 409, status=201),
        **_takes(schemas.OverrideBody),
    )
    async def add_override(request: Request) -> Response:
        body = _parsed(schemas.OverrideBody, await body_of(request))
        _must_exist(edges, body.workload)
        if len(edges.store.overrides) >= MOST_OVERRIDES:
            raise Problem(409, "too-many", f"there are {MOST_OVERRIDES} overrides already")
        now = edges.wall()
        if body.ends_at <= now:
            raise Problem(422, "invalid-request", "endsAt: it has passed already")
        starts = _utc(body.starts_at) if body.starts_at else now
        override = Override(
            uuid.uuid4().hex,
            body.workload,
            body.kind,
            starts,
            _utc(body.ends_at),
            body.min_replicas,
            body.max_replicas,
            body.note,
        )
        edges.store.put_override(override)
        await anyio.to_thread.run_sync(edges.store.flush)
        return _json(override_json(override), 201)

    @app.delete(
        "/api/v1/overrides/{id}",
        summary="Ends an override now.",
        status_code=204,
        responses={404: {"description": "Problem"}},
        response_class=Response,
    )
    async def delete_override(id: str) -> Response:
        if not edges.store.delete_override(id):
            raise Problem(404, "unknown-override", f"no override has the id {problems.shortened(id)!r}")
        await anyio.to_thread.run_sync(edges.store.flush)
        return Response(status_code=204)


# --- pages -----------------------------------------------------------------------------------------------------------


def _page_routes(app: FastAPI, edges: Edges) -> None:
    shell = Shell(edges.static, has_demo=edges.demo is not None)
    pages.install(app, edges, shell, lambda name, hours: _past(edges, name, hours))

    @app.get("/docs", include_in_schema=False)
    async def routes(request: Request) -> Response:
        listed = [
            (" ".join(sorted(route.methods or ())), route.path.replace(":path}", "}"), route.summary or "")
            for route in app.router.routes
            if isinstance(route, APIRoute) and route.include_in_schema
        ]
        return Response(shell.routes(listed, pages.viewer_of(request)), media_type="text/html")

    @app.get("/login", include_in_schema=False)
    async def login_form(next: Annotated[str, Query(max_length=500)] = "") -> Response:
        return Response(shell.login(failed=False, after=_own_page(next)), media_type="text/html")

    @app.post("/login", include_in_schema=False)
    async def login(request: Request) -> Response:
        form = _form(await body_of(request, LOGIN_BYTES))
        sessions: auth.Sessions | None = app.state.sessions
        cookie = sessions.open(form.get("token", "").strip()) if sessions else None
        if cookie is None:
            again = shell.login(sessions is not None, _own_page(form.get("next", "")))
            return Response(again, 401 if sessions else 404, media_type="text/html")
        response = RedirectResponse(_own_page(form.get("next", "")) or "/", 303)
        secure = request.url.scheme == "https"
        response.set_cookie(
            auth.COOKIE, cookie, auth.SESSION_SECONDS, path="/", secure=secure, httponly=True, samesite="strict"
        )
        return response

    @app.post("/logout", include_in_schema=False)
    async def logout(request: Request) -> Response:
        form = _form(await body_of(request, LOGIN_BYTES))
        if request.state.principal.csrf not in (None, form.get("csrf")):
            raise Problem(403, "csrf", "the form did not come from our page")
        response = RedirectResponse("/login", 303)
        response.delete_cookie(auth.COOKIE, path="/", httponly=True, samesite="strict")
        return response


def _own_page(address: str) -> str:
    """Where to go after the log-in: a page of ours, else nothing."""
    return address if auth.is_page(address.partition("?")[0]) else ""


# --- the view for Grafana --------------------------------------------------------------------------------------------


def _view_routes(app: FastAPI, edges: Edges) -> None:
    async def answer(request: Request, ask: Callable[[promview.View, dict[str, str], list[str]], Any]) -> Response:
        pairs = [*request.query_params.multi_items()]
        if request.method == "POST":
            pairs += _fields(await body_of(request, FORM_BYTES), 1_000)
        matchers = [value for key, value in pairs if key == "match[]"]
        view = promview.View(edges.board.current, edges.store)
        try:
            data = await anyio.to_thread.run_sync(
                lambda: dumps({"status": "success", "data": ask(view, dict(pairs), matchers)})
            )
        except InputError as error:
            return _json({"status": "error", "errorType": "bad_data", "error": str(error)}, 400)
        return _ready(data)

    both: dict[str, Any] = {"methods": ["GET", "POST"], "include_in_schema": False}

    @app.api_route("/prometheus/api/v1/query_range", **both)
    async def view_query_range(request: Request) -> Response:
        return await answer(request, lambda view, form, _: promview.query_range(view, form))

    @app.api_route("/prometheus/api/v1/query", **both)
    async def view_query(request: Request) -> Response:
        return await answer(request, lambda view, form, _: promview.query(view, form, edges.wall().timestamp()))

    @app.api_route("/prometheus/api/v1/series", **both)
    async def view_series(request: Request) -> Response:
        return await answer(request, lambda view, _, matchers: promview.series(view, matchers))

    @app.api_route("/prometheus/api/v1/labels", **both)
    async def view_labels(request: Request) -> Response:
        return await answer(request, lambda view, _, matchers: promview.labels(view, matchers))

    @app.get("/prometheus/api/v1/label/{name}/values", include_in_schema=False)
    async def view_label_values(name: str, request: Request) -> Response:
        return await answer(request, lambda view, _, matchers: promview.label_values(view, name, matchers))

    @app.get("/prometheus/api/v1/metadata", include_in_schema=False)
    async def view_metadata(request: Request) -> Response:
        return await answer(request, lambda _, form, __: promview.metadata(form.get("metric")))

    @app.get("/prometheus/api/v1/status/buildinfo", include_in_schema=False)
    async def view_buildinfo(request: Request) -> Response:
        # Clients read from the version which features they may use; this is the API level that the view follows.
        return await answer(request, lambda *_: {"version": "2.24.0", "application": "forecaster", "features": {}})


# --- parts of answers and requests -----------------------------------------------------------------------------------


def _ready(body: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(body, media_type=JSON, headers=headers)


def _json(value: object, status: int = 200) -> Response:
    return Response(dumps(value), status, media_type=JSON)


def _page(items: list[dict[str, Any]], limit: int, after: str) -> Response:
    """A page of a small collection; `next` is the id of the last item."""
    start = 0
    if after:
        start = next((i + 1 for i, one in enumerate(items) if one["id"] == after), len(items))
    chosen = items[start : start + limit]
    more = start + limit < len(items)
    return _json({"items": chosen, "next": chosen[-1]["id"] if more else None})


def _watched(edges: Edges, name: str) -> Rendered:
    """The publication, where it knows the workload."""
    rendered = edges.board.current
    if rendered is None:
        raise Problem(404, "unknown-workload", "no cycle has ended yet: nothing is known of any workload")
    if name not in rendered.by_name:
        raise problems.unknown_workload(name, rendered.names)
    return rendered


async def _past(edges: Edges, name: str, hours: int) -> past.Past:
    """The last hours of a workload. Raises the 404 of a name that is not known."""
    rendered = edges.board.current
    if rendered is None and edges.role != "api":
        _watched(edges, name)
    found: past.Past | None = None if rendered is None else rendered.pasts.get((name, hours))
    if found is None:
        found = await anyio.to_thread.run_sync(past.past, rendered, edges.store, name, hours)
        if found is None:
            _watched(edges, name)
            raise AssertionError("a watched workload has a past")
        if rendered is not None and len(rendered.pasts) < MOST_PASTS:
            rendered.pasts[name, hours] = found
    return found


def _unknown_incident(id: str) -> Problem:
    return Problem(404, "unknown-incident", f"no incident has the id {problems.shortened(id)!r}")


async def _refreshed(edges: Edges) -> None:
    """A process without a loop learns from the store what the others wrote; the loop does so each cycle."""
    if edges.role == "api":
        await anyio.to_thread.run_sync(edges.store.refresh)


def _must_exist(edges: Edges, name: str) -> None:
    """Before a first cycle, and in a process without a loop, any name is taken: nothing could tell."""
    rendered = edges.board.current
    if name != "*" and rendered is not None and name not in rendered.by_name:
        raise problems.unknown_workload(name, rendered.names)


def _parsed(model: type[B], body: bytes) -> B:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        told = error.errors(include_url=False)
        if told and told[0]["type"] == "json_invalid":
            raise Problem(400, "not-json", f"the body is not JSON: {told[0]['ctx']['error']}") from None
        raise problems.invalid(told) from None


def _forecast_bodies(body: bytes) -> schemas.ForecastBody | schemas.ForecastBatch:
    # Which of the two it is decides what an error says, so it is looked at before it is validated.
    if re.match(rb'\s*\{\s*"items"', body):
        return _parsed(schemas.ForecastBatch, body)
    return _parsed(schemas.ForecastBody, body)


def _may_query(request: Request, edges: Edges, queries: int) -> None:
    principal: auth.Principal = request.state.principal
    if not principal.is_operator:
        raise Problem(403, "forbidden", f"{principal.name!r} is a viewer: PromQL needs the role operator")
    if queries > 1:
        raise Problem(422, "too-many", f"{queries} queries in one request: one is allowed")
    wait = edges.queries.take()
    if wait:
        seconds = str(int(wait) + 1)
        raise Problem(429, "too-many", f"too many queries: try again in {seconds} s", {"Retry-After": seconds})


def _source(edges: Edges) -> MetricSource:
    if edges.source is None:
        raise Problem(503, "prometheus", "this process has no Prometheus to ask")
    return edges.source


def _horizon(text: str) -> Any:
    if not text:
        return None
    try:
        value = schemas.duration(text)
    except ValueError as error:
        raise Problem(422, "invalid-request", f"horizon: {error}") from None
    if value > schemas.LONGEST_HORIZON:
        raise Problem(422, "horizon-too-long", f"horizon: {schemas.in_words(value)} is too long: at most 7d")
    return value


def _levels(text: str) -> list[float] | None:
    if not text:
        return None
    try:
        levels = [float(part) for part in text.split(",")]
    except ValueError:
        raise Problem(422, "invalid-request", "quantiles: write numbers, e.g. 0.1,0.5,0.9") from None
    if not all(0 < level < 1 for level in levels) or len(levels) > schemas.MOST_QUANTILES:
        most = schemas.MOST_QUANTILES
        raise Problem(422, "invalid-request", f"quantiles: at most {most} levels strictly between 0 and 1")
    return levels


def _moment(text: str, name: str) -> datetime:
    try:
        seconds = promview.timestamp(text, name)
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        raise Problem(422, "invalid-request", f"{name}: write RFC 3339, e.g. 2026-01-31T08:00:00Z") from None


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def _form(body: bytes) -> dict[str, str]:
    return dict(_fields(body, 20))


def _fields(body: bytes, most: int) -> list[tuple[str, str]]:
    try:
        return parse_qsl(body.decode("utf-8", "replace"), max_num_fields=most)
    except ValueError as error:
        raise Problem(400, "not-a-form", f"the body is not a form: {error}") from None


# --- OpenAPI ---------------------------------------------------------------------------------------------------------

_BODIES = (
    schemas.ForecastBody,
    schemas.ForecastBatch,
    schemas.WhatifBody,
    schemas.FeedbackBody,
    schemas.EventBody,
    schemas.OverrideBody,
    schemas.ProblemOut,
    schemas.ForecastsOut,
)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with the bodies that we parse ourselves, and both answers of POST forecast."""
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        _, told = models_json_schema(
            [(model, "validation") for model in _BODIES], ref_template="#/components/schemas/{model}"
        )
        known = document.setdefault("components", {}).setdefault("schemas", {})
        known.update(told["$defs"])
        post = document["paths"].get("/api/v1/forecast", {}).get("post")
        if post is not None:
            refs = [{"$ref": f"#/components/schemas/{name}"} for name in ("ForecastOut", "ForecastsOut")]
            post["responses"]["200"]["content"][JSON]["schema"] = {"anyOf": refs}
        app.openapi_schema = document
    return app.openapi_schema
