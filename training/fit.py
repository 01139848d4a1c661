"""The fit loop: examples in, weights out. Pretraining and fine-tuning both end here.

Device-agnostic (cpu, cuda, mps); several processes through torchrun (DistributedDataParallel, gloo or nccl); mixed
precision where the device has it; a checkpoint from which a stopped run goes on as if it had not been stopped.
Knows no MLflow, no file format of the product and no Prometheus: what is worth logging goes to `report`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
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
_AGREE_EVERY = 20  # steps after which several processes ask each other whether to stop
_ORDER = ("series", "query", "points", "spreads", "available", "target")  # of the tensors of a batch


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

    def batch(self, step: int, size: int, device: torch.device) -> tuple[Tensor, ...]:
        """The batch of a step, as `tensors` lays it out, on `device`.

        A function of the step alone, so that a resumed run sees what it would have seen.
        """


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
            if device.type == "cuda":
                torch.cuda.set_device(device)  # nccl would else begin on the first GPU in every process
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(distributed.get_rank(), distributed.get_world_size())

    def agree(self, halt: bool, device: torch.device) -> bool:
        """Whether any process wants to stop: one that stopped alone would leave the others waiting for ever."""
        flag = torch.tensor(float(halt), device=device)
        distributed.all_reduce(flag, distributed.ReduceOp.MAX)
        return bool(flag.item())


def left() -> None:
    """Leaves the group of processes, where there is one."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def device_of(name: str) -> torch.device:
    """`auto` is cuda, else mps, else cpu. `cuda` is, with torchrun, the GPU of the process's local rank."""
    if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if name != "auto":
        return torch.device(name)
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


class RandomOrder:
    """Batches of an example store in an order drawn anew each time round; a function of (seed, step).

    A GPU that holds the whole store in a third of its free memory gets it once, and picks its batches there: copying
    each batch takes longer than a step of so small a network.
    """

    def __init__(self, examples: Examples, seed: int, processes: Processes | None = None) -> None:
        self._examples, self._seed = examples, seed
        self._processes = processes or Processes()
        self._there: tuple[torch.device, tuple[Tensor, ...]] | None = None

    def batch(self, step: int, size: int, device: torch.device) -> tuple[Tensor, ...]:
        mine = max(size // self._processes.world, 1)
        rng = np.random.default_rng((self._seed, step, self._processes.rank))
        rows = np.sort(rng.integers(0, len(self._examples), size=mine))
        if self._there is None and device.type == "cuda" and _fits(self._examples, device):
            self._there = device, _stored(self._examples, device)
        if self._there is None or self._there[0] != device:
            return tensors(chosen(self._examples, rows), device)
        at = torch.from_numpy(rows).to(device)
        return _widened([tensor.index_select(0, at) for tensor in self._there[1]])


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
    recent: list[Tensor] = []
    losses: list[float] = []
    for step in range(first, config.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, config)
        batch = source.batch(step, config.batch, device)
        with _precision(device, amp):
            quantiles = model(*batch[:-1])
        weights = peak_weights(batch[1][..., IS_PEAK] > 0.5, levels)
        loss = _mean_loss(quantiles.float(), batch[-1], levels, weights)
        recent.append(loss.detach())
        if start_weights:
            away = sum(((p - q) ** 2).sum() for p, q in zip(network.parameters(), start_weights, strict=True))
            loss = loss + config.anchor * away
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        optimizer.step()
        decay = min(config.average, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), list(network.state_dict().values()), 1 - decay)
        halt = stopped() if processes.world == 1 else False
        if processes.world > 1 and (step + 1) % _AGREE_EVERY == 0:
            halt = processes.agree(stopped(), device)
        saves = checkpoint is not None and ((step + 1) % checkpoint_every == 0 or halt)
        if (step + 1) % REPORT_EVERY == 0 or saves or halt or step + 1 == config.steps:
            losses += _finite(recent, step, config)  # a GPU would wait for each number: they are asked for together
            recent.clear()
        if (step + 1) % REPORT_EVERY == 0:
            if processes.rank == 0:
                report(step + 1, {"loss": float(np.mean(losses)), "rate": rate_at(step, config)})
            losses.clear()
        if checkpoint is not None and saves and processes.rank == 0:
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
    """Series, query, points, spreads, available and target of a batch; numbers as float32."""
    return _widened(_stored(examples, device))


def _stored(examples: Examples, device: torch.device) -> tuple[Tensor, ...]:
    """The same as it is kept, half precision and all."""
    arrays = (getattr(examples, name) for name in _ORDER)
    return tuple(torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays)


def _widened(kept: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(tensor.float() if tensor.is_floating_point() else tensor for tensor in kept)


def _fits(examples: Examples, device: torch.device) -> bool:
    free, _ = torch.cuda.mem_get_info(device)
    return bool(sum(getattr(examples, name).nbytes for name in _ORDER) < free / 3)


def _finite(losses: Sequence[Tensor], last: int, config: FitConfig) -> list[float]:
    """The losses of the steps up to `last` as numbers. Raises FloatingPointError where one is none."""
    values = torch.stack(list(losses)).tolist()
    for i, value in enumerate(values):
        if not math.isfinite(value):
            step = last - len(values) + 1 + i
            raise FloatingPointError(f"step {step}: the loss is {value}; lower the rate ({config.peak_rate})")
    return values


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
        # AdamW counts its steps on the CPU; on a GPU it refuses to go on.
        moments.setdefault(int(index), {})[what] = tensor.cpu() if what == "step" else tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    return int(said["step"])


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
