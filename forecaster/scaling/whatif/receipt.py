"""The receipt of one service at one start-up time: every policy on the test part, settings from the training part.

What is chosen, is chosen on training alone. `forecaster` is what the default may do (calm), `forecaster_free` all ways
and holds, `forecaster_safety` and `forecaster_safer` dialled floors on the user's own HPA. Knows no file and no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from forecaster.domain import FloatArray, IntArray
from forecaster.scaling.cluster import Service
from forecaster.scaling.whatif import hindsight, measures, rivals
from forecaster.scaling.whatif.hindsight import Retuned
from forecaster.scaling.whatif.hours import Hour, worst_hours
from forecaster.scaling.whatif.measures import Change, Entry
from forecaster.scaling.whatif.play import Figures, Played, oracle_played, play, ready_of
from forecaster.scaling.whatif.served import Came
from forecaster.scaling.whatif.settings import (
    CALM_HOLD,
    FEWER,
    FLOORS,
    HPAS,
    SAFER_RISK,
    SAFETY_RISK,
    Floors,
    Setting,
    service_of,
)
from forecaster.scaling.whatif.trial import Trial

RISK = 0.005  # reference: what the tuned HPA is tuned for
DEFAULT = "forecaster"
SAFE = {"forecaster_safety": SAFETY_RISK, "forecaster_safer": SAFER_RISK}  # policy -> its dial
DIAL = (0.005, 0.01, 0.05)  # asked, to see what it comes to
EQUAL_COST, EQUAL_RISK = "equal_cost", "equal_risk"


@dataclass(frozen=True, slots=True)
class Row:
    """One policy in the test part."""

    policy: str
    words: str  # its setting
    figures: Figures
    training: Figures


@dataclass(frozen=True, slots=True)
class Pair:
    """A policy beside the tuned HPA, chosen at equal cost or at equal risk on training."""

    policy: str
    at: str
    words: str
    setting: Setting
    training: Figures
    test: Figures
    change: Change


@dataclass(frozen=True, slots=True)
class Point:
    """One setting of the frontier, in the test part, in hindsight."""

    policy: str
    words: str
    cost: float  # replica-hours over the oracle's
    time: float  # share above capacity


@dataclass(frozen=True, slots=True, eq=False)
class Receipt:
    """All of one service at one start-up time."""

    trial: Trial
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    points: tuple[Point, ...]  # all that were played in the test part, not only the frontier
    entries: Mapping[str, Entry]  # by policy
    is_reachable: bool  # some HPA alone keeps the reference risk on training
    ours: Setting  # of the default
    floors: IntArray | None  # of the default, (tick,)
    dial: Mapping[float, float]  # asked -> what the floors alone came to in the test part
    hindsight: Mapping[str, Retuned]  # by policy: the HPA that is as safe
    hours: tuple[Hour, ...] = ()  # the worst ones
    served: Came | None = None  # the same where load is seen as it was served; None: not played

    def row(self, policy: str) -> Row:
        return next(one for one in self.rows if one.policy == policy)


@dataclass(frozen=True, slots=True, eq=False)
class _Family:
    """The settings of one policy, as played on training."""

    settings: tuple[Setting, ...]
    floors: Floors | None
    training: Played
    fresh: bool = False

    def with_(self, alone: _Family) -> _Family:
        """And the HPA alone: where no floor helps, a tuned HPA is what we advise."""
        return _Family((*self.settings, *alone.settings), self.floors, self.training.and_(alone.training))

    def calm(self) -> _Family:
        """What the default may do of it; an HPA alone may have any target."""
        places = [i for i, one in enumerate(self.settings) if one.level is None or one.calm]
        return _Family(tuple(self.settings[i] for i in places), self.floors, self.training.only(places))


def receipt_of(
    trial: Trial, peaks: FloatArray, persistence: FloatArray | None, *, risk: float = RISK, points: bool = True
) -> Receipt:
    """`peaks` (tick, level) of our chain's, `persistence` likewise of the last value's; see `peaks.on_ticks`.

    `points`: every setting is played on the test part too, for the frontier, and the worst hours are looked at.
    """
    alone = _family(trial, HPAS, None)
    tuned = measures.cheapest_within(alone.training.upt(), alone.training.cost(), risk)
    is_reachable = tuned is not None
    if tuned is None:
        tuned = int(np.lexsort((alone.training.cost(), alone.training.upt()))[0])
    ours = Floors(trial, peaks)
    free = _family(trial, FLOORS, ours).with_(alone)
    families = {"forecaster_free": free, "forecaster": free.calm()}
    if persistence is not None:
        families["persistence"] = _family(trial, FEWER, Floors(trial, persistence)).with_(alone)
    families["fresh_hpa"] = _family(trial, HPAS, None, fresh=True)

    reference = _Chosen(trial, alone, tuned)
    user = _Played(trial, trial.service(), None)
    base = reference.training.cost()[0]
    pairs: list[Pair] = []
    entries: dict[str, Entry] = {}
    own = HPAS[tuned]
    rows = _user(trial, user)
    rows.append(Row("tuned_hpa", HPAS[tuned].words, reference.test.of(0), reference.training.of(0)))
    perfect, perfect_training = oracle_played(trial, "test"), oracle_played(trial, "training")
    for name, family in families.items():
        upt, cost = family.training.upt(), family.training.cost()
        at_cost = _Chosen(trial, family, _or_tuned(measures.safest_within(upt, cost, base), family, tuned))
        at_risk = _Chosen(trial, family, _or_tuned(measures.cheapest_within(upt, cost, risk), family, tuned))
        for at, chosen in ((EQUAL_COST, at_cost), (EQUAL_RISK, at_risk)):
            pairs.append(chosen.pair(name, at, reference))
        rows.append(Row(name, at_cost.setting.words, at_cost.test.of(0), at_cost.training.of(0)))
        entries[name] = _entry(trial, pairs[-2], pairs[-1], at_cost, at_risk, reference, perfect)
        if name == DEFAULT:
            own = at_cost.setting
    for name, asked in SAFE.items():
        safe, entries[name] = _safety(trial, ours, user, name, asked)
        rows.append(safe)
    as_safe = hindsight.retuned(trial, [row.figures for row in rows[-len(SAFE) :]])
    rows += _hindsight(as_safe, alone.training)
    rows += _rivals(trial)
    rows.append(Row("oracle", "perfect foresight", perfect.of(0), perfect_training.of(0)))
    return Receipt(
        trial=trial,
        rows=tuple(rows),
        pairs=tuple(pairs),
        points=_points(trial, ours, float(perfect.cost()[0])) if points else (),
        entries=entries,
        is_reachable=is_reachable,
        ours=own,
        floors=ours.of(own),
        dial=_dial(trial, ours),
        hindsight=dict(zip(SAFE, as_safe, strict=True)),
        hours=worst_hours(trial, own, ours.of(own), peaks) if points else (),
    )


def _family(trial: Trial, settings: Sequence[Setting], floors: Floors | None, fresh: bool = False) -> _Family:
    given = [None if floors is None else floors.of(one) for one in settings]
    played = play(trial, [service_of(trial, one, fresh) for one in settings], given, "training")
    return _Family(tuple(settings), floors, played, fresh)


def _or_tuned(place: int | None, family: _Family, tuned: int) -> int:
    """Where no setting keeps the limit, the tuned HPA stays as it is: that is what we would advise."""
    return family.settings.index(HPAS[tuned]) if place is None else place


class _Chosen:
    """One setting of a family, played on the test part."""

    def __init__(self, trial: Trial, family: _Family, place: int) -> None:
        self.setting = family.settings[place]
        floors = None if family.floors is None else family.floors.of(self.setting)
        service = service_of(trial, self.setting, family.fresh)
        self.training = family.training.only([place])
        self.test = play(trial, [service], [floors], "test")

    def pair(self, policy: str, at: str, reference: _Chosen) -> Pair:
        return Pair(
            policy,
            at,
            self.setting.words,
            self.setting,
            self.training.of(0),
            self.test.of(0),
            measures.change(self.test, 0, reference.test, 0),
        )


def _entry(
    trial: Trial, cost: Pair, risk: Pair, at_cost: _Chosen, at_risk: _Chosen, reference: _Chosen, perfect: Played
) -> Entry:
    least, was = float(perfect.cost()[0]), reference.test.of(0)
    return Entry(
        series=trial.name,
        at_cost=cost.change,
        at_risk=risk.change,
        seconds_above=float(at_cost.test.above.sum()),
        reference_above=float(reference.test.above.sum()),
        cost=float(at_risk.test.cost()[0]) / least,
        reference_cost=float(reference.test.cost()[0]) / least,
        events=cost.test.scale_events / max(was.scale_events, 1),
        reversals=cost.test.reversals / max(was.reversals, 1),
    )


def _user(trial: Trial, user: _Played) -> list[Row]:
    """The user's HPA as it is; where it has a `behavior`, also without."""
    rows = [Row("user_hpa", trial.hpa.words, *user.both)]
    if trial.hpa.behavior is not None:
        plain = replace(trial, hpa=replace(trial.hpa, behavior=None))
        rows.append(Row("user_hpa_no_behavior", plain.hpa.words, *_Played(plain, plain.service(), None).both))
    return rows


