"""What is known of an expression before it is sent."""

from __future__ import annotations

from datetime import timedelta

import pytest

from forecaster.errors import InputError
from forecaster.promql import check_query, check_template, count_behind_sum, limits_for_untrusted, selectors


@pytest.mark.parametrize("text", ["sum(rate(x[5m]))", "vector(1)", "3", "(x offset 1h) / y", 'x{a=~"b|c"}'])
def test_expressions_with_one_value_per_series_pass(text: str) -> None:
    check_query(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("sum(x", "unclosed left parenthesis"),
        ("rate(x)", "expected type matrix in call to function 'rate', got vector"),
        ("x[5m]", "write a function over it"),
        ("(x)[5m:1m]", "write a function over it"),
        ('"text"', "is a text"),
        ("foo(x)", "foo"),
    ],
)
def test_others_are_refused_in_the_parsers_words(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        check_query(text)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('sum(rate(x{a=~"b.*"}[1m]))', 'count (rate(x{a=~"b.*"}[1m]))'),
        ("sum by (a, b) (x offset 5m)", "count by (a, b) (x{} offset 5m)"),
        ("sum without (pod) (x)", "count without (pod) (x{})"),
        ("(2 * sum(x))", "count (x{})"),
        ("clamp_min(sum(x) / 60, 0)", "count (x{})"),
        ("sum(count by (a) (x))", "count (count by (a)(x{}))"),
        ("avg(x)", None),
        ("sum(x) / sum(y)", None),
        ("max_over_time(sum(x)[5m:1m])", None),
        ("x", None),
    ],
)
def test_the_series_behind_a_sum_are_counted(text: str, count: str | None) -> None:
    assert count_behind_sum(text) == count
    if count is not None:
        check_query(count)


def test_selectors_give_names_and_matchers() -> None:
    found = selectors('sum(rate(x{a="1", b!~"2"}[5m])) / {__name__="y"}')
    assert {(one.name, one.matchers) for one in found} == {
        ("x", (("a", "=", "1"), ("b", "!~", "2"))),
        (None, (("__name__", "=", "y"),)),
    }


@pytest.mark.parametrize(
    "text", ["sum(rate(x[5m]))", 'up{job=~".+"}', '{job="a"}', "max_over_time(rate(x[5m])[1d:1m])", "x offset 7d"]
)
def test_ordinary_queries_are_within_the_limits_for_strangers(text: str) -> None:
    limits_for_untrusted(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('sum_over_time({__name__=~".+"}[10y:1s])', "longer than"),
        ('{__name__=~".+"}[10y:1s]', "range"),
        ('count({__name__=~".+"})', "may match everything"),
        ('{a="b" or c=~".*"}', "may match everything"),
        ("max_over_time(max_over_time(x[1h:1m])[1d:1m])", "may not nest"),
        ("max_over_time(sum(max_over_time(x[1h:1m]))[1d:1m])", "may not nest"),
        ("max_over_time(x[6d:1s])", "points"),
        ("rate(x[30d])", "longer than"),
        ("x offset 5y", "offset"),
        ("x offset -5y", "offset"),
        ("+".join(["x"] * 17), "17 selectors"),
        ("x" * 5000, "characters"),
        ("(" * 2000 + "x", "not PromQL"),
    ],
)
def test_x53_bombs_are_refused_before_they_are_sent(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        limits_for_untrusted(text)


def test_the_longest_range_is_the_callers() -> None:
    limits_for_untrusted("rate(x[30d])", max_range=timedelta(days=30))


@pytest.mark.parametrize(
    "text",
    [
        "sum by (ns, app) (x)",
        "sum by (ns, app, pod) (x)",
        "sum without (pod) (x)",
        "rate(x[1m]) * 2",
        "x",
        "topk(3, x)",
        "sum by (ns, app) (x) / on (ns, app) sum by (ns, app) (y)",
        "x / on (ns) group_left (app) y",
        'label_replace(sum by (ns) (x), "app", "$1", "ns", "(.*)")',
        "histogram_quantile(0.9, sum by (ns, app, le) (rate(x[1m])))",
        "sum by (ns, app) (x) or sum by (ns, app) (y)",
        "sum by (ns, app) (x) and on (ns) y",
        "sum by (ns, app) (x) * scalar(y)",
        "-(sum by (ns, app) (x))",
    ],
)
def test_templates_that_keep_their_labels_pass(text: str) -> None:
    check_template(text, ("ns", "app"))


@pytest.mark.parametrize(
    "text",
    [
        "sum(x)",
        "sum by (ns) (x)",
        "sum without (app) (x)",
        "max(sum by (ns, app) (x))",
        "x / on (ns) y",
        "x / ignoring (app) y",
        "sum by (ns, app) (x) or vector(0)",
        "vector(1)",
        "absent(x)",
    ],
)
def test_templates_that_lose_a_label_are_told_how_to_keep_it(text: str) -> None:
    with pytest.raises(InputError, match=r"aggregate with by \(ns, app\)"):
        check_template(text, ("ns", "app"))
