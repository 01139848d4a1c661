"""Journeys through the pages in a real Chromium: nothing from elsewhere, no error in the console, usable by all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from serving import api, auth
from serving.render import render
from tests.serving.page import browser, scenes
from tests.serving.publications import NOW

pytestmark = pytest.mark.browser

WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
OPERATOR, VIEWER = "operator-token-0123456789", "viewer-token-0123456789"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    reason = browser.missing()
    assert reason is None, reason
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=browser.program(), args=browser.ARGUMENTS)
        yield found
        found.close()


@dataclass
class Visit:
    """A page, and what went wrong in it."""

    page: Page
    url: str
    wrong: list[str] = field(default_factory=list)

    def go(self, path: str) -> Page:
        self.page.goto(self.url + path)
        return self.page

    def said(self, kind: str, words: str) -> None:
        """Notes errors and warnings of the console."""
        if kind in ("error", "warning"):
            self.wrong.append(f"console: {kind} {words}")

    def failed(self, address: str, why: str | None) -> None:
        """Notes requests that failed; one that the browser gave up because it moved on has not."""
        if why != "net::ERR_ABORTED":
            self.wrong.append(f"failed: {address} {why}")

    def drawn(self, count: int) -> None:
        """Waits until so many charts are."""
        expect(self.page.locator("[data-chart][data-ready] canvas")).to_have_count(count)


Visiting = Callable[..., Any]


@pytest.fixture
def visiting(chromium: Browser) -> Visiting:
    """A browser's window on a service; at the end nothing may have gone wrong."""

    @contextmanager
    def visit(edges: api.Edges, **options: Any) -> Iterator[Visit]:
        options = {"viewport": WIDE, "timezone_id": "Europe/Berlin", "locale": "en-GB", **options}
        with scenes.served(edges) as url:
            context = chromium.new_context(**options)
            page = context.new_page()
            page.set_default_timeout(10_000)
            found = Visit(page, url)
            page.on("console", lambda said: found.said(said.type, said.text))
            page.on("pageerror", lambda error: found.wrong.append(f"error: {error}"))
            page.on("requestfailed", lambda asked: found.failed(asked.url, asked.failure))
            page.on("request", lambda asked: _own(asked.url, url, found.wrong))
            try:
                yield found
                assert found.wrong == []
            finally:
                context.close()

    return visit


def _own(asked: str, url: str, wrong: list[str]) -> None:
    if not asked.startswith(url + "/"):
        wrong.append(f"asked elsewhere: {asked}")


def serious(page: Page) -> list[str]:
    """Findings of axe that are serious or critical."""
    page.evaluate(browser.AXE.read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]


# --- journeys --------------------------------------------------------------------------------------------------------


def test_a_chart_is_never_handed_to_another_element(visiting: Visiting) -> None:
    with visiting(scenes.shop()) as visit:
        page = visit.go("/workloads/checkout")
        visit.drawn(2)
        found = page.evaluate(
            """async () => {
              const script = document.querySelector('script[type=module]').src;
              const { morph } = await import(new URL("live.js", script));
              const make = (keeps) => {
                const root = document.createElement("div");
                root.innerHTML = keeps.map((one) => `<i data-keep="${one}"></i>`).join("");
                return root;
              };
              const root = make(["load", "replicas"]);
              const [load, replicas] = root.children;
              morph(root, make(["load", "replicas"]));
              const same = root.children[0] === load && root.children[1] === replicas;
              morph(root, make(["note", "load", "replicas"]));  // something new stands before them
              return [same, [...root.children].map((one) => one.dataset.keep), root.children[1] === replicas];
            }"""
        )
        assert found == [True, ["note", "load", "replicas"], False]


def test_from_the_list_to_an_incident_that_was_real(visiting: Visiting) -> None:
    edges = scenes.shop()
    with visiting(edges) as visit:
        page = visit.go("/")
        expect(page.locator("tbody tr")).to_have_count(4)
        expect(page.locator('tr[data-key="checkout"] .spark svg path')).to_have_count(1)
        page.get_by_label("Filter").fill("check")
        expect(page.locator("tbody tr:visible")).to_have_count(1)
        expect(page.locator("#shown")).to_have_text("1 of 4 shown")
        page.get_by_role("link", name="checkout", exact=True).click()
        visit.drawn(2)
        page.locator('[data-incident="i-open"]').get_by_role("button", name="Real").click()
        expect(page.locator("#said")).to_have_text("Saved: real.")
        assert edges.store.incidents["i-open"].feedback == "real"
        pressed = page.locator('[data-incident="i-open"] [aria-pressed="true"]')
        expect(pressed).to_have_text("Real")


