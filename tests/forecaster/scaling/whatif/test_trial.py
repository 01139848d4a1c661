"""What a receipt refuses, and how a load is cut and held."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from forecaster.errors import InputError
from forecaster.scaling.hpa import Policy, Rules, with_defaults
from forecaster.scaling.whatif.play import play
from forecaster.scaling.whatif.trial import DAY, Hpa, trial_of
from tests.forecaster.scaling.whatif.loads import A_DAY, STEP, daily, times, trial


@pytest.mark.parametrize(
    ("values", "more", "words"),
    [
        (daily(1.5), {}, "history_too_short"),
        (np.full(3 * A_DAY, 5.0), {}, "constant_series"),
        (np.full(3 * A_DAY, np.nan), {}, "too_many_gaps"),
        (-daily(3), {}, "below 0"),
        (daily(3), {"capacity": 0.0}, "capacity_unknown"),
        (daily(3), {"capacity": -2.0}, "capacity_unknown"),
        (daily(3), {"hpa": Hpa(min_replicas=9, max_replicas=3)}, "the minimum 9 is above the maximum 3"),
        (daily(3), {"hpa": Hpa(target=0)}, "a target of 0 %"),
        (daily(3), {"start_up": 60}, "shorter than its step"),
        (daily(3), {"start_up": 915}, "looks 15 minutes ahead at most"),
        (np.where(np.arange(3 * A_DAY) < 2, daily(3), 0.0), {}, "capacity is 0"),
    ],
    ids=[
        "short",
        "constant",
        "gaps",
        "negative",
        "zero",
        "negative capacity",
        "bounds",
        "target",
        "step",
        "long",
        "idle",
    ],
)
def test_a_bad_input_is_refused_in_words(values: Any, more: dict[str, Any], words: str) -> None:
    given = {"start_up": 600, **more}
    with pytest.raises(InputError, match=words) as caught:
        trial_of("checkout", times(len(values) / A_DAY), values, STEP, **given)
    assert str(caught.value).startswith("checkout: ")


def test_a_value_stands_for_its_whole_step_and_a_gap_holds_the_last_one() -> None:
    values = daily(3)
    values[500:504] = np.nan
    found = trial_of("checkout", times(3), values, STEP, 600, capacity=60.0, noise=0.0)
    steps = found.load.reshape(-1, found.per_step)
    assert (steps == steps[:, :1]).all()
    assert (steps[500 - found.first : 504 - found.first] == values[499]).all()


def test_the_parts_are_cut_at_60_per_cent_with_at_most_10_and_14_days() -> None:
    found = trial(daily(40))
    assert (found.cut, found.training_days, found.test_days) == (24 * A_DAY, 10.0, 14.0)
    short = trial(daily(5))
    assert (short.first, short.cut, short.end) == (0, 3 * A_DAY, 5 * A_DAY)
    assert len(short.load) == 5 * DAY / 15


def test_a_load_that_was_cut_at_its_top_is_marked() -> None:
    assert trial(np.minimum(daily(5), 1_500.0)).saturated_share > 0.2
    assert trial(daily(5)).saturated_share < 0.02


def test_a_behavior_stays_with_the_users_hpa_and_makes_a_difference() -> None:
    slow = with_defaults(Rules(policies=(Policy("Pods", 1, 60.0),)), None)
    plain = trial(daily(3))
    own = replace(plain, hpa=replace(plain.hpa, behavior=slow))
    assert own.service(target=50, stabilization=60.0).behavior == replace(
        slow, scale_down=replace(slow.scale_down, stabilization_window_seconds=60.0)
    )
    without, with_it = (play(one, [one.service()], [None], "test").of(0) for one in (plain, own))
    assert with_it.unmet_load > without.unmet_load
