"""The NAB score by hand, and against its rules gone through one threshold at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.anomalies.nab import PROFILES, Profile, Rows, nab_score, probation
from training.anomalies.spans import runs

STANDARD, LOW_FALSE, LOW_MISSED = PROFILES


def sigma(y: float) -> float:
    return 2 / (1 + math.exp(5 * y)) - 1


def rows(score: dict[int, float], windows: list[tuple[int, int]], n: int = 100) -> Rows:
    scores, labels = np.zeros(n), np.zeros(n, dtype=bool)
    for row, value in score.items():
        scores[row] = value
    for first, last in windows:
        labels[first : last + 1] = True
    return Rows(scores, labels)


@pytest.mark.parametrize(
    ("score", "profile", "expected"),
    [
        ({}, STANDARD, 0.0),
        ({40: 1.0}, STANDARD, 100.0),
        ({44: 1.0, 47: 1.0}, STANDARD, 50 * (1 + sigma(-0.6) / sigma(-1.0))),
        ({40: 1.0, 30: 1.0}, STANDARD, 100 - 50 * 0.11),
        ({40: 1.0, 30: 1.0}, LOW_FALSE, 100 - 50 * 0.22),
        ({40: 1.0, 30: 1.0}, LOW_MISSED, 100 * (3 - 0.11) / 3),
        ({40: 1.0, 30: 0.9}, STANDARD, 100.0),
        ({40: 1.0, 51: 1.0}, STANDARD, 100 - 50 * 0.11 * -sigma(2 / 9)),
        ({40: 1.0, 90: 1.0, 91: 1.0}, STANDARD, 100 - 100 * 0.11),
        ({40: 1.0, 5: 2.0}, STANDARD, 100.0),
    ],
    ids=[
        "never an alarm",
        "the window's first row",
        "only the best row of a window counts",
        "a false positive before the first window",
        "which costs twice in this profile",
        "and less where a miss costs double",
        "the threshold goes between",
        "a false positive shortly after a window costs less",
        "each row of a late one costs",
        "the probation is ignored",
    ],
)
def test_by_hand(score: dict[int, float], profile: Profile, expected: float) -> None:
    one = rows(score, [(40, 49)])
    one.score[one.score == 0] = np.nan
    assert nab_score([one], profile) == pytest.approx(expected, abs=1e-9)


def test_one_threshold_for_all_files() -> None:
    # The false positive of the second file outranks the window of the first.
    first, second = rows({40: 1.0}, [(40, 49)]), rows({60: 2.0, 30: 3.0}, [(30, 39)])
    for one in (first, second):
        one.score[one.score == 0] = np.nan
    late = 0.11 * -sigma(min(21 / 9, 3.0))
    assert nab_score([first, second], STANDARD) == pytest.approx(100 * (4 - late) / 4)


def test_probation_is_fifteen_percent_and_at_most_750_rows() -> None:
    assert [probation(n) for n in (100, 4_032, 20_000)] == [15, 604, 750]


def test_without_a_label_it_is_not_defined() -> None:
    with pytest.raises(ValueError, match="without a label"):
        nab_score([rows({3: 1.0}, [])], STANDARD)


def slow(files: list[Rows], profile: Profile) -> float:
    """Each threshold in turn, each row in turn."""
    known = np.concatenate([one.score[~np.isnan(one.score)] for one in files])
    best, count = -math.inf, 0
    for threshold in [math.inf, *np.unique(known)]:
        raw, count = 0.0, 0
        for one in files:
            begin, windows = probation(len(one.score)), runs(one.labels).tolist()
            hit = [row for row in range(begin, len(one.score)) if one.score[row] >= threshold]
            for first, last in windows:
                if last < begin:
                    continue
                count += 1
                width = last - first + 1
                values = [sigma(-(last - row + 1) / width) / sigma(-1) for row in hit if first <= row <= last]
                raw += profile.found * max(values) if values else -profile.missed
            for row in hit:
                if one.labels[row]:
                    continue
                before = [(first, last) for first, last in windows if last < row]
                place = math.inf
                if before and before[-1][1] > before[-1][0]:
                    place = (row - before[-1][1]) / (before[-1][1] - before[-1][0])
                raw += profile.false * (-1.0 if place >= 3 else sigma(place))
        best = max(best, raw)
    null = -count * profile.missed
    return 100 * (best - null) / (count * profile.found - null)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), ranks=st.integers(1, 30), profile=st.sampled_from(PROFILES))
def test_its_rules_gone_through_one_by_one_give_the_same(seed: int, ranks: int, profile: Profile) -> None:
    random = np.random.default_rng(seed)
    files = []
    for _ in range(3):
        labels = np.zeros(60, dtype=bool)
        for start in random.integers(12, 58, 2):
            labels[start : start + random.integers(1, 8)] = True
        score = random.integers(0, ranks, 60).astype(float)
        score[random.random(60) < 0.1] = np.nan
        files.append(Rows(score, labels))
    assert nab_score(files, profile) == pytest.approx(slow(files, profile), abs=1e-9)
