"""The retrain job on a real MLflow in a file: what it promotes, holds and repeats, and that it may end anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecaster import skill
from forecaster.config import Config
from forecaster.domain import Event
from forecaster.errors import ModelError, RegistryError, SourceError
from models import artifact
from models.artifact import Artifact
from models.artifact_cache import ArtifactCache
from models.registry import PREVIOUS, Registry, Version
from serving.champion import Champion
from serving.health import ModelStatus
from tests.fake_network import FakeNetwork, network_artifact
from tests.fakes import FakeSource, daily
from training import locking, material, report, residuals, retrain
from training.job import as_json, as_text
from training.material import Material
from training.promote import ROLLED_BACK, Gate
from training.retrain import Asked, Edges, Outcome
from training.runs import EXPERIMENT, OUTCOME, Tracking
from training.windows import SeriesGroup

pytest.importorskip("mlflow")
# MLflow's own use of its libraries is not ours to mend.
pytestmark = [pytest.mark.filterwarnings(f"ignore::{name}") for name in ("DeprecationWarning", "FutureWarning")]

NOW = datetime(2026, 3, 12, 9, 30, tzinfo=UTC)
ALIAS = "champion"
BASE = network_artifact(level=1.1, spread=0.01)  # 10 % too high: there is something to learn
BETTER, WORSE = network_artifact(level=1.0, spread=0.01), network_artifact(level=1.4, spread=0.01)
CONFIG = Config.model_validate(
    {
        "prometheus": {"url": "http://prometheus:9090"},
        "history": "10d",
        "workloads": [
            {"name": "shop", "load": "load_shop", "scale": {"hpa": "shop/shop"}},
            {"forEach": ["app"], "load": "load_apps"},
        ],
    }
)


def source() -> FakeSource:
    apps = [({"app": f"app{i}"}, daily(50.0 + i, noise=0.02, seed=i)) for i in range(3)]
    return FakeSource({"load_shop": [({}, daily(100.0, noise=0.02))], "load_apps": apps})


@pytest.fixture(scope="module")
def found() -> Material:
    return material.read(CONFIG, source(), NOW)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few moments, no picture; and the made-up network is used in the replay, whatever it is worth."""
    monkeypatch.setattr(report, "picture", lambda file, verdict, gate: None)
    monkeypatch.setattr(residuals, "STRIDE", timedelta(hours=6))
    monkeypatch.setattr(skill, "_LEAST_WINDOWS", np.inf)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@dataclass
class Tuner:
    """Gives what it was told to, whatever it sees."""

    gives: Artifact
    seen: list[Sequence[SeriesGroup]] = field(default_factory=list)

    def __call__(self, given: Artifact, groups: Sequence[SeriesGroup], seed: int) -> Artifact:
        self.seen.append(groups)
        return given if self.gives is BASE else self.gives


Make = Callable[..., Edges]


@pytest.fixture
def make(uri: str, request: pytest.FixtureRequest, tmp_path: Path, found: Material) -> Make:
    """Edges of jobs that share one registered model, as a cron job's do."""
    name = request.node.name[:80].replace("[", "-").replace("]", "").replace(" ", "-")

    def build(gives: Artifact = BETTER, registry: Registry | None = None, **changes: Any) -> Edges:
        edges = Edges(
            registry=registry or Registry(uri, name, ask_seconds=250, fetch_seconds=250),
            lock_registry=None,
            cache=ArtifactCache(tmp_path / "cache"),
            read=lambda now: found,
            fine_tune=Tuner(gives),
            network=FakeNetwork,
            initial=lambda: BASE,
            clock=lambda: NOW,
        )
        return replace(edges, **changes)

    return build


def job(edges: Edges, seed: int = 0, dry_run: bool = False) -> Outcome:
    # Each model of the module has other jobs, though they share the history.
    return retrain.retrain(edges, Asked(ALIAS, seed, Gate(resamples=200), dry_run, edges.registry.name))


def champion(edges: Edges) -> Version:
    meant = edges.registry.resolve(ALIAS)
    assert meant is not None
    return meant


def numbers(edges: Edges) -> int:
    count = 0
    while edges.registry.version(str(count + 1)) is not None:
        count += 1
    return count


# --- what it does ----------------------------------------------------------------------------------------------------


