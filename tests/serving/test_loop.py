"""The sidecar loop: when it runs, what it publishes and saves, and that one bad cycle does not stop it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.domain import Override
from serving.health import Health
from serving.loop import Board, Clocks, DecisionLog, Loop, Timetable
from serving.render import render
from serving.store import Store
from tests.serving.publications import NOW, FakeChunk, FakeCycle, incident, publication

INTERVAL = timedelta(seconds=15)


@dataclass
class Time:
    """Both clocks; `advance` moves both, `jump` the wall clock alone."""

    now: float = 0.0
    wall_offset: float = field(default_factory=lambda: NOW.timestamp())

    def clocks(self) -> Clocks:
        return Clocks(lambda: datetime.fromtimestamp(self.wall_offset + self.now, UTC), lambda: self.now)

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def jump(self, seconds: float) -> None:
        self.wall_offset += seconds


def loop_of(cycle: FakeCycle, time: Time, store: Store | None = None, **more: object) -> tuple[Loop, Board, Health]:
    board, health = Board(), Health(started_at=0.0)
    return Loop(cycle, board, health, INTERVAL, store, clocks=time.clocks(), **more), board, health  # type: ignore[arg-type]


# --- when ------------------------------------------------------------------------------------------------------------


@given(
    anchor=st.floats(0, 1e6), interval=st.floats(0.5, 120), took=st.lists(st.floats(0, 400), min_size=1, max_size=20)
)
def test_due_times_never_drift_and_never_queue(anchor: float, interval: float, took: list[float]) -> None:
    table = Timetable(anchor, interval)
    due = anchor
    for seconds in took:
        ended = due + seconds
        following = table.following(ended)
        assert ended < following + 1e-3 and following <= ended + interval * (1 + 1e-6)
        turns = (following - anchor) / interval
        assert turns == pytest.approx(round(turns), abs=1e-4)
        skipped = table.skipped(due, ended)
        assert skipped == round((following - due) / interval) - 1
        due = following


def test_a_cycle_that_fits_skips_nothing_and_a_long_one_skips_what_passed() -> None:
    table = Timetable(0.0, 15.0)
    assert table.skipped(15.0, 29.0) == 0
    assert table.skipped(15.0, 31.0) == 1
    assert table.following(31.0) == 45.0


class SteppingStop(threading.Event):
    """Waiting is moving the clock; `wakes` may make it oversleep, as SIGSTOP does."""

    def __init__(self, time: Time, until: float, wakes: Callable[[float], float] = lambda at: at) -> None:
        super().__init__()
        self._time, self._until, self._wakes = time, until, wakes

    def wait(self, timeout: float | None = None) -> bool:
        self._time.now = self._wakes(self._time.now + (timeout or 0.0))
        if self._time.now >= self._until:
            self.set()
        return self.is_set()


def seconds_of(cycle: FakeCycle) -> list[float]:
    return [(at - NOW).total_seconds() for at in cycle.runs]


def test_cycles_run_on_the_interval_whatever_they_take() -> None:
    time, cycle = Time(), FakeCycle()
    cycle.before_end = lambda: time.advance(4.0)
    loop, _, health = loop_of(cycle, time)
    loop._stop = SteppingStop(time, until=70.0)
    loop.run()
    assert seconds_of(cycle) == [0, 15, 30, 45, 60]
    assert (health.cycles, health.overruns) == (5, 0)


def test_a_long_cycle_drops_what_was_due_meanwhile() -> None:
    time, cycle = Time(), FakeCycle()
    cycle.before_end = lambda: time.advance(40.0 if len(cycle.runs) == 1 else 1.0)
    loop, _, health = loop_of(cycle, time)
    loop._stop = SteppingStop(time, until=70.0)
    loop.run()
    assert seconds_of(cycle) == [0, 45, 60]
    assert health.overruns == 2


def test_after_a_pause_the_overdue_cycle_is_dropped() -> None:
    time, cycle = Time(), FakeCycle()
    loop, _, health = loop_of(cycle, time)
    loop._stop = SteppingStop(time, until=100.0, wakes=lambda at: 75.0 if at == 15.0 else at)
    loop.run()
    assert seconds_of(cycle) == [0, 90]
    assert health.overruns == 1


def test_a_cycle_that_was_paused_for_long_publishes_nothing() -> None:
    time, cycle = Time(), FakeCycle()
    loop, board, health = loop_of(cycle, time, stale_after=timedelta(seconds=180))
    loop.tick()
    first = board.current
    cycle.before_end = lambda: time.advance(200.0)
    loop.tick()
    assert board.current is first
    assert (health.cycles, health.unpublished) == (1, 1)


def test_a_jump_of_the_wall_clock_changes_no_due_time_and_is_counted() -> None:
    time, cycle = Time(), FakeCycle()
    cycle.before_end = lambda: time.jump(-3_600.0) if len(cycle.runs) == 2 else None
    loop, _, health = loop_of(cycle, time)
    loop._stop = SteppingStop(time, until=50.0)
    loop.run()
    assert seconds_of(cycle) == [0, 15, 30 - 3_600, 45 - 3_600]
    assert (health.clock_jumps, health.overruns) == (1, 0)


# --- one bad cycle ---------------------------------------------------------------------------------------------------


def test_a_bad_cycle_is_logged_and_counted_and_the_next_one_runs(caplog: pytest.LogCaptureFixture) -> None:
    time, cycle = Time(), FakeCycle(fails=[ValueError("bad"), ValueError("bad"), KeyError("x")])
    loop, board, health = loop_of(cycle, time)
    loop._stop = SteppingStop(time, until=55.0)
    with caplog.at_level(logging.ERROR):
        loop.run()
    assert (health.failures, health.cycles, health.finished_first) == (3, 1, True)
    assert board.current is not None
    assert [bool(one.exc_info) for one in caplog.records] == [True, False, True]  # a trace once


def test_a_bad_configuration_is_said_in_the_publication() -> None:
    loop, board, health = loop_of(FakeCycle(), Time())
    health.config_error = "forecaster.yaml:3:1: unknown key"
    loop.tick()
    assert board.current is not None
    assert [one.code.value for one in board.current.notices] == ["config_invalid"]


# --- what is saved ---------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "f.db"))


def test_decision_state_is_saved_every_cycle_and_the_rest_each_minute(store: Store) -> None:
    time, cycle = Time(), FakeCycle()
    loop, _, _ = loop_of(cycle, time, store)
    saved = []
    for _ in range(5):
        loop.tick()
        found, _ = store.load_states(cycle.STATE_VERSIONS)
        saved.append(tuple(int(next(iter(found[name].arrays.values()))[0]) for name in ("decision", "calibration")))
        time.advance(15.0)
    assert saved == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 5)]


def test_all_is_saved_at_the_end(store: Store) -> None:
    time, cycle = Time(), FakeCycle()
    cycle.history.chunks = [FakeChunk("fine/0", int(NOW.timestamp()), b"one")]
    loop, _, _ = loop_of(cycle, time, store)
    loop._stop = SteppingStop(time, until=20.0)
    loop.run()
    found, _ = store.load_states(cycle.STATE_VERSIONS)
    assert found["calibration"].arrays["shift"][0] == len(cycle.runs) == 2
    assert list(store.chunks()) == [b"one"]


def test_overrides_reach_the_cycle_before_it_runs(store: Store) -> None:
    time, cycle = Time(), FakeCycle()
    loop, _, _ = loop_of(cycle, time, store)
    loop.tick()
    override = Override("o", "checkout", "hold", NOW, NOW + timedelta(hours=1))
    store.put_override(override)
    loop.tick()
    assert cycle.overrides == (override,)


def test_feedback_reaches_the_cycle_once_it_changes_and_again_when_the_incident_ends(store: Store) -> None:
    cycle = FakeCycle(incidents=[incident()])
    loop, _, _ = loop_of(cycle, Time(), store=store)
    loop.tick()
    assert cycle.judged == ()
    store.set_feedback("i1", "expected")
    loop.tick()
    (judged,) = cycle.judged
    assert judged.feedback == "expected" and judged.closed_at is None
    revision = store.revision
    store.set_feedback("i1", "expected")
    assert store.revision == revision  # the same again is nothing new
    cycle.incidents = [incident(closed_at=NOW)]
    loop.tick()
    loop.tick()
    assert [one.closed_at for one in cycle.judged] == [NOW]


def test_incidents_are_told_before_they_are_known_and_not_twice(store: Store) -> None:
    told: list[tuple[list[str], list[str]]] = []
    cycle = FakeCycle(incidents=[incident()])
    tell = lambda known, fresh, now: told.append((list(known), [one.id for one in fresh]))  # noqa: E731
    loop, _, _ = loop_of(cycle, Time(), store=store, tell=tell)
    loop.tick()
    loop.tick()
    assert told == [([], ["i1"]), (["i1"], ["i1"])]


def test_an_incident_that_an_earlier_run_left_open_and_nobody_knows_ends(store: Store) -> None:
    store.put_incidents([incident("old"), incident("i1")])
    cycle = FakeCycle(incidents=[incident("i1")])
    loop, _, _ = loop_of(cycle, Time(), store=store)
    loop.tick()
    assert store.incidents["old"].closed_at is not None and store.incidents["i1"].closed_at is None
    assert store.incidents["old"].sentence.endswith("lost sight of at a restart")


def test_trouble_with_the_store_does_not_stop_the_loop(store: Store) -> None:
    time, cycle = Time(), FakeCycle()
    loop, board, health = loop_of(cycle, time, store)
    assert store.file is not None
    store._engine.dispose()
    store.file.unlink()
    store.file.mkdir()  # opening fails from now on
    loop.tick()
    assert board.current is not None and health.cycles == 1
    assert store.degraded is not None


def test_a_decision_is_stored_when_it_changes_and_else_each_five_minutes() -> None:
    log = DecisionLog({})

    def due(seconds: int, *said: object) -> int:
        return len(log.due([("a#1", "a", said, lambda: ({}, {"floor": 3}))], NOW + timedelta(seconds=seconds)))

    assert due(0, 3) == 1
    assert sum(due(seconds, 3) for seconds in range(15, 3_015, 15)) == 10
    assert due(3_015, 4) == 1
    assert due(3_015, 4, "held") == 1
    assert due(3_015, 4, "held") == 0


# --- waiting for the next decisions ----------------------------------------------------------------------------------


def test_a_waiting_caller_is_woken_by_other_decisions_only() -> None:
    async def scenario() -> None:
        board = Board()
        first = render(publication(), 0.0)
        board.publish(first)
        waiting = asyncio.create_task(board.changed(first.etag, 30.0))
        while not board._waiting:
            await asyncio.sleep(0)
        await asyncio.to_thread(board.publish, render(publication(made_at=NOW + INTERVAL), 15.0))
        await asyncio.to_thread(board.publish, render(publication(floor=9), 30.0))
        found = await waiting
        assert found is not None and found.publication.recommendations[0].floor == 9
        assert not board._waiting

    asyncio.run(scenario())


def test_a_waiting_caller_is_let_go_at_the_end() -> None:
    async def scenario() -> None:
        board = Board()
        first = render(publication(), 0.0)
        board.publish(first)
        waiting = asyncio.create_task(board.changed(first.etag, 30.0))
        while not board._waiting:
            await asyncio.sleep(0)
        await asyncio.to_thread(board.close)
        assert await waiting is first
        assert await board.changed(first.etag, 0.001) is first

    asyncio.run(scenario())


@pytest.mark.parametrize("keeps_state", [True, False], ids=["a service", "a demo"])
def test_only_a_loop_that_keeps_state_stores_it(keeps_state: bool) -> None:
    store, time, cycle = Store("sqlite://"), Time(), FakeCycle()
    cycle.history.chunks = [FakeChunk("fine/0", int(NOW.timestamp()), b"one")]
    loop, board, _ = loop_of(cycle, time, store, keeps_state=keeps_state)
    for _ in range(6):
        loop.tick()
        time.advance(15.0)
    loop.save(last=True)
    assert board.current is not None
    assert bool(store.load_states(cycle.STATE_VERSIONS)[0]) is keeps_state
    assert bool(list(store.chunks())) is keeps_state
    store.close()
