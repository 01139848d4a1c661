"""What publishing costs: time to render one cycle, size of the answers, time to save. Prints one table."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np

from forecaster.domain import Calendar, Context, SeriesBatch, SeriesKey
from forecaster.grid import RollingGrid
from forecaster.publication import recent_of
from forecaster.rows import Rows
from serving import metrics_text
from serving.health import Health
from serving.loop import DecisionLog
from serving.page import listing
from serving.past import sparklines
from serving.render import Rendered, render
from serving.store import Store
from tests.serving.publications import NOW, publication


def best(work: Callable[[], object], repeats: int = 5) -> float:
    """Milliseconds of the quickest of a few runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1_000 * min(times)


def measure(workloads: int) -> None:
    names = [f"namespace-{i % 50:02}/app-{i:05}" for i in range(workloads)]
    made = publication(names)
    rendered = render(made, 0.0)
    scene = listing.Scene(workloads, Health(started_at=0.0), "all", 0.0)
    context = grids(made.keys)
    rows = Rows(tuple(names), {f"array{i}": np.zeros((workloads, 64), dtype=np.float32) for i in range(10)})
    told = {"floor": 3, "bound_by": "proactive", "reasons": []}
    records = [
        (f"{name}#0", name, 3, lambda: ({"inputs": {"peak": "0x1p+3"} | {str(i): i for i in range(60)}}, told))
        for name in names
    ]
    with tempfile.TemporaryDirectory() as folder:
        store = Store(str(Path(folder) / "forecaster.db"))

        def save_state() -> None:
            rows.arrays["array0"] += 1
            store.save_state("calibration", 1, rows, NOW)
            store.flush()

        def save_decisions() -> None:
            store.add_decisions(DecisionLog({}).due(records, NOW))
            store.flush()

        lines = rendered.metrics_at(0.0).count(b"\n")
        print(f"{workloads} workloads")
        print(f"  /metrics            {best(lambda: metrics_text.workloads_text(made)):8.1f} ms, {lines} lines")
        print(f"  all of a cycle      {best(lambda: render(replace(made), 0.0)):8.1f} ms")
        print(f"  page of 100         {best(lambda: render_page(rendered)):8.1f} ms")
        print(f"  copy for charts     {best(lambda: recent_of(context)):8.1f} ms, once a step")
        print(f"  sparklines of 1,000 {best(lambda: fresh(rendered, lambda: sparklines(rendered, '', 1_000))):8.1f} ms")
        print(f"  page's list         {best(lambda: fresh(rendered, lambda: listing.part(rendered, scene))):8.1f} ms")
        print(f"  recommendations     {len(rendered.recommendations) / 1e6:8.2f} MB")
        print(f"  state of 2.6 kB/row {best(save_state):8.1f} ms")
        print(f"  decisions, all new  {best(save_decisions):8.1f} ms")
        store.close()


def grids(keys: tuple[SeriesKey, ...]) -> Context:
    """Windows on grids as the history has them: two days of minutes, four weeks of five minutes."""

    def window(step: int, columns: int) -> SeriesBatch:
        one = RollingGrid(step, columns, 0)
        one.add_rows(len(keys))
        return SeriesBatch(keys, NOW, timedelta(seconds=step), one.view())

    return Context(window(60, 2_880), window(300, 8_064), Calendar(("UTC",) * len(keys)))


def fresh(rendered: Rendered, work: Callable[[], object]) -> None:
    """Not from what was asked for before."""
    rendered.pages.clear()
    work()


def render_page(rendered: Rendered) -> None:
    fresh(rendered, lambda: rendered.workloads_page("", 100, 0.0))


if __name__ == "__main__":
    for count in (1_000, 10_000):
        measure(count)
