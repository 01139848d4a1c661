"""`forecaster serve` as a process on a real Prometheus, with a proxy between them that does what networks do."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.store import Store
from tests.apiserver import CONFIG_MAP, FakeApiServer, right
from tests.faultproxy import FaultProxy
from tests.integration.prometheus_server import PrometheusServer

pytestmark = pytest.mark.prometheus

ROOT = Path(__file__).resolve().parents[2]
DAYS = 14
APPS = ("cart", "checkout")
LEAST, MOST = 4, 60
VALID_FOR = 60.0
CONFIG = """
prometheus: {{url: "{url}", timeout: 2s}}
step: 15s
interval: 1s
history: 14d
store: sqlite:///{store}
workloads:
  - forEach: [app]
    load: sum by (app) (load)
    maxSeries: 10
    scale:
      hpa: "shop/{{app}}"
      capacityPerReplica: 10
      leadTime: 30s
      validFor: 1m
      target: 70%
      bounds: {{minReplicas: 4, maxReplicas: 60, maxStepUp: 10}}  # no minute of waiting for the step limit
"""


def load(app: str, at: float) -> float:
    """A day's curve, in requests per second."""
    return 100.0 * (1 + APPS.index(app)) * (1 + 0.3 * math.sin(2 * math.pi * at / 86_400))


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Asks again and again until it holds; the pause between two questions only spares the machine."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


# --- Prometheus and what it scrapes ----------------------------------------------------------------------------------


@contextlib.contextmanager
def exporter() -> Iterator[int]:
    """The workloads' own /metrics: the series of the back-filled past, going on."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            now = time.time()
            body = "".join(f'load{{app="{app}"}} {load(app, now)!r}\n' for app in APPS).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Site:
    """A real Prometheus that scrapes the workloads and the service, and the proxy that the service reads it by."""

    prometheus: PrometheusServer
    proxy: FaultProxy
    port: int  # of the service, whichever process has it

    def ask(self, query: str) -> dict[str, float]:
        """Value by HPA or app; {} where Prometheus does not answer."""
        url = f"{self.prometheus.url}/api/v1/query?query={urllib.parse.quote(query)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                found = json.load(answer)["data"]["result"]
        except OSError:
            return {}
        return {one["metric"].get("hpa") or one["metric"].get("app", ""): float(one["value"][1]) for one in found}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    server = PrometheusServer(tmp_path_factory.mktemp("prometheus"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    now = int(time.time()) // 60 * 60
    times = range(now - DAYS * 86_400, now + 1, 60)
    server.backfill(("load", {"app": app}, ((t, load(app, t)) for t in times)) for app in APPS)
    with exporter() as exporting:
        server.scrape(
            [
                {
                    "job_name": "workloads",
                    "honor_labels": True,
                    "metric_relabel_configs": [{"regex": "instance|job", "action": "labeldrop"}],
                    "static_configs": [{"targets": [f"127.0.0.1:{exporting}"]}],
                },
                {"job_name": "forecaster", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]},
            ],
            reload=False,
        )
        with server, FaultProxy(("127.0.0.1", server.port)) as proxy:
            one = Site(server, proxy, port)
            until(lambda: one.ask("load").keys() == set(APPS))
            yield one


@pytest.fixture(autouse=True)
def healthy(site: Site) -> Iterator[None]:
    """Whatever a test broke is whole for the next one."""
    yield
    site.proxy.set("pass")
    if not site.prometheus.running:
        site.prometheus.start()


# --- the service -----------------------------------------------------------------------------------------------------


@dataclass
class Running:
    """A `forecaster serve`, and what it has said."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except OSError:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            return 0, b""
        finally:
            connection.close()

    def json(self, path: str) -> Any:
        status, body = self.get(path)
        return json.loads(body) if status == 200 else {"items": []}

    def recommended(self) -> dict[str, dict[str, Any]]:
        return {one["workload"]: one for one in self.json("/api/v1/recommendations")["items"]}

    def floors(self) -> dict[str, int]:
        return {name: one["floor"] for name, one in self.recommended().items() if one["floor"] is not None}

    def codes(self) -> dict[str, set[str]]:
        found = self.json("/api/v1/workloads")["items"]
        return {one["name"]: {reason["code"] for reason in one["reasons"]} for one in found}

    def metric(self, name: str) -> float | None:
        for line in self.get("/metrics")[1].decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        return None

    def settled(self) -> bool:
        """Both workloads have a forecast and a floor that no step limit holds back."""
        made = self.recommended()
        return made.keys() == set(APPS) and all(
            one["floor"] is not None and one["boundBy"] != "step_up" and one["modelVersion"] != "none"
            for one in made.values()
        )

    def said(self, code: str) -> bool:
        codes = self.codes()
        return bool(codes) and all(code in said for said in codes.values())

    def watch(self, condition: Callable[[], bool], floors: dict[str, int], seconds: float = 60.0) -> None:
        """Until the condition holds: ready all the while, nothing expired served, and no floor below `floors`."""

        def step() -> bool:
            assert self.get("/readyz")[0] == 200
            for name, one in self.recommended().items():
                age = datetime.now(UTC).timestamp() - datetime.fromisoformat(one["validUntil"]).timestamp()
                assert age <= 1.0, f"{name} was served {age:.1f} s after its end"
                assert one["floor"] is not None and one["floor"] >= floors[name], one
            return condition()

        until(step, seconds)


