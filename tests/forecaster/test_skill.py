"""Measured skill: who is scored, who is chosen, and when a row changes its forecaster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from forecaster import skill
from forecaster.domain import Context, Forecast, ForecastRequest
from forecaster.ports import Forecaster
from forecaster.reasons import ReasonCode
from forecaster.rows import Rows
from forecaster.skill import Chain
from models.persistence import Persistence
from models.profile import Profile
from tests.forecaster.forecasts import LEVELS, NOW, forecast_of
from tests.models.contexts import daily, live, request

CHAIN = Chain(("profile", "persistence"), reference=1)
ORIGIN = int(NOW.timestamp())
WINDOW = 4
BOTH = np.ones((1, 2), dtype=np.bool_)


def peaks(step: int, level: float) -> Forecast:
    """A forecaster that is sure of a peak of `level`; NaN: it has no answer."""
    values = np.full((1, 2, len(LEVELS)), level)
    return forecast_of(values, values[:, 0], origin=NOW + timedelta(minutes=step), window=WINDOW)


def play(levels: Sequence[float], steps: int, state: Rows | None = None, start: int = 0) -> Rows:
    """Windows whose peak is 100, forecast by forecasters that each say one of `levels`."""
    state = skill.blank(["a"], CHAIN) if state is None else state
    for step in range(start, start + steps):
        state = skill.issue(state, [peaks(step, level) for level in levels], ORIGIN + 60 * step)
        times = ORIGIN + 60 * np.arange(step - 10, step + 2)
        state = skill.observe(state, CHAIN, 60, times, np.full((1, 12), 100.0))
    return state


def asking(forecasters: Sequence[Forecaster], asked: ForecastRequest) -> Callable[[Context], Sequence[Forecast]]:
    return lambda past: [forecaster.forecast(past, asked) for forecaster in forecasters]


def test_the_first_of_the_chain_is_used_while_nothing_speaks_against_it() -> None:
    chosen, _ = skill.choose(skill.blank(["a"], CHAIN), BOTH)
    assert chosen.tolist() == [0]


def test_a_forecaster_that_does_better_is_chosen_and_it_is_said() -> None:
    state = play((80.0, 101.0), 120)
    chosen, state = skill.choose(state, BOTH)
    assert chosen.tolist() == [1]
    assert skill.ratios(state)[0, 0] > 2
    assert skill.reasons(state, CHAIN, chosen, BOTH)[0][0].code == ReasonCode.SKILL_BELOW_BASELINE


def test_a_small_lead_changes_nothing() -> None:
    _, state = skill.choose(skill.blank(["a"], CHAIN), BOTH)
    state = play((102.0, 101.95), 200, state)
    chosen, state = skill.choose(state, BOTH)
    assert chosen.tolist() == [0]
    assert skill.reasons(state, CHAIN, chosen, BOTH) == ((),)


def test_old_windows_are_forgotten_over_a_week() -> None:
    state = play((80.0, 101.0), 200)
    chosen, state = skill.choose(state, BOTH)
    assert chosen.tolist() == [1]
    state = play((101.0, 80.0), 200, state, start=60 * 24 * 28)
    chosen, _ = skill.choose(state, BOTH)
    assert chosen.tolist() == [0]


def test_one_that_has_no_answer_is_not_chosen() -> None:
    state = play((101.0, 80.0), 100)
    chosen, state = skill.choose(state, np.array([[False, True]]))
    assert chosen.tolist() == [1]
    assert skill.reasons(state, CHAIN, chosen, np.array([[False, True]])) == ((),)
    assert skill.choose(state, np.array([[False, False]]))[0].tolist() == [-1]


def test_windows_without_an_answer_count_for_nobody() -> None:
    state = play((float("nan"), 80.0), 100)
    assert np.asarray(state.arrays["windows"])[0, 0] == 0
    assert np.asarray(state.arrays["windows"])[0, 1] > 0
    np.testing.assert_allclose(skill.ratios(state)[0], 1.0)


def test_a_window_with_a_missing_sample_is_dropped() -> None:
    state = skill.issue(skill.blank(["a"], CHAIN), [peaks(0, 90.0), peaks(0, 90.0)], ORIGIN)
    values = np.full((1, 5), 100.0)
    values[0, 2] = np.nan
    state = skill.observe(state, CHAIN, 60, ORIGIN + 60 * np.arange(5), values)
    assert not np.asarray(state.arrays["windows"]).any()
    assert not np.asarray(state.arrays["due"]).any()


def test_several_windows_at_once_count_as_one_after_the_other() -> None:
    state = skill.blank(["a"], CHAIN)
    for step in range(4):
        state = skill.issue(state, [peaks(step, 80.0), peaks(step, 95.0)], ORIGIN + 60 * step)
    times, values = ORIGIN + 60 * np.arange(9), np.linspace(90, 100, 9)[None, :]
    at_once = skill.observe(state, CHAIN, 60, times, values)
    one_by_one = state
    for last in range(1, 10):
        one_by_one = skill.observe(one_by_one, CHAIN, 60, times[:last], values[:, :last])
    for name in ("loss", "beside", "windows"):
        np.testing.assert_allclose(at_once.arrays[name], one_by_one.arrays[name])


def test_one_before_the_proven_must_have_earned_it_by_more_windows_than_a_back_test_gives() -> None:
    begin, state = skill.choose(skill.blank(["a"], CHAIN), BOTH, first=1, proven=1)
    assert begin.tolist() == [1]
    state = play((101.0, 80.0), 120, state)  # 30 windows' worth
    few = float(np.asarray(state.arrays["windows"]).min())
    assert 8 < few < 100
    assert skill.choose(state, BOTH, first=1, proven=1)[0].tolist() == [1]
    assert skill.choose(state, BOTH, first=1)[0].tolist() == [0]  # none is proven: a back-test is enough
    assert skill.choose(state, BOTH, proven=1)[0].tolist() == [0]  # where it is the first itself
    state = play((101.0, 80.0), 600, state, start=120)
    assert skill.choose(state, BOTH, first=1, proven=1)[0].tolist() == [0]


def test_rows_are_picked_from_the_chosen_forecasters() -> None:
    forecasts = [forecast_of(np.full((3, 2, 7), float(i)), model=f"m{i}") for i in range(2)]
    picked = skill.picked(forecasts, np.array([0, 1, -1]))
    assert picked.values[:, 0, 0].tolist() == picked.peak[:, 0].tolist() == [0.0, 1.0, 0.0]
    assert picked.model == ("m0", "m1", "m0")


@dataclass
class Off:
    """A forecaster that is wrong by a factor."""

    inner: Profile
    factor: float = 3.0
    version: str = "off/1"

    def forecast(self, context: Context, request: ForecastRequest) -> Forecast:
        good = self.inner.forecast(context, request)
        return forecast_of(good.values * self.factor, good.peak * self.factor, good.levels, good.horizons.tolist())


def test_a_fresh_start_does_not_publish_a_loser() -> None:
    context, asked = live([daily(seed=1), daily(seed=2)]), request(2)
    state = skill.blank(["a", "b"], CHAIN)
    bad = skill.with_prior(state, CHAIN, context, asking([Off(Profile()), Persistence()], asked), asked.windows)
    good = skill.with_prior(state, CHAIN, context, asking([Profile(), Persistence()], asked), asked.windows)
    available = np.ones((2, 2), dtype=np.bool_)
    assert skill.choose(bad, available)[0].tolist() == [1, 1]
    assert skill.choose(good, available)[0].tolist() == [0, 0]


def test_a_prior_sees_nothing_after_each_origin_and_is_given_once() -> None:
    seen: list[int] = []

    class Watching:
        version = "watching/1"

        def forecast(self, context: Context, request: ForecastRequest) -> Forecast:
            seen.append(int(context.fine.origin.timestamp()))
            assert context.coarse.origin <= context.fine.origin
            assert context.fine.values.shape[1] == len(context.fine.times)
            return Persistence().forecast(context, request)

    context, asked = live([daily()]), request(1)
    state = skill.with_prior(
        skill.blank(["a"], CHAIN), CHAIN, context, asking([Watching(), Watching()], asked), asked.windows
    )
    assert max(seen) <= ORIGIN - 60 * 5
    assert skill.with_prior(state, CHAIN, context, asking([Watching(), Watching()], asked), asked.windows) is state


def test_one_that_is_grossly_wrong_lately_is_dropped_at_once_and_taken_again_when_it_is_right() -> None:
    state = play((101.0, 110.0), 2_000, skill.blank(["a"], CHAIN))
    assert skill.choose(state, BOTH)[0].tolist() == [0] and not skill.failing(state).any()
    state = play((1_000.0, 110.0), 12, state, start=2_000)
    assert skill.failing(state).tolist() == [[True, False]]
    assert skill.choose(state, BOTH)[0].tolist() == [1]
    assert skill.choose(state, np.array([[True, False]]))[0].tolist() == [0]  # nobody else answers
    state = play((101.0, 110.0), 60, state, start=2_012)
    assert not skill.failing(state).any()
