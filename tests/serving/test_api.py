"""The REST API through a test client: routes, limits, errors, roles."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from forecaster.domain import Nearby
from serving import api, auth, schemas
from serving.health import Health
from serving.limits import MOST_BODY_BYTES, TokenBucket
from serving.loop import Board
from serving.render import render
from serving.store import Store, StoredDecision
from tests.fakes import FakeSource, constant
from tests.serving.publications import NOW, LastValue, incident, publication

VIEWER, OPERATOR = "viewer-canary-0123456789", "operator-canary-0123456789"


@dataclass
class Clock:
    at: float = 1_000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def edges(tmp_path: Path, clock: Clock) -> Iterator[api.Edges]:
    store = Store(str(tmp_path / "forecaster.db"))
    board, health = Board(), Health(started_at=0.0, finished_first=True)
    health.degraded = lambda: store.degraded
    made = publication(("checkout", "ns/app"), incidents=[incident()])
    board.publish(render(made, clock.at))
    store.put_incidents(made.incidents)
    yield api.Edges(
        board=board,
        health=health,
        store=store,
        forecasters=lambda: (LastValue(),),
        source=FakeSource({"sum(up)": [({}, constant(7.0))]}),
        watched=lambda: 2,
        wall=lambda: NOW,
        monotonic=clock,
        allowed_hosts=("testserver",),
    )
    store.close()


@pytest.fixture
def client(edges: api.Edges) -> Iterator[TestClient]:
    with TestClient(api.build(edges), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def with_tokens(edges: api.Edges, tmp_path: Path) -> Iterator[TestClient]:
    file = tmp_path / "tokens"
    file.write_text(f"# who may do what\ngrafana: viewer: {VIEWER}\nada: operator: {OPERATOR}\n")
    edges.tokens, edges.allowed_hosts = auth.Tokens(file), None
    with TestClient(api.build(edges), raise_server_exceptions=False) as client:
        yield client


def is_problem(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["type"].startswith("urn:forecaster:problem:")
    assert body["title"] and body["detail"]
    assert "Traceback" not in response.text
    return body


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# --- reading ---------------------------------------------------------------------------------------------------------


def test_workloads_are_listed_in_pages(client: TestClient) -> None:
    first = client.get("/api/v1/workloads", params={"limit": 1}).json()
    assert [one["name"] for one in first["items"]] == ["checkout"]
    second = client.get("/api/v1/workloads", params={"limit": 1, "next": first["next"]}).json()
    assert [one["name"] for one in second["items"]] == ["ns/app"]
    assert second["next"] is None


def test_a_workload_whose_name_has_a_slash_is_found(client: TestClient) -> None:
    assert client.get("/api/v1/workloads/ns/app").json()["name"] == "ns/app"
    assert client.get("/api/v1/workloads/ns/app/forecast").json()["reason"]["code"] == "no_data"
    assert client.get("/api/v1/workloads/ns%2Fapp").json()["name"] == "ns/app"


def test_an_unknown_workload_is_answered_with_what_was_meant(client: TestClient) -> None:
    body = is_problem(client.get("/api/v1/workloads/chekout"), 404)
    assert body["didYouMean"] == ["checkout"]
    assert "did you mean 'checkout'?" in body["detail"]


def test_a_forecast_is_given_for_a_horizon_and_levels(client: TestClient) -> None:
    told = client.get("/api/v1/workloads/checkout/forecast?horizon=1h&quantiles=0.5,0.9").json()
    assert told["quantiles"] == [0.5, 0.9]
    assert len(told["times"]) == len(told["values"]) == 5
    assert told["times"][0] == "2026-03-02T12:01:00Z"


@pytest.mark.parametrize(
    ("query", "word"),
    [("horizon=8d", "at most 7d"), ("horizon=3d", "too long"), ("horizon=soon", "duration"), ("quantiles=2", "between"),
     ("quantiles=nan", "between"), ("quantiles=a", "numbers")],
)  # fmt: skip
def test_a_bad_horizon_or_level_is_refused(client: TestClient, query: str, word: str) -> None:
    assert word in is_problem(client.get(f"/api/v1/workloads/checkout/forecast?{query}"), 422)["detail"]


def test_recommendations_answer_304_while_decisions_stay(client: TestClient, edges: api.Edges) -> None:
    first = client.get("/api/v1/recommendations")
    etag = first.headers["etag"]
    assert first.json()["items"][0]["floor"] == 4
    edges.board.publish(render(publication(("checkout", "ns/app"), made_at=NOW + timedelta(seconds=15)), 1_015.0))
    again = client.get("/api/v1/recommendations", headers={"If-None-Match": etag})
    assert again.status_code == 304
    assert again.headers["made-at"] == "2026-03-02T12:00:15+00:00"
    edges.board.publish(render(publication(floor=9), 1_030.0))
    assert client.get("/api/v1/recommendations", headers={"If-None-Match": etag}).status_code == 200


def test_a_long_poll_returns_at_once_where_the_decisions_differ_already(client: TestClient) -> None:
    assert client.get("/api/v1/recommendations", params={"after": 'W/"other"'}).status_code == 200


def test_an_expired_recommendation_is_served_nowhere(client: TestClient, clock: Clock) -> None:
    clock.at += 300
    assert client.get("/api/v1/recommendations").json()["items"] == []
    assert client.get("/api/v1/workloads/checkout").json()["recommendation"] is None
    assert "forecaster_floor_replicas{" not in client.get("/metrics").text
    assert "forecaster_load{" in client.get("/metrics").text


def test_stored_decisions_are_read_back(client: TestClient, edges: api.Edges) -> None:
    for minute in range(3):
        at = NOW + timedelta(minutes=minute)
        edges.store.add_decisions([StoredDecision("checkout", "checkout#abc", at, {"n": minute}, {"floor": minute})])
    edges.store.flush()
    told = client.get("/api/v1/workloads/checkout/decisions", params={"at": "2026-03-02T12:01:30Z", "limit": 1}).json()
    assert [one["record"] for one in told["items"]] == [{"n": 1}]
    is_problem(client.get("/api/v1/workloads/nobody/decisions"), 404)
    is_problem(client.get("/api/v1/workloads/checkout/decisions?at=yesterday"), 422)


def test_health_routes_are_plain_and_ready_after_the_first_cycle(client: TestClient, edges: api.Edges) -> None:
    assert client.get("/healthz").text == "ok\n"
    assert client.get("/readyz").status_code == 200
    edges.health.finished_first = False
    assert client.get("/readyz").status_code == 503
    edges.watched = lambda: 0
    assert client.get("/readyz").status_code == 200


def test_before_the_first_cycle_lists_are_empty_and_well_formed(client: TestClient, edges: api.Edges) -> None:
    edges.board.current = None
    for route in ("workloads", "recommendations"):
        assert client.get(f"/api/v1/{route}").json()["items"] == []
    is_problem(client.get("/api/v1/workloads/checkout"), 404)
    assert "forecaster_build_info" in client.get("/metrics").text


# --- pages -----------------------------------------------------------------------------------------------------------


def test_the_index_lists_workloads_with_their_reasons(client: TestClient) -> None:
    page = client.get("/")
    assert "checkout" in page.text and "no_data" in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    assert "style=" not in page.text and not re.search(r"<script(?! [^>]*\bsrc=\"/static/)", page.text)


def test_the_index_is_never_empty(client: TestClient, edges: api.Edges) -> None:
    edges.board.publish(render(publication(()), 1_000.0))
    assert "matched no series yet" in client.get("/").text
    edges.watched = lambda: 0
    assert "workloads:" in client.get("/").text


def test_a_hostile_name_is_escaped(client: TestClient, edges: api.Edges) -> None:
    edges.board.publish(render(publication(('"><script>alert(1)</script>',)), 1_000.0))
    for path in (
        "/",
        "/parts/workloads",
        "/workloads/%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
        "/?q=%22%3E%3Cscript%3E",
    ):
        assert "<script>" not in client.get(path).text


def test_the_list_of_routes_needs_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/docs").text
    assert "/api/v1/workloads/{name}/forecast" in page
    assert "http" not in page.replace("/openapi.json", "")


# --- errors ----------------------------------------------------------------------------------------------------------


def test_an_unknown_route_and_a_wrong_method_are_problem_documents(client: TestClient) -> None:
    is_problem(client.get("/nowhere"), 404)
    response = client.delete("/api/v1/workloads")
    is_problem(response, 405)
    assert response.headers["allow"] == "GET"
    assert client.request("PUT", "/api/v1/events").headers["allow"] == "GET, POST"


def test_a_fault_of_ours_is_a_problem_without_traceback(client: TestClient, edges: api.Edges) -> None:
    edges.watched = lambda: 1 // 0
    edges.health.finished_first = False
    assert "ZeroDivision" not in client.get("/readyz").text
    is_problem(client.get("/readyz"), 500)


def test_another_name_for_us_is_refused(client: TestClient) -> None:
    is_problem(client.get("/", headers={"Host": "evil.example"}), 421)
    is_problem(client.get("/", headers={"Host": "a b"}), 400)
    assert client.get("/healthz", headers={"Host": "10.1.2.3:8080"}).status_code == 200


@pytest.mark.parametrize("header", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_a_write_from_another_site_is_refused(client: TestClient, header: dict[str, str]) -> None:
    is_problem(client.post("/api/v1/events", json={}, headers=header), 403)


# --- POST forecast ---------------------------------------------------------------------------------------------------

POSTED = {"start": "2026-03-01T00:00:00Z", "step": "1m", "values": [1, 2, None, 4.5], "horizon": "10m"}


def test_posted_values_are_forecast_from_their_end(client: TestClient) -> None:
    told = client.post("/api/v1/forecast", json={**POSTED, "quantiles": [0.5, 0.9]}).json()
    assert told["origin"] == "2026-03-01T00:03:00Z"
    assert told["step"] == "1m"
    assert told["values"] == [[4.5, 4.5]] * 10
    assert told["modelVersion"] == "last-value/1"
    assert told["reason"] is None


def test_a_batch_answers_in_order_and_each_with_its_own_reason(client: TestClient) -> None:
    nothing = {**POSTED, "values": [None, None]}
    other = {**POSTED, "values": [9.0], "horizon": "2m", "quantiles": [0.9]}
    told = client.post("/api/v1/forecast", json={"items": [POSTED, nothing, other]}).json()["items"]
    assert told[0]["values"][0][0] == 4.5
    assert (told[1]["values"], told[1]["reason"]["code"]) == ([], "history_too_short")
    assert told[2]["values"] == [[9.0], [9.0]]


@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        ({"values": [1, "two"]}, 422, "values[1]"),
        ({"values": [1, "2"]}, 422, "values[1]"),
        ({"values": [True]}, 422, "values[0]"),
        ({"values": []}, 422, "values"),
        ({"values": None}, 422, "either values or query"),
        ({"horizon": "8d"}, 422, "at most 7d"),
        ({"horizon": "30s"}, 422, "shorter than one step"),
        ({"step": "0s"}, 422, "step"),
        ({"step": "2d", "horizon": "4d"}, 422, "outside of 1s to 1d"),
        ({"step": "1s", "horizon": "7d"}, 422, "steps"),
        ({"start": "noon"}, 422, "start"),
        ({"start": 5}, 422, "RFC 3339"),
        ({"start": "2026-03-01T00:00:00"}, 422, "start"),
        ({"start": "0001-03-01T00:00:00Z"}, 422, "2000 and 2100"),
        ({"quantiles": [0.9, 0.1]}, 422, "ascending"),
        ({"quantiles": [1.5]}, 422, "quantiles[0]"),
        ({"colour": "red"}, 422, "colour"),
    ],
)  # fmt: skip
def test_bad_values_are_refused_with_their_place(
    client: TestClient, change: dict[str, Any], status: int, word: str
) -> None:
    assert word in is_problem(client.post("/api/v1/forecast", json={**POSTED, **change}), status)["detail"]


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b'{"start": "2026-03-01T00:00:00Z", "step": "1m", "values": [NaN], "horizon": "5m"}', 422),
        (b'{"start": "2026-03-01T00:00:00Z", "step": "1m", "values": [1e400], "horizon": "5m"}', 422),
        (b'{"step": ', 400),
        (b"", 400),
        (b"\xff\xfe", 400),
        (b"[" * 100_000, 400),
        (b'{"items": ' + b"[" * 100_000, 400),
        (b'{"values": ' + b'{"a":' * 100_000, 400),
        (b"[]", 422),
        (b'{"items": []}', 422),
    ],
    ids=["NaN", "1e400", "cut off", "empty", "not UTF-8", "deep", "deep batch", "deep values", "a list", "no items"],
)
def test_what_is_not_a_request_is_refused(client: TestClient, text: bytes, status: int) -> None:
    is_problem(client.post("/api/v1/forecast", content=text), status)


def test_too_many_items_are_refused(client: TestClient) -> None:
    is_problem(client.post("/api/v1/forecast", json={"items": [POSTED] * 1_001}), 422)
    large = {**POSTED, "horizon": "7d", "quantiles": [q / 100 for q in range(1, 22)]}
    assert "numbers" in is_problem(client.post("/api/v1/forecast", json={"items": [large] * 20}), 422)["detail"]


def test_a_long_body_is_refused_before_it_is_read(client: TestClient) -> None:
    is_problem(client.post("/api/v1/forecast", headers={"Content-Length": str(10**9)}, content=b"x"), 413)


def test_a_long_body_in_chunks_is_refused_once_it_is_too_long(client: TestClient) -> None:
    sent = []

    def chunks() -> Iterator[bytes]:
        for _ in range(2 * MOST_BODY_BYTES // 2**16):
            sent.append(1)
            yield b" " * 2**16

    response = client.post("/api/v1/forecast", content=chunks())
    is_problem(response, 413)
    assert response.headers["connection"] == "close"


def test_a_query_is_read_limited_and_forecast(client: TestClient, edges: api.Edges) -> None:
    body = {"query": "sum(up)", "step": "1m", "horizon": "5m"}
    assert client.post("/api/v1/forecast", json=body).json()["values"][0][0] == 7.0
    bomb = {**body, "query": '{__name__=~".+"}[10y:1s]'}
    is_problem(client.post("/api/v1/forecast", json=bomb), 422)
    is_problem(client.post("/api/v1/forecast", json={**body, "query": "absent_metric"}), 422)
    edges.queries = TokenBucket(per_second=0.1, burst=0.0, monotonic=lambda: 0.0)
    response = client.post("/api/v1/forecast", json=body)
    is_problem(response, 429)
    assert int(response.headers["retry-after"]) > 0


# --- writing ---------------------------------------------------------------------------------------------------------

EVENT = {"kind": "deploy", "workload": "checkout", "startsAt": "2026-03-02T10:00:00Z", "endsAt": "2026-03-02T10:30:00Z"}
PIN = {"workload": "checkout", "kind": "pin", "minReplicas": 8, "endsAt": "2026-03-02T18:00:00+02:00"}


def test_an_event_is_kept(client: TestClient, edges: api.Edges) -> None:
    made = client.post("/api/v1/events", json=EVENT)
    assert made.status_code == 201
    assert client.get("/api/v1/events").json()["items"] == [made.json()]
    assert next(iter(edges.store.events.values())).exclude


def test_an_override_is_kept_until_it_is_deleted(client: TestClient) -> None:
    made = client.post("/api/v1/overrides", json=PIN)
    assert made.status_code == 201
    assert made.json()["endsAt"] == "2026-03-02T16:00:00Z"
    assert made.json()["startsAt"] == "2026-03-02T12:00:00Z"
    assert client.get("/api/v1/overrides").json()["items"] == [made.json()]
    assert client.delete(f"/api/v1/overrides/{made.json()['id']}").status_code == 204
    is_problem(client.delete(f"/api/v1/overrides/{made.json()['id']}"), 404)


@pytest.mark.parametrize(
    "change",
    [
        {"endsAt": None}, {"endsAt": "2026-03-02T11:00:00Z"}, {"minReplicas": None},
        {"minReplicas": 9, "maxReplicas": 8}, {"kind": "pause"}, {"kind": "stop"}, {"minReplicas": -1},
        {"minReplicas": 1.5}, {"note": "x" * 1_001},
    ],
)  # fmt: skip
def test_a_bad_override_is_refused_and_nothing_is_kept(client: TestClient, change: dict[str, Any]) -> None:
    is_problem(client.post("/api/v1/overrides", json={**PIN, **change}), 422)
    assert client.get("/api/v1/overrides").json()["items"] == []


def test_a_write_for_an_unknown_workload_is_refused(client: TestClient) -> None:
    is_problem(client.post("/api/v1/overrides", json={**PIN, "workload": "nobody"}), 404)
    assert client.post("/api/v1/overrides", json={**PIN, "workload": "*"}).status_code == 201


def test_one_incident_is_given_with_its_evidence_and_what_recomputes_it(client: TestClient, edges: api.Edges) -> None:
    one = incident()
    near = Nearby("deploy", NOW, "deploy (v2) at 12:00 UTC")
    edges.store.put_incidents([replace(one, parts=(one.part(),), nearby=(near,), threshold=3.5)])
    edges.store.put_accounts({"i1": {"version": 1}}, NOW)
    told = client.get("/api/v1/anomalies/i1").json()
    schemas.IncidentDetailOut.model_validate(told)
    assert told["accounts"] == {"i1": {"version": 1}} and told["threshold"] == 3.5
    assert [part["series"] for part in told["contributing"]] == ["load"]
    assert told["nearby"] == [{"kind": "deploy", "at": "2026-03-02T12:00:00Z", "text": "deploy (v2) at 12:00 UTC"}]
    is_problem(client.get("/api/v1/anomalies/i9"), 404)


def test_feedback_is_kept_when_the_incident_comes_again(client: TestClient, edges: api.Edges) -> None:
    assert client.post("/api/v1/anomalies/i1/feedback", json={"feedback": "false_alarm"}).status_code == 200
    edges.store.put_incidents([incident()])
    assert client.get("/api/v1/anomalies").json()["items"][0]["feedback"] == "false_alarm"
    again = client.post("/api/v1/anomalies/i1/feedback", json={"feedback": "false_alarm"})
    assert again.status_code == 200 and again.json()["feedback"] == "false_alarm"
    assert edges.store.revision == 1  # the second one said nothing new
    is_problem(client.post("/api/v1/anomalies/i9/feedback", json={"feedback": "real"}), 404)
    is_problem(client.post("/api/v1/anomalies/i1/feedback", json={"feedback": "maybe"}), 422)


def test_a_process_for_the_loop_alone_does_not_write(edges: api.Edges) -> None:
    edges.role = "loop"
    with TestClient(api.build(edges)) as client:
        is_problem(client.post("/api/v1/events", json=EVENT), 405)
        assert client.get("/api/v1/recommendations").status_code == 200


# --- who may ---------------------------------------------------------------------------------------------------------


def test_nothing_but_health_is_open_where_tokens_are_set(with_tokens: TestClient) -> None:
    for path in ("/api/v1/workloads", "/metrics", "/openapi.json", "/docs", "/prometheus/api/v1/labels", "/nowhere"):
        response = with_tokens.get(path)
        is_problem(response, 401)
        assert response.headers["www-authenticate"].startswith("Bearer")
    assert with_tokens.get("/healthz").status_code == with_tokens.get("/readyz").status_code == 200


def test_a_viewer_reads_and_an_operator_writes(with_tokens: TestClient) -> None:
    assert with_tokens.get("/metrics", headers=bearer(VIEWER)).status_code == 200
    is_problem(with_tokens.post("/api/v1/events", json=EVENT, headers=bearer(VIEWER)), 403)
    assert with_tokens.post("/api/v1/forecast", json=POSTED, headers=bearer(VIEWER)).status_code == 200
    query = {"query": "sum(up)", "step": "1m", "horizon": "5m"}
    is_problem(with_tokens.post("/api/v1/forecast", json=query, headers=bearer(VIEWER)), 403)
    assert with_tokens.post("/api/v1/events", json=EVENT, headers=bearer(OPERATOR)).status_code == 201


@pytest.mark.parametrize("token", ["", "wrong-token-0123456789", VIEWER[:-1], VIEWER + "x", "ü" * 20])
def test_a_wrong_token_opens_nothing(with_tokens: TestClient, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}".encode()}
    assert with_tokens.get("/api/v1/workloads", headers=headers).status_code == 401  # type: ignore[arg-type]


def test_a_browser_logs_in_and_must_show_that_it_is_our_page(with_tokens: TestClient) -> None:
    html = {"Accept": "text/html"}
    assert with_tokens.get("/", headers=html, follow_redirects=False).headers["location"] == "/login"
    there = with_tokens.get("/workloads/ns%2Fapp", headers=html, follow_redirects=False).headers["location"]
    assert there == "/login?next=/workloads/ns%252Fapp"
    assert 'name="next" value="/workloads/ns%2Fapp"' in with_tokens.get(there).text
    assert "evil" not in with_tokens.get("/login?next=//evil.example/").text
    assert with_tokens.post("/login", data={"token": "wrong-token-0123456789"}).status_code == 401
    done = with_tokens.post("/login", data={"token": OPERATOR}, follow_redirects=False)
    cookie = done.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and OPERATOR not in cookie
    page = with_tokens.get("/", headers=html).text
    csrf = page.split('name="csrf" value="')[1].split('"')[0]
    is_problem(with_tokens.post("/api/v1/events", json=EVENT), 403)
    is_problem(with_tokens.post("/api/v1/events", json=EVENT, headers={"X-CSRF-Token": "0" * 64}), 403)
    assert with_tokens.post("/api/v1/events", json=EVENT, headers={"X-CSRF-Token": csrf}).status_code == 201
    assert with_tokens.post("/logout", data={"csrf": csrf}).status_code == 200
    assert with_tokens.get("/api/v1/workloads").status_code == 401


def test_no_answer_and_no_log_holds_a_token(with_tokens: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    said = []
    for token in (VIEWER, OPERATOR, OPERATOR + "-wrong"):
        for path in ("/", "/metrics", "/api/v1/workloads", "/openapi.json", "/nowhere", "/api/v1/workloads/x"):
            response = with_tokens.get(path, headers=bearer(token))
            said.append(response.text + str(response.headers))
        said.append(with_tokens.post("/api/v1/forecast", content=b"{", headers=bearer(token)).text)
        said.append(with_tokens.post("/login", data={"token": token}, follow_redirects=False).text)
    assert "canary" not in "".join(said) + caplog.text


# --- the view for Grafana --------------------------------------------------------------------------------------------


def view(client: TestClient, path: str, **params: Any) -> Any:
    response = client.get(f"/prometheus/api/v1/{path}", params=params)
    assert response.status_code == 200, response.text
    assert response.json()["status"] == "success"
    return response.json()["data"]


def test_the_view_gives_tomorrow_as_a_range(client: TestClient) -> None:
    start = NOW.timestamp() + 60
    told = view(client, "query_range", query='forecaster_view_load{workload="checkout",quantile="0.5"}', start=start,
                end=start + 540, step="60")  # fmt: skip
    (one,) = told["result"]
    assert one["metric"] == {"__name__": "forecaster_view_load", "workload": "checkout", "quantile": "0.5"}
    assert one["values"] == [[start + 60 * i, "100"] for i in range(10)]


def test_the_view_gives_what_was_recommended(client: TestClient, edges: api.Edges) -> None:
    for minutes, floor in ((10, 7), (5, None)):
        at = NOW - timedelta(minutes=minutes)
        edges.store.add_decisions([StoredDecision("checkout", "checkout#abc", at, {}, {"floor": floor})])
    query = {
        "query": 'forecaster_view_floor_replicas{hpa="checkout"}',
        "start": (NOW - timedelta(minutes=12)).timestamp(),
    }
    told = view(client, "query_range", **query, end=NOW.timestamp() + 60, step="120")
    at = query["start"]
    assert told["result"][0]["values"] == [[at + 120, "7"], [at + 240, "7"], [at + 360, "7"], [at + 720, "4"]]


@pytest.mark.parametrize(
    ("matcher", "count"),
    [('workload=~"check.*"', 5), ('workload!~"check.*",hpa!=""', 1),
     ('workload=~"checkout|ns/app"', 6), ('workload=~".+"', 6), ('workload="x"', 0), ('quantile!=""', 4)],
)  # fmt: skip
def test_the_view_knows_label_matchers(client: TestClient, matcher: str, count: int) -> None:
    assert len(view(client, "series", **{"match[]": f"{{{matcher}}}"})) == count


def test_the_view_answers_what_clients_ask_first(client: TestClient) -> None:
    assert view(client, "query", query="1+1")["result"][1] == "2"
    assert view(client, "labels") == ["__name__", "hpa", "namespace", "quantile", "workload"]
    assert view(client, "label/workload/values") == ["checkout", "ns/app"]
    assert view(client, "label/__name__/values") == ["forecaster_view_floor_replicas", "forecaster_view_load"]
    assert "forecaster_view_load" in view(client, "metadata")
    assert view(client, "status/buildinfo")["application"] == "forecaster"
    form = {"query": "forecaster_view_load", "time": str(NOW.timestamp() + 60)}
    assert len(client.post("/prometheus/api/v1/query", data=form).json()["data"]["result"]) == 4


@pytest.mark.parametrize(
    "params",
    [
        {"query": "rate(forecaster_view_load[5m])", "start": "0", "end": "1", "step": "1"},
        {"query": "forecaster_view_load offset 5m", "start": "0", "end": "1", "step": "1"},
        {"query": "forecaster_view_load", "start": "0", "end": "1e6", "step": "1"},
        {"query": "forecaster_view_load", "start": "1", "end": "0", "step": "1"},
        {"query": "forecaster_view_load", "start": "nan", "end": "0", "step": "1"},
        {"query": "forecaster_view_load", "start": "0", "end": "1", "step": "0"},
        {"query": "forecaster_view_load{", "start": "0", "end": "1", "step": "1"},
        {"query": 'forecaster_view_load{workload=~"("}', "start": "0", "end": "1", "step": "1"},
        {},
    ],
)  # fmt: skip
def test_the_view_refuses_what_it_does_not_know(client: TestClient, params: dict[str, str]) -> None:
    response = client.get("/prometheus/api/v1/query_range", params=params)
    assert (response.status_code, response.json()["errorType"]) == (400, "bad_data")


def test_a_regular_expression_cannot_blow_up(client: TestClient, edges: api.Edges) -> None:
    edges.board.publish(render(publication(("a" * 60,)), 1_000.0))
    assert view(client, "series", **{"match[]": '{workload=~"(a+)+b"}'}) == []


# --- house -----------------------------------------------------------------------------------------------------------


def test_the_document_names_every_body(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    text = json.dumps(document)
    refs = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert refs <= set(document["components"]["schemas"])


def test_the_bucket_fills_again() -> None:
    now = [0.0]
    bucket = TokenBucket(per_second=0.5, burst=2, monotonic=lambda: now[0])
    assert [bucket.take(), bucket.take()] == [0.0, 0.0]
    assert bucket.take() == pytest.approx(2.0)
    now[0] = 2.0
    assert bucket.take() == 0.0


@pytest.mark.parametrize(
    ("text", "word"),
    [("", "no token"), ("ada operator x", ":1: write"), ("ada: root: 0123456789abcdef", ":1: role 'root'"),
     ("# x\nada: viewer: short-canary", ":2: the token of 'ada' is shorter"),
     ("a: viewer: 0123456789abcdef\na: viewer: 0123456789abcdeg", ":2: 'a' stands there twice")],
)  # fmt: skip
def test_a_bad_token_file_is_said_without_the_token(tmp_path: Path, text: str, word: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(auth.InputError) as caught:
        auth.Tokens(file)
    assert word in str(caught.value)
    assert "canary" not in str(caught.value)


def test_a_changed_token_file_is_read_again_and_a_bad_one_is_not(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"a: viewer: {VIEWER}")
    tokens = auth.Tokens(file)
    file.write_text(f"b: operator: {OPERATOR}")
    tokens._checked = -10.0
    assert tokens.find(VIEWER) is None
    found = tokens.find(OPERATOR)
    assert found is not None and found.name == "b"
    file.write_text("nonsense")
    tokens._checked = -10.0
    assert tokens.find(OPERATOR) is not None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_loopback_needs_no_token(host: str) -> None:
    auth.check_bind(host, tokens=False, insecure_no_auth=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com"])
def test_another_address_without_token_is_refused(host: str) -> None:
    with pytest.raises(auth.InputError, match="insecure-no-auth"):
        auth.check_bind(host, tokens=False, insecure_no_auth=False)
    auth.check_bind(host, tokens=False, insecure_no_auth=True)
    auth.check_bind(host, tokens=True, insecure_no_auth=False)


def test_a_session_ends_with_its_time_and_with_its_token(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"a: viewer: {VIEWER}\nb: viewer: other-canary-0123456789")
    tokens = auth.Tokens(file)
    now: list[float] = [1_000.0]
    later: Callable[[], float] = lambda: now[0]  # noqa: E731
    sessions = auth.Sessions(tokens, later)
    cookie = sessions.open(VIEWER)
    assert cookie is not None
    found = sessions.find(cookie)
    assert found is not None and (found.name, found.role) == ("a", "viewer")
    assert sessions.find(cookie[:-1] + ("0" if cookie[-1] != "0" else "1")) is None
    assert sessions.find("rubbish") is sessions.find("x.y") is None
    file.write_text("b: viewer: other-canary-0123456789")
    tokens._checked = -10.0
    assert sessions.find(cookie) is None
    cookie = sessions.open("other-canary-0123456789")
    now[0] += auth.SESSION_SECONDS + 1
    assert cookie is not None and sessions.find(cookie) is None
