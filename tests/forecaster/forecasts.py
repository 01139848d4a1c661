"""Forecasts made by hand, for tests of what is done with them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from forecaster.domain import FloatArray, Forecast
from forecaster.reasons import Reason, ReasonCode

NOW = datetime(2024, 5, 15, 12, 0, tzinfo=UTC)
LEVELS = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)


def forecast_of(
    values: FloatArray,
    peak: FloatArray | None = None,
    levels: Sequence[float] = LEVELS,
    horizons: Sequence[int] = (1, 5),
    window: int = 5,
    origin: datetime = NOW,
    model: str = "hand/1",
) -> Forecast:
    """values (row, horizon, level); the peak, if not given, is the first horizon's."""
    rows = len(values)
    gone = np.isnan(values[:, 0, 0])
    return Forecast(
        origin=origin,
        step=timedelta(minutes=1),
        horizons=np.array(horizons, dtype=np.int64),
        levels=tuple(levels),
        values=values,
        peak=values[:, 0] if peak is None else peak,
        windows=np.full(rows, window, dtype=np.int64),
        model=(model,) * rows,
        missing=tuple(Reason(ReasonCode.NO_DATA) if bad else None for bad in gone),
    )
