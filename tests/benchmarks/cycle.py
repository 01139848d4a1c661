"""What a cycle costs, by station, against a real Prometheus filled with history. Prints one table per number of series.

One template with scale (forEach, capacity given, one HPA each) is read, forecast, decided, rendered and saved. Time is
replayed: the last part of the back-filled history is lived through again, 15 s a cycle. Each size has its own process.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from forecaster.config_tree import PrometheusConfig
from forecaster.cycle import Cycle
from forecaster.domain import Bounds, Samples, ScaleSpec, WorkloadSpec
from forecaster.prometheus import PrometheusSource
from models import chain
from serving.loop import DECISION_COMPONENT, DecisionLog
from serving.render import render
from serving.server import stay_responsive
from serving.store import Store
from tests.integration.prometheus_server import PrometheusServer, missing

LOAD = "sum by (namespace, app) (load)"
STEP, INTERVAL = timedelta(minutes=1), timedelta(seconds=15)
REPLAYED = 5_400  # seconds: cold start, warm-up and what is measured
WARM_UP, MEASURED = 3, 5  # steps of four cycles
STATIONS = ("read", "calibrate", "anomaly", "forecast", "decide", "render", "save")


def history(count: int, start: int, until: int) -> Iterator[tuple[str, Mapping[str, str], list[tuple[int, float]]]]:
    """A day's curve with noise a minute for each load; what kube-state-metrics says of their HPAs, lately."""
    names = [{"namespace": f"team-{i % 50:02}", "app": f"app-{i:05}"} for i in range(count)]
    times = np.arange(start, until + 1, 60)
    day = 1 + 0.5 * np.sin(2 * np.pi * times / 86_400)
    random = np.random.default_rng(0)
    stamps = times.tolist()
    for i, labels in enumerate(names):
        values = (20 + i % 300) * (day + 0.05 * random.standard_normal(len(times)))
        yield "load", labels, list(zip(stamps, np.round(np.maximum(values, 0), 2).tolist(), strict=True))
    lately, hpa = range(until - REPLAYED - 300, until + 1, 60), "kube_horizontalpodautoscaler_"
    facts = {"spec_min_replicas": 2.0, "spec_max_replicas": 50.0, "status_current_replicas": 5.0, "info": 1.0}
    for metric, value in facts.items():
        for labels in names:
            said = {"namespace": labels["namespace"], "horizontalpodautoscaler": labels["app"]}
            if metric == "info":
                said |= {"scaletargetref_kind": "Deployment", "scaletargetref_name": labels["app"]}
            yield f"{hpa}{metric}", said, [(t, value) for t in lately]
    for labels in names:
        said = {"namespace": labels["namespace"], "deployment": labels["app"]}
        yield "kube_deployment_status_replicas_ready", said, [(t, 5.0) for t in lately]


@dataclass
class Recording:
    """A source that notes what is asked, and hides that the answers are of another day than the questions."""

    inner: PrometheusSource
    asked: list[str] = field(default_factory=list)  # paths of URLs

    @property
    def slowed(self) -> bool:
        return False  # what is optional is part of what is measured

    def instant(self, query: str, at: datetime) -> Samples:
        self._note("query", query=query, time=at.timestamp())
        return replace(self.inner.instant(query, at), server_time=None)

    def range(self, query: str, start: datetime, end: datetime, step: timedelta) -> Samples:
        times = {"start": start.timestamp(), "end": end.timestamp(), "step": step.total_seconds()}
        self._note("query_range", query=query, **times)
        return replace(self.inner.range(query, start, end, step), server_time=None)

    def _note(self, path: str, **params: object) -> None:
        self.asked.append(f"/api/v1/{path}?{urllib.parse.urlencode(params)}")


def timer() -> Any:
    """Wall and CPU seconds in one number: the cycle only adds and subtracts what its timer gives."""
    return complex(time.perf_counter(), time.process_time())


def resident(what: str) -> float:
    """VmRSS or VmHWM of this process in MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1_000


def server_cpu(pid: int) -> float:
    """As PrometheusServer.cpu_seconds, for a server that another process has started."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def raw_seconds(url: str, paths: list[str]) -> float:
    """How long Prometheus takes for the same questions, nothing decoded."""
    began = time.perf_counter()
    for path in paths:
        with urllib.request.urlopen(url + path, timeout=60) as answer:
            while answer.read(1 << 20):
                pass
    return time.perf_counter() - began


class Bench:
    """A cycle with all that the loop does around it."""

    def __init__(self, count: int, days: float, url: str, store: Store) -> None:
        scale = ScaleSpec("{namespace}", "{app}", capacity_per_replica=25.0, bounds=Bounds(max_replicas=50))
        spec = WorkloadSpec("{namespace}/{app}", LOAD, ("namespace", "app"), max_series=count, scale=scale)
        self.source = Recording(PrometheusSource(PrometheusConfig(url=url)))
        span = timedelta(days=max(days, 2.0))
        self.cycle = Cycle(
            [spec],
            step=STEP,
            interval=INTERVAL,
            span=span,
            source=self.source,
            forecasters=chain.shipped(),
            timer=timer,
        )
        self.store, self.log = store, DecisionLog({})

    def tick(self, now: datetime) -> dict[str, complex]:
        """Stations of one cycle at `now`."""
        publication = self.cycle.run(now)
        spent: dict[str, Any] = dict(publication.stations)
        began = timer()
        render(publication, 0.0)
        spent["render"] = timer() - began
        began = timer()
        self.store.put_incidents(publication.incidents)
        self.store.add_decisions(self.log.due(self.cycle.decision_records(), now))
        everything = now.second < INTERVAL.total_seconds()  # the rest of the state, once a minute
        for component, rows in self.cycle.dump().items():
            if everything or component.startswith(DECISION_COMPONENT):
                self.store.save_state(component, self.cycle.STATE_VERSIONS[component], rows, now)
        self.store.flush()
        spent["save"] = timer() - began
        return spent


