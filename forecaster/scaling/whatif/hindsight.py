"""The HPA retuned in hindsight: the cheapest one that was as safe in the test part as a policy of ours.

Nobody could have chosen it, so it is no rival: it says what that safety costs at the least with an HPA alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecaster.scaling.whatif.play import Figures, play
from forecaster.scaling.whatif.settings import HPAS, service_of
from forecaster.scaling.whatif.trial import Trial

PREFIX = "hindsight_hpa"


@dataclass(frozen=True, slots=True)
class Retuned:
    """Of one policy in one test part. None: no HPA alone was as safe, at any target and stabilization that is tried."""

    place: int | None  # in HPAS
    figures: Figures | None
    replica_hours: float  # of the policy that it stands beside

    @property
    def change(self) -> float | None:
        """Replica-hours of the policy beside the retuned HPA's: 0.02 is 2 % dearer."""
        return None if self.figures is None else self.replica_hours / self.figures.replica_hours - 1.0


def retuned(trial: Trial, ours: Sequence[Figures]) -> list[Retuned]:
    """For each of `ours`, figures of the test part, the cheapest HPA that was above capacity for no longer."""
    played = play(trial, [service_of(trial, one) for one in HPAS], [None] * len(HPAS), "test")
    time, cost = played.upt(), played.cost()
    out = []
    for one in ours:
        safe = np.flatnonzero(time <= one.time_above_capacity * (1 + 1e-12))
        place = int(safe[np.argmin(cost[safe])]) if len(safe) else None
        out.append(Retuned(place, None if place is None else played.of(place), one.replica_hours))
    return out


@dataclass(frozen=True, slots=True)
class Beside:
    """What one policy cost beside the HPA retuned in hindsight, over many series."""

    policy: str
    series: int
    unreachable: int  # series in which no HPA alone was as safe: there the policy is cheaper than any
    no_dearer: int  # series, those among them
    cost_median: float | None  # over the others


def beside(policy: str, found: Sequence[Retuned]) -> Beside:
    changes = [one.change for one in found if one.change is not None]
    unreachable = len(found) - len(changes)
    return Beside(
        policy,
        len(found),
        unreachable,
        unreachable + sum(change <= 0 for change in changes),
        float(np.median(changes)) if changes else None,
    )
