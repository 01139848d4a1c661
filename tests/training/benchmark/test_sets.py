"""The fixed sets of series: which are taken, at which moments, and what is said where one is lacking."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from forecaster.errors import InputError
from tests.training.benchmark.files import written
from training.benchmark import sets
from training.benchmark.sets import Members, SeriesSet

DAY = 288
SET = SeriesSet("a set", 48, (Members("fine", "/load", 2), Members("coarse", "")))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sets, "SETS", (SET,))
    random = np.random.default_rng(0)
    fine = {f"{name}/load": random.random(10 * 1440) for name in "abc"} | {"a/other": random.random(10 * 1440)}
    written(tmp_path / "fine.parquet", fine, minutes=1)
    written(tmp_path / "coarse.parquet", {"one": random.random(12 * DAY)})
    return tmp_path


def test_the_last_week_is_asked_every_four_hours(data: Path) -> None:
    (panel,) = sets.panels_of(data, False)
    assert [key.workload for key in panel.series.keys] == ["fine: a/load", "fine: b/load", "coarse: one"]
    assert panel.columns.shape == (3, 42) and panel.horizons == {"1h": 12}
    assert (np.diff(panel.columns, axis=1) == 48).all() and (panel.columns % panel.stride == 0).all()
    last = np.array([np.flatnonzero(~np.isnan(row))[-1] for row in panel.series.values])
    room = last - panel.columns[:, -1]
    assert (room >= 12).all() and (room < 12 + 48).all()
    assert (panel.starts <= panel.columns[:, 0]).all() and (panel.starts >= panel.firsts).all()


def test_finer_series_are_means_of_five_minutes(data: Path) -> None:
    (panel,) = sets.panels_of(data, False)
    from forecaster.tidy import read_tidy

    one = next(series for series in read_tidy(data / "fine.parquet", False) if series.name == "a/load")
    row = panel.series.values[0]
    known = row[~np.isnan(row)]
    np.testing.assert_allclose(known, one.values.reshape(-1, 5).mean(axis=1))


@pytest.mark.parametrize("lacking", ["file", "series"])
def test_what_is_lacking_is_named(data: Path, monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    member = Members("absent", "") if lacking == "file" else Members("fine", "/load", 4)
    monkeypatch.setattr(sets, "SETS", (SeriesSet("a set", 48, (member,)),))
    with pytest.raises(InputError, match=r"--sets: .*(absent|/load)"):
        sets.panels_of(data, False)
