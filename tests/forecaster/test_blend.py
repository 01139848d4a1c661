"""The mixture of forecasters: what its weights obey, what they learn from, and what they keep."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster import blend
from forecaster.blend import Layout
from forecaster.domain import BoolArray, Calendar, Context, FloatArray, Forecast, SeriesBatch, SeriesKey
from forecaster.reasons import ReasonCode
from forecaster.rows import Rows
from tests.forecaster.forecasts import LEVELS, NOW, forecast_of

STEP = 60
ORIGIN = int(NOW.timestamp())
HORIZONS = (1, 5)
NAMES = ("network", "profile", "persistence")
LAYOUT = Layout(STEP, HORIZONS, NAMES, reference=2)
HOURLY = Layout(3_600, (1, 24), NAMES, reference=2)
ALL = np.ones((1, 3), dtype=np.bool_)
SPREAD = np.array([-3.0, -1.5, -0.5, 0.0, 0.5, 1.5, 3.0])


def said(layout: Layout, step: int, misses: Sequence[Sequence[float]], load: float = 100.0) -> list[Forecast]:
    """A forecast per forecaster of one row: `misses` (forecaster, horizon) beside `load`; NaN: no answer."""
    origin = NOW + timedelta(seconds=layout.step * step)
    return [
        forecast_of((load + np.array(miss)[:, None] + SPREAD)[None], horizons=layout.horizons, origin=origin)
        for miss in misses
    ]


def play(
    state: Rows, layout: Layout, misses: Sequence[Sequence[float]], first: int, last: int, load: float = 100.0
) -> Rows:
    """Steps `first` … `last` - 1 of a load that never moves."""
    for step in range(first, last):
        times = ORIGIN + layout.step * np.arange(step - 10, step + 1)
        state = blend.observe(state, layout, times, np.full((1, 11), load))
        state = blend.issue(state, layout, said(layout, step, misses, load), ORIGIN + layout.step * step)
    return state


def anything(seed: int, rows: int, scale: float = 1.0) -> Rows:
    """State as it could be: losses of all sizes, forecasters that were never judged."""
    rng = np.random.default_rng(seed)
    keys = [str(row) for row in range(rows)]
    arrays = dict(blend.blank(keys, LAYOUT).arrays)
    shape = arrays["loss"].shape
    windows = rng.choice([0.0, 0.3, 7.0, 150.0, 3_000.0], shape)
    beside = scale * windows * rng.choice([0.0, 1.0, 20.0], shape)
    arrays |= {"windows": windows.astype(np.float32), "beside": beside.astype(np.float32)}
    arrays["loss"] = (beside * rng.gamma(1.0, 1.0, shape)).astype(np.float32)
    return Rows(tuple(keys), arrays)


def subset(seed: int, rows: int) -> BoolArray:
    return np.asarray(np.random.default_rng(seed).random((rows, 3)) < 0.6)


# --- laws ------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000))
def test_weights_sum_to_one_over_those_that_answer(seed: int) -> None:
    available = subset(seed, 20)
    weights = blend.weights(anything(seed, 20), LAYOUT, available)
    assert (weights >= 0).all()
    assert (weights[np.broadcast_to(~available[:, None], weights.shape)] == 0).all()
    np.testing.assert_allclose(weights.sum(axis=2), np.repeat(available.any(axis=1)[:, None], 2, axis=1), atol=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.sampled_from([1e-4, 1e3, 1e12]))
def test_weights_do_not_depend_on_the_unit_of_the_series(seed: int, scale: float) -> None:
    state = anything(seed, 5)
    arrays = {**state.arrays, "beside": np.maximum(state.arrays["beside"], state.arrays["windows"])}
    other = {**arrays, **{name: (arrays[name] * scale).astype(np.float32) for name in ("loss", "beside")}}
    everyone = np.ones((5, 3), dtype=np.bool_)
    mine, scaled = (blend.weights(Rows(state.keys, one), LAYOUT, everyone) for one in (arrays, other))
    np.testing.assert_allclose(scaled, mine, atol=1e-4)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000))
def test_a_mixture_never_crosses_and_lies_between_its_parts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.sort(rng.lognormal(0, 3, (3, 4, 3, len(LEVELS))), axis=-1)
    available = subset(seed, 4)
    values[~available.T] = np.nan
    parts = [forecast_of(one, horizons=(1, 3, 5)) for one in values]  # 3 lies between those that are followed
    mixture = blend.mixed(anything(seed, 4), LAYOUT, parts, "blend/x")
    for row in range(4):
        if not available[row].any():
            assert np.isnan(mixture.values[row]).all() and np.isnan(mixture.peak[row]).all()
            assert mixture.missing[row] is parts[0].missing[row] and parts[0].missing[row] is not None
            continue
        assert mixture.missing[row] is None
        for whole, part in ((mixture.values, values), (mixture.peak, values[:, :, 0])):
            mine = part[available[row], row]
            assert (np.diff(whole[row], axis=-1) >= 0).all()
            assert (whole[row] >= mine.min(axis=0) * (1 - 1e-9)).all()
            assert (whole[row] <= mine.max(axis=0) * (1 + 1e-9)).all()


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(0, 2))
def test_where_only_one_answers_the_mixture_equals_it(seed: int, one: int) -> None:
    values = np.full((3, 4, 3, len(LEVELS)), np.nan)
    values[one] = np.sort(np.random.default_rng(seed).normal(0, 100, values[one].shape), axis=-1)
    parts = [forecast_of(part, horizons=(1, 3, 5)) for part in values]
    mixture = blend.mixed(anything(seed, 4), LAYOUT, parts, "blend/x")
    np.testing.assert_allclose(mixture.values, values[one], rtol=1e-12)
    np.testing.assert_allclose(mixture.peak, values[one][:, 0], rtol=1e-12)
    assert mixture.missing == (None,) * 4 and mixture.model == ("blend/x",) * 4


# --- what the weights are --------------------------------------------------------------------------------------------


def test_without_feedback_the_prior_speaks() -> None:
    weights = blend.weights(blend.blank(["a"], LAYOUT), LAYOUT, ALL)[0]
    assert (np.diff(weights, axis=1) < 0).all()  # network, profile, persistence
    assert (weights[:, 0] > 0.5).all() and (weights[:, 2] > 0.05).all()  # and none is sure of anything


def test_each_horizon_has_the_forecaster_that_is_best_at_it() -> None:
    misses = [[0.0, 30.0], [30.0, 0.0], [10.0, 10.0]]
    weights = blend.weights(play(blend.blank(["a"], LAYOUT), LAYOUT, misses, 0, 240), LAYOUT, ALL)[0]
    assert weights[0, 0] > 0.99 and weights[1, 1] > 0.99


def test_between_followed_horizons_weights_are_between_theirs() -> None:
    state = play(blend.blank(["a"], LAYOUT), LAYOUT, [[0.0, 30.0], [30.0, 0.0], [10.0, 10.0]], 0, 240)
    parts = [forecast_of(np.full((1, 4, len(LEVELS)), level), horizons=(1, 2, 4, 5)) for level in (1.0, 0.0, 0.0)]
    (share,) = blend.mixed(state, LAYOUT, parts, "blend/x").values[..., 0]
    assert share[0] > 0.99 and share[-1] < 0.01 and (np.diff(share) < 0).all()


def test_weights_follow_within_days_when_another_one_becomes_the_best() -> None:
    good, bad = [5.0, 5.0], [10.0, 10.0]
    month = 24 * 30
    state = play(blend.blank(["a"], HOURLY), HOURLY, [good, bad, bad], 0, month)
    assert (blend.weights(state, HOURLY, ALL)[0, :, 0] > 0.9).all()
    state = play(state, HOURLY, [bad, good, bad], month, month + 24)
    assert (blend.weights(state, HOURLY, ALL)[0, :, 0] > 0.5).all()  # a day is not yet a habit
    state = play(state, HOURLY, [bad, good, bad], month + 24, month + 24 * 8)
    assert (blend.weights(state, HOURLY, ALL)[0, :, 1] > 0.5).all()
    state = play(state, HOURLY, [bad, good, bad], month + 24 * 8, month + 24 * 14)
    assert (blend.weights(state, HOURLY, ALL)[0, :, 1] > 0.9).all()


def test_a_newcomer_neither_takes_a_row_over_nor_is_shut_out() -> None:
    without = [[np.nan, np.nan], [10.0, 10.0], [10.0, 10.0]]
    for misses in (without, [[np.nan, np.nan], [8.0, 8.0], [10.0, 10.0]]):
        state = play(blend.blank(["a"], LAYOUT), LAYOUT, misses, 0, 400)
        newcomer = blend.weights(state, LAYOUT, ALL)[0, :, 0]
        assert (newcomer > 0.2).all() and (newcomer < 0.9).all()


# --- what is judged --------------------------------------------------------------------------------------------------


def test_a_forecaster_without_an_answer_is_not_judged_and_the_others_are() -> None:
    state = play(blend.blank(["a"], LAYOUT), LAYOUT, [[np.nan, np.nan], [1.0, 1.0], [2.0, 2.0]], 0, 30)
    windows = np.asarray(state.arrays["windows"])[0]
    assert (windows[:, 0] == 0).all() and (windows[:, 1:] > 0).all()
    assert all(np.isfinite(state.arrays[name]).all() for name in ("loss", "beside", "windows"))


def test_without_the_reference_nothing_is_remembered() -> None:
    blank = blend.blank(["a"], LAYOUT)
    forecasts = said(LAYOUT, 0, [[1.0, 1.0], [2.0, 2.0], [np.nan, np.nan]])
    assert blend.issue(blank, LAYOUT, forecasts, ORIGIN) is blank


def test_a_forecast_is_judged_when_it_is_due_and_not_before() -> None:
    state = blend.issue(blend.blank(["a"], LAYOUT), LAYOUT, said(LAYOUT, 0, [[0.0, 0.0]] * 3), ORIGIN)
    for head, judged in ((0, []), (1, [1]), (4, [1]), (5, [1, 5])):
        times = ORIGIN + STEP * np.arange(head - 10, head + 1)
        windows = np.asarray(blend.observe(state, LAYOUT, times, np.full((1, 11), 100.0)).arrays["windows"])
        assert [HORIZONS[i] for i in np.flatnonzero(windows[0, :, 0])] == judged


def test_the_sample_of_its_own_time_judges_a_forecast() -> None:
    state = blend.issue(blend.blank(["a"], LAYOUT), LAYOUT, said(LAYOUT, 0, [[0.0, 0.0], [5.0, 5.0]] * 2)[:3], ORIGIN)
    times, came = ORIGIN + STEP * np.arange(-3, 8), np.full((1, 11), 1e6)
    came[0, [4, 8]] = 100.0  # one and five steps after the origin
    loss = np.asarray(blend.observe(state, LAYOUT, times, came).arrays["loss"])[0]
    spread = np.array([0.1 * 1.5, 0.0, 0.1 * 1.5]).mean() / blend.PENDING
    np.testing.assert_allclose(loss[:, 0], spread, rtol=1e-5)
    assert (loss[:, 1] > 2 * loss[:, 0]).all()


def test_a_sample_that_comes_late_is_waited_for_and_one_that_never_comes_judges_nothing() -> None:
    state = blend.issue(blend.blank(["a"], LAYOUT), LAYOUT, said(LAYOUT, 0, [[0.0, 0.0]] * 3), ORIGIN)
    came = np.full((1, 11), np.nan)

    def seen(state: Rows, head: int, values: FloatArray) -> Rows:
        return blend.observe(state, LAYOUT, ORIGIN + STEP * np.arange(head - 10, head + 1), values)

    waiting = seen(state, 1, came)
    assert not waiting.arrays["windows"].any() and waiting.arrays["due"][0, 0].any()
    assert seen(waiting, 2, np.full((1, 11), 100.0)).arrays["windows"][0, 0].all()
    gone = seen(waiting, 30, np.full((1, 11), 100.0))  # its time is no longer looked at
    assert not gone.arrays["windows"].any() and not gone.arrays["due"].any()


def test_several_forecasts_at_once_count_as_one_after_the_other() -> None:
    state = blend.blank(["a"], LAYOUT)
    for step in range(0, 6, 2):
        misses = [[step, 1.0], [2.0, step], [3.0, 3.0]]
        state = blend.issue(state, LAYOUT, said(LAYOUT, step, misses), ORIGIN + STEP * step)
    times, values = ORIGIN + STEP * np.arange(12), np.linspace(90, 110, 12)[None, :]
    one_by_one = state
    for last in range(1, 13):
        one_by_one = blend.observe(one_by_one, LAYOUT, times[:last], values[:, :last])
    at_once = blend.observe(state, LAYOUT, times, values)
    assert (np.asarray(at_once.arrays["windows"]) > 1 / blend.PENDING).any()
    for name, array in at_once.arrays.items():
        np.testing.assert_allclose(array, one_by_one.arrays[name], rtol=1e-5, err_msg=name)


def test_a_forecast_that_is_judged_late_does_not_turn_time_back() -> None:
    state = play(blend.blank(["a"], LAYOUT), LAYOUT, [[0.0, 0.0]] * 3, 0, 30)
    before = np.asarray(state.arrays["updated_at"]).copy()
    state.arrays["due"][0, 0, 0] = ORIGIN + 20 * STEP
    after = blend.observe(state, LAYOUT, ORIGIN + STEP * np.arange(30), np.full((1, 30), 100.0))
    assert (np.asarray(after.arrays["windows"])[0, 0] > np.asarray(state.arrays["windows"])[0, 0]).all()
    assert (np.asarray(after.arrays["updated_at"]) >= before).all()


# --- what is kept ----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(st.permutations(["a", "b", "c"]), st.integers(0, 10_000))
def test_rows_that_move_keep_their_weights_and_new_ones_have_the_prior(keys: list[str], seed: int) -> None:
    state = anything(seed, 3)
    state = Rows(("a", "b", "x"), state.arrays)
    moved = state.aligned(keys, blend.blank(("",), LAYOUT).arrays)
    everyone = np.ones((3, 3), dtype=np.bool_)
    before, after = blend.weights(state, LAYOUT, everyone), blend.weights(moved, LAYOUT, everyone)
    prior = blend.weights(blend.blank(["c"], LAYOUT), LAYOUT, ALL)[0]
    for row, key in enumerate(keys):
        np.testing.assert_array_equal(after[row], prior if key == "c" else before[state.keys.index(key)])


def test_state_for_other_forecasters_keeps_what_has_the_same_name() -> None:
    state = play(blend.blank(["a"], LAYOUT), LAYOUT, [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], 0, 30)
    other = Layout(STEP, HORIZONS, ("persistence", "day", "network", "profile"), reference=0)
    relaid = blend.relaid(state, LAYOUT, other, anew={"profile"})
    for name in ("loss", "beside", "windows"):
        np.testing.assert_array_equal(relaid.arrays[name][..., [0, 2]], state.arrays[name][..., [2, 0]])
        assert not relaid.arrays[name][..., [1, 3]].any()
    judged = blend.observe(relaid, other, ORIGIN + STEP * np.arange(20, 40), np.full((1, 20), 100.0))
    grown = np.asarray(judged.arrays["windows"]) > relaid.arrays["windows"]
    assert grown[..., [0, 2]].any() and not judged.arrays["windows"][..., [1, 3]].any()


@pytest.mark.parametrize(
    "other",
    [
        Layout(30, HORIZONS, NAMES, 2),
        Layout(STEP, (1, 6), NAMES, 2),
        Layout(STEP, HORIZONS, NAMES[::-1], 0),
    ],
    ids=["step", "horizons", "order"],
)
def test_another_layout_is_another_version(other: Layout) -> None:
    assert other.version != LAYOUT.version


def test_a_row_that_none_answers_says_why() -> None:
    mixture = blend.mixed(blend.blank(["a"], LAYOUT), LAYOUT, said(LAYOUT, 0, [[np.nan, np.nan]] * 3), "blend/x")
    assert [reason and reason.code for reason in mixture.missing] == [ReasonCode.NO_DATA]


def test_a_back_test_decides_before_anything_was_judged_live() -> None:
    batch = SeriesBatch((SeriesKey("a"),), NOW, timedelta(seconds=STEP), np.full((1, 200), 100.0))
    context = Context(batch, batch, Calendar(("UTC",)))
    misses = [[40.0, 40.0], [0.5, 0.5], [10.0, 10.0]]  # the network, whose prior is the best, is far off
    told = [(column, said(LAYOUT, column - 199, misses)) for column in range(20, 190, 20)]
    state = blend.with_prior(blend.blank(["a"], LAYOUT), LAYOUT, context, told)
    assert (blend.weights(state, LAYOUT, ALL)[0, :, 1] > 0.9).all()
    assert blend.with_prior(state, LAYOUT, context, told) is state, "what was judged is not judged again"


def test_what_is_masked_or_still_to_come_judges_nothing() -> None:
    batch = SeriesBatch((SeriesKey("a"),), NOW, timedelta(seconds=STEP), np.full((1, 200), 100.0))
    masked = Context(batch, batch, Calendar(("UTC",)), masked=np.ones((1, 200), dtype=np.bool_))
    blank = blend.blank(["a"], LAYOUT)
    some = said(LAYOUT, -9, [[40.0, 40.0], [0.5, 0.5], [10.0, 10.0]])
    assert (blend.with_prior(blank, LAYOUT, masked, [(190, some)]).arrays["windows"] == 0).all()
    known = Context(batch, batch, Calendar(("UTC",)))
    windows = blend.with_prior(blank, LAYOUT, known, [(197, some)]).arrays["windows"]
    assert (windows[0] > 0).tolist() == [[True] * 3, [False] * 3], "the horizon of five steps lies ahead"


def test_where_network_or_profile_has_no_answer_the_peak_takes_the_weights_of_the_values() -> None:
    rng = np.random.default_rng(5)
    followed = rng.dirichlet(np.ones(3), size=(3, 2))
    available = np.array([[True, True, True], [False, True, True], [True, False, True]])
    weights = blend.peak_weights(followed, LAYOUT, available, np.array([1, 4, 9]))
    np.testing.assert_array_equal(weights[0], [0.5, 0.5, 0.0])
    np.testing.assert_array_equal(weights[1:], followed[1:, 1])
