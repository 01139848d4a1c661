"""The network fine-tuned on each family's own past, as the retrain job does it: nothing of the scored part is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models import artifact, chain
from training.benchmark.panels import Panel
from training.tune import TuneConfig, fine_tune
from training.windows import SeriesGroup


@dataclass(frozen=True, slots=True)
class Tuned:
    """The network of one family."""

    folder: str
    helped: bool  # on the days that fine-tuning held back; else the weights are those that it began with


def tuned(panels: Sequence[Panel], model: str, folder: Path, config: TuneConfig | None = None) -> dict[str, Tuned]:
    """Family -> its network, in `folder`.

    Raises InputError where a family holds too little to learn from.
    """
    base = artifact.bundled() if model == chain.BUNDLED else artifact.load(Path(model))
    out = {}
    for family in dict.fromkeys(panel.family for panel in panels):
        groups = [group for panel in panels if panel.family == family for group in pasts(panel)]
        made = fine_tune(base, groups, seed=0, config=config)
        artifact.save(folder / family, made)
        out[family] = Tuned(str(folder / family), made is not base)
    return out


def pasts(panel: Panel) -> list[SeriesGroup]:
    """Each series of the panel from its first sample up to its first origin."""
    first = int(panel.series.times[0])
    return [
        SeriesGroup(panel.series.values[row : row + 1, begin : end + 1], panel.step, first + begin * panel.step)
        for row, (begin, end) in enumerate(zip(panel.firsts.tolist(), panel.columns.min(axis=1).tolist(), strict=True))
    ]
