"""`forecaster check` and `forecaster forecast` as processes, on a real Prometheus with two weeks of history."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from tests.integration.prometheus_server import PrometheusServer

pytestmark = pytest.mark.prometheus


def forecaster(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def curve(at: float) -> float:
    """Of `load{app="a0"}`, as it was back-filled."""
    return 100.0 * (1 + 0.5 * math.sin(2 * math.pi * at / 86_400))


def test_a_forecast_of_a_real_series_follows_its_curve(real_prometheus: PrometheusServer) -> None:
    asked = ("--prometheus", real_prometheus.url, "--query", 'load{app="a0"}', "--horizon", "6h", "--json")
    done = forecaster("forecast", *asked)
    assert done.returncode == 0, done.stderr
    (one,) = json.loads(done.stdout)["items"]
    origin = datetime.fromisoformat(one["origin"]).timestamp()
    for minute in (60, 180, 360):  # back-fill ends on the hour: the newest samples may be missing
        assert one["values"][minute - 1][1] == pytest.approx(curve(origin + 60 * minute), rel=0.1)


def test_several_series_are_refused_with_what_to_write(real_prometheus: PrometheusServer) -> None:
    done = forecaster("forecast", "--prometheus", real_prometheus.url, "--query", "load")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "too_many_series" in done.stderr and "sum(…)" in done.stderr


def test_prometheus_words_about_a_bad_query_are_passed_on(real_prometheus: PrometheusServer) -> None:
    done = forecaster("forecast", "--prometheus", real_prometheus.url, "--query", "no_such_function(load)")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "unknown function" in done.stderr


def test_check_finds_the_history_and_says_what_is_missing(real_prometheus: PrometheusServer, tmp_path: Path) -> None:
    file = tmp_path / "forecaster.yaml"
    file.write_text(
        f"prometheus: {{url: {real_prometheus.url}}}\nworkloads:\n"
        "  - {forEach: [app], load: 'sum by (app) (load)', scale: {hpa: 'shop/{app}', capacityPerReplica: 20}}\n"
        "  - {name: none, load: sum(nothing)}\n"
    )
    done = forecaster("check", "--config", str(file), "--json")
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    assert told["prometheus"]["version"].startswith("2.") or told["prometheus"]["version"].startswith("3.")
    by_name = {one["name"]: one for one in told["workloads"]}
    assert by_name["none"]["reason"] == "no_data" and by_name["none"]["history"] is None
    assert set(by_name) - {"none"} == {f"a{i}" for i in range(5)}
    for i in range(5):
        one = by_name[f"a{i}"]
        assert one["history"] == pytest.approx(14 * 86_400, abs=2 * 3_600)
        # no kube-state-metrics: the HPA is not found; the newest sample is as old as this hour
        codes = {reason["code"] for reason in one["reasons"]}
        assert "hpa_not_found" in codes and one["mode"] == "observe"
