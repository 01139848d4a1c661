"""`forecaster check` says which model serves, and what to do where it is not the wanted one."""

from __future__ import annotations

from pathlib import Path

import pytest

from forecaster.config import Config
from forecaster.ports import Forecaster
from models import artifact, chain
from models.artifact import Artifact
from models.artifact_cache import ArtifactCache, Pointer
from models.registry import Registry
from serving import checking
from serving.checking_model import as_json, as_text, look
from tests.fake_network import FakeNetwork, network_artifact


def config(tmp_path: Path, model: str) -> Config:
    return Config.model_validate(
        {"model": model, "mlflow": {"trackingUri": f"sqlite:///{tmp_path}/m.db", "cache": str(tmp_path / "cache")}}
    )


def either(made: Artifact) -> Forecaster:
    """The made-up network, and the real one for the model that ships."""
    return chain.network_of(made) if artifact.digest(made) == artifact.digest(artifact.bundled()) else FakeNetwork(made)


def test_a_good_folder_is_named_with_its_digest(tmp_path: Path) -> None:
    made = network_artifact(level=1.0, spread=0.01)
    artifact.save(tmp_path / "own", made)
    found = look(config(tmp_path, str(tmp_path / "own")), either)
    assert (found.source, found.sha256, found.ok) == ("folder", artifact.digest(made), True)
    assert len(as_text(found)) == 1 and found.sha256[:16] in as_text(found)[0]


@pytest.mark.parametrize("damaged", [False, True], ids=["missing", "damaged"])
def test_a_bad_folder_is_one_trouble_with_a_mend(tmp_path: Path, damaged: bool) -> None:
    folder = tmp_path / "own"
    if damaged:
        artifact.save(folder, network_artifact(level=1.0, spread=0.01))
        weights = next(path for path in folder.iterdir() if path.suffix == ".safetensors")
        weights.write_bytes(weights.read_bytes()[:-3])
    found = look(config(tmp_path, str(folder)), either)
    assert not found.ok and found.source == "bundled"
    assert found.trouble and str(folder) in found.trouble and found.mend and "`model:`" in found.mend
    assert as_json(found)["trouble"] == found.trouble


def test_a_registry_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    asked = config(tmp_path, "models:/forecaster@champion")
    found = look(asked, either)
    assert not found.ok and found.source == "bundled" and "forecaster retrain" in (found.mend or "")
    assert list(tmp_path.iterdir()) == []
    report = checking.Report(None, None, (), (), 0, 0, model=found)
    assert not report.ok and "not the wanted models:/forecaster@champion" in checking.as_text(report, False)


def test_what_the_cache_knows_serves_while_the_registry_is_away(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    made, model = network_artifact(level=1.0, spread=0.01), "models:/forecaster@champion"
    cache = ArtifactCache(tmp_path / "cache")
    cache.keep(made)
    cache.remember(model, Pointer("7", artifact.digest(made)))
    (tmp_path / "m.db").write_text("no database")
    found = look(config(tmp_path, model), either)
    assert (found.source, found.number, found.sha256) == ("cache", "7", artifact.digest(made))
    assert not found.ok and "MLflow" in (found.trouble or "")
    assert not Registry(f"sqlite:///{tmp_path}/m.db", "forecaster").absent
