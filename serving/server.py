"""`forecaster serve`: builds everything from a configuration file and runs it until it is told to stop.

The loop has its own thread; the web server has the main one. Heavy imports happen in `serve`, so that the command line
stays quick.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import hashlib
import logging
import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from forecaster.domain import Samples, WorkloadSpec
from forecaster.errors import InputError, SourceError, StoreError
from forecaster.rows import Rows
from serving.loop import CycleLike, HistoryLike

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

    from forecaster.chunks import HistoryChunk
    from forecaster.config import Config
    from forecaster.foresight import Make
    from forecaster.ports import HpaReader, MetricSource
    from forecaster.prometheus import PrometheusSource
    from forecaster.starts import Starts
    from serving.auth import Tokens
    from serving.champion import Champion
    from serving.delivery.delivery import Delivery
    from serving.health import Health, ModelStatus
    from serving.hpa_reader import ApiHpas
    from serving.loop import Board, Loop
    from serving.store import Store

logger = logging.getLogger(__name__)

STOP_SECONDS = 8.0  # for the cycle in hand and the last save; ten in all
GRACE_SECONDS = 2  # for requests in hand
ROLES = ("all", "loop", "api")


def serve(
    config_path: Path,
    host: str | None = None,
    port: int | None = None,
    role: str = "all",
    insecure_no_auth: bool = False,
    set_aside_damaged_store: bool = False,
) -> None:
    """Runs until SIGTERM or SIGINT. Raises InputError for what the user must mend before it can start."""
    from forecaster.config import load_config
    from serving import auth

    if role not in ROLES:
        raise InputError(f"--role: {role!r} is not one: write all, loop or api")
    config = load_config(config_path, os.environ)
    host = host or config.server.host
    port = config.server.port if port is None else port
    tokens = auth.Tokens(config.auth.token_file) if config.auth.token_file else None
    insecure = insecure_no_auth or config.server.insecure_no_auth
    auth.check_bind(host, tokens is not None, insecure)
    check_tls(config.server.tls_cert_file, config.server.tls_key_file)
    listening = bind(host, port)
    try:
        stay_responsive()
        service = Service(config, config_path, role, tokens, _hosts(host, tokens is not None or insecure))
        service.open(set_aside_damaged_store)
        gc.freeze()  # what is there now stays: the collector need not look at it again
        try:
            service.run(listening)
        finally:
            service.close()
    finally:
        listening.close()


def stay_responsive() -> None:
    """REST answers between two steps of a cycle, not after it.

    Measured while 10,000 workloads are rendered without pause: 99 % of /healthz within 17 ms, 83 ms with the
    collector's usual thresholds, since it walks over all objects of a cycle at every 700th.
    """
    sys.setswitchinterval(0.001)
    gc.set_threshold(100_000, 20, 100)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises InputError where the address is taken or is none."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, OverflowError) as error:
        raise InputError(f"server.host: {host!r} is not an address of this machine: {error}") from error
    listening = socket.socket(family, kind, protocol)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        listening.listen(512)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"server.port: {port} is taken on {host}: stop what listens there, or use --port"
            ) from error
        raise InputError(f"server: cannot listen on {host}:{port}: {error.strerror}") from error
    listening.set_inheritable(True)
    return listening


def check_tls(certificate: Path | None, key: Path | None) -> None:
    """Raises InputError where the files cannot serve; uvicorn would say so with a trace."""
    if certificate is None:
        if key is not None:
            raise InputError("server.tlsKeyFile: set server.tlsCertFile, too")
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        where = certificate if key is None else f"{certificate}, {key}"
        raise InputError(f"server.tlsCertFile: {where} cannot be used: {error}") from error


def _no_password() -> str:
    raise ValueError("the key has a password: give one without")


def _hosts(host: str, any_name: bool) -> tuple[str, ...] | None:
    return None if any_name else ("localhost", "127.0.0.1", "[::1]", host, f"[{host}]")


def cycle_of(config: Config, source: MetricSource, hpas: HpaReader | None, forecasters: Make) -> ServedCycle:
    from forecaster.cycle import Cycle

    return Cycle(
        config.specs(),
        step=config.step,
        interval=config.interval,
        span=config.history,
        source=source,
        forecasters=forecasters,
        alarms_budget=config.alarms.false_alarms_per_workload_per_week,
        hpas=hpas,
    )


def delivery_of(config: Config, store: Store) -> Delivery:
    """Who is told of incidents."""
    from serving.delivery.delivery import Delivery
    from serving.delivery.sending import Destination

    destinations = [
        Destination(one.name, one.url, one.url_file, one.secret_file, one.least_severity, one.timeout.total_seconds())
        for one in config.alarms.webhooks
    ]
    settings = config.server
    scheme = "http" if settings.tls_cert_file is None else "https"
    own = settings.external_url or f"{scheme}://{settings.host}:{settings.port}"
    return Delivery(destinations, config.alarms.alertmanager, own, store, store.messages())


def champion_of(config: Config, status: ModelStatus) -> Champion:
    """What watches the configured model. Raises ModuleNotFoundError where it needs MLflow and there is none."""
    from models import chain
    from models.artifact_cache import ArtifactCache
    from models.registry import ModelName, Registry
    from serving.champion import Champion

    name = ModelName.of(config.model)
    registry = None if name is None else Registry(config.mlflow.tracking_uri, name.name)
    cache = ArtifactCache(config.mlflow.cache)
    seconds = config.mlflow.poll_interval.total_seconds()
    return Champion(config.model, status, cache, registry, seconds, chain.network_of)


class NoSource:
    """Stands where no Prometheus is configured, which is so only while no workload is."""

    def instant(self, query: str, at: datetime) -> Samples:
        raise SourceError("no Prometheus is configured: write prometheus: {url: …}")

    def range(self, query: str, start: datetime, end: datetime, step: timedelta) -> Samples:
        raise SourceError("no Prometheus is configured: write prometheus: {url: …}")


class RestoredHistory(HistoryLike, Protocol):
    def restore(self, chunks: Iterable[HistoryChunk]) -> None: ...


class ServedCycle(CycleLike, Protocol):
    """What the service needs of forecaster.cycle.Cycle beyond the loop."""

    @property
    def history(self) -> RestoredHistory: ...
    def restore(self, states: Mapping[str, Rows]) -> None: ...
    def reconfigure(self, specs: Sequence[WorkloadSpec], alarms_budget: float | None = None) -> None: ...
    def take_model(self, forecasters: Make, measured: Starts | None = None) -> None: ...


@dataclass(slots=True)
class Reload:
    """Reads the configuration again when its content changes. Called by the loop, between two cycles."""

    path: Path
    apply: Callable[[Config], None]
    health: Health
    seen: bytes = b""

    def __call__(self) -> None:
        try:
            digest = hashlib.sha256(self.path.read_bytes()).digest()
        except OSError as error:
            digest = repr(error.errno).encode()
        if digest == self.seen:
            return
        first, self.seen = not self.seen, digest
        if first:
            return
        from forecaster.config import load_config

        try:
            config = load_config(self.path, os.environ)
            self.apply(config)
        except InputError as error:
            self.health.config_error = str(error)
            self.health.config_reloads["refused"] += 1
            logger.error("configuration is bad, the old one stays: %s", error)
            return
        self.health.config_error = None
        self.health.config_reloads["applied"] += 1
        logger.info("configuration was read again: file=%s", self.path)


class Service:
    """One running service: its parts, and the order in which they start and stop."""

    def __init__(
        self,
        config: Config,
        path: Path,
        role: str,
        tokens: Tokens | None,
        allowed_hosts: tuple[str, ...] | None,
        make_cycle: Callable[[Config, MetricSource], ServedCycle] | None = None,
    ) -> None:
        self.config, self._path, self._role = config, path, role
        self._tokens, self._hosts = tokens, allowed_hosts
        self._make_cycle = make_cycle or (
            lambda config, source: cycle_of(config, source, self.hpas, self.champion.newest.make)
        )
        self.hpas: ApiHpas | None = None
        self._thread: threading.Thread | None = None

    def open(self, set_aside_damaged_store: bool = False) -> None:
        """Store, source, cycle with what was stored of it. Raises InputError."""
        from forecaster.prometheus import PrometheusSource
        from serving.health import Health
        from serving.loop import Board

        self.store = open_store(self.config.store, set_aside_damaged_store)
        self.board: Board = Board()
        self.health = Health(started_at=time.time())
        self.health.degraded = lambda: self.store.degraded
        self.source: PrometheusSource | None
        self.source = None
        if self.config.prometheus is not None:
            self.source = PrometheusSource(self.config.prometheus)
            self.health.queries = self.source.stats
        self.champion = champion_of(self.config, self.health.model)
        self.champion.first()
        self.loop: Loop | None = None
        self.delivery: Delivery | None = None
        if self._role != "api":
            self.delivery = delivery_of(self.config, self.store)
            self.health.deliveries = lambda: self.delivery
            from serving.hpa_reader import reader_of

            self.hpas = reader_of(self.config.kubernetes, os.environ)
            if self.hpas is not None:
                self.hpas.start()
            self.cycle = self._restored_cycle(self.source or NoSource())
            self.loop = self._loop()

    def run(self, listening: socket.socket) -> None:
        self.champion.start()
        if self.delivery is not None:
            self.delivery.start()
        if self.loop is not None:
            self._thread = threading.Thread(target=self._work, args=(self.loop,), name="loop", daemon=True)
            self._thread.start()
        asyncio.run(self._serve(listening))

    def _work(self, loop: Loop) -> None:
        """What the first cycle would else wait for, then the cycles; only after the first is the service ready."""
        from forecaster.anomaly import statistics

        try:
            statistics.warm_up()
        except Exception:  # the first cycle tries it again, and says what becomes of it
            logger.exception("warming up failed")
        loop.run()

    def close(self) -> None:
        """The cycle in hand ends and all is saved; a read that hangs is not waited for longer than we have."""
        stopped = True
        self.champion.close()
        if self.loop is not None:
            self.loop.stop()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)
            stopped = not self._thread.is_alive()
        if self.delivery is not None:
            self.delivery.close()
        if stopped:
            self.store.close()
        else:
            logger.warning("cycle did not end in time: what was saved last stands")
            self.store.flush()
        if self.source is not None:
            self.source.close()
        if self.hpas is not None:
            self.hpas.close()
        logger.info("stopped")

    # --- parts ---

    def _restored_cycle(self, source: MetricSource) -> ServedCycle:
        cycle = self._make_cycle(self.config, source)
        states, said = self.store.load_states(cycle.STATE_VERSIONS)
        for text in said:
            logger.warning("%s", text)
        try:
            cycle.history.restore(_chunks(self.store))
            cycle.restore(states)
        except (ValueError, KeyError) as error:
            # Calibration is worth less than a service that runs: it begins anew, and says so.
            logger.error("stored state does not fit, beginning anew: %s", error)
        served = self.champion.newest
        cycle.take_model(served.make, served.starts)
        cycle.set_events(tuple(self.store.events.values()))
        cycle.set_overrides(tuple(self.store.overrides.values()))
        cycle.set_feedback(self.store.judged())
        return cycle

    def _loop(self) -> Loop:
        from serving.loop import Loop

        assert self.delivery is not None
        reload = Reload(self._path, self._reconfigure, self.health)
        reload()  # remembers what was read

        def before_cycle() -> None:
            reload()
            self._take_champion()

        return Loop(
            self.cycle,
            self.board,
            self.health,
            self.config.interval,
            self.store,
            history=self.config.history,
            stale_after=3 * self.config.step,
            before_cycle=before_cycle,
            tell=self.delivery.tell,
        )

    def _take_champion(self) -> None:
        served = self.champion.take()
        if served is None:
            return
        self.cycle.take_model(served.make, served.starts)
        logger.info("model was taken: version=%s source=%s", served.version, served.source)

    def _reconfigure(self, config: Config) -> None:
        """What can change while we run; the rest is said to need a restart."""
        old = self.config
        fixed = [
            name
            for name in (
                "prometheus",
                "step",
                "interval",
                "history",
                "store",
                "model",
                "mlflow",
                "kubernetes",
                "auth",
                "server",
            )
            if getattr(config, name) != getattr(old, name)
        ]
        fixed += [
            f"alarms.{key}"
            for name, key in (("webhooks", "webhooks"), ("alertmanager", "alertmanager"))
            if getattr(config.alarms, name) != getattr(old.alarms, name)
        ]
        if fixed:
            logger.warning("these settings take effect after a restart: %s", ", ".join(fixed))
        self.cycle.reconfigure(config.specs(), config.alarms.false_alarms_per_workload_per_week)
        self.config = config

    async def _serve(self, listening: socket.socket) -> None:
        from serving import api

        app = api.build(
            api.Edges(
                board=self.board,
                health=self.health,
                store=self.store,
                forecasters=lambda: self.champion.newest.make(),
                source=self.source,
                watched=lambda: len(self.config.workloads),
                role=self._role,
                tokens=self._tokens,
                allowed_hosts=self._hosts,
            )
        )
        settings = self.config.server
        await answer(app, listening, self._stop, settings.tls_cert_file, settings.tls_key_file)

    def _stop(self) -> None:
        self.board.close()
        if self.loop is not None:
            self.loop.stop()


async def answer(
    app: ASGIApp,
    listening: socket.socket,
    on_stop: Callable[[], None],
    certificate: Path | None = None,
    key: Path | None = None,
    until: asyncio.Event | None = None,
) -> None:
    """Serves the application until SIGTERM or SIGINT, or `until` is set; `on_stop` is called first."""
    import uvicorn

    from serving.dated import Dated
    from serving.limits import guarded_protocol

    server = _server(
        uvicorn.Config(
            Dated(app),
            http=guarded_protocol(),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=GRACE_SECONDS,
            ssl_certfile=certificate,
            ssl_keyfile=key,
        )
    )
    loop = asyncio.get_running_loop()

    def stop() -> None:
        server.should_exit = True
        on_stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    logger.info("listening: url=%s", address_of(listening, "https" if certificate else "http"))
    if until is None:
        await server.serve(sockets=[listening])
        return

    async def wait() -> None:
        await until.wait()
        stop()

    waiting = asyncio.create_task(wait())
    try:
        await server.serve(sockets=[listening])
    finally:
        waiting.cancel()


def address_of(listening: socket.socket, scheme: str = "http") -> str:
    """URL of a listening socket."""
    where = listening.getsockname()
    return f"{scheme}://{where[0] if ':' not in where[0] else f'[{where[0]}]'}:{where[1]}"


def _server(config: uvicorn.Config) -> uvicorn.Server:
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Signals are ours: uvicorn would raise them again at the end and make the exit code a failure."""
            yield

    return Server(config)


def open_store(url: str, set_aside_damaged: bool = False) -> Store:
    """Raises InputError: not writable, newer, or damaged and not to be set aside."""
    from serving import store

    try:
        return store.Store(url)
    except StoreError as error:
        if not set_aside_damaged:
            raise InputError(str(error)) from error
        moved = store.set_aside(url, datetime.now(UTC))
        logger.error("damaged store was set aside: file=%s", moved)
        return store.Store(url)


def _chunks(store: Store) -> Iterator[HistoryChunk]:
    from forecaster.chunks import HistoryChunk

    for body in store.chunks():
        try:
            yield HistoryChunk.from_bytes(body)
        except ValueError as error:
            logger.warning("stored piece of history is damaged, it is read anew: why=%s", error)
