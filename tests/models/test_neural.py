"""The network: three runtimes that agree, and the laws of a forecast whatever the weights are."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.domain import FloatArray
from forecaster.errors import ModelError
from forecaster.reasons import ReasonCode
from models.artifact import Artifact, Card
from models.inputs import LEVELS, QUERY, SERIES, Inputs, Queries, inputs_of
from models.network import CandidateMixer, NetworkConfig, TorchNetwork, artifact_of, network_of
from models.neural import Neural
from models.numpy_network import NumpyNetwork
from models.onnx_export import OnnxNetwork, export
from tests.models.contexts import posted, request
from tests.models.test_inputs import odd_rows

STEP = timedelta(minutes=5)


def artifact(seed: int = 0, wild: float = 1.0) -> Artifact:
    """A small network with random weights; `wild` times as large as they would begin."""
    torch.manual_seed(seed)
    config = NetworkConfig(SERIES, QUERY, width=16, encoder_blocks=1, decoder_width=16, decoder_blocks=1)
    network = CandidateMixer(config)
    tensors = {name: wild * p.detach().numpy() for name, p in network.state_dict().items()}
    return artifact_of(tensors, config, Card(architecture="network/1", config={}, quantile_levels=LEVELS))


def inputs() -> Inputs:
    queries = Queries(np.array([300, 3_600, 86_400, 600]), np.array([False, False, False, True]))
    ((_, found),) = inputs_of(posted(odd_rows(), STEP), np.arange(10), queries)
    return found


def test_numpy_and_torch_agree() -> None:
    one, given = artifact(wild=2.0), inputs()
    np.testing.assert_allclose(NumpyNetwork(one.tensors)(given), TorchNetwork(one)(given), rtol=1e-4, atol=1e-4)


def test_onnx_and_torch_agree_for_any_number_of_rows_and_queries(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    one = artifact(wild=2.0)
    export(one, tmp_path / "network.onnx")
    given = inputs()
    np.testing.assert_allclose(
        OnnxNetwork(tmp_path / "network.onnx", one)(given), TorchNetwork(one)(given), rtol=1e-4, atol=1e-4
    )


def test_an_onnx_file_of_another_artifact_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    export(artifact(0), tmp_path / "network.onnx")
    with pytest.raises(ModelError, match="made of artifact"):
        OnnxNetwork(tmp_path / "network.onnx", artifact(1))
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"broken\.onnx is no ONNX file"):
        OnnxNetwork(tmp_path / "broken.onnx", artifact(0))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1_000), wild=st.sampled_from([0.5, 1.0, 5.0, 50.0]))
def test_quantiles_never_cross_whatever_the_weights(seed: int, wild: float) -> None:
    answer = Neural(artifact(seed, wild)).forecast(
        posted(odd_rows(), STEP), request(10, levels=(0.001, *LEVELS, 0.999))
    )
    known = np.array([reason is None for reason in answer.missing])
    assert np.isfinite(answer.values[known]).all() and np.isfinite(answer.peak[known]).all()
    assert (np.diff(answer.values[known], axis=-1) >= 0).all() and (np.diff(answer.peak[known], axis=-1) >= 0).all()


def test_rows_without_samples_carry_a_reason_and_the_others_none() -> None:
    answer = Neural(artifact()).forecast(posted(odd_rows(), STEP), request(10))
    codes = [reason.code if reason else None for reason in answer.missing]
    assert codes == [None, ReasonCode.NO_DATA, ReasonCode.HISTORY_TOO_SHORT, *[None] * 7]
    assert (answer.values[0] == 5.0).all()  # a constant is its constant
    assert (answer.values[[3, 4, 5, 7]] >= 0).all()


@pytest.mark.parametrize("factor", [1000.0, 1e-6])
def test_the_forecast_follows_the_unit_of_the_series(factor: float) -> None:
    rows = odd_rows()[[3, 6, 7, 8]]
    one = Neural(artifact(wild=2.0)).forecast(posted(rows, STEP), request(4)).values
    other = Neural(artifact(wild=2.0)).forecast(posted(factor * rows, STEP), request(4)).values
    size = np.nanmean(np.abs(one))
    np.testing.assert_allclose(factor * one, other, rtol=1e-3, atol=1e-3 * factor * size)


def test_many_rows_with_windows_of_their_own_are_answered_in_their_order() -> None:
    rng = np.random.default_rng(0)
    rows: FloatArray = 100 + np.cumsum(rng.normal(size=(600, 400)), axis=1)
    ask = request(600)
    windows = 1 + np.arange(600) % 3
    answer = Neural(artifact()).forecast(posted(rows, STEP), type(ask)(ask.horizons, ask.levels, windows))
    alone = Neural(artifact()).forecast(posted(rows[[431]], STEP), type(ask)(ask.horizons, ask.levels, windows[[431]]))
    np.testing.assert_allclose(answer.values[431], alone.values[0], rtol=1e-5)
    np.testing.assert_allclose(answer.peak[431], alone.peak[0], rtol=1e-5)


def test_weights_that_do_not_fit_are_refused() -> None:
    whole = artifact()
    lacking = {name: tensor for name, tensor in whole.tensors.items() if name != "head.weight"}
    with pytest.raises(ModelError, match=r"lack 'head\.weight'"):
        Neural(Artifact(whole.card, lacking))
    cut = {**whole.tensors, "head.weight": whole.tensors["head.weight"][:-1]}
    with pytest.raises(ModelError, match="this release"):
        Neural(Artifact(whole.card, cut))
    with pytest.raises(ModelError, match="do not fit its card"):
        network_of(Artifact(whole.card, cut))
