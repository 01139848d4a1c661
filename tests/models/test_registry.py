"""The registry, on a real MLflow that keeps its records in a file, and on ones that are down, slow or lie."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forecaster.errors import ModelError, RegistryError
from models import artifact
from models.artifact import CARD, WEIGHTS
from models.artifact_cache import ArtifactCache, Pointer
from models.registry import PIN, ModelName, Registry, Version
from tests.fake_network import network_artifact

pytest.importorskip("mlflow")
# MLflow's own use of its libraries is not ours to mend.
pytestmark = [pytest.mark.filterwarnings(f"ignore::{name}") for name in ("DeprecationWarning", "FutureWarning")]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One MLflow for all tests of the module: to make one takes seconds. Each test has its own model in it."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def registry(uri: str, request: pytest.FixtureRequest) -> Registry:
    return Registry(uri, request.node.name[:60].replace("[", "-").replace("]", ""), ask_seconds=250, fetch_seconds=250)


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(tmp_path / "cache")


def registered(registry: Registry, folder: Path, seed: int = 0) -> Version:
    """A version whose files lie in `folder`, as if a job had logged them."""
    made = network_artifact(seed=seed)
    artifact.save(folder, made)
    return registry.register("", folder.as_uri(), artifact.digest(made), {"forecaster.seed": str(seed)})


# --- a registry that works -------------------------------------------------------------------------------------------


def test_an_alias_leads_to_the_artifact(registry: Registry, cache: ArtifactCache, tmp_path: Path) -> None:
    assert registry.resolve("champion") is None  # no model yet
    first = registered(registry, tmp_path / "1", 1)
    assert registry.resolve("champion") is None  # no alias yet
    registry.point("champion", first)
    found = registry.resolve("champion")
    assert found is not None and found.number == first.number and found.sha256 == first.sha256
    assert found.tags["forecaster.seed"] == "1"
    assert artifact.digest(registry.fetch(found, cache)) == found.sha256
    second = registered(registry, tmp_path / "2", 2)
    registry.point("champion", second)
    assert registry.resolve("champion") == registry.version(second.number)


def test_the_same_artifact_is_registered_once(registry: Registry, tmp_path: Path) -> None:
    first = registered(registry, tmp_path / "1")
    assert registered(registry, tmp_path / "1").number == first.number
    assert [one.number for one in registry.tagged(PIN, first.sha256)] == [first.number]


def test_what_was_fetched_is_not_fetched_again(registry: Registry, cache: ArtifactCache, tmp_path: Path) -> None:
    version = registered(registry, tmp_path / "1")
    registry.fetch(version, cache)
    (tmp_path / "1" / CARD).unlink()
    assert artifact.digest(registry.fetch(version, cache)) == version.sha256


def test_tags_of_the_model(registry: Registry, tmp_path: Path) -> None:
    assert registry.model_tags() == {}
    registered(registry, tmp_path / "1")
    registry.tag_model("lock", "a")
    assert registry.model_tags() == {"lock": "a"}
    registry.tag_model("lock", None)
    assert registry.model_tags() == {}


# --- M26: versions that are bad --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [WEIGHTS, CARD])
def test_m26_a_version_whose_files_are_damaged_is_refused(
    registry: Registry, cache: ArtifactCache, tmp_path: Path, name: str
) -> None:
    version = registered(registry, tmp_path / "1")
    file = tmp_path / "1" / name
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(ModelError, match=rf"version {version.number} of .*: {name} is "):
        registry.fetch(version, cache)
    assert list(cache.folder.iterdir()) == []  # nothing of it stays


def test_m26_a_version_whose_files_were_exchanged_is_refused(
    registry: Registry, cache: ArtifactCache, tmp_path: Path
) -> None:
    version = registered(registry, tmp_path / "1", 1)
    artifact.save(tmp_path / "2", network_artifact(seed=2))
    for name in (WEIGHTS, CARD):
        (tmp_path / "2" / name).replace(tmp_path / "1" / name)
    with pytest.raises(ModelError, match="which was pinned at promotion"):
        registry.fetch(version, cache)


def test_m26_a_version_without_files_is_refused(registry: Registry, cache: ArtifactCache, tmp_path: Path) -> None:
    version = registered(registry, tmp_path / "1")
    (tmp_path / "1" / CARD).unlink()
    with pytest.raises(ModelError, match=r"holds no card.json"):
        registry.fetch(version, cache)


@pytest.mark.parametrize("pin", ["", "../../etc", "A" * 64], ids=["none", "path", "capitals"])
def test_m28_a_pin_that_is_no_digest_is_refused(cache: ArtifactCache, pin: str) -> None:
    with pytest.raises(ModelError, match="has no digest in its tag"):
        _ = Version("1", "file:///", {PIN: pin}).sha256
    with pytest.raises(ModelError, match="is no SHA-256"):
        cache.load(pin)


def test_m28_only_the_files_of_an_artifact_are_fetched(
    registry: Registry, cache: ArtifactCache, tmp_path: Path
) -> None:
    version = registered(registry, tmp_path / "1")
    (tmp_path / "1" / "model.pkl").write_bytes(b"\x80\x04.")
    registry.fetch(version, cache)
    assert sorted(path.name for path in (cache.folder / version.sha256).iterdir()) == sorted([CARD, WEIGHTS])


def test_files_that_are_too_large_are_not_fetched(registry: Registry, cache: ArtifactCache, tmp_path: Path) -> None:
    version = registered(registry, tmp_path / "1")
    with (tmp_path / "1" / WEIGHTS).open("r+b") as file:
        file.truncate(artifact.LARGEST_BYTES + 1)
    with pytest.raises(ModelError, match=rf"{WEIGHTS} has {artifact.LARGEST_BYTES + 1} bytes"):
        registry.fetch(version, cache)


# --- M26: MLflow down or slow ----------------------------------------------------------------------------------------


class Hanging:
    """A client that does not answer before it is released."""

    def __init__(self) -> None:
        self.release = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.release.wait(60) or None


@pytest.fixture
def hanging() -> Iterator[tuple[Registry, Hanging]]:
    registry, client = Registry("http://user:secret@mlflow.invalid:5000", "forecaster", ask_seconds=0.02), Hanging()
    registry._client = client
    yield registry, client
    client.release.set()


def test_m26_a_registry_that_hangs_is_given_up_and_asked_no_second_time_meanwhile(
    hanging: tuple[Registry, Hanging],
) -> None:
    registry, _ = hanging
    with pytest.raises(RegistryError, match=r"did not give alias champion within 0.02 s") as caught:
        registry.resolve("champion")
    assert "secret" not in str(caught.value)
    threads = threading.active_count()
    for _ in range(3):
        with pytest.raises(RegistryError, match="has not answered the call for alias champion yet"):
            registry.resolve("champion")
    assert threading.active_count() == threads


def test_m26_a_registry_that_is_down_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    registry = Registry("http://user:secret@127.0.0.1:9", "forecaster", ask_seconds=250)
    with pytest.raises(
        RegistryError, match=r"MLflow at http://user:\*\*\*@127.0.0.1:9 gave no alias champion"
    ) as caught:
        registry.resolve("champion")
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


# --- names and the cache ---------------------------------------------------------------------------------------------


def test_names_of_models() -> None:
    assert ModelName.of("models:/forecaster@champion") == ModelName("forecaster", "champion")
    assert str(ModelName("forecaster", "champion")) == "models:/forecaster@champion"
    assert ModelName.of("bundled") is None and ModelName.of("models:/forecaster/3") is None


def test_the_cache_keeps_the_newest_and_what_an_alias_means(cache: ArtifactCache) -> None:
    made = [network_artifact(seed=seed) for seed in range(8)]
    digests = [artifact.digest(one) for one in made]
    for one in made:
        cache.keep(one)
        cache.remember("models:/forecaster@champion", Pointer("1", digests[0]))
    assert cache.champion("models:/forecaster@champion") == Pointer("1", digests[0])
    kept = {path.name for path in cache.folder.iterdir() if path.is_dir()}
    assert digests[0] in kept and digests[-1] in kept and len(kept) <= 6


def test_a_damaged_cache_knows_nothing(cache: ArtifactCache) -> None:
    made = network_artifact()
    cache.keep(made)
    cache.remember("models:/forecaster@champion", Pointer("1", artifact.digest(made)))
    (cache.folder / artifact.digest(made) / WEIGHTS).write_bytes(b"")
    (cache.folder / "champions.json").write_text('{"models:/forecaster@champion": {"version": "1", "sha256": "../x"}}')
    assert cache.load(artifact.digest(made)) is None
    assert cache.champion("models:/forecaster@champion") is None


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be written"):
        ArtifactCache(tmp_path / "file").remember("models:/forecaster@champion", Pointer("1", "0" * 64))
