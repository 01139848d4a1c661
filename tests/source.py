"""Sources for tests of the reader: a configuration without the configuration file, and clocks that do not wait."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from forecaster.prometheus import PrometheusSource


@dataclass(frozen=True)
class BasicAuth:
    username: str
    password_file: Path


@dataclass(frozen=True)
class Settings:
    """The fields of PrometheusConfig that the source reads."""

    url: str
    bearer_token_file: Path | None = None
    basic_auth: BasicAuth | None = None
    ca_file: Path | None = None
    headers: dict[str, str] = field(default_factory=dict)
    timeout: timedelta = timedelta(seconds=30)
    max_concurrency: int = 2


@dataclass
class Clock:
    """Monotonic time that only sleeping moves."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.slept.append(seconds)
        self.now += seconds


def source_of(url: str, clock: Clock | None = None, **settings: Any) -> PrometheusSource:
    """A source with real time, or with `clock`'s."""
    config: Any = Settings(url, **settings)
    if clock is None:
        return PrometheusSource(config)
    return PrometheusSource(config, monotonic=clock.monotonic, sleep=clock.sleep, jitter=lambda: 0.5)
