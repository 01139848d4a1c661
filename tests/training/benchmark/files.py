"""Small tidy files for the tests of the benchmark: seasonal, random walk, sparse."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from forecaster.domain import FloatArray

START = pd.Timestamp("2026-03-02T00:00:00Z")  # a Monday


def written(path: Path, series: Mapping[str, FloatArray], minutes: int = 5, start: pd.Timestamp = START) -> Path:
    """A file of series on one grid; NaN rows are left out. The ending says the format."""
    frames = []
    for name, values in series.items():
        times = start + pd.to_timedelta(minutes * np.arange(len(values)), unit="min")
        frames.append(pd.DataFrame({"series_id": name, "timestamp": times, "value": values}).dropna())
    table = pd.concat(frames)
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path, index=False)
    return path


def seasonal(days: float = 8, minutes: int = 5) -> FloatArray:
    """The same day again and again, without noise."""
    t = np.arange(round(days * 1440 / minutes)) * minutes
    return np.asarray(np.round(100 + 50 * np.sin(2 * np.pi * t / 1440), 6))


def walk(days: float = 8, minutes: int = 5, seed: int = 1) -> FloatArray:
    return np.asarray(1000 + np.cumsum(np.random.default_rng(seed).normal(0, 1, round(days * 1440 / minutes))))


def sparse(days: float = 8, minutes: int = 5, seed: int = 2) -> FloatArray:
    """0 but for one sample in fifty."""
    random = np.random.default_rng(seed)
    return np.where(random.random(round(days * 1440 / minutes)) < 0.02, 10.0, 0.0)
