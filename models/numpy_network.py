"""The network in plain numpy: what serves, without PyTorch. The same numbers as models.network to about 1e-5."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.inputs import CANDIDATES, LEVELS, POINTS, Inputs

Array = NDArray[np.float32]
_MEDIAN = LEVELS.index(0.5)
_EPSILON = np.float32(1e-5)  # of torch.nn.LayerNorm


class NumpyNetwork:
    """Runs models.network.CandidateMixer from its weights by name."""

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        self._weights = {name: np.ascontiguousarray(t.T) if t.ndim == 2 else t for name, t in tensors.items()}
        self._encoder, self._decoder = (_count(tensors, part) for part in ("encoder", "decoder"))

    def __call__(self, inputs: Inputs) -> Array:
        """Quantiles (row, query, level) in units from the center."""
        x = self._linear(inputs.series, "series_in")
        for i in range(self._encoder):
            x = self._block(x, f"encoder.{i}")
        rows, queries = inputs.query.shape[:2]
        asked = self._linear(inputs.query.reshape(rows * queries, -1), "query_in").reshape(rows, queries, -1)
        asked += self._linear(x, "series_out")[:, None]
        x = asked.reshape(rows * queries, -1)
        for i in range(self._decoder):
            x = self._block(x, f"decoder.{i}")
        out = self._linear(self._normal(x, "norm"), "head").reshape(rows, queries, -1)
        return _mixed(out, inputs)

    def _block(self, x: Array, name: str) -> Array:
        inner = self._linear(self._normal(x, f"{name}.norm"), f"{name}.up")
        inner *= _sigmoid(inner)
        x += self._linear(inner, f"{name}.down")
        return x

    def _linear(self, x: Array, name: str) -> Array:
        out: Array = x @ self._weights[f"{name}.weight"]
        out += self._weights[f"{name}.bias"]
        return out

    def _normal(self, x: Array, name: str) -> Array:
        away = x - x.mean(axis=-1, keepdims=True)
        size = np.sqrt(np.einsum("ij,ij->i", away, away)[:, None] / np.float32(x.shape[-1]) + _EPSILON)
        away /= size
        away *= self._weights[f"{name}.weight"]
        away += self._weights[f"{name}.bias"]
        return np.asarray(away)


def _mixed(out: Array, inputs: Inputs) -> Array:
    """The candidates mixed, moved and widened."""
    logits = np.where(inputs.available, out[..., :CANDIDATES], np.float32(-1e4))
    logits -= logits.max(axis=-1, keepdims=True)
    weight = np.exp(logits)
    weight /= weight.sum(axis=-1, keepdims=True)
    middle = np.einsum("rqk,rqk->rq", weight[..., :POINTS], inputs.points) + out[..., CANDIDATES]
    mixture = (weight[..., None, POINTS:] @ inputs.spreads)[..., 0, :]
    wider = np.logaddexp(out[..., CANDIDATES + 1 :], np.float32(0))
    moved = np.zeros_like(mixture)
    moved[..., :_MEDIAN] = -wider[..., :_MEDIAN][..., ::-1].cumsum(axis=-1)[..., ::-1]
    moved[..., _MEDIAN + 1 :] = wider[..., _MEDIAN:].cumsum(axis=-1)
    total: Array = mixture + middle[..., None] + moved
    return total


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -80, 80))), dtype=np.float32)


def _count(tensors: Mapping[str, Array], part: str) -> int:
    return len({name.split(".")[1] for name in tensors if name.startswith(f"{part}.")})
