"""`forecaster detect`: incidents of a file, a message for each series that cannot be scored, and no look-ahead."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from forecaster.errors import InputError
from serving import detecting
from serving.detecting import Detected
from serving.foretelling import Asked

NOW = datetime(2026, 3, 1, tzinfo=UTC)
START = pd.Timestamp("2026-01-05", tz="UTC")
N, SPIKE = 900, 700


def loads(seed: int = 0) -> np.ndarray:
    return np.asarray(100 + np.random.default_rng(seed).normal(0, 2, N))


def table(name: str, values: np.ndarray) -> pd.DataFrame:
    stamps = START + pd.to_timedelta(300 * np.arange(len(values)), unit="s")
    return pd.DataFrame({"series_id": name, "timestamp": stamps, "value": values})


def asked(path: Path, series: str | None = None) -> Asked:
    return Asked(None, None, path, None, series, "", None, "14d", "", True)


def detect(path: Path, budget: float = 1.0) -> dict[str, Detected]:
    found = detecting.detect(asked(path), budget, NOW, {}, lambda _share: None)
    return {one.name: one for one in found}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("detect") / "loads.csv"
    spiky = loads()
    spiky[SPIKE : SPIKE + 3] += 100
    shuffled = table("out/of#order", loads(1)).sample(frac=1.0, random_state=0)
    parts = [
        table("spiky", spiky),
        table("calm", loads(2)),
        table("nothing", np.full(50, np.nan)),
        table("short", loads(3)[:20]),
        table("one", loads(4)[:1]),
        pd.concat([shuffled, shuffled.iloc[:3]]),
    ]
    pd.concat(parts).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def found(file: Path) -> dict[str, Detected]:
    return detect(file)


def test_a_spike_is_one_incident_and_a_calm_series_has_none(found: dict[str, Detected]) -> None:
    (incident,) = found["spiky"].incidents
    assert (incident.workload, incident.kind, incident.direction) == ("spiky", "residual", "up")
    at = START + pd.Timedelta(seconds=300 * SPIKE)
    assert incident.opened_at == at
    assert incident.closed_at is not None
    assert not found["spiky"].is_anomaly[:SPIKE].any()
    assert found["spiky"].is_anomaly[SPIKE : SPIKE + 3].all()
    assert not found["calm"].incidents
    assert "value reached" in incident.sentence


def test_warm_up_is_nan_with_a_reason_and_never_zero(found: dict[str, Detected]) -> None:
    one = found["calm"]
    assert np.isnan(one.score[: detecting.WARM_UP - 1]).all()
    assert np.isfinite(one.score[detecting.WARM_UP :]).all()
    assert one.reason is not None and one.reason.startswith("calibrating")


def test_what_cannot_be_scored_says_so_and_the_rest_goes_on(found: dict[str, Detected]) -> None:
    assert str(found["nothing"].reason).startswith("no_data")
    assert str(found["short"].reason).startswith("history_too_short: it has 20 samples")
    assert str(found["one"].reason).startswith("history_too_short: it has 1 samples")
    assert found["out/of#order"].is_scored
    assert any("not in order" in quirk for quirk in found["out/of#order"].quirks)
    assert any("come twice" in quirk for quirk in found["out/of#order"].quirks)


def test_what_comes_later_changes_nothing_before(file: Path, tmp_path: Path, found: dict[str, Detected]) -> None:
    cut = tmp_path / "cut.csv"
    rows = pd.read_csv(file)
    early = pd.to_datetime(rows["timestamp"]) < START + pd.Timedelta(seconds=300 * 500)
    rows[early].to_csv(cut, index=False)
    for name, one in detect(cut).items():
        n = len(one.times)
        np.testing.assert_array_equal(one.score, found[name].score[:n])
        np.testing.assert_array_equal(one.high, found[name].high[:n])
        np.testing.assert_array_equal(one.is_anomaly, found[name].is_anomaly[:n])


def test_json_and_parquet_hold_what_the_contract_says(found: dict[str, Detected], tmp_path: Path) -> None:
    told = json.loads(detecting.as_json(list(found.values()), 1.0))
    assert told["schemaVersion"] == 1
    spiky = next(item for item in told["items"] if item["series"] == "spiky")
    assert spiky["incidents"][0]["kind"] == "residual"
    assert spiky["scored"] < spiky["samples"] == N
    detecting.write_parquet(list(found.values()), tmp_path / "out.parquet")
    rows = pd.read_parquet(tmp_path / "out.parquet")
    assert list(rows.columns) == [
        "series_id", "timestamp", "value", "expected_low", "expected_high", "score", "is_anomaly",
    ]  # fmt: skip
    assert rows.groupby("series_id").size()["spiky"] == N
    with pytest.raises(InputError, match="--parquet"):
        detecting.write_parquet(list(found.values()), tmp_path / "no" / "such" / "folder.parquet")


def test_the_text_names_series_and_incidents(found: dict[str, Detected]) -> None:
    text = detecting.as_text(list(found.values()))
    assert "spiky: 1 incidents in" in text
    assert "nothing: not scored: no_data" in text


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan")])
def test_a_budget_of_nothing_is_refused(file: Path, budget: float) -> None:
    with pytest.raises(InputError, match="--budget"):
        detect(file, budget)


def test_a_series_that_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(InputError, match="'other' is not in"):
        detecting.detect(replace(asked(file), series="other"), 1.0, NOW, {}, lambda _share: None)
