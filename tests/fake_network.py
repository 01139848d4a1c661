"""A network of three numbers, for tests of what happens to networks: it is run from an artifact as real ones are."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from forecaster.domain import Context, Forecast, ForecastRequest
from forecaster.reasons import Reason, ReasonCode
from models import artifact
from models.artifact import Artifact, Card, Residuals


def network_artifact(
    level: float = 1.0, spread: float = 0.05, nonsense: float = 0.0, residuals: Residuals | None = None, seed: int = 0
) -> Artifact:
    """Forecasts `level` times the last value with a relative `spread`; `nonsense` 1: NaN, 2: crossing, 3: absurd."""
    card = Card(architecture="network/1", config={}, quantile_levels=(0.1, 0.5, 0.9), seed=seed)
    numbers = {"level": level, "spread": spread, "nonsense": nonsense}
    tensors = {name: np.array([value], dtype=np.float32) for name, value in numbers.items()}
    return Artifact(card, tensors, residuals)


@dataclass(frozen=True)
class FakeNetwork:
    """Forecaster of such an artifact."""

    artifact: Artifact

    @property
    def version(self) -> str:
        return f"network/{artifact.digest(self.artifact)[:8]}"

    def forecast(self, context: Context, request: ForecastRequest) -> Forecast:
        level, spread, nonsense = (float(self.artifact.tensors[name][0]) for name in ("level", "spread", "nonsense"))
        x = np.asarray(context.fine.values, dtype=np.float64)
        known = ~np.isnan(x)
        has = known.any(axis=1)
        last = x[np.arange(len(x)), np.where(has, x.shape[1] - 1 - known[:, ::-1].argmax(axis=1), 0)]
        z = np.array([NormalDist().inv_cdf(one) for one in request.levels])
        peak = np.maximum(level * last[:, None] * (1 + spread * z), 0.0)
        if nonsense == 1:
            peak[0, -1] = np.nan
        elif nonsense == 2:
            peak = peak[:, ::-1]
        elif nonsense == 3:
            peak = peak * 1e9
        peak[~has] = np.nan
        return Forecast(
            origin=context.fine.origin,
            step=context.fine.step,
            horizons=request.horizons,
            levels=tuple(request.levels),
            values=np.repeat(peak[:, None], len(request.horizons), axis=1),
            peak=peak,
            windows=request.windows,
            model=(self.version,) * len(x),
            missing=tuple(None if one else Reason(ReasonCode.NO_DATA) for one in has.tolist()),
        )
