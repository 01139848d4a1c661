"""The synthetic workloads: the same from the same seed, on the grids they promise, each recipe what its name says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from models.wall_clock import DAY
from training import synthetic_bursty as bursty
from training import synthetic_recipes as seasonal
from training import synthetic_sparse as sparse
from training.synthetic import (
    GRIDS,
    RECIPES,
    ZONES,
    Recipe,
    SyntheticGroup,
    clock_of,
    draw_recipe,
    group,
    groups,
    series,
)
from training.synthetic_artefacts import MOST_MISSING
from training.synthetic_clock import HOUR, Clock

MONDAY = 1_709_510_400  # 2024-03-04 00:00 UTC
FIVE_MINUTES = Clock(step=300, first_end=MONDAY + 300, size=21 * 288)
SEEDS = range(12)


def drawn(recipe: Recipe, seed: int, clock: Clock = FIVE_MINUTES) -> seasonal.Load:
    return recipe.draw(np.random.default_rng(seed), clock)


@pytest.fixture(scope="module")
def some_groups() -> list[SyntheticGroup]:
    return [group(11, index, series_per_group=8) for index in range(10)]


def test_the_same_seed_gives_the_same_groups_and_another_seed_gives_others() -> None:
    first, second = (list(groups(3, 2, series_per_group=4)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
        np.testing.assert_array_equal(one.saturated, other.saturated)
        assert (one.step, one.first_end, one.timezone) == (other.step, other.first_end, other.timezone)
        assert one.kinds == other.kinds
    assert group(4, 0, 4).first_end != first[0].first_end


def test_a_group_does_not_depend_on_what_was_drawn_before_it() -> None:
    in_a_row = list(groups(3, 2, series_per_group=3))[1]
    np.testing.assert_array_equal(in_a_row.values, group(3, 1, series_per_group=3).values)
    np.testing.assert_array_equal(in_a_row.values[:2], group(3, 1, series_per_group=2).values)


def test_grids_have_the_promised_steps_spans_and_starts() -> None:
    clocks = [clock_of(np.random.default_rng(seed)) for seed in range(400)]
    bounds = {step: (fewest * DAY, most * DAY) for step, _, fewest, most in GRIDS}
    for clock in clocks:
        low, high = bounds[clock.step]
        assert low - clock.step <= clock.span <= high
        assert clock.size <= 60_000
        assert clock.first_end % clock.step == 0
    assert {clock.step for clock in clocks} == set(bounds)
    assert Counter(clock.step for clock in clocks).most_common(1)[0][0] == 300
    assert {clock.timezone for clock in clocks} == set(ZONES)
    assert Counter(clock.timezone for clock in clocks).most_common(1)[0][0] == "UTC"
    assert {int(clock.weekday[0]) for clock in clocks} == set(range(7))
    assert any(len(set(clock.offsets)) == 2 for clock in clocks), "no span holds a change of the clock"


def test_values_are_finite_or_missing_and_not_too_many_are_missing(some_groups: list[SyntheticGroup]) -> None:
    for one in some_groups:
        assert one.values.dtype == np.float32
        assert one.values.shape == one.saturated.shape == (8, one.values.shape[1])
        assert len(one.kinds) == 8
        assert not np.isinf(one.values).any()
        missing = np.isnan(one.values)
        assert missing.mean(axis=1).max() <= MOST_MISSING
        assert not (missing & one.saturated).any(), "a missing sample is no lower bound"
    shares = np.concatenate([np.isnan(one.values).mean(axis=1) for one in some_groups])
    assert 0.3 < (shares == 0).mean() < 0.9


def test_every_recipe_is_drawn_as_often_as_its_weight_says() -> None:
    rng = np.random.default_rng(0)
    names = Counter(draw_recipe(rng, RECIPES).name for _ in range(10_000))
    total = sum(recipe.weight for recipe in RECIPES)
    for recipe in RECIPES:
        assert names[recipe.name] == pytest.approx(10_000 * recipe.weight / total, rel=0.4), recipe.name
    assert len({recipe.name for recipe in RECIPES}) == len(RECIPES)


@pytest.mark.parametrize(("family", "share"), [("seasonal", 40), ("bursty", 22), ("wandering", 15), ("sparse", 15)])
def test_the_families_are_balanced(family: str, share: float) -> None:
    total = sum(recipe.weight for recipe in RECIPES)
    ours = sum(recipe.weight for recipe in RECIPES if recipe.family == family)
    assert 100 * ours / total == pytest.approx(share, abs=3)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
@pytest.mark.parametrize(
    "clock",
    [
        Clock(15, MONDAY, 4 * 5_760),
        Clock(300, MONDAY + 300, 6_337, "Europe/Berlin"),  # holds the change of the clock
        Clock(3_600, MONDAY, 60 * 24, "America/New_York"),
    ],
    ids=["15 s", "5 min", "1 h"],
)
def test_every_recipe_draws_finite_series_that_differ(recipe: Recipe, clock: Clock) -> None:
    loads = [drawn(recipe, seed, clock) for seed in range(2)]
    for load in loads:
        assert load.values.shape == (clock.size,)
        assert np.isfinite(load.values).all()
        assert load.saturated is None or load.saturated.shape == (clock.size,)
    values, saturated = series(np.random.default_rng(0), clock, recipe)
    assert values.dtype == np.float32
    assert not np.isinf(values).any()
    assert saturated.dtype == np.bool_
    assert recipe.name == "near_constant" or not np.array_equal(loads[0].values, loads[1].values)


@pytest.mark.parametrize("seed", SEEDS)
def test_business_hours_are_busier_on_working_days(seed: int) -> None:
    load = seasonal.business_hours(np.random.default_rng(seed), FIVE_MINUTES).values
    weekend = FIVE_MINUTES.weekday >= 5
    assert np.median(load[weekend]) < 1.2 * np.median(load[~weekend])
    assert np.quantile(load[weekend], 0.9) < 0.9 * np.quantile(load[~weekend], 0.9)


def test_a_usual_service_repeats_its_day() -> None:
    same_time = []
    for seed in range(40):
        load = seasonal.daily_season(np.random.default_rng(seed), FIVE_MINUTES).values
        load = np.minimum(load, np.quantile(load, 0.99))
        by_day = load.reshape(21, 288)
        same_time.append(np.corrcoef(by_day[:-7].ravel(), by_day[7:].ravel())[0, 1])
    assert np.median(same_time) > 0.5
    assert np.min(same_time) < 0.4  # and some are hard


@pytest.mark.parametrize("seed", SEEDS)
def test_requests_are_whole_numbers(seed: int) -> None:
    load = seasonal.web_requests(np.random.default_rng(seed), FIVE_MINUTES)
    assert load.counts
    assert (load.values == np.round(load.values)).all()
    assert load.values.min() >= 0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_standardised_kpi_has_mean_0_and_both_signs(seed: int) -> None:
    values = seasonal.standardised_kpi(np.random.default_rng(seed), FIVE_MINUTES).values
    assert values.mean() == pytest.approx(0, abs=1e-9)
    assert values.std() == pytest.approx(1)
    assert values.min() < 0 < values.max()


@pytest.mark.parametrize("seed", SEEDS)
def test_saturated_samples_stand_at_capacity_and_others_are_the_demand(seed: int) -> None:
    rng = np.random.default_rng(seed)
    demand = 1 + np.sin(2 * np.pi * FIVE_MINUTES.day_fraction) + rng.random(FIVE_MINUTES.size)
    load = seasonal.clipped(rng, FIVE_MINUTES, demand)
    assert load.saturated is not None
    assert 0.005 < load.saturated.mean() < 0.9
    capacities = np.unique(load.values[load.saturated])
    assert len(capacities) <= FIVE_MINUTES.span / HOUR + 1  # it changes once an hour at most, the demand all the time
    assert len(capacities) < load.saturated.sum()
    assert (load.values[~load.saturated] >= demand[~load.saturated] - 1e-9).all()  # a queue is served later


@pytest.mark.parametrize("seed", SEEDS)
def test_a_closed_loop_marks_where_it_bends(seed: int) -> None:
    load = seasonal.closed_loop(np.random.default_rng(seed), FIVE_MINUTES)
    assert load.saturated is not None
    assert load.saturated.any()
    assert load.values[load.saturated].mean() > load.values[~load.saturated].mean()


@pytest.mark.parametrize("seed", SEEDS)
def test_marked_samples_stay_a_bound_after_measuring(seed: int) -> None:
    recipe = next(recipe for recipe in RECIPES if recipe.name == "saturated_service")
    values, saturated = series(np.random.default_rng(seed), FIVE_MINUTES, recipe)
    assert np.isfinite(values[saturated]).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_machines_stay_between_0_and_100_percent(seed: int) -> None:
    for recipe in (bursty.vm_regimes, seasonal.cpu_daily):
        values = recipe(np.random.default_rng(seed), FIVE_MINUTES).values
        assert values.min() >= 0
        assert values.max() <= 103  # the system's own share comes on top


@pytest.mark.parametrize("seed", SEEDS)
def test_rare_counters_are_zero_most_of_the_time(seed: int) -> None:
    values = sparse.rare_counter(np.random.default_rng(seed), FIVE_MINUTES).values
    assert 0.55 <= (values == 0).mean() <= 1
    assert values.min() >= 0


@pytest.mark.parametrize("seed", SEEDS)
def test_near_constant_series_move_by_a_hundredth_at_most(seed: int) -> None:
    values = sparse.near_constant(np.random.default_rng(seed), FIVE_MINUTES).values
    assert values.std() <= 0.02 * values.mean()


@pytest.mark.parametrize("seed", SEEDS)
def test_held_samples_repeat_and_do_not_lie_on_lines(seed: int) -> None:
    values = sparse.held_samples(np.random.default_rng(seed), FIVE_MINUTES).values
    assert (np.diff(values) == 0).mean() > 0.4


@pytest.mark.parametrize("seed", SEEDS)
def test_raw_counters_grow_save_for_resets(seed: int) -> None:
    values = sparse.raw_counter(np.random.default_rng(seed), FIVE_MINUTES).values
    assert (np.diff(values) < 0).sum() <= 4


@pytest.mark.parametrize("seed", SEEDS)
def test_shares_stay_between_0_and_1(seed: int) -> None:
    values = bursty.ratio(np.random.default_rng(seed), FIVE_MINUTES).values
    assert values.min() >= 0
    assert values.max() <= 1


def test_crowds_multiply_a_load() -> None:
    peaks = [
        np.ptp(bursty.flash_crowds(np.random.default_rng(seed), FIVE_MINUTES).values.reshape(21, 288).max(axis=1))
        for seed in SEEDS
    ]
    assert np.median(peaks) > 2  # the mean load of a season is 1


def test_regimes_of_machines_last() -> None:
    for seed in SEEDS:
        values = bursty.modes(np.random.default_rng(seed), FIVE_MINUTES).values
        assert np.ptp(np.median(values.reshape(-1, 72), axis=1)) > 0


def test_every_recipe_stands_in_the_docs_as_it_describes_itself() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "synthetic-data.md").read_text()
    total = sum(recipe.weight for recipe in RECIPES)
    for recipe in RECIPES:
        said = " ".join((recipe.draw.__doc__ or "").split())
        assert f"| `{recipe.name}` | {100 * recipe.weight / total:.1f} | {said} |" in page, recipe.name
    assert all(f"images/synthetic-{family}.png" in page for family in {recipe.family for recipe in RECIPES})
