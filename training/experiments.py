"""The one place that makes an experiment of MLflow, and says where the files of its runs lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def experiment_of(client: Any, name: str, tracking_uri: str) -> str:
    """Id of the experiment, which is made where there is none yet. Raises what MLflow raises."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    return str(client.create_experiment(name, artifact_location=files_beside(tracking_uri)))


def files_beside(tracking_uri: str) -> str | None:
    """Files of a registry in a file lie beside it, never in the working directory; a server knows its own place."""
    scheme, _, path = tracking_uri.partition(":///")
    return (Path(path).resolve().parent / "mlartifacts").as_uri() if scheme == "sqlite" else None
