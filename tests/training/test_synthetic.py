"""The synthetic workloads: the same from the same seed, on the grids they promise, and as varied as they claim."""

from __future__ import annotations

import numpy as np

from training.synthetic import group, groups


def test_the_same_seed_gives_the_same_groups_and_another_seed_gives_others() -> None:
    first, second = (list(groups(3, 2, series_per_group=4)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
        np.testing.assert_array_equal(one.saturated, other.saturated)
        assert (one.step, one.first_end, one.timezone, one.kinds) == (
            other.step,
            other.first_end,
            other.timezone,
            other.kinds,
        )
    assert group(4, 0, 4).first_end != first[0].first_end


def test_a_group_does_not_depend_on_what_was_drawn_before_it() -> None:
    in_a_row = list(groups(3, 2, series_per_group=3))[1]
    np.testing.assert_array_equal(in_a_row.values, group(3, 1, series_per_group=3).values)
    np.testing.assert_array_equal(in_a_row.values[:2], group(3, 1, series_per_group=2).values)
