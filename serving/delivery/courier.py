"""Brings messages to one destination, in order, from a queue that survives a restart. Its own thread: no cycle waits.

A message that fails is tried again with exponential back-off and jitter, those behind it wait; one that is refused, or
has been tried for a day, is given up, counted and logged.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from serving.delivery.notices import Message
from serving.delivery.sending import Answer, Destination, Outcome, Sender, headers_of
from serving.delivery.worker import Worker

logger = logging.getLogger(__name__)

MOST_WAITING = 1_000  # messages of one destination; beyond it the oldest are dropped
FIRST_DELAY, LONGEST_DELAY = 1.0, 300.0  # seconds
LONGEST_TRIED = timedelta(days=1)


class Outbox(Protocol):
    """Where messages are kept (serving.store.Store)."""

    def put_message(self, message: Message) -> None: ...
    def delete_message(self, id: str) -> None: ...


@dataclass(slots=True)
class Clocks:
    """Time and chance, as arguments: tests pass their own."""

    wall: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random  # in [0, 1)


def delay(attempts: int, chance: float, asked: float | None = None) -> float:
    """Seconds to wait after so many failed attempts (from 1 on): doubled each time, between half and all of it.

    `asked`: what the receiver asks for; it is never undercut.
    """
    longest = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(attempts - 1, 30))
    return max(longest * (0.5 + 0.5 * chance), asked or 0.0)


@dataclass(slots=True)
class Courier(Worker):
    """One destination. `add` from any thread; `step` from one. What waits when it closes stays in the store."""

    to: Destination
    outbox: Outbox
    clocks: Clocks = field(default_factory=Clocks)
    counts: Counter[str] = field(default_factory=Counter)  # outcome -> messages
    _waiting: deque[Message] = field(default_factory=deque)
    _attempts: int = 0  # failed ones, of the first that waits
    _due: float = 0.0  # monotonic time of its next attempt

    def add(self, message: Message) -> None:
        """Takes it for delivery; kept already if it is one of the store's."""
        with self._wake:
            self._waiting.append(message)
            lost = self._waiting.popleft() if len(self._waiting) > MOST_WAITING else None
            if lost is not None:
                self._attempts, self._due = 0, 0.0
            self._wake.notify()
        self.outbox.put_message(message)
        if lost is not None:
            self._end(lost, Outcome.DROPPED, f"more than {MOST_WAITING} wait")

    def resume(self, messages: Iterable[Message]) -> None:
        """Takes what was still waiting when the process ended."""
        with self._wake:
            self._waiting.extend(sorted(messages, key=lambda one: one.at))
            self._wake.notify()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def step(self) -> float | None:
        """Tries the first that waits, if it is due. Returns seconds until the next attempt; None: nothing waits."""
        with self._wake:
            if not self._waiting:
                return None
            message, left = self._waiting[0], self._due - self.clocks.monotonic()
        if left > 0:
            return left
        answer = self._try(message)
        now = self.clocks.wall()
        if answer.outcome is Outcome.FAILED and now - message.at > LONGEST_TRIED:
            answer = Answer(Outcome.EXPIRED, answer.why)
        with self._wake:
            still_first = bool(self._waiting) and self._waiting[0] is message
            if answer.outcome is Outcome.FAILED:
                self.counts[Outcome.FAILED] += 1
                if still_first:
                    self._attempts += 1
                    wait = delay(self._attempts, self.clocks.chance(), answer.retry_after)
                    self._due = self.clocks.monotonic() + wait
                logger.warning(
                    "notification failed, it is tried again: destination=%s attempts=%d why=%s",
                    self.to.name,
                    self._attempts,
                    answer.why,
                )
                return max(0.0, self._due - self.clocks.monotonic())
            if still_first:
                self._waiting.popleft()
                self._attempts, self._due = 0, 0.0
            more = bool(self._waiting)
        if still_first:
            self._end(message, answer.outcome, answer.why)
        return 0.0 if more else None

    def _name(self) -> str:
        return f"courier {self.to.name}"

    def _wait_after_error(self) -> float:
        return LONGEST_DELAY

    def _may_wait(self, wait: float | None) -> bool:
        return wait != 0.0 and (wait is not None or not self._waiting)

    def _try(self, message: Message) -> Answer:
        if self._sender is None:
            self._sender = Sender(self.to.timeout_seconds)
        body = message.body.encode()
        try:
            url, secret = self.to.address(), self.to.secret()
        except (OSError, ValueError) as error:  # a secret that is being rotated is there a moment later
            why = error.strerror if isinstance(error, OSError) else "it is not a key"
            return Answer(Outcome.FAILED, f"its address or secret cannot be read: {why}")
        at = int(self.clocks.wall().timestamp())
        return self._sender.post(url, body, headers_of(message.id, at, body, secret), self._attempts)

    def _end(self, message: Message, outcome: Outcome, why: str) -> None:
        self.counts[outcome] += 1
        self.outbox.delete_message(message.id)
        if outcome is not Outcome.DELIVERED:
            logger.error(
                "notification was given up: destination=%s event=%s outcome=%s why=%s",
                self.to.name,
                message.event,
                outcome.value,
                why,
            )