def test_an_incident_is_judged_on_the_page_of_all_incidents(visiting: Visiting) -> None:
    edges = scenes.shop()
    with visiting(edges) as visit:
        page = visit.go("/incidents?id=i-open")
        one = page.locator('[data-incident="i-open"]')
        expect(one.get_by_role("table")).to_contain_text("cpu")  # its evidence shows without a click
        one.get_by_role("button", name="False alarm").click()
        expect(page.locator("#said")).to_have_text("Saved: false alarm.")
        assert edges.store.incidents["i-open"].feedback == "false_alarm"
        expect(one.locator('[aria-pressed="true"]')).to_have_text("False alarm")
        assert serious(page) == []
        one.get_by_role("link", name="checkout").click()
        visit.drawn(2)


def test_the_list_is_sorted_by_the_heads_and_by_the_keyboard(visiting: Visiting) -> None:
    with visiting(scenes.shop()) as visit:
        page = visit.go("/workloads")
        load = page.get_by_role("button", name="Load", exact=True)
        load.focus()
        page.keyboard.press("Enter")
        expect(page.locator("th[aria-sort=descending]")).to_have_text("Load")
        keys = page.locator("tbody tr").evaluate_all("rows => rows.map(row => row.dataset.key)")
        assert keys == [scenes.HOSTILE, "ns/app", "checkout", "unknown"]  # what is not known comes last
        page.keyboard.press("Enter")
        keys = page.locator("tbody tr").evaluate_all("rows => rows.map(row => row.dataset.key)")
        assert keys == ["checkout", "ns/app", scenes.HOSTILE, "unknown"]


def test_a_new_cycle_appears_without_reloading_and_leaves_the_reader_alone(visiting: Visiting) -> None:
    edges = scenes.shop(demo=scenes.demo)  # polls each two seconds
    with visiting(edges) as visit:
        page = visit.go("/workloads")
        expect(page.locator("tbody tr")).to_have_count(4)
        page.get_by_label("Filter").fill("app")
        page.evaluate("window.same = document.querySelector('tr[data-key=\"ns/app\"]')")
        edges.board.publish(render(scenes.made(("checkout", "ns/app", "z-app"), NOW + timedelta(seconds=15)), 0.0))
        expect(page.locator("tbody tr")).to_have_count(3)
        expect(page.locator("tbody tr:visible")).to_have_count(2)
        expect(page.get_by_label("Filter")).to_be_focused()
        assert page.evaluate("window.same === document.querySelector('tr[data-key=\"ns/app\"]')")


def test_open_data_stays_open_and_charts_move_on(visiting: Visiting) -> None:
    edges = scenes.shop(demo=scenes.demo)
    with visiting(edges) as visit:
        page = visit.go("/workloads/checkout")
        visit.drawn(2)
        page.get_by_text("Data of this chart").first.click()
        edges.board.publish(render(scenes.made(("checkout",), NOW + timedelta(minutes=5)), 0.0))
        chart = page.locator('[data-chart="load"]')
        expect(chart).to_have_attribute("data-now", f"{NOW.timestamp() + 300:.0f}")
        assert page.locator("details").first.get_attribute("open") is not None
        visit.drawn(2)


def test_a_service_that_does_not_answer_is_said_to(visiting: Visiting) -> None:
    with visiting(scenes.shop(demo=scenes.demo)) as visit:
        page = visit.go("/workloads")
        page.route("**/parts/**", lambda route: route.abort())
        expect(page.get_by_text("The service does not answer")).to_be_visible()
        expect(page.locator("tbody tr")).to_have_count(4)
        page.unroute("**/parts/**")
        expect(page.get_by_text("The service does not answer")).to_be_hidden()
        assert any("ERR_FAILED" in said for said in visit.wrong)
        visit.wrong.clear()


def test_times_are_shown_in_the_browsers_zone_with_utc_in_the_title(visiting: Visiting) -> None:
    with visiting(scenes.shop()) as visit:
        time = visit.go("/workloads/checkout").locator(".summary time")
        expect(time).to_contain_text("13:00:00")  # noon UTC in a Berlin winter
        expect(time).to_have_attribute("title", "2026-03-02 12:00:00 UTC")


def test_an_empty_service_leads_on(visiting: Visiting) -> None:
    with visiting(scenes.edges(None)) as visit:
        page = visit.go("/")
        expect(page.get_by_role("heading", name="No workload is watched yet")).to_be_visible()
        expect(page.locator("pre")).to_contain_text("workloads:")
        assert serious(page) == []