def _safety(trial: Trial, ours: Floors, user: _Played, policy: str, asked: float) -> tuple[Row, Entry]:
    """A dialled floor on the user's HPA, and how it stands beside that HPA alone."""
    setting = _dialled(trial, asked)
    played = _Played(trial, service_of(trial, setting), ours.of(setting))
    beside = measures.change(played.test, 0, user.test, 0)
    was, now = user.both[0], played.both[0]
    entry = Entry(
        series=trial.name,
        at_cost=beside,
        at_risk=beside,
        seconds_above=float(played.test.above.sum()),
        reference_above=float(user.test.above.sum()),
        cost=1.0,  # no share of the gap to the oracle: nothing was tuned for it
        reference_cost=1.0,
        events=now.scale_events / max(was.scale_events, 1),
        reversals=now.reversals / max(was.reversals, 1),
    )
    return Row(policy, setting.words, *played.both), entry


def _hindsight(found: Sequence[Retuned], training: Played) -> list[Row]:
    """One row for each policy of SAFE, where some HPA was as safe."""
    return [
        Row(
            f"{hindsight.PREFIX}{policy.removeprefix('forecaster')}",
            f"{HPAS[one.place].words}: in hindsight the cheapest as safe as {policy}",
            one.figures,
            training.of(one.place),
        )
        for policy, one in zip(SAFE, found, strict=True)
        if one.place is not None and one.figures is not None
    ]


