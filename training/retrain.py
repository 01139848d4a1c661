"""The retrain job: read, fine-tune, compare with the champion, register, promote. One at a time, safe to kill anywhere.

A job is known by what it rests on: the champion, the days of history, the rows, the seed. What it has finished is kept
under that name, so that a job that was cut off goes on, and one that has ended is not done again. Everything is written
before the alias, which is the last write: until then nobody serves anything new.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import numpy as np
from msgspec import structs

from forecaster.domain import FloatArray
from forecaster.errors import InputError, ModelError, RegistryError, SourceError
from forecaster.ports import Forecaster
from models import artifact, chain
from models.artifact import Artifact, DataRange, TrainingData
from models.artifact_cache import ArtifactCache
from models.registry import FOLDER, PREVIOUS, Registry, Version
from training import backtest, locking, material, promote, report, residuals
from training.locking import Busy
from training.material import Material, Split
from training.promote import ROLLED_BACK, Gate, Verdict
from training.runs import JOB, OUTCOME, Run, Tracking
from training.windows import SeriesGroup

PROMOTED, HELD, DONE, FAILED, ROLLED = "promoted", "held", "already_done", "failed", "rolled_back"
WOULD = {PROMOTED: "would_promote", HELD: "would_hold"}  # of a dry run
OWN = "the user's own history"
_LAST = "dataLast"  # tag of a version: end of the days that it was judged by


# (artifact, series to learn from, seed) -> the artifact trained on; the same one where that did not help.
FineTune = Callable[[Artifact, Sequence[SeriesGroup], int], Artifact]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a job is to do."""

    alias: str
    seed: int = 0
    gate: Gate = field(default_factory=Gate)
    dry_run: bool = False
    code_version: str = ""


