"""Fine-tuning of an artifact to a tenant's own series: minutes on a CPU, and never worse on what it did not see.

The weights start from the artifact's, are pulled towards them, and see synthetic workloads beside the tenant's series,
so that they do not forget what the tenant has not shown yet. The last days are held back: training stops where they
are forecast best, which may be where it began.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
import torch
from msgspec import structs
from numpy.typing import NDArray

from forecaster.errors import InputError
from models.artifact import Artifact, DataRange, TrainingData, digest
from models.network import NetworkConfig, artifact_of, network_of
from training import synthetic
from training.fit import FitConfig, RandomOrder, Report, fit, loss_of
from training.pool import series_of
from training.pretrain import arrays_of
from training.windows import Examples, Sampling, SeriesGroup, examples_of, joined

OWN = TrainingData(name="the tenant's own history", licence="own")
_HELD_SECONDS = 3 * 86_400
_MOST_HELD = 0.2  # of a series
_GENTLER = 0.25  # the rate after a round that did not help, on half of its steps
_MOST_WORSE = 2  # such rounds in a row


@dataclass(frozen=True, slots=True)
class TuneConfig:
    """How far fine-tuning may go."""

    rounds: int = 4  # after each of which the held-back days are asked
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(steps=300, batch=256, peak_rate=4e-4, average=0.99, anchor=1e-3)
    )
    examples: int = 40_000  # of the tenant's, at most
    replay: float = 0.4  # share of synthetic examples beside the tenant's
    replay_groups: int = 12


def fine_tune(
    artifact: Artifact,
    groups: Sequence[SeriesGroup],
    *,
    seed: int = 0,
    device: torch.device | None = None,
    config: TuneConfig | None = None,
    report: Report = lambda step, figures: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Artifact:
    """The artifact fine-tuned on `groups`, or the very same one where that did not help on the held-back days.

    Pass only what may be learned from: the part on which champion and challenger are compared must not be in it.
    Raises InputError where the groups hold too little to learn from.
    """
    config, device = config or TuneConfig(), device or torch.device("cpu")
    rng = np.random.default_rng((seed, 11))
    train, held = _own_examples(groups, config, rng)
    mixed = _with_replay(train, config, seed)
    network = network_of(artifact)
    best_weights: dict[str, NDArray[np.float32]] | None = None
    best = first = float(loss_of(network, held, device).mean())
    report(0, {"held_loss": first})
    start = {name: tensor.detach().cpu().numpy().copy() for name, tensor in network.state_dict().items()}
    rate, steps, done, worse = config.fit.peak_rate, config.fit.steps, 0, 0
    for turn in range(config.rounds):
        # Each round anneals to nothing: the weights asked are weights at rest.
        part = replace(config.fit, seed=seed + turn, peak_rate=rate, steps=steps)
        weights = fit(network, RandomOrder(mixed, seed + turn), part, device, stopped=stopped)
        network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
        loss, done = float(loss_of(network, held, device).mean()), done + steps
        report(done, {"held_loss": loss})
        if loss < best:
            best, best_weights, rate, worse = loss, weights, 0.7 * rate, 0
        else:  # few series are learned by heart soon: from the best weights again, more gently
            kept = start if best_weights is None else best_weights
            network.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in kept.items()})
            rate, steps, worse = _GENTLER * rate, max(steps // 2, 1), worse + 1
        if worse == _MOST_WORSE or stopped():
            break
    if best_weights is None:
        return artifact
    sizes = NetworkConfig(**artifact.card.config["network"])
    return artifact_of(
        best_weights,
        sizes,
        structs.replace(
            artifact.card,
            config={**artifact.card.config, "tuning": asdict(config)},
            training_data=(*artifact.card.training_data, OWN),
            data_range=_range(groups),
            seed=seed,
            metrics={"held_loss_before": first, "held_loss": best},
            parent=digest(artifact),
        ),
    )


def _own_examples(
    groups: Sequence[SeriesGroup], config: TuneConfig, rng: np.random.Generator
) -> tuple[Examples, Examples]:
    """(to learn from, held back): origins and targets of the first lie before those of the second."""
    total = sum(len(group.values) for group in groups)
    origins = int(np.clip(config.examples // max(total, 1), 6, 400))
    train, held = [], []
    for group in groups:
        width = group.values.shape[1]
        cut = width - int(min(_HELD_SECONDS // group.step, _MOST_HELD * width))
        train.append(arrays_of(examples_of(group, Sampling(origins=origins), rng, until=cut)))
        held.append(arrays_of(examples_of(group, Sampling(origins=24, shorten=False), rng, since=cut)))
    if not sum(len(part["target"]) for part in train) or not sum(len(part["target"]) for part in held):
        raise InputError("fine-tuning: the series hold too little to learn from: at least a day of samples is needed")
    return joined(train), joined(held)


def _with_replay(train: Examples, config: TuneConfig, seed: int) -> Examples:
    rng = np.random.default_rng((seed, 13))
    parts = []
    for index in range(config.replay_groups):
        series = series_of(synthetic.group(seed, index))
        parts.append(arrays_of(examples_of(series, Sampling(origins=8), rng)))
    replay = joined(parts)
    wanted = round(len(train) * config.replay / (1 - config.replay))
    rows = rng.integers(0, len(replay), size=wanted)
    return joined([arrays_of(train), {name: array[rows] for name, array in arrays_of(replay).items()}])


def _range(groups: Sequence[SeriesGroup]) -> DataRange:
    first = min(group.first_end - group.step for group in groups)
    last = max(group.first_end + (group.values.shape[1] - 1) * group.step for group in groups)
    return DataRange(datetime.fromtimestamp(first, UTC), datetime.fromtimestamp(last, UTC))
