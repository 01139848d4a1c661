"""`benchmark --anomalies` from the command line: rows, pictures, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from serving.cli import main
from tests.training.benchmark.files import START
from training.anomalies import faults, nulls, workloads
from training.anomalies.cases import cases_of
from training.anomalies.detectors import BASELINES
from training.anomalies.run import scored

DAY = 288
QUICK = ("benchmark", "--anomalies", "--processes", "1", "--models", "rolling_z,differences")
OUTCOME = {
    "events",
    "seriesWeeks",
    "eventRecall",
    "eventPrecision",
    "falseAlarms",
    "falseAlarmsPerWeek",
    "delaySeconds",
    "delayP90Seconds",
    "falselyAlarmedRatio",
}
ROW = {"task", "family", "model", "budget", "series", "vusPr", "vusPrHour", "nabScore", "nabScoreLowFalsePositives"}
ROW |= {"nabScoreLowFalseNegatives", "atEqualFalseAlarms"} | OUTCOME


def labelled(name: str, seed: int, days: int = 20) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    values, labels = random.normal(100, 3, days * DAY), np.zeros(days * DAY, dtype=bool)
    for at in (10 * DAY, 13 * DAY, 16 * DAY):
        values[at : at + 6] += 60
        labels[at : at + 6] = True
    times = START + pd.to_timedelta(5 * np.arange(days * DAY), unit="min")
    return pd.DataFrame({"series_id": name, "timestamp": times, "value": values, "is_anomaly": labels})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    pd.concat([labelled("a", 1), labelled("b", 2)]).to_parquet(data / "shop.parquet", index=False)
    labelled("c", 3).drop(columns="is_anomaly").to_parquet(data / "loads.parquet", index=False)
    return data


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code = main([*QUICK, *arguments, "--json"])
    out = capsys.readouterr()
    assert code == 0, out.err
    found: dict[str, Any] = json.loads(out.out)
    return found


def test_the_json_has_a_row_for_each_family_model_and_budget(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: no picture")
    png = tmp_path / "picture.png"
    found = told(capsys, "--data", str(folder), "--series", "--png", str(png))
    assert found["schemaVersion"] == 1
    assert [(row["model"], row["budget"]) for row in found["rows"]] == [
        (model, budget) for model in ("rolling_z", "differences") for budget in (0.1, 1.0)
    ]
    for row in found["rows"]:
        assert set(row) == ROW
        assert set(row["atEqualFalseAlarms"]) == {"factor"} | OUTCOME
        assert (row["task"], row["family"], row["series"], row["events"]) == ("anomaly", "shop", 2, 6)
        assert row["seriesWeeks"] == pytest.approx(2 * 17 / 7)
    z = found["rows"][0]
    assert z["atEqualFalseAlarms"]["eventRecall"] == 1
    assert z["atEqualFalseAlarms"]["falseAlarms"] == 0
    assert z["atEqualFalseAlarms"]["delaySeconds"] == 0
    assert z["nabScore"] > 90
    assert len(found["series"]) == 8
    assert found["skipped"] == [{"family": "loads", "series": "all 1", "why": "the file has no column 'is_anomaly'"}]
    assert png.stat().st_size > 10_000


def test_the_table_names_what_was_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "--data", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "0.1 false alarms per series-week, at so many as measured" in out
    assert "left out: loads/all 1: the file has no column 'is_anomaly'" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("benchmark", "--anomalies", "--speed"), "are about forecasts: leave them out"),
        (("benchmark", "--anomalies", "--part", "tune"), "are about forecasts: leave them out"),
        (("benchmark", "--nulls"), "--nulls, --faults: they belong to --anomalies"),
        (("benchmark", "--anomalies", "--models", "magic"), "--models: 'magic' is not known: write some of rolling_z"),
    ],
)
def test_what_does_not_fit_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert main([*arguments, "--data", str(folder)]) == 2
    assert message in capsys.readouterr().err


def test_no_labelled_series_is_exit_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "--data", str(folder / "loads.parquet")]) == 1
    assert "no column 'is_anomaly'" in capsys.readouterr().out


def test_nulls_and_faults_are_rows_of_their_own(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nulls, "LEAST_WEEKS", 10)
    monkeypatch.setattr(nulls, "SYNTHETIC_WEEKS", 4)
    monkeypatch.setattr(nulls, "SYNTHETIC_SERIES", 6)
    monkeypatch.setattr(faults, "KINDS", workloads.KINDS[:1])
    found = told(capsys, "--data", str(folder), "--nulls", "--faults", "1")
    assert {row["family"] for row in found["nulls"]} == {"synthetic", "surrogate shop"}
    for row in found["nulls"]:
        assert row["overBudget"] == pytest.approx(row["falseAlarmsPerWeek"] / row["budget"])
    assert {(row["kind"], row["model"]) for row in found["faults"]} >= {("none", "rolling_z"), ("none", "differences")}


def test_a_detector_that_breaks_its_contract_is_named(folder: Path) -> None:
    class Negative:
        def scores(self, values: np.ndarray, step: int, times: np.ndarray) -> np.ndarray:
            return -np.ones(len(values))

    (case, *_), _, _ = cases_of(folder / "shop.parquet", False)
    with pytest.raises(ValueError, match="scores of shop/a"):
        scored(case, Negative())
    assert scored(case, BASELINES["rolling_z"]).vus_pr > 0.5
