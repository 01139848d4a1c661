"""The sidecar loop: a cycle each interval, published by one assignment, saved on a schedule, stopped in good order.

When to run is decided by a pure function of monotonic times; a due time that has passed is dropped, never queued. One
bad cycle is logged and counted, and the next one runs.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Protocol

from forecaster.domain import Event, Incident, Override
from forecaster.publication import Publication
from forecaster.reasons import Reason, ReasonCode
from forecaster.rows import Rows
from serving.health import Health
from serving.render import Rendered, render
from serving.store import Store, StoredDecision

logger = logging.getLogger(__name__)

CLOCK_JUMP_SECONDS = 5.0
STATE_EVERY = 60.0  # seconds between savings of state that is not the decisions'
CHUNKS_EVERY = 600.0
PRUNE_EVERY = 3_600.0
CLAIM_EVERY = 20.0
DECISION_EVERY = 300  # seconds between stored decisions that say nothing new
DECISION_COMPONENT = "decision"  # saved every cycle: holds must not be forgotten

Told = Callable[[], tuple[dict[str, Any], dict[str, Any]]]  # (record, decision) as JSON, made when they are stored
Tell = Callable[[Mapping[str, Incident], Sequence[Incident], datetime], None]
DecisionRecord = tuple[str, str, object, Told]  # workload key, name, what must be stored when it changes, the rest


class Chunk(Protocol):
    """A piece of history (forecaster.chunks.HistoryChunk)."""

    @property
    def id(self) -> str: ...
    @property
    def until(self) -> int: ...
    def to_bytes(self) -> bytes: ...


class HistoryLike(Protocol):
    def dump(self, changed_only: bool = False) -> Iterable[Chunk]: ...


class CycleLike(Protocol):
    """What the loop needs of forecaster.cycle.Cycle."""

    STATE_VERSIONS: ClassVar[Mapping[str, int]]

    @property
    def history(self) -> HistoryLike: ...
    def run(self, now: datetime) -> Publication: ...
    def dump(self) -> Mapping[str, Rows]: ...
    def decision_records(self) -> Sequence[DecisionRecord]: ...
    def incident_accounts(self) -> Mapping[str, Mapping[str, Any]]: ...
    def set_events(self, events: Sequence[Event]) -> None: ...
    def set_overrides(self, overrides: Sequence[Override]) -> None: ...
    def set_feedback(self, incidents: Sequence[Incident]) -> None: ...


# --- when ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Timetable:
    """Due times `anchor + k * interval` on a monotonic clock: no drift, whatever a cycle takes."""

    anchor: float
    interval: float

    def following(self, now: float) -> float:
        """The first due time after `now`."""
        return self.anchor + (math.floor((now - self.anchor) / self.interval + 1e-9) + 1) * self.interval

    def skipped(self, started: float, ended: float) -> int:
        """Due times that passed while a cycle ran from `started` (its due time) to `ended`."""
        return max(0, round((self.following(ended) - self.following(started)) / self.interval))

    def is_overdue(self, due: float, now: float) -> bool:
        """Woken so late (a stopped process, a suspended machine) that the next due time is to be awaited instead."""
        return now - due > self.interval / 2


@dataclass(slots=True)
class DecisionLog:
    """Which decisions are worth storing: a change of floor or reasons, else one each five minutes."""

    last: dict[str, tuple[object, int]]

    def due(self, records: Iterable[DecisionRecord], now: datetime) -> list[StoredDecision]:
        out = []
        seconds = int(now.timestamp())
        records = list(records)
        if len(self.last) > 2 * len(records) + 100:  # workloads that are gone
            self.last = {key: self.last[key] for key, *_ in records if key in self.last}
        for key, name, said, told in records:
            # The five minutes begin at another second for each workload: the writes spread over the cycles.
            slot = (seconds + _spread(key)) // DECISION_EVERY
            if self.last.get(key) != (said, slot):
                self.last[key] = (said, slot)
                out.append(StoredDecision(name, key, now, *told()))
        return out


def _spread(key: str) -> int:
    return sum(key.encode()) * 7 % DECISION_EVERY


# --- where it is read ------------------------------------------------------------------------------------------------


class Board:
    """What was published last. The loop's thread writes, any thread reads; asyncio callers can wait for the next."""

    def __init__(self) -> None:
        self.current: Rendered | None = None
        self._lock = threading.Lock()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._closed = False

    def publish(self, rendered: Rendered) -> None:
        self.current = rendered
        self._wake()

    def close(self) -> None:
        """Lets all who wait go."""
        self._closed = True
        self._wake()

    async def changed(self, etag: str, timeout_s: float) -> Rendered | None:
        """The newest publication as soon as its ETag is another one, or at the end of the time."""
        entry = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._waiting.add(entry)
        try:
            async with asyncio.timeout(timeout_s):
                while not self._closed:
                    current = self.current
                    if current is not None and current.etag != etag:
                        break
                    await entry[1].wait()
                    entry[1].clear()
        except TimeoutError:
            pass
        finally:
            with self._lock:
                self._waiting.discard(entry)
        return self.current

    def _wake(self) -> None:
        with self._lock:
            waiting = list(self._waiting)
        for loop, event in waiting:
            try:
                loop.call_soon_threadsafe(event.set)
            except RuntimeError:  # that event loop is closed: nobody waits there any more
                continue


