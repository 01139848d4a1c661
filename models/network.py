"""The network: a learned mixture of simple forecasts, query by query.

An encoder reads the series once; a decoder reads each query beside it. The decoder does not invent a forecast from
nothing: it weighs the candidates of models.inputs (a softmax over what is available; mixing whole quantile functions,
so-called Vincentization, keeps them monotone), moves the mixture by a shift and widens it by increments that are never
negative. Quantiles can therefore not cross, a rare series gets at least what its best simple rule gives, and values far
outside of all that was trained on stay in proportion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from msgspec import structs
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from forecaster.errors import ModelError
from models.artifact import Artifact, Card
from models.inputs import CANDIDATES, LEVELS, POINTS, Inputs
from models.neural import ARCHITECTURE

MEDIAN = LEVELS.index(0.5)


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Sizes; saved with the weights."""

    series: int  # inputs of the series
    query: int  # inputs of a query
    width: int = 192
    encoder_blocks: int = 2
    decoder_width: int = 160
    decoder_blocks: int = 2


class Block(nn.Module):
    """Normalise, widen, narrow, add."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.down(functional.silu(self.up(self.norm(x))))
        return x + inner


class CandidateMixer(nn.Module):
    """Quantiles of queries, in units from the center (models.inputs)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.series_in = nn.Linear(config.series, config.width)
        self.encoder = nn.ModuleList(Block(config.width) for _ in range(config.encoder_blocks))
        self.series_out = nn.Linear(config.width, config.decoder_width)
        self.query_in = nn.Linear(config.query, config.decoder_width)
        self.decoder = nn.ModuleList(Block(config.decoder_width) for _ in range(config.decoder_blocks))
        self.norm = nn.LayerNorm(config.decoder_width)
        self.head = nn.Linear(config.decoder_width, CANDIDATES + 1 + len(LEVELS) - 1)
        with torch.no_grad():  # at first: an even mixture, hardly widened
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()
            self.head.bias[CANDIDATES + 1 :] = -3.0

    def forward(self, series: Tensor, query: Tensor, points: Tensor, spreads: Tensor, available: Tensor) -> Tensor:
        """Quantiles (row, query, level) of series (row, SERIES), query (row, query, QUERY) and the candidates."""
        x = self.series_in(series)  # (row, width)
        for block in self.encoder:
            x = block(x)
        x = self.query_in(query) + self.series_out(x)[:, None]  # (row, query, decoder_width)
        for block in self.decoder:
            x = block(x)
        out = self.head(self.norm(x))  # (row, query, candidate + 1 + increments)
        weight = out[..., :CANDIDATES].masked_fill(~available, -1e4).softmax(dim=-1)
        mixture = (weight[..., :POINTS] * points).sum(dim=-1, keepdim=True)
        mixture = mixture + (weight[..., POINTS:, None] * spreads).sum(dim=-2)  # (row, query, level)
        wider = functional.softplus(out[..., CANDIDATES + 1 :])
        below = wider[..., :MEDIAN].flip(-1).cumsum(dim=-1).flip(-1)
        above = wider[..., MEDIAN:].cumsum(dim=-1)
        moved = torch.cat((-below, torch.zeros_like(below[..., :1]), above), dim=-1)
        quantiles: Tensor = mixture + out[..., CANDIDATES : CANDIDATES + 1] + moved
        return quantiles


class TorchNetwork:
    """The network as a runtime of models.neural, on any device."""

    def __init__(self, artifact: Artifact, device: str = "cpu") -> None:
        self._device = torch.device(device)
        self._network = network_of(artifact).to(self._device).eval()

    @torch.no_grad()
    def __call__(self, inputs: Inputs) -> NDArray[np.float32]:
        """Quantiles (row, query, level) in units from the center."""
        arrays = (inputs.series, inputs.query, inputs.points, inputs.spreads, inputs.available)
        tensors = [torch.from_numpy(np.ascontiguousarray(array)).to(self._device) for array in arrays]
        return np.asarray(self._network(*tensors).cpu().numpy(), dtype=np.float32)


def network_of(artifact: Artifact) -> CandidateMixer:
    """The module with the artifact's weights. Raises ModelError where card and weights do not fit together."""
    try:
        network = CandidateMixer(NetworkConfig(**artifact.card.config["network"]))
        network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in artifact.tensors.items()})
    except (KeyError, TypeError, RuntimeError) as error:
        raise ModelError(f"the artifact's weights do not fit its card: {error}") from error
    return network


def artifact_of(tensors: Mapping[str, NDArray[np.float32]], config: NetworkConfig, card: Card) -> Artifact:
    """The weights under `card`, which gets architecture, sizes and levels."""
    written = {**card.config, "network": asdict(config)}
    card = structs.replace(card, architecture=ARCHITECTURE, config=written, quantile_levels=LEVELS)
    return Artifact(card, tensors)
