"""The external metric: its PromQL in the eyes of Prometheus itself (`promtool test rules`), its values in the HPA's."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.errors import InputError
from forecaster.promql import check_query
from forecaster.scaling.capacity import replicas_for
from forecaster.scaling.external_metric import (
    ExternalMetric,
    ReactiveLoad,
    discovery_series,
    external_metric,
)
from forecaster.scaling.hpa_metrics import Tolerances, average_proposal

CHECKOUT = ReactiveLoad("checkout", "sum(rps)", 0.7, 120.0)  # 84 for each replica
SCRAPED = '{namespace="shop",hpa="checkout",instance="a"}'
RECOMMENDED = f"forecaster_recommended_replicas{SCRAPED}"
FLOOR = f"forecaster_floor_replicas{SCRAPED}"
VALID = f"forecaster_recommendation_valid_until_timestamp_seconds{SCRAPED}"
STATUS = 'forecaster_workload_status{workload="checkout",instance="a",reason="ok"}'
Series = Mapping[str, str]


def evaluate(tmp_path: Path, metric: ExternalMetric, series: Series, expected: Mapping[str, float | None]) -> None:
    """Series in promtool's notation, a sample each 15 s from 1970 on; `expected`: what the HPA reads at a time."""
    samples = {
        at: [] if value is None else [{"labels": "{}", "value": value}] for at, value in expected.items()
    }  # exactly one series, without labels: the HPA would add up several
    case = {
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {"expr": metric.query, "eval_time": at, "exp_samples": found} for at, found in samples.items()
                ],
            }
        ],
    }
    (tmp_path / "cases.yaml").write_text(json.dumps(case))  # JSON is YAML too
    done = subprocess.run(
        ["promtool", "test", "rules", "cases.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{metric.query}\n{done.stdout}{done.stderr}"


@pytest.mark.prometheus
def test_our_value_counts_while_it_is_valid_and_the_load_is_left_when_it_is_not(tmp_path: Path) -> None:
    series = {"rps": "100x80", RECOMMENDED: "5x80", VALID: "300x80"}
    expected = {"0s": 420.0, "4m45s": 420.0, "5m": 100.0, "10m": 100.0}
    evaluate(tmp_path, external_metric("shop", "checkout", [CHECKOUT]), series, expected)


@pytest.mark.prometheus
def test_a_service_that_dies_leaves_the_load(tmp_path: Path) -> None:
    series = {"rps": "100x200", RECOMMENDED: "5x20 stale", VALID: "9999x20 stale"}  # the scrape fails: a stale marker
    evaluate(
        tmp_path, external_metric("shop", "checkout", [CHECKOUT]), series, {"5m": 420.0, "5m15s": 100.0, "40m": 100.0}
    )


@pytest.mark.prometheus
def test_series_that_end_without_a_marker_count_until_their_validity_and_not_longer(tmp_path: Path) -> None:
    series = {"rps": "100x200", RECOMMENDED: "5x4 _x196", VALID: "180x4 _x196"}  # remote write stopped after a minute
    expected = {"2m45s": 420.0, "3m15s": 100.0, "10m": 100.0}
    evaluate(tmp_path, external_metric("shop", "checkout", [CHECKOUT]), series, expected)


@pytest.mark.prometheus
def test_a_value_without_its_validity_does_not_count(tmp_path: Path) -> None:
    series = {"rps": "100x80", RECOMMENDED: "5x80"}
    evaluate(tmp_path, external_metric("shop", "checkout", [CHECKOUT]), series, {"5m": 100.0})


@pytest.mark.prometheus
def test_the_load_counts_where_it_is_above_our_value(tmp_path: Path) -> None:
    series = {"rps": "100 500 1000", RECOMMENDED: "5x80", VALID: "9999x80"}
    expected = {"0s": 420.0, "15s": 500.0, "30s": 1000.0}
    evaluate(tmp_path, external_metric("shop", "checkout", [CHECKOUT]), series, expected)


@pytest.mark.prometheus
def test_of_two_instances_the_highest_counts_that_is_still_valid(tmp_path: Path) -> None:
    other = '{namespace="shop",hpa="checkout",instance="b"}'
    series = {
        "rps": "100x80",
        RECOMMENDED: "9x80",
        VALID: "120x80",  # the first one hangs: its higher word ends after two minutes
        f"forecaster_recommended_replicas{other}": "5x80",
        f"forecaster_recommendation_valid_until_timestamp_seconds{other}": "9999x80",
    }
    metric = external_metric("shop", "checkout", [CHECKOUT])
    evaluate(tmp_path, metric, series, {"1m": 756.0, "2m": 420.0, "4m": 420.0})


@pytest.mark.prometheus
def test_other_hpas_are_not_taken_for_ours_also_where_a_scrape_renames_labels(tmp_path: Path) -> None:
    def both(labels: str, replicas: int) -> dict[str, str]:
        return {
            f"forecaster_recommended_replicas{labels}": f"{replicas}x80",
            f"forecaster_recommendation_valid_until_timestamp_seconds{labels}": "9999x80",
        }

    metric = external_metric("shop", "checkout", [CHECKOUT])
    others = both('{namespace="other",hpa="checkout"}', 50) | both('{namespace="shop",hpa="cart"}', 60)
    # the service runs in the namespace shop itself, and speaks of an HPA elsewhere
    others |= both('{namespace="shop",exported_namespace="other",hpa="checkout"}', 70)
    evaluate(tmp_path, metric, {"rps": "100x80", **others}, {"5m": 100.0})
    renamed = both('{namespace="monitoring",exported_namespace="shop",hpa="checkout"}', 5)
    evaluate(tmp_path, metric, {"rps": "100x80", **others, **renamed}, {"5m": 420.0})


@pytest.mark.prometheus
@pytest.mark.parametrize(
    ("load", "expected"),
    [
        ("sum by (app) (rps)", 100.0),
        ('rps{app="a"} or rps{app="b"}', 100.0),
        ("sum(rps) > 10", 100.0),
        ("sum(rps) > 1000", None),
        ("sum(rps) > 1000 or vector(7)", 7.0),
        ("sum(rps) - 500", None),
        ("sum(rps) / 0", None),
        ("sum(rps) * NaN", None),
        ("scalar(sum(rps)) + 1", 101.0),
        ("scalar(nothing)", None),
        ("sum(rps) # a comment )", 100.0),
        ('label_replace(sum(rps), "part", "forecast", "", "")', 100.0),
    ],
    ids=[
        "labels of its own",
        "or",
        "a comparison",
        "a comparison that fails",
        "or after a comparison",
        "negative",
        "infinite",
        "NaN",
        "a scalar",
        "a scalar that is not known",
        "a comment",
        "our own label",
    ],
)
def test_every_form_of_the_users_expression_is_one_series_or_none(
    tmp_path: Path, load: str, expected: float | None
) -> None:
    metric = external_metric("shop", "checkout", [ReactiveLoad("checkout", load, 0.7, 120.0)])
    series = {'rps{app="a"}': "40x80", 'rps{app="b"}': "60x80", VALID: "60x80", RECOMMENDED: "5x80"}
    evaluate(tmp_path, metric, series, {"30s": max(420.0, expected or 0.0), "5m": expected})


@pytest.mark.prometheus
def test_of_a_template_only_the_workloads_own_series_counts(tmp_path: Path) -> None:
    load = ReactiveLoad(
        "shop/a$1b",
        "sum by (namespace, app) (rps)",
        0.7,
        None,
        "avg by (namespace, app) (full)",
        {"namespace": "shop", "app": "a$1b"},
        ("namespace", "app"),
    )
    series = {
        'rps{namespace="shop",app="a$1b",pod="1"}': "240x80",
        'rps{namespace="shop",app="cart"}': "7000x80",
        'rps{namespace="other",app="a$1b"}': "9000x80",
        'full{namespace="shop",app="a$1b"}': "120x80",
        'full{namespace="shop",app="cart"}': "1x80",
    }
    metric = external_metric("shop", "checkout", [load])
    assert (metric.target, metric.unit) == ("700", "full replicas times 1e3")
    evaluate(tmp_path, metric, series, {"5m": 2000.0})  # two full replicas of load: ceil(2000 / 700) = 3 at 70 %
    evaluate(tmp_path, metric, series | {RECOMMENDED: "5x80", VALID: "9999x80"}, {"5m": 3500.0})


@pytest.mark.prometheus
@pytest.mark.parametrize(
    ("for_each", "capacity", "expected"),
    [
        ((), "full", 2500.0),
        ((), "scalar(full) # of one replica", 2500.0),
        ((), "120", 2500.0),
        ((), "full * 0", None),
        ((), "nothing", None),
        (("app",), "full", 2500.0),
        (("app",), "120", 2500.0),
    ],
    ids=["a series", "a scalar", "a number", "zero", "none", "one number for a template", "a scalar for a template"],
)
def test_a_capacity_in_promql_stays_in_the_query(
    tmp_path: Path, for_each: tuple[str, ...], capacity: str, expected: float | None
) -> None:
    labels = dict.fromkeys(for_each, "a")
    load = ReactiveLoad("checkout", "sum by (app) (rps)", 0.7, None, capacity, labels, for_each)
    series = {'rps{app="a",pod="1"}': "100x80", 'rps{app="a",pod="2"}': "200x80", 'full{job="x"}': "120x80"}
    metric = external_metric("shop", "checkout", [load])
    evaluate(tmp_path, metric, series, {"5m": expected})
    assert metric.target == "700"


@pytest.mark.prometheus
def test_several_workloads_on_one_hpa_count_each_by_its_own_capacity(tmp_path: Path) -> None:
    second = ReactiveLoad("batch", "jobs", 0.5, 2.0)  # 1 for each replica
    metric = external_metric("shop", "checkout", [CHECKOUT, second])
    evaluate(tmp_path, metric, {"rps": "100x80", "jobs": "1x20 7x60"}, {"0s": 100.0, "10m": 588.0})


# --- saving ----------------------------------------------------------------------------------------------------------


@pytest.mark.prometheus
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({STATUS: "1x80"}, 720.0 * (0.7 / 0.9)),
        ({STATUS: "1x80", STATUS.replace('"ok"', '"held"'): "1x80"}, 720.0 * (0.7 / 0.9)),
        ({}, 720.0),
        ({STATUS.replace('"ok"', '"calibrating"'): "1x80"}, 720.0),
        ({STATUS: "1x80", STATUS.replace('"ok"', '"stale_data"'): "1x80"}, 720.0),
        ({STATUS: "1x80", STATUS.replace('"a"', '"b"').replace('"ok"', '"saturated"'): "1x80"}, 720.0),
    ],
    ids=["all is well", "held", "nothing is said", "no skill yet", "stale", "one of two instances doubts"],
)
def test_head_room_is_saved_only_while_nothing_at_all_is_said_against_it(
    tmp_path: Path, status: Series, expected: float
) -> None:
    metric = external_metric("shop", "checkout", [CHECKOUT], save=True)
    series = {"rps": "720x80", FLOOR: "6x80", VALID: "600x80", **status}
    # 720 fills six replicas, and takes nine at 70 %; at 90 % it is seven
    evaluate(tmp_path, metric, series, {"5m": expected, "10m": 720.0})


