"""The chain of forecasters that the service runs, best first, and the one place that says what is in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from forecaster import blend
from forecaster.ports import Forecaster
from forecaster.rows import Rows
from forecaster.starts import Starts
from models.artifact import Artifact, bundled, load
from models.neural import Neural
from models.persistence import Persistence
from models.profile import Profile
from models.seasonal_naive import SeasonalNaive

BUNDLED, NONE = "bundled", "none"  # all else is the folder of an artifact
Network = Callable[[Artifact], Forecaster]


def network_of(artifact: Artifact) -> Forecaster:
    """The forecaster that an artifact's weights are for. Raises ModelError where they do not fit this release."""
    return Neural(artifact)


def forecasters(artifact: Artifact | None = None, network: Network = network_of) -> Callable[[], Sequence[Forecaster]]:
    """Makes the chain; each call of what it returns gives fresh ones, for they remember fits of the rows they saw.

    The network of `artifact` comes first, where there is one. Their mixture, and the choice among it and each of them
    by measured skill, is forecaster.foresight's. Raises ModelError where the artifact cannot be run.
    """
    if artifact is not None:
        network(artifact)  # what is wrong with it shows here, not in a cycle

    def make() -> Sequence[Forecaster]:
        statistics = (Profile(), SeasonalNaive("week"), SeasonalNaive("day"), Persistence())
        return statistics if artifact is None else (network(artifact), *statistics)

    return make


def shipped() -> Callable[[], Sequence[Forecaster]]:
    """The chain with the network that ships in the package. Raises ModelError where that is damaged."""
    return forecasters(bundled())


def named(model: str) -> Callable[[], Sequence[Forecaster]]:
    """The chain with the network that the command line names: `bundled`, `none`, or the folder of an artifact.

    Raises ModelError where there is none at that place, or a damaged one.
    """
    if model == NONE:
        return forecasters()
    return shipped() if model == BUNDLED else forecasters(load(Path(model)))


def starts_of(artifact: Artifact, version: str) -> Starts | None:
    """Where rows begin with this artifact, whose forecaster calls itself `version`; None where nothing was measured.

    Residuals are those of what the service issues: of the mixture that the artifact is the first of.
    """
    residuals = artifact.residuals
    if residuals is None:
        return None
    return Starts(blend.label(version), residuals.layout, Rows(residuals.keys, dict(residuals.arrays)))
