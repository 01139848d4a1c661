"""The model that the service runs: shipped, from a folder, or what an alias of the registry means at the moment.

A thread of its own asks the registry; it loads and verifies a new champion and holds it ready for the loop, which
takes it between two cycles. Whatever goes wrong here, the model in use stays, and `Health.model` says what it is.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from forecaster.errors import ModelError, RegistryError
from forecaster.foresight import Make
from forecaster.starts import Starts
from models import artifact, chain, trial
from models.artifact import Artifact
from models.artifact_cache import ArtifactCache, Pointer
from models.registry import PIN, ModelName, Registry, Version, pointer
from serving.health import ModelStatus

logger = logging.getLogger(__name__)

START_SECONDS = 15.0  # that a start waits for the registry where the cache knows no champion
_AGAIN_AFTER = 10  # looks at the registry until a version that was refused is tried again


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """A model that was verified, and the chain with it at the head."""

    make: Make
    source: str  # bundled | folder | cache | registry | statistics
    version: str = ""  # as the forecaster names itself
    number: str = ""  # in the registry
    sha256: str = ""
    starts: Starts | None = None


class Champion:
    """Which model to run. `first` and `take` belong to the caller's thread, the rest to the watcher's."""

    def __init__(
        self,
        model: str,
        status: ModelStatus,
        cache: ArtifactCache,
        registry: Registry | None = None,
        poll_seconds: float = 60.0,
        network: chain.Network = chain.network_of,
    ) -> None:
        """`registry` is that of the model where it is `models:/NAME@ALIAS`."""
        self.model, self.status = model, status
        self._name = ModelName.of(model)
        self._cache, self._registry, self._poll_seconds, self._network = cache, registry, poll_seconds, network
        wanted = ("cache", "registry") if self._name is not None else ("bundled" if model == "bundled" else "folder",)
        self._wanted = frozenset(wanted)
        self._newest = Served(chain.forecasters(), "statistics")
        self._waiting: Served | None = None
        self._refused: dict[tuple[str, str], int] = {}  # version and digest -> looks until it is tried again
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def newest(self) -> Served:
        """What is served, or will be from the next cycle on."""
        return self._newest

    # --- the start ---

    def first(self) -> Served:
        """The model to begin with. Never raises for a model that is bad: the next one of the list below is taken.

        `models:/…`: that of the cache, else the registry's if it comes in time, else the bundled one. A folder's, else
        the bundled one. The bundled one, else the statistical forecasters alone.
        """
        if self._name is not None:
            self._first_of_registry()
        elif self.model != "bundled":
            self._try("folder", lambda: artifact.load(Path(self.model)))
        if not self._newest.version:
            self._try_bundled()
        self._waiting = None
        logger.info("model: version=%s source=%s", self._newest.version or "-", self._newest.source)
        return self._newest

    def start(self) -> None:
        """Watches the registry, if the model comes from one."""
        if self._registry is not None and self._name is not None:
            self._thread = threading.Thread(target=self._watch, name="champion", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """A look that hangs is not waited for: its thread ends with the process."""
        self._stop.set()

    # --- the loop's side ---

    def take(self) -> Served | None:
        """A new champion, once; None where there is none."""
        waiting, self._waiting = self._waiting, None
        return waiting

    # --- the watcher's side ---

    def poll(self) -> None:
        """One look at the registry. Never raises for what the registry or a model does."""
        assert self._registry is not None
        assert self._name is not None
        version: Version | None = None
        try:
            version = self._registry.resolve(self._name.alias)
            self.status.reachable = True
            if version is None:
                self._say(f"{self._name} means no version now: the model in use stays")
                return
            sha256, number = version.sha256, version.number
            if sha256 == self._newest.sha256:
                self._say(None)
                self._remember(pointer(version))
                return
            if self._is_refused((number, sha256)):
                return
            found = self._registry.fetch(version, self._cache)
            self._offer(self._verified(found, "registry", number))
            self._remember(pointer(version))
        except RegistryError as error:
            self.status.reachable = False
            self.status.loads["unreachable"] += 1
            self._say(f"{error}: the model in use stays")
        except ModelError as error:
            self.status.loads["refused"] += 1
            self._say(f"{error}: the model in use stays")
            if version is not None:
                self._refused = {(version.number, version.tags.get(PIN, "")): _AGAIN_AFTER}

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                self.poll()
            except Exception:
                logger.exception("looking at the registry failed")
            self._stop.wait(self._poll_seconds)

    def _first_of_registry(self) -> None:
        known = self._cache.champion(self.model)
        if known is not None:
            self._try("cache", lambda: self._cached(known), known.version)
        if self._newest.version or self._registry is None:
            return
        looking = threading.Thread(target=self.poll, name="champion-first", daemon=True)
        looking.start()
        looking.join(START_SECONDS)
        if looking.is_alive():
            self._say(
                f"{self._registry.shown_uri} gave no champion within {START_SECONDS:g} s: it is taken when it comes"
            )

    def _cached(self, known: Pointer) -> Artifact:
        found = self._cache.load(known.sha256)
        if found is None:
            raise ModelError(f"the cache lacks artifact {known.sha256}")
        return found

    def _try_bundled(self) -> None:
        if artifact.BUNDLED.is_dir():
            self._try("bundled", artifact.bundled)

    def _try(self, source: str, load: Callable[[], Artifact], number: str = "") -> None:
        try:
            self._offer(self._verified(load(), source, number))
        except ModelError as error:
            self.status.loads["refused"] += 1
            self._say(f"model from {source}: {error}")

    def _verified(self, found: Artifact, source: str, number: str) -> Served:
        """Raises ModelError where the artifact does not run, or forecasts nonsense."""
        forecaster = self._network(found)
        trial.passed(forecaster)
        version = forecaster.version
        return Served(
            make=chain.forecasters(found, self._network),
            source=source,
            version=version,
            number=number,
            sha256=artifact.digest(found),
            starts=chain.starts_of(found, version),
        )

    def _offer(self, served: Served) -> None:
        self.status.loads["loaded"] += 1
        self.status.info = {
            "name": self._name.name if self._name is not None and served.source != "bundled" else served.source,
            "version": served.number or served.version,
            "sha256": served.sha256,
            "source": served.source,
        }
        self._refused = {}
        self._newest = self._waiting = served
        if served.source in self._wanted:
            self._say(None)
        logger.info("model was loaded and verified: version=%s source=%s", served.version, served.source)

    def _is_refused(self, version: tuple[str, str]) -> bool:
        left = self._refused.get(version, 0)
        if left:
            self._refused[version] = left - 1
        return left > 0

    def _remember(self, meant: Pointer) -> None:
        if self._cache.champion(self.model) == meant:
            return
        try:
            self._cache.remember(self.model, meant)
        except ModelError as error:
            self._say(f"a restart will not know the champion: {error}")

    def _say(self, trouble: str | None) -> None:
        """What is wrong, logged when it changes."""
        if trouble == self.status.error:
            return
        if trouble is not None:
            logger.warning("model: %s", trouble)
        else:
            logger.info("model: what was wrong is over")
        self.status.error = trouble