def test_a_better_model_is_promoted_with_all_that_a_service_and_people_need(make: Make) -> None:
    edges = make()
    outcome = job(edges)
    assert (outcome.outcome, outcome.champion, outcome.version) == ("promoted", "1", "2")
    assert outcome.verdict is not None and outcome.verdict.by_workload["shop"] < 0.9
    meant = champion(edges)
    assert meant.number == "2" and meant.tags[PREVIOUS] == "1" and meant.sha256 == outcome.challenger
    assert {"gate_mean_log_ratio", "dataFirst", "dataLast"} <= meant.tags.keys()
    got = edges.registry.fetch(meant, ArtifactCache(edges.cache.folder / "elsewhere"))
    assert got.card.parent == artifact.digest(BASE) and got.card.training_data[-1].licence == "own"
    assert got.card.data_range is not None and got.card.data_range.last == outcome.learned_through
    assert got.residuals is not None and len(got.residuals.keys) > 0
    assert set(got.residuals.keys) <= set(edges.read(NOW).keys)
    run = Tracking(edges.registry).of_job(meant.tags["forecaster.job"])
    assert run is not None and run.tags[OUTCOME] == "promoted"
    files = Path(run.artifacts.removeprefix("file://"))
    assert {"artifact", "gate.json", "model_card.md"} == {path.name for path in files.iterdir()}
    assert "## Training data" in (files / "model_card.md").read_text()
    assert json.loads((files / "gate.json").read_text())["promote"] is True
    assert not (edges.cache.folder / "jobs" / meant.tags["forecaster.job"]).exists()


def test_the_part_it_judges_by_is_not_learned_from(make: Make, found: Material) -> None:
    edges = make()
    job(edges)
    tuner = edges.fine_tune
    assert isinstance(tuner, Tuner)
    parts = material.split(found)
    assert not isinstance(parts, str)
    first_judged = int(parts.series.times[parts.columns[0] + 1])
    for group in tuner.seen[0]:
        assert group.first_end + (group.values.shape[1] - 1) * group.step < first_judged
    assert parts.series.values.shape[1] - parts.cut >= 2 * 288  # a fifth of ten days
    assert parts.columns[-1] + parts.horizons[-1] < parts.series.values.shape[1]


@pytest.mark.parametrize("gives", [WORSE, BASE], ids=["worse", "no help"])
def test_m27_a_model_that_is_not_better_is_held_and_recorded(make: Make, gives: Artifact) -> None:
    edges = make(gives)
    outcome = job(edges)
    assert outcome.outcome == "held" and outcome.reasons and outcome.ok
    assert champion(edges).number == "1" and numbers(edges) == 1
    said = "did not help" if gives is BASE else "times the champion's"
    assert said in outcome.reasons[0]


def test_m27_fine_tuning_on_noise_is_held(make: Make) -> None:
    random = np.random.default_rng(0)
    for seed in range(3):
        noisy = network_artifact(level=1 + random.normal(0, 0.005), spread=0.01, seed=seed + 1)
        assert job(make(noisy, initial=lambda: BETTER), seed=seed).outcome == "held"
    assert champion(make()).sha256 == artifact.digest(BETTER)


def test_the_first_champion_is_the_bundled_model(make: Make) -> None:
    edges = make(WORSE)
    job(edges)
    assert champion(edges).sha256 == artifact.digest(BASE)


def test_without_any_model_to_begin_with_nothing_is_done(make: Make) -> None:
    def none() -> Artifact:
        raise ModelError("this build ships no model")

    outcome = job(make(initial=none))
    assert (outcome.outcome, outcome.reasons) == ("failed", ("this build ships no model",)) and not outcome.ok


def test_a_dry_run_writes_nothing(make: Make) -> None:
    edges = make()
    assert job(edges, dry_run=True).outcome == "would_promote"
    assert edges.registry.resolve(ALIAS) is None and edges.registry.model_tags() == {}
    assert job(make(WORSE), seed=1, dry_run=True).outcome == "would_hold"


def test_a_dry_run_makes_no_registry(make: Make, tmp_path: Path) -> None:
    edges = make(registry=Registry(f"sqlite:///{tmp_path}/mlflow.db", "forecaster"))
    assert job(edges, dry_run=True).outcome == "would_promote"
    assert not (tmp_path / "mlflow.db").exists()


