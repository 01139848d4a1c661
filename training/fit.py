"""The fit loop: examples in, weights out. Pretraining and fine-tuning both end here.

Device-agnostic (cpu, cuda, mps); several processes through torchrun (DistributedDataParallel, gloo or nccl); mixed
precision where the device has it; a checkpoint from which a stopped run goes on as if it had not been stopped.
Knows no MLflow, no file format of the product and no Prometheus: what is worth logging goes to `report`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from models.inputs import IS_PEAK, LEVELS
from models.loss import peak_weights, pinball
from models.network import CandidateMixer
from training.windows import Examples

Report = Callable[[int, Mapping[str, float]], None]
CHECKPOINT_VERSION = 1
REPORT_EVERY = 100  # steps


@dataclass(frozen=True, slots=True)
class FitConfig:
    """Hyper-parameters; saved in the card."""

    steps: int = 32_000
    batch: int = 256  # examples, over all processes
    peak_rate: float = 2e-3
    warm_up: float = 0.03  # share of the steps
    weight_decay: float = 0.01
    clip: float = 1.0  # norm of the gradient
    average: float = 0.999  # decay of the averaged weights, which are what is kept
    seed: int = 0
    anchor: float = 0.0  # pull towards the weights that the fit began with: fine-tuning must not forget


class Source(Protocol):
    """Gives examples for ever."""

    def batch(self, step: int, size: int) -> Examples:
        """The batch of a step: a function of the step alone, so that a resumed run sees what it would have seen."""


@dataclass(frozen=True, slots=True)
class Processes:
    """One process of several, as torchrun starts them."""

    rank: int = 0
    world: int = 1

    @classmethod
    def joined(cls, device: torch.device) -> Processes:
        """Joins the group that torchrun announces in the environment; alone without it."""
        if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
            return cls()
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(distributed.get_rank(), distributed.get_world_size())


def device_of(name: str) -> torch.device:
    """`auto` is cuda, else mps, else cpu. With torchrun each process takes the GPU of its local rank."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


class RandomOrder:
    """Batches of an example store in an order drawn anew each time round; a function of (seed, step)."""

    def __init__(self, examples: Examples, seed: int, processes: Processes | None = None) -> None:
        self._examples, self._seed = examples, seed
        self._processes = processes or Processes()

    def batch(self, step: int, size: int) -> Examples:
        mine = max(size // self._processes.world, 1)
        rng = np.random.default_rng((self._seed, step, self._processes.rank))
        return chosen(self._examples, np.sort(rng.integers(0, len(self._examples), size=mine)))


def chosen(examples: Examples, rows: NDArray[np.int64]) -> Examples:
    return Examples(**{name: getattr(examples, name)[rows] for name in Examples.__dataclass_fields__})


def fit(
    network: CandidateMixer,
    source: Source,
    config: FitConfig,
    device: torch.device,
    report: Report = lambda step, figures: None,
    *,
    checkpoint: Path | None = None,
    checkpoint_every: int = 1_000,
    amp: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, NDArray[np.float32]]:
    """Fits and returns the averaged weights by name.

    With `checkpoint`, state is saved there each `checkpoint_every` steps and when `stopped` turns true, and read from
    there at the start. Raises FloatingPointError when the loss is no number.
    """
    processes = Processes.joined(device)
    network = network.to(device).train()
    start_weights = [p.detach().clone() for p in network.parameters()] if config.anchor else []
    average = {name: p.detach().clone() for name, p in network.state_dict().items()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.peak_rate, weight_decay=config.weight_decay)
    first = _resumed(checkpoint, network, optimizer, average, device)
    model: nn.Module = DistributedDataParallel(network) if processes.world > 1 else network
    levels = torch.tensor(LEVELS, dtype=torch.float32, device=device)
    recent: list[float] = []
    for step in range(first, config.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, config)
        batch = tensors(source.batch(step, config.batch), device)
        with _precision(device, amp):
            quantiles = model(*batch[:-1])
        weights = peak_weights(batch[1][..., IS_PEAK] > 0.5, levels)
        loss = _mean_loss(quantiles.float(), batch[-1], levels, weights)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"step {step}: the loss is {value}; lower the rate ({config.peak_rate})")
        if start_weights:
            away = sum(((p - q) ** 2).sum() for p, q in zip(network.parameters(), start_weights, strict=True))
            loss = loss + config.anchor * away
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        optimizer.step()
        decay = min(config.average, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, parameter in network.state_dict().items():
                average[name].lerp_(parameter, 1 - decay)
        recent.append(value)
        if (step + 1) % REPORT_EVERY == 0 and processes.rank == 0:
            report(step + 1, {"loss": float(np.mean(recent)), "rate": rate_at(step, config)})
            recent.clear()
        halt = stopped()
        if checkpoint is not None and processes.rank == 0 and ((step + 1) % checkpoint_every == 0 or halt):
            _save(checkpoint, step + 1, network, optimizer, average)
        if halt:
            break
    return {name: p.detach().cpu().numpy().astype(np.float32) for name, p in average.items()}


def rate_at(step: int, config: FitConfig) -> float:
    """Linear warm-up, then a cosine to a hundredth."""
    warm = max(round(config.warm_up * config.steps), 1)
    if step < warm:
        return config.peak_rate * (step + 1) / warm
    share = (step - warm) / max(config.steps - warm, 1)
    return config.peak_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2)


