"""The chain of forecasters: what one of them gets wrong, what is learned of each row, and what a restart keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster import calibration, starts
from forecaster.domain import (
    Calendar,
    Context,
    FloatArray,
    Forecast,
    ForecastRequest,
    SeriesBatch,
    SeriesKey,
)
from forecaster.foresight import LEVELS, Foresight, horizons
from forecaster.reasons import Reason, ReasonCode
from forecaster.rows import Rows
from forecaster.starts import Starts

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ORIGIN = int(NOW.timestamp())
MINUTE = timedelta(minutes=1)
PAST = 300
LOADS = 100 + np.random.default_rng(7).standard_normal((2, PAST + 60))
KEYS = ("a#1/load", "b#1/load")
WINDOWS = np.array([5, 5])


@dataclass
class Scripted:
    """The last value and a tenth of it per level to either side, changed by `spoil`."""

    version: str = "persistence/1"
    spoil: Callable[[Forecast], Forecast] = lambda forecast: forecast
    calls: list[datetime] = field(default_factory=list)

    def forecast(self, context: Context, request: ForecastRequest) -> Forecast:
        self.calls.append(context.fine.origin)
        last = np.asarray(context.fine.values[:, -1], dtype=np.float64)
        peak = last[:, None] * (1 + 0.1 * (np.arange(len(LEVELS)) - 3))
        forecast = Forecast(
            origin=context.fine.origin,
            step=context.fine.step,
            horizons=request.horizons,
            levels=request.levels,
            values=np.repeat(peak[:, None], len(request.horizons), axis=1),
            peak=peak,
            windows=request.windows,
            model=(self.version,) * len(last),
            missing=(None,) * len(last),
        )
        return self.spoil(forecast)


def broken(_: Forecast) -> Forecast:
    raise RuntimeError("out of luck")


def times(factor: float) -> Callable[[Forecast], Forecast]:
    return lambda f: dataclasses.replace(f, values=f.values * factor, peak=f.peak * factor)


def changed(row: int, horizon: int, level: int, value: float) -> Callable[[Forecast], Forecast]:
    def spoil(forecast: Forecast) -> Forecast:
        values = forecast.values.copy()
        values[row, horizon, level] = value
        return dataclasses.replace(forecast, values=values)

    return spoil


def context(step: int, loads: FloatArray = LOADS) -> Context:
    """What is known `step` minutes after NOW."""
    values = loads[:, : PAST + step + 1]
    origin = NOW + step * MINUTE
    keys = (SeriesKey("a"), SeriesKey("b"))
    coarse = SeriesBatch(keys, origin, 5 * MINUTE, values[:, ::-5][:, ::-1])
    return Context(SeriesBatch(keys, origin, MINUTE, values), coarse, Calendar(("UTC", "UTC")))


def series_of(keys: tuple[str, ...]) -> tuple[SeriesKey, ...]:
    return tuple(SeriesKey(key.partition("#")[0]) for key in keys)


def foresight(*chain: Scripted, step: timedelta = MINUTE) -> Foresight:
    chain = chain or (Scripted(),)
    one = Foresight(lambda: chain, step)
    one.align(KEYS, series_of(KEYS))
    return one


def lived(one: Foresight, first: int, last: int, loads: FloatArray = LOADS, saturated: bool = False) -> Forecast:
    """Steps `first` … `last` - 1: observe, run, issue."""
    for step in range(first, last):
        known = context(step, loads)
        if saturated:
            one.saw_saturation(ORIGIN + 60 * step, np.array([True, False]))
        one.observe(known, WINDOWS)
        one.run(known, WINDOWS, complete=False)
        newest, at = known.fine.values[:, -1], np.full(2, ORIGIN + 60 * step)
        forecast = one.issue(NOW + step * MINUTE, newest, at, (None, None))
    return forecast


# --- horizons --------------------------------------------------------------------------------------------------------


@given(st.integers(15, 3_600))
def test_every_followed_horizon_is_among_all_and_they_reach_a_day(step: int) -> None:
    every, followed = horizons(step)
    assert set(followed.tolist()) <= set(every.tolist())
    for steps in (every, followed):
        assert steps[0] == 1 and (np.diff(steps) > 0).all()
        assert abs(steps[-1] * step - 86_400) <= step / 2


# --- forecasters that fail -------------------------------------------------------------------------------------------


def test_a_forecaster_that_raises_loses_its_step_and_the_chain_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    first, second = Scripted("first/1", broken), Scripted()
    one = foresight(first, second)
    forecast = lived(one, 0, 1)
    np.testing.assert_allclose(forecast.values, lived(foresight(Scripted()), 0, 1).values)
    assert forecast.missing == (None, None)
    assert "forecaster failed: model=first/1" in caplog.text
    assert one.remarks is not None
    for notes in one.remarks.notes:  # said, though another one has answered
        assert notes[0].code is ReasonCode.MODEL_UNAVAILABLE and "first/1" in notes[0].detail
    first.spoil = times(2)
    second.spoil = broken
    np.testing.assert_allclose(raw(one, 1)[:, 0, 3], 2 * LOADS[:, PAST + 1])  # it is asked again
    assert len(first.calls) == len(second.calls) == 2


def raw(one: Foresight, step: int) -> FloatArray:
    """What the chain says at a step, nothing learned and nothing re-anchored: quantiles (row, horizon, level)."""
    one.run(context(step), WINDOWS, complete=False)
    return one.frozen().values


def test_the_mixture_of_the_others_goes_on_without_the_one_that_raises() -> None:
    last = LOADS[:, PAST, None]
    three = foresight(Scripted("first/1", broken), Scripted("second/1", times(2)), Scripted())
    two = foresight(Scripted("second/1", times(2)), Scripted())
    median = raw(three, 0)[..., 3]
    assert (median > 1.05 * last).all() and (median < 1.95 * last).all()
    np.testing.assert_allclose(raw(three, 0), raw(two, 0))
    assert three.frozen().model == ("blend/first-1",) * 2


def test_remarks_are_those_of_the_first_that_answers() -> None:
    flat = (Reason(ReasonCode.CONSTANT_SERIES),)

    def remark(forecast: Forecast) -> Forecast:
        return dataclasses.replace(forecast, notes=(flat, ()))

    one = foresight(Scripted("first/1", broken), Scripted("second/1", remark), Scripted())
    raw(one, 0)
    assert one.frozen().notes == (flat, ())


def test_one_forecaster_by_itself_is_not_mixed() -> None:
    one = foresight()
    assert one.chain.names == ("persistence",) and one.head_version == "persistence/1"
    assert lived(one, 0, 30).model == ("persistence/1",) * 2
    assert not one.dump()["blend"].arrays["windows"].any()


def test_a_mixture_is_called_after_the_first_of_its_chain() -> None:
    one = foresight(Scripted("first/1"), Scripted())
    assert one.chain.names == ("blend", "first", "persistence") and one.head_version == "blend/first-1"
    assert lived(one, 0, 30).model == ("blend/first-1",) * 2
    assert (one.dump()["blend"].arrays["windows"][:, 0] > 0).all()


def test_where_no_forecaster_answers_the_row_says_so() -> None:
    forecast = lived(foresight(Scripted("first/1", broken), Scripted(spoil=broken)), 0, 1)
    assert np.isnan(forecast.values).all() and np.isnan(forecast.peak).all()
    assert [reason and reason.code for reason in forecast.missing] == [ReasonCode.MODEL_UNAVAILABLE] * 2
    assert forecast.missing[0] is not None and "out of luck" in forecast.missing[0].detail


@pytest.mark.parametrize(
    "spoil",
    [changed(0, 0, 6, np.nan), changed(0, 3, 6, np.inf), changed(0, 5, 2, 1_000.0), changed(0, 1, 6, 1e12)],
    ids=["nan", "infinite", "crossing", "absurd"],
)
def test_nonsense_is_rejected_row_by_row(spoil: Callable[[Forecast], Forecast]) -> None:
    one = foresight(Scripted("first/1", lambda forecast: spoil(times(2)(forecast))), Scripted())
    values = raw(one, 0)
    assert np.isfinite(values).all() and (np.diff(values, axis=-1) >= 0).all()
    np.testing.assert_allclose(values[0], raw(foresight(), 0)[0])  # of persistence alone
    assert (values[1, :, 3] > 1.05 * LOADS[1, PAST]).all()  # of both
    assert one.rejected == {"first": 1}
    alone = lived(foresight(Scripted(spoil=spoil)), 0, 1)
    assert alone.missing[0] is not None and alone.missing[0].code is ReasonCode.MODEL_UNAVAILABLE
    assert np.isnan(alone.values[0]).all() and alone.missing[1] is None


def test_a_blocked_row_carries_its_reason_and_no_number() -> None:
    one = foresight()
    free = lived(one, 0, 2)
    newest, at = LOADS[:, PAST + 1], np.full(2, ORIGIN + 60)
    why = Reason(ReasonCode.STALE_DATA)
    forecast = one.issue(NOW + MINUTE, newest, at, (why, None))
    assert forecast.missing == (why, None)
    assert np.isnan(forecast.values[0]).all() and np.isnan(forecast.peak[0]).all()
    np.testing.assert_array_equal(forecast.values[1], free.values[1])


def test_a_back_test_measures_the_skill_of_new_rows_once() -> None:
    made: list[Scripted] = []

    def make() -> list[Scripted]:
        made.append(Scripted())
        return [Scripted("first/1", lambda f: dataclasses.replace(f, peak=3 * f.peak)), made[-1]]

    one = Foresight(make, MINUTE)
    one.align(KEYS, series_of(KEYS))
    for step in range(2):
        one.run(context(step), WINDOWS, complete=True)
    assert len(made) == 2 and len(made[1].calls) == 8  # led back in time by forecasters of its own
    assert one.remarks is not None
    mixture, first, persistence = one.remarks.skill.T
    assert (first > 1.5).all() and (persistence == 1).all()
    assert ((mixture > 1.1) & (mixture < first)).all()  # it has a share of both
    assert (one.remarks.chosen == one.chain.names.index("persistence")).all()


def test_a_back_test_goes_on_without_a_forecaster_that_raises() -> None:
    one = foresight(Scripted("first/1", broken), Scripted("second/1", times(3)), Scripted())
    one.run(context(0), WINDOWS, complete=True)
    windows = np.asarray(one.skill.arrays["windows"])
    assert (windows[:, 1] == 0).all() and (windows[:, [0, 2, 3]] > 0).all()
    assert one.rejected == {"first": 2}  # of the step, not of the back-test


# --- what is learned -------------------------------------------------------------------------------------------------


def test_a_restart_forgets_one_row_and_no_other() -> None:
    chain = Scripted("other/1", wide), Scripted()
    one, blank = foresight(*chain), foresight(*chain).dump()
    lived(one, 0, 30)
    before = one.dump()
    one.restart(np.array([True, False]))
    learned = 0
    for component, rows in one.dump().items():
        for name, array in rows.arrays.items():
            np.testing.assert_array_equal(array[0], blank[component].arrays[name][0], err_msg=name)
            np.testing.assert_array_equal(array[1], before[component].arrays[name][1], err_msg=name)
            learned += not np.array_equal(array[0], array[1], equal_nan=array.dtype.kind == "f")
        assert any(array[1].any() for array in rows.arrays.values()), component
    assert learned > 10


def test_a_saturated_sample_never_lowers_a_level() -> None:
    falling = LOADS * np.linspace(1, 0.02, LOADS.shape[1])  # each sample is below what was forecast
    one = foresight()
    lived(one, 0, 40, falling, saturated=True)
    offset = one.dump()["calibration"].arrays["offset"]
    assert offset[0].min() >= 0
    assert offset[1].min() < 0


@pytest.mark.parametrize(("component", "array"), [("calibration", "offset"), ("skill", "loss"), ("blend", "loss")])
def test_rows_that_move_keep_what_was_learned(component: str, array: str) -> None:
    one = foresight(Scripted("other/1", wide), Scripted())
    lived(one, 0, 30)
    before = one.dump()[component].arrays[array]
    one.align(("c#1/load", KEYS[0]), series_of(("c#1/load", KEYS[0])))
    after = one.dump()[component].arrays[array]
    np.testing.assert_array_equal(after[1], before[0])
    assert before[0].any() and not after[0].any()


# --- stored ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chain", [(Scripted(),), (Scripted("other/1", times(1.01)), Scripted())], ids=["one", "two"])
def test_a_restored_one_goes_on_as_if_nothing_had_happened(chain: tuple[Scripted, ...]) -> None:
    one = foresight(*chain)
    lived(one, 0, 30)
    other = Foresight(lambda: chain, MINUTE)
    assert other.restore(one.dump()) == []
    other.align(KEYS, series_of(KEYS))
    goes_on, restored = lived(one, 30, 40), lived(other, 30, 40)
    np.testing.assert_array_equal(restored.values, goes_on.values)
    np.testing.assert_array_equal(restored.peak, goes_on.peak)
    fresh = lived(foresight(*chain), 30, 40)
    assert not np.array_equal(fresh.values, goes_on.values)


@pytest.mark.parametrize(
    ("chain", "step", "lost"),
    [
        ((Scripted("other/1"), Scripted()), MINUTE, {"skill", "blend"}),
        ((Scripted(),), 2 * MINUTE, {"calibration", "blend", "reanchor"}),
    ],
    ids=["another chain", "another step"],
)
def test_state_of_others_is_discarded_and_said(chain: tuple[Scripted, ...], step: timedelta, lost: set[str]) -> None:
    one = foresight()
    lived(one, 0, 30)
    other = Foresight(lambda: chain, step)
    said = other.restore(one.dump())
    assert {text.split()[1] for text in said} == lost
    other.align(KEYS, series_of(KEYS))
    for name, rows in other.dump().items():
        if name in lost:
            blank = foresight(*chain, step=step).dump()[name]
            assert all(
                np.array_equal(rows.arrays[n], a, equal_nan=a.dtype.kind == "f") for n, a in blank.arrays.items()
            )


def test_state_without_its_mark_is_discarded() -> None:
    one = foresight()
    lived(one, 0, 5)
    state = one.dump()["skill"]
    bare = Rows(state.keys, {name: array for name, array in state.arrays.items() if name != "mark"})
    assert len(foresight().restore({"skill": bare})) == 1


@dataclass
class Remembering(Scripted):
    """One that keeps fits, and is told to forget some."""

    forgotten: list[set[SeriesKey]] = field(default_factory=list)

    def forget(self, series: set[SeriesKey]) -> None:
        self.forgotten.append(set(series))


def test_a_row_that_begins_anew_is_fitted_anew_and_no_other() -> None:
    forecaster = Remembering()
    one = foresight(forecaster)
    lived(one, 0, 2)
    one.restart(np.array([False, False]))
    assert forecaster.forgotten == []
    one.restart(np.array([False, True]))
    assert forecaster.forgotten == [{SeriesKey("b")}]


# --- another model ---------------------------------------------------------------------------------------------------


def wide(forecast: Forecast) -> Forecast:
    return dataclasses.replace(forecast, values=forecast.values * 1.2)


def state_of(one: Foresight, name: str) -> FloatArray:
    return np.asarray(one.dump()["calibration"].arrays[name])


def start(version: str, one: Foresight, keys: tuple[str, ...] = KEYS[:1]) -> Starts:
    """A back-test that has measured some rows: every array holds its own number."""
    blank = calibration.blank(keys, one.layout).arrays
    arrays = {name: np.full(blank[name].shape, i + 1, dtype=np.float32) for i, name in enumerate(starts.CALIBRATION)}
    arrays |= {f"skill_{name}": np.full(len(keys), value) for name, value in zip(starts.SKILL, (2, 4, 20), strict=True)}
    return Starts(version, one.layout.version, Rows(keys, arrays))


def network(version: str) -> Scripted:
    return Scripted(version)


def test_rows_of_another_model_begin_with_its_back_test_and_the_others_calibrating() -> None:
    one = foresight(network("network/old"), Scripted())
    lived(one, 0, 60)
    assert (state_of(one, "windows")[:, 0] > 0).all()
    version = "blend/network-new"
    one.take(lambda: (network("network/new"), Scripted()), start(version, one))
    assert one.head_version == version and one.is_stale
    known = context(60)
    one.run(known, WINDOWS, complete=False)
    assert not one.is_stale
    for i, name in enumerate(starts.CALIBRATION):
        assert (state_of(one, name)[0] == i + 1).all(), name
        assert (state_of(one, name)[1] == 0).all(), name
    assert one.remarks is not None
    assert [note.code for note in one.remarks.notes[1]] == [ReasonCode.CALIBRATING]
    forecast = one.issue(NOW + 60 * MINUTE, known.fine.values[:, -1], np.full(2, ORIGIN + 3_600), (None, None))
    assert forecast.model == ("blend/network-new",) * 2
    assert (state_of(one, "count")[0] == start(version, one).rows.arrays["count"][0]).all()  # it is not lost


@pytest.mark.parametrize(
    ("version", "column"), [("blend/network-new", 0), ("network/new", 1)], ids=["mixture", "alone"]
)
def test_skill_of_another_model_is_that_of_its_back_test_or_none_and_the_others_keep_theirs(
    version: str, column: int
) -> None:
    one = foresight(network("network/old"), Scripted("day/1", wide), Scripted())
    lived(one, 0, 60)
    before = one.skill
    one.take(lambda: (network("network/new"), Scripted("day/1", wide), Scripted()), start(version, one))
    np.testing.assert_array_equal(one.skill.arrays["loss"][:, 2:], before.arrays["loss"][:, 2:])
    np.testing.assert_array_equal(one.skill.arrays["loss"][:, column], [2, 0])
    np.testing.assert_array_equal(one.skill.arrays["windows"][:, column], [20, 0])
    assert not one.skill.arrays["windows"][:, 1 - column].any()  # of the other one that is new
    assert np.isnan(one.skill.arrays["waiting"][:, :, :2]).all()
    np.testing.assert_array_equal(one.skill.arrays["chosen"], before.arrays["chosen"])


def test_what_the_mixture_knows_of_those_that_stay_is_kept_and_of_the_new_one_nothing() -> None:
    one = foresight(network("network/old"), Scripted("day/1", wide), Scripted())
    lived(one, 0, 60)
    before = one.blend.arrays
    one.take(lambda: (network("network/new"), Scripted("day/1", wide), Scripted()))
    for name in ("loss", "beside", "windows"):
        assert before[name][:, 0].all()
        np.testing.assert_array_equal(one.blend.arrays[name][:, :, 1:], before[name][:, :, 1:])
        assert not one.blend.arrays[name][:, :, 0].any()
    assert np.isnan(one.blend.arrays["waiting"][..., 0, :]).all()
    np.testing.assert_array_equal(one.blend.arrays["due"], before["due"])


def test_the_same_forecasters_in_another_order_keep_what_was_measured_of_each() -> None:
    one = foresight(Scripted("day/1", wide), Scripted("week/1", times(2)), Scripted())
    lived(one, 0, 60)
    day, week = np.asarray(one.skill.arrays["loss"]).T[1:3]
    one.take(lambda: (Scripted("week/1", times(2)), Scripted("day/1", wide), Scripted()))
    assert one.chain.names == ("blend", "week", "day", "persistence") and not np.array_equal(day, week)
    np.testing.assert_array_equal(np.asarray(one.skill.arrays["loss"]).T[1:3], [week, day])


def test_forecasters_that_stay_keep_what_they_have_fitted() -> None:
    stays = Scripted()
    one = foresight(network("network/old"), stays)
    lived(one, 0, 1)
    one.take(lambda: (network("network/new"), Scripted()))
    lived(one, 1, 2)
    assert len(stays.calls) == 2


def test_a_network_that_comes_first_heads_the_chain_and_its_mixture_begins_anew() -> None:
    one = foresight()
    lived(one, 0, 60)
    assert state_of(one, "sum").any()
    one.take(lambda: (network("network/new"), Scripted()))
    assert one.chain.names == ("blend", "network", "persistence")
    assert lived(one, 60, 61).model == ("blend/network-new",) * 2
    assert not state_of(one, "sum").any()


def test_the_peak_is_the_mean_of_network_and_profile_whatever_weights_the_values_have() -> None:
    def high(forecast: Forecast) -> Forecast:
        return dataclasses.replace(forecast, values=2 * forecast.values, peak=2 * forecast.peak)

    one = foresight(Scripted("network/x"), Scripted("profile/1", high), Scripted())
    known = context(0)
    one.run(known, WINDOWS, complete=False)
    plain = Scripted().forecast(known, ForecastRequest(one.horizons, LEVELS, WINDOWS))
    given = one.frozen()
    np.testing.assert_allclose(given.peak, 1.5 * plain.peak)
    assert (given.values > plain.values).all() and (given.values < 1.5 * plain.values).all()
    assert given.model == ("blend/network-x",) * 2


def test_without_a_network_the_proven_forecaster_gives_the_peak() -> None:
    def high(forecast: Forecast) -> Forecast:
        return dataclasses.replace(forecast, values=2 * forecast.values, peak=2 * forecast.peak)

    one = foresight(Scripted("profile/1", high), Scripted())
    known = context(0)
    one.run(known, WINDOWS, complete=False)
    plain = Scripted().forecast(known, ForecastRequest(one.horizons, LEVELS, WINDOWS))
    np.testing.assert_allclose(one.frozen().peak, 2 * plain.peak)


@pytest.mark.parametrize("version", ["network/old", "blend/network-old"])
def test_the_same_chain_again_changes_nothing(version: str) -> None:
    one = foresight(network("network/old"), Scripted())
    lived(one, 0, 30)
    before = one.dump()
    one.take(lambda: (network("network/old"), Scripted()), start(version, one))
    assert not one.is_stale
    for name, rows in one.dump().items():
        for key, array in rows.arrays.items():
            np.testing.assert_array_equal(array, before[name].arrays[key])


def test_residuals_for_another_layout_are_not_taken() -> None:
    one = foresight(network("network/old"), Scripted())
    lived(one, 0, 5)
    foreign = dataclasses.replace(start("blend/network-new", one), layout="calibration/1/other")
    one.take(lambda: (network("network/new"), Scripted()), foreign)
    one.run(context(5), WINDOWS, complete=False)
    assert not state_of(one, "offset").any()


def test_what_a_back_test_measures_is_what_the_next_service_begins_with() -> None:
    tested = foresight(network("network/new"), Scripted())
    lived(tested, 0, 60)
    skills = {name: np.asarray(tested.skill.arrays[name])[:, 0] for name in starts.SKILL}
    measured = starts.measured(tested.head_version, tested.layout, tested.calibration, skills)
    assert measured.rows.keys == KEYS
    one = foresight(network("network/old"), Scripted())
    lived(one, 0, 1)
    one.take(lambda: (network("network/new"), Scripted()), measured)
    one.run(context(60), WINDOWS, complete=False)
    for name in starts.CALIBRATION:
        np.testing.assert_allclose(state_of(one, name), state_of(tested, name), rtol=1e-6)


@pytest.mark.parametrize("spoil", [broken, changed(0, 0, 6, np.nan)], ids=["raises", "a row of NaN"])
def test_m25_rows_that_a_model_loses_are_counted(spoil: Callable[[Forecast], Forecast]) -> None:
    one = foresight(Scripted("network/1", spoil), Scripted())
    lived(one, 0, 3)
    assert one.rejected == {"network": 6 if spoil is broken else 3}
