"""Every baseline is causal, keeps NaN for what it cannot say, and sees what it is there to see."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from forecaster.domain import FloatArray
from training.anomalies.detectors import BASELINES

STEP = 300
DAY = 288


def served(days: int = 10, seed: int = 0) -> FloatArray:
    t = np.arange(days * DAY)
    random = np.random.default_rng(seed)
    return np.asarray(100 + 30 * np.sin(2 * np.pi * t / DAY) + random.normal(0, 2, len(t)))


def scores(name: str, values: FloatArray) -> FloatArray:
    if name in ("iforest", "knn"):
        pytest.importorskip("pyod", reason="pyod is not installed")
    return BASELINES[name].scores(values, STEP, STEP * np.arange(1, len(values) + 1))


@pytest.mark.parametrize("name", BASELINES)
def test_nothing_looks_ahead(name: str) -> None:
    values = served(5)
    values[700:720] = np.nan
    cut = 1_000
    changed = values.copy()
    changed[cut:] = 1e6
    np.testing.assert_array_equal(scores(name, values)[:cut], scores(name, changed)[:cut])
    np.testing.assert_array_equal(scores(name, values)[:cut], scores(name, values[:cut]))


@pytest.mark.parametrize("name", BASELINES)
def test_warm_up_and_gaps_are_nan_and_what_is_scored_is_not_negative(name: str) -> None:
    values = served(5)
    values[900:930] = np.nan
    score = scores(name, values)
    assert np.isnan(score[:12]).all()
    assert np.isnan(score[900:930]).all()
    known = score[2 * DAY : 900]
    assert np.isfinite(known).all()
    assert (known >= 0).all()


@pytest.mark.parametrize("name", BASELINES)
def test_a_spike_stands_out(name: str) -> None:
    values = served()
    values[2_500] += 200
    score = scores(name, values)
    calm = score[4 * DAY : 2_500]
    assert np.nanmax(score[2_500:2_503]) > 1.3 * np.nanquantile(calm, 0.99)


@pytest.mark.parametrize("name", BASELINES)
def test_the_unit_makes_no_difference(name: str) -> None:
    values = served(4)
    np.testing.assert_allclose(scores(name, 1_024 * values), scores(name, values), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in BASELINES if BASELINES[name].package is None])
def test_a_constant_series_is_not_unusual(name: str) -> None:
    score = scores(name, np.full(4 * DAY, 7.0))
    assert np.nanmax(score) == 0
    assert not np.isnan(score[2 * DAY :]).any()


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("values", [np.zeros(0), np.full(500, np.nan), np.ones(3)], ids=["empty", "all NaN", "short"])
def test_nothing_to_learn_from_gives_nan(name: str, values: FloatArray) -> None:
    score = scores(name, values)
    assert score.shape == values.shape
    assert np.isnan(score).all()


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from training.anomalies import detectors

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert detectors.missing_packages() == {"iforest": "pyod", "knn": "pyod"}
