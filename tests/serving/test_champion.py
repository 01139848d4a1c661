"""The model that is served: where it comes from at the start, what is taken later, and what can go wrong meanwhile."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from forecaster import blend, calibration, skill, starts
from forecaster.cycle import Cycle
from forecaster.domain import WorkloadSpec
from forecaster.errors import ModelError, RegistryError
from forecaster.foresight import Foresight
from forecaster.reasons import ReasonCode
from models import artifact, chain
from models.artifact import Artifact, Residuals
from models.artifact_cache import ArtifactCache, Pointer
from models.registry import PIN, Version
from serving import champion as module
from serving.champion import Champion
from serving.health import Health, ModelStatus
from serving.loop import Board, Clocks, Loop
from serving.metrics_text import health_text, workloads_text
from tests.fake_network import FakeNetwork, network_artifact
from tests.fakes import FakeSource, daily

MODEL = "models:/forecaster@champion"
NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


@dataclass
class FakeRegistry:
    """Versions in memory; `trouble` is raised by every call while it is set."""

    versions: dict[str, Artifact] = field(default_factory=dict)
    alias: str | None = None
    trouble: Exception | None = None
    fetched: int = 0
    shown_uri: str = "http://mlflow:5000"

    def resolve(self, alias: str) -> Version | None:
        assert alias == "champion"
        if self.trouble is not None:
            raise self.trouble
        if self.alias is None:
            return None
        return Version(self.alias, "", {PIN: artifact.digest(self.versions[self.alias])})

    def fetch(self, version: Version, cache: ArtifactCache) -> Artifact:
        self.fetched += 1
        found = self.versions[version.number]
        cache.keep(found)
        return found


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(tmp_path / "cache")


@pytest.fixture(autouse=True)
def _no_bundled_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(artifact, "BUNDLED", tmp_path / "bundled")


def watch(cache: ArtifactCache, registry: FakeRegistry | None = None, model: str = MODEL) -> Champion:
    return Champion(model, ModelStatus(), cache, registry, network=FakeNetwork)  # type: ignore[arg-type]


def version_of(made: Artifact) -> str:
    return FakeNetwork(made).version


# --- the start -------------------------------------------------------------------------------------------------------


def test_without_a_bundled_model_the_statistical_forecasters_serve(cache: ArtifactCache) -> None:
    one = watch(cache, model="bundled")
    served = one.first()
    assert (served.source, served.version, one.status.error, one.status.info) == ("statistics", "", None, {})
    assert [forecaster.version for forecaster in served.make()] == [made.version for made in chain.forecasters()()]


def test_the_bundled_model_comes_first_in_the_chain(cache: ArtifactCache) -> None:
    made = network_artifact()
    artifact.save(artifact.BUNDLED, made)
    served = watch(cache, model="bundled").first()
    assert (served.source, served.version, served.sha256) == ("bundled", version_of(made), artifact.digest(made))
    assert served.make()[0].version == version_of(made)


def test_a_folder_is_a_model(cache: ArtifactCache, tmp_path: Path) -> None:
    artifact.save(tmp_path / "mine", network_artifact(seed=5))
    one = watch(cache, model=str(tmp_path / "mine"))
    assert one.first().source == "folder" and one.status.error is None
    assert one.status.info["source"] == "folder"


@pytest.mark.parametrize("nonsense", [0, 1], ids=["damaged", "nonsense"])
def test_a_bad_folder_leaves_the_bundled_model_and_is_said(
    cache: ArtifactCache, tmp_path: Path, nonsense: int, caplog: pytest.LogCaptureFixture
) -> None:
    artifact.save(artifact.BUNDLED, network_artifact())
    artifact.save(tmp_path / "mine", network_artifact(nonsense=nonsense))
    if not nonsense:
        (tmp_path / "mine" / artifact.WEIGHTS).write_bytes(b"")
    one = watch(cache, model=str(tmp_path / "mine"))
    assert one.first().source == "bundled"
    assert one.status.error is not None and one.status.error.startswith("model from folder: ")
    assert one.status.error in caplog.text
    assert one.status.loads == {"refused": 1, "loaded": 1}


def test_a_champion_in_the_cache_needs_no_registry(cache: ArtifactCache) -> None:
    made = network_artifact(seed=1)
    cache.keep(made)
    cache.remember(MODEL, Pointer("7", artifact.digest(made)))
    one = watch(cache, FakeRegistry(trouble=RegistryError("down")))
    served = one.first()
    assert (served.source, served.number, served.version) == ("cache", "7", version_of(made))
    assert one.status.error is None and one.status.reachable is None


def test_without_a_cache_the_registry_is_asked(cache: ArtifactCache) -> None:
    made = network_artifact(seed=1)
    one = watch(cache, FakeRegistry({"3": made}, "3"))
    assert one.first().source == "registry"
    assert one.take() is None  # it is what the service begins with
    assert cache.champion(MODEL) == Pointer("3", artifact.digest(made))


def test_m26_a_registry_that_is_down_at_the_start_leaves_the_bundled_model(cache: ArtifactCache) -> None:
    artifact.save(artifact.BUNDLED, network_artifact())
    one = watch(cache, FakeRegistry(trouble=RegistryError("MLflow is down")))
    assert one.first().source == "bundled"
    assert one.status.error == "MLflow is down: the model in use stays" and one.status.reachable is False


def test_m26_a_registry_that_hangs_at_the_start_is_waited_for_only_so_long(
    cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    class Slow(FakeRegistry):
        def resolve(self, alias: str) -> Version | None:
            released.wait(60)
            return super().resolve(alias)

    monkeypatch.setattr(module, "START_SECONDS", 0.01)
    made = network_artifact(seed=1)
    one = watch(cache, Slow({"3": made}, "3"))
    assert one.first().source == "statistics"
    assert one.status.error is not None and "it is taken when it comes" in one.status.error
    released.set()
    for thread in threading.enumerate():
        if thread.name == "champion-first":
            thread.join()
    taken = one.take()
    assert taken is not None and taken.version == version_of(made) and one.status.error is None


# --- later -----------------------------------------------------------------------------------------------------------


def test_another_champion_is_taken_once(cache: ArtifactCache) -> None:
    registry = FakeRegistry({"1": network_artifact(seed=1), "2": network_artifact(seed=2)}, "1")
    one = watch(cache, registry)
    one.first()
    one.poll()
    assert one.take() is None and registry.fetched == 1
    registry.alias = "2"
    one.poll()
    taken = one.take()
    assert taken is not None and (taken.number, taken.version) == ("2", version_of(registry.versions["2"]))
    assert one.take() is None
    assert one.status.loads == {"loaded": 2}
    assert one.status.info["version"] == "2"
    assert cache.champion(MODEL) == Pointer("2", taken.sha256)


@pytest.mark.parametrize("nonsense", [1, 2, 3], ids=["NaN", "crossing", "absurd"])
def test_m25_a_champion_that_gives_nonsense_is_refused(cache: ArtifactCache, nonsense: int) -> None:
    registry = FakeRegistry({"1": network_artifact(seed=1), "2": network_artifact(nonsense=nonsense)}, "1")
    one = watch(cache, registry)
    one.first()
    registry.alias = "2"
    for _ in range(5):
        one.poll()
    assert one.take() is None and one.newest.number == "1"
    assert one.status.loads == {"loaded": 1, "refused": 1} and registry.fetched == 2  # not again with every look
    assert one.status.error is not None and "numbers that cannot be" in one.status.error
    registry.alias = "1"  # rolled back
    one.poll()
    assert one.status.error is None and one.newest.number == "1"


def test_m26_a_refused_version_is_tried_again_after_a_while(cache: ArtifactCache) -> None:
    class Flaky(FakeRegistry):
        def fetch(self, version: Version, cache: ArtifactCache) -> Artifact:
            if self.fetched < 2:
                self.fetched += 1
                raise ModelError("the disk is full")
            return super().fetch(version, cache)

    one = watch(cache, Flaky({"2": network_artifact(seed=2)}, "2"))
    one.first()
    assert one.newest.source == "statistics"
    for _ in range(25):
        one.poll()
    assert one.newest.number == "2" and one.status.error is None and one.status.loads == {"refused": 2, "loaded": 1}


@pytest.mark.parametrize(
    ("trouble", "said"),
    [(RegistryError("MLflow is down"), "MLflow is down: the model"), (None, "means no version now: the model")],
    ids=["down", "alias deleted"],
)
def test_m26_the_model_stays_while_the_registry_is_in_trouble_which_is_logged_once(
    cache: ArtifactCache, trouble: Exception | None, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    registry = FakeRegistry({"1": network_artifact(seed=1)}, "1")
    one = watch(cache, registry)
    one.first()
    registry.trouble, registry.alias = trouble, None
    for _ in range(3):
        one.poll()
    assert one.take() is None and one.newest.number == "1"
    assert one.status.error is not None and said in one.status.error
    assert caplog.text.count(said) == 1
    registry.trouble, registry.alias = None, "1"
    one.poll()
    assert one.status.error is None and one.status.reachable is True


# --- in the loop -----------------------------------------------------------------------------------------------------

ROW = "a"


def cycle_of(one: Champion) -> Cycle:
    source = FakeSource({"load_a": [({}, daily(100.0))], "load_b": [({}, daily(50.0, seed=3))]})
    specs = [WorkloadSpec(name="a", load="load_a"), WorkloadSpec(name="b", load="load_b")]
    return Cycle(
        specs,
        step=timedelta(minutes=1),
        interval=timedelta(minutes=1),
        span=timedelta(days=3),
        source=source,
        forecasters=one.newest.make,
    )


def residuals_for(key: str) -> Residuals:
    """A back-test that knows one row of the cycle, by a made-up number in every array."""
    layout = Foresight(chain.forecasters(), timedelta(minutes=1)).layout
    blank = calibration.blank((key,), layout).arrays
    arrays = {name: np.full(blank[name].shape, 60.0, dtype=np.float32) for name in starts.CALIBRATION}
    arrays |= {f"skill_{name}": np.ones(1, dtype=np.float32) for name in starts.SKILL}
    return Residuals(layout.version, (key,), arrays)


def test_m27_a_champion_serves_from_the_next_cycle_on_and_a_roll_back_too_and_no_cycle_is_dropped(
    cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skill, "_LEAST_WINDOWS", np.inf)  # the made-up network stays first, whatever it is worth
    registry = FakeRegistry({"1": network_artifact(seed=1)}, "1")
    one = watch(cache, registry)
    one.first()
    cycle = cycle_of(one)
    said = cycle.run(NOW)
    key = next(work.workload.key for work in said.workloads if work.workload.name == "a")
    registry.versions["2"] = network_artifact(seed=2, residuals=residuals_for(f"{key}/load"))
    board, health = Board(), Health(0.0, model=one.status)
    clock = {"now": NOW}

    def before_cycle() -> None:
        served = one.take()
        if served is not None:
            cycle.take_model(served.make, served.starts)

    loop = Loop(
        cycle,
        board,
        health,
        timedelta(minutes=1),
        before_cycle=before_cycle,
        clocks=Clocks(wall=lambda: clock["now"], monotonic=lambda: clock["now"].timestamp()),
    )

    def tick() -> tuple[str, ...]:
        clock["now"] += timedelta(seconds=15)  # within a step: the swap does not wait for the grid
        loop.tick()
        assert board.current is not None and board.current.publication.forecast is not None
        return board.current.publication.forecast.model

    assert set(tick()) == {blend.label(version_of(registry.versions["1"]))}
    registry.alias = "2"
    one.poll()
    assert set(tick()) == {blend.label(version_of(registry.versions["2"]))}
    assert board.current is not None
    codes = {work.workload.name: {r.code for r in work.reasons} for work in board.current.publication.workloads}
    assert ReasonCode.CALIBRATING not in codes["a"]  # its back-test has 60 windows
    assert ReasonCode.CALIBRATING in codes["b"]
    registry.alias = "1"
    one.poll()
    assert set(tick()) == {blend.label(version_of(registry.versions["1"]))}
    assert (health.cycles, health.failures, health.overruns) == (3, 0, 0)


def test_trouble_with_the_model_is_a_notice_and_all_of_it_is_in_the_metrics(cache: ArtifactCache) -> None:
    registry = FakeRegistry({"1": network_artifact(seed=1)}, "1")
    one = watch(cache, registry)
    one.first()
    registry.trouble = RegistryError("MLflow is down")
    one.poll()
    cycle, health, board = cycle_of(one), Health(0.0, model=one.status), Board()
    Loop(cycle, board, health, timedelta(minutes=1), clocks=Clocks(wall=lambda: NOW)).tick()
    assert board.current is not None
    assert [(one.code, one.detail) for one in board.current.notices] == [
        (ReasonCode.MODEL_UNAVAILABLE, "MLflow is down: the model in use stays")
    ]
    text = health_text(health, None, "0", 0.0, {}).decode()
    sha256 = artifact.digest(registry.versions["1"])
    assert f'forecaster_champion_info{{name="forecaster",version="1",sha256="{sha256}",source="registry"}} 1' in text
    assert 'forecaster_model_loads_total{result="loaded"} 1' in text
    assert 'forecaster_model_loads_total{result="unreachable"} 1' in text
    assert "forecaster_registry_reachable 0" in text


def test_m25_rows_that_a_model_loses_are_in_the_metrics(cache: ArtifactCache) -> None:
    one = watch(cache, model="bundled")
    bad = chain.forecasters(network_artifact(nonsense=1), FakeNetwork)
    cycle = cycle_of(one)
    cycle.run(NOW)
    cycle.take_model(bad)
    text = workloads_text(cycle.run(NOW + timedelta(minutes=1))).decode()
    assert 'forecaster_model_rejected_rows_total{model="network"} 1' in text
