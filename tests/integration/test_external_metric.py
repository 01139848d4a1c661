"""The external metric through a real Prometheus and the HPA's own algorithm: our death costs what the HPA costs."""

from __future__ import annotations

import math
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from forecaster.domain import FloatArray, IntArray
from forecaster.scaling.external_metric import ReactiveLoad, external_metric
from forecaster.scaling.hpa import SYNC_SECONDS, Hpa, HpaState, Rules, reconcile, with_defaults
from forecaster.scaling.hpa_metrics import Tolerances, average_proposal
from tests.integration.prometheus_server import PrometheusServer

pytestmark = pytest.mark.prometheus

TICK = int(SYNC_SECONDS)
TICKS = 6 * 240
START = 1_767_225_600  # 2026-01-01
DEATH = 2 * 240  # tick at which the service dies
VALID = 20  # ticks: 5 minutes
CAPACITY, TARGET_RATIO, LEAD = 120.0, 0.7, 12  # of a replica; share; ticks from creation to Ready
TIMES = START + TICK * np.arange(TICKS)
CHECKOUT = ReactiveLoad("checkout", 'sum(rps{app="checkout"})', TARGET_RATIO, CAPACITY)
LABELS = {"namespace": "shop", "hpa": "checkout", "instance": "a"}


def load() -> FloatArray:
    """A wave of an hour, steep enough that pods which start in three minutes come late; and a crowd after the death."""
    wave = 1500.0 + 1200.0 * np.sin(2 * np.pi * np.arange(TICKS) / 240)
    wave[DEATH + 400 : DEATH + 460] += 1500.0
    return np.asarray(wave)


def floors(loads: FloatArray) -> IntArray:
    """What a forecast that knew the wave would ask for: full replicas for the highest load of a lead time."""
    ahead = [loads[i : i + LEAD + 2].max() for i in range(TICKS)]
    return np.ceil(np.array(ahead) / CAPACITY).astype(np.int64)


