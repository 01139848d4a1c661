"""Examples for fitting: nothing of the future in the inputs, and targets where they belong."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.domain import FloatArray
from models.inputs import Queries, inputs_of
from training.windows import Sampling, SeriesGroup, contexts_of, drawn_queries, examples_of, targets

START = 1_780_002_000  # a whole hour


def group(columns: int = 2_000, step: int = 300, rows: int = 3, **more: object) -> SeriesGroup:
    rng = np.random.default_rng(0)
    day = np.sin(2 * np.pi * np.arange(columns) * step / 86_400)
    values = (50 + 20 * day + rng.normal(0, 2, (rows, columns))).astype(np.float32)
    return SeriesGroup(values, step, START, **more)  # type: ignore[arg-type]


def test_what_comes_after_an_origin_changes_nothing_of_its_inputs() -> None:
    one = group()
    changed = one.values.copy()
    changed[:, 1_501:] = -1e6
    queries = Queries(np.array([300, 3_600, 86_400, 900]), np.array([False, False, False, True]))
    seen = []
    for values in (one.values, changed):
        (context,) = contexts_of(SeriesGroup(values, 300, START), [1_500])
        ((_, inputs),) = inputs_of(context, np.arange(3), queries)
        seen.append(inputs)
    for name in ("series", "query", "points", "spreads", "center", "unit"):
        np.testing.assert_array_equal(getattr(seen[0], name), getattr(seen[1], name))


def test_targets_are_the_value_at_the_horizon_and_the_maximum_up_to_it() -> None:
    values: FloatArray = np.array([[0.0, 5.0, 1.0, 7.0, 2.0], [0.0, np.nan, 1.0, 3.0, 2.0]])
    queries = Queries(np.array([60, 180, 180]), np.array([False, False, True]))
    came = targets(values, 60, 0, queries)
    np.testing.assert_array_equal(came[0], [5.0, 7.0, 7.0])
    assert np.isnan(came[1, 0]) and came[1, 1] == 3.0 and np.isnan(came[1, 2])  # a gap in the window: no maximum


def test_a_saturated_sample_is_neither_input_nor_target() -> None:
    one = group()
    saturated = np.zeros(one.values.shape, dtype=np.bool_)
    saturated[:, 1_490:1_510] = True
    clipped = SeriesGroup(one.values, 300, START, saturated=saturated)
    (context,) = contexts_of(clipped, [1_500])
    assert np.isnan(context.fine.values[:, -11:]).all() and not np.isnan(context.fine.values[:, -12]).any()
    came = targets(clipped.demand, 300, 1_500, Queries(np.array([300, 3_600]), np.array([False, False])))
    assert np.isnan(came[:, 0]).all() and not np.isnan(came[:, 1]).any()


@pytest.mark.parametrize("step", [15, 60, 300, 3_600])
def test_examples_are_finite_and_the_same_for_the_same_seed(step: int) -> None:
    one, sampling = group(1_200, step), Sampling(origins=4, horizons=4, peaks=1)
    first = examples_of(one, sampling, np.random.default_rng(1))
    again = examples_of(one, sampling, np.random.default_rng(1))
    assert len(first) > 0 and first.query.shape[1] == 5
    np.testing.assert_array_equal(first.query, again.query)
    for name in ("series", "query", "points", "spreads"):
        assert np.isfinite(getattr(first, name)).all(), name
    assert np.abs(first.target[~np.isnan(first.target)]).max() <= 50


def test_origins_and_targets_keep_to_the_part_that_is_asked() -> None:
    one, other = group(1_000), group(1_000)
    other.values[:, 800:] += 1_000
    sampling = Sampling(origins=30, shorten=False)
    early = [examples_of(each, sampling, np.random.default_rng(0), until=800) for each in (one, other)]
    np.testing.assert_array_equal(early[0].target, early[1].target)
    late = [examples_of(each, sampling, np.random.default_rng(0), since=900) for each in (one, other)]
    assert len(late[0]) > 0 and not np.array_equal(late[0].target, late[1].target)


def test_a_grid_that_is_not_on_multiples_of_its_step_is_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="multiple of the step"):
        SeriesGroup(np.ones((1, 10), dtype=np.float32), 300, START + 60)


def test_horizons_are_whole_steps_within_what_is_left() -> None:
    rng = np.random.default_rng(0)
    for room in (1, 3, 50, 5_000):
        queries = drawn_queries(60, room, Sampling(), rng)
        steps = queries.seconds // 60
        assert (queries.seconds % 60 == 0).all() and steps.min() >= 1 and steps.max() <= room
