"""`forecaster demo`: the real cycle on a simulated cluster, faster than real time.

Here are the parts and their order. The cycle, the loop's publication, the store, the REST application and the
actuator's decisions are those of the service; the metric source, the HPAs and the clock are simulated. All times that
the parts see are simulated ones.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from forecaster.cycle import Cycle
from forecaster.domain import Bounds, Event, Mode, ResourceSpec, ScaleSpec, WorkloadSpec
from forecaster.errors import InputError
from models import chain
from serving import auth, server
from serving.demo import page
from serving.demo.hpas import SimulatedHpas
from serving.demo.services import CATALOG, MEMORY_LIMIT_QUERY, MEMORY_QUERY, NAMESPACE, SERVICES
from serving.demo.traffic import START, TICK, Happening, Traffic
from serving.demo.world import World
from serving.health import Health
from serving.loop import Board, Clocks, Loop
from serving.render import dumps, incident_json
from serving.store import Store

logger = logging.getLogger(__name__)

STEP, INTERVAL = timedelta(minutes=1), timedelta(seconds=TICK)
HISTORY_DAYS = 28
SPEED = 360.0  # an hour in ten seconds
HEADLESS = timedelta(seconds=30)  # where nothing else is said
LAG = 1.0  # real seconds that may be caught up with; a machine that is slower shows less, and skips nothing
SHOWN_EVENTS = 50


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks for."""

    seed: int = 0
    speed: float | None = None  # simulated seconds in a real one; None: SPEED, headless as fast as it goes
    duration: timedelta | None = None  # real
    simulate: timedelta | None = None  # simulated
    host: str = "127.0.0.1"
    port: int = 8080
    insecure_no_auth: bool = False
    browser: bool = True


def specs() -> list[WorkloadSpec]:
    """The demo's configuration: as a user would write it, `mode: apply`, lead times measured."""
    return [
        WorkloadSpec(
            name=one.name,
            load=one.load_query,
            scale=ScaleSpec(
                namespace=NAMESPACE,
                hpa=one.name,
                capacity_per_replica=one.capacity,
                mode=Mode.APPLY,
                bounds=Bounds(min_replicas=one.min_replicas, max_replicas=one.max_replicas),
            ),
            resources=(ResourceSpec("memory", MEMORY_QUERY, MEMORY_LIMIT_QUERY),) if one.name == CATALOG else (),
        )
        for one in SERVICES
    ]


class Demo:
    """The simulated cluster with the product on it. `tick` in one thread, `page` in any."""

    def __init__(self, traffic: Traffic, speed: float | None = None, history_days: int = HISTORY_DAYS) -> None:
        self.speed = speed
        self.world = World.at_start(traffic, history_days)
        self.hpas = SimulatedHpas.of_services()
        self.board, self.store = Board(), Store("sqlite://")
        self.health = Health(started_at=START, degraded=lambda: self.store.degraded)
        self.happened: list[Happening] = []
        self.cycle = Cycle(
            specs(),
            step=STEP,
            interval=INTERVAL,
            span=timedelta(days=history_days),
            source=self.world.source,
            forecasters=chain.shipped(),
            hpas=self.hpas,
        )
        self.loop = Loop(
            self.cycle,
            self.board,
            self.health,
            INTERVAL,
            self.store,
            clocks=Clocks(self.wall, self.monotonic),
            keeps_state=False,
        )
        self._lock = threading.Lock()  # the world, between a tick and a page
        self._floors = self._next = dict(self.hpas.floors)
        self._page: tuple[int, bytes] | None = None
        # real seconds that the newest cycles took
        self.seconds: dict[str, deque[float]] = {one: deque(maxlen=10_000) for one in ("interval", "step")}

    def wall(self) -> datetime:
        return datetime.fromtimestamp(self.world.now, UTC)

    def monotonic(self) -> float:
        return float(self.world.now - START)

    def begin(self) -> None:
        """The first cycle: reads the past, fits, decides."""
        self._run_cycle()

    def tick(self) -> None:
        """15 s of the cluster, then a cycle, then a pass of the actuator; the HPAs see what it wrote a sync later."""
        with self._lock:
            self.world.advance(self._floors)
            news = self.world.traffic.happenings(self.world.now - TICK + 1, self.world.now)
            self.happened = [*self.happened, *news][-SHOWN_EVENTS:]
        for one in news:
            if one.kind == "deploy":  # as a pipeline would tell it by REST
                times = (page.moment(one.time), page.moment(one.until))
                self.store.put_event(Event(f"deploy-{one.time}", "deploy", one.workload, *times, note=one.sentence))
        self._run_cycle()

    def _run_cycle(self) -> None:
        began = time.perf_counter()
        self.loop.tick()
        took = time.perf_counter() - began
        self.health.last_cycle_seconds = took  # the loop's clock, the simulated one, stands while it works
        self.seconds["step" if self.world.now % STEP.seconds == 0 else "interval"].append(took)
        rendered = self.board.current
        if rendered is not None:
            # What was published before counts on while a cycle fails, as for an actuator that polls.
            self.hpas.obey(rendered.publication.recommendations, float(self.world.now), self.world.replicas())
        self._floors, self._next = self._next, self.hpas.floors

    def page(self) -> bytes:
        """`GET /api/v1/demo`."""
        with self._lock:
            if self._page is None or self._page[0] != self.world.now:
                self._page = (self.world.now, dumps(page.shown(self.world, self.happened, self.speed)))
            return self._page[1]

    def close(self) -> None:
        self.board.close()
        self.store.close()


