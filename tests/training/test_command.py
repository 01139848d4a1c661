"""`forecaster train`: an artifact from nothing, one fine-tuned to files, and what MLflow is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from forecaster.errors import InputError, RegistryError
from models import artifact
from models.neural import Neural
from serving.cli import app
from tests.models.contexts import posted, request
from training import command, tracking
from training.fit import FitConfig
from training.tune import TuneConfig, fine_tune
from training.windows import SeriesGroup

# mlflow warns of itself and of its libraries
pytestmark = [pytest.mark.filterwarnings(f"ignore::{name}") for name in ("DeprecationWarning", "FutureWarning")]


def asked(tmp_path: Path, **changes: object) -> command.Asked:
    usual = {
        "out": tmp_path / "artifact",
        "work": tmp_path / "work",
        "groups": 1,
        "steps": 3,
        "seed": 0,
        "device": "cpu",
        "processes": 1,
        "amp": False,
        "data": None,
        "licence": "",
        "tune": None,
        "tracking_uri": None,
        "onnx": None,
        "stamps_end": False,
    }
    return command.Asked(**{**usual, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of three steps, and what `--json` said of it."""
    folder = tmp_path_factory.mktemp("trained")
    arguments = ["train", "--out", str(folder / "artifact"), "--groups", "1", "--steps", "3", "--device", "cpu"]
    done = CliRunner().invoke(app, [*arguments, "--processes", "1", "--json"])
    assert done.exit_code == 0, done.output
    (folder / "said.json").write_text(done.stdout)
    return folder


def tidy(folder: Path, rows: int = 3, days: float = 6) -> Path:
    """A folder of one file with series of a shape that no synthetic recipe has."""
    rng = np.random.default_rng(0)
    stamps = pd.date_range("2026-01-05", periods=int(days * 288), freq="5min", tz="UTC")
    frames = []
    for row in range(rows):
        hour = np.asarray(stamps.hour)
        values = 100 * (row + 1) + 80 * (hour % 6 >= 4) + rng.normal(0, 3, len(stamps))
        frames.append(pd.DataFrame({"series_id": f"s{row}", "timestamp": stamps, "value": values}))
    folder.mkdir(exist_ok=True)
    pd.concat(frames).to_parquet(folder / "own.parquet")
    return folder


def test_an_artifact_comes_out_whose_card_says_what_it_saw(trained: Path) -> None:
    said = json.loads((trained / "said.json").read_text())
    made = artifact.load(trained / "artifact", said["sha256"])
    assert [data.name for data in made.card.training_data] == ["synthetic workloads"]
    assert made.card.config["pretraining"]["groups"] == 1 and made.card.metrics["loss"] > 0
    answer = Neural(made).forecast(posted(np.full((1, 300), 5.0) + np.arange(300) % 7), request(1))
    assert np.isfinite(answer.values).all()


def test_a_run_that_was_done_gives_the_same_weights_again(trained: Path, tmp_path: Path) -> None:
    again = command.train(asked(tmp_path, work=trained / "artifact.work"), quiet=True)
    assert artifact.digest(again) == artifact.digest(artifact.load(trained / "artifact"))


def test_fine_tuning_helps_on_days_that_it_did_not_see(trained: Path, tmp_path: Path) -> None:
    first = artifact.load(trained / "artifact")
    quick = TuneConfig(rounds=1, fit=FitConfig(steps=60, batch=64, average=0.9), examples=400, replay_groups=1)
    made = fine_tune(first, command.groups_of(tidy(tmp_path / "own"), stamps_end=False), config=quick)
    assert made.card.parent == artifact.digest(first)
    assert made.card.metrics["held_loss"] < made.card.metrics["held_loss_before"]
    assert made.card.training_data[-1].licence == "own" and made.card.data_range is not None


def test_fine_tuning_that_does_not_help_keeps_the_artifact(trained: Path) -> None:
    first = artifact.load(trained / "artifact")
    noise = np.random.default_rng(0).normal(size=(3, 1_500)).astype(np.float32)
    noise[:, -300:] *= 30  # the held-back days are of another kind
    hurtful = FitConfig(steps=20, peak_rate=3.0, clip=1e9, average=0.0)
    config = TuneConfig(rounds=1, fit=hurtful, examples=300, replay_groups=1)
    assert fine_tune(first, [SeriesGroup(noise, 300, 1_780_002_000)], config=config) is first


def test_too_little_to_learn_from_is_said(trained: Path) -> None:
    short = np.full((1, 3), np.nan, dtype=np.float32)
    with pytest.raises(InputError, match="too little to learn from"):
        fine_tune(artifact.load(trained / "artifact"), [SeriesGroup(short, 300, 1_780_002_000)])


def test_data_without_a_licence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--licence"):
        command.train(asked(tmp_path, data=tidy(tmp_path / "own")), quiet=True)


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no \.parquet"):
        command.train(asked(tmp_path, data=tmp_path / "empty", licence="MIT"), quiet=True)


def test_a_folder_that_holds_files_is_not_written_to(trained: Path) -> None:
    done = CliRunner().invoke(app, ["train", "--out", str(trained / "artifact")])
    assert isinstance(done.exception, InputError) or done.exit_code == 2


def test_mlflow_is_told_parameters_curves_and_the_card(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with tracking.started(uri, "test") as run:
        run.parameters({"steps": 3})
        run.measured(100, {"loss": 0.5})
        run.finished(artifact.load(trained / "artifact"), trained / "artifact")
    client = MlflowClient(uri)
    (found,) = client.search_runs([client.get_experiment_by_name("test").experiment_id])
    assert found.info.status == "FINISHED" and found.data.params["steps"] == "3"
    assert found.data.metrics["loss"] == 0.5 and "card_loss" in found.data.metrics
    assert found.data.tags["sha256"] == artifact.digest(artifact.load(trained / "artifact"))
    assert (tmp_path / "mlartifacts" / found.info.run_id / "artifacts" / artifact.CARD).is_file()  # not where we stand


def test_a_run_that_mlflow_does_not_begin_is_one_clear_error_before_the_work(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    (tmp_path / "mlflow.db").write_text("no database")
    with pytest.raises(RegistryError, match="begins no run"), tracking.started(f"sqlite:///{tmp_path}/mlflow.db", "it"):
        pass


def test_a_refusing_mlflow_costs_the_log_and_not_the_weights(trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Refusing:
        def log_param(self, *_: object) -> None:
            raise ConnectionError("gone")

        log_metric = log_param

    run = tracking.MlflowRun(Refusing(), "1")
    run.parameters({"steps": 3})
    run.measured(1, {"loss": 1.0})
    assert "MLflow refused" in caplog.text and len(caplog.records) == 1
