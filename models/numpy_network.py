"""The network in plain numpy: what serves, without PyTorch. The same numbers as models.network to about 1e-5."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.inputs import CANDIDATES, LEVELS, POINTS, Inputs

Array = NDArray[np.float32]
Rooms = tuple[Array, Array, Array]
_MEDIAN = LEVELS.index(0.5)
_EPSILON = np.float32(1e-5)  # of torch.nn.LayerNorm
_TOGETHER = 1_024  # queries that are worked on together: their arrays of 160 numbers each stay in the cache of a core


class NumpyNetwork:
    """Runs models.network.CandidateMixer from its weights by name.

    What a norm multiplies and adds by is folded into the matrix that comes after it, once.
    """

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        self._weights = {name: np.ascontiguousarray(t.T) if t.ndim == 2 else t for name, t in tensors.items()}
        self._encoder, self._decoder = (_count(tensors, part) for part in ("encoder", "decoder"))
        blocks = [f"{part}.{i}" for part in ("encoder", "decoder") for i in range(_count(tensors, part))]
        for norm, after in (*((f"{block}.norm", f"{block}.up") for block in blocks), ("norm", "head")):
            self._fold(norm, after)

    def __call__(self, inputs: Inputs) -> Array:
        """Quantiles (row, query, level) in units from the center."""
        series = self._series(inputs.series)
        rows, queries = inputs.query.shape[:2]
        head: Array = np.empty((rows, queries, len(self._weights["head.bias"])), dtype=np.float32)
        few = min(max(_TOGETHER // max(queries, 1), 1), max(rows, 1))
        rooms = _rooms(few * queries, series.shape[1])
        for first in range(0, rows, few):
            part = slice(first, first + few)
            self._asked(inputs.query[part], series[part], rooms, head[part])
        return _mixed(head, inputs)

    def _series(self, given: Array) -> Array:
        """(row, width) what all queries of a row are told of it."""
        rooms = _rooms(len(given), len(self._weights["series_in.bias"]))
        x = self._linear(given, "series_in", rooms[0])
        for i in range(self._encoder):
            self._block(x, f"encoder.{i}", rooms)
        return self._linear(x, "series_out")

    def _asked(self, query: Array, series: Array, rooms: Rooms, head: Array) -> None:
        """Fills `head` (row, query, output) of some rows."""
        count = len(query) * query.shape[1]
        rooms = (rooms[0][:count], rooms[1][:count], rooms[2][:count])
        x = self._linear(query.reshape(count, -1), "query_in", rooms[0])
        x.reshape(*query.shape[:2], -1)[...] += series[:, None]
        for i in range(self._decoder):
            self._block(x, f"decoder.{i}", rooms)
        self._linear(_normal(x, rooms[1]), "head", head.reshape(count, -1))

    def _fold(self, norm: str, after: str) -> None:
        weight, bias = self._weights[f"{norm}.weight"], self._weights[f"{norm}.bias"]
        matrix = self._weights[f"{after}.weight"].astype(np.float64)
        self._weights[f"{after}.bias"] = (self._weights[f"{after}.bias"] + bias @ matrix).astype(np.float32)
        self._weights[f"{after}.weight"] = (weight[:, None] * matrix).astype(np.float32)

    def _block(self, x: Array, name: str, rooms: Rooms) -> None:
        """Adds to x, which is the first of `rooms`."""
        _, first, second = rooms
        inner = self._linear(_normal(x, first), f"{name}.up", second)
        _swish(inner, first)
        x += self._linear(inner, f"{name}.down", first)

    def _linear(self, x: Array, name: str, out: Array | None = None) -> Array:
        found: Array = np.matmul(x, self._weights[f"{name}.weight"], out=out)
        found += self._weights[f"{name}.bias"]
        return found


def _rooms(count: int, width: int) -> Rooms:
    """Arrays to work in: memory that is asked for anew each time costs more than the arithmetic."""
    first, second, third = np.empty((3, count, width), dtype=np.float32)
    return first, second, third


def _normal(x: Array, out: Array) -> Array:
    """Rows less their mean, over the root of their variance."""
    width = np.float32(x.shape[-1])
    np.subtract(x, (x @ np.ones(x.shape[-1], dtype=np.float32) / width)[:, None], out=out)
    out *= (1 / np.sqrt(np.einsum("ij,ij->i", out, out) / width + _EPSILON))[:, None]
    return out


def _swish(x: Array, room: Array) -> None:
    """x becomes x · sigmoid(x)."""
    np.negative(x, out=room)
    with np.errstate(over="ignore"):  # far below 0 the sigmoid is 0: x / inf
        np.exp(room, out=room)
    room += np.float32(1)
    x /= room


def _mixed(out: Array, inputs: Inputs) -> Array:
    """The candidates mixed, moved and widened."""
    weight = np.where(inputs.available, out[..., :CANDIDATES], np.float32(-1e4))
    weight -= weight.max(axis=-1, keepdims=True)
    np.exp(weight, out=weight)
    weight /= weight.sum(axis=-1, keepdims=True)
    middle = np.einsum("rqk,rqk->rq", weight[..., :POINTS], inputs.points) + out[..., CANDIDATES]
    total: Array = (weight[..., None, POINTS:] @ inputs.spreads)[..., 0, :]
    total += middle[..., None]
    wider = _softplus(out[..., CANDIDATES + 1 :])
    total[..., :_MEDIAN] -= wider[..., :_MEDIAN][..., ::-1].cumsum(axis=-1)[..., ::-1]
    total[..., _MEDIAN + 1 :] += wider[..., _MEDIAN:].cumsum(axis=-1)
    return total


def _softplus(x: Array) -> Array:
    """log(1 + exp(x))."""
    out: Array = np.log1p(np.exp(-np.abs(x)))
    out += np.maximum(x, 0)
    return out


def _count(tensors: Mapping[str, Array], part: str) -> int:
    return len({name.split(".")[1] for name in tensors if name.startswith(f"{part}.")})
