"""The gate: what it promotes, what it holds, and how often it is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.domain import BoolArray, FloatArray
from training.promote import Gate, Verdict, judge

WORKLOADS, DAYS, HOURS = 30, 6, 12
DAY_OF = np.repeat(np.arange(DAYS), HOURS)
NAMES = tuple(f"w{i}" for i in range(WORKLOADS))


def losses(seed: int, workloads: int = WORKLOADS) -> FloatArray:
    """Heavy-tailed, of very different sizes, alike within a workload and within a day."""
    random = np.random.default_rng(seed)
    size = 10.0 ** random.uniform(-3, 4, (workloads, 1))
    day = random.lognormal(0, 0.5, (workloads, DAYS)).repeat(HOURS, axis=1)
    return np.asarray(size * day * random.lognormal(0, 0.5, (workloads, DAYS * HOURS)))


def judged(
    champion: FloatArray, challenger: FloatArray, protected: BoolArray | None = None, gate: Gate | None = None
) -> Verdict:
    rows = len(champion)
    guarded = np.zeros(rows, dtype=np.bool_) if protected is None else protected
    return judge(champion, challenger, NAMES[:rows], DAY_OF, guarded, gate or Gate(resamples=400))


def test_a_challenger_that_is_better_everywhere_is_promoted() -> None:
    found = judged(losses(1), 0.9 * losses(1))
    assert found.promote
    assert found.mean_log_ratio == pytest.approx(np.log(0.9))
    assert found.upper_log_ratio == pytest.approx(np.log(0.9))
    assert found.blocks == WORKLOADS * DAYS
    assert found.by_workload["w0"] == pytest.approx(0.9)
    assert found.figures()["gate_better_ratio"] == 1.0


def test_the_same_model_is_not_promoted() -> None:
    found = judged(losses(1), losses(1))
    assert found.reasons == (
        "the loss is 1.000 times the champion's, at most 1.000 with 95% confidence: below 0.990 is needed",
    )


def test_better_by_less_than_the_margin_is_not_better() -> None:
    assert not judged(losses(1), 0.995 * losses(1)).promote
    assert judged(losses(1), 0.995 * losses(1), gate=Gate(margin=0.001, resamples=400)).promote


def test_one_workload_does_not_outweigh_the_others_by_its_size() -> None:
    champion = losses(2)
    challenger = champion * 1.03
    challenger[champion.mean(axis=1).argmax()] *= 0.2  # most of the sum of all losses
    assert challenger.sum() < champion.sum()
    assert not judged(champion, challenger).promote


def test_a_protected_workload_that_gets_worse_holds_the_promotion() -> None:
    champion = losses(3)
    challenger = champion * 0.8
    challenger[4] = champion[4] * 1.06
    protected = np.zeros(WORKLOADS, dtype=np.bool_)
    assert judged(champion, challenger, protected).promote
    protected[4] = True
    assert judged(champion, challenger, protected).reasons == ("w4 is scaled and its loss grows 1.06 times",)
    challenger[4] = champion[4] * 1.04
    assert judged(champion, challenger, protected).promote


@pytest.mark.parametrize("better", [1.0, 0.99], ids=["equal", "better by just the margin"])
def test_m27_noise_is_promoted_less_often_than_the_confidence_says(better: float) -> None:
    """Models that are as good as the margin asks, or equal, and differ by noise that is alike within a workload."""
    promoted = 0
    for seed in range(200):
        random = np.random.default_rng(1_000 + seed)
        champion = losses(seed)
        own = random.normal(0, 0.1, (WORKLOADS, 1)) + random.normal(0, 0.2, (WORKLOADS, DAYS)).repeat(HOURS, axis=1)
        promoted += judged(champion, better * champion * np.exp(own), gate=Gate(resamples=200, seed=seed)).promote
    assert promoted <= (16 if better == 0.99 else 8)  # of 200: at the margin 5 %, and chance; equal ones fewer


def test_real_progress_is_seen_through_noise() -> None:
    random = np.random.default_rng(5)
    champion = losses(5)
    own = random.normal(0, 0.1, (WORKLOADS, 1)) + random.normal(0, 0.2, (WORKLOADS, DAYS)).repeat(HOURS, axis=1)
    assert judged(champion, 0.9 * champion * np.exp(own)).promote


def test_the_verdict_is_the_same_each_time() -> None:
    challenger = losses(1) * np.random.default_rng(2).lognormal(0, 0.3, losses(1).shape)
    assert judged(losses(1), challenger) == judged(losses(1), challenger)


def test_too_few_days_are_not_judged_by() -> None:
    found = judge(losses(1, 1), 0.5 * losses(1, 1), NAMES[:1], DAY_OF, np.zeros(1, dtype=np.bool_), Gate(resamples=50))
    assert found.reasons == ("6 days of workloads are too few to judge by: 8 are needed",)


def test_only_moments_that_both_have_count_and_a_silent_challenger_is_held() -> None:
    champion, challenger = losses(1), 0.5 * losses(1)
    challenger[:3] = np.nan
    found = judged(champion, challenger)
    assert found.reasons == ("the challenger has a forecast for 90.0% of the champion's only",)
    assert found.mean_log_ratio == pytest.approx(np.log(0.5)) and "w0" not in found.by_workload
    champion[:3] = np.nan
    assert judged(champion, challenger).promote


def test_nothing_to_compare_is_held() -> None:
    nothing = np.full((2, DAYS * HOURS), np.nan)
    assert judged(nothing, nothing).reasons == ("there is no moment at which both models could be compared",)
    assert judged(nothing, nothing).figures() == {"gate_blocks": 0.0, "gate_workloads": 0.0}


def test_losses_of_zero_are_equal_to_each_other_and_bounded_beside_others() -> None:
    champion, challenger = losses(1), losses(1)
    champion[0] = challenger[0] = 0.0
    challenger[1] = 0.0
    found = judged(champion, challenger)
    assert found.by_workload["w0"] == 1.0 and found.by_workload["w1"] == pytest.approx(0.1)


def test_several_rows_of_a_workload_are_one_block() -> None:
    names = ("a",) * 5 + ("b",) * 5
    guarded = np.zeros(10, dtype=np.bool_)
    found = judge(losses(1, 10), 0.9 * losses(1, 10), names, DAY_OF, guarded, Gate(resamples=50))
    assert found.blocks == 2 * DAYS and set(found.by_workload) == {"a", "b"}
