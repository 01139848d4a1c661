"""`whatif --recorded`: the log of a live service, replayed, is what that service said; gaps are the HPA alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from forecaster.cycle import Cycle
from forecaster.domain import FloatArray
from forecaster.errors import InputError
from forecaster.publication import Publication
from forecaster.scaling.simulate import Simulation
from forecaster.scaling.whatif import report, shadow
from forecaster.scaling.whatif.hours import tick_times
from forecaster.scaling.whatif.report import Told
from forecaster.scaling.whatif.shadow import Issued, Shadow
from models.persistence import Persistence
from serving import cli, whatif_page, whatif_recorded
from serving.health import Health
from serving.loop import Board, Clocks, Loop
from serving.store import Store
from serving.whatif import Wanted
from tests.fakes import constant
from tests.serving.test_whatif_prometheus import HPA, NOW, config, source, wanted

SCALE = "capacityPerReplica: 60, leadTime: 10m, risk: 1%, hold: 5m"
INTERVAL = timedelta(seconds=120)
HOURS = 26
DOWN_AFTER, DOWN_SECONDS = 36_000.0, 3_600.0  # the service dies at its next stored decision, and comes back
TARGET = 'kube_horizontalpodautoscaler_spec_target_metric{metric_target_type="utilization"}'


@dataclass
class Listening:
    """A cycle that remembers each floor that it published."""

    inner: Cycle
    said: list[tuple[float, int | None, float]] = field(default_factory=list)

    def run(self, now: datetime) -> Publication:
        published = self.inner.run(now)
        (one,) = published.recommendations
        self.said.append((now.timestamp(), one.floor, one.valid_for.total_seconds()))
        return published

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)


@dataclass(frozen=True)
class Lived:
    """A service that ran for a day and a little, with an hour in which it was down."""

    said: list[tuple[float, int | None, float]]
    wanted: Wanted
    store: Path


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    folder = tmp_path_factory.mktemp("recorded")
    loaded, fake = config(folder, SCALE), source()
    fake.series[TARGET] = [({**HPA, "metric_name": "cpu"}, constant(95.0))]  # so that the floor is above it at times
    path = folder / "forecaster.db"
    store = Store(str(path))
    made = Cycle(
        loaded.specs(),
        step=loaded.step,
        interval=INTERVAL,
        span=loaded.history,
        source=fake,
        forecasters=lambda: [Persistence()],
    )
    cycle, seconds = Listening(made), [0.0]
    begin = NOW - timedelta(hours=HOURS)
    clocks = Clocks(lambda: begin + timedelta(seconds=seconds[0]), lambda: seconds[0])
    loop = Loop(cycle, Board(), Health(started_at=0.0), INTERVAL, store, clocks=clocks)  # type: ignore[arg-type]
    down = False
    while seconds[0] < HOURS * 3600:
        loop.tick()
        (newest,) = store.decisions("checkout", limit=1)
        if not down and seconds[0] >= DOWN_AFTER and newest.at == clocks.wall():
            down, seconds[0] = True, seconds[0] + DOWN_SECONDS
        seconds[0] += INTERVAL.total_seconds()
    store.close()
    return Lived(cycle.said, wanted(folder, fake, SCALE), path)


@pytest.fixture(scope="module")
def found(lived: Lived) -> Shadow:
    (one,) = whatif_recorded.shadows(str(lived.store), lived.wanted)
    return one


def direct(lived: Lived) -> tuple[FloatArray, int]:
    """(floor of each tick from the first publication on, that tick), from what was published, one by one."""
    (trial,) = lived.wanted.trials
    times = tick_times(trial).tolist()
    first = next(i for i, at in enumerate(times) if at >= lived.said[0][0])
    floors = []
    for at in times[first:]:
        moment, floor, valid = max(one for one in lived.said if one[0] <= at)
        floors.append(floor if at < moment + valid and floor is not None else trial.hpa.min_replicas)
    return np.array(floors), first


def test_the_recorded_receipt_is_what_a_direct_computation_says(lived: Lived, found: Shadow) -> None:
    (trial,) = lived.wanted.trials
    floors, first = direct(lived)
    load = trial.load[None, first:]
    simulation = Simulation([trial.service()], load[:, 0], first_floors=floors[:1])
    simulation.run(load, floors[None, :], 15.0)
    figures = found.row(shadow.RECORDED).figures
    assert figures.replica_hours == pytest.approx(simulation.totals.replica_hours[0])
    above = simulation.totals.seconds_above_capacity[0] / (15.0 * load.shape[1])
    assert figures.time_above_capacity == pytest.approx(above)
    assert figures.scale_events == simulation.totals.scale_events[0]
    alone = Simulation([trial.service()], load[:, 0])
    alone.run(load, None, 15.0)
    assert found.row(shadow.USER).figures.replica_hours == pytest.approx(alone.totals.replica_hours[0])
    assert figures.replica_hours > found.row(shadow.USER).figures.replica_hours


def test_the_hour_without_a_service_counts_as_the_hpa_alone(lived: Lived, found: Shadow) -> None:
    valid = lived.said[0][2]
    down = DOWN_SECONDS + INTERVAL.total_seconds() - valid
    span = found.end - found.begin
    assert (1 - found.covered) * span == pytest.approx(down, abs=15.0)
    assert "the log is silent" in shadow.sentence(found)


def test_promise_and_log_stand_beside_each_other_with_their_difference(found: Shadow) -> None:
    assert [row.policy for row in found.rows] == [shadow.USER, shadow.PROMISED, shadow.RECORDED]
    was, promised = found.row(shadow.RECORDED), found.row(shadow.PROMISED)
    assert found.time_difference == was.figures.time_above_capacity - promised.figures.time_above_capacity
    assert 0.0 <= found.cost_difference + 1.0 < 2.0
    assert was.dial is not None and promised.dial is not None


def test_json_text_and_page_hold_the_shadow(lived: Lived, found: Shadow) -> None:
    told = Told([], lived.wanted.kinds, [], None, {}, (found,))
    said = json.loads(json.dumps(report.as_dict(told), allow_nan=False))
    assert said["schemaVersion"] == 1
    (one,) = said["shadow"]
    assert one["rows"][2]["replicaHours"] == found.row(shadow.RECORDED).figures.replica_hours
    assert one["sentence"] in report.as_text(told)
    assert "what the service said" in whatif_page.page(told)


def test_a_log_that_is_too_short_says_so(lived: Lived, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "empty.db"))
    store.close()
    with pytest.raises(InputError, match=r"log_too_short: decisions of 0\.0 h"):
        whatif_recorded.shadows(str(tmp_path / "empty.db"), lived.wanted)


@pytest.mark.parametrize(
    ("url", "words"), [(None, "names no store:"), ("nowhere/forecaster.db", "does not exist")], ids=["none", "gone"]
)
def test_no_store_is_one_clear_error(lived: Lived, url: str | None, words: str) -> None:
    with pytest.raises(InputError, match=words):
        whatif_recorded.shadows(url, lived.wanted)


def test_the_log_of_a_file_cannot_be_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["whatif", "--data", str(tmp_path), "--recorded"]) == 2
    assert "--config" in capsys.readouterr().err


# --- what of the log stood -------------------------------------------------------------------------------------------


def entries(*told: tuple[float, int | None, float, bool]) -> list[Issued]:
    return [Issued(*one) for one in told]


@pytest.mark.parametrize(
    ("log", "floors"),
    [
        (entries((0, 5, 300, True), (300, 6, 300, True)), [5] * 20 + [6] * 20),
        (entries((0, 5, 60, True), (300, 6, 300, True)), [5] * 20 + [6] * 20),  # said anew each interval
        (entries((0, 5, 60, False), (300, 6, 300, True)), [5] * 4 + [2] * 16 + [6] * 20),  # kept, and expired
        (entries((0, 5, 90, True)), [5] * 6 + [2] * 34),  # the service ended
        (entries((150, None, 600, True)), [2] * 40),
        ([], [2] * 40),
    ],
    ids=["renewed", "short validity", "kept only", "ended", "no floor", "no log"],
)
def test_a_decision_stands_until_the_next_or_until_it_expires(log: list[Issued], floors: list[int]) -> None:
    found, stood = shadow.standing(log, 15 * np.arange(40), 300.0, 2)
    assert found.tolist() == floors
    assert stood.sum() <= 40 and (found[~stood] == 2).all()


def test_a_store_of_many_decisions_is_read_in_pages(monkeypatch: pytest.MonkeyPatch, lived: Lived) -> None:
    whole = whatif_recorded.shadows(str(lived.store), lived.wanted)
    monkeypatch.setattr(whatif_recorded, "_AT_ONCE", 7)
    assert whatif_recorded.shadows(str(lived.store), lived.wanted) == whole


def test_a_long_history_is_cut_to_its_newest_days() -> None:
    from tests.forecaster.scaling.whatif.loads import daily, trial

    long = trial(daily(60))
    found = whatif_recorded.recent(long)
    assert found.times[-1] == long.times[-1] and found.end == len(found.values)
    assert found.test_days == pytest.approx(14.0)
