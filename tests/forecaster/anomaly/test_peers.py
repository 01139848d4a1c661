"""Siblings: one that stands apart is told, what moves them all is not."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.anomaly import peers
from forecaster.anomaly.peers import Judged, without_each
from forecaster.domain import FloatArray, IntArray
from forecaster.rows import Arrays, Rows

T0, STEP = 1_767_571_200, 60
HOUR = 3600 // STEP


def run(used: FloatArray, group: IntArray) -> tuple[Arrays, Arrays, FloatArray, list[Judged]]:
    """(pods, groups, (group, time) score, what each step said) of used (pod, time)."""
    pods = Rows((), {}).aligned([str(i) for i in range(len(used))], peers.blank()).arrays
    groups = Rows((), {}).aligned([str(i) for i in range(int(group.max()) + 1)], peers.blank_group()).arrays
    score, said = np.full((len(groups["judged"]), used.shape[1]), np.nan), []
    for j in range(used.shape[1]):
        pods, judged = peers.stepped(pods, groups, used[:, j], group, T0 + (j + 1) * STEP, STEP)
        score[:, j] = judged.score
        said.append(judged)
        pods, groups = peers.learned(pods, groups, judged, group, ~(judged.score > 4), STEP)
    return pods, groups, score, said


def pods_of(seed: int, count: int, n: int) -> FloatArray:
    rng = np.random.default_rng(seed)
    load = 1.2 + np.sin(2 * np.pi * np.arange(n) / (24 * HOUR))
    own = 1 + 0.03 * rng.standard_normal((count, 1))
    return load * own * np.exp(rng.normal(0, 0.05, (count, n)))


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.one_of(st.just(float("nan")), st.floats(-100, 100))), min_size=1, max_size=30
    )
)
def test_the_median_of_the_others(pairs: list[tuple[int, float]]) -> None:
    group, values = np.array([one[0] for one in pairs]), np.array([one[1] for one in pairs])
    found = without_each(values, group)
    for i in range(len(values)):
        others = [v for j, v in enumerate(values.tolist()) if j != i and group[j] == group[i] and v == v]
        if others and values[i] == values[i]:
            assert found[i] == pytest.approx(statistics.median(others))
        else:
            assert np.isnan(found[i])


def test_one_bad_pod_out_of_ten_is_named_and_a_common_movement_is_not() -> None:
    n = 14 * HOUR
    used = np.concatenate([pods_of(0, 10, n), pods_of(1, 10, n)])
    used[4, -HOUR:] *= 1.6
    used[10:, -HOUR:] *= 3.0
    group = np.repeat(np.arange(2), 10)
    _, _, score, said = run(used, group)
    assert np.nanmax(score[0, -HOUR : -HOUR // 2]) > 6
    assert said[-1].worst[0] == 4
    assert said[-1].apart[4] == pytest.approx(0.6, abs=0.1)
    assert np.nanmax(score[1, -HOUR:]) < 4


def test_a_pod_that_always_had_more_is_no_news() -> None:
    used = pods_of(2, 8, 14 * HOUR)
    used[3] *= 1.5
    _, _, score, _ = run(used, np.zeros(8, dtype=np.int64))
    assert np.nanmax(score[0, 6 * HOUR :]) < 4.5


def test_fewer_than_four_are_not_judged() -> None:
    used = pods_of(3, 3, 2 * HOUR)
    used[0, HOUR:] *= 5
    _, _, score, said = run(used, np.zeros(3, dtype=np.int64))
    assert np.isnan(score).all()
    assert (said[-1].worst == -1).all()


def test_pods_that_come_and_go_are_understood() -> None:
    n = 14 * HOUR
    used = pods_of(4, 12, n)
    used[8:, : 12 * HOUR] = np.nan  # four come and begin with what a start costs
    used[8:, 12 * HOUR : 12 * HOUR + 12] *= 6.0
    used[:3, 12 * HOUR :] = np.nan  # three go
    _, _, score, said = run(used, np.zeros(12, dtype=np.int64))
    assert np.nanmax(score[0, 12 * HOUR :]) < 4.5
    assert np.isnan(said[12 * HOUR + 5].apart[8:]).all()
    assert not np.isnan(said[-1].apart[8:]).any()
    assert np.isnan(said[-1].apart[:3]).all()  # missing is not low


def test_a_pod_that_returns_after_an_hour_warms_up_again() -> None:
    used = pods_of(5, 6, 5 * HOUR)
    used[0, 2 * HOUR : 4 * HOUR] = np.nan
    _, _, _, said = run(used, np.zeros(6, dtype=np.int64))
    assert np.isnan(said[4 * HOUR + 5].apart[0])
    assert not np.isnan(said[4 * HOUR + 20].apart[0])


def test_identical_pods_and_zeros_say_nothing() -> None:
    used = np.concatenate([np.full((5, 2 * HOUR), 3.0), np.zeros((5, 2 * HOUR))])
    _, _, score, said = run(used, np.repeat(np.arange(2), 5))
    assert np.nanmax(score[0]) < 1
    assert np.isnan(score[1]).all()
    assert said[-1].spread[0] == peers.FLOOR


def test_an_accepted_place_is_the_pods_own() -> None:
    used = pods_of(6, 8, 8 * HOUR)
    used[2, -HOUR:] *= 1.6
    group = np.zeros(8, dtype=np.int64)
    pods, groups, score, _ = run(used, group)
    assert score[0, -1] > 5
    after = peers.accepted(pods, np.array([True]), group)
    _, judged = peers.stepped(after, groups, used[:, -1], group, T0 + 9 * HOUR * STEP, STEP)
    assert judged.score[0] < 3
    assert peers.accepted(pods, np.array([False]), group) is pods


@settings(deadline=None, max_examples=8)
@given(scale=st.floats(1e-9, 1e12), seed=st.integers(0, 1000))
def test_neither_the_unit_nor_the_order_of_pods_matters(scale: float, seed: int) -> None:
    used = pods_of(seed, 9, 40)
    used[5, 30:] *= 2
    group = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1])
    order = np.random.default_rng(seed).permutation(9)
    _, _, score, said = run(used, group)
    _, _, other, turned = run(used[order] * scale, group[order])
    np.testing.assert_allclose(score, other, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(said[-1].apart[order], turned[-1].apart, rtol=1e-6, atol=1e-9)
    assert order[turned[-1].worst[1]] == said[-1].worst[1]
