"""One retrain job at a time: a file lock on one machine, and a tag in a registry that several machines share.

The file lock is the kernel's: it is gone with its holder, however that ends. The tag is a habit, not a guarantee:
MLflow knows no compare-and-set, so that two jobs which begin within the same second can both run. Then both do the same
work; versions are told apart by their digest and the alias is each one's last write: the worst is work done twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

from forecaster.errors import InputError, RegistryError
from models.registry import Registry

LOCK = "forecaster.lock"  # tag of the registered model: holder and when its hold ends
HOLD = timedelta(minutes=5)  # renewed while the job lives
_RENEW_SECONDS = 60.0


class Busy(Exception):
    """Another job runs. The text says which."""


@contextlib.contextmanager
def file_lock(file: Path) -> Iterator[None]:
    """Raises Busy where another process holds it, InputError where the file cannot be made."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise InputError(f"mlflow.cache: {file} cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"another retrain job holds {file}") from None
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def shared_lock(registry: Registry, clock: Callable[[], datetime]) -> Iterator[None]:
    """Raises Busy where another job holds the tag and renews it; RegistryError. Released at the end, at best effort."""
    holder = uuid.uuid4().hex
    if not _take(registry, holder, clock()):
        raise Busy(f"another retrain job holds the lock of model {registry.name} at {registry.shown_uri}")
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(_RENEW_SECONDS):
            with contextlib.suppress(RegistryError):
                registry.tag_model(LOCK, _text(holder, clock()))

    thread = threading.Thread(target=renew, name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_RENEW_SECONDS)
        with contextlib.suppress(RegistryError):
            registry.tag_model(LOCK, None)


def _take(registry: Registry, holder: str, now: datetime) -> bool:
    registry.ensure()
    held, until = _parsed(registry.model_tags().get(LOCK, ""))
    if held and until is not None and until > now:
        return False
    registry.tag_model(LOCK, _text(holder, now))
    return _parsed(registry.model_tags().get(LOCK, ""))[0] == holder


def _text(holder: str, now: datetime) -> str:
    return f"{holder} {(now + HOLD).isoformat(timespec='seconds')}"


def _parsed(text: str) -> tuple[str, datetime | None]:
    holder, _, until = text.partition(" ")
    try:
        return holder, datetime.fromisoformat(until)
    except ValueError:
        return "", None
