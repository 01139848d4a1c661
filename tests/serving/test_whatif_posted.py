"""`POST /api/v1/whatif`: the receipt of posted values or of a query, one at a time, limited, for operators."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from starlette.testclient import TestClient

from forecaster.scaling.whatif import report
from forecaster.scaling.whatif.trial import Hpa
from serving import api, schemas, whatif, whatif_posted
from serving.problems import Problem
from tests.fakes import FakeSource
from tests.forecaster.scaling.whatif.loads import BEGIN, STEP, daily, trial
from tests.serving.publications import NOW
from tests.serving.test_api import OPERATOR, VIEWER, bearer, client, clock, edges, is_problem, with_tokens

__all__ = ["client", "clock", "edges", "with_tokens"]

LOAD = [None if i in (40, 41) else float(value) for i, value in enumerate(daily(4).round(3))]
ASKED: dict[str, Any] = {
    "name": "checkout",
    "start": "2026-03-01T00:05:00Z",
    "step": "5m",
    "values": LOAD,
    "startups": ["10m"],
    "capacityPerReplica": 60.0,
    "minReplicas": 3,
    "price": 0.05,
}
QUERY = "sum(rate(requests_total[5m]))"


def test_a_posted_past_gets_the_receipt_that_the_verb_prints(client: TestClient) -> None:
    answer = client.post("/api/v1/whatif", json=ASKED)
    assert answer.status_code == 200, answer.text
    values = np.array([np.nan if one is None else one for one in LOAD])
    one = trial(values, hpa=Hpa(min_replicas=3))
    assert one.times[0] == BEGIN + STEP
    direct = report.as_dict(whatif.told(whatif.Wanted([one], {"checkout": ("",)}), price=0.05))
    assert answer.json() == direct
    assert schemas.WhatifOut.model_validate(answer.json()).schema_version == 1


def test_a_query_is_read_over_its_history_and_only_a_limited_one(client: TestClient, edges: api.Edges) -> None:
    def curve(times: Any) -> Any:
        return 1_000.0 * (1.3 - np.cos(2 * np.pi * times / 86_400.0))

    edges.source = FakeSource({QUERY: [({}, curve)]})
    body = {"query": QUERY, "step": "5m", "history": "3d", "startups": ["10m"], "capacityPerReplica": 60.0}
    told = client.post("/api/v1/whatif", json=body)
    assert told.status_code == 200, told.text
    assert {row["policy"] for row in told.json()["rows"]} >= {"user_hpa", "tuned_hpa", "forecaster", "oracle"}
    assert sum(row["days"] for row in told.json()["rows"] if row["policy"] == "oracle") == pytest.approx(3, abs=0.02)
    is_problem(client.post("/api/v1/whatif", json={**body, "query": '{__name__=~".+"}[10y:1s]'}), 422)
    assert "series" in is_problem(client.post("/api/v1/whatif", json={**body, "query": "absent"}), 422)["detail"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"values": LOAD[:300]}, "history_too_short"),
        ({"values": [5.0] * 900}, "constant_series"),
        ({"values": [None] * 900}, "no_data"),
        ({"values": [-1.0] * 900}, "values"),
        ({"values": None}, "either values or query"),
        ({"start": None}, "start"),
        ({"startups": ["60s"]}, "shorter than its step"),
        ({"startups": ["61s"]}, "multiples of 15 s"),
        ({"startups": ["20m"]}, "at most 15m"),
        ({"minReplicas": 9, "maxReplicas": 4}, "above maxReplicas"),
        ({"capacityPerReplica": 0.0}, "capacityPerReplica"),
        ({"step": "7m30s", "startups": ["15m"], "values": [1.0, 2.0] * 300}, ""),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_cannot_be_replayed_says_why(client: TestClient, change: dict[str, Any], words: str) -> None:
    answer = client.post("/api/v1/whatif", json={**ASKED, **change})
    if not words:
        assert answer.status_code == 200, answer.text
        return
    problem = is_problem(answer, 422)
    assert words in problem["detail"] or words in str(problem.get("errors"))


def test_too_many_values_are_refused(client: TestClient) -> None:
    is_problem(client.post("/api/v1/whatif", json={**ASKED, "values": [1.0] * 50_001}), 422)
    long = {**ASKED, "values": None, "start": None, "query": QUERY, "step": "1m", "history": "60d"}
    assert "points" in is_problem(client.post("/api/v1/whatif", json=long), 422)["detail"]


def test_only_one_receipt_is_made_at_a_time(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[int] = []

    async def slow(body: schemas.WhatifBody, past: object) -> bytes:
        # a second request while the first is being made
        answer = await anyio.to_thread.run_sync(lambda: client.post("/api/v1/whatif", json=ASKED))
        assert answer.headers["retry-after"] == "15"
        said.append(is_problem(answer, 429)["status"])
        return b"{}"

    monkeypatch.setattr(whatif_posted, "receipt", slow)
    assert client.post("/api/v1/whatif", json=ASKED).status_code == 200
    assert said == [429]


def test_a_failed_one_makes_room_for_the_next(client: TestClient) -> None:
    for _ in range(2):
        is_problem(client.post("/api/v1/whatif", json={**ASKED, "values": LOAD[:300]}), 422)


def test_a_receipt_that_takes_too_long_is_stopped() -> None:
    body = schemas.WhatifBody.model_validate(ASKED)
    with pytest.raises(Problem, match="not made within") as found:
        anyio.run(whatif_posted.receipt, body, whatif_posted.posted(body), 0.01)
    assert found.value.status == 503


def test_a_viewer_may_not_ask_for_it(with_tokens: TestClient) -> None:
    is_problem(with_tokens.post("/api/v1/whatif", json=ASKED, headers=bearer(VIEWER)), 403)
    short = {**ASKED, "values": LOAD[:300]}
    is_problem(with_tokens.post("/api/v1/whatif", json=short, headers=bearer(OPERATOR)), 422)


def test_a_query_without_prometheus_is_503(edges: api.Edges, tmp_path: Path) -> None:
    with TestClient(api.build(replace(edges, source=None)), raise_server_exceptions=False) as alone:
        is_problem(alone.post("/api/v1/whatif", json={"query": QUERY, "step": "5m"}), 503)
    assert NOW is edges.wall()