@dataclass(frozen=True, slots=True)
class Edges:
    """What a job needs from outside."""

    registry: Registry
    lock_registry: Registry | None  # of its own, for it is renewed meanwhile; None: MLflow is a file of this machine
    cache: ArtifactCache
    read: Callable[[datetime], Material]
    fine_tune: FineTune
    network: Callable[[Artifact], Forecaster]
    initial: Callable[[], Artifact]  # where there is no champion yet; raises ModelError where there is none
    clock: Callable[[], datetime]
    progress: Callable[[str, float], None] = lambda what, share: None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended."""

    outcome: str
    reasons: tuple[str, ...] = ()
    champion: str = ""  # number of its version
    challenger: str = ""  # digest
    version: str = ""  # of the challenger, where it was registered
    verdict: Verdict | None = None
    first: datetime | None = None  # of the history
    learned_through: datetime | None = None
    last: datetime | None = None
    run: str = ""  # of MLflow
    remarks: tuple[str, ...] = ()  # on the history

    @property
    def ok(self) -> bool:
        return self.outcome != FAILED


@dataclass(frozen=True, slots=True)
class _Judged:
    champion: Version | None
    base: Artifact
    challenger: Artifact
    verdict: Verdict
    split: Split
    job: str
    found: Material


def retrain(edges: Edges, asked: Asked) -> Outcome:
    """One job from beginning to end. Raises InputError for what the user must mend; all else is in the outcome."""
    try:
        with locking.file_lock(edges.cache.folder / "retrain.lock"):
            if edges.lock_registry is None or asked.dry_run:
                return _retrain(edges, asked)
            with locking.shared_lock(edges.lock_registry, edges.clock):
                return _retrain(edges, asked)
    except (Busy, SourceError, RegistryError, ModelError) as error:
        return Outcome(FAILED, (str(error),))


def roll_back(edges: Edges, alias: str) -> Outcome:
    """The alias means the champion before this one again; a service follows with its next look at the registry."""
    try:
        done = promote.roll_back(edges.registry, alias, edges.clock())
    except RegistryError as error:
        return Outcome(FAILED, (str(error),))
    if isinstance(done, str):
        return Outcome(FAILED, (done,))
    left, taken = done
    return Outcome(ROLLED, (f"version {left.number} was left",), champion=taken.number)


def _retrain(edges: Edges, asked: Asked) -> Outcome:
    tracking = Tracking(edges.registry)
    absent = asked.dry_run and edges.registry.absent  # asking MLflow would make the file
    champion = None if absent else edges.registry.resolve(asked.alias)
    base = edges.initial() if champion is None else edges.registry.fetch(champion, edges.cache)
    found = edges.read(edges.clock())
    parts = material.split(found)
    if isinstance(parts, str):
        return Outcome(FAILED, (parts,), champion=_number(champion))
    job = _job(edges.registry.name, base, found, parts, asked)
    if not asked.dry_run:
        if champion is not None and champion.tags.get(_LAST) == parts.series.origin.isoformat():
            # Another try on the days that this one won by would sooner or later win by luck.
            why = "the champion was promoted by these very days of history: the next ones end at midnight (UTC)"
            return Outcome(DONE, (why,), champion=champion.number, remarks=found.remarks)
        ended = _ended(edges, asked, tracking, champion, job)
        if ended is not None:
            return ended
        if champion is None:
            champion = _adopt(edges, asked, tracking, base)
    work = edges.cache.folder / "jobs" / job
    judged = _judged(edges, asked, champion, base, found, parts, job, work)
    if asked.dry_run:
        return _outcome(WOULD[PROMOTED if judged.verdict.promote else HELD], judged)
    outcome = _written(edges, asked, tracking, judged)
    shutil.rmtree(work, ignore_errors=True)
    return outcome


def _job(model: str, base: Artifact, found: Material, parts: Split, asked: Asked) -> str:
    said = {
        "model": [model, asked.alias],
        "champion": artifact.digest(base),
        "first": parts.first.isoformat(),
        "last": parts.series.origin.isoformat(),
        "rows": sorted(found.keys),
        "seed": asked.seed,
        "gate": repr(asked.gate),
        "code": asked.code_version,
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:24]


def _ended(edges: Edges, asked: Asked, tracking: Tracking, champion: Version | None, job: str) -> Outcome | None:
    """What an earlier run of this very job came to; None where there is none that ended."""
    run = tracking.of_job(job)
    if run is None or OUTCOME not in run.tags:
        return None
    versions = edges.registry.tagged(JOB, job)
    if run.tags[OUTCOME] == PROMOTED and versions and ROLLED_BACK not in versions[0].tags:
        # It was cut off before its last write.
        promote.promote(edges.registry, asked.alias, versions[0])
        return Outcome(PROMOTED, champion=_number(champion), version=versions[0].number, run=run.id)
    why = f"this champion and these days of history were compared before: {run.tags[OUTCOME]}"
    if versions and ROLLED_BACK in versions[0].tags:
        why += f", rolled back at {versions[0].tags[ROLLED_BACK]}"
    return Outcome(DONE, (why,), champion=_number(champion), run=run.id)


def _adopt(edges: Edges, asked: Asked, tracking: Tracking, base: Artifact) -> Version:
    """The first version is the model that is served without a registry: there is always something to roll back to."""
    sha256 = artifact.digest(base)
    run = tracking.begin(f"adopt-{sha256[:16]}", "bundled model", {}, {})
    with tempfile.TemporaryDirectory() as folder:
        artifact.save(Path(folder) / FOLDER, base)
        tracking.log(run, base.card.metrics, {"sha256": sha256}, Path(folder))
    version = edges.registry.register(run.id, run.source(), sha256, {})
    tracking.finish(run, PROMOTED, "the first champion is the model that ships with the release")
    edges.registry.point(asked.alias, version)
    return version


# --- the work --------------------------------------------------------------------------------------------------------


def _judged(
    edges: Edges,
    asked: Asked,
    champion: Version | None,
    base: Artifact,
    found: Material,
    parts: Split,
    job: str,
    work: Path,
) -> _Judged:
    """Trains and compares, or goes on from what was finished before."""
    tuned = _checkpoint(work / "tuned")
    if tuned is None:
        edges.progress("fine-tuning", 0.0)
        tuned = _described(edges.fine_tune(base, parts.groups(), asked.seed), base, parts, asked)
        edges.progress("fine-tuning", 1.0)
        artifact.save(work / "tuned", tuned)
    if _same_weights(tuned, base):
        verdict = Verdict(("fine-tuning did not help on the days that it held back itself",))
        return _Judged(champion, base, tuned, verdict, parts, job, found)
    losses = [_losses(edges, one, parts, share) for one, share in ((base, 0.0), (tuned, 0.5))]
    edges.progress("comparing", 1.0)
    verdict = promote.judge(losses[0], losses[1], found.workloads, parts.days, found.protected, asked.gate)
    challenger = _checkpoint(work / "challenger")
    if challenger is None:
        metrics = {**tuned.card.metrics, **verdict.figures()}
        challenger = replace(tuned, card=structs.replace(tuned.card, metrics=metrics))
        if verdict.promote:
            challenger = replace(challenger, residuals=_residuals(edges, tuned, found))
        artifact.save(work / "challenger", challenger)
    return _Judged(champion, base, challenger, verdict, parts, job, found)


def _losses(edges: Edges, one: Artifact, parts: Split, done: float) -> FloatArray:
    edges.progress("comparing", done)
    forecaster = edges.network(one)
    return backtest.losses(parts.series, forecaster, parts.columns, parts.horizons, timezones=parts.timezones)


def _residuals(edges: Edges, tuned: Artifact, found: Material) -> artifact.Residuals | None:
    make = chain.forecasters(tuned, edges.network)

    def progress(share: float) -> None:
        edges.progress("measuring residuals", share)

    return residuals.measured(make, found.context, found.keys, found.windows, progress)


def _described(tuned: Artifact, base: Artifact, parts: Split, asked: Asked) -> Artifact:
    if tuned is base:
        return tuned
    own = TrainingData(name=OWN, licence="own", description=f"{len(parts.series.keys)} series")
    others = tuple(one for one in base.card.training_data if one.licence != "own")
    return replace(
        tuned,
        residuals=None,
        card=structs.replace(
            tuned.card,
            training_data=(*others, own),
            data_range=DataRange(parts.first, parts.learned_through),
            seed=asked.seed,
            code_version=asked.code_version,
            parent=artifact.digest(base),
        ),
    )


def _same_weights(one: Artifact, other: Artifact) -> bool:
    return one.tensors.keys() == other.tensors.keys() and all(
        np.array_equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items()
    )


def _checkpoint(folder: Path) -> Artifact | None:
    try:
        return artifact.load(folder)
    except ModelError:  # not there, or cut off
        shutil.rmtree(folder, ignore_errors=True)
        return None


# --- what is written -------------------------------------------------------------------------------------------------


def _written(edges: Edges, asked: Asked, tracking: Tracking, judged: _Judged) -> Outcome:
    """Every step can be repeated; the alias comes last."""
    assert judged.champion is not None
    sha256 = artifact.digest(judged.challenger)
    figures = judged.verdict.figures()
    run = tracking.begin(
        judged.job,
        f"retrain {judged.split.series.origin:%Y-%m-%d}",
        report.parameters(judged.split, asked.seed, asked.gate)
        | {"saturated_ratio": f"{judged.found.saturated_ratio:.6g}"},
        {"forecaster.champion": judged.champion.number, "sha256": sha256},
    )
    with tempfile.TemporaryDirectory() as folder:
        artifact.save(Path(folder) / FOLDER, judged.challenger)
        report.write(Path(folder), judged.challenger, judged.verdict, asked.gate)
        tracking.log(run, {**judged.challenger.card.metrics, **figures}, {"sha256": sha256}, Path(folder))
    if not judged.verdict.promote:
        tracking.finish(run, HELD, "; ".join(judged.verdict.reasons))
        return _outcome(HELD, judged, run=run)
    tags = {name: f"{value:.6g}" for name, value in figures.items()}
    tags |= {
        JOB: judged.job,
        PREVIOUS: judged.champion.number,
        "dataFirst": judged.split.first.isoformat(),
        _LAST: judged.split.series.origin.isoformat(),
    }
    version = edges.registry.register(run.id, run.source(), sha256, tags)
    tracking.finish(run, PROMOTED, f"version {version.number}")
    refused = promote.promote(edges.registry, asked.alias, version)
    if refused is not None:
        return replace(_outcome(HELD, judged, version, run), reasons=(refused,))
    return _outcome(PROMOTED, judged, version, run)


def _outcome(outcome: str, judged: _Judged, version: Version | None = None, run: Run | None = None) -> Outcome:
    return Outcome(
        outcome=outcome,
        reasons=judged.verdict.reasons,
        champion=_number(judged.champion),
        challenger=artifact.digest(judged.challenger),
        version=_number(version),
        verdict=judged.verdict,
        first=judged.split.first,
        learned_through=judged.split.learned_through,
        last=judged.split.series.origin,
        run="" if run is None else run.id,
        remarks=judged.found.remarks,
    )


def _number(version: Version | None) -> str:
    return "" if version is None else version.number


def check_extras() -> None:
    """Raises InputError where what a job needs is not installed, before an hour of work."""
    import importlib.util

    missing = [name for name in ("torch", "mlflow") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{', '.join(missing)} not installed: pip install 'forecaster-k8s[train]'")
