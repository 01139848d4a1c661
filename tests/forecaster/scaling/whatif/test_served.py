"""The dial on served load: as asked, never the runaway of a forecast that sees only what it let through."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forecaster.scaling.whatif import peaks, served
from forecaster.scaling.whatif.receipt import receipt_of
from forecaster.scaling.whatif.report import Told, as_dict, as_text
from models.fits import FitCache
from models.persistence import Persistence
from tests.forecaster.scaling.whatif.loads import daily, trial

ASKED = 0.05


def last_value() -> Persistence:
    return Persistence(cache=FitCache(renews=False))


@pytest.fixture(scope="module")
def came() -> served.Came:
    return served.play_served([trial(daily(5))], last_value, (ASKED,))[0]


@pytest.mark.parametrize("behind", [served.NOTHING, served.HPA])
def test_a_dial_that_sees_only_served_load_is_near_what_was_asked(came: served.Came, behind: str) -> None:
    assert 0.2 * ASKED <= came[behind, ASKED] <= 1.6 * ASKED


def test_without_the_mark_of_saturation_it_runs_away(came: served.Came, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the loop is closed: what is not served is not seen, and the mark is what saves the dial."""
    monkeypatch.setattr(served, "saturated", lambda mean, capacity, ready: np.zeros(len(ready), dtype=np.bool_))
    unmarked = served.play_served([trial(daily(5))], last_value, (ASKED,), (served.NOTHING,))[0]
    assert unmarked[served.NOTHING, ASKED] > 3 * max(ASKED, came[served.NOTHING, ASKED])


@pytest.mark.slow
def test_rows_side_by_side_are_those_of_each_alone() -> None:
    one, other = trial(daily(2)), trial(daily(2.5, seed=3))
    both = served.play_served([one, other], last_value, (0.01, ASKED))
    assert both[0] == served.play_served([one], last_value, (0.01, ASKED))[0]


def test_the_dials_of_served_load_stand_in_the_receipt_beside_those_of_offered(came: served.Came) -> None:
    one = trial(daily(3))
    said = peaks.on_ticks(one, peaks.replay([one], last_value(), [one.start_up])[0], 0)
    made = replace(receipt_of(one, said, None, points=False), served=came)
    told = Told([made], {one.name: ("",)}, [])
    rows = [row for row in as_dict(told)["dial"] if row["asked"] == ASKED]
    assert [(row["observed"], row["behind"]) for row in rows] == [
        ("offered", None),
        ("served", "nothing"),
        ("served", "user_hpa"),
    ]
    assert rows[1]["actualPooled"] == came["nothing", ASKED]
    assert as_text(told)