# --- how long, how fast ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Pace:
    """When the next tick is due, by a real monotonic clock. No speed: at once."""

    speed: float | None
    began: float
    ticks: int = 0

    def wait(self, now: float) -> float:
        """Real seconds until the next tick. Behind by more than LAG, the plan starts anew from now."""
        if self.speed is None:
            return 0.0
        due = self.began + self.ticks * TICK / self.speed
        if now - due > LAG:
            self.began += now - due
            return 0.0
        return max(0.0, due - now)


def play(
    demo: Demo,
    asked: Asked,
    stop: threading.Event,
    monotonic: Callable[[], float] = time.monotonic,
    progress: Callable[[float], None] = lambda share: None,
) -> float:
    """Ticks until it is told to stop, or what was asked for is over. Returns the real seconds that it took."""
    began = monotonic()
    pace = Pace(demo.speed, began)
    while not stop.is_set():
        now = monotonic()
        done = [
            *([] if asked.duration is None else [(now - began) / asked.duration.total_seconds()]),
            *([] if asked.simulate is None else [demo.monotonic() / asked.simulate.total_seconds()]),
        ]
        if done:
            progress(min(1.0, max(done)))
            if max(done) >= 1.0:
                break
        wait = pace.wait(now)
        if wait > 0.0 and stop.wait(wait):
            break
        demo.tick()
        pace.ticks += 1
    return monotonic() - began


# --- without the page ------------------------------------------------------------------------------------------------


def headless(asked: Asked, progress: Callable[[float], None] = lambda share: None) -> dict[str, Any]:
    """Runs, and returns what `--json` prints."""
    if asked.duration is None and asked.simulate is None:
        asked = Asked(asked.seed, asked.speed, HEADLESS)
    began = time.monotonic()
    demo = Demo(Traffic(asked.seed), asked.speed)
    try:
        demo.begin()
        play(demo, asked, threading.Event(), progress=progress)
        return report(demo, asked, time.monotonic() - began)
    finally:
        demo.close()


def report(demo: Demo, asked: Asked, wall_seconds: float) -> dict[str, Any]:
    world = demo.world
    return {
        "schemaVersion": page.SCHEMA_VERSION,
        "seed": asked.seed,
        "startedAt": page.moment(START),
        "now": page.moment(world.now),
        "simulatedSeconds": float(world.now - START),
        "wallSeconds": round(wall_seconds, 3),
        "cycles": demo.health.cycles,
        "failedCycles": demo.health.failures,
        "cycleMilliseconds": {name: _median(found) for name, found in demo.seconds.items()},
        "policies": page.policies(world),
        "services": page.services(world),
        "anomalies": [
            incident_json(one) for one in sorted(demo.store.incidents.values(), key=lambda one: one.opened_at)
        ],
        "events": [page.event(one) for one in demo.happened],
    }


