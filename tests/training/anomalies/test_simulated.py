"""Null series and injected faults are what they say."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from forecaster.domain import FloatArray, IntArray
from training.anomalies import nulls
from training.anomalies.cases import Case
from training.anomalies.faults import measured_faults, scores_of
from training.anomalies.nulls import phase_randomised
from training.anomalies.workloads import IDLE_CORES, KINDS, MEMORY_WITH_LOAD, STEP, Kind, Observed, run_of

DAY = 86_400 // STEP
BY_NAME = {kind.name: kind for kind in KINDS}


def test_a_surrogate_keeps_profile_and_spectrum_and_loses_the_event() -> None:
    t = np.arange(20 * 288)
    values = 50 + 20 * np.sin(2 * np.pi * t / 288) + np.random.default_rng(0).normal(0, 1, len(t))
    values[3_000:3_006] += 100
    made = phase_randomised(values, 288, np.random.default_rng(1))
    assert made.std() == pytest.approx(values.std(), rel=0.02)
    assert np.abs(made - made.mean()).max() < 50 < np.abs(values - values.mean()).max()
    assert np.corrcoef(made, np.sin(2 * np.pi * t / 288))[0, 1] > 0.9
    again = phase_randomised(values, 288, np.random.default_rng(1))
    np.testing.assert_array_equal(made, again)
    values[100:200] = np.nan
    assert np.isnan(phase_randomised(values, 288, np.random.default_rng(1))[100:200]).all()


def test_synthetic_nulls_are_long_enough_and_hold_no_label() -> None:
    made = nulls.synthetic(0)
    assert sum(case.span.weeks for case in made) >= nulls.LEAST_WEEKS
    assert all(len(case.span.windows) == 0 and not case.labels.any() for case in made)
    assert all((case.values >= 0).all() for case in made)


def test_surrogates_are_drawn_until_they_suffice() -> None:
    case: Case = nulls.synthetic(0)[0]
    made = nulls.surrogates([case], 0)
    assert sum(one.span.weeks for one in made) >= nulls.LEAST_WEEKS
    assert not np.array_equal(made[0].values, made[1].values)


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_a_fault_begins_at_its_onset(kind: Kind) -> None:
    calm, faulty = run_of(BY_NAME["none"], 3, 0).observed, run_of(kind, 3, 0)
    seen = faulty.observed
    onset = min(faulty.onset, len(seen.times))
    for name in ("load", "cpu", "memory", "pods", "replicas"):
        np.testing.assert_array_equal(getattr(seen, name)[..., :onset], getattr(calm, name)[..., :onset])
    if kind.name != "none":
        assert 7 * DAY <= onset < 8 * DAY
        shown = getattr(seen, kind.signal)[..., onset + 1 : onset + 60]
        assert not np.array_equal(shown, getattr(calm, kind.signal)[..., onset + 1 : onset + 60], equal_nan=True)


def test_each_fault_does_what_its_name_says() -> None:
    def of(name: str) -> tuple[Observed, slice, FloatArray]:
        run = run_of(BY_NAME[name], 5, 1)
        return run.observed, slice(run.onset, run.end), run_of(BY_NAME["none"], 5, 1).observed.cpu

    leak, rows, _ = of("leak")
    assert leak.memory[rows][-1] < leak.memory_limit
    assert leak.memory.max() == leak.memory_limit
    dear, rows, calm = of("cpu_per_request_20")
    before = run_of(BY_NAME["none"], 5, 1).observed
    idle = IDLE_CORES * before.replicas
    np.testing.assert_allclose(dear.cpu[rows] - idle[rows], 1.2 * (calm[rows] - idle[rows]))
    surge, rows, _ = of("surge")
    np.testing.assert_allclose(surge.load[rows][5:], 3 * before.load[rows][5:])
    cost, before_cost = ((one.cpu - idle)[rows] / one.load[rows] for one in (surge, before))
    np.testing.assert_allclose(cost, before_cost)
    more = MEMORY_WITH_LOAD * (surge.load - before.load) / before.load.mean()
    np.testing.assert_allclose(surge.memory, before.memory + more)
    frozen, rows, _ = of("frozen_exporter")
    assert len(np.unique(frozen.load[rows])) == len(np.unique(frozen.memory[rows])) == 1
    gap, rows, _ = of("gap")
    assert np.isnan(gap.load[rows]).all()
    assert np.isnan(gap.cpu[rows]).all()
    bad, rows, _ = of("bad_pod")
    np.testing.assert_allclose(bad.pods[0, rows], 1.6 * before.pods[0, rows])
    np.testing.assert_array_equal(bad.pods[1:], before.pods[1:])


class Knowing:
    """Sees cost per request, and nothing but the workload."""

    def workload_scores(self, observed: Observed) -> FloatArray:
        cost = (observed.cpu - 0.05 * observed.replicas) / observed.load
        usual = np.nanmedian(cost[: 5 * DAY])
        return np.asarray(np.nan_to_num(np.abs(cost / usual - 1)))


class Blind:
    def scores(self, values: FloatArray, step: int, times: IntArray) -> FloatArray:
        return np.zeros(len(values))


def test_recall_delay_and_deadline() -> None:
    kinds = [BY_NAME["cpu_per_request_40"], BY_NAME["surge"], BY_NAME["none"]]
    rows = measured_faults({"knowing": Knowing(), "blind": Blind()}, 3, 0, 1, lambda share: None, kinds)
    found = {(row.kind, row.model, row.budget): row for row in rows}
    dear = found["cpu_per_request_40", "knowing", 1.0]
    assert (dear.injected, dear.recall, dear.in_time) == (3, 1.0, 1.0)
    assert dear.delay(0.5) <= 600
    assert found["cpu_per_request_40", "blind", 1.0].recall == 0
    assert np.isnan(found["cpu_per_request_40", "blind", 1.0].delay(0.5))
    assert found["none", "knowing", 1.0].injected == 0
    assert found["none", "knowing", 1.0].before.weeks == pytest.approx(3 * 8 / 7)


def test_a_detector_of_one_series_sees_each_pod() -> None:
    observed = run_of(BY_NAME["bad_pod"], 0, 0).observed.until(2_000)

    class Last:
        def scores(self, values: FloatArray, step: int, times: IntArray) -> FloatArray:
            assert values.shape == (2_000,)
            return np.nan_to_num(values)

    np.testing.assert_array_equal(scores_of(Last(), observed, "pods"), np.nanmax(observed.pods, axis=0))


def test_kinds_travel_to_other_processes() -> None:
    for kind in KINDS:
        again = pickle.loads(pickle.dumps(kind))
        here, there = run_of(kind, 3, 0).observed, run_of(again, 3, 0).observed
        np.testing.assert_array_equal(here.cpu, there.cpu)
