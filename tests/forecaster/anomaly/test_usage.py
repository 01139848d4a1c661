"""Usage given load: what the load explains is no news, what it does not is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.anomaly import usage
from forecaster.anomaly.usage import Judged, Sample
from forecaster.domain import BoolArray, FloatArray
from forecaster.rows import Arrays, Rows

T0, STEP = 1_767_571_200, 300
DAY = 86_400 // STEP
N = 3 * DAY


def loads(seed: int, n: int = N) -> FloatArray:
    rng = np.random.default_rng(seed)
    return 100 * (1.2 + np.sin(2 * np.pi * np.arange(n) / DAY)) * np.exp(rng.normal(0, 0.05, n))


def run(
    load: FloatArray, used: FloatArray, replicas: FloatArray | None = None, learn: BoolArray | None = None
) -> tuple[Arrays, FloatArray, list[Judged]]:
    """(state, (row, time) score, what each step said) of (row, time) arrays."""
    rows, n = used.shape
    state = Rows((), {}).aligned([str(i) for i in range(rows)], usage.blank()).arrays
    score, said = np.full((rows, n), np.nan), []
    for j in range(n):
        count = np.full(rows, np.nan) if replicas is None else replicas[:, j]
        sample = Sample(T0 + (j + 1) * STEP, load[:, j], used[:, j], count)
        state, judged = usage.judged(state, sample, STEP)
        score[:, j] = judged.score
        said.append(judged)
        calm = ~(judged.score > 4) if learn is None else np.full(rows, learn[j])
        state = usage.learned(state, sample, judged, calm, STEP)
    return state, score, said


def cores(load: FloatArray, seed: int, base: float = 0.5, cost: float = 0.02) -> FloatArray:
    return base + cost * load * np.exp(np.random.default_rng(seed).normal(0, 0.02, load.shape))


def test_cost_is_learned_with_an_interval_and_published() -> None:
    load = loads(0)[None]
    state, _, _ = run(load, cores(load, 1))
    found = usage.cost(state)
    assert found.each[0] == pytest.approx(0.02, rel=0.02)
    assert found.low[0] < 0.02 < found.high[0]
    flat = np.full((1, DAY), 100.0)
    flat_state, _, _ = run(flat, cores(flat, 2))
    wide = usage.cost(flat_state)
    assert (wide.high[0] - wide.low[0]) / wide.each[0] > 3 * (found.high[0] - found.low[0]) / found.each[0]


def test_a_fifth_more_for_each_request_is_found_within_half_an_hour() -> None:
    load = np.stack([loads(seed) for seed in range(20)])
    used = cores(load, 3)
    used[:, -30:] += 0.2 * 0.02 * load[:, -30:]
    _, score, said = run(load, used)
    assert (np.nanmax(score[:, -30:-24], axis=1) > 5).mean() >= 0.95
    assert np.median(said[-1].rest) == pytest.approx(0.17, abs=0.06)
    assert (said[-1].side == 1).all()
    assert (said[-1].expected < used[:, -1]).all()


def test_a_surge_at_unchanged_cost_says_nothing() -> None:
    load = np.stack([loads(seed) for seed in range(20)])
    load[:, -8:] *= 3.0
    used = cores(load, 4)
    calm = cores(np.stack([loads(seed) for seed in range(20)]), 4)
    _, score, _ = run(load, used)
    _, without, _ = run(np.stack([loads(seed) for seed in range(20)]), calm)
    assert np.nanmax(score[:, -8:]) < max(4.0, float(np.nanmax(without[:, DAY:])))


def test_memory_that_does_not_come_down_with_the_load() -> None:
    load = loads(5)[None]
    memory = 200 + 1.0 * load + np.random.default_rng(5).normal(0, 2, load.shape)
    stuck = memory.copy()
    stuck[:, -DAY // 4 :] = memory[:, -DAY // 2 - 20 : -DAY // 4 - 20].max()  # the peak's, while load is at its lowest
    _, score, said = run(load, stuck)
    assert np.nanmax(score[0, -DAY // 4 :]) > 5
    assert said[-1].side[0] == 1
    text = usage.sentence("shop", "memory", 0.5, 1, 20.0, 120.0, "2026-01-05 10:00 UTC")
    assert text.startswith("shop: memory did not come down with the load: 50% more")


def test_replicas_carry_the_base() -> None:
    load = loads(6)[None]
    replicas = np.ceil(load / 30)
    _, score, said = run(load, 0.5 * replicas + cores(load, 6, base=0.0), replicas)
    assert np.nanmax(score[:, DAY:]) < 6
    assert np.nanmedian([np.abs(one.rest[0]) for one in said[DAY:]]) < 0.02


def test_missing_is_never_low_usage() -> None:
    load = loads(7)[None]
    used = cores(load, 7)
    used[:, -20:] = np.nan
    state, score, said = run(load, used)
    assert np.isnan(score[:, -20:]).all()
    no_load = load.copy()
    no_load[:, -20:] = np.nan
    assert np.isnan(run(no_load, cores(load, 7))[1][:, -20:]).all()
    shorter, _, _ = run(load[:, :-20], used[:, :-20])
    np.testing.assert_array_equal(usage.cost(state).each, usage.cost(shorter).each)
    assert np.isnan(said[-1].nats[0])


def test_warm_up_gives_no_score() -> None:
    load = loads(8, DAY - 2)[None]
    assert np.isnan(run(load, cores(load, 8))[1]).all()


def test_what_may_not_be_learned_leaves_no_trace() -> None:
    load = loads(9)[None]
    used = cores(load, 9)
    spoiled = used.copy()
    spoiled[:, -DAY // 2 :] *= 2
    learn = np.arange(N) < N - DAY // 2
    a, _, _ = run(load, used, learn=learn)
    b, _, _ = run(load, spoiled, learn=learn)
    np.testing.assert_array_equal(a["fit"], b["fit"])
    np.testing.assert_array_equal(a["past"], b["past"])


def test_an_accepted_cost_is_the_new_one() -> None:
    load = loads(10)[None]
    used = cores(load, 10)
    used[:, -DAY // 4 :] *= 1.5
    learn = np.arange(N) < N - DAY // 4
    state, _, said = run(load, used, learn=learn)
    assert said[-1].rest[0] > 0.4
    after = usage.accepted(state, np.array([True]), STEP)
    assert usage.cost(after).each[0] == pytest.approx(1.5 * 0.02, rel=0.06)
    _, judged = usage.judged(after, Sample(T0 + N * STEP, load[:, -1], used[:, -1], np.full(1, np.nan)), STEP)
    assert abs(judged.score[0]) < 3
    assert usage.accepted(state, np.array([False]), STEP) is state


def test_a_lost_count_of_replicas_is_not_taken_for_none() -> None:
    load, counts = loads(11)[None], np.where(np.arange(N) // 12 % 2, 10.0, 20.0)[None]
    used = cores(load, 11) + 0.5 * counts
    gone = counts.copy()
    lost = slice(N - 36, N)  # three hours, of which the newest count is believed for one
    gone[:, lost] = np.nan
    used[:, lost] = cores(load, 11)[:, lost] + 0.5 * counts[:, N - 37]
    _, score, said = run(load, used, gone)
    assert np.isfinite(score[0, N - 40])
    assert np.isnan(score[0, N - 23 :]).all()
    assert np.isnan(said[-1].expected[0])
    assert np.nanmax(score[0, lost]) < 4


def test_constant_and_zero_series_say_nothing() -> None:
    load = np.stack([np.full(DAY + 20, 100.0), np.zeros(DAY + 20), np.full(DAY + 20, 100.0)])
    used = np.stack([np.full(DAY + 20, 2.0), np.full(DAY + 20, 2.0), np.zeros(DAY + 20)])
    _, score, said = run(load, used)
    assert np.nanmax(score[0]) < 1
    assert np.nanmax(score[1]) < 1
    assert np.isnan(score[2]).all()  # nothing to be relative to
    assert said[-1].expected[0] == pytest.approx(2.0, rel=1e-3)


@settings(deadline=None, max_examples=3)
@given(of_load=st.floats(1e-9, 1e9), of_usage=st.floats(1e-9, 1e12), seed=st.integers(0, 100))
def test_units_do_not_matter_and_rows_do_not_meet(of_load: float, of_usage: float, seed: int) -> None:
    load = np.stack([loads(seed, DAY + 30), loads(seed + 1, DAY + 30)])
    used = cores(load, seed)
    used[:, -5:] *= 1.3
    state, score, _ = run(load, used)
    scaled, other, _ = run(load[::-1] * of_load, used[::-1] * of_usage)
    np.testing.assert_allclose(score, other[::-1], rtol=1e-4, atol=1e-4)
    each = usage.cost(state).each * of_usage / of_load
    np.testing.assert_allclose(each, usage.cost(scaled).each[::-1], rtol=1e-4)
