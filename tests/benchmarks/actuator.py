"""What the actuator costs: memory, requests to the API server, seconds from a recommendation to its patch.

Runs `forecaster actuate --apply` as a process of its own against a fake API server and a fake service. Prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.apiserver import CONFIG_MAP, FakeApiServer, right
from tests.serving.actuator.harness import NAME, OWN, FakeService, item

FLOOR = 8


def resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the process is gone")


def kubeconfig(folder: Path, server: FakeApiServer) -> Path:
    path = folder / "kubeconfig"
    told = {
        "current-context": "main",
        "contexts": [{"name": "main", "context": {"cluster": "c", "user": "u", "namespace": OWN}}],
        "clusters": [{"name": "c", "cluster": {"server": server.url}}],
        "users": [{"name": "u", "user": {"token": server.token("actuator")}}],
    }
    path.write_text(json.dumps(told))
    return path


def asked(server: FakeApiServer, since: int) -> dict[str, int]:
    """Requests of the actuator from number `since` on, by what they are for."""
    kinds: dict[str, int] = {"lease": 0, "list, watch": 0, "HPAs": 0, "other": 0}
    for one in server.requests[since:]:
        if "/leases" in one.path:
            kinds["lease"] += 1
        elif one.verb in ("list", "watch"):
            kinds["list, watch"] += 1
        elif "/horizontalpodautoscalers" in one.path:
            kinds["HPAs"] += 1
        else:
            kinds["other"] += 1
    return kinds


def measure(count: int, changes: int, steady: float, python: str) -> None:
    with FakeApiServer() as server, tempfile.TemporaryDirectory() as folder:
        service = FakeService()
        server.rights["actuator"].append(right(("", "configmaps"), "get patch", OWN))
        server.create(CONFIG_MAP, OWN, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}})
        names = [f"app-{number:04}" for number in range(count)]
        for name in names:
            server.create_hpa("shop", name, min_replicas=3, max_replicas=50, manager="helm")
        items = {name: item(server, FLOOR, name, reasons=reasons()) for name in names}
        command = [python, "-m", "serving.cli", "actuate", "--apply", "--url", service.url, "--metrics-port"]
        command += ["-1", "--kubeconfig", str(kubeconfig(Path(folder), server)), "--max-added", "100000"]
        log = Path(folder) / "log"
        with log.open("w") as told:
            process = subprocess.Popen(command, stderr=told, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        try:
            run(server, service, items, process.pid, changes, steady)
        except BaseException:
            print(log.read_text()[-2000:], file=sys.stderr)
            raise
        finally:
            process.terminate()
            process.wait(30)
            service.close()


def reasons() -> list[dict[str, str]]:
    return [{"code": "calibrating", "detail": "the band is still being calibrated"}]


def run(
    server: FakeApiServer, service: FakeService, items: dict[str, Any], pid: int, changes: int, steady: float
) -> None:
    names = list(items)
    began = time.monotonic()
    service.recommend(*items.values())
    assert server.wait_for(lambda: held(server, names, FLOOR), 60 + len(names)), "not all were taken"
    taken = time.monotonic() - began
    rng = random.Random(7)
    delays = []
    for number in range(changes):
        name = rng.choice(names)
        floor = FLOOR + 1 + number % 30
        if items[name]["floor"] == floor:
            floor += 1
        items[name] = {**items[name], "floor": floor}
        time.sleep(0.2)  # below the limit on writes: single changes, no queue
        start = time.monotonic()
        service.recommend(*items.values())
        assert server.wait_for(lambda name=name, floor=floor: floor_of(server, name) == floor, 20)  # type: ignore[misc]
        delays.append(time.monotonic() - start)
    time.sleep(2.0)  # the last Events
    since, start = len(server.requests), time.monotonic()
    ending = threading.Event()
    while not ending.wait(15.0):  # as a service does each interval: the same decisions, made anew
        service.again()
        if time.monotonic() - start >= steady:
            break
    hours = (time.monotonic() - start) / 3600
    kinds = asked(server, since)
    cuts = statistics.quantiles(delays, n=100, method="inclusive")
    print(f"{len(names)} HPAs")
    print(f"  resident memory            {resident_mib(pid):8.1f} MiB")
    print(f"  all taken over in          {taken:8.1f} s")
    print(f"  change to patch, p50, p99  {1000 * cuts[49]:8.0f} ms {1000 * cuts[98]:8.0f} ms of {changes}")
    print(
        f"  steady, {60 * hours:.1f} min: requests about HPAs {kinds['HPAs'] / hours / len(names):.2f} per hour and HPA"
    )
    print(f"    and per hour in all: {', '.join(f'{kind} {count / hours:.0f}' for kind, count in kinds.items())}")


def floor_of(server: FakeApiServer, name: str) -> int:
    return int(server.get("shop", name)["spec"]["minReplicas"])


def held(server: FakeApiServer, names: list[str], floor: int) -> bool:
    return all(floor_of(server, name) == floor for name in reversed(names))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--hpas", default="1,1000")
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--steady", type=float, default=360.0, help="seconds without a change")
    parser.add_argument("--python", default=sys.executable, help="of an environment with the base install, say")
    chosen = parser.parse_args()
    for count in chosen.hpas.split(","):
        measure(int(count), chosen.changes, chosen.steady, chosen.python)
