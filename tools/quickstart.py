"""`make quickstart`: the main job on a real Prometheus that holds two weeks of generated history.

Starts Prometheus and `forecaster serve` as ordinary processes on loopback ports, runs `forecaster check`, prints what
to look at, and ends both when it is interrupted (or, with --once, after the first recommendations were read back).
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from generated_load import DAY, SERVICES, Load, exposition, openmetrics

CONFIG = """\
# Written by `make quickstart`. Every key: docs/configuration-reference.md
prometheus: {{url: {prometheus}}}
store: sqlite:///{store}
workloads:
  - name: checkout                # one workload: a PromQL expression and the HPA it scales
    load: sum(rate(http_requests_total{{app="checkout"}}[1m]))
    scale: {{hpa: shop/checkout, capacityPerReplica: 60, leadTime: 60s}}
  - forEach: [namespace, app]     # a template: one workload per label combination, read by one query
    load: sum by (namespace, app) (rate(http_requests_total{{app!="checkout"}}[1m]))
    scale: {{hpa: "{{namespace}}/{{app}}", capacityPerReplica: {capacity}, leadTime: 180s, risk: 1%}}
"""
PROMETHEUS = """\
global: {{scrape_interval: 15s}}
scrape_configs:
  - job_name: cluster
    honor_labels: true
    static_configs: [{{targets: ["127.0.0.1:{exporter}"]}}]
    metric_relabel_configs: # so that the scraped series go on where the back-filled ones end
      - {{regex: instance|job, action: labeldrop}}
  - job_name: forecaster
    static_configs: [{{targets: ["127.0.0.1:{forecaster}"]}}]
"""


AHEAD = 30  # seconds
BOUND = {"step_up": "climbing to the need, at most doubled each minute", "proactive": "the forecast"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=14, help="days of history to generate")
    parser.add_argument("--port", type=int, default=8080, help="port of forecaster (another one if it is taken)")
    parser.add_argument("--folder", type=Path, default=Path(".quickstart"), help="where the data and logs go")
    parser.add_argument("--once", action="store_true", help="stop after the first recommendations; for scripts")
    arguments = parser.parse_args()
    for program in ("prometheus", "promtool"):
        if shutil.which(program) is None:
            print(
                f"{program} is not installed: install Prometheus (Debian: apt-get install prometheus)", file=sys.stderr
            )
            return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the finally below runs
    processes: list[subprocess.Popen[bytes]] = []
    try:
        return run(arguments, processes)
    except KeyboardInterrupt:
        return 0
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(timeout=20)


def run(arguments: argparse.Namespace, processes: list[subprocess.Popen[bytes]]) -> int:
    folder: Path = arguments.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)  # only ever holds what an earlier run generated
    folder.mkdir(parents=True)
    now = int(time.time())
    start = now - arguments.days * DAY
    loads = [Load(service, start, now + 3 * DAY) for service in SERVICES]

    say(f"generating {arguments.days} days of history for {len(loads)} services …")
    history = folder / "history.om"
    with history.open("w") as file:
        # A little into the future: until the first scrape, rate() must not see a gap.
        file.writelines(openmetrics(loads, start, int(time.time()) + AHEAD))
    promtool = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=168h"]
    with (folder / "promtool.log").open("wb") as log:
        subprocess.run([*promtool, str(history), str(folder / "prometheus")], check=True, stdout=log, stderr=log)
    history.unlink()

    exporter = serve_exporter(loads)
    prometheus_port, port = free_port(9090), free_port(arguments.port)
    (folder / "prometheus.yml").write_text(PROMETHEUS.format(exporter=exporter, forecaster=port))
    url = f"http://127.0.0.1:{prometheus_port}"
    processes.append(
        start_process(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'prometheus'}",
                "--storage.tsdb.retention.time=60d",
                f"--web.listen-address=127.0.0.1:{prometheus_port}",
            ],
            folder / "prometheus.log",
        )
    )
    wait_for(f"{url}/-/ready", processes[-1], folder / "prometheus.log")
    config = folder / "forecaster.yaml"
    capacity = "'min by (namespace, app) (service_capacity_requests_per_second{app!=\"checkout\"})'"
    config.write_text(CONFIG.format(prometheus=url, store=folder / "forecaster.db", capacity=capacity))
    wait_until(lambda: bool(query(url, "service_capacity_requests_per_second")), "the first scrape")

    forecaster = str(Path(sys.executable).with_name("forecaster"))
    say(f"forecaster check --config {config}")
    checked = subprocess.run([forecaster, "check", "--config", str(config)], check=False)
    if checked.returncode == 2:
        return 2
    command = [forecaster, "serve", "--config", str(config), "--port", str(port)]
    say(" ".join(["forecaster", *command[1:]]))
    processes.append(start_process(command, folder / "forecaster.log"))
    base = f"http://127.0.0.1:{port}"
    wait_for(f"{base}/readyz", processes[-1], folder / "forecaster.log")
    for item in json.loads(fetch(f"{base}/api/v1/recommendations"))["items"]:
        words = BOUND.get(item["boundBy"], item["boundBy"])
        name = f"{item['namespace']}/{item['hpa']}"
        say(f"{name}: floor {item['floor']} ({words}), desired {item['desiredReplicas']} replicas")
    say("waiting until Prometheus has scraped the recommendations …")
    wait_until(lambda: bool(query(url, "forecaster_recommended_replicas")), "the scrape of our own metrics")
    print(
        f"""
Running. Look at
  {base}/                              the page: workloads, forecasts, decisions
  {base}/api/v1/recommendations        how many replicas each HPA needs, and why
  {base}/api/v1/workloads/checkout/forecast?horizon=24h
  {base}/metrics                       the same for Prometheus
  {url}/graph?g0.expr=forecaster_recommended_replicas&g0.tab=0
Logs and data: {folder}. Stop with Ctrl-C.""",
        flush=True,
    )
    if arguments.once:
        return 0
    return processes[-1].wait()


def serve_exporter(loads: list[Load]) -> int:
    """Serves the generated series on a loopback port, as the exporters of a cluster would. Returns the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            capacity = "".join(
                f'service_capacity_requests_per_second{{namespace="{s.namespace}",app="{s.app}"}} {s.capacity:g}\n'
                for s in SERVICES
            )
            body = (exposition(loads, time.time()) + capacity).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return int(server.server_address[1])


def start_process(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file)


def free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port on 127.0.0.1")


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    def ready() -> bool:
        if process.poll() is not None:
            raise SystemExit(f"{process.args[0]} ended; its log says:\n{log.read_text()[-2000:]}")  # type: ignore[index]
        try:
            fetch(url)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
        return True

    wait_until(ready, url)


def wait_until(condition: object, what: str, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise SystemExit(f"gave up waiting for {what}")
        time.sleep(0.2)


def query(url: str, expression: str) -> list[object]:
    quoted = urllib.request.quote(expression)  # type: ignore[attr-defined]
    answer = json.loads(fetch(f"{url}/api/v1/query?query={quoted}"))
    return list(answer["data"]["result"])


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return str(response.read().decode())


def say(text: str) -> None:
    print(f"▸ {text}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
