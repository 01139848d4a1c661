"""The reference pages name every route and every metric, and nothing that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from serving import api, metrics_text, promview
from serving.actuator import status
from serving.health import Health
from serving.loop import Board
from serving.store import Store

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_every_route_stands_in_the_reference_and_no_other(tmp_path: Path) -> None:
    page = (DOCS / "rest-api.md").read_text()
    gate = api.build(api.Edges(Board(), Health(0.0), Store(str(tmp_path / "f.db"))))
    routes = {one.path.replace(":path}", "}") for one in gate._app.router.routes if isinstance(one, APIRoute)}
    written = set(re.findall(r"(?<=[`\s])(/[\w./{}]*)`", page)) - {"/", "/prometheus", "/openapi.json"}
    assert written == routes - {"/"}


def test_every_metric_stands_in_the_reference_and_no_other() -> None:
    page = (DOCS / "metrics.md").read_text()
    written = set(re.findall(r"\b(?:forecaster|process)_[a-z_]+", page))
    actuator = set(re.findall(r"\bforecaster_actuator_[a-z_]+", Path(status.__file__).read_text()))
    assert written == metrics_text.FAMILIES.keys() | promview.METADATA.keys() | actuator


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 408, 409, 413, 421, 422, 429, 500, 502, 503])
def test_every_status_that_is_raised_is_explained(status: int) -> None:
    assert f"| {status} |" in (DOCS / "rest-api.md").read_text()
