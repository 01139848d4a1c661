"""The trial forecast that a model must pass before it is run."""

from __future__ import annotations

import pytest

from forecaster.errors import ModelError
from models import trial
from models.chain import forecasters
from tests.fake_network import FakeNetwork, network_artifact


def test_every_forecaster_of_the_chain_passes() -> None:
    for forecaster in forecasters()():
        trial.passed(forecaster)


def test_a_network_passes() -> None:
    trial.passed(FakeNetwork(network_artifact()))


@pytest.mark.parametrize("nonsense", [1, 2, 3], ids=["NaN", "crossing", "absurd"])
def test_m25_nonsense_does_not_pass(nonsense: int) -> None:
    with pytest.raises(ModelError, match=r"the trial forecast of the \w+ series holds numbers that cannot be"):
        trial.passed(FakeNetwork(network_artifact(nonsense=nonsense)))


def test_weights_that_make_the_code_fail_do_not_pass() -> None:
    class Broken(FakeNetwork):
        def forecast(self, context, request):  # type: ignore[no-untyped-def]
            raise IndexError("weights do not fit")

    with pytest.raises(ModelError, match=r"the trial forecast failed: IndexError\('weights do not fit'\)"):
        trial.passed(Broken(network_artifact()))
