"""The verb from the command line: what it prints, what it refuses, and that nothing looks ahead."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecaster.errors import InputError
from models.chain import NONE
from serving.cli import main
from tests.training.benchmark.files import seasonal, sparse, walk, written
from training.benchmark import answers, panels, run, speed
from training.benchmark.panels import panels_of

NAIVES = "seasonal_naive_day,seasonal_naive_week,persistence"
QUICK = ("--processes", "1", "--origins", "6", "--model", NONE)
FIGURES = {
    "series",
    "origins",
    "answered",
    "wql",
    "relativeWql",
    "forecasterRelativeWql",
    "naiveIsPerfect",
    "mase",
    "coverage80",
    "coverage98",
    "coverage80Ties",
    "coverage98Ties",
    "tunedRelativeWql",
    "peakRecall",
    "peakFalse",
    "rises",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    written(data / "shop.parquet", {"day": seasonal(6), "walk": walk(6)})
    written(data / "jobs.csv", {"bursts": sparse(6)})
    return data


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code = main(["benchmark", *QUICK, *arguments, "--json"])
    out = capsys.readouterr()
    assert code == 0, out.err
    found: dict[str, Any] = json.loads(out.out)
    return found


def test_the_json_has_a_row_for_each_family_horizon_and_model(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: no picture")
    monkeypatch.setattr(panels, "WARM", panels.DAY // 4)  # ours learns for a quarter of a day: quick
    png = tmp_path / "picture.png"
    found = told(capsys, "--data", str(folder), "--models", f"forecaster,profile,{NAIVES},ridge", "--png", str(png))
    assert found["schemaVersion"] == 1
    assert found["models"] == ["forecaster", *NAIVES.split(","), "profile", "ridge"]
    rows = {(row["family"], row["horizon"], row["model"]): row for row in found["rows"]}
    assert {key[:2] for key in rows} == {(f, h) for f in ("shop", "jobs") for h in ("5m", "15m", "1h", "24h")}
    for row in rows.values():
        assert row["task"] == "forecast"
        assert set(row) == {"task", "family", "horizon", "model"} | FIGURES
    assert rows["shop", "1h", "seasonal_naive_day"]["relativeWql"] == 1
    assert rows["shop", "1h", "seasonal_naive_day"]["naiveIsPerfect"] == 1
    assert rows["shop", "5m", "persistence"]["series"] == 2
    assert ("shop", "5m", "seasonal_naive_week") not in rows or rows["shop", "5m", "seasonal_naive_week"]["series"] == 0
    horizons = {one["horizon"]: one for one in found["summary"]["horizons"]}
    assert horizons["5m"]["families"] == 2
    assert horizons["5m"]["relativeToBestBaseline"] > 0
    assert set(horizons["5m"]["relativeWql"]) == set(found["models"])
    worst = found["summary"]["worst"]
    assert worst["ratio"] == max(one["ratio"] for one in found["summary"]["bestBaselines"])
    assert set(found["seconds"]) == set(found["models"])
    assert png.read_bytes().startswith(b"\x89PNG")


def test_series_get_rows_of_their_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "--data", str(folder), "--only", "shop", "--models", "persistence", "--series")
    assert {row["series"] for row in found["series"]} == {"day", "walk"}
    walks = [row for row in found["series"] if row["series"] == "walk" and row["model"] == "persistence"]
    assert all(row["relativeWql"] < 1 for row in walks if row["horizon"] != "24h")
    assert found["summary"]["worst"] is None, "ours did not run: there is nothing to set beside"


def test_the_table_names_models_and_denominators(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(folder / "short.csv", {"young": walk(1)})
    assert main(["benchmark", "--data", str(folder), "--models", NAIVES, *QUICK]) == 0
    out = capsys.readouterr().out
    assert "naive week" in out
    assert "jobs" in out
    assert "skipped: short young: 16.8 h before the test part" in out
    assert "series on which daily seasonal naive makes no error" in out


def test_the_future_changes_nothing_of_earlier_answers(tmp_path: Path) -> None:
    values = walk(8)
    (mine,), _ = panels_of(written(tmp_path / "a.parquet", {"x": values}), False, "test", 6)
    cut = int(mine.columns[0, 3] - mine.firsts[0]) + 1
    values[cut:] = 1e6
    (other,), _ = panels_of(written(tmp_path / "a.parquet", {"x": values}), False, "test", 6)
    np.testing.assert_array_equal(mine.columns, other.columns)
    names = ("seasonal_naive_day", "persistence", "ridge", "auto_ets", "fracast")
    for name in sorted(set(names) - set(answers.missing_packages(names))):
        before, after = (answers.answer(panel, name, NONE) for panel in (mine, other))
        np.testing.assert_array_equal(before.values[:, :4], after.values[:, :4], err_msg=name)
        np.testing.assert_array_equal(before.upper[:, :4], after.upper[:, :4], err_msg=name)
        assert np.isfinite(before.values[0, 0, :, 1:-1]).all()


def test_two_processes_find_what_one_finds(folder: Path) -> None:
    def rows(processes: int) -> list[tuple[Any, ...]]:
        asked = run.Asked(folder, model=NONE, origins=6, models=("persistence", "ridge"), processes=processes)
        return [(row.family, row.series, row.model, row.wql, row.loss) for row in run.benchmark(asked, str).series]

    np.testing.assert_equal(rows(2), rows(1))


def test_a_baseline_without_its_package_is_left_out_and_named(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers.importlib.util, "find_spec", lambda name: None)
    found = told(capsys, "--data", str(folder), "--models", "fracast,persistence")
    assert found["leftOut"] == {"fracast": "fracast"}
    assert found["models"] == ["seasonal_naive_day", "persistence"]


def test_the_speed_of_the_chain_is_told_per_series() -> None:
    timed = speed.measured(NONE, series=3)
    assert {(one.model, one.what) for one in timed} >= {("profile", what) for what in ("fit", "batch", "single")}
    assert {one.what for one in timed if one.model == "fracast"} == {"batch", "single"}
    assert all(one.seconds > 0 and one.cpu_seconds > 0 for one in timed)


def test_the_network_of_an_artifact_gets_a_row_of_its_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "--data", str(folder), "--only", "jobs", "--models", "network", "--model", "bundled")
    assert found["models"] == ["network", "seasonal_naive_day"]
    assert all(row["answered"] == 1 for row in found["rows"])


# --- refused ---------------------------------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["benchmark", *(() if "--model" in arguments else QUICK), *arguments]) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert len(out.err.splitlines()) == 1
    return out.err


def test_a_file_that_cannot_be_read_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken.parquet").write_bytes(b"PAR1 no")
    assert "broken.parquet: the file cannot be read" in refused(capsys, "--data", str(folder))


def test_a_file_without_values_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pd.DataFrame({"a": [1]}).to_csv(folder / "other.csv", index=False)
    assert "other.csv: no column 'timestamp'" in refused(capsys, "--data", str(folder))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--models", "prophet"), "--models: 'prophet' is not known: write some of forecaster, seasonal_naive_day"),
        (("--only", "bank"), "--only: no family of jobs, shop has 'bank' in its name"),
        (("--model", "/nowhere"), "/nowhere: "),
        (("--part", "train"), "--part"),
    ],
    ids=["model", "family", "artifact", "part"],
)
def test_options_that_mean_nothing_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert said in refused(capsys, "--data", str(folder), *arguments)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no" in refused(capsys, "--data", str(tmp_path / "gone"))


def test_a_picture_without_matplotlib_names_the_extra(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    said = refused(capsys, "--data", str(folder), "--models", NAIVES, "--png", "x.png")
    assert "forecaster-k8s[plot]" in said


def test_nothing_to_score_is_exit_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path / "short.csv", {"young": walk(1)})
    assert main(["benchmark", "--data", str(tmp_path), "--models", NAIVES, *QUICK]) == 1
    assert "no series could be scored" in capsys.readouterr().out


def test_a_picture_of_an_unknown_kind_is_refused(tmp_path: Path, folder: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: no picture")
    from training.benchmark.picture import picture

    found = run.benchmark(run.Asked(folder, model=NONE, origins=4, models=("persistence",), processes=1), str)
    with pytest.raises(InputError, match="--png"):
        picture(found, tmp_path / "picture.docx")
