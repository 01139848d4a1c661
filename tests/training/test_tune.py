"""Fine-tuning goes on more gently where a round went too far, and keeps what was best on the days it held back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from training.windows import SeriesGroup

torch = pytest.importorskip("torch")

from models import artifact  # noqa: E402 - the extra may be missing
from training import tune  # noqa: E402
from training.fit import FitConfig  # noqa: E402
from training.tune import TuneConfig  # noqa: E402

FIT = FitConfig(steps=8, batch=8, peak_rate=1.0)


def group() -> SeriesGroup:
    t = np.arange(5 * 288)
    return SeriesGroup(100 + 50 * np.sin(2 * np.pi * t / 288)[None, :], 300, 1_780_002_000)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], tuple[list[FitConfig], Any, list[float]]]:
    """Plays fine-tuning with rounds that would end at given held losses: (their settings, what came, what they began
    with)."""

    def play(losses: list[float]) -> tuple[list[FitConfig], Any, list[float]]:
        asked: list[FitConfig] = []
        began: list[float] = []
        told = iter([1.0, *losses])

        def fit(network: Any, order: Any, config: FitConfig, *_: Any, **__: Any) -> dict[str, Any]:
            asked.append(config)
            name, first = next(iter(network.state_dict().items()))
            began.append(float(first.flatten()[0]))
            return {
                key: (tensor + (len(asked) if key == name else 0)).numpy()
                for key, tensor in network.state_dict().items()
            }

        monkeypatch.setattr(tune, "fit", fit)
        monkeypatch.setattr(tune, "loss_of", lambda *_: np.array([next(told)]))
        config = TuneConfig(rounds=len(losses), fit=FIT, examples=60, replay_groups=1)
        return asked, tune.fine_tune(artifact.bundled(), [group()], config=config), began

    return play


def test_after_a_round_that_went_too_far_it_begins_again_from_the_best_more_gently(played: Any) -> None:
    asked, made, began = played([1.5, 0.9, 0.95])
    assert [config.peak_rate for config in asked] == pytest.approx([1.0, 0.25, 0.175])
    assert [config.steps for config in asked] == [8, 4, 4]
    assert began[1] == began[0]  # not from where the first round ended
    assert made.card.metrics == {"held_loss_before": 1.0, "held_loss": 0.9}


def test_two_rounds_in_a_row_that_did_not_help_end_it_without_a_change(played: Any) -> None:
    asked, made, _ = played([1.5, 1.2, 0.5])
    assert len(asked) == 2
    assert artifact.digest(made) == artifact.digest(artifact.bundled())
