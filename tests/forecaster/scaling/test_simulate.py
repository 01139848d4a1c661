"""The simulator: it decides as the pure HPA does, loses no load, and means the same in any form."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.scaling import kernel
from forecaster.scaling.cluster import Service, Startup
from forecaster.scaling.hpa import Hpa, HpaState, Policy, Rules, reconcile, with_defaults
from forecaster.scaling.hpa_metrics import Container, Pod, Proposal, Readiness, Tolerances, pods_proposal
from forecaster.scaling.simulate import DRAWS, Simulated, Simulation, simulate
from tests.forecaster.scaling.reference_cluster import replicas_of

policies = st.lists(
    st.builds(
        Policy,
        st.sampled_from(["Pods", "Percent"]),
        st.integers(1, 120),
        st.sampled_from([15.0, 30.0, 40.0, 60.0, 300.0]),
    ),
    min_size=1,
    max_size=3,
).map(tuple)
rules = st.builds(
    Rules,
    policies=st.one_of(st.just(()), policies),
    stabilization_window_seconds=st.sampled_from([None, 0.0, 15.0, 50.0, 300.0, 600.0]),
    select_policy=st.sampled_from(["Max", "Max", "Min", "Disabled"]),
    tolerance=st.sampled_from([None, 0.0, 0.05, 0.3]),
)
behaviors = st.one_of(st.none(), st.builds(with_defaults, st.one_of(st.none(), rules), st.one_of(st.none(), rules)))
startups = st.one_of(
    st.sampled_from([0.0, 10.0, 45.0, 180.0, 400.0, 700.0]).map(Startup.constant),
    st.just(Startup.lognormal(90.0, 240.0)),
    st.just(Startup((0.1, 0.5, 0.9), (20.0, 30.0, 400.0))),
)


@st.composite
def services(draw: st.DrawFn) -> Service:
    low = draw(st.integers(1, 4))
    return Service(
        capacity_per_replica=10.0,
        startup=draw(startups),
        pending_seconds=draw(st.sampled_from([0.0, 5.0, 20.0, 200.0])),
        target_utilization=draw(st.sampled_from([30, 50, 70, 90, 130])),
        min_replicas=low,
        max_replicas=draw(st.integers(low, 40)),
        behavior=draw(behaviors),
        tolerance=draw(st.sampled_from([0.0, 0.1, 0.2])),
        downscale_stabilization_seconds=draw(st.sampled_from([0.0, 60.0, 300.0])),
        cpu_initialization_seconds=draw(st.sampled_from([0.0, 60.0, 300.0])),
        metric_delay_seconds=draw(st.sampled_from([0.0, 15.0, 30.0, 45.0])),
        metric_window_seconds=draw(st.sampled_from([15.0, 30.0, 60.0])),
        usage_limit=draw(st.sampled_from([1.0, 1.0, 1.5])),
        backlog_limit_seconds=draw(st.sampled_from([0.0, 5.0, 60.0])),
        initial_replicas=draw(st.one_of(st.none(), st.integers(0, 45))),
    )


@st.composite
def traffic(draw: st.DrawFn, ticks: int = 120) -> list[float]:
    """Levels that are held and jump, with some noise: what makes an HPA work."""
    pieces = draw(st.lists(st.tuples(st.floats(0.0, 300.0), st.integers(1, 30)), min_size=1, max_size=12))
    levels = [level for level, length in pieces for _ in range(length)]
    noise = np.random.default_rng(draw(st.integers(0, 99))).normal(1.0, 0.08, ticks)
    return [float(levels[i % len(levels)] * abs(noise[i])) for i in range(ticks)]


@st.composite
def floors(draw: st.DrawFn, ticks: int = 120) -> list[int]:
    pieces = draw(st.lists(st.tuples(st.integers(0, 45), st.integers(1, 40)), min_size=1, max_size=6))
    held = [level for level, length in pieces for _ in range(length)]
    return [held[i % len(held)] for i in range(ticks)]


def traced(service: Service, load: list[float], low: list[int], **told: Any) -> Simulated:
    return simulate([service], np.array([load]), 15.0, floors=np.array([low]), trace=True, **told)


# --- against the pure functions --------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(services(), traffic(), floors(), st.integers(0, 9))
def test_every_pass_is_that_of_the_pure_hpa(service: Service, load: list[float], low: list[int], seed: int) -> None:
    made = traced(service, load, low, seed=seed)
    assert made.ticks is not None
    drawn = service.startup.draw(np.random.default_rng(seed), DRAWS)
    initial = service.initial_replicas
    if initial is None:
        initial = min(max(service.replicas_for(load[0]), low[0]), service.max_replicas)
    expected = replicas_of(service, drawn.tolist(), initial, load, low)
    assert (made.ticks.replicas[0].tolist(), made.ticks.ready[0].tolist()) == expected


@settings(deadline=None)
@given(
    usages=st.lists(st.integers(0, 1500), max_size=12),
    unready=st.integers(0, 6),
    missing=st.integers(0, 6),
    current=st.integers(1, 24),
    target=st.integers(1, 150),
    tolerances=st.builds(Tolerances, st.sampled_from([0.0, 0.1, 0.25]), st.sampled_from([0.0, 0.1, 0.25])),
)
def test_a_proposal_is_that_of_the_replica_calculator(
    usages: list[int], unready: int, missing: int, current: int, target: int, tolerances: Tolerances
) -> None:
    request = (Container("app", kernel.REQUEST_MILLI),)
    pods = [Pod(ready="True", started_at=-9e3, ready_since=-9e3, usage=one, containers=request) for one in usages]
    pods += [Pod(phase="Pending", usage=1, containers=request)] * unready
    pods += [Pod(ready="True", containers=request)] * missing
    pure = pods_proposal(
        pods, current, target, now=0.0, tolerances=tolerances, readiness=Readiness(), resource="cpu", utilization=True
    )
    ours = kernel.proposed(current, len(usages), sum(usages), unready, missing, target, tolerances.down, tolerances.up)
    assert ours == (-1 if pure.error else pure.replicas)


# --- laws ------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(services(), traffic(), floors())
def test_load_is_conserved_and_replicas_stay_within_bounds(service: Service, load: list[float], low: list[int]) -> None:
    service = replace(service, initial_replicas=None)
    made = traced(service, load, low)
    totals, ticks = made.totals, made.ticks
    assert ticks is not None
    assert totals.served + totals.backlog + totals.dropped == pytest.approx(totals.offered)
    assert totals.offered[0] == pytest.approx(15.0 * sum(load))
    assert (ticks.replicas <= service.max_replicas).all()
    assert (ticks.replicas >= np.clip(low, service.min_replicas, service.max_replicas)).all()
    assert (ticks.utilization <= service.usage_limit).all()
    assert (ticks.served <= 15.0 * ticks.ready * service.capacity_per_replica).all()
    assert (ticks.ready <= ticks.replicas).all()
    assert totals.replica_hours[0] == pytest.approx(ticks.replicas.sum() / 240.0)
    assert totals.unmet[0] == pytest.approx(
        np.maximum(np.array(load) - ticks.ready[0] * service.capacity_per_replica, 0.0).sum() * 15.0
    )


@settings(deadline=None)
@given(services(), st.integers(1, 40), st.integers(0, 60), st.integers(0, 40), st.integers(0, 40))
def test_more_floor_never_gives_fewer_replicas_than_either_the_floor_or_before(
    service: Service, current: int, raw: int, floor: int, more: int
) -> None:
    """Of one pass. A floor above the present replicas is jumped to without a look at the metrics, so that it can give
    fewer than a pass under a lower floor would; never fewer than the floor itself."""
    current, high = min(current, service.max_replicas), service.max_replicas
    after = []
    for low in (min(floor, high), min(floor + more, high)):
        hpa = Hpa(max_replicas=high, min_replicas=max(low, 1), behavior=service.behavior)
        done, _ = reconcile(hpa, current, [Proposal(raw)], HpaState(), 0.0)
        assert done.replicas >= low
        after.append(done.replicas)
    if floor + more <= current:
        assert after[1] >= after[0]


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "interpreted"])
def test_the_same_seed_gives_the_same_and_stepping_is_the_batch(compiled: bool) -> None:
    rng = np.random.default_rng(3)
    load = rng.uniform(0.0, 400.0, (3, 40)).cumsum(axis=1) % 900.0
    low = rng.integers(0, 12, (3, 40))
    own = [
        Service(30.0, Startup.lognormal(40.0, 120.0), backlog_limit_seconds=20.0),
        Service(50.0, Startup.constant(180.0), behavior=with_defaults(None, None), max_replicas=12),
        Service(40.0, Startup.lognormal(200.0, 500.0), min_replicas=3),
    ]
    batch = simulate(own, load, 30.0, floors=low, seed=7, trace=True, compiled=compiled)
    again = simulate(own, load, 30.0, floors=low, seed=np.random.default_rng(7), trace=True, compiled=True)
    other = simulate(own, load, 30.0, floors=low, seed=8, trace=True, compiled=compiled)
    single = Simulation(own, load[:, 0], first_floors=low[:, 0], seed=7, compiled=compiled)
    stepped = [single.step(load[:, j // 2], low[:, j // 2]) for j in range(80)]
    assert batch.ticks is not None and again.ticks is not None and other.ticks is not None
    for name in ("replicas", "ready", "utilization", "served", "backlog", "dropped"):
        whole = getattr(batch.ticks, name)
        np.testing.assert_array_equal(whole, np.hstack([getattr(one, name) for one in stepped]))
        np.testing.assert_array_equal(whole, getattr(again.ticks, name))
    np.testing.assert_array_equal(batch.totals.scale_events, single.totals.scale_events)
    np.testing.assert_array_equal(batch.totals.reversals, single.totals.reversals)
    assert not np.array_equal(batch.ticks.ready, other.ticks.ready)


def test_the_future_of_the_load_changes_nothing_before() -> None:
    load = np.full((1, 100), 300.0)
    load[0, 20:] = 700.0
    other = load.copy()
    other[0, 40:] = 0.0
    own = [Service(50.0)]
    a, b = (simulate(own, one, 15.0, trace=True).ticks for one in (load, other))
    assert a is not None and b is not None
    np.testing.assert_array_equal(a.replicas[:, :40], b.replicas[:, :40])
    assert not np.array_equal(a.replicas, b.replicas)


# --- worked out by hand ----------------------------------------------------------------------------------------------


def test_a_jump_of_load_waits_for_samples_and_for_pods() -> None:
    service = Service(100.0, Startup.constant(60.0), target_utilization=50, metric_delay_seconds=30.0)
    load = np.array([[200.0] * 4 + [400.0] * 16])
    ticks = simulate([service], load, 15.0, trace=True).ticks
    assert ticks is not None
    assert ticks.utilization[0, 3:5].tolist() == [0.5, 1.0]
    # the jump is in the samples from 45 s on, in part: 62 %, ratio 1.24, 5 pods; then 75 %, with the unready one 6
    assert ticks.replicas[0, :10].tolist() == [4, 4, 4, 4, 4, 4, 4, 5, 6, 7]
    assert ticks.ready[0, 10] == 4 and ticks.ready[0, 11] == 5


def test_unserved_work_waits_up_to_the_limit_and_drains() -> None:
    service = Service(10.0, max_replicas=1, backlog_limit_seconds=30.0)
    load = np.array([[10.0, 40.0, 0.0, 0.0, 0.0]])
    made = simulate([service], load, 15.0, trace=True)
    assert made.ticks is not None
    assert made.ticks.backlog[0].tolist() == [0.0, 300.0, 150.0, 0.0, 0.0]
    assert made.ticks.dropped[0].tolist() == [0.0, 150.0, 0.0, 0.0, 0.0]
    assert made.ticks.utilization[0].tolist() == [1.0, 1.0, 1.0, 1.0, 0.0]
    assert made.totals.seconds_above_capacity[0] == 15.0
    assert made.totals.unmet_load_ratio[0] == pytest.approx(30.0 / 50.0)


def test_zero_replicas_stay_zero_whatever_the_floor() -> None:
    made = simulate([Service(10.0, initial_replicas=0)], np.ones((1, 4)), 15.0, floors=np.full((1, 4), 3), trace=True)
    assert made.ticks is not None
    assert made.ticks.replicas.sum() == 0


def test_scale_in_removes_the_newest_and_a_pending_pod_is_paid() -> None:
    service = Service(
        10.0, Startup.constant(600.0), pending_seconds=600.0, min_replicas=2, downscale_stabilization_seconds=0.0
    )
    low = np.array([[2, 5, 5, 2]])
    made = simulate([service], np.full((1, 4), 12.0), 15.0, floors=low, trace=True)
    assert made.ticks is not None
    assert made.ticks.replicas[0].tolist() == [2, 5, 5, 2]
    assert made.ticks.ready[0].tolist() == [2, 2, 2, 2]
    assert made.totals.replica_hours[0] == pytest.approx(14 * 15 / 3600)
    assert made.totals.scale_events[0] == 2 and made.totals.reversals[0] == 1


# --- at the door -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load", "step", "said"),
    [
        (np.array([[1.0, np.nan]]), 15.0, "fill gaps"),
        (np.array([[-1.0]]), 15.0, "at least 0"),
        (np.ones((2, 3)), 15.0, "for 1 services"),
        (np.ones((1, 3)), 20.0, "multiple of 15"),
    ],
    ids=["missing load", "negative load", "other number of services", "odd step"],
)
def test_bad_input_is_refused(load: np.ndarray[Any, Any], step: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        simulate([Service(1.0)], load, step)


def test_bad_descriptions_are_refused() -> None:
    for make in (
        lambda: Service(0.0),
        lambda: Service(1.0, min_replicas=5, max_replicas=4),
        lambda: Service(1.0, usage_limit=0.5),
        lambda: Startup((0.5, 0.4), (1.0, 2.0)),
        lambda: Startup((0.5, 0.6), (2.0, 1.0)),
        lambda: Startup.lognormal(10.0, 5.0),
    ):
        with pytest.raises(ValueError):
            make()


def test_startup_quantiles_are_those_given() -> None:
    drawn = Startup.lognormal(60.0, 120.0).draw(np.random.default_rng(0), 100_000)
    assert np.quantile(drawn, [0.5, 0.9]) == pytest.approx([60.0, 120.0], rel=0.03)


def test_numba_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, forecaster.scaling.simulate; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_it_runs_where_no_folder_can_be_written(tmp_path: Path) -> None:
    """As in a container with a read-only root: neither the package folder nor a home for numba's cache."""
    code = (
        "import numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "import numpy as np\n"
        "from forecaster.scaling.simulate import Service, simulate\n"
        "print(simulate([Service(10.0)], np.full((1, 240), 70.0), 15.0).totals.replica_hours[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == 10.0


def test_another_target_counts_from_the_next_pass_on() -> None:
    service = Service(capacity_per_replica=100.0, min_replicas=2, max_replicas=50, target_utilization=70)
    one = Simulation([service, service], np.array([700.0, 700.0]))
    load = np.array([700.0, 700.0])
    for _ in range(8):
        one.step(load)
    assert one.replicas.tolist() == [10, 10]
    one.retarget(np.array([70, 50]))
    for _ in range(8):
        one.step(load)
    assert one.replicas.tolist() == [10, 14]
