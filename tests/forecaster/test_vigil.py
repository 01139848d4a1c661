"""What the vigil finds in samples: incidents, changed units, and the intervals that nobody may learn from."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.anomaly.feedback import taught
from forecaster.domain import BoolArray, FloatArray, Incident, SeriesKey, WorkloadSpec
from forecaster.foresight import LEVELS
from forecaster.history import History
from forecaster.scaling.tripwires import FaultKind
from forecaster.vigil import Vigil
from tests.fakes import FakeSource, daily
from tests.forecaster.forecasts import forecast_of

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ORIGIN = int(NOW.timestamp())
MINUTE = timedelta(minutes=1)
SPAN = timedelta(days=2)
KEYS = ("a#1/load", "b#1/load")
SERIES = (SeriesKey("a"), SeriesKey("b"))
NOISE = 100 + np.random.default_rng(3).standard_normal((400, 2))
CALM = np.zeros(2, dtype=np.bool_)


def vigil(step: timedelta = MINUTE) -> Vigil:
    one = Vigil(step, LEVELS, 0.1, SPAN)
    one.align(KEYS, SERIES)
    return one


def freeze(one: Vigil, at: int, median: float = 100.0, seconds: int = 60) -> None:
    """A forecast of `median` for all horizons, made `at` steps after NOW."""
    values = np.broadcast_to(median + 2.0 * (np.arange(7) - 3), (2, 3, 7)).copy()
    origin = NOW + timedelta(seconds=at * seconds)
    one.freeze(forecast_of(values, horizons=(1, 5, 60), origin=origin))


def see(one: Vigil, at: int, observed: FloatArray, masked: BoolArray = CALM, seconds: int = 60) -> None:
    nothing = np.full(2, np.nan)
    one.step(ORIGIN + at * seconds, observed, nothing, nothing, masked, ((), ()))


def lived(one: Vigil, first: int, last: int, loads: FloatArray = NOISE) -> None:
    """Steps of samples as they were forecast."""
    for at in range(first, last):
        see(one, at, loads[at])
        freeze(one, at)


def with_spike(factor: float = 3.0, at: int = 30, steps: int = 4) -> FloatArray:
    loads = NOISE.copy()
    loads[at : at + steps, 0] *= factor
    return loads


@pytest.fixture(scope="module")
def in_an_incident() -> tuple[Vigil, Incident]:
    """A vigil right after the last sample of a spike of row 0, and the incident. Do not step it."""
    one = vigil()
    lived(one, 0, 34, with_spike())
    (incident,) = one.open_incidents()
    return one, incident


# --- incidents -------------------------------------------------------------------------------------------------------


def test_a_spike_is_one_incident_of_its_row(in_an_incident: tuple[Vigil, Incident]) -> None:
    _, incident = in_an_incident
    assert (incident.workload, incident.role, incident.kind, incident.direction) == ("a", "load", "residual", "up")
    assert incident.onset == NOW + 30 * MINUTE and incident.closed_at is None


def test_it_closes_once_the_load_is_calm_again() -> None:
    one = vigil()
    lived(one, 0, 34, with_spike())
    (incident,) = one.open_incidents()
    closed: list[Incident] = []
    for at in range(34, 50):
        see(one, at, NOISE[at])
        assert one.followed is not None
        closed += one.followed.closed
        freeze(one, at)
    assert [gone.id for gone in closed] == [incident.id] and one.open_incidents() == ()


def test_a_sample_is_judged_by_what_was_frozen_before_it_came() -> None:
    one = vigil()
    lived(one, 0, 30)
    see(one, 30, np.array([300.0, 100.0]))
    freeze(one, 30, median=300.0)  # the forecast that already knows of the spike: it is for the next step
    assert one.followed is not None
    assert one.followed.score[0] > 5 and one.followed.high[0] == pytest.approx(106.0, rel=0.02)
    see(one, 31, np.array([300.0, 300.0]))
    assert one.followed.low[1] == pytest.approx(294.0, rel=0.02)


def test_what_was_expected_is_remembered_with_its_time() -> None:
    one = vigil()
    lived(one, 0, 5)
    band = one.band
    assert band.times.tolist()[-5:] == [ORIGIN + 60 * at for at in range(5)] and not band.times[:-5].any()
    assert np.isnan(band.low[:, -5]).all() and (band.low[:, -4:] < 100).all() and (band.high[:, -4:] > 100).all()
    lived(one, 5, 6)
    assert band.times[-1] == ORIGIN + 240  # what was handed out stays as it was
    one.align(KEYS[::-1], SERIES[::-1])
    np.testing.assert_array_equal(one.band.low[::-1, -5:-1], band.low[:, -4:])


def test_a_false_alarm_gives_its_samples_back_to_learning() -> None:
    one = vigil()
    lived(one, 0, 34, with_spike())
    (incident,) = one.open_incidents()
    assert one.excluded
    one.teach(taught([replace(incident, feedback="real")]))
    assert one.excluded
    one.teach(taught([replace(incident, feedback="false_alarm")]))
    assert not one.excluded


def test_an_open_incident_that_is_expected_closes_at_the_next_step() -> None:
    one = vigil()
    loads = with_spike(steps=12)
    lived(one, 0, 34, loads)
    (incident,) = one.open_incidents()
    one.teach(taught([replace(incident, feedback="expected")]))
    lived(one, 34, 35, loads)
    assert one.followed is not None
    assert [closed.id for closed in one.followed.closed] == [incident.id] and one.open_incidents() == ()
    lived(one, 35, 42, loads)
    assert one.open_incidents() == ()


def test_a_forecast_for_another_time_judges_nothing() -> None:
    one = vigil()
    freeze(one, 0)
    see(one, 2, NOISE[2])
    assert one.followed is not None and np.isnan(one.followed.score).all()
    see(one, 60, np.array([300.0, 100.0]))  # but the one of an hour ago still counts
    assert one.followed.score[0] > 5


@given(st.integers(15, 3_600))
def test_the_forecast_of_an_hour_ago_is_kept_until_its_time_at_any_step(seconds: int) -> None:
    one = vigil(timedelta(seconds=seconds))
    ahead = -(-3_600 // seconds)
    for at in range(ahead):
        values = np.full((2, 2, 7), float(at + 1)) if ahead > 1 else np.full((2, 1, 7), 1.0)
        horizons = (1, ahead) if ahead > 1 else (1,)
        origin = NOW + at * timedelta(seconds=seconds)
        forecast = forecast_of(values, horizons=horizons, origin=origin)
        object.__setattr__(forecast, "step", timedelta(seconds=seconds))
        one.freeze(forecast)
    see(one, ahead, np.full(2, 1.0), seconds=seconds)
    assert one.followed is not None and np.isfinite(one.followed.score).all()


# --- what is not learned from ----------------------------------------------------------------------------------------


def test_an_incident_s_samples_are_excluded_as_one_span_of_its_row(in_an_incident: tuple[Vigil, Incident]) -> None:
    one, incident = in_an_incident
    first = int(incident.opened_at.timestamp()) - 60
    assert one.own_spans() == {SERIES[0]: [(first, ORIGIN + 33 * 60)]}


def test_spans_are_trimmed_and_go_with_the_history() -> None:
    one = vigil()
    lived(one, 0, 34, with_spike())
    until = ORIGIN + 33 * 60
    quiet = np.full(2, np.nan)
    days = int(SPAN.total_seconds()) // 60
    see(one, 32 + days, quiet)
    assert [span[1] >= until for spans in one.excluded.values() for span in spans] == [True]
    see(one, 40 + days, quiet)
    assert one.excluded == {}


def test_what_people_have_masked_is_not_excluded_twice() -> None:
    one = vigil()
    lived(one, 0, 30)
    for at in range(30, 34):
        see(one, at, np.array([300.0, 300.0]), masked=np.array([True, True]))
    assert one.excluded == {} and one.open_incidents() == ()


def test_spans_reach_the_masks_of_the_history_for_that_row_only(in_an_incident: tuple[Vigil, Incident]) -> None:
    one, _ = in_an_incident
    source = FakeSource({"a": [({}, daily(100))], "b": [({}, daily(100))]})
    history = History([WorkloadSpec("a", "a"), WorkloadSpec("b", "b")], MINUTE, SPAN, kube_state_metrics=False)
    history.exclude((), one.own_spans())
    context = history.read(source, NOW + 40 * MINUTE).context
    assert context.masked is not None
    ((after, until),) = one.own_spans()[SERIES[0]]
    times = context.fine.times
    np.testing.assert_array_equal(context.masked[0], (times > after) & (times <= until))
    assert not context.masked[1].any()


# --- another unit ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [15, 60, 120], ids=["15 s", "1 min", "2 min"])
def test_another_unit_is_accepted_once_and_the_past_forgotten(seconds: int) -> None:
    one = vigil(timedelta(seconds=seconds))
    changed, regimes = 100, []
    faulty = 0
    for at in range(changed + 2 + 2_000 // seconds):
        observed = NOISE[at] * np.array([1_000.0 if at >= changed else 1.0, 1.0])
        see(one, at, observed, seconds=seconds)
        if one.new_regime().any():
            regimes.append(at)
        assert one.faults is not None
        faulty += int(one.faults.kind[0] == FaultKind.UNIT)
    assert len(regimes) == 1 and faulty > 0
    assert 1_600 <= (regimes[0] - changed) * seconds <= 2_100
    assert list(one.excluded) == [KEYS[0]]
    ((after, until),) = one.excluded[KEYS[0]]
    assert after == ORIGIN + regimes[0] * seconds - int(SPAN.total_seconds())
    last_of_old = ORIGIN + (changed - 1) * seconds
    assert last_of_old <= until <= last_of_old + 120 + 3 * seconds  # all of the old unit, little of the new one


# --- stored ----------------------------------------------------------------------------------------------------------


def test_a_restart_keeps_open_incidents_and_exclusions(in_an_incident: tuple[Vigil, Incident]) -> None:
    one, incident = in_an_incident
    other = Vigil(MINUTE, LEVELS, 0.1, SPAN)
    other.restore(one.dump())
    assert other.open_incidents() == (incident,)
    other.align(KEYS, SERIES)
    assert other.excluded == one.excluded and other.own_spans() == one.own_spans()
    closed: list[Incident] = []
    for at in range(34, 50):
        freeze(other, at - 1)
        see(other, at, NOISE[at])
        assert other.followed is not None
        closed += other.followed.closed
        assert other.followed.opened == ()
    assert [gone.id for gone in closed] == [incident.id]


def test_rows_that_move_keep_their_exclusions(in_an_incident: tuple[Vigil, Incident]) -> None:
    one, _ = in_an_incident
    other = Vigil(MINUTE, LEVELS, 0.1, SPAN)
    other.restore(one.dump())
    other.align(KEYS[::-1], SERIES[::-1])
    assert other.own_spans() == one.own_spans()
