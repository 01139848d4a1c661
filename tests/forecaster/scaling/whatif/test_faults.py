"""Under a fault: only its spans are spoilt, the chain turns away, floors expire, and all of it is causal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from forecaster.scaling.whatif import faults, peaks
from forecaster.scaling.whatif.faults import DEAD, FAULTS, NONE, Fault
from forecaster.scaling.whatif.floors import FloorRules
from forecaster.scaling.whatif.peaks import Said
from forecaster.scaling.whatif.trial import Trial
from models.fits import FitCache
from models.persistence import Persistence
from models.profile import Profile
from tests.forecaster.scaling.whatif.loads import A_DAY, daily, trial

BY_NAME = {one.name: one for one in FAULTS}
DAYS = 10


def heard_of(one: Trial) -> dict[str, Said]:
    """The profile stands for the mixture, too: which forecaster it is does not matter here."""
    profile = peaks.replay([one], Profile(cache=FitCache(renews=False)), [one.start_up])[0]
    last = peaks.replay([one], Persistence(cache=FitCache(renews=False)), [one.start_up])[0]
    return {"blend": profile, "profile": profile, "persistence": last}


@pytest.fixture(scope="module")
def one() -> Trial:
    return faults.shortened(trial(daily(DAYS)), NONE)


@pytest.fixture(scope="module")
def heard(one: Trial) -> dict[str, Said]:
    return heard_of(one)


def played(one: Trial, heard: Mapping[str, Said], fault: Fault) -> tuple[faults.Outcome, np.ndarray]:
    spans = faults.spans_of(one, fault)
    said, who = faults.chosen([one], [faults.spoilt(heard, fault, spans, one.step)], 0)[0]
    return faults.outcome(one, said, who, 0, fault, spans), who


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_spans_lie_in_the_test_part_and_do_not_overlap(fault: Fault) -> None:
    short = faults.shortened(trial(daily(DAYS)), fault)
    spans = faults.spans_of(short, fault)
    assert spans and spans[0][0] >= short.cut - short.first and spans[-1][1] <= short.end - short.first
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))


@pytest.mark.parametrize("name", ["frozen", "nan", "x10", "x0", "late"])
def test_a_fault_spoils_its_spans_and_nothing_else(one: Trial, heard: dict[str, Said], name: str) -> None:
    spans = faults.spans_of(one, BY_NAME[name])
    spoilt = faults.spoilt(heard, BY_NAME[name], spans, one.step)
    inside = np.zeros(one.end - one.first, dtype=np.bool_)
    for first, end in spans:
        inside[first:end] = True
    same = np.isclose(spoilt["blend"].peaks, heard["blend"].peaks, equal_nan=True).all(axis=(1, 2))
    assert same[~inside].all() and same[inside].mean() < 0.1
    assert spoilt["persistence"] is heard["persistence"]


def test_what_is_said_late_was_said_an_hour_before(one: Trial, heard: dict[str, Said]) -> None:
    (first, end), hour = faults.spans_of(one, BY_NAME["late"])[0], A_DAY // 24
    late = faults.spoilt(heard, BY_NAME["late"], [(first, end)], one.step)["profile"].peaks
    np.testing.assert_allclose(late[first:end], heard["profile"].peaks[first - hour : end - hour])


@pytest.mark.parametrize("name", ["x10", "x0", "nan"])
def test_the_chain_turns_away_from_what_is_broken_and_comes_back(one: Trial, heard: dict[str, Said], name: str) -> None:
    first, end = faults.spans_of(one, BY_NAME[name])[0]
    _, who = played(one, heard, BY_NAME[name])
    window = int(peaks.windows_of(one.step, [one.start_up])[0])
    assert (who[first + 3 * window : end] == faults.CHAIN.names.index("persistence")).all()
    assert (who[:first] != faults.CHAIN.names.index("persistence")).all()


@pytest.mark.parametrize(
    "fault", [one for one in FAULTS if not one.name.startswith("regime")], ids=lambda one: one.name
)
def test_a_floor_on_the_hpa_is_never_longer_above_capacity_than_the_hpa(
    one: Trial, heard: dict[str, Said], fault: Fault
) -> None:
    found, _ = played(one, heard, fault)
    assert found.above <= found.above_alone + 15 and found.seconds > 0
    assert found.replica_hours >= 0.99 * found.replica_hours_alone


def test_a_changed_future_changes_no_earlier_choice(one: Trial, heard: dict[str, Said]) -> None:
    column = one.cut + A_DAY
    values = np.asarray(one.values, dtype=np.float64).copy()
    values[column:] = 3 * values[column:][::-1]
    other = replace(one, values=values)
    upto = column - one.first + 1
    here, there = faults.chosen([one], [heard], 0)[0], faults.chosen([other], [heard_of(other)], 0)[0]
    np.testing.assert_array_equal(here[1][:upto], there[1][:upto])
    np.testing.assert_array_equal(here[0].peaks[:upto], there[0].peaks[:upto])


def test_the_floor_of_a_dead_service_stands_for_its_validity_and_walks_back_a_step_a_minute() -> None:
    given = np.full(400, 20, dtype=np.int64)
    got = faults.expired(given, [(100, 300)], FloorRules(users_own=2, most=50), validity=300.0)
    assert (got[:120] == 20).all() and got[120] == 16 and got[123] == 16 and got[124] == 13
    assert got[299] == 2 and (got[300:] == 20).all()


def test_totals_hold_their_bounds_only_where_each_holds() -> None:
    good = faults.Outcome("a", 180, DEAD.name, 1e4, 10.0, 10.0, 104.0, 100.0, 30.0, 0.0, 1, 0.0)
    assert faults.totals([good])[0].holds
    for change in ({"above": 21.0}, {"replica_hours": 106.0}, {"bounded_above": 31.0}):
        assert not faults.totals([replace(good, **change)])[0].holds, change
    assert faults.totals([good, replace(good, series="b", above=25.0)])[0].worst_time == pytest.approx(15.0 / 1e4)
