"""Files become panels: parts, origins, and series that are left out with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from forecaster.domain import FloatArray
from forecaster.errors import InputError
from tests.training.benchmark.files import START, seasonal, walk, written
from training.benchmark.panels import DAY, HOUR, files_of, panels_of

START_SECONDS = int(START.timestamp())


def test_the_test_part_is_the_last_three_tenths(tmp_path: Path) -> None:
    (panel,), skipped = panels_of(written(tmp_path / "a.parquet", {"x": seasonal(20)}), False, "test", 28)
    assert skipped == []
    assert panel.columns.shape[0] == 1
    assert panel.columns.shape[1] >= 28
    assert panel.columns.min() >= 0.7 * 20 * 288
    assert panel.columns.max() + 288 < 20 * 288, "the longest horizon must be scored at each origin"


def test_of_the_tuning_part_nothing_later_is_there(tmp_path: Path) -> None:
    (panel,), _ = panels_of(written(tmp_path / "a.parquet", {"x": seasonal(20)}), False, "tune", 28)
    assert panel.series.values.shape[1] == 12 * 288
    assert panel.columns.min() >= 0.3 * 20 * 288
    assert panel.columns.max() + 288 < 12 * 288


@pytest.mark.parametrize(("minutes", "days"), [(1, 9), (5, 14), (5, 30), (10, 40), (30, 60), (60, 60), (60, 700)])
def test_the_origins_meet_most_hours_of_the_day(tmp_path: Path, minutes: int, days: int) -> None:
    path = written(tmp_path / "a.parquet", {"x": seasonal(days, minutes)}, minutes)
    (panel,), _ = panels_of(path, False, "test", 28)
    hours = panel.series.times[panel.columns[0]] // HOUR % 24
    assert panel.columns.shape[1] >= 28
    assert len(np.unique(hours)) >= 18


def test_a_family_of_few_series_gets_as_many_forecasts_as_one_of_three(tmp_path: Path) -> None:
    shapes = []
    for count in (1, 2, 3, 4):
        series = {f"s{i}": seasonal(60) for i in range(count)}
        (panel,), _ = panels_of(written(tmp_path / f"{count}.parquet", series), False, "test", 10)
        shapes.append(panel.columns.shape)
    assert shapes == [(1, 30), (2, 20), (3, 10), (4, 10)]


def test_origins_lie_on_the_stride_of_the_replay(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", {"x": seasonal(20), "y": walk(9)})
    for panel in panels_of(path, False, "test", 28)[0]:
        assert (panel.columns % panel.stride == 0).all()
        assert (panel.starts % panel.stride == 0).all()
        assert np.gcd(panel.stride, panel.day) == 1


def test_a_stamp_is_the_start_of_its_interval_unless_it_is_said_otherwise(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", {"x": seasonal(8)})
    for stamps_end, expected in ((False, 300), (True, 0)):
        (panel,), _ = panels_of(path, stamps_end, "test", 4)
        assert panel.series.times[panel.firsts[0]] == START_SECONDS + expected
        assert panel.series.values[0, panel.firsts[0]] == pytest.approx(100)


def test_the_step_may_differ_between_series_of_a_file(tmp_path: Path) -> None:
    frames = []
    for name, minutes in (("fast", 1), ("slow", 60)):
        path = written(tmp_path / f"{name}.parquet", {name: seasonal(10, minutes)}, minutes)
        frames.append(pd.read_parquet(path))
    pd.concat(frames).to_parquet(tmp_path / "both.parquet")
    panels, _ = panels_of(tmp_path / "both.parquet", False, "test", 8)
    assert {panel.step: list(panel.horizons) for panel in panels} == {
        60: ["5m", "15m", "1h", "24h"],
        3600: ["1h", "24h"],
    }
    assert panels[0].horizons == {"5m": 5, "15m": 15, "1h": 60, "24h": 1440}


def test_a_horizon_that_is_no_whole_number_of_steps_is_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", {"x": seasonal(20, 10)}, 10)
    (panel,), _ = panels_of(path, False, "test", 8)
    assert list(panel.horizons) == ["1h", "24h"]


def test_series_of_other_dates_share_a_grid_and_keep_hour_and_weekday(tmp_path: Path) -> None:
    first = pd.read_parquet(written(tmp_path / "a.parquet", {"x": seasonal(10)}))
    later = START + pd.Timedelta(days=500)  # 71 weeks and 3 days
    second = pd.read_parquet(written(tmp_path / "b.parquet", {"y": walk(10)}, start=later))
    pd.concat([first, second]).to_parquet(tmp_path / "both.parquet")
    (panel,), _ = panels_of(tmp_path / "both.parquet", False, "test", 8)
    begins = panel.series.times[panel.firsts] - 300
    assert (begins % DAY == 0).all()
    assert ((begins - np.array([START_SECONDS, int(later.timestamp())])) % (7 * DAY) == 0).all()
    assert panel.series.values.shape[1] < 20 * 288
    for row, values in enumerate((seasonal(10), walk(10))):
        first_column = int(panel.firsts[row])
        np.testing.assert_allclose(panel.series.values[row, first_column : first_column + len(values)], values)


def test_stamps_between_grid_points_count_at_the_later_one(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", {"x": walk(8)}, start=START + pd.Timedelta(seconds=173))
    (panel,), _ = panels_of(path, False, "test", 4)
    assert panel.series.times[panel.firsts[0]] == START_SECONDS + 600
    np.testing.assert_allclose(panel.series.values[0, panel.firsts[0] :][:2304], walk(8))


GAP = np.where((np.arange(20 * 288) < 5 * 288) | (np.arange(20 * 288) > 13 * 288), walk(20), np.nan)


@pytest.mark.parametrize(
    ("values", "minutes", "part", "why"),
    [
        (seasonal(1), 5, "test", "seasonal naive needs 30 h"),
        (seasonal(40, 7), 7, "test", "fits no horizon"),
        (GAP, 5, "tune", "no sample in the tune part"),
        (np.array([3.0]), 5, "test", "one row"),
        (seasonal(10, 1440), 1440, "test", "too few origins"),
    ],
    ids=["too short", "odd step", "empty part", "one row", "few origins"],
)
def test_a_series_is_left_out_with_a_reason(
    tmp_path: Path, values: FloatArray, minutes: int, part: str, why: str
) -> None:
    path = written(tmp_path / "a.parquet", {"bad": values}, minutes)
    panels, skipped = panels_of(path, False, part, 8)
    assert panels == []
    assert [(one.family, one.series) for one in skipped] == [("a", "bad")]
    assert why in skipped[0].why


def test_files_are_chosen_by_name(tmp_path: Path) -> None:
    for name in ("shop.csv", "bank.parquet"):
        written(tmp_path / name, {"x": seasonal(2)})
    (tmp_path / "notes.txt").write_text("nothing")
    assert [path.stem for path in files_of(tmp_path, None)] == ["bank", "shop"]
    assert [path.stem for path in files_of(tmp_path, "sho")] == ["shop"]
    assert files_of(tmp_path / "shop.csv", None) == [tmp_path / "shop.csv"]


def test_bad_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no \.parquet or \.csv file"):
        files_of(tmp_path, None)
    with pytest.raises(InputError, match="there is no"):
        files_of(tmp_path / "gone", None)
    written(tmp_path / "shop.csv", {"x": seasonal(2)})
    with pytest.raises(InputError, match="no family of shop has 'bank'"):
        files_of(tmp_path, "bank")
