"""The edges of a cycle: what it needs from outside, as Protocols of one or two methods."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Protocol, runtime_checkable

from forecaster.domain import Context, Forecast, ForecastRequest, HpaFacts, Samples, SeriesKey


class MetricSource(Protocol):
    """Answers PromQL. Raises SourceError, with the reason code that the workloads read by the query will carry."""

    def instant(self, query: str, at: datetime) -> Samples:
        """One value per series at `at`: `values` has shape (series, 1)."""

    def range(self, query: str, start: datetime, end: datetime, step: timedelta) -> Samples:
        """Values at start, start + step, … up to and including end; both on multiples of the step."""


class HpaReader(Protocol):
    """Knows HPAs from the API server."""

    def facts(self) -> Mapping[str, HpaFacts]:
        """ "namespace/hpa" -> what was seen last. Answers at once, from memory."""


class Forecaster(Protocol):
    """Gives quantiles. Pure: the same context and request give the same answer."""

    @property
    def version(self) -> str:
        """Name and version, as published in `modelVersion`."""

    def forecast(self, context: Context, request: ForecastRequest) -> Forecast:
        """Quantiles (series, horizon, quantile) for every series of `context`, in the same order, in one call."""


@runtime_checkable
class Forgetful(Protocol):
    """A forecaster that keeps what it fitted to a series, and can be told that this no longer holds."""

    def forget(self, series: Collection[SeriesKey]) -> None:
        """Fits these series anew at the next call."""
