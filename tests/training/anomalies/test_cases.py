"""Bad input: a clear message for each series, and the rest goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from forecaster.errors import InputError
from forecaster.tidy import read_tidy
from tests.training.benchmark.files import START
from training.anomalies.cases import cases_of

DAY = 288
ROWS = 8 * DAY


def table(name: str, rows: int = ROWS, minutes: int = 5) -> pd.DataFrame:
    random = np.random.default_rng(len(name))
    labels = np.zeros(rows, dtype=bool)
    labels[rows * 3 // 4 : rows * 3 // 4 + 6] = True
    times = START + pd.to_timedelta(minutes * np.arange(rows), unit="min")
    values = random.normal(100, 5, rows)
    return pd.DataFrame({"series_id": name, "timestamp": times, "value": values, "is_anomaly": labels})


def said(path: Path, *tables: pd.DataFrame) -> tuple[list[str], dict[str, str], dict[str, str]]:
    pd.concat(tables).to_parquet(path, index=False)
    cases, out, odd = cases_of(path, False)
    return [case.name for case in cases], {one.series: one.why for one in out}, {one.series: one.why for one in odd}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(value=np.nan), "missing"),
        (lambda t: t.iloc[:DAY], "spans 1.0 days"),
        (lambda t: t.iloc[:1], "one row"),
        (lambda t: t.assign(is_anomaly=True), "all of its rows are labelled"),
        (lambda t: t.assign(is_anomaly=pd.array([None] * len(t), dtype="boolean")), "nobody labelled"),
        (lambda t: t.assign(value=t["value"].where(np.arange(len(t)) < 100)), "no sample after warm-up"),
    ],
    ids=["all NaN", "shorter than warm-up", "one row", "one class: anomalies", "no label", "no sample to score"],
)
def test_a_series_that_cannot_be_scored_says_why(tmp_path: Path, change: object, message: str) -> None:
    names, out, _ = said(tmp_path / "set.parquet", table("good"), change(table("bad")))  # type: ignore[operator]
    assert names == ["good"]
    assert message in out["bad"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.iloc[::-1], "not in order: they were sorted"),
        (lambda t: pd.concat([t, t.iloc[10:13]]), "3 of its timestamps come twice"),
        (
            lambda t: pd.concat([t.iloc[:1000], t.assign(timestamp=t["timestamp"] + pd.Timedelta("2min")).iloc[1000:]]),
            "1 of 2303 distances of its timestamps are no multiple of its usual step of 300 s",
        ),
        (lambda t: t.assign(is_anomaly=False), "no anomaly is labelled"),
    ],
    ids=["unsorted", "duplicated", "mixed steps", "one class: none"],
)
def test_a_series_that_was_mended_says_what(tmp_path: Path, change: object, message: str) -> None:
    bad = table("bad")
    names, out, odd = said(tmp_path / "set.parquet", table("good"), change(bad))  # type: ignore[operator]
    assert (names, out) == (["bad", "good"], {})
    assert message in odd["bad"]
    assert "good" not in odd


def test_a_file_without_labels_is_named(tmp_path: Path) -> None:
    names, out, _ = said(tmp_path / "loads.parquet", table("a").drop(columns="is_anomaly"))
    assert (names, out) == ([], {"all 1": "the file has no column 'is_anomaly'"})


def test_rows_that_nobody_labelled_do_not_count(tmp_path: Path) -> None:
    half = table("half").astype({"is_anomaly": "boolean"})
    half.loc[: ROWS // 2 - 1, "is_anomaly"] = pd.NA
    half.to_parquet(tmp_path / "set.parquet", index=False)
    (case,), _, _ = cases_of(tmp_path / "set.parquet", False)
    assert (case.span.first, case.labelled_from) == (ROWS // 2, ROWS // 2)
    assert case.span.events.tolist() == [[ROWS * 3 // 4, ROWS * 3 // 4 + 5]]
    assert case.scored.sum() == ROWS // 2


def test_of_smd_the_second_half_counts(tmp_path: Path) -> None:
    table("server").to_parquet(tmp_path / "smd_1m.parquet", index=False)
    (case,), _, _ = cases_of(tmp_path / "smd_1m.parquet", False)
    assert case.span.first == ROWS // 2


def test_warm_up_is_fifteen_percent_and_at_most_a_week(tmp_path: Path) -> None:
    pd.concat([table("long", 60 * DAY), table("short", 10 * DAY)]).to_parquet(tmp_path / "set.parquet", index=False)
    long, short = cases_of(tmp_path / "set.parquet", False)[0]
    assert (long.span.first, short.span.first) == (7 * DAY, 1.5 * DAY)


@pytest.mark.parametrize("words", [["true", "False", ""], ["1", "0", ""], ["1.0", "0.0", ""]])
def test_labels_are_read_as_they_are_written(tmp_path: Path, words: list[str]) -> None:
    rows = [f"a,2026-03-02T00:0{i}:00Z,{i},{word}" for i, word in enumerate(words)]
    (tmp_path / "a.csv").write_text("series_id,timestamp,value,is_anomaly\n" + "\n".join(rows))
    (one,) = read_tidy(tmp_path / "a.csv", False)
    assert one.labels is not None
    np.testing.assert_array_equal(one.labels, [1, 0, np.nan])
    np.testing.assert_array_equal(one.labels_on_grid(60), [1, 0, np.nan])


def test_a_label_that_is_none_names_its_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("series_id,timestamp,value,is_anomaly\na,2026-03-02T00:00:00Z,1,perhaps\n")
    with pytest.raises(InputError, match="is_anomaly 'perhaps' in row 1: write true or false"):
        list(read_tidy(tmp_path / "a.csv", False))
