"""What MLflow is told of a run: parameters, figures as they come, the model card, pictures. Without a URI: nothing.

A run that has begun does not depend on it: what MLflow refuses then is said once, and the run goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from forecaster.config_values import redacted
from forecaster.errors import RegistryError
from models.artifact import CARD, Artifact, digest
from models.registry import library
from training.experiments import experiment_of

logger = logging.getLogger(__name__)


class Run(Protocol):
    """One run, as it is told."""

    def parameters(self, values: Mapping[str, object]) -> None:
        """What was chosen before it began."""

    def measured(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures at a step."""

    def finished(self, made: Artifact, folder: Path) -> None:
        """The artifact that came of it and where it lies."""


class Silent:
    """A run that nobody follows."""

    def parameters(self, values: Mapping[str, object]) -> None: ...

    def measured(self, step: int, figures: Mapping[str, float]) -> None: ...

    def finished(self, made: Artifact, folder: Path) -> None: ...


class MlflowRun:
    """A run of an MLflow server or file."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client, self.run_id = client, run_id
        self._failed = False
        self._curve: dict[str, list[tuple[int, float]]] = {}

    def parameters(self, values: Mapping[str, object]) -> None:
        for name, value in values.items():
            self._try(self._client.log_param, name, value)

    def measured(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._curve.setdefault(name, []).append((step, value))
            self._try(self._client.log_metric, name, value, None, step)

    def finished(self, made: Artifact, folder: Path) -> None:
        self._try(self._client.set_tag, "sha256", digest(made))
        if made.card.data_range is not None:
            first, last = made.card.data_range.first, made.card.data_range.last
            self._try(self._client.set_tag, "data_range", f"{first.isoformat()}/{last.isoformat()}")
        for name, value in made.card.metrics.items():
            self._try(self._client.log_metric, f"card_{name}", value)
        self._try(self._client.log_artifact, str(folder / CARD))
        for name, points in self._curve.items():
            figure = _curve(name, points)
            if figure is not None:
                self._try(self._client.log_figure, figure, f"{name}.png")

    def _try(self, call: Callable[..., object], *values: object) -> None:
        if self._failed:
            return
        try:
            call(self.run_id, *values)
        except Exception as error:  # MLflow raises what its transport raises; a lost curve must not cost the weights
            self._failed = True
            logger.warning("MLflow refused, this run goes on without it: error=%r", error)


def _curve(name: str, points: list[tuple[int, float]]) -> Any:
    """A picture of a figure over the steps; None without the extra [plot], for the figures themselves are logged."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*points, strict=True))
    axes.set(xlabel="step", ylabel=name)
    return figure


@contextmanager
def started(uri: str | None, experiment: str) -> Iterator[Run]:
    """A run under `experiment` at `uri`; ends as finished or failed with the block. Raises RegistryError first."""
    if uri is None:
        yield Silent()
        return
    client, run_id = _begun(uri, experiment)
    try:
        yield MlflowRun(client, run_id)
    except BaseException:
        _end(client, run_id, "FAILED")
        raise
    _end(client, run_id, "FINISHED")


def _begun(uri: str, experiment: str) -> tuple[Any, str]:
    """(client, id of a new run). Raises RegistryError: that nobody listens is to be said before hours of work."""
    try:
        client = library()(tracking_uri=uri)
        return client, str(client.create_run(experiment_of(client, experiment, uri)).info.run_id)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # MLflow raises what its transport raises
        raise RegistryError(f"MLflow at {redacted(uri)} begins no run: {' '.join(str(error).split())[:300]}") from error


def _end(client: Any, run_id: str, status: str) -> None:
    try:
        client.set_terminated(run_id, status)
    except Exception as error:
        logger.warning("MLflow was not told that the run has ended: error=%r", error)