def test_waiting_for_the_first_cycle_ends_by_itself(visiting: Visiting) -> None:
    edges = scenes.edges(None, watched=lambda: 1)
    with visiting(edges) as visit:
        page = visit.go("/")
        expect(page.get_by_role("heading", name="The first cycle is running")).to_be_visible()
        edges.board.publish(render(scenes.made(("checkout",)), 0.0))
        expect(page.get_by_role("link", name="checkout", exact=True)).to_be_visible()


def test_without_javascript_everything_is_there_as_text(visiting: Visiting) -> None:
    with visiting(scenes.shop(), java_script_enabled=False) as visit:
        page = visit.go("/")
        page.locator("#q").fill("checkout")
        page.get_by_role("button", name="Filter").click()
        expect(page.locator("tbody tr")).to_have_count(1)
        page.get_by_role("link", name="checkout", exact=True).click()
        expect(page.get_by_text("Load over the last 6 h").first).to_be_visible()
        page.get_by_text("Data of this chart").first.click()
        expect(page.get_by_role("table", name="Load, measured and forecast")).to_be_visible()
        expect(page.get_by_text("POST /api/v1/anomalies/ID/feedback")).to_be_visible()
        visit.wrong = [said for said in visit.wrong if not said.endswith("live.js csp")]  # preloaded, but not run


def test_who_is_not_signed_in_is_led_to_the_page_they_wanted(visiting: Visiting, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"ada: operator: {OPERATOR}\ngrafana: viewer: {VIEWER}\n")
    edges = scenes.shop(tokens=auth.Tokens(file), allowed_hosts=None)
    with visiting(edges) as visit:
        page = visit.go("/workloads/checkout")
        expect(page.get_by_text("You are not signed in")).to_be_visible()
        assert serious(page) == []
        page.get_by_label("Token").fill(OPERATOR)
        page.get_by_role("button", name="Log in").click()
        visit.drawn(2)
        page.locator('[data-incident="i-closed"]').get_by_role("button", name="False alarm").click()
        expect(page.locator("#said")).to_have_text("Saved: false alarm.")
        assert edges.store.incidents["i-closed"].feedback == "false_alarm"
        page.get_by_role("button", name="Log out").click()
        page.get_by_label("Token").fill(VIEWER)
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("link", name="checkout", exact=True).click()
        expect(page.get_by_text("An operator can say here")).to_be_visible()
        expect(page.get_by_role("button", name="Real")).to_have_count(0)


def test_the_demo_draws_both_futures(visiting: Visiting) -> None:
    with visiting(scenes.edges(None, demo=scenes.demo)) as visit:
        page = visit.go("/")
        visit.drawn(8)
        assert page.url.endswith("/demo")
        expect(page.get_by_role("heading", name="recommender")).to_contain_text("Prediction pays here")
        assert serious(page) == []


# --- for everybody ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_pages_pass_axe_and_fit_in_both_schemes(visiting: Visiting, scheme: str, viewport: dict[str, int]) -> None:
    with visiting(scenes.shop(), color_scheme=scheme, viewport=viewport) as visit:
        for path, charts in (("/workloads", 0), ("/workloads/checkout", 2)):
            page = visit.go(path)
            visit.drawn(charts)
            assert serious(page) == [], path
            assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"], path


def test_the_pages_of_text_pass_axe(visiting: Visiting) -> None:
    with visiting(scenes.shop()) as visit:
        for path in ("/reasons", "/docs", "/workloads/unknown"):
            assert serious(visit.go(path)) == [], path


def test_the_scheme_can_change_while_the_page_is_open(visiting: Visiting) -> None:
    with visiting(scenes.shop(), color_scheme="light") as visit:
        page = visit.go("/workloads/checkout")
        visit.drawn(2)
        light = page.evaluate("document.querySelector('canvas').toDataURL()")
        page.emulate_media(color_scheme="dark")
        page.wait_for_function("light => document.querySelector('canvas').toDataURL() !== light", arg=light)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(14, 18, 23)"


def test_a_thousand_workloads_are_listed_filtered_and_drawn_where_they_are_seen(visiting: Visiting) -> None:
    names = [f"team-{i % 40:02}/app-{i:04}" for i in range(1_000)]
    with visiting(scenes.edges(scenes.made(names))) as visit:
        page = visit.go("/workloads")
        expect(page.locator("tbody tr")).to_have_count(1_000)
        expect(page.locator(".spark svg").first).to_be_visible()
        assert page.locator(".spark svg").count() < 100
        page.get_by_label("Filter").fill("app-0999")
        expect(page.locator("tbody tr:visible")).to_have_count(1)
