"""`forecaster whatif --faults`: the forecasts that the faults of forecaster.scaling.whatif.faults break."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from forecaster.scaling.whatif import faults
from forecaster.scaling.whatif.faults import Outcome
from forecaster.scaling.whatif.peaks import Said
from forecaster.scaling.whatif.trial import Trial
from serving.whatif import Wanted, batches, each_batch, forecasts_of


def outcomes(
    wanted: Wanted, done: Callable[[float], None] = lambda share: None
) -> list[tuple[Trial, tuple[Outcome, ...]]]:
    """All faults of each trial, in their order."""
    found: dict[tuple[str, int], tuple[Outcome, ...]] = {}
    for some in each_batch(batches(wanted.trials), _of, done):
        found |= some
    done(1.0)
    return [(one, found[one.name, one.start_up]) for one in wanted.trials]


def _of(
    trials: Sequence[Trial], done: Callable[[float], None] = lambda share: None
) -> dict[tuple[str, int], tuple[Outcome, ...]]:
    start_ups = sorted({one.start_up for one in trials})
    singles = list({one.name: one for one in reversed(trials)}.values())
    loads = [singles, *([faults.changed(one, kind) for one in singles] for kind in faults.LOADS)]
    said = [forecasts_of(some, start_ups) for some in loads]
    out: dict[tuple[str, int], tuple[Outcome, ...]] = {}
    for column, start_up in enumerate(start_ups):
        here = [one for one in trials if one.start_up == start_up]
        places = [next(i for i, single in enumerate(singles) if single.name == one.name) for one in here]
        cases: list[tuple[Trial, str, Said, Said]] = []  # under the load of the trial
        for place in places:
            one = singles[place].starting_in(start_up)
            ours, last = said[0][0][place], said[0][1][place]
            begin = faults.onset(one)
            cases.append((one, faults.NONE, ours, last))
            cases += [(one, kind, faults.broken(ours, kind, begin, one.step), last) for kind in faults.FORECASTS]
            for number, kind in enumerate(faults.LOADS, start=1):
                other = loads[number][place].starting_in(start_up)
                cases.append((other, kind, said[number][0][place], said[number][1][place]))
        used = faults.gated([one for one, *_ in cases], [one for _, _, one, _ in cases], [c[3] for c in cases], column)
        made = [
            (one, kind, faults.floors_under(one, issued, column)[0])
            for (one, kind, *_), issued in zip(cases, used, strict=True)
        ]
        each = len(made) // len(here)
        for number, one in enumerate(here):
            out[one.name, start_up] = _told(made[number * each : (number + 1) * each])
    return out


def _told(made: Sequence[tuple[Trial, str, Any]]) -> tuple[Outcome, ...]:
    trial, _, sound = made[0]
    same = [(kind, floor) for one, kind, floor in made if one is trial]
    found = faults.outcomes(trial, [*same, (faults.DEAD, faults.dying(trial, sound))])
    for one, kind, floor in made:
        if one is not trial:
            found += faults.outcomes(one, [(kind, floor)])
    by_kind = {one.kind: one for one in found}
    return tuple(by_kind[kind] for kind in faults.KINDS)
