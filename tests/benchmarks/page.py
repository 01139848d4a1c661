"""What the pages cost with 1,000 workloads: kB on the wire, time to the first chart in Chromium. Prints a table."""

from __future__ import annotations

import statistics
import sys

from playwright.sync_api import Browser, sync_playwright

from tests.serving.page import browser, scenes
from tests.serving.publications import NOW

WORKLOADS = 1_000
RUNS = 7
# Milliseconds from the beginning of the navigation until the first chart is in the page, and its frame has been made.
FIRST_CHART = """() => new Promise((done) => {
  const look = () => document.querySelector('.spark path, [data-ready] canvas')
    ? requestAnimationFrame(() => done(performance.now())) : requestAnimationFrame(look);
  look();
})"""


def visit(chromium: Browser, url: str, path: str) -> tuple[float, dict[str, int]]:
    """(milliseconds, address -> bytes on the wire) of one first visit."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    sizes: dict[str, int] = {}
    page.on("requestfinished", lambda asked: sizes.update({asked.url[len(url) :]: asked.sizes()["responseBodySize"]}))
    page.goto(url + path, wait_until="commit")
    took = float(page.evaluate(FIRST_CHART))
    page.wait_for_load_state("networkidle")
    context.close()
    return took, sizes


def main() -> None:
    if (reason := browser.missing()) is not None:
        sys.exit(reason)
    names = [f"team-{i % 40:02}/app-{i:04}" for i in range(WORKLOADS)]
    edges = scenes.edges(scenes.made(names))
    edges.store.add_decisions(scenes.decisions(names[0], NOW))
    with scenes.served(edges) as url, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser.program(), args=browser.ARGUMENTS)
        for title, path in (("list", "/workloads"), ("workload", f"/workloads/{names[0]}")):
            runs = [visit(chromium, url, path) for _ in range(RUNS)]
            times, sizes = sorted(took for took, _ in runs), runs[-1][1]
            print(f"{title}: {sum(sizes.values()) / 1e3:.1f} kB in {len(sizes)} requests")
            print(f"  first chart after {statistics.median(times):.0f} ms ({times[0]:.0f} to {times[-1]:.0f})")
            for address, size in sorted(sizes.items(), key=lambda one: -one[1]):
                print(f"  {size / 1e3:8.1f} kB  {address}")
        chromium.close()


if __name__ == "__main__":
    main()
