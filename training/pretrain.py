"""Pretraining: examples of synthetic workloads, and of files whose licence the card then names, to an artifact.

One command from nothing: `forecaster train --out DIR`. Everything is a function of the seed; a run that was stopped
goes on where it was: shards of examples that are there are kept, and the fit has its checkpoint.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from models.artifact import Artifact, Card, TrainingData
from models.inputs import LEVELS, QUERY, SERIES
from models.network import CandidateMixer, NetworkConfig, artifact_of
from models.neural import ARCHITECTURE
from training import pool, synthetic
from training.fit import REPORT_EVERY, FitConfig, Processes, RandomOrder, Report, fit, loss_of
from training.windows import Examples, Sampling, SeriesGroup, examples_of, joined

SYNTHETIC = TrainingData(
    name="synthetic workloads",
    licence="Apache-2.0",
    source="training/synthetic.py",
    description="made from a seed by this project; no recorded data",
)


HELD = Sampling(origins=8)


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """What decides the weights; saved in the card."""

    groups: int = 1_300  # synthetic groups of 64 series
    validation_groups: int = 24  # of a seed of their own
    sampling: Sampling = field(default_factory=lambda: Sampling(origins=16, horizons=8, peaks=4))
    fit: FitConfig = field(default_factory=lambda: FitConfig(steps=36_000, batch=1_024))
    width: int = 192
    encoder_blocks: int = 2
    decoder_width: int = 160
    decoder_blocks: int = 2

    @property
    def network(self) -> NetworkConfig:
        return NetworkConfig(SERIES, QUERY, self.width, self.encoder_blocks, self.decoder_width, self.decoder_blocks)


class Watcher(Protocol):
    """Is told how the work goes: a progress bar, a log, MLflow."""

    def began(self, what: str, total: int) -> None:
        """A part of the work with `total` units begins."""

    def advanced(self, units: int, figures: Mapping[str, float]) -> None:
        """So many units of the part in hand are done."""


def pretrain(
    work: Path,
    config: PretrainConfig,
    device: torch.device,
    watcher: Watcher,
    *,
    extra: Sequence[SeriesGroup] = (),
    extra_data: Sequence[TrainingData] = (),
    processes: int = 1,
    amp: bool = False,
    code_version: str = "",
    stopped: Callable[[], bool] = lambda: False,
) -> Artifact:
    """The artifact of a whole run; `work` holds examples and checkpoint and may be thrown away afterwards."""
    seed = config.fit.seed
    group = Processes.joined(device)
    watcher.began("examples", config.groups + config.validation_groups)
    train = _pool(work / "train", seed + 1, config.groups, config.sampling, processes, watcher, group)
    held = _pool(work / "validation", seed + 1_000_003, config.validation_groups, HELD, processes, watcher, group)
    examples = pool.read(train)
    if extra:
        rng = np.random.default_rng((seed, 7))
        parts = [examples, *(examples_of(one, config.sampling, rng) for one in extra)]
        examples = joined([arrays_of(part) for part in parts])
    torch.manual_seed(seed)
    network = CandidateMixer(config.network)
    watcher.began("fit", config.fit.steps)
    weights = fit(
        network,
        RandomOrder(examples, seed, group),
        config.fit,
        device,
        _reporting(watcher),
        checkpoint=work / "checkpoint.safetensors",
        amp=amp,
        stopped=stopped,
    )
    network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    metrics = validation(network, pool.read(held), device)
    card = Card(
        architecture=ARCHITECTURE,
        config={
            "pretraining": {
                "groups": config.groups,
                "sampling": asdict(config.sampling),
                "fit": asdict(config.fit),
                "device": str(device),
                "processes": group.world,
                "torch": str(torch.__version__),
                "python": platform.python_version(),
            }
        },
        quantile_levels=LEVELS,
        training_data=(SYNTHETIC, *extra_data),
        seed=seed,
        code_version=code_version,
        metrics=metrics,
    )
    return artifact_of(weights, config.network, card)


def _pool(
    folder: Path, seed: int, groups: int, sampling: Sampling, processes: int, watcher: Watcher, group: Processes
) -> list[Path]:
    """Shards of the pool; with several processes of torchrun the first makes them and the others wait."""
    if group.rank == 0:
        pool.build(folder, seed, groups, sampling, processes, lambda: watcher.advanced(1, {}))
    if group.world > 1:
        torch.distributed.barrier()
    return pool.paths_of(folder, groups)


def _reporting(watcher: Watcher) -> Report:
    return lambda step, figures: watcher.advanced(REPORT_EVERY, figures)


def validation(network: CandidateMixer, examples: Examples, device: torch.device) -> dict[str, float]:
    """Mean loss on synthetic series that were not trained on, over all and by family of recipes, in units."""
    loss = loss_of(network, examples, device)
    families = np.array([recipe.family for recipe in synthetic.RECIPES])[examples.kind]
    by_family = {f"loss_{name}": float(loss[families == name].mean()) for name in np.unique(families).tolist()}
    return {"loss": float(loss.mean()), **by_family}


def arrays_of(examples: Examples) -> dict[str, NDArray[Any]]:
    return {one.name: getattr(examples, one.name) for one in fields(Examples)}
