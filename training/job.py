"""`forecaster retrain`: builds the edges of a job from the configuration, runs it, and says how it ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from forecaster.chunks import Span
from forecaster.config import Config
from forecaster.domain import Event
from forecaster.errors import InputError
from forecaster.prometheus import PrometheusSource
from models import artifact, chain
from models.artifact import Artifact
from models.artifact_cache import ArtifactCache
from models.registry import ModelName, Registry
from training import material
from training.material import Material
from training.promote import Gate
from training.retrain import Asked, Edges, Outcome, check_extras, retrain, roll_back
from training.windows import SeriesGroup

DEFAULT_MODEL = "models:/forecaster@champion"  # where the configuration names no registered model
_ASK_SECONDS, _FETCH_SECONDS = 120.0, 300.0  # a job can wait longer than a service


@dataclass(frozen=True, slots=True)
class Options:
    """Of the command line."""

    device: str = "auto"
    seed: int = 0
    margin: float = 0.01
    dry_run: bool = False
    rollback: bool = False


@dataclass(frozen=True, slots=True)
class Marks:
    """What the service's store knows that must not be learned from."""

    events: Sequence[Event] = ()
    excluded: Mapping[str, Sequence[Span]] | None = None  # row key -> spans; None: there is no store to read


def run(config: Config, options: Options, marks: Marks, progress: Callable[[str, float], None]) -> Outcome:
    """Raises InputError for what the user must mend."""
    name = ModelName.of(config.model) or ModelName.of(DEFAULT_MODEL)
    assert name is not None
    uri = config.mlflow.tracking_uri
    registry = Registry(uri, name.name, _ASK_SECONDS, _FETCH_SECONDS)
    edges = Edges(
        registry=registry,
        lock_registry=None if uri.startswith("sqlite:") else Registry(uri, name.name, _ASK_SECONDS),
        cache=ArtifactCache(config.mlflow.cache),
        read=_no_source,
        fine_tune=_fine_tune(options.device),
        network=chain.network_of,
        initial=artifact.bundled,
        clock=lambda: datetime.now(UTC),
        progress=progress,
    )
    if options.rollback:
        return roll_back(edges, name.alias)
    check_extras()
    if config.prometheus is None or not config.workloads:
        raise InputError("workloads: there is none to learn from: write one, and prometheus: {url: …}")
    source = PrometheusSource(config.prometheus)
    asked = Asked(name.alias, options.seed, Gate(margin=options.margin), options.dry_run, _code_version())

    def read(now: datetime) -> Material:
        def reading(share: float) -> None:
            progress("reading history", share)

        return material.read(config, source, now, marks.events, marks.excluded, reading)

    try:
        return retrain(replace(edges, read=read), asked)
    finally:
        source.close()


def _no_source(now: datetime) -> Material:
    raise AssertionError("a roll-back reads no history")


def _fine_tune(device: str) -> Callable[[Artifact, Sequence[SeriesGroup], int], Artifact]:
    def tuned(given: Artifact, groups: Sequence[SeriesGroup], seed: int) -> Artifact:
        from training.fit import device_of
        from training.tune import fine_tune

        return fine_tune(given, groups, seed=seed, device=device_of(device))

    return tuned


def _code_version() -> str:
    try:
        return version("forecaster-k8s")
    except PackageNotFoundError:
        return "unknown"


# --- what is told ----------------------------------------------------------------------------------------------------


def as_json(outcome: Outcome) -> str:
    verdict = outcome.verdict
    told: dict[str, Any] = {
        "schemaVersion": 1,
        "outcome": outcome.outcome,
        "reasons": list(outcome.reasons),
        "remarks": list(outcome.remarks),
        "champion": outcome.champion or None,
        "challenger": outcome.challenger or None,
        "version": outcome.version or None,
        "run": outcome.run or None,
        "dataFirst": _stamp(outcome.first),
        "learnedThrough": _stamp(outcome.learned_through),
        "dataLast": _stamp(outcome.last),
        "figures": {} if verdict is None else verdict.figures(),
        "lossRatioByWorkload": {} if verdict is None else dict(verdict.by_workload),
    }
    return json.dumps(told)


def as_text(outcome: Outcome) -> str:
    lines = [_SENTENCES[outcome.outcome].format(champion=outcome.champion or "-", version=outcome.version or "-")]
    lines += [f"  {reason}" for reason in outcome.reasons]
    if outcome.first is not None and outcome.learned_through is not None and outcome.last is not None:
        lines.append(
            f"  learned from {outcome.first:%Y-%m-%d %H:%M} to {outcome.learned_through:%Y-%m-%d %H:%M}, "
            f"judged up to {outcome.last:%Y-%m-%d %H:%M} UTC"
        )
    lines += [f"  {remark}" for remark in outcome.remarks]
    if outcome.verdict is not None:
        lines += [f"  {name} {value:.4g}" for name, value in outcome.verdict.figures().items()]
    return "\n".join(lines)


_SENTENCES = {
    "promoted": "promoted: version {version} follows version {champion}",
    "held": "held: version {champion} stays",
    "already_done": "already done: version {champion} stays",
    "rolled_back": "rolled back: version {champion} is the champion",
    "would_promote": "would promote (dry run: nothing was written)",
    "would_hold": "would hold (dry run: nothing was written)",
    "failed": "nothing was changed:",
}


def _stamp(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
