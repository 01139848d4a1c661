"""What is served: bytes of a publication, metrics text, and their expiry."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import timedelta

import pytest

from forecaster.domain import Candidate
from forecaster.errors import InputError
from forecaster.publication import ResourceStatus
from forecaster.reasons import Reason, ReasonCode
from serving import metrics_text
from serving.health import Health
from serving.render import etag_of, render
from tests.serving.exposition import parse
from tests.serving.publications import NOW, incident, publication, recommendation

HOUR = timedelta(hours=1)


def samples(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return parse(text.decode()).samples


def names(text: bytes) -> set[str]:
    return {name for name, _ in samples(text)}


def value(text: bytes, name: str, **labels: str) -> float | None:
    return samples(text).get((name, frozenset(labels.items())))


def test_metrics_hold_the_floor_and_the_need_of_each_hpa() -> None:
    text = render(publication(), 100.0).metrics_at(100.0)
    assert value(text, "forecaster_floor_replicas", namespace="shop", hpa="checkout") == 4
    assert value(text, "forecaster_recommended_replicas", namespace="shop", hpa="checkout") == 5
    until = value(text, "forecaster_recommendation_valid_until_timestamp_seconds", namespace="shop", hpa="checkout")
    assert until == NOW.timestamp() + 300


def test_metrics_hold_forecast_quantiles_at_the_lead_time() -> None:
    text = render(publication(), 100.0).metrics_at(100.0)
    median = value(text, "forecaster_load_forecast", workload="checkout", horizon="lead", quantile="0.5")
    assert median == pytest.approx(100.0)
    peak = value(text, "forecaster_load_peak_forecast", workload="checkout", quantile="0.99")
    assert peak == pytest.approx(154.0)


def test_an_unknown_value_has_no_line_and_harms_no_other() -> None:
    text = render(publication(("checkout", "gone")), 100.0).metrics_at(100.0)
    assert value(text, "forecaster_load", workload="checkout") == 100.0
    assert value(text, "forecaster_load", workload="gone") is None
    assert value(text, "forecaster_data_age_seconds", workload="gone") is None
    assert value(text, "forecaster_workload_status", workload="gone", reason="no_data") == 1
    assert value(text, "forecaster_workload_status", workload="checkout", reason="ok") == 1
    assert not [key for key, number in samples(text).items() if math.isnan(number)]


def test_a_recommendation_without_numbers_has_no_replica_lines() -> None:
    text = render(publication(floor=None), 100.0).metrics_at(100.0)
    assert "forecaster_floor_replicas" not in names(text)
    assert "forecaster_recommended_replicas" not in names(text)


def test_an_expired_recommendation_disappears_though_no_new_cycle_came() -> None:
    made = publication(("a", "b"), valid_for=300)
    longer = replace(made.recommendations[1], valid_for=timedelta(seconds=900))
    rendered = render(replace(made, recommendations=(made.recommendations[0], longer)), 100.0)
    assert len(json.loads(rendered.recommendations_at(399.9)[0])["items"]) == 2
    body, etag = rendered.recommendations_at(400.0)
    assert [one["workload"] for one in json.loads(body)["items"]] == ["b"]
    assert etag != rendered.etag
    late = rendered.metrics_at(400.0)
    assert value(late, "forecaster_floor_replicas", namespace="shop", hpa="a") is None
    assert value(late, "forecaster_floor_replicas", namespace="shop", hpa="b") == 4
    assert value(late, "forecaster_load", workload="a") is not None
    assert "forecaster_floor_replicas" not in names(rendered.metrics_at(1_000.0))
    assert rendered.workload("a", 400.0)["floor"] is None


def test_the_age_that_a_recommendation_already_had_counts() -> None:
    made = publication()
    old = replace(made.recommendations[0], made_at=NOW - timedelta(seconds=200))
    rendered = render(replace(made, recommendations=(old,)), 100.0)
    assert json.loads(rendered.recommendations_at(199.0)[0])["items"]
    assert not json.loads(rendered.recommendations_at(200.0)[0])["items"]


def test_a_recommendation_from_the_future_does_not_last_longer() -> None:
    made = publication()
    ahead = replace(made.recommendations[0], made_at=NOW + HOUR)
    assert not json.loads(render(replace(made, recommendations=(ahead,)), 0.0).recommendations_at(300.0)[0])["items"]


def test_several_workloads_on_one_hpa_give_one_series_with_the_maximum() -> None:
    made = publication(("a", "b"))
    both = (replace(made.recommendations[0], hpa="web"), replace(made.recommendations[1], hpa="web", floor=9))
    text = render(replace(made, recommendations=both), 0.0).metrics_at(0.0)
    assert value(text, "forecaster_floor_replicas", namespace="shop", hpa="web") == 9


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "ns/app", '"><script>', "ü"])
def test_label_values_survive_the_text_format(name: str) -> None:
    text = render(publication((name,)), 0.0).metrics_at(0.0)
    assert value(text, "forecaster_load", workload=name) == 100.0


def test_open_incidents_are_shown_and_closed_ones_are_not() -> None:
    made = publication(incidents=[incident("a"), incident("b"), incident("c", closed_at=NOW)])
    text = render(made, 0.0).metrics_at(0.0)
    assert sum(name == "forecaster_anomaly_active" for name, _ in samples(text)) == 1


def test_the_etag_follows_decisions_and_not_times_or_words() -> None:
    one = recommendation("a")
    later = replace(
        one,
        made_at=NOW + HOUR,
        data_through=NOW + HOUR,
        candidates=(Candidate("proactive", 4, "431 / 120"),),
        reasons=(Reason(ReasonCode.HPA_NOT_FOUND, "other words"),),
    )
    assert etag_of([one]) == etag_of([later])
    assert etag_of([one]) != etag_of([replace(one, floor=5)])
    assert etag_of([one]) != etag_of([replace(one, reasons=())])
    assert etag_of([one]) != etag_of([replace(one, raised_target=80)])


def test_json_holds_null_for_what_is_not_known() -> None:
    rendered = render(publication(("a", "b"), incidents=[incident(workload="b")]), 0.0)
    page = rendered.workloads_page("", 10, 0.0)
    assert b"NaN" not in page
    assert json.loads(page)["items"][1]["load"] is None
    assert json.loads(page)["items"][0]["coverage"] == {"0.8": 0.79, "0.98": None}


def test_pages_are_in_order_of_name_and_complete() -> None:
    rendered = render(publication(tuple(f"w{i:02}" for i in range(25))), 0.0)
    seen: list[str] = []
    after = ""
    while True:
        page = json.loads(rendered.workloads_page(after, 10, 0.0))
        seen += [one["name"] for one in page["items"]]
        if page["next"] is None:
            break
        after = page["next"]
    assert seen == [f"w{i:02}" for i in range(25)]


def test_a_forecast_is_cut_at_the_horizon_and_read_at_any_level() -> None:
    told = render(publication(), 0.0).forecast("checkout", timedelta(minutes=5), [0.5, 0.8])
    assert len(told["times"]) == len(told["values"]) == 3
    assert told["values"][0][0] == pytest.approx(100.0)
    assert 100.0 < told["values"][0][1] < 120.0


def test_a_horizon_beyond_the_forecast_is_refused() -> None:
    with pytest.raises(InputError, match="too long"):
        render(publication(), 0.0).forecast("checkout", timedelta(days=3), None)


def test_a_workload_without_forecast_says_why() -> None:
    told = render(publication(("a", "b")), 0.0).forecast("b", None, None)
    assert told["values"] == []
    assert told["reason"]["code"] == "no_data"


def test_own_health_shows_a_hung_loop() -> None:
    health = Health(started_at=0.0, last_cycle_monotonic=10.0, last_cycle_seconds=0.5, stations={"read": 0.2})
    health.degraded = lambda: "disk is full"
    text = metrics_text.health_text(health, publication(), '1"2', 70.0, {"config_invalid": 1})
    assert value(text, "forecaster_cycle_age_seconds") == 60.0
    assert value(text, "forecaster_store_degraded") == 1
    assert value(text, "forecaster_cycle_duration_seconds", station="read") == 0.2
    assert value(text, "forecaster_clock_skew_seconds") == 0.5
    assert value(text, "forecaster_service_status", reason="config_invalid") == 1


def test_every_metric_is_declared_with_type_and_help() -> None:
    health = Health(started_at=0.0)
    rendered = render(publication(incidents=[incident()]), 0.0)
    text = rendered.metrics_at(0.0) + metrics_text.health_text(health, None, "1", 0.0, {})
    told = parse(text.decode())
    assert {key: metrics_text.FAMILIES[key] for key in told.types} == {
        key: (kind, told.helps[key]) for key, kind in told.types.items()
    }


def test_time_to_a_limit_and_cost_stand_in_the_metrics() -> None:
    times = {"0.1": 3600.0, "0.5": 7200.5, "0.9": float("inf")}
    memory = ResourceStatus("checkout", "memory", times, None, None, None)
    cpu = ResourceStatus("checkout", "cpu", {}, 0.02, 0.019, 0.021)
    text = metrics_text.workloads_text(replace(publication(), resources=(memory, cpu)))
    name = "forecaster_time_to_limit_seconds"
    assert value(text, name, workload="checkout", resource="memory", quantile="0.5") == 7200.5
    assert value(text, name, workload="checkout", resource="memory", quantile="0.9") == float("inf")
    assert value(text, "forecaster_usage_per_load", workload="checkout", resource="cpu") == 0.02
    assert b'resource="cpu",quantile' not in text
