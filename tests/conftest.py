"""Fixtures that several parts share."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_prometheus import FakePrometheus
from tests.faultproxy import FaultProxy
from tests.integration import prometheus_server
from tests.integration.prometheus_server import PrometheusServer
from tests.serving.page import browser

HISTORY_DAYS = 14


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a real Prometheus or browser are skipped where there is none; in CI that is a failure."""
    if os.environ.get("CI"):
        return
    for marker, reason in (("prometheus", prometheus_server.missing()), ("browser", browser.missing())):
        if reason is None:
            continue
        for item in items:
            if item.get_closest_marker(marker) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def fake_prometheus() -> Iterator[FakePrometheus]:
    with FakePrometheus() as fake:
        yield fake


@pytest.fixture
def fault_proxy(fake_prometheus: FakePrometheus) -> Iterator[FaultProxy]:
    """A proxy before `fake_prometheus`."""
    with FaultProxy(("127.0.0.1", fake_prometheus.port)) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def prometheus_until() -> int:
    """Unix seconds, on a whole hour, of the last back-filled sample of `real_prometheus`."""
    return int(time.time()) // 3600 * 3600


@pytest.fixture(scope="session")
def real_prometheus(tmp_path_factory: pytest.TempPathFactory, prometheus_until: int) -> Iterator[PrometheusServer]:
    """A real Prometheus with two weeks of minutes, for tests that only read.

    `load{app="a0"}` … `load{app="a4"}` (namespace="shop"): a day's curve of 100, 200, … requests per second; exact:
    100 * (i + 1) * (1 + 0.5 * sin(2 pi t / day)).
    """
    folder: Path = tmp_path_factory.mktemp("prometheus")
    server = PrometheusServer(folder)
    times = range(prometheus_until - HISTORY_DAYS * 86_400, prometheus_until + 1, 60)
    server.backfill(
        (
            "load",
            {"namespace": "shop", "app": f"a{i}"},
            ((t, 100.0 * (i + 1) * (1 + 0.5 * math.sin(2 * math.pi * t / 86_400))) for t in times),
        )
        for i in range(5)
    )
    with server:
        yield server