@contextlib.contextmanager
def serving(folder: Path, site: Site, text: str = CONFIG) -> Iterator[Running]:
    """A service that has its first publication."""
    config, log = folder / "forecaster.yaml", folder / "service.log"
    config.write_text(text.format(url=site.proxy.url, store=folder / "f.db"))
    command = [sys.executable, "-m", "serving.cli", "serve", "--config", str(config), "--port", str(site.port)]
    with log.open("ab") as said:
        process = subprocess.Popen(
            command, stdout=said, stderr=said, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
    one = Running(process, site.port, log)
    try:
        until(lambda: one.get("/readyz")[0] == 200)
        yield one
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def service(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One service for the tests that do not end it, settled on its floors."""
    with serving(tmp_path_factory.mktemp("service"), site) as one:
        until(one.settled, 120)
        yield one
        assert "Traceback" not in one.log.read_text()


def sound(running: Running) -> bool:
    codes = running.codes()
    return codes.keys() == set(APPS) and all(
        said <= {"calibrating", "held", "calibration_lost", "skill_below_baseline"} for said in codes.values()
    )


def test_recommendations_are_valid_and_prometheus_answers_them_back(site: Site, service: Running) -> None:
    until(lambda: sound(service))
    for name, one in service.recommended().items():
        needed = load(name, time.time()) / 10
        assert needed <= one["floor"] <= min(MOST, 1.6 * needed + 2), one
        assert one["namespace"] == "shop" and one["hpa"] == name
        assert 0 < one["validForSeconds"] <= VALID_FOR
        assert datetime.fromisoformat(one["validUntil"]) > datetime.now(UTC)
        assert one["desiredReplicas"] >= one["floor"] >= LEAST
    assert b"forecaster_recommended_replicas{" in service.get("/metrics")[1]
    until(lambda: site.ask("forecaster_floor_replicas") == service.floors())
    assert site.ask("forecaster_recommended_replicas").keys() == set(APPS)
    assert site.ask("forecaster_recommendation_valid_until_timestamp_seconds > time()").keys() == set(APPS)


NONSENSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 19\r\n\r\n<html>Login</html>\n"
REFUSAL = json.dumps({"status": "error", "errorType": "execution", "error": "too many samples"}).encode()
UNPROCESSABLE = (
    b"HTTP/1.1 422 Unprocessable\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(REFUSAL)
) + REFUSAL
DENIED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("fault", "answer", "code"),
    [
        ("refuse", b"", "stale_data"),
        ("stall", b"", "stale_data"),
        ("reset", b"", "stale_data"),
        ("replace", NONSENSE, "query_error"),
        ("replace", UNPROCESSABLE, "query_error"),
        ("replace", DENIED, "unauthorised"),
    ],
    ids=["p1 refused", "p2 stalled", "p2 reset", "p7 a login page", "p5 refused query", "p8 unauthorised"],
)
def test_p_a_prometheus_in_trouble_is_named_scales_nothing_in_and_is_got_over(
    site: Site, service: Running, fault: str, answer: bytes, code: str
) -> None:
    until(lambda: sound(service) and service.settled())
    floors = service.floors()
    site.proxy.set(fault, answer=answer)
    service.watch(lambda: service.said(code), floors)
    cycles = service.metric("forecaster_cycles_total") or 0
    service.watch(lambda: (service.metric("forecaster_cycles_total") or 0) >= cycles + 2, floors)
    site.proxy.set("pass")
    service.watch(lambda: sound(service), floors, 20)
    assert service.metric("forecaster_cycle_failures_total") == 0


def test_p12_a_prometheus_that_is_killed_and_comes_back_scales_nothing_in(site: Site, service: Running) -> None:
    until(lambda: sound(service) and service.settled())
    floors = service.floors()
    site.prometheus.kill()
    service.watch(lambda: service.said("stale_data"), floors)
    site.prometheus.start()
    service.watch(lambda: sound(service), floors)


# --- ends and begins -------------------------------------------------------------------------------------------------


def stopped(running: Running) -> None:
    began = time.monotonic()
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=10) == 0, running.log.read_text()[-3000:]
    assert time.monotonic() - began < 10
    assert "Traceback" not in running.log.read_text()


def states(folder: Path) -> dict[str, Any]:
    from forecaster.cycle import Cycle

    store = Store(str(folder / "f.db"))
    found, said = store.load_states(Cycle.STATE_VERSIONS)
    store.close()
    assert said == []
    return dict(found)


def newest(running: Running) -> datetime:
    """The newest sample that every recommendation has seen."""
    return min(datetime.fromisoformat(one["dataThrough"]) for one in running.recommended().values())


def test_a_restart_goes_on_where_it_was(site: Site, tmp_path: Path) -> None:
    own = Site(site.prometheus, site.proxy, _free_port())
    with serving(tmp_path, own) as first:
        until(lambda: first.settled() and sound(first), 120)
        settled = newest(first)
        # One step ahead is the shortest forecast: issued at one sample, it is judged by the next one.
        until(lambda: newest(first) - settled >= timedelta(seconds=45), 150)
        floors = first.floors()
        until(lambda: first.floors() == floors)
        stopped(first)
    before = states(tmp_path)
    learned = float(before["calibration"].arrays["count"].sum())
    assert learned > 0
    asked = site.proxy.connections
    began = time.monotonic()
    with serving(tmp_path, own) as second:
        seen: list[dict[str, int]] = []

        def recommended() -> bool:
            found = second.floors()
            seen.append(found)
            return found.keys() == set(APPS)

        until(recommended)
        assert time.monotonic() - began < 20
        assert all(seen[-1][name] >= floors[name] for name in APPS)
        assert "discarded" not in second.log.read_text() and "beginning anew" not in second.log.read_text()
        assert site.proxy.connections - asked < 200
        until(lambda: sound(second))
        stopped(second)
    after = states(tmp_path)
    assert float(after["calibration"].arrays["count"].sum()) >= learned
    assert after["decision"].keys == before["decision"].keys
    assert after["incidents"].keys == before["incidents"].keys


@contextlib.contextmanager
def actuating(folder: Path, service: Running, kubeconfig: Path) -> Iterator[subprocess.Popen[bytes]]:
    url = f"http://127.0.0.1:{service.port}"
    command = [sys.executable, "-m", "serving.cli", "actuate", "--apply", "--url", url]
    command += ["--kubeconfig", str(kubeconfig), "--metrics-port", "0"]
    with (folder / "actuator.log").open("ab") as said:
        process = subprocess.Popen(
            command, stdout=said, stderr=said, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in (folder / "actuator.log").read_text()


def test_the_whole_way_from_prometheus_to_the_hpa_and_back(site: Site, tmp_path: Path) -> None:
    own = Site(site.prometheus, site.proxy, _free_port())
    with FakeApiServer() as cluster:
        cluster.rights["actuator"].append(right(("", "configmaps"), "get patch"))
        cluster.create(CONFIG_MAP, "default", {"metadata": {"name": "forecaster-actuator"}})
        for app in APPS:
            cluster.create_hpa("shop", app, min_replicas=2, max_replicas=MOST, manager="kubectl-client-side-apply")
        before = [{**one, "metadata": {**one["metadata"], "resourceVersion": ""}} for one in cluster.all()]
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "current-context": "it",
                    "contexts": [{"name": "it", "context": {"cluster": "c", "user": "u"}}],
                    "clusters": [{"name": "c", "cluster": {"server": cluster.url}}],
                    "users": [{"name": "u", "user": {"token": cluster.token("actuator")}}],
                }
            )
        )
        text = (
            CONFIG.replace("      leadTime", "      mode: apply\n      leadTime")
            + f"kubernetes: {{{{kubeconfig: {kubeconfig}}}}}\n"
        )

        def minima() -> dict[str, int]:
            return {one["metadata"]["name"]: one["spec"]["minReplicas"] for one in cluster.all()}

        with serving(tmp_path, own, text) as service, actuating(tmp_path, service, kubeconfig) as actuator:
            until(service.settled, 120)
            until(lambda: minima() == service.floors())
            assert all(floor > LEAST for floor in minima().values())
            # The floor that stands is ours: it must not pass for the user's own minimum in the next decision.
            decided = service.json("/api/v1/workloads/cart/decisions?limit=1")["items"][0]["decision"]
            assert decided["users_own"] == LEAST
            ends = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
            body = json.dumps({"workload": "*", "kind": "pause", "endsAt": ends})
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)) as connection:
                connection.request("POST", "/api/v1/overrides", body, {"Content-Type": "application/json"})
                assert connection.getresponse().status == 201
            until(lambda: set(minima().values()) == {2})
            until(
                lambda: (
                    [{**one, "metadata": {**one["metadata"], "resourceVersion": ""}} for one in cluster.all()] == before
                )
            )
            actuator.send_signal(signal.SIGTERM)
            assert actuator.wait(timeout=15) == 0
            stopped(service)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_v35_sigterm_in_the_middle_of_a_slow_query_ends_in_good_order(site: Site, tmp_path: Path) -> None:
    own = Site(site.prometheus, site.proxy, _free_port())
    with serving(tmp_path, own) as running:
        until(lambda: running.floors().keys() == set(APPS))
        connections = site.proxy.connections
        site.proxy.set("stall")
        until(lambda: site.proxy.connections > connections)  # the query is out, and no answer will come
        stopped(running)
    assert states(tmp_path)["decision"].keys
    site.proxy.set("pass")


@pytest.mark.slow
def test_p1_v35_an_outage_beyond_the_validity_serves_nothing_expired_by_a_frozen_service_either(
    site: Site, service: Running, tmp_path: Path
) -> None:
    own = Site(site.prometheus, site.proxy, _free_port())
    with serving(tmp_path, own) as frozen:
        until(lambda: frozen.floors().keys() == set(APPS) and sound(service) and service.settled())
        floors, began = service.floors(), time.monotonic()
        frozen.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, frozen.process.pid, os.WSTOPPED | os.WNOWAIT)
        site.proxy.set("refuse")
        service.watch(lambda: time.monotonic() - began > VALID_FOR - 5, floors, 90)
        until(lambda: service.floors() == {} and service.said("expired"), 30)
        assert VALID_FOR - 5 < time.monotonic() - began < VALID_FOR + 10
        assert "forecaster_floor_replicas{" not in service.get("/metrics")[1].decode()
        assert service.get("/readyz")[0] == 200
        until(lambda: site.ask("forecaster_floor_replicas") == {}, 30)

        frozen.process.send_signal(signal.SIGCONT)
        assert frozen.floors() == {}  # the first answer after the pause
        assert frozen.get("/readyz")[0] == 200
        cycles = frozen.metric("forecaster_cycles_total") or 0
        until(lambda: frozen.floors() == {} and (frozen.metric("forecaster_cycles_total") or 0) > cycles + 1)
        assert (frozen.metric("forecaster_cycle_overruns_total") or 0) >= 1  # the overdue cycle was dropped

        site.proxy.set("pass")
        for running in (service, frozen):
            until(lambda running=running: sound(running) and running.settled(), 90)  # type: ignore[misc]
            now = running.floors()
            assert all(abs(now[name] - floors[name]) <= 1 for name in APPS)
        stopped(frozen)
