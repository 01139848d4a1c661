"""The last hours of a workload: nothing newer than the publication, nothing made up, in every role."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import orjson
import pytest

from forecaster.domain import HpaFacts, Mode, ScaleSpec
from forecaster.scaling import decision
from forecaster.scaling.record import to_json
from serving.past import DECISION_LASTS, past, past_json, sparklines
from serving.render import Rendered, render
from serving.store import Store, StoredDecision
from tests.serving.publications import NOW, incident, publication

KEY = "checkout#abc"


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store("sqlite://")
    yield store
    store.close()


def rendered() -> Rendered:
    return render(publication(("checkout", "empty")), 0.0)


def decided(ago: float, load: float, ready: int, mode: Mode = Mode.RECOMMEND) -> StoredDecision:
    """A decision as the cycle stores it."""
    at = NOW - timedelta(seconds=ago)
    facts = HpaFacts(min_replicas=2, max_replicas=10, current_replicas=ready + 1, ready_replicas=ready)
    inputs = decision.DecisionInput(
        at,
        "checkout",
        ScaleSpec("shop", "checkout"),
        facts,
        mode=mode,
        peak=float(load),
        level=0.99,
        newest_load=float(load),
        capacity=50.0,
    )
    before = decision.DecisionState()
    made, _ = decision.decide(inputs, before)
    return StoredDecision("checkout", KEY, at, decision.record(inputs, before), to_json(made))


def test_load_is_at_the_step_for_six_hours_and_coarse_beyond(store: Store) -> None:
    fine, coarse = past(rendered(), store, "checkout", 6), past(rendered(), store, "checkout", 24)
    assert fine is not None and coarse is not None
    assert (fine.step_seconds, coarse.step_seconds) == (60, 300)
    assert fine.times[0] == NOW.timestamp() - 6 * 3600
    assert coarse.times[0] == NOW.timestamp() - 24 * 3600
    assert max(fine.times) <= NOW.timestamp()


def test_a_missing_sample_is_null_and_never_zero(store: Store) -> None:
    found = past(rendered(), store, "checkout", 6)
    assert found is not None
    assert None in found.load and 0 not in found.load
    never = past(rendered(), store, "empty", 6)
    assert never is not None and set(never.load) == {None}


def test_the_newest_sample_ends_the_line_and_nothing_is_newer(store: Store) -> None:
    made = publication(("checkout",), made_at=NOW + timedelta(seconds=40))  # the grid ends at NOW, the sample 20 s on
    found = past(render(made, 0.0), store, "checkout", 1)
    assert found is not None
    assert found.times[-1] == NOW.timestamp() + 20
    assert found.load[-1] == pytest.approx(100.0)


def test_replicas_are_steps_of_stored_decisions(store: Store) -> None:
    store.add_decisions([decided(900, 80, 2), decided(600, 120, 3)])
    told = past_json(_known(past(rendered(), store, "checkout", 1)))["replicas"]
    assert told["readyReplicas"] == [2, 3, 4]  # the last is the publication's own
    assert told["floor"][-1] == 4 and told["maxReplicas"] == [10, 10, 20]
    assert told["readyCapacity"] == [100.0, 150.0, 200.0]
    assert told["times"][-1] == NOW


def test_a_hole_between_decisions_is_marked(store: Store) -> None:
    store.add_decisions([decided(3000, 80, 2)])
    found = _known(past(rendered(), store, "checkout", 1))
    assert [NOW.timestamp() - at for at in found.decided_at] == [3000, 3000 - DECISION_LASTS, 0]
    assert found.decided["ready"] == [2, None, 4]


def test_what_stood_at_the_beginning_is_shown_from_there(store: Store) -> None:
    store.add_decisions([decided(3600 + 300, 80, 2), decided(3600 + 2000, 80, 9)])
    found = _known(past(rendered(), store, "checkout", 1))
    assert found.decided_at[0] == NOW.timestamp() - 3600
    assert found.decided["ready"][0] == 2


def test_a_floor_that_was_only_observed_is_none(store: Store) -> None:
    store.add_decisions([decided(600, 80, 2, Mode.OBSERVE)])
    assert _known(past(rendered(), store, "checkout", 1)).decided["floor"][0] is None


def test_decisions_of_another_expression_are_left_out(store: Store) -> None:
    store.add_decisions([replace(decided(600, 80, 2), workload_key="checkout#old")])
    assert len(_known(past(rendered(), store, "checkout", 1)).decided_at) == 1


def test_without_a_cycle_the_decisions_tell_the_load_and_a_note_says_so(store: Store) -> None:
    store.add_decisions([decided(600, 80, 2), decided(300, 90, 2)])
    found = _known(past(None, store, "checkout", 1))
    assert found.load == [80, 90] and found.made_at == NOW - timedelta(seconds=300)
    assert found.note is not None and "runs no cycle" in found.note
    assert past(None, store, "other", 1) is None


def test_before_the_first_step_the_history_is_said_to_come(store: Store) -> None:
    made = replace(publication(("checkout",)), recent=None)
    found = _known(past(render(made, 0.0), store, "checkout", 1))
    assert found.times == [] and found.note is not None and "next step" in found.note


def test_incidents_of_these_hours_only(store: Store) -> None:
    old = replace(incident("old", closed_at=NOW - timedelta(hours=3)), opened_at=NOW - timedelta(hours=4))
    store.put_incidents([old, incident("open"), incident("other", workload="empty")])
    assert [one.id for one in _known(past(rendered(), store, "checkout", 1)).incidents] == ["open"]
    assert [one.id for one in _known(past(rendered(), store, "checkout", 6)).incidents] == ["old", "open"]


def test_sparklines_are_percents_of_the_highest_in_pages() -> None:
    one = rendered()
    first: dict[str, Any] = orjson.loads(sparklines(one, "", 1))
    line = first["items"][0]
    assert first["next"] == "checkout" and first["stepSeconds"] == 1800 and len(line["values"]) == 48
    known = [v for v in line["values"] if v is not None]
    assert max(known) == 100 and min(known) > 0
    assert line["highest"] == pytest.approx(150, rel=0.01)
    second = orjson.loads(sparklines(one, "checkout", 1))
    assert second["items"] == [{"name": "empty", "highest": None, "values": [None] * 48}]
    assert second["next"] is None
    assert sparklines(one, "", 1) is sparklines(one, "", 1)


def test_what_was_copied_does_not_move_with_the_history() -> None:
    from forecaster.domain import Calendar, Context, SeriesBatch, SeriesKey
    from forecaster.publication import recent_of

    values = np.arange(2880, dtype=np.float32)[None, :].copy()
    fine = SeriesBatch((SeriesKey("a"),), NOW, timedelta(minutes=1), values)
    coarse = SeriesBatch((SeriesKey("a"),), NOW, timedelta(minutes=5), values[:, :100])
    found = recent_of(Context(fine, coarse, Calendar(("UTC",))))
    values[:] = math.nan
    assert found.fine.values.shape == (1, 361) and found.fine.values[0, -1] == 2879
    assert found.coarse.values.shape == (1, 100)
    assert found.fine.times[0] == NOW.timestamp() - 6 * 3600


def _known(found: Any) -> Any:
    assert found is not None
    return found
