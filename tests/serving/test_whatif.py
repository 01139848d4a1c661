"""`forecaster whatif` as it is called: its JSON is the contract, its errors are one line, its page stands alone."""

from __future__ import annotations

import json
import re
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from forecaster.scaling.whatif import report, yardstick
from forecaster.scaling.whatif.play import trace
from serving import cli, whatif
from serving.whatif_prometheus import compared
from tests.forecaster.scaling.whatif.loads import STEP, daily, times, trial


def written(folder: Path, values: np.ndarray, name: str = "shop.csv") -> Path:
    stamps = times(len(values) / 288) - STEP
    lines = [f"checkout,{at},{value:.3f}" for at, value in zip(stamps.tolist(), values.tolist(), strict=True)]
    path = folder / name
    path.write_text("\n".join(["series_id,timestamp,value", *lines]))
    return path


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], str]:
    folder = tmp_path_factory.mktemp("whatif")
    path, page = written(folder, daily(4)), folder / "receipt.html"
    wanted = whatif.from_files(path, False, (600,), whatif.Size(), False, "")
    told = whatif.told(wanted, price=0.05, detailed=True)
    from forecaster.scaling.whatif import report
    from serving import whatif_page

    whatif_page.write(told, page)
    return json.loads(json.dumps(report.as_dict(told), allow_nan=False)), page.read_text() + report.as_text(told)


def test_the_json_holds_the_contract(answered: tuple[dict[str, object], str]) -> None:
    body = answered[0]
    assert set(body) == {
        "schemaVersion",
        "referenceRisk",
        "rows",
        "pairs",
        "frontier",
        "summary",
        "dial",
        "hindsight",
        "recorded",
        "shadow",
        "leftOut",
    }
    rows = [row for row in body["rows"] if row["part"] == "test"]  # type: ignore[attr-defined]
    policies = {row["policy"]: row for row in rows}
    assert {"user_hpa", "tuned_hpa", "week_offset", "persistence", "phpa_linear", "forecaster", "oracle"} <= set(
        policies
    )
    fields = {"series", "policy", "part", "startupSeconds", "replicaHours", "timeAboveCapacity", "unmetLoad"}
    for row in rows:
        assert fields | {"scaleEvents", "reversals", "lowerBound", "cost", "days", "setting"} == set(row)
        assert row["cost"] == pytest.approx(0.05 * row["replicaHours"], abs=0.01)
    assert policies["oracle"]["timeAboveCapacity"] == 0
    assert {pair["at"] for pair in body["pairs"]} == {"equal_cost", "equal_risk"}  # type: ignore[attr-defined]
    assert {one["policy"] for one in body["frontier"]} == {"hpa", "forecaster"}  # type: ignore[attr-defined]
    assert body["summary"][0]["series"] == 1  # type: ignore[index]


def test_the_page_asks_for_nothing_outside(answered: tuple[dict[str, object], str]) -> None:
    text = answered[1]
    assert text.count("<svg") >= 2
    assert "<script" not in text
    assert not re.search(r"""(src|href)\s*=\s*["']?https?:""", text)
    assert "Worst hours" in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "write --data PATH, or --config FILE"),
        (["--data", "nowhere.csv"], "there is no nowhere.csv"),
        (["--data", "DATA", "--startup", "7"], "a multiple of 15"),
        (["--data", "DATA", "--startup", "60"], "shorter than its step"),
        (["--data", "DATA", "--startup", "600", "--capacity", "0"], "capacity_unknown"),
        (["--data", "DATA", "--startup", "600", "--min-replicas", "9", "--max-replicas", "3"], "above the maximum 3"),
        (["--data", "DATA", "--only", "nobody"], "no series has 'nobody' in its name"),
        (["--data", "SHORT", "--startup", "600"], "history_too_short"),
    ],
    ids=["nothing", "no file", "odd start-up", "below the step", "capacity", "bounds", "no series", "short"],
)
def test_a_bad_input_is_one_line_and_exit_2(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {
        "DATA": str(written(tmp_path, daily(3))),
        "SHORT": str(written(tmp_path, daily(1), "short.csv")),
    }
    assert cli.main(["whatif", *(paths.get(one, one) for one in options)]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_recorded_replicas_like_the_simulated_ones_are_fit_and_others_are_not() -> None:
    one = trial(daily(4))
    at = one.times[one.cut : one.end]
    simulated = trace(one, one.service(), None).replicas[0][one.per_step - 1 :: one.per_step].astype(np.float64)
    same, other = compared(one, at, simulated), compared(one, at, 1.5 * simulated)
    assert (same.difference, same.unfit, same.samples) == (0.0, False, len(at))
    assert other.difference == pytest.approx(1 / 3)
    assert other.unfit
    assert compared(one, at[:0], simulated[:0]).unfit  # nothing recorded: not known to fit


def test_the_yardstick_s_list_has_22_series_at_a_minute_and_13_at_five() -> None:
    kinds = [one.kind for one in yardstick.MEMBERS]
    assert (kinds.count("smooth"), kinds.count("noisy"), kinds.count("5 min")) == (10, 12, 13)
    assert len({one.name for one in yardstick.MEMBERS}) == len(kinds)


def test_many_services_share_the_cores_and_get_the_same_receipts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["series_id,timestamp,value"]
    for name in ("a", "b"):
        load = daily(2, seed=ord(name)).tolist()
        stamps = (datetime.fromtimestamp(at, UTC).isoformat() for at in times(2).tolist())
        lines += [f"{name},{stamp},{value}" for stamp, value in zip(stamps, load, strict=True)]
    path = tmp_path / "two.csv"
    path.write_text("\n".join(lines) + "\n")

    def made() -> list[tuple[str, str, float]]:
        told = report.as_dict(whatif.told(whatif.from_files(path, False, (600,), whatif.Size(), False, "")))
        return [(row["series"], row["policy"], row["replicaHours"]) for row in told["rows"]]

    alone = made()
    monkeypatch.setattr(whatif, "_WORTH_PROCESSES", 2)
    assert len(whatif.batches(whatif.from_files(path, False, (600,), whatif.Size(), False, "").trials)) == 2
    shared = made()
    assert [row[:2] for row in shared] == [row[:2] for row in alone]
    # products of matrices of other sizes round otherwise, in the seventh digit
    np.testing.assert_allclose([row[2] for row in shared], [row[2] for row in alone], rtol=2e-3)


def test_a_second_process_for_half_of_the_forecasts_changes_no_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamps = (datetime.fromtimestamp(at, UTC).isoformat() for at in times(2).tolist())
    path = tmp_path / "shop.csv"
    path.write_text(
        "timestamp,value\n" + "".join(f"{stamp},{value}\n" for stamp, value in zip(stamps, daily(2), strict=True))
    )
    wanted = whatif.from_files(path, False, (600,), whatif.Size(), False, "")
    alone = report.as_dict(whatif.told(wanted))
    monkeypatch.setattr(whatif, "_WORTH_ONE", 1)
    started: list[int] = []

    def process(count: int, context: object) -> ProcessPoolExecutor:
        started.append(count)
        return ProcessPoolExecutor(count, context)  # type: ignore[arg-type]

    monkeypatch.setattr(whatif, "ProcessPoolExecutor", process)
    assert report.as_dict(whatif.told(wanted)) == alone and not started  # not where nobody allows it
    assert report.as_dict(whatif.told(wanted, beside=True)) == alone
    assert started == [1]
