"""What survives a restart: state of the stations, decisions, incidents, events, overrides and a cache of history.

SQLite (WAL) by default, PostgreSQL by URL. Writes are collected and go out in one transaction; where the store is full,
locked or gone they stay in memory (`degraded`), reading goes on, and the next flush tries again. A store of a newer
release is refused and not touched. No value is ever unpickled.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sqlite3
import threading
import time
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from forecaster.domain import Event, Incident, Nearby, Override, Part
from forecaster.errors import InputError, StoreError
from forecaster.rows import Rows
from serving.delivery.notices import Message

logger = logging.getLogger(__name__)

# Each script takes the schema from its index to the next number. Never edited once released: a new one is added.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
        """CREATE TABLE state (component TEXT PRIMARY KEY, state_version INTEGER NOT NULL, model_version TEXT NOT NULL,
           saved_at BIGINT NOT NULL, body {blob} NOT NULL)""",
        """CREATE TABLE decisions (id TEXT PRIMARY KEY, workload TEXT NOT NULL, workload_key TEXT NOT NULL,
           at BIGINT NOT NULL, floor INTEGER, desired_replicas INTEGER, body {blob} NOT NULL)""",
        "CREATE INDEX decisions_by_workload ON decisions (workload, at)",
        "CREATE INDEX decisions_by_time ON decisions (at)",
        "CREATE TABLE incidents (id TEXT PRIMARY KEY, workload TEXT NOT NULL, at BIGINT NOT NULL, body TEXT NOT NULL)",
        "CREATE TABLE events (id TEXT PRIMARY KEY, workload TEXT NOT NULL, at BIGINT NOT NULL, body TEXT NOT NULL)",
        "CREATE TABLE overrides (id TEXT PRIMARY KEY, workload TEXT NOT NULL, at BIGINT NOT NULL, body TEXT NOT NULL)",
        "CREATE TABLE chunks (id TEXT PRIMARY KEY, until BIGINT NOT NULL, body {blob} NOT NULL)",
    ),
    (
        """CREATE TABLE outbox (id TEXT PRIMARY KEY, destination TEXT NOT NULL, event TEXT NOT NULL, at BIGINT NOT NULL,
           body TEXT NOT NULL)""",
        "CREATE TABLE accounts (id TEXT PRIMARY KEY, at BIGINT NOT NULL, body {blob} NOT NULL)",
    ),
)
SCHEMA_VERSION = len(MIGRATIONS)

_META = sa.table("meta", sa.column("name"), sa.column("value"))
_STATE = sa.table(
    "state",
    sa.column("component"),
    sa.column("state_version"),
    sa.column("model_version"),
    sa.column("saved_at"),
    sa.column("body"),
)
_DECISIONS = sa.table(
    "decisions",
    sa.column("id"),
    sa.column("workload"),
    sa.column("workload_key"),
    sa.column("at", sa.BigInteger),
    sa.column("floor"),
    sa.column("desired_replicas"),
    sa.column("body"),
)
_CHUNKS = sa.table("chunks", sa.column("id"), sa.column("until", sa.BigInteger), sa.column("body"))
_OUTBOX = sa.table(
    "outbox",
    sa.column("id"),
    sa.column("destination"),
    sa.column("event"),
    sa.column("at", sa.BigInteger),
    sa.column("body"),
)
_ACCOUNTS = sa.table("accounts", sa.column("id"), sa.column("at", sa.BigInteger), sa.column("body"))
_SMALL = {
    name: sa.table(name, sa.column("id"), sa.column("workload"), sa.column("at"), sa.column("body"))
    for name in ("incidents", "events", "overrides")
}
_TABLES: dict[str, Any] = {
    "meta": _META,
    "state": _STATE,
    "decisions": _DECISIONS,
    "chunks": _CHUNKS,
    "outbox": _OUTBOX,
    "accounts": _ACCOUNTS,
    **_SMALL,
}
_KEY = {"meta": "name", "state": "component"}  # of the others: id

ADVICE_DAMAGED = (
    "the store {file} is damaged ({why}). Look at it with: sqlite3 {file} 'PRAGMA integrity_check'. To begin a new "
    "one, start with --set-aside-damaged-store: the file is kept as {file}.damaged-…; calibration starts anew"
)


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """How long, how much, how patient."""

    decisions_for: timedelta = timedelta(days=30)
    incidents_for: timedelta = timedelta(days=365)
    most_bytes: int = 4 * 2**30  # of the SQLite file; the oldest decisions go first
    most_pending_bytes: int = 128 * 2**20  # kept in memory while the store cannot be written
    lock_deadline_s: float = 3.0  # total, for one flush
    lock_deadline_degraded_s: float = 0.1  # while degraded: a probe, not a wait


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """One decision and what recomputes it."""

    workload: str
    workload_key: str
    at: datetime  # UTC
    record: Mapping[str, Any]  # of forecaster.scaling.decision.record
    decision: Mapping[str, Any]


class Store:
    """Safe to use from several threads; one process at a time should write."""

    def __init__(
        self,
        url: str,
        limits: StoreLimits | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        failpoint: Callable[[str], None] = lambda name: None,
    ) -> None:
        """Opens, migrates where needed, and loads the small collections.

        Raises InputError: the path cannot be written, the URL is not one, the schema is newer than this release.
        Raises StoreError: the file is damaged.
        """
        self._limits = limits or StoreLimits()
        self._monotonic = monotonic
        self._failpoint = failpoint
        self._url = _parsed(url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self.file = Path(self._url.database) if self.is_sqlite and self._url.database else None
        self._shares_connection = self.is_sqlite and self.file is None  # in memory: there is only one
        self._token = ""  # of the collections as they were last read or written
        self.degraded: str | None = None  # why writing does not work, in words
        self.revision = 0  # of events, overrides and feedback: the loop hands them on when it changes
        self._lock = threading.RLock()  # the pending writes and the collections
        self._writing = threading.Lock()  # one flush at a time; held without `_lock` while the disk works
        self._pending: OrderedDict[tuple[str, str], dict[str, Any] | None] = OrderedDict()  # None: delete
        self._pending_bytes = 0
        self._dropped = 0
        self._saved: dict[str, int] = {}  # component -> checksum of what was last handed over
        self._prune_before: tuple[int, int, int] | None = None
        self._check_writable()
        self._engine = _engine(self._url)
        try:
            self._migrate()
            self._load_small()
        except DatabaseError as error:
            self._engine.dispose()
            raise self._at_start(error) from error
        except SQLAlchemyError as error:
            self._engine.dispose()
            raise InputError(f"store: {self.name}: {_said(error)}") from error
        except (InputError, StoreError):
            self._engine.dispose()
            raise

    @property
    def name(self) -> str:
        """For messages: without a password."""
        return str(self.file) if self.file is not None else self._url.render_as_string(hide_password=True)

    def close(self) -> None:
        """A last flush, then the connections are given back."""
        self.flush()
        self._engine.dispose()

    # --- state of the stations ---

    def save_state(self, component: str, state_version: int, rows: Rows, at: datetime, model_version: str = "") -> bool:
        """Takes the rows for the next flush; False where nothing changed since the last time."""
        body = _pack(rows)
        checksum = zlib.crc32(body)
        with self._lock:
            if self._saved.get(component) == checksum:
                return False
            self._saved[component] = checksum
            self._put(
                "state",
                component,
                {
                    "component": component,
                    "state_version": state_version,
                    "model_version": model_version,
                    "saved_at": _seconds(at),
                    "body": body,
                },
            )
        return True

    def load_states(self, versions: Mapping[str, int]) -> tuple[dict[str, Rows], list[str]]:
        """State of the components in `versions`, and what was discarded, in words."""
        found: dict[str, Rows] = {}
        said: list[str] = []
        for row in self._read(sa.select(_STATE)):
            component, version = row.component, row.state_version
            if component not in versions:
                said.append(f"stored state of {component!r} is not known to this release: discarded")
            elif version != versions[component]:
                text = (
                    f"stored state of {component!r} is of version {version}, this release writes {versions[component]}"
                )
                said.append(f"{text}: discarded")
            else:
                try:
                    found[component] = _unpack(bytes(row.body))
                except (ValueError, KeyError, OSError, EOFError, zlib.error) as error:
                    said.append(f"stored state of {component!r} is damaged ({error}): discarded")
        return found, said

    # --- decisions ---

    def add_decisions(self, decisions: Iterable[StoredDecision]) -> None:
        with self._lock:
            for one in decisions:
                at = _milliseconds(one.at)
                body = zlib.compress(
                    json.dumps({"record": one.record, "decision": one.decision}, separators=(",", ":")).encode(), 1
                )
                key = f"{at}/{one.workload_key}"
                floor, desired = one.decision.get("floor"), one.decision.get("desired_replicas")
                self._put(
                    "decisions",
                    key,
                    {
                        "id": key,
                        "workload": one.workload,
                        "workload_key": one.workload_key,
                        "at": at,
                        "floor": floor,
                        "desired_replicas": desired,
                        "body": body,
                    },
                )

    def decisions(
        self, workload: str, until: datetime | None = None, limit: int = 100, since: datetime | None = None
    ) -> list[StoredDecision]:
        """Newest first, at or before `until`."""
        query = sa.select(_DECISIONS).where(_DECISIONS.c.workload == workload)
        lowest = _milliseconds(since) if since else None
        highest = _milliseconds(until) if until else None
        if highest is not None:
            query = query.where(_DECISIONS.c.at <= highest)
        if lowest is not None:
            query = query.where(_DECISIONS.c.at >= lowest)
        rows = {
            row.id: (row.at, row.workload_key, bytes(row.body))
            for row in self._read(query.order_by(_DECISIONS.c.at.desc()).limit(limit))
        }
        for params in self._waiting("decisions"):
            at = params["at"]
            if (
                params["workload"] == workload
                and (highest is None or at <= highest)
                and (lowest is None or at >= lowest)
            ):
                rows[params["id"]] = (at, params["workload_key"], params["body"])
        newest = sorted(rows.values(), key=lambda row: -row[0])[:limit]
        out = []
        for at, key, body in newest:
            told = json.loads(zlib.decompress(body))
            moment = datetime.fromtimestamp(at / 1000, UTC)
            out.append(StoredDecision(workload, key, moment, told["record"], told["decision"]))
        return out

    def floors(self, since: datetime, until: datetime) -> dict[str, list[tuple[float, int | None]]]:
        """Workload -> (Unix seconds, floor) of stored decisions in [since, until], ascending."""
        low, high = _milliseconds(since), _milliseconds(until)
        query = (
            sa.select(_DECISIONS.c.workload, _DECISIONS.c.at, _DECISIONS.c.floor)
            .where(_DECISIONS.c.at.between(low, high))
            .order_by(_DECISIONS.c.at)
            .limit(1_000_000)
        )
        found: dict[str, dict[int, int | None]] = {}
        for row in self._read(query):
            found.setdefault(row.workload, {})[row.at] = row.floor
        for params in self._waiting("decisions"):
            if low <= params["at"] <= high:
                found.setdefault(params["workload"], {})[params["at"]] = params["floor"]
        return {name: [(at / 1000, floor) for at, floor in sorted(rows.items())] for name, rows in found.items()}

    # --- incidents, events, overrides: small, held in memory, written through ---

    def put_incidents(self, incidents: Iterable[Incident]) -> None:
        """Those of a cycle; feedback that was given is kept."""
        with self._lock:
            for one in incidents:
                known = self.incidents.get(one.id)
                if known is not None and one.feedback is None and known.feedback is not None:
                    one = replace(one, feedback=known.feedback)
                if known is None or _incident_json(one) != _incident_json(known):  # NaN is no difference
                    if one.feedback is not None and known is not None and one.closed_at != known.closed_at:
                        self.revision += 1  # how long it lasted is part of what was said
                    self.incidents[one.id] = one
                    self._put_small("incidents", one.id, one.workload, one.opened_at, _incident_json(one))

    def set_feedback(self, incident: str, feedback: str) -> Incident | None:
        """The incident as it is then; None where there is none. Saying the same again changes nothing."""
        with self._lock:
            known = self.incidents.get(incident)
            if known is None or known.feedback == feedback:
                return known
            known = replace(known, feedback=feedback)
            self.incidents[incident] = known
            self.revision += 1
            self._put_small("incidents", known.id, known.workload, known.opened_at, _incident_json(known))
            return known

    def judged(self) -> tuple[Incident, ...]:
        """Incidents of which people said what they were."""
        with self._lock:
            return tuple(one for one in self.incidents.values() if one.feedback is not None)

    def put_event(self, event: Event) -> None:
        with self._lock:
            self.events[event.id] = event
            self.revision += 1
            self._put_small("events", event.id, event.workload, event.starts_at, _event_json(event))

    def put_override(self, override: Override) -> None:
        with self._lock:
            self.overrides[override.id] = override
            self.revision += 1
            self._put_small("overrides", override.id, override.workload, override.starts_at, _override_json(override))

    def delete_override(self, id: str) -> bool:
        with self._lock:
            known = self.overrides.pop(id, None)
            if known is None:
                return False
            self.revision += 1
            self._mark()
            self._put("overrides", id, None)
            return True

    def refresh(self) -> None:
        """Takes what another process wrote to the collections; what still waits here is kept as it is."""
        found = self._read(sa.select(_META.c.value).where(_META.c.name == "collections"))
        with self._lock:
            waits = any(table in _SMALL for table, _ in self._pending)
            if not found or found[0].value == self._token or waits:
                return
            self._token = found[0].value
        try:
            self._load_small()
        except SQLAlchemyError as error:
            self._degrade(_said(error))
        with self._lock:
            self.revision += 1

    # --- messages that wait for delivery ---

    def put_message(self, message: Message) -> None:
        with self._lock:
            self._put(
                "outbox",
                message.id,
                {
                    "id": message.id,
                    "destination": message.destination,
                    "event": message.event,
                    "at": _milliseconds(message.at),
                    "body": message.body,
                },
            )

    def delete_message(self, id: str) -> None:
        with self._lock:
            self._put("outbox", id, None)

    def messages(self) -> list[Message]:
        """Those that an earlier run has not delivered, oldest first."""
        return [
            Message(row.id, row.destination, row.event, datetime.fromtimestamp(row.at / 1000, UTC), row.body)
            for row in self._read(sa.select(_OUTBOX).order_by(_OUTBOX.c.at))
        ]

    # --- what the scores of incidents rest on ---

    def put_accounts(self, accounts: Mapping[str, Mapping[str, Any]], at: datetime) -> None:
        """Incident of a single row -> what recomputes its digits; replaces the one before."""
        with self._lock:
            for id, told in accounts.items():
                body = zlib.compress(json.dumps(told, separators=(",", ":")).encode(), 1)
                self._put("accounts", id, {"id": id, "at": _seconds(at), "body": body})

    def accounts(self, ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """Those that are kept of these."""
        found = {
            row.id: bytes(row.body) for row in self._read(sa.select(_ACCOUNTS).where(_ACCOUNTS.c.id.in_(list(ids))))
        }
        found |= {params["id"]: params["body"] for params in self._waiting("accounts") if params["id"] in ids}
        return {id: json.loads(zlib.decompress(body)) for id, body in found.items()}

    # --- the cache of history ---

    def put_chunks(self, chunks: Iterable[tuple[str, int, bytes]]) -> None:
        """(id, Unix seconds of the last column, bytes) each; replaces a chunk of the same id."""
        with self._lock:
            for id, until, body in chunks:
                self._put("chunks", id, {"id": id, "until": until, "body": body})

    def chunks(self) -> Iterator[bytes]:
        for row in self._read(sa.select(_CHUNKS.c.body).order_by(_CHUNKS.c.until)):
            yield bytes(row.body)

    # --- care ---

    def prune(self, now: datetime, chunks_before: datetime) -> None:
        """What is too old goes with the next flush."""
        decisions = _milliseconds(now - self._limits.decisions_for)
        incidents = _seconds(now - self._limits.incidents_for)
        with self._lock:
            self._prune_before = (decisions, incidents, _seconds(chunks_before))
            ended = [one.id for one in self.overrides.values() if one.ends_at < now - timedelta(days=1)]
            for id in ended:
                del self.overrides[id]
                self._put("overrides", id, None)
            old = [one.id for one in self.incidents.values() if one.closed_at and _seconds(one.closed_at) < incidents]
            for id in old:
                del self.incidents[id]

    def claim(self, instance: str, now: datetime) -> str | None:
        """Writes who uses the store; returns who else did within the last minute, None where nobody."""
        other = None
        for row in self._read(sa.select(_META.c.value).where(_META.c.name == "instance")):
            told = json.loads(row.value)
            if told["instance"] != instance and abs(_seconds(now) - told["at"]) < 60:
                other = str(told["instance"])
        with self._lock:
            value = json.dumps({"instance": instance, "at": _seconds(now)})
            self._put("meta", "instance", {"name": "instance", "value": value})
        return other

    def release(self, instance: str) -> None:
        """At a clean end: who starts next is not told of somebody. Nothing where another one uses the store by now."""
        for row in self._read(sa.select(_META.c.value).where(_META.c.name == "instance")):
            if json.loads(row.value)["instance"] == instance:
                with self._lock:
                    self._put("meta", "instance", None)

    def flush(self) -> bool:
        """Writes all that waits, in one transaction. False, and `degraded` says why, where it cannot."""
        with self._writing:
            with self._lock:
                batch, size = self._pending, self._pending_bytes
                prune, self._prune_before = self._prune_before, None
                self._pending, self._pending_bytes = OrderedDict(), 0
            if not batch and prune is None and self.degraded is None:
                return True
            try:
                self._write(batch, prune)
            except (SQLAlchemyError, OSError) as error:
                self._keep(batch, size, prune)
                self._degrade(_said(error))
                return False
            if self.degraded is not None:
                logger.warning("store can be written again: file=%s dropped=%d", self.name, self._dropped)
                self.degraded, self._dropped = None, 0
            return True

    # --- inside ---

    def _put(self, table: str, key: str, params: dict[str, Any] | None) -> None:
        before = self._pending.pop((table, key), None)
        self._pending[table, key] = params
        self._pending_bytes += _weight(params) - _weight(before)

    def _mark(self) -> None:
        """Lets other processes on this store see that a collection changed."""
        self._token = uuid.uuid4().hex
        self._put("meta", "collections", {"name": "collections", "value": self._token})

    def _put_small(self, table: str, id: str, workload: str, at: datetime, body: Mapping[str, Any]) -> None:
        self._mark()
        text = json.dumps(body, separators=(",", ":"))
        self._put(table, id, {"id": id, "workload": workload, "at": _seconds(at), "body": text})

    def _waiting(self, table: str) -> list[dict[str, Any]]:
        with self._lock:
            return [params for (name, _), params in self._pending.items() if name == table and params is not None]

    def _keep(self, batch: OrderedDict[Any, Any], size: int, prune: tuple[int, int, int] | None) -> None:
        """Puts a batch that could not be written back before what came since; what is too much is dropped."""
        with self._lock:
            for key, params in self._pending.items():
                before = batch.pop(key, None)
                batch[key] = params
                size += _weight(params) - _weight(before)
            self._prune_before = self._prune_before or prune
            for table in ("chunks", "decisions", "state"):  # the cheapest loss first
                if size <= self._limits.most_pending_bytes:
                    break
                for key in [key for key in batch if key[0] == table]:
                    size -= _weight(batch.pop(key))
                    self._dropped += 1
                    if table == "state":
                        self._saved.pop(key[1], None)
                    if size <= self._limits.most_pending_bytes:
                        break
            self._pending, self._pending_bytes = batch, size

    def _write(
        self, batch: Mapping[tuple[str, str], dict[str, Any] | None], prune: tuple[int, int, int] | None
    ) -> None:
        patience = self._limits.lock_deadline_s if self.degraded is None else self._limits.lock_deadline_degraded_s
        deadline = self._monotonic() + patience
        while True:
            try:
                with self._transaction(deadline - self._monotonic()) as connection:
                    self._failpoint("begun")
                    self._write_rows(connection, batch)
                    self._failpoint("rows written")
                    if prune is not None:
                        self._write_prune(connection, prune)
                    self._failpoint("before commit")
                self._failpoint("committed")
                return
            except DBAPIError as error:
                passing = _is_locked(error) or error.connection_invalidated
                if not passing or self._monotonic() >= deadline:
                    raise
                time.sleep(0.05)

    def _write_rows(self, connection: Connection, batch: Mapping[tuple[str, str], dict[str, Any] | None]) -> None:
        by_table: dict[str, list[dict[str, Any]]] = {}
        for (table, key), params in batch.items():
            if params is None:
                target = _TABLES[table]
                connection.execute(sa.delete(target).where(target.c[_KEY.get(table, "id")] == key))
            else:
                by_table.setdefault(table, []).append(params)
        for table, rows in by_table.items():
            connection.execute(sa.text(_upsert(table, list(rows[0]))), rows)
            self._failpoint(f"{table} written")

    def _write_prune(self, connection: Connection, prune: tuple[int, int, int]) -> None:
        decisions, incidents, chunks = prune
        connection.execute(sa.delete(_DECISIONS).where(_DECISIONS.c.at < decisions))
        for old in (_SMALL["incidents"], _ACCOUNTS):
            connection.execute(sa.delete(old).where(old.c.at < incidents))
        connection.execute(sa.delete(_CHUNKS).where(_CHUNKS.c.until < chunks))
        if not self.is_sqlite:
            return
        for _ in range(20):
            pages, free, size = (
                int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())
                for name in ("page_count", "freelist_count", "page_size")
            )
            if (pages - free) * size <= self._limits.most_bytes:
                break
            first, last = connection.execute(
                sa.select(sa.func.min(_DECISIONS.c.at), sa.func.max(_DECISIONS.c.at))
            ).one()
            if first is None:
                break
            logger.warning("store is larger than allowed, oldest decisions go: file=%s", self.name)
            connection.execute(sa.delete(_DECISIONS).where(_DECISIONS.c.at <= first + (last - first) // 10))

    @contextmanager
    def _transaction(self, patience_s: float) -> Iterator[Connection]:
        with self._engine.connect().execution_options(writes=True) as connection:
            if self.is_sqlite:
                wait = max(0, round(1000 * patience_s))
                driver = connection.connection.driver_connection
                assert driver is not None
                driver.execute(f"PRAGMA busy_timeout = {wait}")
            with connection.begin():
                yield connection

    def _read(self, query: Any) -> list[Any]:
        """Rows, or none where the store cannot be read; `degraded` then says why."""
        alone = self._writing if self._shares_connection else nullcontext()
        try:
            with alone, self._engine.connect() as connection:
                return list(connection.execute(query))
        except SQLAlchemyError as error:
            self._degrade(_said(error))
            return []

    def _degrade(self, why: str) -> None:
        if "malformed" in why or "not a database" in why:
            why = ADVICE_DAMAGED.format(file=self.name, why=why)
        if self.degraded is None:
            logger.error("store cannot be used, going on in memory: file=%s why=%s", self.name, why)
        self.degraded = why

    # --- opening ---

    def _check_writable(self) -> None:
        if self.file is None:
            return
        file = self.file
        if file.is_dir():
            raise InputError(f"store: {file} is a folder: name a file in it, e.g. sqlite:///{file}/forecaster.db")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"store: {file.parent} cannot be made: {error.strerror or error}") from error
        place = file if file.exists() else file.parent
        if not os.access(place, os.W_OK) or not os.access(file.parent, os.W_OK):
            raise InputError(f"store: {file} cannot be written: check the owner and the rights of {place}")

    def _migrate(self) -> None:
        deadline = self._monotonic() + 10.0
        while True:
            try:
                found = self._schema_version()
                if found > SCHEMA_VERSION:
                    raise InputError(
                        f"store: {self.name} was written by a newer release (schema {found}, this one knows "
                        f"{SCHEMA_VERSION}): install that release, or name another store. Nothing was changed"
                    )
                if found == SCHEMA_VERSION:
                    return
                with self._transaction(deadline - self._monotonic()) as connection:
                    found = self._schema_version(connection)  # another process may have been faster
                    if found < SCHEMA_VERSION:
                        self._run_migrations(connection, found)
                return
            except DBAPIError as error:
                if not _is_locked(error) or self._monotonic() >= deadline:
                    raise

    def _schema_version(self, connection: Connection | None = None) -> int:
        if connection is None:
            with self._engine.connect() as fresh:
                return self._schema_version(fresh)
        if self.is_sqlite:
            return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
        if not sa.inspect(connection).has_table("meta"):
            return 0
        row = connection.execute(sa.select(_META.c.value).where(_META.c.name == "schema")).first()
        return int(row.value) if row else 0

    def _run_migrations(self, connection: Connection, found: int) -> None:
        blob = "BLOB" if self.is_sqlite else "BYTEA"
        for number in range(found, SCHEMA_VERSION):
            for statement in MIGRATIONS[number]:
                connection.exec_driver_sql(statement.format(blob=blob))
                self._failpoint(f"migration {number + 1}")
        if self.is_sqlite:
            connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute(
            sa.text(_upsert("meta", ["name", "value"])), {"name": "schema", "value": str(SCHEMA_VERSION)}
        )

    def _load_small(self) -> None:
        incidents: dict[str, Incident] = {}
        events: dict[str, Event] = {}
        overrides: dict[str, Override] = {}
        into: tuple[tuple[str, dict[str, Any], Callable[[Mapping[str, Any]], Any]], ...] = (
            ("incidents", incidents, _incident),
            ("events", events, _event),
            ("overrides", overrides, _override),
        )
        alone = self._writing if self._shares_connection else nullcontext()
        with alone, self._engine.connect() as connection:
            token = connection.execute(sa.select(_META.c.value).where(_META.c.name == "collections")).scalar()
            for name, items, read in into:
                for row in connection.execute(sa.select(_SMALL[name]).order_by(_SMALL[name].c.at)):
                    try:
                        items[row.id] = read(json.loads(row.body))
                    except (ValueError, KeyError, TypeError) as error:
                        logger.warning("stored row is damaged: table=%s id=%s why=%r", name, row.id, error)
        with self._lock:
            self._token = token or ""
            self.incidents, self.events, self.overrides = incidents, events, overrides

    def _at_start(self, error: DatabaseError) -> InputError | StoreError:
        why = _said(error)
        if "malformed" in why or "not a database" in why:
            return StoreError(ADVICE_DAMAGED.format(file=self.name, why=why))
        return InputError(f"store: {self.name} cannot be opened: {why}")


def set_aside(url: str, now: datetime) -> Path | None:
    """Renames the files of a SQLite store; returns the new name, None where there was none. Raises InputError."""
    parsed = _parsed(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        raise InputError(f"store: only a SQLite file can be set aside, not {parsed.render_as_string()}")
    file = Path(parsed.database)
    if not file.exists():
        return None
    stamp = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    moved = file.with_name(f"{file.name}.damaged-{stamp}")
    try:
        for tail in ("-wal", "-shm", ""):
            with suppress(FileNotFoundError):
                Path(f"{file}{tail}").rename(f"{moved}{tail}")
    except OSError as error:
        raise InputError(f"store: {file} cannot be set aside: {error.strerror or error}") from error
    return moved


def existing(url: str) -> None:
    """Raises InputError where a SQLite store is not there: opening it would make one."""
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database and not Path(parsed.database).exists():
        raise InputError(f"store: {parsed.database} does not exist: name the store of the service")


# --- engine ----------------------------------------------------------------------------------------------------------


def _parsed(url: str) -> URL:
    """A bare path means SQLite."""
    try:
        parsed = make_url(url if "://" in url else f"sqlite:///{url}")
    except ArgumentError as error:
        raise InputError(f"store: {url!r} is not a URL: write sqlite:////var/lib/forecaster/forecaster.db") from error
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if backend == "sqlite":
        return parsed.set(drivername="sqlite+pysqlite")
    raise InputError(f"store: {backend!r} is not known here: write sqlite:///FILE or postgresql://HOST/NAME")


def _engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        try:
            return sa.create_engine(url, pool_pre_ping=True, pool_size=4, connect_args={"connect_timeout": 5})
        except (ImportError, NoSuchModuleError) as error:
            raise InputError("store: PostgreSQL needs the extra: pip install 'forecaster-k8s[postgres]'") from error
    in_memory = url.database in (None, "", ":memory:")
    engine = sa.create_engine(
        url,
        connect_args={"check_same_thread": False, "timeout": 1.0},
        poolclass=sa.StaticPool if in_memory else sa.QueuePool,
    )

    @sa.event.listens_for(engine, "connect")
    def opened(connection: sqlite3.Connection, record: object) -> None:
        connection.isolation_level = None  # the driver would begin late and leave DDL out of the transaction
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "cache_size = -8000"):
            with suppress(sqlite3.OperationalError):  # a locked or read-only file: the first statement says it better
                connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        write = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _upsert(table: str, columns: Sequence[str]) -> str:
    key = _KEY.get(table, "id")
    changed = ", ".join(f"{name} = excluded.{name}" for name in columns if name != key)
    names, marks = ", ".join(columns), ", ".join(f":{name}" for name in columns)
    # Names come from this module alone; values are bound.
    return f"INSERT INTO {table} ({names}) VALUES ({marks}) ON CONFLICT ({key}) DO UPDATE SET {changed}"  # noqa: S608


def _is_locked(error: DBAPIError) -> bool:
    text = str(error.orig)
    return "locked" in text or "busy" in text


def _said(error: BaseException) -> str:
    """The database's own words in one line, without our SQL and its values."""
    original = getattr(error, "orig", None) or error
    return " ".join(str(original).split())[:300]


