"""`forecaster whatif --faults`: the forecasts that the faults of forecaster.scaling.whatif.faults break."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from forecaster.scaling.whatif import faults
from forecaster.scaling.whatif.faults import Outcome
from forecaster.scaling.whatif.peaks import Said
from forecaster.scaling.whatif.trial import Trial
from serving.whatif import Each, Wanted, batches, each_batch, forecasts_of


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
        cases: list[tuple[Trial, str, tuple[Said, ...]]] = []  # under the load of the trial
        for place in places:
            one = singles[place].starting_in(start_up)
            cases += [(one, kind, chain) for kind, chain in _chains(one, said[0], place)]
            for number, kind in enumerate(faults.LOADS, start=1):
                other = loads[number][place].starting_in(start_up)
                cases.append((other, kind, _chain(said[number], place)))
        used = faults.gated([one for one, *_ in cases], [chain for *_, chain in cases], column)
        made = [
            (one, kind, faults.floors_under(one, issued, column)[0])
            for (one, kind, *_), issued in zip(cases, used, strict=True)
        ]
        each = len(made) // len(here)
        for number, one in enumerate(here):
            out[one.name, start_up] = _told(made[number * each : (number + 1) * each])
    return out


def _chains(trial: Trial, each: Each, place: int) -> list[tuple[str, tuple[Said, ...]]]:
    """What the forecasters say where nothing fails, and under each fault of the forecasts."""
    begin, profile, network = faults.onset(trial), each.profile[place], each.network[place]
    out = [(faults.NONE, _chain(each, place))]
    for kind, how in (*faults.MODEL.items(), *faults.BOTH.items()):
        model = faults.broken(network, how, begin, trial.step)
        other = faults.broken(profile, how, begin, trial.step) if kind in faults.BOTH else profile
        out.append((kind, faults.chain_of(other, model, each.persistence[place], each.every)))
    return out


def _chain(each: Each, place: int) -> tuple[Said, ...]:
    return faults.chain_of(each.profile[place], each.network[place], each.persistence[place], each.every)


def _told(made: Sequence[tuple[Trial, str, Any]]) -> tuple[Outcome, ...]:
    trial, _, sound = made[0]
    same = [(kind, floor) for one, kind, floor in made if one is trial]
    found = faults.outcomes(trial, [*same, (faults.DEAD, faults.dying(trial, sound))])
    for one, kind, floor in made:
        if one is not trial:
            found += faults.outcomes(one, [(kind, floor)])
    by_kind = {one.kind: one for one in found}
    return tuple(by_kind[kind] for kind in faults.KINDS)
