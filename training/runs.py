"""What a retrain job writes into MLflow: one run a job, with parameters, figures, tags and files. Owns no decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forecaster.errors import RegistryError
from models.registry import FOLDER, Registry
from training.experiments import experiment_of

JOB = "forecaster.job"  # tag of runs and versions: identity of the job, see training.retrain
OUTCOME = "forecaster.outcome"  # tag of a run: promoted | held; absent while the job has not ended
EXPERIMENT = "forecaster-retrain"
_SECONDS = 120.0  # for files to be written


@dataclass(frozen=True, slots=True)
class Run:
    """One run of MLflow."""

    id: str
    artifacts: str  # URI of its files
    tags: Mapping[str, str]

    def source(self, folder: str = FOLDER) -> str:
        """Where a version finds the files of an artifact that was logged into `folder`."""
        return f"{self.artifacts.rstrip('/')}/{folder}"


class Tracking:
    """Runs of one experiment. Methods raise RegistryError."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def of_job(self, job: str) -> Run | None:
        """The newest run of this job that has not failed."""

        def search(client: Any) -> Run | None:
            found = client.search_runs(
                [self._experiment(client)],
                f"tags.`{JOB}` = '{job}' and attributes.status != 'FAILED'",
                max_results=1,
                order_by=["attributes.start_time DESC"],
            )
            return _run(found[0]) if found else None

        return self._registry.ask("the runs of this job", search, _SECONDS)

    def begin(self, job: str, name: str, params: Mapping[str, str], tags: Mapping[str, str]) -> Run:
        """A new run for the job, or the one that an earlier attempt left open."""
        open_run = self.of_job(job)
        if open_run is not None:
            return open_run

        def create(client: Any) -> Run:
            made = client.create_run(self._experiment(client), run_name=name, tags={**tags, JOB: job})
            for key, value in params.items():
                client.log_param(made.info.run_id, key, value)
            return _run(made)

        made: Run = self._given("a run", create)
        return made

    def log(self, run: Run, metrics: Mapping[str, float], tags: Mapping[str, str], folder: Path) -> None:
        """Figures, tags, and every file of a folder. Doing it again changes nothing."""

        def write(client: Any) -> bool:
            for name, figure in metrics.items():
                client.log_metric(run.id, name, figure)
            for name, text in tags.items():
                client.set_tag(run.id, name, text)
            client.log_artifacts(run.id, str(folder))
            return True

        self._given("what was logged", write)

    def finish(self, run: Run, outcome: str, why: str) -> None:
        def write(client: Any) -> bool:
            client.set_tag(run.id, "forecaster.why", why[:4_000])
            client.set_tag(run.id, OUTCOME, outcome)
            client.set_terminated(run.id)
            return True

        self._given("the end of a run", write)

    def _given(self, what: str, call: Any) -> Any:
        answer = self._registry.ask(what, call, _SECONDS)
        if answer is None:
            raise RegistryError(f"MLflow at {self._registry.shown_uri} gave no {what}")
        return answer

    def _experiment(self, client: Any) -> str:
        return experiment_of(client, EXPERIMENT, self._registry.tracking_uri)


def _run(found: Any) -> Run:
    return Run(str(found.info.run_id), str(found.info.artifact_uri), dict(found.data.tags))