def written(
    factor: float = 1.0, last: int = DEATH, valid: int = VALID
) -> Iterator[tuple[str, dict[str, str], list[tuple[int, float]]]]:
    """Series as the service publishes them up to the tick `last`, its floors times `factor`."""
    loads = load()
    ours = floors(loads) * factor
    reactive = np.ceil(loads / (CAPACITY * TARGET_RATIO))
    alive = range(last)
    yield "forecaster_floor_replicas", LABELS, [(int(TIMES[i]), float(ours[i])) for i in alive]
    recommended = np.maximum(ours, reactive)
    yield "forecaster_recommended_replicas", LABELS, [(int(TIMES[i]), float(recommended[i])) for i in alive]
    until = "forecaster_recommendation_valid_until_timestamp_seconds"
    yield until, LABELS, [(int(TIMES[i]), float(TIMES[i] + valid * TICK)) for i in alive]
    status = {"workload": "checkout", "instance": "a", "reason": "ok"}
    yield "forecaster_workload_status", status, [(int(TIMES[i]), 1.0) for i in alive]
    yield "rps", {"app": "checkout"}, [(int(at), float(value)) for at, value in zip(TIMES, loads, strict=True)]


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., FloatArray]]:
    """Values of the external metric, tick by tick, of a service that published `written(…)`; NaN: none."""
    servers: dict[tuple[float, int, int], PrometheusServer] = {}

    def ask(save: bool, factor: float = 1.0, last: int = DEATH, valid: int = VALID) -> FloatArray:
        key = (factor, last, valid)
        if key not in servers:
            folder: Path = tmp_path_factory.mktemp("prometheus")
            servers[key] = PrometheusServer(folder, retention="100y")
            servers[key].backfill(written(*key))
            servers[key].start()
        query = external_metric("shop", "checkout", [CHECKOUT], save).query
        asked = {"query": query, "start": START, "end": int(TIMES[-1]), "step": TICK}
        url = f"{servers[key].url}/api/v1/query_range?{urllib.parse.urlencode(asked)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            (series,) = msgspec.json.decode(answer.read())["data"]["result"]
        assert series["metric"] == {}
        values = np.full(TICKS, np.nan)
        for at, value in series["values"]:
            values[(int(at) - START) // TICK] = float(value)
        return values

    yield ask
    for server in servers.values():
        server.kill()


def scaled(values: FloatArray, tolerance: float | None = None) -> tuple[IntArray, FloatArray]:
    """(replicas, minutes above capacity so far) under an HPA whose only metric is `values`, its bounds 2 to 60.

    `tolerance`: behavior.scaleUp.tolerance; None: no `behavior`.
    """
    behavior = None if tolerance is None else with_defaults(Rules(tolerance=tolerance), None)
    tolerances = Tolerances() if tolerance is None else Tolerances(up=tolerance)
    hpa = Hpa(max_replicas=60, min_replicas=2, behavior=behavior, metric_types=("External",))
    loads, target = load(), int(1000 * CAPACITY * TARGET_RATIO)
    replicas = [math.ceil(values[0] / (CAPACITY * TARGET_RATIO))]
    state, above = HpaState(), []
    for i in range(TICKS):
        proposal = average_proposal((int(1000 * values[i]),), replicas[-1], target, tolerances, external=True)
        done, state = reconcile(hpa, replicas[-1], [proposal], state, float(TIMES[i]))
        replicas.append(done.replicas)
        ready = min(replicas[max(0, len(replicas) - LEAD) :])  # a pod counts a lead time after its creation
        above.append(loads[i] > CAPACITY * ready)
    return np.array(replicas[1:]), np.cumsum(above) * TICK / 60


def test_the_value_is_ours_then_the_load_and_never_less_than_it(serve: Callable[..., FloatArray]) -> None:
    values, loads = serve(save=False), load()
    assert not np.isnan(values).any()
    assert (values >= loads - 1e-6).all()
    assert (values[:DEATH] > loads[:DEATH]).mean() > 0.9
    # the samples ended without a marker: Prometheus shows the last one for five minutes, the validity ends no later
    np.testing.assert_allclose(values[DEATH + VALID :], loads[DEATH + VALID :])


def test_our_death_costs_nothing_beyond_the_reactive_hpa(serve: Callable[..., FloatArray]) -> None:
    reactive, reactive_above = scaled(load())
    ours, above = scaled(serve(save=False))
    assert above[DEATH] < reactive_above[DEATH]  # alive we are of use
    assert above[-1] - above[DEATH] <= reactive_above[-1] - reactive_above[DEATH]
    assert_settled(ours, reactive)


def test_saving_gives_replicas_back_while_we_live_and_ends_with_us(serve: Callable[..., FloatArray]) -> None:
    values = serve(save=True)
    (as_it_is, above_as_it_is), (reactive, _) = scaled(load()), scaled(load(), tolerance=0.0)
    ours, above = scaled(values, tolerance=0.0)
    assert ours[:DEATH].mean() < 0.85 * as_it_is[:DEATH].mean()
    assert above[DEATH] <= above_as_it_is[DEATH]
    np.testing.assert_allclose(values[DEATH + VALID :], load()[DEATH + VALID :])
    assert_settled(ours, reactive)


@pytest.mark.parametrize("silent", [0, 2 * 4], ids=["its scrape fails", "its samples end without a marker"])
def test_a_death_while_saving_costs_half_a_minute_above_capacity_at_most_on_average(silent: int) -> None:
    """Over all phases of the wave; the values are those that the tests above get from Prometheus."""
    loads, target = load(), CAPACITY * TARGET_RATIO
    ours = floors(loads) * target
    _, before = scaled(loads, tolerance=0.0)
    extra = []
    for death in range(DEATH, DEATH + 240, 20):
        values = np.maximum(ours, loads * TARGET_RATIO / 0.9)
        values[death:] = loads[death:]
        still = slice(death, death + silent)
        values[still] = np.maximum(ours[death - 1], loads[still] * TARGET_RATIO / 0.9)
        _, above = scaled(values, tolerance=0.0)
        end = death + 160
        extra.append((above[end] - above[death - 1]) - (before[end] - before[death - 1]))
    assert np.mean(extra) <= 0.5  # FAULTS, and DESIGN's first promise


@pytest.mark.parametrize("factor", [0.0, 0.1, 10.0], ids=["nothing", "a tenth", "ten times"])
def test_a_wrong_word_of_ours_is_never_below_the_reactive_rule(serve: Callable[..., FloatArray], factor: float) -> None:
    reactive, reactive_above = scaled(load())
    ours, above = scaled(serve(save=False, factor=factor))
    assert above[-1] <= reactive_above[-1]
    assert ours.max() <= 60
    assert_settled(ours, reactive)


def assert_settled(ours: IntArray, reactive: IntArray) -> None:
    """After validity and the HPA's own downscale stabilization: the same to the HPA's tolerance, and no dearer."""
    settled = DEATH + VALID + 20 + 1
    np.testing.assert_allclose(ours[settled:], reactive[settled:], rtol=0.1, atol=1)
    assert ours[settled:].sum() <= 1.01 * reactive[settled:].sum()


def test_a_service_that_lives_on_without_renewing_is_not_believed(serve: Callable[..., FloatArray]) -> None:
    values = serve(save=False, last=TICKS, valid=-1)  # published, and over before it was read
    np.testing.assert_allclose(values, load())
