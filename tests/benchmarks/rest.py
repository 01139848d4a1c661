"""REST under load, restart, and `/metrics`, of the real service process. Needs wrk and a real Prometheus on the PATH.

    python tests/benchmarks/rest.py [--workloads 1000] [--seconds 10]

A real Prometheus with one day of history for one template of N workloads; `forecaster serve` on it as a process. wrk
asks at a steady 200 and 2,000 requests a second: each of its connections waits 50 ms between two requests.
"""

from __future__ import annotations

import argparse
import http.client
import math
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.integration.prometheus_server import PrometheusServer

LUA = "function delay() return 50 end\n"
PATHS = ("/api/v1/recommendations", "/api/v1/workloads?limit=100", "/healthz")
AHEAD = 3_600  # seconds of samples that lie in the future, so that the newest is never old


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def start(config: Path, port: int) -> tuple[subprocess.Popen[bytes], float]:
    """The service, and seconds until it serves its first valid recommendations."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.cli", "serve", "--config", str(config), "--port", str(port)],
        stderr=config.with_suffix(".log").open("wb"),
    )
    while True:
        try:
            status, body = get(port, "/api/v1/recommendations")
            if status == 200 and b'"floor":' in body:
                return process, time.perf_counter() - began
        except OSError:
            pass
        if process.poll() is not None:
            raise SystemExit(f"the service ended: {config.with_suffix('.log').read_text()}")
        time.sleep(0.02)


def wrk(port: int, path: str, connections: int, seconds: int, script: Path) -> str:
    url = f"http://127.0.0.1:{port}{path}"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script), url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name: re.search(rf"{name}\s+([\d.]+\w+)", said) for name in ("50%", "99%")}
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    bad = re.search(r"Non-2xx.*", said)
    shares = "  ".join(f"p{name[:2]} {match[1] if match else '?':>9}" for name, match in found.items())
    return f"{float(rate[1]) if rate else math.nan:8.0f} requests/s  {shares}  {bad[0] if bad else ''}"


def rss(pid: int) -> float:
    """MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", type=int, default=1_000)
    parser.add_argument("--seconds", type=int, default=10)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: install it (Debian: apt-get install wrk)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script, config = folder / "steady.lua", folder / "forecaster.yaml"
        script.write_text(LUA)
        server = PrometheusServer(folder / "prometheus")
        now = int(time.time()) // 60 * 60
        times = range(now - 86_400, now + AHEAD, 60)
        curve = [100 * (1 + 0.5 * math.sin(2 * math.pi * t / 86_400)) for t in times]
        server.backfill(("load", {"app": f"a{i:05}"}, zip(times, curve, strict=True)) for i in range(options.workloads))
        with server:
            config.write_text(
                f"prometheus: {{url: {server.url}}}\nhistory: 1d\nstore: sqlite:///{folder}/f.db\nworkloads:\n"
                f"  - {{forEach: [app], load: load, maxSeries: 10000, scale: {{hpa: 'shop/{{app}}', "
                "capacityPerReplica: 20, leadTime: 60s, bounds: {minReplicas: 2, maxReplicas: 40}}}\n"
            )
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
            process, cold = start(config, port)
            print(f"{options.workloads} workloads; cold start to the first recommendations {cold:.1f} s")
            while get(port, "/metrics")[1].count(b"forecaster_cycles_total 3") == 0:
                time.sleep(1)
            for path in PATHS:
                for connections in (10, 100):
                    said = wrk(port, path, connections, options.seconds, script)
                    print(f"{path:32} {connections:>4} connections {said}", flush=True)
            began = time.perf_counter()
            body = get(port, "/metrics")[1]
            took = 1_000 * (time.perf_counter() - began)
            lines = body.count(b"\n")
            print(f"/metrics: {len(body) / 1e6:.2f} MB, {lines} lines, {took:.0f} ms")
            print(f"resident memory {rss(process.pid):.0f} MiB")
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=20)
            process, warm = start(config, port)
            print(f"restart to the first valid recommendations {warm:.1f} s")
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=20)
    return 0


if __name__ == "__main__":
    sys.exit(main())
