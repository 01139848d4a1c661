"""The chain that the service runs: where rows begin that get a network."""

from __future__ import annotations

from datetime import timedelta

import numpy as np

from forecaster import calibration, starts
from forecaster.foresight import Foresight
from models import chain
from models.artifact import Residuals
from tests.fake_network import FakeNetwork, network_artifact


def test_residuals_of_an_artifact_are_for_the_rows_that_its_mixture_gives() -> None:
    service = Foresight(chain.forecasters(), timedelta(minutes=1))
    blank = calibration.blank(("a",), service.layout).arrays
    arrays = {name: np.asarray(blank[name] + 1, dtype=np.float32) for name in starts.CALIBRATION}
    arrays |= {f"skill_{name}": np.array([20], dtype=np.float32) for name in starts.SKILL}
    artifact = network_artifact(residuals=Residuals(service.layout.version, ("a",), arrays))
    measured = chain.starts_of(artifact, FakeNetwork(artifact).version)
    assert measured is not None
    service.align(("a",), ())
    service.take(chain.forecasters(artifact, FakeNetwork), measured)
    assert measured.version == service.head_version != FakeNetwork(artifact).version
    assert service.skill.arrays["windows"].tolist() == [[20, 0, 0, 0, 0, 0]]


def test_without_residuals_there_is_no_start() -> None:
    assert chain.starts_of(network_artifact(), "network/1") is None
