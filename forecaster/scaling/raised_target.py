"""When the CPU target of an HPA may be raised: only while everything speaks for it, and not before that has lasted.

Experimental (DESIGN 6). A floor buys safety and cannot save; head-room is saved by a higher target, which outlives
whoever wrote it. So any doubt, however small, takes it back at once, and it comes again only after a hold without one.
Pure: one moment, what is known of it in, a target or none out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from forecaster.domain import HpaFacts, ScaleSpec
from forecaster.reasons import CALM, Reason

MOST = 0.9  # share of the request
USUAL = 0.8  # where nobody says another: the HPA tolerates a tenth more, and so acts at 88 %
MOST_LOAD = 0.9  # share of what the ready replicas carry
VALIDITY = timedelta(minutes=5)  # of a raised target; a longer validity of the floor does not prolong it


@dataclass(frozen=True, slots=True)
class Moment:
    """What one decision knows when its floor stands."""

    floor: int | None  # as issued
    proactive: int | None  # what the forecast asks for; None: there is none that counts
    load: float  # newest
    capacity: float | None  # load at which one replica is full
    reasons: Sequence[Reason]  # all that the decision says


def wanted(spec: ScaleSpec, facts: HpaFacts | None) -> int | None:
    """The target asked for, per cent; None where none is, or where it would not raise the user's own."""
    if spec.raised_target_ratio is None or facts is None or facts.cpu_target is None:
        return None
    asked = math.floor(round(100 * min(spec.raised_target_ratio, MOST), 6))
    return asked if asked > facts.cpu_target else None


def calm(moment: Moment, facts: HpaFacts | None) -> bool:
    """The forecast is in use, its floor is in force, data are fresh, skill is measured, and nothing is near full."""
    if moment.floor is None or moment.proactive is None or moment.floor < moment.proactive:
        return False  # head-room is replaced by the forecast, not given away
    if any(reason.code not in CALM for reason in moment.reasons):
        return False
    ready = None if facts is None else facts.ready_replicas
    if ready is None or moment.capacity is None or not math.isfinite(moment.load):
        return False
    return 0 <= moment.load <= MOST_LOAD * moment.capacity * ready
