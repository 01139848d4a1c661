"""The chain of forecasters that the service runs, best first, and the one place that says what is in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from forecaster.errors import InputError
from forecaster.ports import Forecaster
from models.persistence import Persistence
from models.profile import Profile
from models.seasonal_naive import SeasonalNaive

BUNDLED = "bundled"


def forecasters(model: str = BUNDLED) -> Callable[[], Sequence[Forecaster]]:
    """Makes the chain; each call of what it returns gives fresh ones, for they remember fits of the rows they saw.

    The choice among them is by measured skill (forecaster.foresight). Raises InputError for an unknown model.
    """
    if model != BUNDLED:
        raise InputError(f"model: {model!r}: this release has no model artifacts: write {BUNDLED}")

    def make() -> Sequence[Forecaster]:
        return (Profile(), SeasonalNaive("week"), SeasonalNaive("day"), Persistence())

    return make
