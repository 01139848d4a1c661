"""The pages as HTML: what they show without a script, what they say where something is missing, and escaping."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from forecaster.anomaly.grouping import COMMON_CAUSE
from forecaster.domain import Mode
from forecaster.publication import Publication, WorkloadStatus
from forecaster.reasons import Reason, ReasonCode
from serving import api
from serving.page import assets, demo, words
from serving.render import render
from tests.serving.page import scenes
from tests.serving.publications import NOW, incident

Open = Callable[[api.Edges], TestClient]


@pytest.fixture
def opened() -> Iterator[Open]:
    with ExitStack() as stack:

        def open_(edges: api.Edges) -> TestClient:
            edges.allowed_hosts = None
            stack.callback(edges.store.close)
            return stack.enter_context(TestClient(api.build(edges)))

        yield open_


def with_workload(change: dict[str, Any], published: Publication | None = None) -> Publication:
    """A publication whose only workload is changed."""
    made = published or scenes.made(("checkout",))
    (one,) = made.workloads
    return replace(made, workloads=(replace(one, **change),))


class Outline(HTMLParser):
    """Elements that are open, to see that a page is well-formed, and all that is written as text."""

    VOID = frozenset({"meta", "link", "input", "br", "hr", "img"})

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(markup)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_the_list_shows_state_reason_and_replicas(opened: Open) -> None:
    page = Outline(opened(scenes.shop()).get("/workloads").text)
    assert "4 workloads: 2 forecasting, 1 degraded, 1 no forecast" in page.words
    assert "never a sample" in page.words and "4/5" in page.words
    links = [attributes.get("href") for tag, attributes in page.tags if tag == "a"]
    assert "/reasons#no_data" in links and "/workloads/ns/app" in links


def test_the_list_is_filtered_by_the_server_too(opened: Open) -> None:
    client = opened(scenes.shop())
    assert client.get("/workloads?q=CHECK").text.count("<tr data-key") == 1
    assert client.get("/workloads?q=no_data").text.count("<tr data-key") == 1
    none = client.get("/workloads", params={"q": "<b>nothing"}).text
    assert "&lt;b&gt;nothing" in none and "<b>nothing" not in none


def test_a_workload_shows_all_that_its_floor_rests_on(opened: Open) -> None:
    page = Outline(opened(scenes.shop()).get("/workloads/checkout").text)
    numbers = ("floor 3", "desired 4", "peak 430 at quantile 0.99", "4 of 5 ready", "2 to 20", "79 %", "3 min")
    words_ = ("proactive", "1 % is asked", "load was twice what was expected", "forecaster explain checkout")
    assert [one for one in (*numbers, *words_) if one not in page.words] == []


def test_each_chart_has_a_sentence_with_numbers_and_a_table(opened: Open) -> None:
    edges = scenes.shop(static=with_charts())
    page = Outline(opened(edges).get("/workloads/checkout").text)
    charts = [attributes for tag, attributes in page.tags if attributes.get("role") == "img"]
    assert [one["data-chart"] for one in charts] == ["load", "replicas"]
    load = charts[0]["aria-label"] or ""
    assert re.search(r"lowest 100, highest 1\d\d, last 100\. Forecast for 3 h ahead: \d+, with 80 % between", load)
    assert "The ready replicas carry 200." in load
    assert "Floor: " in (charts[1]["aria-label"] or "")
    assert page.words.count("Data of this chart") == 2
    assert all(one["data-now"] == f"{NOW.timestamp():.0f}" for one in charts)


def with_charts() -> assets.Assets:
    """Whether or not uPlot is installed here."""
    empty = assets.Asset(b"", b"", "text/javascript", '""')
    return assets.Assets({**assets.load().files, assets.UPLOT_JS: empty, assets.UPLOT_CSS: empty})


def test_without_uplot_one_line_says_so_and_the_tables_are_open(opened: Open) -> None:
    bare = assets.Assets({name: one for name, one in assets.load().files.items() if not name.startswith("vendor/")})
    text = opened(scenes.shop(static=bare, demo=scenes.demo)).get("/workloads/checkout").text
    assert text.count("The charts are missing in this installation") == 1
    assert "uPlot.iife" not in text and 'role="img"' not in text
    assert text.count("<details open>") == 2 and "lowest 100" in text


def first(opened: Open, status: Callable[[WorkloadStatus], WorkloadStatus], raised: int | None = None) -> str:
    """The page of the first workload, with another status and target."""
    base = scenes.made(("a", "b"))
    recommendations = (replace(base.recommendations[0], raised_target=raised), *base.recommendations[1:])
    workloads = (status(base.workloads[0]), *base.workloads[1:])
    made = replace(base, workloads=workloads, recommendations=recommendations)
    return opened(scenes.edges(made)).get("/workloads/a").text


def test_a_share_of_time_that_rests_on_minutes_says_so(opened: Open) -> None:
    def judged(seconds: float) -> str:
        return first(opened, lambda one: replace(one, risk_detail={"judgedSeconds": seconds}))

    assert "4 min judged so far: too early to tell" in judged(240.0)
    assert "judged so far" not in judged(2 * 86_400.0)


def test_a_raised_target_stands_beside_the_floor(opened: Open) -> None:
    def managed(one: WorkloadStatus) -> WorkloadStatus:
        assert one.workload.scale is not None
        scale = replace(one.workload.scale, raised_target_ratio=0.8)
        return replace(one, workload=replace(one.workload, scale=scale))

    assert "may aim at <strong>80 %</strong> of the CPU request" in first(opened, managed, 80)
    assert "own CPU target stands" in first(opened, managed)
    assert "CPU target" not in first(opened, lambda one: one)


def test_decisions_that_began_lately_are_said_to(opened: Open) -> None:
    edges = scenes.edges(scenes.made(("checkout",)))
    edges.store.add_decisions(scenes.decisions("checkout", NOW, hours=1))
    client = opened(edges)
    assert 'Decisions are known since <time datetime="2026-03-02T11:00:00Z"' in client.get("/workloads/checkout").text
    assert "Decisions are known since" not in client.get("/workloads/checkout?hours=1").text


def test_longer_histories_are_means_and_reach_further(opened: Open) -> None:
    client = opened(scenes.shop())
    assert "Load over the last 24 h" in client.get("/workloads/checkout?hours=24").text
    assert client.get("/workloads/checkout?hours=99").status_code == 422


# --- nothing is empty ------------------------------------------------------------------------------------------------


def test_no_workload_configured_says_how_to_add_one(opened: Open) -> None:
    for published in (None, scenes.made(())):
        text = opened(scenes.edges(published)).get("/workloads").text
        assert "No workload is watched yet" in text and "capacityPerReplica" in text


def test_before_the_first_cycle_the_page_says_what_it_waits_for(opened: Open) -> None:
    client = opened(scenes.edges(None, watched=lambda: 3))
    for path in ("/workloads", "/workloads/checkout"):
        assert "The first cycle is running" in client.get(path).text
    assert "3 configuration entries" in client.get("/workloads").text


def test_cycles_that_fail_are_told_apart_from_a_first_one(opened: Open) -> None:
    edges = scenes.edges(None, watched=lambda: 3)
    edges.health.failures = 2
    assert "No cycle has ended well yet" in opened(edges).get("/workloads").text


def test_templates_without_a_series_are_explained(opened: Open) -> None:
    assert "matched no series yet" in opened(scenes.edges(scenes.made(()), watched=lambda: 2)).get("/workloads").text


def test_a_process_without_cycles_says_so_instead_of_waiting(opened: Open) -> None:
    client = opened(scenes.edges(None, watched=lambda: 3, role="api"))
    for path in ("/workloads", "/workloads/checkout"):
        assert "This process runs no cycles" in client.get(path).text


def test_prometheus_out_of_reach_is_said_on_top_with_what_to_do(opened: Open) -> None:
    notice = Reason(ReasonCode.STALE_DATA, "Prometheus is out of reach: connection refused")
    client = opened(scenes.edges(replace(scenes.made(("checkout",)), notices=(notice,))))
    for path in ("/workloads", "/workloads/checkout"):
        page = client.get(path).text
        assert "connection refused" in page and "Look at Prometheus" in page


def test_no_forecast_says_why_and_what_to_do(opened: Open) -> None:
    text = opened(scenes.shop()).get("/workloads/unknown").text
    assert "No forecast:" in text and "Run the expression in Prometheus" in text
    assert "so there is nothing to draw" in text


def test_no_scale_says_how_to_name_an_hpa(opened: Open) -> None:
    made = scenes.made(("checkout",))
    (one,) = made.workloads
    bare = with_workload({"workload": replace(one.workload, scale=None), "facts": None, "mode": Mode.OBSERVE}, made)
    text = opened(scenes.edges(replace(bare, recommendations=()))).get("/workloads/checkout").text
    assert "No HPA is configured" in text and "scale: {hpa: namespace/name" in text
    assert "no HPA: forecast only" in opened(scenes.edges(replace(bare, recommendations=()))).get("/workloads").text


def test_observing_says_that_nothing_is_recommended(opened: Open) -> None:
    made = replace(with_workload({"mode": Mode.OBSERVE}), recommendations=())
    assert "The mode is <code>observe</code>" in opened(scenes.edges(made)).get("/workloads/checkout").text


def test_an_expired_recommendation_is_not_shown_as_one(opened: Open) -> None:
    edges = scenes.edges(scenes.made(("checkout",)))
    edges.monotonic = lambda: 10_000.0
    text = opened(edges).get("/workloads/checkout").text
    assert "There is no recommendation that still counts" in text and "<strong>floor 3</strong>" not in text


def test_no_incident_says_when_there_would_be_one(opened: Open) -> None:
    assert "falseAlarmsPerWorkloadPerWeek" in opened(scenes.edges(scenes.made(("a",)))).get("/workloads/a").text


def test_an_unknown_workload_is_a_page_with_what_was_meant(opened: Open) -> None:
    answer = opened(scenes.shop()).get("/workloads/chekout")
    assert answer.status_code == 404 and answer.headers["content-type"].startswith("text/html")
    assert '<a href="/workloads/checkout">checkout</a>' in answer.text
    assert opened(scenes.shop()).get("/parts/workloads/chekout").status_code == 404


def test_who_may_not_judge_gets_no_buttons(opened: Open) -> None:
    text = opened(scenes.shop(role="loop")).get("/workloads/checkout").text
    assert "data-feedback" not in text and "An operator can say" in text


# --- incidents -------------------------------------------------------------------------------------------------------


def test_all_incidents_stand_on_one_page_with_their_evidence(opened: Open) -> None:
    page = Outline(opened(scenes.shop()).get("/incidents").text)
    for said in ("1 open", "load is far above", "load was twice", "Evidence: 2 series, 1 nearby", "deploy (v2.3)"):
        assert said in page.words, said
    assert "forecaster explain --incident i-open" in page.words and "100 to –" in page.words
    assert {attributes.get("data-incident") for tag, attributes in page.tags if tag == "li"} >= {"i-open", "i-closed"}
    assert [attributes["data-feedback"] for tag, attributes in page.tags if "data-feedback" in attributes] == [
        *("real", "expected", "false_alarm") * 2
    ]


def test_a_link_to_an_incident_shows_it_first_with_its_evidence(opened: Open) -> None:
    client = opened(scenes.shop())
    text = client.get("/incidents?id=i-closed").text
    assert text.index("i-closed") < text.index("i-open") and text.count("<details open>") == 1
    assert text.count('data-incident="i-closed"') == 1
    assert "/parts/incidents?id=i-closed" in text
    assert "is not kept any more" in client.get("/parts/incidents?id=gone").text


def test_a_common_cause_names_its_workloads_and_they_name_it(opened: Open) -> None:
    edges = scenes.shop()
    one = incident("m", "ns/app")
    fleet = replace(incident("c"), workload="*", kind=COMMON_CAUSE, parts=(one.part(),))
    edges.store.put_incidents([fleet, replace(one, cause="c")])
    text = opened(edges).get("/incidents").text
    assert '<a href="/workloads/ns/app">ns/app</a> ↑' in text and "explain --incident c" not in text
    assert '<a href="/incidents?id=c">Part of a common cause.</a>' in text


def test_no_incident_anywhere_says_so(opened: Open) -> None:
    text = opened(scenes.edges(scenes.made(("a",)), role="loop")).get("/incidents").text
    assert "None is open. Times" in text and "falseAlarmsPerWorkloadPerWeek" in text and "An operator can say" in text


def test_the_band_that_was_expected_stands_beside_the_load(opened: Open) -> None:
    client = opened(scenes.shop())
    told = client.get("/api/v1/workloads/checkout/history?hours=6").json()
    known = [(a, x, b) for a, x, b in zip(told["expectedLow"], told["load"], told["expectedHigh"], strict=True) if a]
    assert 60 < len(known) < 121 and all(a < x < b for a, x, b in known)
    assert told["expectedLow"][0] is None  # the process has not run for six hours
    assert "what was expected before" in client.get("/workloads/checkout").text


# --- safe and small --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/workloads", "/workloads/{name}", "/parts/workloads", "/parts/workloads/{name}", "/incidents"]
)
def test_a_hostile_workload_stays_text_everywhere(opened: Open, path: str) -> None:
    reason = Reason(ReasonCode.QUERY_ERROR, f"parse error: {scenes.HOSTILE}")
    made = with_workload({"reasons": (reason,)}, scenes.made((scenes.HOSTILE,)))
    edges = scenes.edges(replace(made, notices=(reason,)))
    edges.store.put_incidents([replace(one, sentence=scenes.HOSTILE) for one in scenes.incidents(scenes.HOSTILE)])
    page = Outline(opened(edges).get(path.format(name=quote(scenes.HOSTILE))).text)
    assert scenes.HOSTILE in page.words
    assert [attributes for tag, attributes in page.tags if tag == "script" and "src" not in attributes] == []


def test_a_hostile_demo_stays_text() -> None:
    told = json.loads(scenes.demo())
    bad = scenes.HOSTILE
    told["services"][0] |= {"name": bad, "sentence": bad, "times": [bad]}
    told["events"] = [{"time": bad, "workload": bad, "kind": bad, "sentence": bad}]
    page = Outline(demo.part(told, has_charts=True))
    assert page.words.count(bad) >= 5
    assert not any(tag == "script" for tag, _ in page.tags)


def test_pages_are_packed_and_answered_with_304_while_nothing_changes(opened: Open) -> None:
    client = opened(scenes.shop())
    for path in ("/workloads", "/parts/workloads", "/workloads/checkout", "/parts/workloads/checkout?hours=6",
                 "/api/v1/sparklines", "/api/v1/workloads/checkout/history"):  # fmt: skip
        first = client.get(path)
        assert first.headers["content-encoding"] == "gzip", path
        assert client.get(path, headers={"If-None-Match": first.headers["etag"]}).status_code == 304, path


def test_a_new_cycle_changes_the_part(opened: Open) -> None:
    edges = scenes.shop()
    client = opened(edges)
    first = client.get("/parts/workloads")
    edges.board.publish(render(scenes.made(("checkout",), NOW + timedelta(seconds=15)), 0.0))
    again = client.get("/parts/workloads", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 200 and "1 workload" in again.text


def test_the_list_is_made_once_a_cycle_until_a_recommendation_expires(opened: Open) -> None:
    edges = scenes.edges(scenes.made(("checkout",)))
    client = opened(edges)
    first = client.get("/parts/workloads").text
    assert '<td class="number">3</td>' in first
    assert edges.board.current is not None and len(edges.board.current.pages) == 1
    edges.monotonic = lambda: 10_000.0
    assert '<td class="number">3</td>' not in client.get("/parts/workloads").text


def test_every_rule_that_can_bind_is_said_in_words() -> None:
    from pathlib import Path

    from forecaster.scaling import decision

    source = Path(decision.__file__).read_text()
    named = set(re.findall(r'_bind\([^\n]*"(\w+)"\)|\.want\([^\n]*"(\w+)"\)|bound_by = "(\w+)"', source))
    rules = {name for found in named for name in found if name}
    assert {"proactive", "hold", "maximum", "expired"} <= rules
    assert rules - words.BOUND_BY.keys() == set()


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_numbers_are_short_and_missing_ones_are_dashes(value: float) -> None:
    shown = words.number(value)
    assert (shown == words.MISSING) == (value != value or value in (float("inf"), float("-inf")))
    if abs(value) < 1e12:
        assert len(shown) <= 10


@pytest.mark.parametrize(
    ("seconds", "shown"), [(45.0, "45 s"), (180.0, "3 min"), (5400.0, "1.5 h"), (86_400.0, "24 h"), (None, "–")]
)
def test_spans_in_words(seconds: float | None, shown: str) -> None:
    assert words.span(seconds) == shown


# --- the demo --------------------------------------------------------------------------------------------------------


def test_the_demo_shows_two_futures_and_their_difference_in_words(opened: Open) -> None:
    client = opened(scenes.edges(None, demo=scenes.demo, static=with_charts()))
    assert client.get("/", follow_redirects=False).headers["location"] == "/demo"
    page = Outline(client.get("/demo").text)
    assert "With Forecaster: 3.7 replica-hours more (+9 %), 1.42 h less above capacity (−94 %)." in page.words
    assert "Prediction pays here" in page.words and "Prediction does not pay here" in page.words
    assert page.words.index("Prometheus misses 3 min") < page.words.index("Load doubles in 5 min")  # newest first
    assert sum(attributes.get("role") == "img" for _, attributes in page.tags) == 8
    assert client.get("/api/v1/demo").json() == json.loads(scenes.demo())


def test_without_a_demo_its_page_says_how_to_start_one(opened: Open) -> None:
    client = opened(scenes.shop())
    answer = client.get("/demo")
    assert answer.status_code == 404 and "forecaster demo" in answer.text
    for path in ("/api/v1/demo", "/parts/demo"):
        assert client.get(path).json()["type"] == "urn:forecaster:problem:no-demo"
    assert 'href="/demo"' not in client.get("/").text


def test_a_demo_that_has_just_begun_is_no_empty_page(opened: Open) -> None:
    told = {"schemaVersion": 1, "now": "2026-03-02T12:00:00Z", "policies": {}, "services": [], "events": []}
    text = opened(scenes.edges(None, demo=lambda: json.dumps(told).encode())).get("/demo").text
    assert "begins in a moment" in text and "Totals come with" in text and "Nothing yet" in text
