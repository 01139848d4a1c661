"""Fixtures of the actuator's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serving.actuator.kube import Kube
from tests.apiserver import FakeApiServer
from tests.serving.actuator.harness import FakeService, access, cluster

Connect = Callable[..., Kube]


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with cluster() as one:
        yield one


@pytest.fixture
def service() -> Iterator[FakeService]:
    one = FakeService()
    yield one
    one.close()


@pytest.fixture
def connect(server: FakeApiServer) -> Iterator[Connect]:
    """Makes clients of `server`, and closes them at the end."""
    made: list[Kube] = []

    def connect(**more: Any) -> Kube:
        made.append(Kube(access(server), **more))
        return made[-1]

    yield connect
    for kube in made:
        kube.close()