@pytest.mark.prometheus
def test_a_service_that_ends_without_a_marker_saves_for_two_minutes_at_most(tmp_path: Path) -> None:
    metric = external_metric("shop", "checkout", [CHECKOUT], save=True)
    series = {"rps": "720x80", FLOOR: "6x4 _x76", VALID: "600x4 _x76", STATUS: "1x80"}  # its last sample is of 1m
    evaluate(tmp_path, metric, series, {"2m45s": 720.0 * (0.7 / 0.9), "3m": 720.0, "10m": 720.0})


@pytest.mark.prometheus
def test_saving_without_a_floor_is_the_reactive_rule(tmp_path: Path) -> None:
    metric = external_metric("shop", "checkout", [CHECKOUT], save=True)
    series = {"rps": "720x80", RECOMMENDED: "9x80", VALID: "9999x80", STATUS: "1x80"}
    evaluate(tmp_path, metric, series, {"5m": 720.0})
    evaluate(tmp_path, metric, series | {FLOOR: "8x80"}, {"5m": 672.0})


def test_nothing_is_saved_above_ninety_per_cent() -> None:
    with pytest.raises(InputError, match=r"checkout: scale\.target is 90%.*leave --save out"):
        external_metric("shop", "checkout", [ReactiveLoad("checkout", "sum(rps)", 0.9, 120.0)], save=True)