# --- again -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gives", [BETTER, WORSE], ids=["promoted", "held"])
def test_the_same_days_and_the_same_champion_are_compared_once(make: Make, gives: Artifact) -> None:
    edges = make(gives)
    first = job(edges)
    if first.outcome == "promoted":
        edges.registry.point(ALIAS, Version("1", ""))  # as if its last write had been lost
        again = job(edges)
        assert again.outcome == "promoted" and champion(edges).number == "2"
    else:
        again = job(edges)
        assert again.outcome == "already_done" and "compared before: held" in again.reasons[0]
    assert numbers(edges) == (2 if gives is BETTER else 1)
    tuner = edges.fine_tune
    assert isinstance(tuner, Tuner) and len(tuner.seen) == 1


def test_a_champion_is_not_challenged_again_on_the_days_that_it_won_by(make: Make) -> None:
    edges = make()
    assert job(edges).outcome == "promoted"
    again = job(edges, seed=5)
    assert (again.outcome, again.champion) == ("already_done", "2") and "these very days" in again.reasons[0]
    assert champion(edges).number == "2" and numbers(edges) == 2
    tuner = edges.fine_tune
    assert isinstance(tuner, Tuner) and len(tuner.seen) == 1


class Cut(Exception):
    """The process is gone."""


class Dying(Registry):
    """Dies before the n-th write."""

    def __init__(self, uri: str, name: str, left: int) -> None:
        super().__init__(uri, name, ask_seconds=250, fetch_seconds=250)
        self.left = left

    def ask(self, what: str, call: Callable[[Any], Any], seconds: float | None = None) -> Any:
        if what in WRITES:
            if not self.left:
                raise Cut
            self.left -= 1
        return super().ask(what, call, seconds)


WRITES = frozenset(
    {"a run", "what was logged", "the end of a run", "the model", "a new version", f"alias {ALIAS}", "a tag"}
)


@pytest.mark.slow
def test_a_job_may_be_killed_before_any_write_and_ends_the_same(make: Make, uri: str) -> None:
    plain = make()
    assert job(plain).outcome == "promoted"
    wanted = champion(plain).sha256
    for left in range(100):
        name = f"{plain.registry.name}-{left}"
        dying = make(registry=Dying(uri, name, left))
        asked = Asked(ALIAS, 0, Gate(resamples=200), False, plain.registry.name)  # the code version is in the card
        same_code = replace(asked, code_version=plain.registry.name)
        try:
            outcome = retrain.retrain(dying, same_code)
        except Cut:
            whole = make(registry=Registry(uri, name, ask_seconds=250, fetch_seconds=250))
            outcome = retrain.retrain(whole, same_code)
            assert outcome.outcome in ("promoted", "already_done")
            dying = whole
        else:
            break
        meant = champion(dying)
        assert (meant.number, meant.sha256, numbers(dying)) == ("2", wanted, 2), left
    assert left > 8


# --- rolling back ----------------------------------------------------------------------------------------------------


def test_m27_a_roll_back_leads_to_the_champion_before_and_no_job_undoes_it(make: Make) -> None:
    edges = make()
    job(edges)
    done = retrain.roll_back(edges, ALIAS)
    assert (done.outcome, done.champion) == ("rolled_back", "1") and champion(edges).number == "1"
    left = edges.registry.version("2")
    assert left is not None and left.tags[ROLLED_BACK].startswith("2026-03-12T09:30")
    again = job(edges)
    assert again.outcome == "already_done" and "rolled back at" in again.reasons[0]
    assert champion(edges).number == "1"
    assert retrain.roll_back(edges, ALIAS).outcome == "failed"  # there is none before


def test_m27_a_service_follows_a_promotion_and_a_roll_back_with_its_next_look(make: Make, tmp_path: Path) -> None:
    edges = make()
    job(edges, seed=1)  # the registry has its champion
    watched = Champion(
        f"models:/{edges.registry.name}@{ALIAS}",
        ModelStatus(),
        ArtifactCache(tmp_path / "service"),
        edges.registry,
        network=FakeNetwork,
    )
    assert watched.first().number == "2"
    assert watched.newest.starts is not None
    retrain.roll_back(edges, ALIAS)
    watched.poll()
    taken = watched.take()
    assert taken is not None and taken.number == "1" and taken.sha256 == artifact.digest(BASE)


# --- one at a time ---------------------------------------------------------------------------------------------------


def test_a_second_job_on_the_same_machine_does_nothing(make: Make) -> None:
    edges = make()
    with locking.file_lock(edges.cache.folder / "retrain.lock"):
        outcome = job(edges)
    assert outcome.outcome == "failed" and outcome.reasons[0].startswith("another retrain job holds ")
    assert edges.registry.resolve(ALIAS) is None


