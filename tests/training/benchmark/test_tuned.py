"""Fine-tuning of the benchmark sees nothing of the scored part, and each family is asked with its own network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.artifact import Artifact
from tests.training.benchmark.files import seasonal, walk, written
from training.benchmark import tuned
from training.benchmark.panels import panels_of
from training.benchmark.run import Asked, benchmark
from training.windows import SeriesGroup


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, series in {"shop": {"day": seasonal(6), "walk": walk(6)}, "jobs": {"walk": walk(7, seed=4)}}.items():
        written(tmp_path / f"{name}.csv", series)
    return tmp_path


def test_the_past_of_a_series_ends_at_its_first_origin(data: Path) -> None:
    (panel,), _ = panels_of(data / "shop.csv", False, "test", 6)
    for row, group in enumerate(tuned.pasts(panel)):
        end = group.first_end + (group.values.shape[1] - 1) * group.step
        assert end == panel.series.times[panel.columns[row, 0]]
        np.testing.assert_array_equal(group.values[0], panel.series.values[row, : panel.columns[row, 0] + 1])


def test_each_family_is_asked_with_its_own_network_and_it_is_said_where_tuning_did_not_help(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fine_tune(base: Artifact, groups: Sequence[SeriesGroup], **_: Any) -> Artifact:
        if len(groups) == 1:  # the family of one series
            return base
        return replace(base, tensors={name: array * np.float32(0.5) for name, array in base.tensors.items()})

    monkeypatch.setattr(tuned, "fine_tune", fine_tune)
    told = benchmark(
        Asked(data, origins=4, models=("network", "network_tuned"), processes=1, tune=True), lambda share: None
    )
    assert told.helped == {"jobs": False, "shop": True}
    loss = {(row.family, row.horizon, row.model): row.figures["relativeWql"] for row in told.rows}
    assert loss["jobs", "1h", "network_tuned"] == loss["jobs", "1h", "network"]
    assert loss["shop", "1h", "network_tuned"] != loss["shop", "1h", "network"]
