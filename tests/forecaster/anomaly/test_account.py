"""The digits of an incident come out the same, bit by bit, from what is kept of it; altered, they do not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from forecaster.anomaly import account, budget
from forecaster.anomaly.feedback import NOTHING, REAL, Taught, taught
from forecaster.anomaly.follow import AnomalyState, Followed, Seen, follow, start, with_other_budget
from forecaster.errors import InputError
from forecaster.rows import Rows
from tests.forecaster.anomaly.test_feedback import incident
from tests.forecaster.anomaly.test_follow import LEVELS, NOW, around

ROWS = 7
KEYS = tuple(f"checkout#abc/{name}" for name in ("load", "cpu", "memory")) + tuple(f"w{i}#1/load" for i in range(4))


Step = tuple[AnomalyState, Seen, Followed]


def opening(days: float, told: Taught = NOTHING, hot: int = 5) -> list[Step]:
    """The steps in which incidents open: a fleet over some days of five-minute steps, then every other row leaves what
    was expected."""
    generator = np.random.default_rng(7)
    state, steps, out = start(KEYS), int(days * 288), []
    for i in range(steps + hot):
        values = 100 + 5 * generator.standard_normal(ROWS)
        if i >= steps:
            values[::2] += 80 + 10 * i
        quantiles = around(100.0, 5.0, ROWS) * (1 + 0.01 * generator.standard_normal((ROWS, 1)))
        hour = around(100.0, 6.0, ROWS) if i % 3 else np.full((ROWS, 7), np.nan)
        seen = Seen(
            NOW + 300 * i, values, quantiles, hour, LEVELS, np.zeros(ROWS, dtype=bool), np.zeros(ROWS, dtype=np.int64)
        )
        found = follow(state, seen, 0.1, 300.0, told)
        if found.opened:
            out.append((state, seen, found))
        state = found.state
    return out


def lived(days: float) -> Step:
    """The step in which most incidents open."""
    return max(opening(days), key=lambda one: len(one[2].opened))


@pytest.mark.parametrize("days", [0.3, 3.0], ids=["young", "with days of its own"])
def test_digits_come_out_as_they_were_told(days: float) -> None:
    factors = {}
    for before, seen, found in opening(days, taught([incident(REAL)])):
        records = account.accounts(before, seen, found, 0.1, 300.0)
        assert {one.id for one in found.opened} <= records.keys()
        for one in found.opened:
            kept = account.read(json.loads(json.dumps(records[one.id])))
            assert account.different(one, account.digits(kept)) == []
            assert one.threshold == account.digits(kept).threshold > 0
            factors[one.workload, one.role, one.kind] = kept.inputs.factor
    assert len(factors) >= 4
    moved = ("checkout", "load", "residual")  # what was said of that counts for no other row or kind
    assert all(factor == (2.0 if name == moved else 1.0) for name, factor in factors.items())


def test_it_is_kept_anew_when_the_incident_worsens_and_not_else() -> None:
    _, seen, found = lived(0.3)
    worse = replace(seen, now=seen.now + 300, observed=seen.observed + 500 * (seen.observed > 150))
    again = follow(found.state, worse, 0.1, 300.0)
    records = account.accounts(found.state, worse, again, 0.1, 300.0)
    for key, one in again.state.open.items():
        if one.score > found.state.open[key].score:
            assert account.different(one, account.digits(account.read(records[one.id]))) == []
        else:
            assert one.id not in records
    calm = replace(seen, now=seen.now + 600, observed=np.full(ROWS, 100.0))
    after = follow(again.state, calm, 0.1, 300.0)
    assert account.accounts(again.state, calm, after, 0.1, 300.0) == {}


@pytest.mark.parametrize("name", ["observed", "pool", "one_step"])
def test_a_step_that_was_altered_comes_out_otherwise(name: str) -> None:
    before, seen, found = lived(0.3)
    records = account.accounts(before, seen, found, 0.1, 300.0)
    one = found.opened[0]
    kept = account.read(records[one.id])
    value = tuple(range(300, 307)) if name == "one_step" else 1e6
    more = {"one_hour": value} if name == "one_step" else {}
    altered = replace(kept, inputs=replace(kept.inputs, **{name: value}, **more))  # type: ignore[arg-type]
    assert account.different(one, account.digits(altered)) != []


@pytest.mark.parametrize("name", ["spread", "day_seen"])
def test_a_state_that_was_altered_comes_out_otherwise(name: str) -> None:
    before, seen, found = lived(0.3)
    one = found.opened[0]
    kept = account.read(account.accounts(before, seen, found, 0.1, 300.0)[one.id])
    arrays = {**kept.state.arrays, name: np.asarray(kept.state.arrays[name]) * 7 + 300}
    altered = replace(kept, state=Rows(kept.state.keys, arrays))
    assert account.different(one, account.digits(altered)) != []


def test_an_account_of_another_release_or_that_is_damaged_is_refused() -> None:
    before, seen, found = lived(0.3)
    record = next(iter(account.accounts(before, seen, found, 0.1, 300.0).values()))
    state = record["state"]
    for bad in ({"version": 99}, {}, {**record, "inputs": {}}, {**record, "state": None}):
        with pytest.raises(InputError):
            account.read(bad)
    for changed in (
        {"dtype": "|O"},
        {"shape": [2, 64]},
        {"shape": [-1]},
        {"data": "%"},
        {"shape": [10**9]},
    ):
        with pytest.raises(InputError):
            account.read({**record, "state": {**state, "past": {**state["past"], **changed}}})
    with pytest.raises(InputError, match="another shape"):
        account.read({**record, "state": {name: told for name, told in state.items() if name != "past"}})


def test_thresholds_are_the_parts_that_an_account_keeps() -> None:
    generator = np.random.default_rng(1)
    maxima = generator.exponential(1.0, (5, budget.DAYS)) + 2
    maxima[1, :60], maxima[2] = np.nan, np.nan
    per_week = np.array([0.1, 0.2, 0.1, 1.0, 0.05])
    whole = budget.thresholds(maxima, per_week, 60.0)
    pool = budget.pooled(maxima, per_week, 60.0)
    for row in range(5):
        one = budget.mixed(maxima[[row]], per_week[[row]], pool[[row]])
        assert one[0] == whole[row]


def test_another_budget_counts_at_once() -> None:
    _, seen, found = lived(0.3)
    later = follow(with_other_budget(found.state), replace(seen, now=seen.now + 300), 10.0, 300.0)
    assert (later.threshold < found.threshold).all()