def test_a_second_job_on_another_machine_does_nothing_until_the_hold_ends(make: Make) -> None:
    edges = make()
    shared = replace(edges, lock_registry=edges.registry)
    with locking.shared_lock(edges.registry, lambda: NOW):
        assert "another retrain job holds the lock" in job(shared).reasons[0]
        later = replace(shared, clock=lambda: NOW + locking.HOLD + timedelta(seconds=1))
        assert job(later).outcome == "promoted"  # the other one has died: it renews no more
    assert edges.registry.model_tags() == {}


# --- what can fail ---------------------------------------------------------------------------------------------------


def test_m26_without_mlflow_or_prometheus_nothing_is_changed_and_said(make: Make) -> None:
    class Down(Registry):
        def ask(self, what: str, call: Callable[[Any], Any], seconds: float | None = None) -> Any:
            raise RegistryError("MLflow is down")

    edges = make()
    outcome = job(replace(edges, registry=Down("http://mlflow:5000", "forecaster")))
    assert (outcome.outcome, outcome.reasons) == ("failed", ("MLflow is down",))

    def down(now: datetime) -> Material:
        raise SourceError("Prometheus is out of reach")

    outcome = job(replace(edges, read=down))
    assert (outcome.outcome, outcome.reasons) == ("failed", ("Prometheus is out of reach",))


def test_a_history_that_is_too_short_is_said(make: Make) -> None:
    young = FakeSource({"load_shop": [({}, lambda times: np.where(times > NOW.timestamp() - 100_000, 5.0, np.nan))]})
    specs = Config.model_validate(
        {
            "prometheus": {"url": "http://prometheus:9090"},
            "history": "10d",
            "workloads": [{"name": "shop", "load": "load_shop"}],
        }
    )
    found = material.read(specs, young, NOW)
    outcome = job(make(read=lambda now: found))
    assert outcome.outcome == "failed" and "days of history up to midnight: two are needed" in outcome.reasons[0]


def test_prometheus_that_does_not_answer_is_an_error_not_an_empty_history() -> None:
    with pytest.raises(SourceError, match="Prometheus did not give the history"):
        material.read(CONFIG, FakeSource({}, broken=SourceError("connection refused")), NOW)


def test_what_is_marked_is_neither_learned_from_nor_judged_by(found: Material) -> None:
    day = timedelta(days=1)
    outage, learned = (NOW - 5 * day, NOW - 4 * day), (NOW - 3 * day, NOW - 2 * day)
    events = [Event("e", "outage", "shop", *outage), Event("f", "deploy", "*", *learned, exclude=False)]
    key = found.keys[1]
    until = int((NOW - 2 * day).timestamp())
    marked = material.read(CONFIG, source(), NOW, events, {key: [(until - 3_600, until)]})
    parts = material.split(marked)
    assert not isinstance(parts, str)
    missing = np.isnan(parts.series.values)
    times = parts.series.times
    inside = (times > outage[0].timestamp()) & (times <= outage[1].timestamp())
    assert missing[0, inside].all() and missing[0, ~inside].sum() <= 2
    assert missing[1, (times > until - 3_600) & (times <= until)].all() and 12 <= missing[1].sum() <= 14
    assert not missing[2:].any()


# --- words -----------------------------------------------------------------------------------------------------------


def test_the_outcome_in_words_and_as_json(make: Make) -> None:
    outcome = job(make())
    told = json.loads(as_json(outcome))
    assert told["schemaVersion"] == 1 and told["outcome"] == "promoted" and told["version"] == "2"
    assert told["figures"]["gate_blocks"] == 8 and told["lossRatioByWorkload"]["shop"] < 1
    assert as_text(outcome).startswith("promoted: version 2 follows version 1\n  learned from 2026-03-02")
    assert as_text(Outcome("failed", ("why",))) == "nothing was changed:\n  why"


def test_runs_lie_beside_a_registry_in_a_file(make: Make, uri: str) -> None:
    edges = make(WORSE)
    job(edges)
    experiment = edges.registry.ask("it", lambda client: client.get_experiment_by_name(EXPERIMENT))
    assert experiment is not None
    assert Path(experiment.artifact_location.removeprefix("file://")) == Path(uri[10:]).parent / "mlartifacts"