@torch.no_grad()
def loss_of(
    network: CandidateMixer, examples: Examples, device: torch.device, size: int = 1_024
) -> NDArray[np.float64]:
    """(example,) mean loss of each example over its queries that have a target."""
    levels = torch.tensor(LEVELS, dtype=torch.float32, device=device)
    network = network.to(device).eval()
    out = []
    for part in _slices(examples, size):
        *inputs, target = tensors(part, device)
        loss = pinball(network(*inputs), target, levels)
        out.append((loss.sum(dim=1) / (~target.isnan()).sum(dim=1).clamp(min=1)).cpu().numpy())
    return np.concatenate(out).astype(np.float64)


def _slices(examples: Examples, size: int) -> Iterator[Examples]:
    for first in range(0, len(examples), size):
        yield chosen(examples, np.arange(first, min(first + size, len(examples))))


def tensors(examples: Examples, device: torch.device) -> tuple[Tensor, ...]:
    """Series, query, points, spreads, available and target of a batch."""
    floats = [
        torch.from_numpy(np.asarray(x, dtype=np.float32)).to(device)
        for x in (examples.series, examples.query, examples.points, examples.spreads)
    ]
    available = torch.from_numpy(np.ascontiguousarray(examples.available)).to(device)
    target = torch.from_numpy(np.asarray(examples.target, dtype=np.float32)).to(device)
    return (*floats, available, target)


def _mean_loss(quantiles: Tensor, target: Tensor, levels: Tensor, weights: Tensor) -> Tensor:
    return pinball(quantiles, target, levels, weights).sum() / (~target.isnan()).sum().clamp(min=1)


def _precision(device: torch.device, amp: bool) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, dtype=torch.bfloat16) if amp else nullcontext()


def _save(
    path: Path, step: int, network: nn.Module, optimizer: torch.optim.Optimizer, average: Mapping[str, Tensor]
) -> None:
    """Tensors and two numbers: a checkpoint, too, can execute nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"network/{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"average/{name}": tensor for name, tensor in average.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": torch.as_tensor(value) for name, value in state.items()}
    partial = path.with_suffix(".partial")
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(whole, partial, {"version": str(CHECKPOINT_VERSION), "step": str(step)})
    os.replace(partial, path)  # a run that is killed here has the old one or the new one


def _resumed(
    path: Path | None,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor],
    device: torch.device,
) -> int:
    """The step to go on from; 0 without a checkpoint. Raises ValueError for a damaged one or one of another version."""
    if path is None or not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            said = file.metadata() or {}
            if said.get("version") != str(CHECKPOINT_VERSION):
                wrote = said.get("version", "none")
                raise ValueError(f"{path}: checkpoint of version {wrote}, this release writes {CHECKPOINT_VERSION}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except SafetensorError as error:
        raise ValueError(f"{path} is no checkpoint: {error}; remove it to begin anew") from error
    network.load_state_dict(_part(tensors, "network/"))
    for name, tensor in _part(tensors, "average/").items():
        average[name] = tensor.to(device)
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _part(tensors, "optimizer/").items():
        index, _, what = name.partition("/")
        moments.setdefault(int(index), {})[what] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    return int(said["step"])


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
