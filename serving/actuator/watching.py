"""Follows all HPAs of the cluster, or of one namespace: list, then watch, and list again when that is not enough.

An `ERROR 410` comes inside an answer of 200; a restarted API server forgets every older version; a silent watch proves
nothing, so after a few minutes the list is read again in any case. What is seen goes to `sink`, from one thread.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from serving.actuator import hpas
from serving.actuator.kube import Kind, Kube, KubeError
from serving.actuator.policy import Hpa

WATCH_SECONDS = (240.0, 300.0)  # one watch lasts so long, at random: many actuators do not list at the same moment
SHORT_WAIT = 0.2  # before a watch
SHORT_WATCH = 5.0  # seconds; several that end sooner in a row, and each comes later than the one before
LEAST_WAIT, MOST_WAIT = 1.0, 60.0
STARTING_UP = 5  # refusals by 403 that may be an API server that has not loaded its rules yet
_log = logging.getLogger("forecaster.actuator")


@dataclass(frozen=True, slots=True)
class Listed:
    """All HPAs of a scope, as they were at one moment."""

    scope: str | None  # namespace; None: all
    found: tuple[Hpa, ...]
    afresh: bool  # what was known before is void: the storage was restored from a back-up
    invalid: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Changed:
    """One HPA was seen."""

    hpa: Hpa


@dataclass(frozen=True, slots=True)
class Deleted:
    """One HPA is gone."""

    hpa: Hpa


@dataclass(frozen=True, slots=True)
class Trouble:
    """The scope could not be read; it is tried again."""

    scope: str | None
    text: str
    forbidden: bool


Sight = Listed | Changed | Deleted | Trouble


class Watch:
    """One scope. `run` never returns until `stopped` says so."""

    def __init__(
        self,
        kube: Kube,
        scope: str | None,
        sink: Callable[[Sight], None],
        stopped: Callable[[float], bool],
        rng: random.Random | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`stopped(seconds)` waits so long and says whether to end."""
        self._kube, self._scope, self._sink, self._stopped = kube, scope, sink, stopped
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._monotonic = monotonic
        self._version = 0  # of the newest list
        self.lists = 0
        self.heard = float("-inf")  # monotonic seconds when the server last answered

    def run(self) -> None:
        failures = short = 0
        while not self._stopped(0.0):
            try:
                version = self._list()
                failures = 0
                while version and not self._stopped(self._rng.uniform(0.0, _growing(SHORT_WAIT, short))):
                    began = self._monotonic()
                    version = self._follow(version)
                    short = short + 1 if self._monotonic() - began < SHORT_WATCH else 0
                wait = self._rng.uniform(0.0, _growing(LEAST_WAIT, short))
            except Exception as error:  # a thread that ends would leave the actuator blind
                if not isinstance(error, KubeError):
                    _log.exception("HPAs of %s", self._scope or "all namespaces")
                    error = KubeError(Kind.UNREACHABLE, f"a fault of ours: {error}")
                failures += 1
                self._sink(self._trouble(error, failures))
                longest = _growing(LEAST_WAIT, failures)
                wait = error.retry_after or self._rng.uniform(longest / 2, longest)
            if self._stopped(wait):
                return

    def _trouble(self, error: KubeError, failures: int) -> Trouble:
        """For a moment after its start an API server forbids everything: no missing right yet."""
        if error.kind is Kind.FORBIDDEN and failures <= STARTING_UP:
            return Trouble(self._scope, "not allowed yet: an API server that has just started forbids all", False)
        return Trouble(self._scope, str(error), error.kind is Kind.FORBIDDEN)

    def _list(self) -> str:
        """All pages, to the sink. Returns the version to watch from."""
        found: list[Hpa] = []
        invalid: list[str] = []
        more = ""
        while True:
            page = self._kube.list_hpas(self._scope, more)
            for item in page:
                try:
                    found.append(hpas.parse(item))
                except ValueError as error:
                    invalid.append(str(error))
            version, more = page.version, page.more
            del page
            if not more:
                break
        self.lists += 1
        self.heard = self._monotonic()
        number = int(version) if version.isdigit() else 0
        self._sink(Listed(self._scope, tuple(found), number < self._version, tuple(invalid)))
        self._version = number
        return version

    def _follow(self, version: str) -> str:
        """One watch. Returns the version to go on from at once, or "" to list again."""
        seconds = self._rng.uniform(*WATCH_SECONDS)
        began = self._monotonic()
        for line in self._kube.watch_hpas(self._scope, version, seconds):
            self.heard = self._monotonic()
            try:
                event = msgspec.json.decode(line)
                kind, told = event["type"], dict(event["object"])
            except (msgspec.DecodeError, KeyError, TypeError, ValueError):
                raise KubeError(Kind.UNREACHABLE, "the watch says something that is no event") from None
            if kind == "ERROR":
                if told.get("code") == 410:
                    return ""
                raise KubeError(Kind.SERVER, f"the watch ended with {told.get('message', 'an error')}")
            version = str((told.get("metadata") or {}).get("resourceVersion") or version)
            if kind == "BOOKMARK":
                continue
            try:
                hpa = hpas.parse(told)
            except ValueError as error:
                self._sink(Trouble(self._scope, str(error), False))
                continue
            self._sink(Deleted(hpa) if kind == "DELETED" else Changed(hpa))
            if self._stopped(0.0):
                return ""
        # Ended by the server: early (it restarts, it balances) we go on where we were, else it is time for a list.
        return version if self._monotonic() - began < seconds / 2 else ""


def _growing(first: float, times: int) -> float:
    """Seconds to wait at most, when something happened so many times in a row."""
    return min(MOST_WAIT, first * 2.0 ** min(max(times - 1, 0), 10))
