"""The command line: exit codes, one line for what the user must mend, and what the verbs print."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from serving import cli
from tests.fake_prometheus import Asked, FakePrometheus, grid, matrix, refused, success, vector
from tests.integration.test_real_prometheus import until

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """(exit code, stdout, stderr) of a verb."""
    monkeypatch.setenv("COLUMNS", "120")

    def verb(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(list(arguments))
        said = capsys.readouterr()
        return code, said.out, said.err

    return verb


def one_line(told: tuple[int, str, str]) -> str:
    """What was said about bad input: exit 2, nothing on stdout, one line on stderr."""
    code, out, err = told
    assert (code, out) == (2, ""), told
    assert err.count("\n") == 1 and "Traceback" not in err, err
    return err


def load_curve(times: list[int]) -> list[tuple[int, float]]:
    return [(t, 100.0 + 50 * math.sin(2 * math.pi * t / 86_400)) for t in times]


def answering(asked: Asked) -> Any:
    """A Prometheus that knows `load` and an HPA."""
    if asked.path.endswith("buildinfo"):
        return success({"version": "2.42.0"})
    known = "load" in asked.params.get("query", "")
    if asked.path.endswith("query_range"):
        return matrix(({"app": "a"}, load_curve(grid(asked)))) if known else matrix()
    if asked.params.get("query", "").startswith("kube_horizontalpodautoscaler_spec_max"):
        return vector(({"namespace": "shop", "horizontalpodautoscaler": "a"}, 20.0))
    return vector(({"app": "a"}, 120.0)) if known else vector()


def config(folder: Path, url: str, **scale: Any) -> Path:
    file = folder / "forecaster.yaml"
    text = json.dumps({"hpa": "shop/a", **scale})
    file.write_text(
        f"prometheus: {{url: {url}, timeout: 5s}}\nhistory: 2d\nworkloads:\n"
        f"  - {{name: a, load: sum(load), scale: {text}}}\n"
    )
    return file


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("serv",), "No such command 'serv'"),
        (("serve", "--prot", "1"), "No such option: --prot"),
        (("serve", "--config", "/none/f.yaml"), "there is no such file"),
        (("check", "--config", "/none/f.yaml"), "there is no such file"),
        (("forecast",), "--query: write PromQL"),
        (("forecast", "--query", "x"), "--prometheus: write the address"),
        (("forecast", "--query", "x", "--prometheus", "prometheus:9090"), "write http://prometheus:9090"),
        (("forecast", "--data", "/none.csv"), "there is no such file"),
        (("forecast", "--data", "x.csv", "--horizon", "8d"), "at most 7d"),
        (("forecast", "--data", "x.csv", "--horizon", "soon"), "is not a duration"),
        (("forecast", "--data", "x.csv", "--quantiles", "0.1,2"), "levels between 0 and 1"),
        (("forecast", "--data", "x.csv", "--query", "x"), "write either a file"),
        (("explain", "x", "--store", "sqlite:////none/f.db"), "does not exist"),
        (("events", "--url", "localhost:8080"), "is not a URL"),
        (("events", "mark", "deploy", "--until", "soon"), "--until: 'soon' is not a time"),
        (("events", "mark", "deploy", "--until", "2026-03-01T08:00:00"), "has no time zone"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_line_and_exit_code_2(run: Run, arguments: tuple[str, ...], words: str) -> None:
    assert words in one_line(run(*arguments))


def test_bad_configuration_names_file_line_and_column(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("prometheus: {url: http://p:9090}\nworkloads:\n  - {name: a, load: 'sum(', scale: {hpa: shop/a}}\n")
    for verb in ("check", "serve"):
        assert f"{file}:3:" in one_line(run(verb, "--config", str(file)))


def test_an_unreachable_prometheus_is_said_in_one_line(run: Run, tmp_path: Path, closed_port: int) -> None:
    url = f"http://127.0.0.1:{closed_port}"
    assert url in one_line(run("check", "--config", str(config(tmp_path, url))))
    assert url in one_line(run("forecast", "--prometheus", url, "--query", "load"))


def test_what_prometheus_says_of_a_bad_query_is_passed_on(run: Run, fake_prometheus: FakePrometheus) -> None:
    fake_prometheus.answer = lambda asked: refused("parse error: unexpected end of input", 400, "bad_data")
    said = one_line(run("forecast", "--prometheus", fake_prometheus.url, "--query", "sum("))
    assert "unexpected end of input" in said


def test_refused_credentials_are_said_in_one_line(run: Run, tmp_path: Path, fake_prometheus: FakePrometheus) -> None:
    fake_prometheus.answer = lambda asked: refused("no", 401, "unauthorized")
    assert "401" in one_line(run("check", "--config", str(config(tmp_path, fake_prometheus.url))))


def test_a_service_that_is_not_there_is_said_with_the_mend(run: Run, closed_port: int) -> None:
    said = one_line(run("events", "--url", f"http://127.0.0.1:{closed_port}"))
    assert "start `forecaster serve`" in said


def test_a_missing_extra_is_named(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.backends.backend_agg", None)
    file = tidy(tmp_path / "load.csv")
    assert "forecaster-k8s[plot]" in one_line(run("forecast", "--data", str(file), "--png", str(tmp_path / "x.png")))


def test_a_taken_port_is_one_line(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(f"workloads: []\nstore: sqlite:///{tmp_path}/f.db\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"server.port: {port} is taken" in one_line(run("serve", "--config", str(file), "--port", str(port)))


def test_an_unwritable_and_a_newer_store_are_one_line(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("workloads: []\nserver: {port: 0}\nstore: sqlite:////proc/none/f.db\n")
    assert "store" in one_line(run("serve", "--config", str(file)))
    import sqlite3

    newer = sqlite3.connect(tmp_path / "newer.db")
    newer.execute("CREATE TABLE t (x)")
    newer.execute("PRAGMA user_version = 9999")
    newer.commit()
    newer.close()
    file.write_text(f"workloads: []\nserver: {{port: 0}}\nstore: sqlite:///{tmp_path}/newer.db\n")
    assert "newer" in one_line(run("serve", "--config", str(file)))


# --- check -----------------------------------------------------------------------------------------------------------


def test_check_tells_what_will_run(run: Run, tmp_path: Path, fake_prometheus: FakePrometheus) -> None:
    fake_prometheus.answer = answering
    file = config(tmp_path, fake_prometheus.url, capacityPerReplica=20)
    code, out, err = run("check", "--config", str(file), "--json")
    told = json.loads(out)
    (one,) = told["workloads"]
    assert (code, err) == (0, "")
    assert (one["name"], one["mode"], one["hpa"], one["hpaFound"], one["reason"]) == (
        "a",
        "recommend",
        "shop/a",
        True,
        None,
    )
    assert one["history"] == pytest.approx(2 * 86_400, abs=1_200)
    assert one["maxReplicas"] == 20
    code, out, err = run("check", "--config", str(file))
    assert code == 0 and "shop/a" in out and "recommend" in out and "–20" in out


def test_check_tells_what_will_not_run_and_why(run: Run, tmp_path: Path, fake_prometheus: FakePrometheus) -> None:
    fake_prometheus.answer = answering
    file = config(tmp_path, fake_prometheus.url)
    text = file.read_text().replace("sum(load)", "sum(lod)")
    code, out, _ = run("check", "--config", str(file), "--json")
    assert code == 1
    assert [one["reason"] for one in json.loads(out)["workloads"]] == ["capacity_unknown"]
    assert json.loads(out)["workloads"][0]["mode"] == "observe"
    file.write_text(text)
    code, out, _ = run("check", "--config", str(file), "--json")
    assert code == 1
    assert json.loads(out)["workloads"][0]["reason"] == "no_data"
    assert json.loads(out)["workloads"][0]["history"] is None
    code, out, _ = run("check", "--config", str(file))
    assert code == 1 and "has never matched anything" in out


def test_check_says_beforehand_what_a_schedule_asks_beyond_the_hpas_maximum(
    run: Run, tmp_path: Path, fake_prometheus: FakePrometheus
) -> None:
    fake_prometheus.answer = answering
    windows = [{"cron": "0 8 * * 1", "duration": "1h", "minReplicas": 30}]
    file = config(tmp_path, fake_prometheus.url, capacityPerReplica=20, schedule=windows)
    code, out, _ = run("check", "--config", str(file))
    assert code == 0
    assert "schedule '0 8 * * 1' asks for 30 replicas, the HPA allows 20" in " ".join(out.split())


def test_check_says_that_a_short_history_gives_no_floor(
    run: Run, tmp_path: Path, fake_prometheus: FakePrometheus
) -> None:
    born = time.time() - 30 * 3600

    def young(asked: Asked) -> Any:
        if asked.path.endswith("query_range") and "load" in asked.params.get("query", ""):
            return matrix(({"app": "a"}, [point for point in load_curve(grid(asked)) if point[0] >= born]))
        return answering(asked)

    fake_prometheus.answer = young
    code, out, _ = run("check", "--config", str(config(tmp_path, fake_prometheus.url, capacityPerReplica=20)), "--json")
    (one,) = json.loads(out)["workloads"]
    assert (code, one["reason"]) == (1, "history_too_short")


def test_check_without_workloads_needs_no_prometheus(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("workloads: []\n")
    code, out, _ = run("check", "--config", str(file))
    assert code == 0 and "valid" in out


# --- forecast --------------------------------------------------------------------------------------------------------


def tidy(file: Path, days: int = 3, step: int = 300, gap: slice | None = None) -> Path:
    """A load with a day, end-stamped."""
    times = pd.date_range("2026-03-01", periods=days * 86_400 // step, freq=f"{step}s", tz="UTC")
    seconds = times.astype("datetime64[s, UTC]").astype("int64").to_numpy()
    values = 100 + 50 * np.sin(2 * np.pi * seconds / 86_400)
    if gap is not None:
        values[gap] = np.nan
    table = pd.DataFrame({"series_id": "load", "timestamp": times, "value": values})
    if file.suffix == ".csv":
        table.to_csv(file, index=False)
    else:
        table.to_parquet(file)
    return file


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_file_is_forecast_where_it_ends(run: Run, tmp_path: Path, ending: str) -> None:
    file = tidy(tmp_path / f"load.{ending}")
    code, out, _ = run("forecast", "--data", str(file), "--horizon", "1h", "--json")
    (one,) = json.loads(out)["items"]
    assert (code, one["series"], one["step"], len(one["values"])) == (0, "load", "5m", 12)
    assert one["origin"] == "2026-03-03T23:55:00+00:00"
    assert [row[1] for row in one["values"]] == pytest.approx([100] * 12, abs=25)
    assert all(low <= middle <= high for low, middle, high in one["values"])


def test_stamps_of_starts_move_the_origin_by_one_step(run: Run, tmp_path: Path) -> None:
    file = tidy(tmp_path / "load.csv")
    _, out, _ = run("forecast", "--data", str(file), "--horizon", "1h", "--json", "--timestamps", "start")
    assert json.loads(out)["items"][0]["origin"] == "2026-03-04T00:00:00+00:00"


def test_nixtla_names_are_accepted_and_bad_values_named(run: Run, tmp_path: Path) -> None:
    file = tidy(tmp_path / "load.csv")
    table = pd.read_csv(file).rename(columns={"series_id": "unique_id", "timestamp": "ds", "value": "y"})
    table.to_csv(file, index=False)
    assert run("forecast", "--data", str(file), "--horizon", "1h", "--json")[0] == 0
    table["y"] = table["y"].astype(object)
    table.loc[6, "y"] = "many"
    table.to_csv(file, index=False)
    assert "'many' in row 7 is not a number" in one_line(run("forecast", "--data", str(file)))
    table.rename(columns={"y": "z"}).to_csv(file, index=False)
    assert "no column 'value'" in one_line(run("forecast", "--data", str(file)))


def test_a_series_that_is_too_short_says_so_and_exits_1(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "short.csv"
    file.write_text("timestamp,value\n2026-03-01T00:00:00Z,1\n2026-03-01T00:01:00Z,2\n")
    code, out, _ = run("forecast", "--data", str(file), "--horizon", "1h", "--json")
    assert code == 1
    assert json.loads(out)["items"][0]["reason"]["code"] == "history_too_short"
    code, out, _ = run("forecast", "--data", str(file), "--horizon", "1h")
    assert code == 1 and "history_too_short" in out


def test_the_terminal_and_the_picture_show_the_forecast(run: Run, tmp_path: Path) -> None:
    file, picture = tidy(tmp_path / "load.csv", gap=slice(600, 640)), tmp_path / "out.png"
    code, out, _ = run("forecast", "--data", str(file), "--horizon", "6h", "--png", str(picture))
    assert code == 0 and "blend/network-" in out and any("⠀" < mark <= "⣿" for mark in out)
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and picture.stat().st_size > 10_000
    said = one_line(run("forecast", "--data", str(file), "--png", str(tmp_path / "none" / "x.png")))
    assert "cannot be written" in said


def test_an_expression_is_forecast_from_prometheus(run: Run, fake_prometheus: FakePrometheus) -> None:
    fake_prometheus.answer = answering
    url = fake_prometheus.url
    code, out, _ = run(
        "forecast", "--prometheus", url, "--query", "load", "--history", "3d", "--horizon", "2h", "--json"
    )
    (one,) = json.loads(out)["items"]
    assert code == 0 and len(one["values"]) == 120 and one["reason"] is None
    said = one_line(run("forecast", "--prometheus", url, "--query", "nothing"))
    assert "no_data" in said


# --- explain and events ----------------------------------------------------------------------------------------------


def test_a_stored_decision_is_recomputed_bit_by_bit_and_a_changed_one_is_noticed(run: Run, tmp_path: Path) -> None:
    from datetime import UTC, datetime, timedelta

    from forecaster.domain import Bounds, ScaleSpec
    from forecaster.scaling import decision
    from forecaster.scaling.record import to_json
    from serving.store import Store, StoredDecision

    now = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
    spec = ScaleSpec("shop", "a", capacity_per_replica=50.0, bounds=Bounds(2, 20))
    inputs = decision.DecisionInput(
        now=now, workload="a", spec=spec, peak=333.3, level=0.99, newest_load=300.0, capacity=50.0
    )
    before = decision.DecisionState()
    made, _ = decision.decide(inputs, before)
    told = to_json(made)
    url = f"sqlite:///{tmp_path}/f.db"
    store = Store(url)
    store.add_decisions([StoredDecision("a", "a#1", now, decision.record(inputs, before), told)])
    later = now + timedelta(minutes=5)
    store.add_decisions([StoredDecision("a", "a#1", later, decision.record(inputs, before), told | {"floor": 19})])
    store.close()
    code, out, _ = run("explain", "a", "--store", url, "--at", now.isoformat())
    assert code == 0 and "bit by bit" in out and f"floor                  {made.floor}" in out
    code, out, _ = run("explain", "a", "--store", url)
    assert code == 1 and "RECOMPUTED DIFFERENTLY: floor" in out
    code, out, _ = run("explain", "a", "--store", url, "--json")
    assert code == 1 and json.loads(out)["different"] == ["floor"]
    assert "no decision is stored for 'b'" in one_line(run("explain", "b", "--store", url))


def test_events_are_marked_listed_and_ended_on_a_running_service(run: Run, tmp_path: Path) -> None:
    import asyncio
    import threading

    import uvicorn

    from serving import api, server
    from serving.health import Health
    from serving.loop import Board
    from serving.store import Store

    store = Store(f"sqlite:///{tmp_path}/f.db")
    listening = server.bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    built = api.build(api.Edges(Board(), Health(started_at=0.0), store))
    running = server._server(uvicorn.Config(built, ws="none", lifespan="off", log_config=None))
    thread = threading.Thread(target=lambda: asyncio.run(running.serve(sockets=[listening])))
    thread.start()
    try:
        until(lambda: running.started)
        events = ("events", "--url", url)
        code, out, _ = run(*events)
        assert code == 0 and "No events" in out
        code, out, _ = run(*events, "mark", "deploy", "--until", "10m", "--workload", "a", "--note", "release")
        assert code == 0 and "deploy" in out and "release" in out
        code, out, _ = run(*events, "override", "pin", "--workload", "a", "--min-replicas", "6", "--until", "2h")
        assert code == 0
        (override,) = store.overrides.values()
        assert (override.kind, override.workload, override.min_replicas) == ("pin", "a", 6)
        code, out, _ = run(*events[:3], "--json")
        assert code == 0
        assert [one["kind"] for one in json.loads(out)["events"] + json.loads(out)["overrides"]] == ["deploy", "pin"]
        code, out, _ = run(*events, "end", override.id)
        assert code == 0 and not store.overrides
        assert "no override" in one_line(run(*events, "end", override.id)).lower()
        assert "kind" in one_line(run(*events, "mark", "party", "--until", "10m"))
    finally:
        running.should_exit = True
        thread.join()
        listening.close()
        store.close()
