"""The demo: the real cycle on a simulated cluster, two futures of one traffic, no look at what is to come."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pytest
from fastapi.testclient import TestClient

from forecaster.domain import Override
from forecaster.errors import InputError
from serving import api, schemas
from serving.cli import main
from serving.demo import run
from serving.demo.hpas import KUBECTL, SimulatedHpas
from serving.demo.run import Asked, Demo, Pace
from serving.demo.services import NAMES, SERVICES
from serving.demo.traffic import START, TICK, Floats, Times, Traffic
from serving.demo.world import World
from serving.health import Health
from serving.loop import Board
from serving.store import Store


def started(traffic: Traffic | None = None) -> Demo:
    demo = Demo(traffic or Traffic(0), speed=360.0, history_days=1)
    demo.begin()
    return demo


@dataclass(frozen=True, slots=True)
class Turned(Traffic):
    """From a time on, everything is otherwise."""

    at: int = START

    def load(self, times: Times) -> Floats:
        made = Traffic.load(self, times)
        return np.where(times >= self.at, 2.5 * made + 50.0, made)


def test_what_is_to_come_changes_no_decision_before_it() -> None:
    turn = START + 20 * TICK
    demos = [started(), started(Turned(0, turn))]
    for number in range(24):
        said = [demo.board.current for demo in demos]
        assert said[0] is not None and said[1] is not None
        told = [(one.publication.recommendations, one.publication.status.load.tolist()) for one in said]
        if number <= 20:
            assert told[0] == told[1]
            assert demos[0].hpas.floors == demos[1].hpas.floors
        for demo in demos:
            demo.tick()
    assert told[0] != told[1]  # or nothing would have been shown
    for demo in demos:
        demo.close()


def test_both_futures_see_the_same_load_and_the_floors_are_within_bounds() -> None:
    demo = started()
    for _ in range(40):
        demo.tick()
    alone, helped = demo.world.alone.simulation.totals, demo.world.helped.simulation.totals
    np.testing.assert_array_equal(alone.offered, helped.offered)
    assert demo.health.failures == 0 and demo.health.cycles == 41
    for one in SERVICES:
        assert one.min_replicas <= demo.hpas.floors[one.name] <= one.max_replicas
    # what was written is what the second future ran under, a sync later, and no floor is free of charge
    assert (demo.world.helped.last.replicas[:, 0] >= [demo._floors[name] for name in NAMES]).all()
    assert any(demo.hpas.hpas[name].ours for name in NAMES)
    demo.close()


def test_without_floors_both_futures_are_one() -> None:
    world = World.at_start(Traffic(3), history_days=1)
    own = {one.name: one.min_replicas for one in SERVICES}
    for _ in range(60):
        world.advance(own)
    np.testing.assert_array_equal(world.alone.last.replicas, world.helped.last.replicas)
    np.testing.assert_array_equal(world.alone.last.ready, world.helped.last.ready)


def test_a_pause_gives_the_users_value_back() -> None:
    demo = started()
    for _ in range(20):
        demo.tick()
    held = [name for name in NAMES if demo.hpas.hpas[name].ours]
    assert held
    now = demo.wall()
    demo.store.put_override(Override("p", "*", "pause", now, now + timedelta(hours=1)))
    demo.tick()
    for name in held:
        hpa = demo.hpas.hpas[name]
        assert hpa.min_replicas == SERVICES[NAMES.index(name)].min_replicas
        assert hpa.owners == (KUBECTL,) and not hpa.ours and hpa.users_own is None
    demo.close()


def test_recommendations_that_end_are_walked_back() -> None:
    demo = started()
    for _ in range(4):
        demo.tick()
    rendered = demo.board.current
    assert rendered is not None
    hpas = demo.hpas
    name = max(NAMES, key=lambda one: hpas.floors[one] - SERVICES[NAMES.index(one)].min_replicas)
    floors = [hpas.floors[name]]
    longest = max(one.valid_for.total_seconds() for one in rendered.publication.recommendations)
    for seconds in range(0, int(longest) + 3_600, 60):  # nothing new is published any more
        hpas.obey(rendered.publication.recommendations, float(demo.world.now + seconds), demo.world.replicas())
        floors.append(hpas.floors[name])
    assert floors[0] == floors[4] > floors[-1] == SERVICES[NAMES.index(name)].min_replicas
    assert floors == sorted(floors, reverse=True)
    assert not hpas.hpas[name].ours
    demo.close()


def test_hpas_begin_as_kubectl_made_them() -> None:
    hpas = SimulatedHpas.of_services()
    assert hpas.floors == {one.name: one.min_replicas for one in SERVICES}
    hpas.obey((), float(START), hpas.floors)
    assert hpas.floors == {one.name: one.min_replicas for one in SERVICES}


def test_rest_of_the_demo() -> None:
    demo = started()
    edges = api.Edges(
        board=demo.board,
        health=demo.health,
        store=demo.store,
        demo=demo.page,
        wall=demo.wall,
        monotonic=demo.monotonic,
        allowed_hosts=("testserver",),
    )
    with TestClient(api.build(edges)) as client:
        first = schemas.DemoOut.model_validate_json(client.get("/api/v1/demo").content)
        assert len(first.services[0].times) == 360 and first.policies.hpa.unmet_load_ratio is None
        for _ in range(8):
            demo.tick()
        told = schemas.DemoOut.model_validate_json(client.get("/api/v1/demo").content)
        assert (told.now - told.started_at).total_seconds() == told.simulated_seconds == 8 * TICK
        for one in told.services:
            series = (one.load, one.capacity_hpa, one.capacity_forecaster, one.replicas_hpa, one.floor)
            assert {len(row) for row in series} == {len(one.times)} == {360}
            assert one.times == sorted(one.times) and one.times[-1] == told.now
            assert one.hpa.replica_hours > 0.0
        assert told.policies.forecaster.replica_hours == pytest.approx(
            sum(one.forecaster.replica_hours for one in told.services), abs=0.01
        )
        assert len(client.get("/api/v1/workloads").json()["items"]) == len(SERVICES)
        found = client.get("/api/v1/recommendations").json()["items"]
        assert {one["hpa"] for one in found} == set(NAMES)
        assert b"forecaster_floor_replicas" in client.get("/metrics").content
        assert client.get("/readyz").status_code == 200
    demo.close()


def test_a_demo_that_has_not_begun_says_so_and_a_service_has_none() -> None:
    store = Store("sqlite://")
    edges = api.Edges(Board(), Health(0.0), store, demo=lambda: None, allowed_hosts=("testserver",))
    with TestClient(api.build(edges)) as client:
        assert client.get("/api/v1/demo").status_code == 503
        edges.demo = None
        answer = client.get("/api/v1/demo")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
    store.close()


def test_headless_through_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--headless", "--simulate", "5m", "--seed", "4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schemaVersion"] == 1 and told["seed"] == 4
    assert told["simulatedSeconds"] == 300.0 and told["cycles"] == 21 and told["failedCycles"] == 0
    assert set(told["policies"]) == {"hpa", "forecaster"}
    assert told["policies"]["hpa"]["replicaHours"] > 0.0
    assert isinstance(told["anomalies"], list) and told["wallSeconds"] > 0.0


@pytest.mark.slow
def test_hours_of_the_demo_come_out_as_the_services_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--headless", "--simulate", "4h", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = {one["name"]: one for one in told["services"]}
    for name in ("orders", "invoices"):
        ours, hpa = found[name]["forecaster"], found[name]["hpa"]
        assert ours["secondsAboveCapacity"] < 0.7 * hpa["secondsAboveCapacity"]
    flat = found["catalog"]
    assert flat["forecaster"]["replicaHours"] <= 1.1 * flat["hpa"]["replicaHours"]
    assert any(one["workload"] == "gateway" and one["kind"] == "data_fault" for one in told["anomalies"])
    assert {one["kind"] for one in told["events"]} >= {"flash_crowd", "deploy", "memory_leak", "missing_scrapes"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--headless", "--duration", "soon"], "--duration: 'soon'"),
        (["--json"], "only with --headless"),
        (["--headless", "--speed", "0.5"], "--speed: 0.5"),
        (["--headless", "--seed", "-1"], "--seed: -1"),
        (["--host", "0.0.0.0", "--no-browser"], "0.0.0.0"),
    ],
    ids=["no duration", "json without headless", "too slow", "bad seed", "beyond loopback without tokens"],
)
def test_bad_input_is_one_line_and_exit_2(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_taken_port_is_refused() -> None:
    from serving.server import bind

    taken = bind("127.0.0.1", 0)
    try:
        with pytest.raises(InputError, match="is taken"):
            run.serve(Asked(port=taken.getsockname()[1], browser=False), lambda text: None)
    finally:
        taken.close()


def test_the_pace_keeps_the_speed_and_forgives_what_it_cannot_catch_up_with() -> None:
    pace = Pace(speed=150.0, began=100.0)  # a tick each 0.1 s
    assert pace.wait(100.0) == 0.0
    pace.ticks = 1
    assert pace.wait(100.04) == pytest.approx(0.06)
    assert pace.wait(100.5) == 0.0  # late: at once, and the plan stands
    pace.ticks = 2
    assert pace.wait(150.0) == 0.0
    pace.ticks = 3
    assert pace.wait(150.0) == pytest.approx(0.1)
    assert Pace(speed=None, began=0.0, ticks=10**6).wait(0.0) == 0.0


@pytest.mark.parametrize(
    ("environ", "platform", "opens"),
    [
        ({}, "linux", False),
        ({"DISPLAY": ":0"}, "linux", True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", True),
        ({}, "darwin", True),
    ],
    ids=["no display", "X11", "Wayland", "macOS"],
)
def test_a_browser_is_opened_only_where_there_is_a_display(
    environ: dict[str, str], platform: str, opens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: asked.append(url) or True)
    assert run.open_browser("http://127.0.0.1:8080", environ, platform) is opens
    assert bool(asked) is opens
