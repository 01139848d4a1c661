"""A cycle as a whole, fed by functions of time: what it publishes, when it forecasts, what it keeps."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecaster.cycle import Cycle
from forecaster.domain import (
    LOAD,
    Bounds,
    Context,
    Event,
    FloatArray,
    Forecast,
    ForecastRequest,
    IntArray,
    Mode,
    Override,
    Recommendation,
    ResourceSpec,
    ScaleSpec,
    SeriesKey,
    WorkloadSpec,
)
from forecaster.errors import SourceError
from forecaster.publication import Publication
from forecaster.reasons import Reason, ReasonCode
from forecaster.scaling.decision import replay
from forecaster.scaling.record import to_json
from models.persistence import Persistence
from tests.fakes import FakeSource, constant, daily

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MINUTE, INTERVAL = timedelta(minutes=1), timedelta(seconds=15)
TEMPLATE = "sum by (app) (rate(requests[1m]))"
HPA = "kube_horizontalpodautoscaler_"
SCALE = ScaleSpec("shop", "{app}", capacity_per_replica=25.0, lead_time=timedelta(seconds=60), bounds=Bounds(2, 40))
SHOP = WorkloadSpec("shop/{app}", TEMPLATE, for_each=("app",), max_series=10, scale=SCALE)
BATCH = WorkloadSpec("batch", "sum(jobs)")


@dataclass
class Counted:
    """Persistence that notes how often it was asked."""

    inner: Persistence = field(default_factory=Persistence)
    calls: list[datetime] = field(default_factory=list)

    @property
    def version(self) -> str:
        return self.inner.version

    def forecast(self, context: Context, request: ForecastRequest) -> Forecast:
        self.calls.append(context.fine.origin)
        return self.inner.forecast(context, request)


def source(*apps: str) -> FakeSource:
    """Loads of 100, 200, … at their mean; an HPA each, between 2 and 30 replicas."""
    hpas = [{"namespace": "shop", "horizontalpodautoscaler": app} for app in apps]
    return FakeSource(
        {
            TEMPLATE: [({"app": app}, daily(100.0 * (i + 1), seed=i)) for i, app in enumerate(apps)],
            "sum(jobs)": [({}, daily(50.0, seed=9))],
            f"{HPA}spec_min_replicas": [(hpa, constant(2)) for hpa in hpas],
            f"{HPA}spec_max_replicas": [(hpa, constant(30)) for hpa in hpas],
        }
    )


def cycle(specs: list[WorkloadSpec], fake: FakeSource, chain: list[Counted] | None = None) -> Cycle:
    """With a chain of persistence alone; `chain` collects each one that was made, the one in use first."""

    def make() -> list[Counted]:
        one = Counted()
        if chain is not None:
            chain.append(one)
        return [one]

    return Cycle(specs, step=MINUTE, interval=INTERVAL, span=timedelta(days=2), source=fake, forecasters=make)


def lived(one: Cycle, first: int, last: int) -> Publication:
    """Cycles `first` … `last` - 1, each an interval after the one before."""
    for n in range(first, last):
        published = one.run(NOW + n * INTERVAL)
    return published


def codes(published: Publication, name: str) -> set[ReasonCode]:
    (found,) = (one for one in published.workloads if one.workload.name == name)
    return {reason.code for reason in found.reasons}


def of(published: Publication, name: str) -> Recommendation:
    (found,) = (one for one in published.recommendations if one.workload == name)
    return found


@pytest.fixture(scope="module")
def after_two_minutes() -> tuple[Cycle, Publication]:
    """Nine cycles of two workloads of a template and a plain one. Do not run it on."""
    one = cycle([SHOP, BATCH], source("web", "api"))
    return one, lived(one, 0, 9)


# --- what is published -----------------------------------------------------------------------------------------------


def test_a_publication_is_complete(after_two_minutes: tuple[Cycle, Publication]) -> None:
    _, published = after_two_minutes
    assert sorted(one.workload.name for one in published.workloads) == ["batch", "shop/api", "shop/web"]
    rows = len(published.keys)
    assert rows == 3 and published.cycle == 9 and published.made_at == NOW + 8 * INTERVAL
    for one in published.workloads:
        assert published.keys[one.row] == SeriesKey(one.workload.name, LOAD)
        assert one.mode is (Mode.OBSERVE if one.workload.name == "batch" else Mode.RECOMMEND)
        assert one.model_version == "persistence/1"
        assert {reason.code for reason in one.reasons} <= {ReasonCode.CALIBRATING, ReasonCode.HELD}
    assert published.forecast is not None and published.forecast.missing == (None,) * rows
    assert np.isfinite(published.forecast.values).all()
    for array in (published.status.load, published.status.data_through, published.status.expected_low):
        assert array.shape == (rows,) and np.isfinite(array).all()
    assert set(published.stations) == {"read", "calibrate", "anomaly", "forecast", "decide"}
    assert min(published.stations.values()) >= 0


def test_the_floor_carries_the_peak_of_the_window(after_two_minutes: tuple[Cycle, Publication]) -> None:
    _, published = after_two_minutes
    assert published.forecast is not None
    for made in published.recommendations:
        row = published.keys.index(SeriesKey(made.workload))
        top = published.forecast.peak[row, -1]
        assert made.floor is not None and made.floor * 25.0 >= published.status.load[row]
        assert made.floor <= np.ceil(top / 25.0) + 2
    assert [made.workload for made in published.recommendations] == ["shop/api", "shop/web"]
    status = {found.workload.name: found for found in published.workloads}
    assert status["shop/web"].lead_time_seconds == 90 and status["shop/web"].capacity_per_replica == 25.0
    assert status["shop/web"].risk["asked"] == 0.01 and status["batch"].risk == {}


def test_decision_records_recompute_the_decisions_bit_by_bit(after_two_minutes: tuple[Cycle, Publication]) -> None:
    one, published = after_two_minutes
    records = one.decision_records()
    assert [name for _, name, _, _ in records] == ["shop/api", "shop/web"]
    for (key, name, said, told), made in zip(records, published.recommendations, strict=True):
        stored, decision = json.loads(json.dumps(told()))
        again = replay(stored)
        assert to_json(again) == decision
        assert again.to_recommendation() == made
        assert key.startswith(f"{name}#")
        assert said == (made.floor, made.bound_by, frozenset(reason.code for reason in made.reasons))


def test_resources_have_rows_and_their_reasons_name_them() -> None:
    spec = replace(BATCH, resources=(ResourceSpec("memory", "sum(bytes)"),))
    published = cycle([spec], source()).run(NOW)
    assert published.keys == (SeriesKey("batch"), SeriesKey("batch", "memory"))
    (one,) = published.workloads
    assert any(reason.code is ReasonCode.NO_DATA and reason.detail.startswith("memory: ") for reason in one.reasons)
    assert one.model_version == "persistence/1"


def test_capacity_that_is_not_given_is_said_and_asked_of_no_one() -> None:
    spec = replace(SHOP, scale=replace(SCALE, capacity_per_replica=None))
    published = cycle([spec], source("web")).run(NOW)
    assert ReasonCode.CAPACITY_UNKNOWN in codes(published, "shop/web")
    assert of(published, "shop/web").floor is None
    assert published.workloads[0].capacity_per_replica is None


def test_in_observe_mode_nothing_is_recommended_but_decided_all_the_same() -> None:
    one = cycle([replace(SHOP, scale=replace(SCALE, mode=Mode.OBSERVE))], source("web"))
    published = one.run(NOW)
    assert published.recommendations == () and published.workloads[0].mode is Mode.OBSERVE
    ((_, _, said, _),) = one.decision_records()
    assert isinstance(said, tuple) and said[0] >= 2


def test_a_prometheus_that_is_gone_is_a_reason_and_the_floor_stands_for_a_while() -> None:
    fake = source("web")
    one = cycle([SHOP], fake)
    floor = of(lived(one, 0, 13), "shop/web").floor
    fake.broken = SourceError("connection refused", ReasonCode.STALE_DATA)
    kept = lived(one, 13, 17)
    assert ReasonCode.STALE_DATA in codes(kept, "shop/web")
    assert floor is not None and of(kept, "shop/web").floor == floor
    gone = lived(one, 17, 45)
    assert of(gone, "shop/web").floor is None and gone.workloads[0].model_version == "none"
    assert gone.forecast is not None and np.isnan(gone.forecast.values).all()
    fake.broken = None
    assert lived(one, 45, 46).workloads[0].model_version == "persistence/1"


# --- cadence ---------------------------------------------------------------------------------------------------------


def test_forecasters_are_asked_once_a_step() -> None:
    chain: list[Counted] = []
    one = cycle([SHOP], source("web"), chain)
    lived(one, 0, 10)
    assert chain[0].calls == [NOW, NOW + MINUTE, NOW + 2 * MINUTE]


def test_the_forecast_is_re_anchored_between_steps() -> None:
    def jump(times: IntArray) -> FloatArray:
        return np.where(times > NOW.timestamp() + 20, 300.0, daily(100.0)(times))

    chain: list[Counted] = []
    fake = source("web")
    fake.series[TEMPLATE] = [({"app": "web"}, jump)]
    one = cycle([SHOP], fake, chain)
    before, after = lived(one, 0, 2), lived(one, 2, 3)
    assert chain[0].calls == [NOW]
    assert before.forecast is not None and after.forecast is not None
    middle = before.forecast.levels.index(0.5)
    medians = [published.forecast.values[0, :, middle] for published in (before, after) if published.forecast]
    assert medians[0][0] < 170 and medians[1][0] > 250
    assert abs(medians[1][-1] / medians[0][-1] - 1) < 0.01  # a day on nothing of it is left
    assert (after.forecast.peak[0] >= 300).all()
    low, high = (of(published, "shop/web").candidates[0].replicas for published in (before, after))
    assert low is not None and high is not None and high > low + 3  # what is asked for; the floor keeps to its steps


# --- rows that come, go and change -----------------------------------------------------------------------------------


def test_a_new_row_of_a_template_has_a_forecast_at_once() -> None:
    fake = source("web")
    one = cycle([SHOP], fake)
    lived(one, 0, 2)
    fake.series[TEMPLATE].append(({"app": "api"}, daily(20.0)))
    between = lived(one, 2, 3)  # in the middle of a step: it has a row, and says what it lacks
    assert between.forecast is not None and len(between.forecast.missing) == len(between.keys) == 2
    assert between.forecast.missing[0] is None
    assert codes(between, "shop/api") & {ReasonCode.NO_DATA, ReasonCode.HISTORY_TOO_SHORT}
    later = one.run(NOW + timedelta(minutes=61))  # the hour of the next back-fill
    assert later.forecast is not None and later.forecast.missing == (None, None)
    assert np.isfinite(later.forecast.values).all()


def test_reconfiguring_keeps_what_was_learned_of_those_that_stay() -> None:
    one = cycle([SHOP, BATCH], source("web"))
    lived(one, 0, 21)
    before = one.dump()
    other = WorkloadSpec("other", "sum(jobs) * 2")
    one.reconfigure([replace(BATCH, name="batch"), other, SHOP], alarms_budget=0.5)
    lived(one, 21, 22)
    after = one.dump()
    for component, name in (("calibration", "count"), ("reanchor", "with_itself"), ("tripwires", "pairs")):
        old, new = before[component], after[component]
        learned = {key.partition("#")[0]: new.arrays[name][row].sum() for row, key in enumerate(new.keys)}
        assert set(learned) == {"batch", "other", "shop/web"}
        for row, key in enumerate(old.keys):
            assert learned[key.partition("#")[0]] >= old.arrays[name][row].sum() > 0
        assert learned["other"] < learned["batch"]
    assert set(after["decision"].keys) == set(before["decision"].keys)
    assert after["decision"].arrays["floor"][0] == before["decision"].arrays["floor"][0] > 0


# --- people ----------------------------------------------------------------------------------------------------------


def override(kind: str, **changes: int) -> Override:
    return Override("o1", "shop/web", kind, NOW, NOW + timedelta(minutes=2), **changes)


def test_a_pause_takes_the_floor_away_until_it_ends() -> None:
    one = cycle([SHOP], source("web"))
    one.set_overrides([override("pause")])
    paused = lived(one, 0, 8)
    assert of(paused, "shop/web").floor is None and ReasonCode.PAUSED in codes(paused, "shop/web")
    over = lived(one, 8, 9)
    assert of(over, "shop/web").floor is not None and ReasonCode.PAUSED not in codes(over, "shop/web")


def test_a_pin_raises_the_floor_of_its_workload_only() -> None:
    one = cycle([SHOP], source("api", "web"))
    free = {made.workload: made.floor for made in lived(one, 0, 8).recommendations}
    assert free["shop/web"] is not None and free["shop/web"] < 29
    one.set_overrides([Override("o1", "shop/web", "pin", NOW, NOW + timedelta(hours=1), min_replicas=29)])
    pinned = {made.workload: made.floor for made in lived(one, 8, 20).recommendations}
    assert pinned["shop/web"] == 29 and pinned["shop/api"] != 29
    one.set_overrides([])
    assert {made.workload for made in lived(one, 20, 21).recommendations} == {"shop/web", "shop/api"}


def test_an_event_keeps_its_interval_out_of_learning() -> None:
    one = cycle([SHOP, BATCH], source("web"))
    begin = NOW - timedelta(hours=3)
    one.set_events([Event("e1", "outage", "batch", begin, begin + timedelta(minutes=30))])
    one.run(NOW)
    assert one.reading is not None
    masked = one.reading.context.masked
    assert masked is not None
    rows = {key.workload: masked[row].sum() for row, key in enumerate(one.reading.context.fine.keys)}
    assert rows == {"shop/web": 0, "batch": 30}


# --- stored ----------------------------------------------------------------------------------------------------------


def test_a_restart_goes_on_where_it_was() -> None:
    fake = source("web", "api")
    one = cycle([SHOP, BATCH], fake)
    lived(one, 0, 21)
    other = cycle([SHOP, BATCH], fake)
    other.restore(one.dump())
    other.history.restore(list(one.history.dump()))
    goes_on, restored = lived(one, 21, 25), lived(other, 21, 25)
    places = [restored.keys.index(key) for key in goes_on.keys]
    assert goes_on.forecast is not None and restored.forecast is not None
    np.testing.assert_allclose(restored.forecast.values[places], goes_on.forecast.values, rtol=0.15)  # fits begin anew
    assert [of(restored, made.workload).floor for made in goes_on.recommendations] == [
        made.floor for made in goes_on.recommendations
    ]
    kept = other.dump()["calibration"]
    assert (kept.arrays["count"].sum(axis=1) > 10).all()


def test_every_stored_component_has_a_version() -> None:  # without one it could not be stored
    one = cycle([SHOP], source("web"))
    one.run(NOW)
    assert set(one.dump()) == set(Cycle.STATE_VERSIONS)


def test_state_of_another_chain_is_said_once() -> None:
    one = cycle([SHOP], source("web"))
    lived(one, 0, 2)
    skill = one.dump()["skill"]
    mark = {**skill.arrays, "mark": skill.arrays["mark"] + 1}
    other = cycle([SHOP], source("web"))
    other.restore({"skill": replace(skill, arrays=mark)})
    first, second = lived(other, 0, 1), lived(other, 1, 2)
    assert [notice.code for notice in first.notices] == [ReasonCode.CALIBRATING] and second.notices == ()
    assert isinstance(first.notices[0], Reason) and "other forecasters" in first.notices[0].detail


# --- a short history -------------------------------------------------------------------------------------------------


def test_a_load_known_for_less_than_two_days_is_forecast_and_gets_no_floor() -> None:
    born = (NOW - timedelta(hours=30)).timestamp()
    fake = source("web")
    curve = daily(100.0)
    fake.series[TEMPLATE] = [({"app": "web"}, lambda times: np.where(times >= born, curve(times), np.nan))]
    told = lived(cycle([SHOP], fake), 0, 9)
    made = of(told, "shop/web")
    assert made.floor is None and made.desired_replicas == made.reactive is not None
    assert ReasonCode.HISTORY_TOO_SHORT in codes(told, "shop/web")
    assert told.forecast is not None and np.isfinite(told.forecast.values).all()
