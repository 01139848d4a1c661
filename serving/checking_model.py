"""Which model `serve` would begin with, found by the very steps that it takes, and what to do where it is not the
wanted one. Nothing is written: what comes from a registry goes into a folder that is removed again."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from forecaster.config import Config
from models import chain
from models.artifact import digest
from models.artifact_cache import ArtifactCache
from models.registry import ModelName, Registry
from serving.champion import Champion
from serving.health import ModelStatus


@dataclass(frozen=True, slots=True)
class ModelFound:
    """The model at the head of the chain."""

    wanted: str  # as configured
    source: str  # bundled | folder | registry | cache | statistics
    version: str = ""  # as forecasts name it; "" without a network
    number: str = ""  # in the registry
    sha256: str = ""
    trouble: str | None = None  # why it is not the wanted one
    mend: str | None = None

    @property
    def ok(self) -> bool:
        return self.trouble is None


def look(config: Config, network: chain.Network = chain.network_of) -> ModelFound:
    """Loads and tries the model as `serve` does. Never raises for a model that is bad or a registry that is down."""
    name = ModelName.of(config.model)
    registry = None if name is None else Registry(config.mlflow.tracking_uri, name.name)
    own = ArtifactCache(config.mlflow.cache)
    if registry is not None and registry.absent:  # asking MLflow would make the file
        found = _found(config.model, "bundled", own, None, network)
        trouble = f"there is no registry at {registry.shown_uri} yet"
    else:
        found = _found(config.model, config.model, own, registry, network)
        trouble = found.trouble or ""
    if not trouble:
        return found
    return ModelFound(
        config.model, found.source, found.version, found.number, found.sha256, trouble, _mend(config, trouble)
    )


def _found(
    wanted: str, model: str, own: ArtifactCache, registry: Registry | None, network: chain.Network
) -> ModelFound:
    status = ModelStatus()
    with tempfile.TemporaryDirectory() as folder:
        served = Champion(model, status, ArtifactCache(Path(folder)), registry, network=network).first()
    known = None if registry is None or served.source == "registry" else own.champion(wanted)
    kept = None if known is None else own.load(known.sha256)
    if known is not None and kept is not None:  # the registry did not give it: serve begins with what it fetched before
        version = network(kept).version
        return ModelFound(wanted, "cache", version, known.version, digest(kept), status.error)
    return ModelFound(wanted, served.source, served.version, served.number, served.sha256, status.error)


def _mend(config: Config, trouble: str) -> str:
    name = ModelName.of(config.model)
    if name is None:
        if config.model == chain.BUNDLED:
            return "Install the package again: its model is damaged or missing. Forecasts are statistical until then."
        return "Write another `model:`, or put the artifact back. Until then serve begins with the bundled model."
    if "means no version" in trouble or "no registry" in trouble:
        return (
            f"Run `forecaster retrain` once, which makes the bundled model the first version, or set {name} in MLflow."
        )
    if "digest" in trouble or "version " in trouble:
        return "Go back with `forecaster retrain --rollback`, or promote another version."
    return "Check `mlflow.trackingUri` and whether MLflow answers. Until then serve begins with the model shown."


def as_json(found: ModelFound) -> dict[str, str | None]:
    return {
        "wanted": found.wanted,
        "source": found.source,
        "modelVersion": found.version or None,
        "version": found.number or None,
        "sha256": found.sha256 or None,
        "trouble": found.trouble,
        "mend": found.mend,
    }


def as_text(found: ModelFound) -> list[str]:
    if not found.version:
        said = "Model: none, statistical forecasters only"
    else:
        number = f", version {found.number}" if found.number else ""
        said = f"Model: {found.version} from {_SOURCES[found.source]}{number}, SHA-256 {found.sha256[:16]}…, loads"
    if found.trouble is None:
        return [said]
    return [said, f"It is not the wanted {found.wanted}: {found.trouble} → {found.mend}"]


_SOURCES = {
    "bundled": "this release",
    "folder": "the configured folder",
    "registry": "the registry",
    "cache": "the cache of the registry",
    "statistics": "nowhere",
}