def measure(count: int, days: float, url: str, until: int, pid: int) -> dict[str, Any]:
    stay_responsive()  # as `serve` does
    now = datetime.fromtimestamp(until - REPLAYED, UTC)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(count, days, url, Store(str(Path(folder) / "forecaster.db")))
        cold = [bench.tick(now)]
        while bench.cycle.history.backlog:
            now += INTERVAL
            cold.append(bench.tick(now))
        # The first back-test of each row's skill, 256 rows a step, is not the steady state.
        bench.cycle._foresight._tried.update(bench.cycle._foresight.keys)
        found: dict[str, list[dict[str, complex]]] = defaultdict(list)
        asked: dict[str, list[list[str]]] = defaultdict(list)
        cpu: dict[str, list[float]] = defaultdict(list)
        now += STEP - timedelta(seconds=now.timestamp() % 60)
        for n in range(4 * (WARM_UP + MEASURED)):
            kind = "step" if n % 4 == 0 else "interval"
            bench.source.asked.clear()
            before = server_cpu(pid)
            spent = bench.tick(now)
            if n >= 4 * WARM_UP:
                found[kind].append(spent)
                asked[kind].append(list(bench.source.asked))
                cpu[kind].append(server_cpu(pid) - before)
            now += INTERVAL
        assert bench.cycle.history.backlog == 0
        result: dict[str, Any] = {
            "series": count,
            "days": days,
            "rssMB": resident("VmRSS"),
            "peakRssMB": resident("VmHWM"),
            "coldStartSeconds": sum(one["read"].real for one in cold),
            "coldStartCycles": len(cold),
            "longestColdCycleSeconds": max(sum(one.values()).real for one in cold),
            "kinds": {},
        }
        for kind, ticks in found.items():
            result["kinds"][kind] = {
                "cycles": len(ticks),
                "queries": statistics.median(len(one) for one in asked[kind]),
                "prometheusSeconds": statistics.median(raw_seconds(url, one) for one in asked[kind]),
                "prometheusCpuSeconds": statistics.mean(cpu[kind]),
                "wall": medians(ticks, lambda spent: spent.real),
                "cpu": medians(ticks, lambda spent: spent.imag),
            }
        bench.store.close()
    return result


def medians(ticks: list[dict[str, complex]], part: Callable[[complex], float]) -> dict[str, float]:
    found = {name: statistics.median(part(complex(one[name])) for one in ticks) for name in STATIONS}
    return {**found, "total": statistics.median(sum(part(complex(spent)) for spent in one.values()) for one in ticks)}


def table(result: Mapping[str, Any]) -> str:
    kinds = result["kinds"]
    lines = [f"{result['series']} series, {result['days']:g} days", f"  {'ms':24}{'interval':>18}{'step':>18}"]
    lines.append(f"  {'':24}{'wall':>9}{'CPU':>9}{'wall':>9}{'CPU':>9}")
    for name in (*STATIONS, "total"):
        cells = "".join(f"{1_000 * kinds[k][p][name]:9.1f}" for k in ("interval", "step") for p in ("wall", "cpu"))
        lines.append(f"  {name:24}{cells}")
    for text, name, factor in (
        ("Prometheus alone, ms", "prometheusSeconds", 1_000),
        ("Prometheus CPU, ms", "prometheusCpuSeconds", 1_000),
        ("queries", "queries", 1),
    ):
        cells = "".join(f"{factor * kinds[kind][name]:18.1f}" for kind in ("interval", "step"))
        lines.append(f"  {text:24}{cells}")
    lines.append(f"  resident {result['rssMB']:.0f} MB, at most {result['peakRssMB']:.0f} MB")
    text = f"  cold start: {result['coldStartSeconds']:.1f} s of reading in {result['coldStartCycles']} cycles"
    return "\n".join([*lines, f"{text}, the longest cycle {result['longestColdCycleSeconds']:.1f} s"])


def run(count: int, days: float) -> dict[str, Any]:
    until = math.floor(time.time() / 60) * 60
    with tempfile.TemporaryDirectory() as folder:
        server = PrometheusServer(Path(folder))
        server.backfill(history(count, until - int(days * 86_400), until))
        with server:
            one = [f"--one={count}", f"--days={days}", f"--url={server.url}", f"--until={until}", f"--pid={server.pid}"]
            done = subprocess.run([sys.executable, __file__, *one], check=True, stdout=subprocess.PIPE)
    return dict(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", default="100,1000,10000", help="numbers of series, with commas")
    parser.add_argument("--days", type=float, default=1.0, help="of history to back-fill")
    parser.add_argument("--json", action="store_true", help="one line of JSON a size instead of the tables")
    for name, kind in (("--one", int), ("--url", str), ("--until", int), ("--pid", int)):  # of the child process
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(measure(given.one, given.days, given.url, given.until, given.pid)))
        return
    if (reason := missing()) is not None:
        sys.exit(reason)
    for count in map(int, given.series.split(",")):
        result = run(count, given.days)
        print(json.dumps(result) if given.json else table(result), flush=True)


if __name__ == "__main__":
    main()
