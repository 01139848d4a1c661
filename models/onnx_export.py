"""The network as one ONNX file, for machines without PyTorch: export, and the runtime that reads it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from forecaster.errors import ModelError
from models.artifact import Artifact, digest
from models.inputs import CANDIDATES, DISTRIBUTIONS, LEVELS, POINTS, QUERY, SERIES, Inputs

DIGEST = "forecaster.digest"  # metadata: of the artifact that the file was made of
NAMES = ("series", "query", "points", "spreads", "available")


def export(artifact: Artifact, path: Path) -> None:
    """Writes the artifact's network to `path`; rows and queries are free dimensions. Needs torch, onnx, onnxscript."""
    import onnx
    import torch

    from models.network import network_of

    network = network_of(artifact).eval()
    rows, queries = 2, 3
    example = (
        torch.zeros(rows, SERIES),
        torch.zeros(rows, queries, QUERY),
        torch.zeros(rows, queries, POINTS),
        torch.zeros(rows, queries, DISTRIBUTIONS, len(LEVELS)),
        torch.ones(rows, queries, CANDIDATES, dtype=torch.bool),
    )
    row, query = torch.export.Dim("row"), torch.export.Dim("query")
    free = ({0: row}, *({0: row, 1: query} for _ in NAMES[1:]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own future
        program = torch.onnx.export(
            network,
            example,
            dynamo=True,
            input_names=list(NAMES),
            output_names=["quantiles"],
            dynamic_shapes=free,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, {DIGEST: digest(artifact)})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


class OnnxNetwork:
    """Runs an exported file. Imports no torch."""

    def __init__(self, path: Path, artifact: Artifact, threads: int = 1) -> None:
        """Raises ModelError where the file is none, or was made of another artifact."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class of its own for each way to fail
            raise ModelError(f"{path} is no ONNX file that onnxruntime reads: {error}") from error
        made_of = session.get_modelmeta().custom_metadata_map.get(DIGEST)
        if made_of != digest(artifact):
            raise ModelError(f"{path} was made of artifact {made_of}, not {digest(artifact)}: export it anew")
        self._session = session

    def __call__(self, inputs: Inputs) -> NDArray[np.float32]:
        """Quantiles (row, query, level) in units from the center."""
        given: Mapping[str, NDArray[np.generic]] = {name: getattr(inputs, name) for name in NAMES}
        return np.asarray(self._session.run(["quantiles"], dict(given))[0], dtype=np.float32)
