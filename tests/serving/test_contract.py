"""The OpenAPI document against the service: generated requests must get answers that the document names."""

from __future__ import annotations

import schemathesis
from hypothesis import HealthCheck, Phase, settings

from serving import api
from serving.health import Health
from serving.loop import Board
from serving.render import render
from serving.store import Store
from tests.fakes import FakeSource
from tests.serving.publications import NOW, LastValue, incident, publication

CHECKS = (
    schemathesis.checks.not_a_server_error,
    schemathesis.checks.status_code_conformance,
    schemathesis.checks.content_type_conformance,
    schemathesis.checks.response_schema_conformance,
)


def _application() -> api.Edges:
    store = Store("sqlite://")
    board = Board()
    made = publication(("checkout", "ns/app"), incidents=[incident()])
    board.publish(render(made, 0.0))
    store.put_incidents(made.incidents)
    return api.Edges(
        board=board,
        health=Health(started_at=0.0, finished_first=True),
        store=store,
        forecasters=lambda: (LastValue(),),
        source=FakeSource({}),
        wall=lambda: NOW,
        monotonic=lambda: 0.0,
        allowed_hosts=None,
    )


schema = schemathesis.openapi.from_asgi("/openapi.json", api.build(_application()))


@schema.parametrize()
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_generated_requests_get_documented_answers(case: schemathesis.Case) -> None:
    if case.path.endswith("/recommendations"):
        case.query.pop("after", None)  # would wait for a change
    case.call_and_validate(checks=list(CHECKS))