# --- rows as bytes ---------------------------------------------------------------------------------------------------


def _pack(rows: Rows) -> bytes:
    """np.savez with the keys as JSON; object arrays are refused, so no pickle can arise."""
    arrays: dict[str, Any] = {f"a_{name}": np.asarray(array) for name, array in rows.arrays.items()}
    guilty = [name for name, array in arrays.items() if array.dtype.hasobject]
    if guilty:
        raise ValueError(f"state arrays {guilty} hold Python objects")
    arrays["keys"] = np.frombuffer(json.dumps(rows.keys).encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _unpack(body: bytes) -> Rows:
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as file:
            keys = tuple(str(key) for key in json.loads(bytes(file["keys"])))
            return Rows(keys, {name[2:]: file[name] for name in file.files if name.startswith("a_")})
    except Exception as error:  # zipfile, zlib and numpy each have their own way to say that bytes are damaged
        raise ValueError(str(error) or type(error).__name__) from error


def _weight(params: Mapping[str, Any] | None) -> int:
    return 64 if params is None else 256 + len(params.get("body", ""))


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


# --- small records ---------------------------------------------------------------------------------------------------


def _stamp(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text)


_NUMBERS = ("score", "threshold", "observed", "expected_low", "expected_high")
_TIMES = ("opened_at", "onset", "closed_at")
_PART_TEXTS = ("id", "workload", "role", "kind", "direction", "severity")


def _part_json(one: Incident | Part) -> dict[str, Any]:
    return {
        **{name: getattr(one, name) for name in _PART_TEXTS},
        **{name: repr(float(getattr(one, name))) for name in _NUMBERS},
        **{name: _stamp(getattr(one, name)) for name in _TIMES},
    }


def _part_fields(told: Mapping[str, Any]) -> dict[str, Any]:
    """Of a part or an incident; releases before the second schema wrote no threshold."""
    fields: dict[str, Any] = {name: told[name] for name in _PART_TEXTS}
    fields |= {name: float(told.get(name, 0.0)) for name in _NUMBERS}
    return fields | {name: _moment(told[name]) for name in _TIMES}


def _incident_json(one: Incident) -> dict[str, Any]:
    return {
        **_part_json(one),
        **{name: getattr(one, name) for name in ("sentence", "feedback", "cause")},
        "parts": [_part_json(part) for part in one.parts],
        "nearby": [{"kind": near.kind, "at": _stamp(near.at), "text": near.text} for near in one.nearby],
    }


def _incident(told: Mapping[str, Any]) -> Incident:
    return Incident(
        **_part_fields(told),
        sentence=told["sentence"],
        feedback=told["feedback"],
        cause=told.get("cause"),
        parts=tuple(Part(**_part_fields(part)) for part in told.get("parts", ())),
        nearby=tuple(Nearby(near["kind"], _at(near["at"]), near["text"]) for near in told.get("nearby", ())),
    )


def _event_json(one: Event) -> dict[str, Any]:
    texts = {name: getattr(one, name) for name in ("id", "kind", "workload", "note", "exclude")}
    return {**texts, "starts_at": _stamp(one.starts_at), "ends_at": _stamp(one.ends_at)}


def _event(told: Mapping[str, Any]) -> Event:
    return Event(**{**told, "starts_at": _at(told["starts_at"]), "ends_at": _at(told["ends_at"])})


def _override_json(one: Override) -> dict[str, Any]:
    names = ("id", "workload", "kind", "min_replicas", "max_replicas", "note")
    texts = {name: getattr(one, name) for name in names}
    return {**texts, "starts_at": _stamp(one.starts_at), "ends_at": _stamp(one.ends_at)}


def _override(told: Mapping[str, Any]) -> Override:
    return Override(**{**told, "starts_at": _at(told["starts_at"]), "ends_at": _at(told["ends_at"])})
