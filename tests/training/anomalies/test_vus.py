"""VUS-PR against figures worked out by hand, and against a slow reading of its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.domain import BoolArray, FloatArray
from training.anomalies.spans import runs
from training.anomalies.vus import THRESHOLDS, USUAL_BUFFER, buffer_length, vus_pr

ROOT = math.sqrt(0.5)
# A row beside the label comes first, then the label. Buffer 2 gives that row the weight sqrt(1/2).
WIDE = ROOT / (1 + ROOT / 2) * ROOT + (1 - ROOT / (1 + ROOT / 2)) * (1 + ROOT) / 2


@pytest.mark.parametrize(
    ("score", "labels", "longest", "expected"),
    [
        ([0.0, 1.0, 9.0, 2.0], [0, 0, 1, 0], 0, 1.0),
        ([9.0, 5.0, 1.0, 2.0], [0, 1, 0, 0], 0, 1 / 2),
        ([9.0, 5.0, 1.0, 1.0], [0, 1, 0, 0], 2, (1 / 2 + 1 / 2 + WIDE) / 3),
        ([9.0, 0.0, 8.0, 0.0, 7.0], [1, 0, 0, 0, 1], 0, 1 / 4 + 3 / 4 * 2 / 3),
        ([9.0, math.nan, 8.0, 7.0], [0, 1, 0, 0], 0, 1 / 4),
        ([3.0, 3.0, 3.0, 3.0], [0, 1, 1, 0], 0, 1 / 2),
    ],
    ids=[
        "the label first",
        "one row before it",
        "the same, and a buffer that makes the row half right",
        "half of two labels counts a quarter: half the rows, half the labels",
        "no score ranks last",
        "all alike",
    ],
)
def test_by_hand(score: list[float], labels: list[int], longest: int, expected: float) -> None:
    assert vus_pr(np.array(score), np.array(labels, dtype=bool), longest) == pytest.approx(expected, abs=1e-12)


def test_without_a_label_it_is_not_defined() -> None:
    with pytest.raises(ValueError, match="without a label"):
        vus_pr(np.ones(5), np.zeros(5, dtype=bool), 3)


def slow(score: FloatArray, labels: BoolArray, longest: int) -> float:
    """The definition, a threshold and a buffer at a time."""
    n = len(score)
    falling = np.sort(score)[::-1]
    areas = []
    for buffer in range(longest + 1):
        soft, near = labels.astype(float), np.zeros(n, dtype=bool)
        for first, last in runs(labels):
            for row in range(n):
                beside = max(first - row, row - last, 0)
                if beside <= buffer // 2:
                    near[row] = True
                    if beside:
                        soft[row] = min(1.0, soft[row] + math.sqrt(1 - beside / buffer))
        area, before = 0.0, 0.0
        for place in np.linspace(0, n - 1, THRESHOLDS).astype(int):
            alarm = score >= falling[place]
            weight = np.where(labels, 1.0, soft * alarm)
            recall = min(float((soft * alarm).sum() / ((labels.sum() + weight.sum()) / 2)), 1.0)
            ranges = [alarm[a : b + 1].any() for a, b in runs(near)]
            reached = recall * float(np.mean(ranges))
            area += (reached - before) * float((soft * alarm).sum()) / float(alarm.sum())
            before = reached
        areas.append(area)
    return float(np.mean(areas))


@settings(deadline=None, max_examples=40)
@given(
    labels=st.lists(st.sampled_from([False, False, False, True]), min_size=3, max_size=60).filter(any),
    ranks=st.integers(1, 50),
    seed=st.integers(0, 99),
    longest=st.integers(0, 1),
)
def test_the_definition_read_slowly_gives_the_same(labels: list[bool], ranks: int, seed: int, longest: int) -> None:
    score = np.random.default_rng(seed).integers(0, ranks, len(labels)).astype(float)
    marked = np.array(labels)
    assert vus_pr(score, marked, longest) == pytest.approx(slow(score, marked, longest), abs=1e-9)


@pytest.mark.parametrize("longest", [5, 12])
def test_the_same_with_buffers_that_do_not_touch(longest: int) -> None:
    # Ranges whose buffers just touch count as two in the definition's own code and as one in the slow reading.
    random = np.random.default_rng(4)
    labels = np.zeros(90, dtype=bool)
    labels[[0, 20, 21, 22, 44, 70]] = True
    score = random.normal(size=90) + labels
    assert vus_pr(score, labels, longest) == pytest.approx(slow(score, labels, longest), abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(factor=st.floats(0.1, 50), shift=st.floats(-5, 5), seed=st.integers(0, 99))
def test_only_the_order_of_scores_counts(factor: float, shift: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    score = np.round(random.normal(size=80), 2)
    labels = np.zeros(80, dtype=bool)
    labels[30:36] = labels[50] = True
    assert vus_pr(np.round(factor * score + shift, 9), labels, 6) == pytest.approx(vus_pr(score, labels, 6))


def test_the_buffer_is_the_period() -> None:
    t = np.arange(5_000)
    noise = np.random.default_rng(0).normal(0, 0.1, len(t))
    assert buffer_length(np.sin(2 * np.pi * t / 48) + noise) == 48
    assert buffer_length(np.ones(500)) == USUAL_BUFFER
    assert buffer_length(np.arange(500.0)) == USUAL_BUFFER
    assert buffer_length(np.zeros(0)) == USUAL_BUFFER