def _dialled(trial: Trial, asked: float) -> Setting:
    return Setting(trial.hpa.target, trial.hpa.stabilization_seconds, CALM_HOLD, 1 - asked, dialled=True)


def _dial(trial: Trial, ours: Floors) -> dict[float, float]:
    """Asked -> share of the test part in which the floors alone would not have carried the load."""
    out = {}
    for asked in DIAL:
        floors = ours.of(_dialled(trial, asked))
        assert floors is not None
        obeyed = ready_of(floors, trial.start_up)
        out[asked] = float((trial.load > trial.capacity * obeyed * (1 + 1e-9))[trial.cut_tick :].mean())
    return out


class _Played:
    """One policy over both parts."""

    def __init__(self, trial: Trial, service: Service, floors: IntArray | None) -> None:
        self.test = play(trial, [service], [floors], "test")
        self.both = self.test.of(0), play(trial, [service], [floors], "training").of(0)


def _rivals(trial: Trial) -> list[Row]:
    service = trial.service()
    offset, line = rivals.week_offset(trial), rivals.phpa_linear(trial)
    return [
        Row("week_offset", "maximum of 30 min a week ago, on the user's HPA", *_Played(trial, service, offset).both),
        Row("phpa_linear", "line through the last 6 syncs, on the user's HPA", *_Played(trial, service, line).both),
    ]


def _points(trial: Trial, ours: Floors, least: float) -> tuple[Point, ...]:
    out = []
    for policy, settings in (("hpa", HPAS), ("forecaster", FLOORS)):
        services = [service_of(trial, one) for one in settings]
        played = play(trial, services, [ours.of(one) for one in settings], "test")
        for one, upt, cost in zip(settings, played.upt().tolist(), played.cost().tolist(), strict=True):
            out.append(Point(policy, one.words, cost / least, upt))
    return tuple(out)
