"""Learned capacity finds the truth of simulated services, errs on the low side, and says when it knows nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.reasons import ReasonCode
from forecaster.scaling.learned_capacity import Full, Learned, learned

STEP, DAY = 300, 288
BEGIN = 1_772_323_200


def service(
    days: float = 3,
    *,
    idle: float = 0.05,
    per_load: float = 0.01,
    noise: float = 0.05,
    swing: float = 0.6,
    full: float = 1.0,
    cost: Any = 1.0,
    seed: int = 0,
) -> tuple[np.ndarray, ...]:
    """Five-minute means of a service under an HPA at 70 %: times, load, usage and ready replicas."""
    rng = np.random.default_rng(seed)
    n = round(days * DAY)
    at = np.arange(n)
    load = 1_000.0 * (1 - swing * np.cos(2 * np.pi * at / DAY)) * rng.lognormal(0, 0.05, n)
    slope = per_load * np.broadcast_to(np.asarray(cost, dtype=np.float64), (n,))
    ready = np.maximum(np.ceil(load / ((0.7 * full - idle) / slope)), 2.0)
    ready = np.maximum.reduce([np.roll(ready, k) for k in range(6)])  # it comes down late, as an HPA does
    wander = np.zeros(n)
    for i in range(1, n):
        wander[i] = 0.8 * wander[i - 1] + rng.normal(0, 0.6 * noise)
    usage = np.minimum((idle * ready + slope * load) * np.exp(wander + rng.normal(0, 0.3 * noise, n)), full * ready)
    return BEGIN + STEP * (at + 1), load, usage, ready


def of(parts: tuple[np.ndarray, ...], full: Full | None = None, masked: np.ndarray | None = None) -> Learned:
    times, load, usage, ready = parts
    return learned(times, load, usage, ready, full or Full(limit=1.0), masked)


@pytest.mark.parametrize(("idle", "truth"), [(0.0, 100.0), (0.05, 95.0), (0.2, 80.0)])
def test_it_finds_what_fills_a_replica(idle: float, truth: float) -> None:
    found = of(service(idle=idle))
    assert found.reason is None and found.capacity is not None
    assert found.capacity < truth * 1.02 and found.capacity > 0.75 * truth
    assert found.capacity <= found.estimate <= found.high


def test_the_lower_end_is_below_the_truth_nine_times_in_ten_and_not_far_below() -> None:
    found = [of(service(days=2, seed=seed, noise=0.08)) for seed in range(60)]
    low = np.array([one.capacity for one in found], dtype=np.float64)
    assert np.isfinite(low).all()
    assert (low <= 95.0).mean() >= 0.9
    assert np.median(low) > 0.8 * 95.0


@settings(deadline=None, max_examples=25)
@given(unit=st.floats(1e-6, 1e6), cores=st.floats(1e-3, 1e3))
def test_it_follows_the_units_of_load_and_usage(unit: float, cores: float) -> None:
    times, load, usage, ready = service()
    plain = of((times, load, usage, ready))
    scaled = of((times, load * unit, usage * cores, ready), Full(limit=cores))
    assert plain.capacity is not None and scaled.capacity is not None
    assert scaled.capacity == pytest.approx(plain.capacity * unit, rel=1e-6)


def test_gaps_and_incidents_teach_nothing() -> None:
    times, load, usage, ready = service()
    plain = of((times, load, usage, ready))
    broken = usage.copy()
    broken[100:200] *= 5.0
    masked = np.zeros(len(load), dtype=np.bool_)
    masked[100:200] = True
    gaps = load.copy()
    gaps[300:330] = np.nan
    found = of((times, gaps, broken, ready), masked=masked)
    assert found.capacity == pytest.approx(plain.capacity, rel=0.05)


def test_wild_samples_are_outvoted() -> None:
    times, load, usage, ready = service()
    plain = of((times, load, usage, ready))
    usage = usage.copy()
    usage[::17] *= 3.0
    assert of((times, load, usage, ready)).capacity == pytest.approx(plain.capacity, rel=0.1)


def test_full_replicas_teach_no_higher_capacity() -> None:
    """Usage stands at the limit while load goes on rising: taken for a sample it would say that load is cheap."""
    times, load, usage, ready = service()
    usage, load = usage.copy(), load.copy()
    hours = slice(400, 436)
    load[hours], usage[hours] = 3 * load[hours], ready[hours] * 1.0
    found = of((times, load, usage, ready))
    assert found.capacity is not None and found.capacity < 97.0


def test_a_deploy_that_doubles_the_cost_makes_it_unstable_and_is_learned_after_six_hours() -> None:
    cost = np.where(np.arange(4 * DAY) < 3 * DAY, 1.0, 2.0)
    parts = service(days=4, cost=cost, idle=0.0)
    shortly = tuple(part[: 3 * DAY + 40] for part in parts)
    found = of(shortly)
    assert found.capacity is None and found.reason is not None
    assert found.reason.code is ReasonCode.CAPACITY_UNSTABLE and "changed to" in found.reason.detail
    later = of(parts)
    assert later.capacity is not None and 0.75 * 50 < later.capacity < 52
    assert abs(later.since - int(parts[0][3 * DAY])) <= 7_200


def test_a_deploy_that_makes_it_cheaper_is_learned_too() -> None:
    cost = np.where(np.arange(5 * DAY) < 3 * DAY, 1.0, 0.5)
    found = of(service(days=5, cost=cost, idle=0.0))
    assert found.capacity is not None and found.capacity > 150


def test_a_flat_load_gives_a_capacity_that_is_too_low_rather_than_too_high() -> None:
    found = of(service(swing=0.0, idle=0.2))
    assert found.capacity is not None and 50 < found.capacity <= 80.5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"usage": lambda usage, rng: rng.lognormal(0, 1.0, len(usage))}, "does not explain"),
        ({"usage": lambda usage, rng: np.full(len(usage), np.nan)}, "samples of load"),
        ({"ready": lambda ready, rng: np.zeros(len(ready))}, "samples of load"),
        ({"load": lambda load, rng: -load}, "samples of load"),
    ],
    ids=["noise", "no usage", "no replicas", "negative load"],
)
def test_what_cannot_be_learned_is_refused_in_words(change: dict[str, Any], words: str) -> None:
    times, load, usage, ready = service()
    rng = np.random.default_rng(1)
    parts = {"load": load, "usage": usage, "ready": ready}
    for name, how in change.items():
        parts[name] = how(parts[name], rng)
    found = of((times, parts["load"], parts["usage"], parts["ready"]))
    assert found.capacity is None and found.reason is not None
    assert found.reason.code is ReasonCode.CAPACITY_UNKNOWN and words in found.reason.detail


@pytest.mark.parametrize("full", [Full(), Full(limit=0.0), Full(request=math.nan), Full(limit=-1.0)])
def test_without_a_limit_or_a_request_nobody_knows_what_fills_a_replica(full: Full) -> None:
    found = of(service(), full)
    assert found.capacity is None and found.reason is not None and "limit" in found.reason.detail


def test_the_request_fills_a_pod_that_has_no_limit_and_is_a_share_of_the_limit_of_one_that_has() -> None:
    by_request = of(service(), Full(request=1.0))
    assert by_request.capacity == of(service(), Full(limit=1.0)).capacity and by_request.request_ratio == 1.0
    assert of(service(), Full(limit=1.0, request=0.25)).request_ratio == 0.25


def test_replicas_that_are_full_at_a_load_that_they_used_to_carry_make_it_unstable() -> None:
    times, load, usage, ready = service()
    usage = usage.copy()
    usage[-30:] = ready[-30:]
    found = of((times, load, usage, ready))
    assert found.capacity is None and found.reason is not None
    assert found.reason.code is ReasonCode.CAPACITY_UNSTABLE and "are full at" in found.reason.detail
