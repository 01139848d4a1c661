"""The change statistics: nothing looks ahead, the unit makes no difference, and each kind of change is heard."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.anomaly import kernel, statistics
from forecaster.anomaly.statistics import Measured, blank, measured
from forecaster.domain import FloatArray


def calm(n: int, seed: int = 0) -> FloatArray:
    t = np.arange(n)
    random = np.random.default_rng(seed)
    return np.asarray(100 + 20 * np.sin(2 * math.pi * t / 288) + random.normal(0, 2, n))


def of(values: FloatArray) -> Measured:
    return measured(blank(), values[None])[1]


def test_nothing_looks_ahead_and_a_step_at_a_time_is_the_same_as_all_at_once() -> None:
    values = calm(1_500)
    values[700:710] = math.nan
    whole = of(values)
    state, parts = blank(), []
    for value in values:
        state, one = measured(state, np.array([[value]]))
        parts.append(one)
    np.testing.assert_array_equal(whole.score[0], [one.score[0, 0] for one in parts])
    np.testing.assert_array_equal(whole.news[0], [one.news[0, 0] for one in parts])
    np.testing.assert_array_equal(whole.band[0], [one.band[0, 0] for one in parts])
    np.testing.assert_array_equal(whole.score[0, :900], of(values[:900]).score[0])


def test_rows_do_not_know_of_each_other() -> None:
    both = np.stack([calm(600, 1), 1e6 * calm(600, 2)])
    together = measured({name: np.repeat(a, 2, axis=0) for name, a in blank().items()}, both)[1]
    np.testing.assert_array_equal(together.score[1], of(both[1]).score[0])


@settings(deadline=None, max_examples=10)
@given(st.sampled_from([2.0**-20, 0.25, 1_024.0, 2.0**30]))
def test_the_unit_makes_no_difference(factor: float) -> None:
    values = calm(800)
    np.testing.assert_allclose(of(factor * values).score, of(values).score, rtol=1e-4, atol=1e-4)


def test_warm_up_and_gaps_have_no_score_and_never_zero() -> None:
    values = calm(900)
    values[500:520] = math.nan
    score = of(values).score[0]
    assert np.isnan(score[: int(kernel.LEAST)]).all()
    assert np.isnan(score[500:520]).all()
    assert np.isfinite(score[300:500]).all() and (score[300:500] >= 0).all()


@pytest.mark.parametrize("value", [0.0, 7.0, -1e9])
def test_a_constant_series_is_calm(value: float) -> None:
    found = of(np.full(2_000, value))
    assert np.nanmax(found.score) < 1
    assert np.isfinite(found.score[0, 300:]).all()


def changed(kind: str, at: int = 9_000, n: int = 9_600) -> FloatArray:
    t = np.arange(n)
    values = 100 + np.random.default_rng(3).normal(0, 2, n)
    after = t >= at
    if kind == "spike":
        values[at : at + 2] += 40
    elif kind == "dip":
        values[at : at + 2] -= 40
    elif kind == "level shift":
        values[after] += 8
    elif kind == "variance":
        values[after] += np.random.default_rng(4).normal(0, 8, after.sum())
    elif kind == "drift":
        values[after] += 0.03 * (t[after] - at)
    return np.asarray(values)


@pytest.mark.parametrize(
    ("kind", "statistic", "sign"),
    [
        ("spike", kernel.RESIDUAL, 1),
        ("dip", kernel.RESIDUAL, -1),
        ("level shift", kernel.SHIFT, 1),
        ("variance", kernel.VARIANCE, 1),
        ("drift", kernel.DRIFT, 1),
    ],
)
def test_each_kind_of_change_is_heard_by_its_statistic(kind: str, statistic: int, sign: int) -> None:
    parts = of(changed(kind)).parts[0, :, statistic]
    before, after = np.abs(parts[5_000:9_000]), sign * parts[9_000:]
    assert np.nanmax(after) > np.nanmax(before) + 0.5
    assert np.nanmax(after) > 3


def test_a_lost_season_is_heard_by_the_shape() -> None:
    t = np.arange(6_000)
    wave = 10 * np.sin(2 * math.pi * t / 24) + np.random.default_rng(5).normal(0, 0.5, len(t))
    wave[5_000:] = np.random.default_rng(6).normal(0, 7, 1_000)
    parts = of(100 + wave).parts[0, :, kernel.SHAPE]
    assert np.nanmin(parts[5_030:5_100]) > np.nanquantile(parts[2_000:5_000], 0.99)


def test_an_echo_is_no_news() -> None:
    values = changed("spike")
    values[9_100:9_102] += 40  # the same again, before the first is forgotten
    found = of(values)
    assert found.news[0, 9_000] == found.score[0, 9_000] > kernel.EDGE
    assert found.score[0, 9_100] > kernel.EDGE
    assert found.news[0, 9_100] <= kernel.EDGE


def test_scores_are_calibrated_on_what_is_only_noise() -> None:
    score = of(100 + np.random.default_rng(7).normal(0, 2, 40_000)).score[0, 10_000:]
    for wanted in (0.1, 0.01, 0.001):
        assert 0.5 * wanted < (10.0**-score <= wanted).mean() < 2 * wanted


def test_the_band_holds_what_comes() -> None:
    values = calm(6_000)
    band = of(values).band[0, 1_000:]
    inside = (values[1_000:] >= band[:, 0]) & (values[1_000:] <= band[:, 2])
    assert 0.95 < inside.mean() < 0.999


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-1e12, 1e12) | st.just(math.nan) | st.just(0.0), min_size=1, max_size=120))
def test_whatever_comes_scores_are_bounded(tail: list[float]) -> None:
    values = np.concatenate([calm(300), np.array(tail)])
    score = of(values).score[0]
    known = ~np.isnan(values)
    known[:260] = False
    assert np.isfinite(score[known]).all()
    assert ((score[known] >= 0) & (score[known] <= kernel.HIGHEST)).all()


def test_kinds_name_every_statistic() -> None:
    assert len(statistics.KINDS) == kernel.STATISTICS
