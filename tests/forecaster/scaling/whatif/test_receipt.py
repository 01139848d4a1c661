"""The receipt is causal, chooses on training alone, and its explained decisions are the floors that it played."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.domain import FloatArray
from forecaster.scaling.whatif import hours, peaks
from forecaster.scaling.whatif.play import play
from forecaster.scaling.whatif.receipt import EQUAL_COST, Receipt, receipt_of
from forecaster.scaling.whatif.settings import HPAS, Floors, Setting, service_of
from forecaster.scaling.whatif.trial import Trial
from models.artifact import bundled
from models.fits import FitCache
from models.neural import Neural
from models.persistence import Persistence
from models.profile import Profile
from tests.forecaster.scaling.whatif.loads import A_DAY, daily, trial

DAYS = 5


EVERY = 4  # steps between two questions to the network


def said(one: Trial, persistence: bool = False, network: bool = False) -> FloatArray:
    forecaster = (Persistence if persistence else Profile)(cache=FitCache(renews=False))
    answer = peaks.replay([one], forecaster, [one.start_up])[0]
    if network:
        other = peaks.replay([one], Neural(bundled()), [one.start_up], every=EVERY)[0]
        answer = peaks.averaged(answer, other, EVERY)
    return peaks.on_ticks(one, answer, 0)


def future_changed(values: FloatArray, column: int) -> FloatArray:
    changed = values.copy()
    changed[column:] = 3.0 * changed[column:][::-1]
    return changed


@pytest.fixture(scope="module")
def one() -> Trial:
    return trial(daily(DAYS))


@pytest.fixture(scope="module")
def receipt(one: Trial) -> Receipt:
    return receipt_of(one, said(one), said(one, persistence=True))


def test_peaks_are_the_mean_of_both_and_keep_their_difference_until_the_network_is_asked_again() -> None:
    rng = np.random.default_rng(2)
    one, other = (np.sort(rng.normal(10, 1, (12, 1, len(peaks.LEVELS))), axis=2).astype(np.float32) for _ in range(2))
    other[[i for i in range(12) if i % EVERY]] = np.nan
    other[8:] = np.nan  # it had nothing to say there
    medians = np.zeros((12, 2), dtype=np.float32)
    got = peaks.averaged(peaks.Said(medians, one), peaks.Said(medians, other), EVERY).peaks
    np.testing.assert_allclose(got[[0, 4]], (one[[0, 4]] + other[[0, 4]]) / 2, rtol=1e-6)
    kept = np.maximum.accumulate(one[5:8] + (other[4] - one[4]) / 2, axis=2)
    np.testing.assert_allclose(got[5:8], kept, rtol=1e-6)
    np.testing.assert_array_equal(got[8:], one[8:])


@pytest.mark.parametrize(
    ("persistence", "network"),
    [(False, False), (True, False), (False, True)],
    ids=["profile", "persistence", "mean with the network"],
)
def test_a_changed_future_changes_no_earlier_forecast(one: Trial, persistence: bool, network: bool) -> None:
    column = 4 * A_DAY + 100
    other = trial(future_changed(daily(DAYS), column))
    upto = (column - one.first) * one.per_step + 1  # the first tick of the step decides before it is seen
    before, after = said(one, persistence, network), said(other, persistence, network)
    assert np.isfinite(before[: one.cut_tick]).any()
    np.testing.assert_array_equal(before[:upto], after[:upto])
    assert not np.array_equal(before[upto:], after[upto:])


def test_a_changed_future_changes_no_earlier_decision(one: Trial) -> None:
    column = 4 * A_DAY + 100
    other = trial(future_changed(daily(DAYS), column))
    upto = (column - one.first) * one.per_step + 1
    for setting in (Setting(90, 300.0, 300.0, 0.98), Setting(70, 300.0, 300.0, 0.99, dialled=True)):
        before, after = Floors(one, said(one)).of(setting), Floors(other, said(other)).of(setting)
        assert before is not None
        assert after is not None
        assert before[:upto].tolist() == after[:upto].tolist()


def test_settings_are_chosen_without_a_look_at_the_test_part(one: Trial, receipt: Receipt) -> None:
    other = trial(future_changed(daily(DAYS), one.cut))
    again = receipt_of(other, said(other), said(other, persistence=True), points=False)
    assert [(pair.policy, pair.at, pair.words) for pair in again.pairs] == [
        (pair.policy, pair.at, pair.words) for pair in receipt.pairs
    ]
    chosen = [[row.words for row in each.rows if "hindsight" not in row.policy] for each in (again, receipt)]
    assert chosen[0] == chosen[1]


def test_each_policy_has_its_row_and_each_pair_keeps_its_limit_on_training(receipt: Receipt) -> None:
    tuned = receipt.row("tuned_hpa")
    assert {row.policy for row in receipt.rows} == {
        "user_hpa",
        "tuned_hpa",
        "fresh_hpa",
        "week_offset",
        "phpa_linear",
        "persistence",
        "forecaster",
        "forecaster_free",
        "forecaster_safety",
        "forecaster_safer",
        "oracle",
    } | {
        f"hindsight_hpa_{policy.removeprefix('forecaster_')}"
        for policy, one in receipt.hindsight.items()
        if one.figures is not None
    }
    for pair in receipt.pairs:
        if pair.at == EQUAL_COST:
            assert pair.training.replica_hours <= tuned.training.replica_hours * (1 + 1e-9)
            if pair.policy != "fresh_hpa":  # the tuned HPA is among what the others may choose
                assert pair.training.time_above_capacity <= tuned.training.time_above_capacity


def test_the_hpa_of_hindsight_is_as_safe_and_no_other_one_that_is_costs_less(one: Trial, receipt: Receipt) -> None:
    played = play(one, [service_of(one, setting) for setting in HPAS], [None] * len(HPAS), "test")
    for policy, found in receipt.hindsight.items():
        ours = receipt.row(policy).figures
        as_safe = [
            cost for time, cost in zip(played.upt(), played.cost(), strict=True) if time <= ours.time_above_capacity
        ]
        assert (found.figures is None) == (not as_safe)
        if found.figures is not None:
            assert found.figures.replica_hours == pytest.approx(min(as_safe))
            assert found.change == pytest.approx(ours.replica_hours / min(as_safe) - 1)


def test_what_the_default_does_is_calm(receipt: Receipt) -> None:
    for pair in receipt.pairs:
        if pair.policy == "forecaster" and pair.setting.level is not None:
            assert pair.setting.calm


def test_explained_decisions_are_the_floors_that_were_played(one: Trial) -> None:
    setting, told = Setting(90, 300.0, 300.0, 0.98), said(one)
    played = Floors(one, told).of(setting)
    assert played is not None
    first, last = one.cut_tick, one.cut_tick + 2_000
    made = hours.decisions(one, setting, told, first, last)
    assert [decision.floor for decision in made[1_000:]] == played[first + 1_000 : last].tolist()


def test_worst_hours_tell_what_was_short_and_why(receipt: Receipt) -> None:
    assert receipt.hours
    worst = receipt.hours[0]
    assert max(worst.user_seconds, worst.our_seconds) > 0
    assert len(worst.times) == len(worst.needed) == len(worst.user)
    for one in worst.decisions:
        assert "wanted" in one.words or "no forecast" in one.words