def _median(seconds: Collection[float]) -> float | None:
    return round(1_000.0 * sorted(seconds)[len(seconds) // 2], 3) if seconds else None


def as_json(told: Mapping[str, Any]) -> str:
    return dumps(told).decode()


def as_text(told: Mapping[str, Any]) -> str:
    """A table of both futures."""
    lines = [
        f"{told['simulatedSeconds'] / 3600:.1f} simulated hours in {told['wallSeconds']:.0f} s, seed {told['seed']}",
        "",
        f"{'':12}{'replica-hours':>26}{'seconds above capacity':>26}{'unmet load':>24}",
        f"{'':12}{'HPA':>13}{'forecaster':>13}{'HPA':>13}{'forecaster':>13}{'HPA':>12}{'forecaster':>12}",
    ]
    rows = [(one["name"], one["hpa"], one["forecaster"]) for one in told["services"]]
    for name, hpa, ours in [*rows, ("all", told["policies"]["hpa"], told["policies"]["forecaster"])]:
        lines.append(
            f"{name:12}{hpa['replicaHours']:13.1f}{ours['replicaHours']:13.1f}"
            f"{hpa['secondsAboveCapacity']:13.0f}{ours['secondsAboveCapacity']:13.0f}"
            f"{_share(hpa['unmetLoadRatio']):>12}{_share(ours['unmetLoadRatio']):>12}"
        )
    lines += ["", f"{len(told['anomalies'])} incidents, {told['failedCycles']} of {told['cycles']} cycles failed"]
    return "\n".join(lines)


def _share(ratio: float | None) -> str:
    return "-" if ratio is None else f"{100.0 * ratio:.3f} %"


# --- with the page ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Running:
    """The demo's thread, and what it has built so far."""

    asked: Asked
    stop: threading.Event = field(default_factory=threading.Event)
    demo: Demo | None = None
    failed: Exception | None = None


def serve(asked: Asked, say: Callable[[str], None]) -> bool:
    """Runs with the REST application until a signal or the end of what was asked for. True: no cycle failed.

    Raises InputError where the address cannot be used.
    """
    auth.check_bind(asked.host, False, asked.insecure_no_auth)
    listening = server.bind(asked.host, asked.port)
    url = server.address_of(listening)
    say(f"demo: {url} (Ctrl-C ends it)")
    running = _Running(asked)
    try:
        server.stay_responsive()
        asyncio.run(_answer(running, listening, url))
    finally:
        running.stop.set()
        listening.close()
        if running.demo is not None:
            running.demo.close()
    if running.failed is not None:
        raise running.failed
    return running.demo is None or running.demo.health.failures == 0


async def _answer(running: _Running, listening: socket.socket, url: str) -> None:
    from serving import api

    asked = running.asked
    demo = Demo(Traffic(asked.seed), asked.speed or SPEED)
    running.demo = demo
    hosts = None if asked.insecure_no_auth else ("localhost", "127.0.0.1", "[::1]", asked.host, f"[{asked.host}]")
    app = api.build(
        api.Edges(
            board=demo.board,
            health=demo.health,
            store=demo.store,
            forecasters=chain.shipped(),
            source=demo.world.source,
            watched=lambda: len(SERVICES),
            demo=demo.page,
            allowed_hosts=hosts,
            wall=demo.wall,
            monotonic=demo.monotonic,
        )
    )
    done = asyncio.Event()
    loop = asyncio.get_running_loop()

    def work() -> None:
        try:
            demo.begin()
            gc.freeze()
            if asked.browser:
                open_browser(url, os.environ, sys.platform)
            play(demo, asked, running.stop)
        except Exception as error:  # the top of a thread: it is raised where the demo was started
            running.failed = error
        finally:
            loop.call_soon_threadsafe(done.set)

    def stop() -> None:
        running.stop.set()
        demo.board.close()

    thread = threading.Thread(target=work, name="demo", daemon=True)
    thread.start()
    answering = asyncio.create_task(server.answer(app, listening, stop, until=done))
    await answering
    running.stop.set()
    thread.join(server.STOP_SECONDS)


def open_browser(url: str, environ: Mapping[str, str], platform: str) -> bool:
    """Opens the page where there is a display to open it on."""
    has_display = platform in ("darwin", "win32") or bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))
    if not has_display:
        return False
    import webbrowser

    return webbrowser.open(url)


def checked(asked: Asked) -> Asked:
    """Raises InputError for what cannot be run."""
    if asked.speed is not None and not 1.0 <= asked.speed <= 100_000.0:
        raise InputError(f"--speed: {asked.speed:g} is not between 1 and 100000 simulated seconds in a second")
    if not 0 <= asked.seed < 2**32:
        raise InputError(f"--seed: {asked.seed} is not between 0 and 4294967295")
    return asked


def duration_of(text: str | None, option: str) -> timedelta | None:
    """Raises InputError for what is no duration."""
    if text is None:
        return None
    from serving.schemas import duration

    try:
        return duration(text)
    except ValueError as error:
        raise InputError(f"{option}: {text!r}: {error}") from error