# --- arithmetic ------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=300)
@given(
    st.floats(1e-9, 1e15), st.integers(1, 100).map(lambda share: share / 100), st.integers(0, 2000), st.floats(0, 2000)
)
def test_the_hpa_takes_exactly_the_replicas_that_we_ask_for(
    capacity: float, ratio: float, replicas: int, use: float
) -> None:
    metric = external_metric("shop", "checkout", [ReactiveLoad("checkout", "rps", ratio, capacity)])
    target = milli(metric.target)
    value = int(replicas * (target / 1000) * 1000)  # both KEDA and prometheus-adapter cut to thousandths
    wanted = average_proposal((value,), 0, target, Tolerances(), external=True)  # from 0: no tolerance
    assert wanted.replicas == replicas
    load = use * capacity * ratio  # and of the load what the decision's own rule asks for
    factor = target / 1000 / (capacity * ratio)
    from_load = average_proposal((int(load * factor * 1000),), 0, target, Tolerances(), external=True)
    reactive = replicas_for(load, capacity * ratio)
    assert reactive is not None
    assert math.ceil(use - 2e-3) <= from_load.replicas <= reactive + 1


def milli(quantity: str) -> int:
    return int(quantity[:-1]) if quantity.endswith("m") else int(quantity) * 1000


@settings(deadline=None, max_examples=100)
@given(st.text(min_size=1, max_size=20), st.text(max_size=20))
def test_no_name_or_label_can_break_out_of_the_expression(name: str, value: str) -> None:
    load = ReactiveLoad(name, "sum by (app) (rps)", 0.7, 120.0, None, {"app": value}, ("app",))
    check_query(external_metric("shop", "checkout", [load], save=True).query)


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (ReactiveLoad("checkout", "rps[5m]", 0.7, 120.0), "gives a range of samples"),
        (ReactiveLoad("checkout", "sum(", 0.7, 120.0), "is not PromQL"),
        (ReactiveLoad("checkout", "rps", 0.7, 0.0), "the capacity of a replica is 0.0: write scale.capacityPerReplica"),
        (ReactiveLoad("checkout", "rps", 0.7, math.nan), "the capacity of a replica is nan"),
        (ReactiveLoad("checkout", "rps", 7.0, 120.0), "scale.target is 7.0: write a share"),
    ],
    ids=["a range", "no PromQL", "no capacity", "capacity NaN", "target"],
)
def test_what_cannot_be_a_metric_is_refused(load: ReactiveLoad, message: str) -> None:
    with pytest.raises(InputError, match=message):
        external_metric("shop", "checkout", [load])


def test_the_adapter_finds_the_metric_by_the_users_own_series() -> None:
    assert discovery_series('sum(rate(rps{app="a",path=~"/x.*"}[1m])) / 2') == 'rps{app="a",path=~"/x.*"}'
    assert discovery_series("sum(rps)") == "rps"
    assert discovery_series('sum({job="a"})') is None
