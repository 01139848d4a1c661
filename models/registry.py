"""MLflow's model registry: which version an alias means, its files, and how a version is added and promoted.

A call that gets no answer is given up after its deadline, whatever MLflow does; while one still hangs no other is made,
so that a registry that is down costs one waiting thread. MLflow is imported with the first call. What is fetched are
the files of an artifact and nothing else; they count only with the digest that was pinned at promotion.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from forecaster.config_values import redacted
from forecaster.errors import ModelError, RegistryError
from models import artifact
from models.artifact import Artifact
from models.artifact_cache import ArtifactCache, Pointer

PIN = "forecaster.sha256"  # tag of a version: the digest that its files must have
PREVIOUS = "forecaster.previous"  # tag of a version: the champion that it followed
FOLDER = "artifact"  # in the artifacts of the run that made a version
ASK_SECONDS, FETCH_SECONDS = 10.0, 60.0
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # how MLflow says that there is no such alias
_EXISTS = "RESOURCE_ALREADY_EXISTS"
_SETTINGS = {  # MLflow would wait for minutes, draw bars, and report its use to its makers
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_MODEL = re.compile(r"models:/(?P<name>[^/@:]+)@(?P<alias>[^/@:]+)")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ModelName:
    """`models:/NAME@ALIAS`."""

    name: str
    alias: str

    @classmethod
    def of(cls, model: str) -> ModelName | None:
        """None where `model` is not of that form."""
        found = _MODEL.fullmatch(model)
        return None if found is None else cls(found["name"], found["alias"])

    def __str__(self) -> str:
        return f"models:/{self.name}@{self.alias}"


@dataclass(frozen=True, slots=True)
class Version:
    """A registered version."""

    number: str
    source: str  # where its files are
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """The pinned digest. Raises ModelError where there is none."""
        pin = self.tags.get(PIN, "")
        if not re.fullmatch(r"[0-9a-f]{64}", pin):
            raise ModelError(
                f"version {self.number} has no digest in its tag {PIN}: promote it with forecaster retrain"
            )
        return pin


class Registry:
    """One registered model. Methods raise RegistryError where MLflow is out of reach, slow, or refuses."""

    def __init__(
        self,
        tracking_uri: str,
        name: str,
        ask_seconds: float = ASK_SECONDS,
        fetch_seconds: float = FETCH_SECONDS,
    ) -> None:
        """Raises ModuleNotFoundError where MLflow is not installed; connects to nothing."""
        if importlib.util.find_spec("mlflow") is None:
            raise ModuleNotFoundError("No module named 'mlflow'", name="mlflow")
        self.tracking_uri, self.name = tracking_uri, name
        self._ask_seconds, self._fetch_seconds = ask_seconds, fetch_seconds
        self._client: Any = None
        self._pending: tuple[str, threading.Thread] | None = None

    @property
    def shown_uri(self) -> str:
        return redacted(self.tracking_uri)

    @property
    def absent(self) -> bool:
        """The registry is a file, and is not there yet; MLflow makes it when it is asked anything."""
        scheme, _, path = self.tracking_uri.partition(":///")
        return scheme == "sqlite" and not Path(path).exists()

    # --- reading ---

    def resolve(self, alias: str) -> Version | None:
        """The version that the alias means now; None where there is no such alias or model."""
        return self.ask(f"alias {alias}", lambda client: _version(client.get_model_version_by_alias(self.name, alias)))

    def version(self, number: str) -> Version | None:
        return self.ask(f"version {number}", lambda client: _version(client.get_model_version(self.name, number)))

    def tagged(self, key: str, value: str) -> list[Version]:
        """Versions with that tag, newest first."""

        def search(client: Any) -> list[Version]:
            found = client.search_model_versions(f"name = '{self.name}' and tags.`{key}` = '{value}'")
            return sorted((_version(one) for one in found), key=lambda one: -int(one.number))

        return self.ask("versions", search) or []

    def model_tags(self) -> Mapping[str, str]:
        """Tags of the registered model; {} where it does not exist."""
        return self.ask("the model", lambda client: dict(client.get_registered_model(self.name).tags)) or {}

    def fetch(self, version: Version, cache: ArtifactCache) -> Artifact:
        """The version's artifact, from the cache or from MLflow, with the pinned digest. Raises ModelError, too."""
        sha256 = version.sha256
        known = cache.load(sha256)
        if known is not None:
            return known
        with cache.scratch() as folder:
            self._download(version, folder)
            try:
                found = artifact.load(folder, sha256)
            except ModelError as error:
                said = str(error).removeprefix(f"{folder}: ")
                raise ModelError(f"version {version.number} of {self.name}: {said}") from error
        cache.keep(found)
        return found

    # --- writing ---

    def register(self, run_id: str, source: str, sha256: str, tags: Mapping[str, str]) -> Version:
        """A version for the artifact that lies at `source`; the one that has this digest already, where there is one.

        The digest is pinned when the version is made, so that no version is ever without it.
        """
        known = self.tagged(PIN, sha256)
        if known:
            return known[-1]

        self.ensure()

        def create(client: Any) -> Version:
            made = client.create_model_version(self.name, source, run_id, tags={**tags, PIN: sha256})
            return _version(made)

        made = self.ask("a new version", create, self._fetch_seconds)
        if made is None:
            raise RegistryError(f"MLflow at {self.shown_uri} made no version of {self.name}")
        return made

    def ensure(self) -> None:
        """Makes the registered model, where it is not there yet."""

        def create(client: Any) -> None:
            from mlflow.exceptions import MlflowException

            try:
                client.create_registered_model(self.name)
            except MlflowException as error:
                if error.error_code != _EXISTS:
                    raise

        self.ask("the model", create)

    def tag(self, version: Version, key: str, value: str) -> None:
        self.ask("a tag", lambda client: client.set_model_version_tag(self.name, version.number, key, value))

    def tag_model(self, key: str, value: str | None) -> None:
        """Sets a tag of the registered model; None removes it."""

        def change(client: Any) -> None:
            if value is None:
                client.delete_registered_model_tag(self.name, key)
            else:
                client.set_registered_model_tag(self.name, key, value)

        self.ask("a tag", change)

    def point(self, alias: str, version: Version) -> None:
        """The alias means this version from now on."""
        self.ask(f"alias {alias}", lambda client: client.set_registered_model_alias(self.name, alias, version.number))

    # --- calls ---

    def ask(self, what: str, call: Callable[[Any], _T], seconds: float | None = None) -> _T | None:
        """`call` with MLflow's client, under a deadline; None where what it asks for does not exist."""
        if self._pending is not None and self._pending[1].is_alive():
            raise RegistryError(f"MLflow at {self.shown_uri} has not answered the call for {self._pending[0]} yet")
        make_client = library()  # seconds of work the first time, which is not MLflow's answer that we wait for
        box: list[tuple[bool, Any]] = []

        def work() -> None:
            try:
                box.append((True, call(self._connected(make_client))))
            except Exception as error:  # of MLflow, SQLAlchemy, an artifact store: translated below
                box.append((False, error))

        thread = threading.Thread(target=work, name="mlflow", daemon=True)
        self._pending = (what, thread)
        thread.start()
        deadline = self._ask_seconds if seconds is None else seconds
        thread.join(deadline)
        if not box:
            raise RegistryError(f"MLflow at {self.shown_uri} did not give {what} within {deadline:g} s")
        done, answer = box[0]
        if done:
            return answer  # type: ignore[no-any-return]
        if isinstance(answer, ModelError):
            raise answer
        if getattr(answer, "error_code", None) in _ABSENT and "not found" in str(answer).lower():
            return None
        said = " ".join(str(answer).split()).replace(self.tracking_uri, self.shown_uri)[:300]
        raise RegistryError(f"MLflow at {self.shown_uri} gave no {what}: {said or repr(answer)}") from answer

    def _connected(self, make_client: Any) -> Any:
        if self._client is None:
            self._client = make_client(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)
        return self._client

    def _download(self, version: Version, folder: Path) -> None:
        """Only the files of an artifact, and only as large as one may be."""

        def download(client: Any) -> bool:
            from mlflow.artifacts import download_artifacts, list_artifacts

            listed = list_artifacts(artifact_uri=version.source, tracking_uri=self.tracking_uri)
            sizes = {one.path.rpartition("/")[2]: one.file_size or 0 for one in listed if not one.is_dir}
            if artifact.CARD not in sizes:
                raise ModelError(f"version {version.number} of {self.name} holds no {artifact.CARD}")
            for name in artifact.FILES:
                if sizes.get(name, 0) > artifact.LARGEST_BYTES:
                    raise ModelError(f"version {version.number} of {self.name}: {name} has {sizes[name]} bytes")
                if name in sizes:
                    uri = f"{version.source.rstrip('/')}/{name}"
                    download_artifacts(artifact_uri=uri, dst_path=str(folder), tracking_uri=self.tracking_uri)
            return True

        if not self.ask(f"the files of version {version.number}", download, self._fetch_seconds):
            raise ModelError(f"version {version.number} of {self.name}: its files are gone")


def library() -> Any:
    """MLflow's client class. The import needs no network."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return MlflowClient


def pointer(version: Version) -> Pointer:
    """What the cache remembers of an alias. Raises ModelError where the version is not pinned."""
    return Pointer(version.number, version.sha256)


def _version(found: Any) -> Version:
    return Version(str(found.version), str(found.source), dict(found.tags))
