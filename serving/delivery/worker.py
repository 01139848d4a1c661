"""A thread that sends, waits and sends again: what couriers of webhooks and the pusher of alerts have in common."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field

from serving.delivery.sending import Sender

logger = logging.getLogger(__name__)

STOP_SECONDS = 2.0


@dataclass(slots=True, kw_only=True)
class Worker:
    """`step` does the work, in a thread of its own between `start` and `close`."""

    _wake: threading.Condition = field(default_factory=threading.Condition)
    _stopped: bool = False
    _sender: Sender | None = None
    _thread: threading.Thread | None = None

    def step(self) -> float | None:
        """Sends what is due; returns seconds until there is more to do. None: until somebody wakes it."""
        raise NotImplementedError

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=self._name(), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """An attempt that hangs is not waited for."""
        with self._wake:
            self._stopped = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def _name(self) -> str:
        raise NotImplementedError

    def _wait_after_error(self) -> float:
        """Seconds; an error of ours must not become a loop without a pause."""
        raise NotImplementedError

    def _may_wait(self, wait: float | None) -> bool:
        """Whether nothing has come since `step` returned `wait`; under the lock."""
        raise NotImplementedError

    def _run(self) -> None:
        while True:
            try:
                wait = self.step()
            except Exception:
                logger.exception("sending failed: worker=%s", self._name())
                wait = self._wait_after_error()
            with self._wake:
                if not self._stopped and self._may_wait(wait):
                    self._wake.wait(wait)
                if self._stopped:
                    break
        if self._sender is not None:
            self._sender.close()
