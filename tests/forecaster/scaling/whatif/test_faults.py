"""Faults of the forecaster in the replay: what breaks, what defends, and how it is told."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecaster import blend
from forecaster.domain import Bounds, HpaFacts, IntArray, ScaleSpec
from forecaster.foresight import Foresight
from forecaster.scaling import decision
from forecaster.scaling.decision import DecisionInput, DecisionState
from forecaster.scaling.whatif import faults, faults_report
from forecaster.scaling.whatif.faults import DEAD, DEAD_SECONDS, NONE, Outcome
from forecaster.scaling.whatif.peaks import LEVELS, Said, windows_of
from forecaster.scaling.whatif.trial import Trial
from models import chain
from serving import whatif_faults
from serving.whatif import Wanted
from tests.forecaster.scaling.whatif.loads import daily, trial

PLACES = (blend.NAME, "profile", "persistence")
BEGIN = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def one() -> Trial:
    return trial(daily(6))


@pytest.fixture(scope="module")
def told(one: Trial) -> dict[str, Outcome]:
    ((_, found),) = whatif_faults.outcomes(Wanted(trials=[one]))
    return {each.kind: each for each in found}


def said_of(trial: Trial, ratio: float = 1.0) -> Said:
    """A forecaster that knows the maximum to come, times `ratio`, with a little spread."""
    steps = trial.end - trial.first
    window = int(windows_of(trial.step, [trial.start_up])[0])
    came = np.append(trial.values[trial.first : trial.end], np.full(window, trial.values[-1]))
    top = ratio * np.array([came[i : i + window].max() for i in range(steps)])
    peak = top[:, None] * (1.0 + 0.02 * np.arange(len(LEVELS)))[None, :]
    return Said(np.repeat(top[:, None], 2, axis=1).astype(np.float32), peak[:, None, :].astype(np.float32))


def test_every_fault_stands_beside_the_hpa_and_none_is_worse_than_it(told: dict[str, Outcome]) -> None:
    assert set(told) == set(faults.KINDS)
    for kind, each in told.items():
        assert each.time <= faults.MOST_TIME, kind
        assert each.above_hpa >= 0 and each.replica_hours_hpa > 0
    assert told[DEAD].deaths >= 1
    assert told[DEAD].extra_minutes / told[DEAD].deaths <= faults.MOST_EXTRA


def test_a_fault_that_asks_for_ten_times_as_much_is_bounded(told: dict[str, Outcome]) -> None:
    for kind in ("model_x10", "both_x10"):
        assert told[kind].replica_hours > told[NONE].replica_hours * 0.9
        assert told[kind].cost < 0.6  # without the choice by skill it would be the limit of new peaks for good


def test_before_the_onset_nothing_differs(one: Trial) -> None:
    begin = faults.onset(one)
    sound = said_of(one)
    for how in faults.WRONG:
        wrong = faults.broken(sound, how, begin, one.step)
        assert np.array_equal(wrong.peaks[:begin], sound.peaks[:begin])
        assert not np.array_equal(wrong.peaks[begin + 1 :], sound.peaks[begin + 1 :], equal_nan=True)
    for kind in faults.REGIMES:
        other = faults.changed(one, kind)
        ticks = begin * one.per_step
        assert np.array_equal(other.load[:ticks], one.load[:ticks])
        assert np.allclose(other.load[ticks:], faults.REGIMES[kind] * one.load[ticks:])
    poisoned = faults.changed(one, "incident")
    assert np.array_equal(poisoned.load[begin * one.per_step :], one.load[begin * one.per_step :])
    assert poisoned.values[: one.first + begin].max() > 2 * one.values.max()


def asked(said: Said, every: int) -> Said:
    """The same where it is asked at each `every`-th step only."""
    tops = said.peaks.copy()
    tops[np.arange(len(tops)) % every > 0] = np.nan
    return Said(said.medians, tops)


def test_a_model_that_is_asked_now_and_then_fails_when_it_is_asked(one: Trial) -> None:
    begin, every = faults.onset(one) + 2, 5
    whole, sound = said_of(one), asked(said_of(one), every)
    at = np.arange(len(sound.peaks))
    at = at[(at % every == 0) & (at >= begin)]
    frozen = faults.broken(sound, "frozen", begin, one.step)
    assert (frozen.peaks[at] == whole.peaks[begin - begin % every]).all()
    late = faults.broken(sound, "late", begin, one.step)
    assert np.array_equal(late.peaks[at], whole.peaks[(at - faults.LATE_SECONDS // one.step) // every * every])
    for said in (frozen, late):
        assert np.array_equal(np.isfinite(said.peaks), np.isfinite(sound.peaks))


def test_between_its_answers_a_model_keeps_its_difference_to_the_profile(one: Trial) -> None:
    profile, network = said_of(one), asked(said_of(one, 1.2), 5)
    mixture, held, same, _ = faults.chain_of(profile, network, said_of(one, 1.5), 5)
    assert same is profile
    assert np.array_equal(held.peaks[::5], network.peaks[::5])
    assert np.isfinite(held.peaks).all()
    away = held.peaks[:-1] - profile.peaks[:-1]
    assert np.allclose(away[1:5], away[0], atol=1e-3 * float(profile.peaks.max()))
    assert np.allclose(mixture.peaks, (profile.peaks + held.peaks) / 2, rtol=1e-5)
    lost = faults.chain_of(profile, faults.broken(network, "nan", 10, one.step), profile, 5)
    assert np.isnan(lost[1].peaks[10:]).all()
    assert np.array_equal(lost[0].peaks[10:], profile.peaks[10:])


def failing(one: Trial, both: bool) -> list[Said]:
    """What is issued where nothing fails, and where the model (and the profile) says NaN, ten times too much, and 0."""
    begin, sound, last = faults.onset(one), said_of(one), said_of(one, 1.1)
    given = [faults.chain_of(sound, sound, last, 1)]
    for how in ("nan", "x10", "x0"):
        wrong = faults.broken(sound, how, begin, one.step)
        given.append(faults.chain_of(wrong if both else sound, wrong, last, 1))
    return faults.gated([one] * 4, given, 0)


def test_the_profile_takes_over_from_a_model_that_answers_nothing_at_once_and_from_a_wild_one_soon(one: Trial) -> None:
    begin, sound = faults.onset(one), said_of(one)
    kept, nothing, wild, zero = failing(one, both=False)
    assert np.array_equal(kept.peaks, sound.peaks)
    assert np.array_equal(nothing.peaks, sound.peaks)
    for each in (wild, zero):
        right = (each.peaks == sound.peaks).all(axis=(1, 2))
        assert right[:begin].all() and not right[begin] and right[-1]
        assert right[begin:].mean() > 0.5


def test_persistence_takes_over_where_model_and_profile_fail(one: Trial) -> None:
    begin, sound, last = faults.onset(one), said_of(one), said_of(one, 1.1)
    kept, nothing, wild, zero = failing(one, both=True)
    assert np.array_equal(kept.peaks, sound.peaks)
    assert np.array_equal(nothing.peaks[begin:], last.peaks[begin:])
    for each in (wild, zero):
        taken = (each.peaks == last.peaks).all(axis=(1, 2))
        assert not taken[:begin].any() and taken[-1]
        assert taken[begin:].mean() > 0.5


def test_the_chain_of_the_replay_is_the_live_one_less_seasonal_naives() -> None:
    live, ours = Foresight(chain.shipped(), timedelta(minutes=1)).chain, faults.CHAIN
    assert [name for name in live.names if name in ours.names] == list(ours.names)
    for one in (live, ours):
        assert [one.names[place] for place in (one.first, one.proven, one.reference)] == list(PLACES)


def live_release(floor: int, own: int, valid: int, ticks: int) -> list[int]:
    """Floors of the live decision, whose forecast and data end after the first tick."""
    spec = ScaleSpec("-", "w", bounds=Bounds(own, 500), valid_for=timedelta(seconds=15 * valid))
    facts, state, out = HpaFacts(min_replicas=own, max_replicas=500), DecisionState(), []
    for tick in range(-12, ticks):
        known = tick < 0
        inputs = DecisionInput(
            BEGIN + timedelta(seconds=15 * tick),
            "w",
            spec,
            facts,
            users_own_min=own,
            peak=float(floor) if known else None,
            level=0.99,
            newest_load=1.0,
            capacity=1.0,
            lead_time=timedelta(seconds=60),
        )
        made, state = decision.decide(inputs, state)
        out.append(own if made.floor is None else made.floor)
    return out[12:]


def test_the_walk_back_is_as_fast_as_that_of_the_live_decision() -> None:
    live: list[int] = live_release(10, 2, 20, 80)
    ours = faults.walk_back(10, 2, 19, 80).tolist()
    assert ours[:19] == live[:19] == [10] * 19
    assert sorted(set(ours)) == sorted(set(live))  # the same steps down, of a minute each
    assert ours[-1] == live[-1] == 2
    assert abs(ours.index(2) - live.index(2)) <= 4


def test_a_service_that_comes_back_grows_its_floor_by_the_step_limit(one: Trial) -> None:
    sound = np.full(len(one.load), 40, dtype=np.int64)
    made: IntArray = faults.dying(one, sound)
    dead = int(DEAD_SECONDS // 15)
    for begin in faults.deaths(one):
        assert made[begin] == 40 and made[begin + dead - 1] == one.hpa.min_replicas
        assert made[begin + dead : begin + dead + 20 : 4].tolist() == [4, 8, 16, 32, 40]
    assert made[faults.deaths(one)[0] - 1] == 40


def test_table_and_json_say_the_same(one: Trial, told: dict[str, Outcome]) -> None:
    found = [(one, tuple(told[kind] for kind in faults.KINDS))]
    said = json.loads(json.dumps(faults_report.as_dict(found, [("b", "too short")]), allow_nan=False))
    assert said["schemaVersion"] == 2 and len(said["summary"]) == len(said["rows"]) == len(faults.KINDS)
    text = faults_report.as_text(found, [("b", "too short")])
    for line in faults_report.lines(found):
        assert f"| 600 s | {faults_report.WORDS[line.kind]} | {100 * line.time:+.2f} |" in text
        assert line.kept == (
            line.time <= faults.MOST_TIME
            and line.cost <= faults.MOST_COST
            and (line.extra_minutes is None or line.extra_minutes <= faults.MOST_EXTRA)
        )
    assert "too short" in text