# --- the loop --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Clocks:
    """Time, as arguments: tests pass their own."""

    wall: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic


class Loop:
    """Runs cycles until it is told to stop. Everything here happens in one thread, save `stop`."""

    def __init__(
        self,
        cycle: CycleLike,
        board: Board,
        health: Health,
        interval: timedelta,
        store: Store | None = None,
        history: timedelta = timedelta(days=28),
        stale_after: timedelta = timedelta(seconds=180),
        before_cycle: Callable[[], None] = lambda: None,
        clocks: Clocks | None = None,
        keeps_state: bool = True,
        tell: Tell = lambda known, incidents, now: None,
    ) -> None:
        """`tell` hears of the incidents of each publication, and of those known before; it must not wait.

        `stale_after`: a publication that took longer is thrown away. `before_cycle`: e.g. reloads configuration.

        `keeps_state` False: nothing is stored that only a restart needs (the demo begins anew each time).
        """
        self._cycle, self._board, self._health, self._store = cycle, board, health, store
        self._interval = interval.total_seconds()
        self._history, self._stale_after = history, stale_after.total_seconds()
        self._before_cycle = before_cycle
        self._clocks = clocks or Clocks()
        self._keeps_state = keeps_state
        self._tell = tell
        self._looked_for_lost = False
        self._stop = threading.Event()
        self._log = DecisionLog({})
        self._instance = uuid.uuid4().hex[:12]
        self._revision: int | None = None
        self._done_at: dict[str, float] = {}
        self._last: tuple[datetime, float] | None = None  # wall and monotonic time of the last cycle's begin
        self._warned_other = False
        self._failing: str | None = None  # what the last cycle raised

    def stop(self) -> None:
        """The cycle in hand is finished, then all is saved. From any thread or signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Until `stop`."""
        table = Timetable(self._clocks.monotonic(), self._interval)
        due = table.anchor
        while not self._stop.is_set():
            now = self._clocks.monotonic()
            if now < due:
                self._stop.wait(due - now)
                continue
            if table.is_overdue(due, now):
                self._health.overruns += 1
                logger.warning("due cycle was dropped: late_seconds=%.1f", now - due)
                due = table.following(now)
                continue
            self.tick()
            ended = self._clocks.monotonic()
            self._health.overruns += table.skipped(due, ended)
            due = table.following(ended)
        self.save(last=True)

    def tick(self) -> None:
        """One cycle: read, decide, publish, save. Never raises for what a cycle does."""
        began = self._clocks.monotonic()
        now = self._clocks.wall()
        self._notice_jumps(now, began)
        try:
            self._before_cycle()
            self._hand_over()
            publication = self._cycle.run(now)
            self._publish(publication, began)
            self._failing = None
        except Exception as error:
            self._health.failures += 1
            # The whole trace once, then a line: the same error each 15 s would bury the log.
            said = repr(error)
            logger.error(
                "cycle failed: failures=%d why=%s", self._health.failures, said, exc_info=said != self._failing
            )
            self._failing = said
        try:
            if self._store is not None:
                saving = self._clocks.monotonic()
                self.save()
                self._health.save_seconds = self._clocks.monotonic() - saving
        finally:
            self._health.finished_first = True  # what is ready has saved: a kill from here on loses nothing of it

    def save(self, last: bool = False) -> None:
        """What is due goes to the store. `last`: everything."""
        if self._store is None:
            return
        now = self._clocks.wall()
        try:
            self._save(self._store, now, last)
        except Exception:
            logger.exception("saving failed")
        self._store.flush()

    def _publish(self, publication: Publication, began: float) -> None:
        took = self._clocks.monotonic() - began
        if took > self._stale_after and self._board.current is not None:
            self._health.unpublished += 1
            logger.warning("cycle ended too late to be published: seconds=%.1f", took)
            return
        notices = []
        if self._health.config_error is not None:
            notices.append(Reason(ReasonCode.CONFIG_INVALID, self._health.config_error))
        if self._health.model.error is not None:
            notices.append(Reason(ReasonCode.MODEL_UNAVAILABLE, self._health.model.error))
        rendered = render(publication, began, tuple(notices))
        ended = self._clocks.monotonic()
        self._health.render_seconds = ended - began - took
        self._health.last_cycle_seconds = ended - began
        self._health.stations = publication.stations
        self._health.last_cycle_at = publication.made_at.timestamp()
        self._health.last_cycle_monotonic = ended
        self._health.cycles += 1
        if self._store is not None:
            incidents = (*publication.incidents, *self._lost(self._store, publication))
            self._tell(self._store.incidents, incidents, publication.made_at)
            self._store.put_incidents(incidents)
            self._store.put_accounts(self._cycle.incident_accounts(), publication.made_at)
            self._store.add_decisions(self._log.due(self._cycle.decision_records(), publication.made_at))
        self._board.publish(rendered)

    def _lost(self, store: Store, publication: Publication) -> list[Incident]:
        """Incidents that an earlier run left open and this one does not know, closed. Once, after the first cycle."""
        if self._looked_for_lost:
            return []
        self._looked_for_lost = True
        known = {one.id for one in publication.incidents}
        return [
            replace(one, closed_at=publication.made_at, sentence=f"{one.sentence}; lost sight of at a restart")
            for one in store.incidents.copy().values()
            if one.closed_at is None and one.id not in known
        ]

    def _hand_over(self) -> None:
        """Events, overrides and feedback, where they changed since the last cycle."""
        if self._store is None:
            return
        self._store.refresh()
        if self._store.revision == self._revision:
            return
        self._revision = self._store.revision
        self._cycle.set_events(tuple(self._store.events.values()))
        self._cycle.set_overrides(tuple(self._store.overrides.values()))
        self._cycle.set_feedback(self._store.judged())

    def _notice_jumps(self, now: datetime, monotonic: float) -> None:
        if self._last is not None:
            wall, before = self._last
            jump = (now - wall).total_seconds() - (monotonic - before)
            if abs(jump) > CLOCK_JUMP_SECONDS:
                self._health.clock_jumps += 1
                logger.warning("wall clock jumped: seconds=%.1f", jump)
        self._last = now, monotonic

    def _is_due(self, what: str, every: float, last: bool) -> bool:
        now = self._clocks.monotonic()
        if not last and now - self._done_at.get(what, -math.inf) < every:
            return False
        self._done_at[what] = now
        return True

    def _save(self, store: Store, now: datetime, last: bool) -> None:
        if not self._keeps_state:
            if self._is_due("prune", PRUNE_EVERY, last=False):
                store.prune(now, now)
            return
        everything = self._is_due("state", STATE_EVERY, last)
        if self._health.cycles or everything:
            for component, rows in self._cycle.dump().items():
                if everything or component.startswith(DECISION_COMPONENT):
                    store.save_state(component, self._cycle.STATE_VERSIONS[component], rows, now)
        if self._is_due("chunks", CHUNKS_EVERY, last):
            store.put_chunks((one.id, one.until, one.to_bytes()) for one in self._cycle.history.dump(changed_only=True))
        if self._is_due("prune", PRUNE_EVERY, last=False):
            store.prune(now, now - self._history - timedelta(days=1))
        if last:
            store.release(self._instance)
        elif self._is_due("claim", CLAIM_EVERY, last=False):
            other = store.claim(self._instance, now)
            if other is not None and not self._warned_other:
                self._warned_other = True
                logger.warning(
                    "another service writes the same store, or was killed a moment ago: file=%s instance=%s",
                    store.name,
                    other,
                )
