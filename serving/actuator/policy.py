"""What the actuator does with one HPA: pure functions of (state, recommendation, HPA, now); nothing here writes.

The rules are those of docs/actuator.md. The floor is written only while a recommendation counts, its mode is `apply`,
and the HPA says nothing more cautious. `minReplicas` is taken over from a one-shot tool once, by force; never from an
owner that comes back or would be blocked. When recommendations end, the floor walks back to the user's own value and
the field is given back exactly. Who sets the field while it is ours has the last word: what stands is the user's.

Times are monotonic seconds of the actuator's own clock; ages of recommendations are measured where they are received
(serving/actuator/offers.py). The demo runs these same functions against a simulated HPA.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

MANAGER = "forecaster-actuator"
USERS_OWN = "forecaster.io/user-min-replicas"
OWNERS = "forecaster.io/min-replicas-owner"
MODE = "forecaster.io/mode"
NOBODY = "nobody"  # in OWNERS: no field manager held minReplicas before us

EDITS_WITHIN = 600.0  # seconds; a second edit by hand within them, and we step aside
MOST_REPLICAS = 2**31 - 1  # what the API can hold
OVERTAKEN = 30.0  # seconds; two passes of the HPA, in which it goes beyond our floor by itself or never
ABSURD = 10  # a floor of more than so many times maxReplicas is a fault, not a wish

# Field managers that write when a person or a pipeline runs them, and not again by themselves (Update entries only).
_ONE_SHOT = ("kubectl", "helm")


@dataclass(frozen=True, slots=True)
class Owner:
    """A field manager that holds `spec.minReplicas`."""

    manager: str
    operation: str  # "Apply" | "Update"
    api_version: str

    @property
    def one_shot(self) -> bool:
        """It wrote once and does not come back by itself, nor would it be blocked by our taking the field."""
        return self.operation == "Update" and (self.manager in _ONE_SHOT or self.manager.startswith("kubectl-"))

    def __str__(self) -> str:
        return f"{self.manager}/{self.operation}/{self.api_version}"


@dataclass(frozen=True, slots=True)
class CpuTarget:
    """`spec.metrics`, as far as a raised target (serving/actuator/target.py) needs it."""

    value: int | None = None  # averageUtilization of CPU, per cent; None: no metric asks for one
    owners: tuple[Owner, ...] = ()  # of spec.metrics, without us
    ours: bool = False  # an Apply entry of ours holds spec.metrics, maybe beside other owners
    marked: bool = False  # that entry is there at all
    users_own: str | None = None  # the annotations, as they stand
    former: str | None = None


@dataclass(frozen=True, slots=True)
class Hpa:
    """What the decision needs of one HorizontalPodAutoscaler, as last seen."""

    namespace: str
    name: str
    uid: str
    version: str  # resourceVersion
    min_replicas: int
    max_replicas: int
    owners: tuple[Owner, ...] = ()  # of spec.minReplicas, without us
    ours: bool = False  # our own Apply entry holds spec.minReplicas, maybe beside other owners
    marked: bool = False  # we own anything of it at all: an annotation, say
    users_own: str | None = None  # the annotations, as they stand
    former: str | None = None
    mode: str | None = None
    deleting: bool = False
    scaled_object: str | None = None  # of KEDA
    current_replicas: int | None = None
    desired_replicas: int | None = None  # as of its last pass
    grows_alone: bool = False  # its metrics work, and nothing but the defaults limits how fast it adds
    target_ratio: float | None = None  # of CPU utilization, else of another resource's; not for the actuator
    scale_target: str | None = None  # kind/name
    target: CpuTarget = CpuTarget()

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Offer:
    """A recommendation, as received."""

    namespace: str
    hpa: str
    hpa_uid: str | None
    floor: int | None
    mode: str
    expires_at: float  # monotonic seconds
    paused: bool = False
    reactive: int | None = None  # replicas that the load of this moment needs, at the HPA's target
    words: str = ""  # why, for people
    target: int | None = None  # CPU utilization, per cent; None: the user's own
    target_until: float = -math.inf  # monotonic seconds

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.hpa}"


@dataclass(frozen=True, slots=True)
class Hold:
    """That `minReplicas` is ours, and what is to be put back."""

    users_own: int
    former: tuple[Owner, ...]  # () nobody held it


@dataclass(frozen=True, slots=True)
class HpaState:
    """All that is remembered of one HPA."""

    uid: str
    hold: Hold | None = None
    good_until: float = -math.inf  # until when the last recommendation that counted counts
    walked_at: float = -math.inf  # the last step of a walk back
    edits: tuple[float, ...] = ()  # when others took the field from us, the recent ones
    overtaken_at: float | None = None  # since when a raise is withheld, for the HPA goes further by itself
    aside: str | None = None  # for whom we stepped aside, until the consent is renewed


@dataclass(frozen=True, slots=True)
class Rules:
    """How the floor walks back."""

    max_step_down: float = 0.2  # of the floor, at each step
    walk_every: float = 60.0  # seconds between steps


class Code(StrEnum):
    """Reasons of Kubernetes Events, in the API's way of writing."""

    FLOOR_RAISED = "FloorRaised"
    FLOOR_LOWERED = "FloorLowered"
    FLOOR_TAKEN = "FloorTaken"
    RESTORED = "Restored"
    WALKING_BACK = "WalkingBack"
    USER_EDIT = "UserEdit"
    STEPPED_ASIDE = "SteppedAside"
    OWNED_BY_OTHER = "OwnedByOther"
    HPA_INVALID = "HpaInvalid"
    UID_UNKNOWN = "UidUnknown"
    UID_DIFFERS = "UidDiffers"
    ABSURD_FLOOR = "AbsurdFloor"
    MODE_UNKNOWN = "ModeUnknown"
    MALFORMED = "Malformed"
    LIMIT_REACHED = "LimitReached"
    FORBIDDEN = "Forbidden"
    WRITE_FAILED = "WriteFailed"
    TARGET_RAISED = "TargetRaised"
    TARGET_RESTORED = "TargetRestored"
    TARGET_UNKNOWN = "TargetUnknown"


WARNINGS = frozenset(
    {
        Code.STEPPED_ASIDE,
        Code.OWNED_BY_OTHER,
        Code.HPA_INVALID,
        Code.UID_UNKNOWN,
        Code.UID_DIFFERS,
        Code.ABSURD_FLOOR,
        Code.MODE_UNKNOWN,
        Code.MALFORMED,
        Code.LIMIT_REACHED,
        Code.FORBIDDEN,
        Code.WRITE_FAILED,
        Code.TARGET_UNKNOWN,
    }
)


@dataclass(frozen=True, slots=True)
class Said:
    """Something that the user should know of."""

    code: Code
    note: str


# --- what can be done ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Nothing:
    """All is as it should be, or must stay as it is."""


@dataclass(frozen=True, slots=True)
class Take:
    """`minReplicas` becomes ours. `force`: it may be taken over from the owners that stand in the HPA now."""

    floor: int
    hold: Hold
    force: bool


@dataclass(frozen=True, slots=True)
class Step:
    """Another value for the field that is ours."""

    floor: int
    hold: Hold


@dataclass(frozen=True, slots=True)
class Restore:
    """The user's value, and the field, go back to where they came from."""

    hold: Hold


@dataclass(frozen=True, slots=True)
class LetGo:
    """The field is no longer ours: only our annotations are left to remove."""


Action = Nothing | Take | Step | Restore | LetGo


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with one HPA."""

    state: HpaState  # what is known now
    after: HpaState  # what is known once the action is done; an action that failed leaves `state`
    action: Action = Nothing()
    said: tuple[Said, ...] = ()


# --- the decision ----------------------------------------------------------------------------------------------------


def recognise(hpa: Hpa, kept: Hold | None = None) -> HpaState:
    """The state of an HPA that is seen for the first time: after a start, or because it was made anew.

    `kept` is what the actuator's own store says of this uid. The annotations count first, then the store; where both
    are gone, what stands in the HPA is the user's.
    """
    if not hpa.ours:
        return HpaState(hpa.uid)
    users_own = read_users_own(hpa.users_own)
    if users_own is not None:
        former = read_owners(hpa.former)
        if former is None:
            former = kept.former if kept is not None else ()
        return HpaState(hpa.uid, Hold(users_own, former))
    if kept is not None:
        return HpaState(hpa.uid, kept)
    return HpaState(hpa.uid, Hold(hpa.min_replicas, read_owners(hpa.former) or ()))


def decide(state: HpaState, offer: Offer | None, hpa: Hpa, now: float, rules: Rules) -> Verdict:
    """What to do with `hpa` at `now`. `state` must be of its uid (`recognise`)."""
    assert state.uid == hpa.uid, "the state of another object"
    said: list[Said] = []
    if hpa.deleting:
        return Verdict(state, state)
    if state.hold is None and hpa.ours and not hpa.owners:  # a write of ours whose answer never came
        state = replace(state, hold=recognise(hpa).hold)
    state = _edited(state, hpa, now, said)
    users_own = state.hold.users_own if state.hold is not None else hpa.min_replicas
    counts = counting(offer, hpa, now, said)
    consent = counts is not None and mode_of(counts, hpa, said) == "apply"
    if counts is not None:
        if consent:
            state = replace(state, good_until=counts.expires_at)
        else:  # consent that comes back is a new one
            state = replace(state, aside=None, edits=())
    if counts is not None and (not consent or counts.paused):
        return _verdict(state, _given_back(state, hpa, said), said, now)
    if counts is not None and counts.floor is not None:
        floor = min(max(counts.floor, users_own), hpa.max_replicas)
        state = _overtaken(state, counts, hpa, floor, now)
        if state.overtaken_at is not None and now - state.overtaken_at < OVERTAKEN:
            return _verdict(state, Nothing(), said, now)
        return _verdict(state, _towards(state, hpa, floor, said), said, now)
    if state.hold is None:
        return _verdict(state, _let_go(hpa), said, now)
    if counts is None and now < state.good_until:
        return _verdict(state, Nothing(), said, now)  # what was written rests on a recommendation that still counts
    return _verdict(state, _walk(state, hpa, now, rules, said), said, now)


def _verdict(state: HpaState, action: Action, said: list[Said], now: float) -> Verdict:
    after = state
    match action:
        case Take(hold=hold):
            after = replace(state, hold=hold, walked_at=-math.inf)
        case Step():
            walking = any(one.code is Code.WALKING_BACK for one in said)
            after = replace(state, walked_at=now if walking else -math.inf)
        case Restore() | LetGo():
            after = replace(state, hold=None, walked_at=-math.inf)
    return Verdict(state, after, action, tuple(said))


def _edited(state: HpaState, hpa: Hpa, now: float, said: list[Said]) -> HpaState:
    """Somebody set the field while it was ours: their value is the user's, and a second time we step aside.

    Also where another manager states the very value that we hold: he says so on purpose, and another value of ours
    would be refused.
    """
    if state.hold is None or (hpa.ours and not hpa.owners):
        return state
    who = ", ".join(owner.manager for owner in hpa.owners) or "somebody"
    edits = (*(at for at in state.edits if now - at < EDITS_WITHIN), now)
    said.append(Said(Code.USER_EDIT, f"{who} set minReplicas {hpa.min_replicas}: that is the user's value now"))
    aside = None
    if len(edits) > 1:
        aside = who
        minutes = f"{EDITS_WITHIN / 60:.0f} minutes"
        said.append(
            Said(Code.STEPPED_ASIDE, f"{who} set minReplicas twice within {minutes}: left alone until mode is set anew")
        )
    return replace(state, hold=None, edits=edits, aside=aside, walked_at=-math.inf)


def counting(offer: Offer | None, hpa: Hpa, now: float, said: list[Said]) -> Offer | None:
    """The recommendation, if it counts for this object now."""
    if offer is None or now >= offer.expires_at:
        return None
    if offer.hpa_uid is None:
        said.append(Said(Code.UID_UNKNOWN, "the recommendation names no uid: let the service read HPAs"))
        return None
    if offer.hpa_uid != hpa.uid:
        said.append(Said(Code.UID_DIFFERS, f"the recommendation is for uid {offer.hpa_uid}, this HPA is {hpa.uid}"))
        return None
    if offer.floor is not None and offer.floor > ABSURD * hpa.max_replicas:
        said.append(
            Said(Code.ABSURD_FLOOR, f"a floor of {offer.floor} with maxReplicas {hpa.max_replicas} is not believed")
        )
        return None
    return offer


CAUTION = ("observe", "recommend", "apply")


def mode_of(offer: Offer, hpa: Hpa, said: list[Said]) -> str:
    """The most cautious of configuration and annotation; a word that is not a mode is `observe`."""
    modes = []
    for mode, where in ((offer.mode, "the recommendation"), (hpa.mode, f"annotation {MODE}")):
        if mode is None:
            continue
        if mode not in CAUTION:
            said.append(Said(Code.MODE_UNKNOWN, f"{where}: {mode!r} is no mode: write {', '.join(CAUTION)}"))
            mode = "observe"
        modes.append(mode)
    return min(modes, key=CAUTION.index)


def _overtaken(state: HpaState, offer: Offer, hpa: Hpa, floor: int, now: float) -> HpaState:
    """Notes since when the HPA by itself would go beyond a floor that is about to be raised.

    The controller jumps to a minReplicas above what runs without a look at its metrics in that pass. Where these would
    have taken it further (at most twice what runs, at least 4, in one pass), the floor would hold it up by 15 s: the
    one way in which a floor can be worse than none. What the HPA then has, our floor no longer jumps to.
    """
    # desiredReplicas is always told; currentReplicas is left out of the JSON where it is 0.
    known = hpa.desired_replicas is not None
    runs = max(hpa.current_replicas or 0, hpa.desired_replicas or 0)
    alone = min(_reactive(offer, hpa), max(2 * runs, 4), hpa.max_replicas)
    if known and hpa.grows_alone and hpa.min_replicas < floor and runs < floor < alone:
        return state if state.overtaken_at is not None else replace(state, overtaken_at=now)
    return state if state.overtaken_at is None else replace(state, overtaken_at=None)


def _reactive(offer: Offer, hpa: Hpa) -> int:
    """What the HPA wants by itself: the service says so at the user's own target, and a raised one wants less."""
    reactive, own, stands = offer.reactive or 0, read_users_own(hpa.target.users_own), hpa.target.value
    return math.ceil(reactive * own / stands) if hpa.target.ours and own is not None and stands else reactive


def _towards(state: HpaState, hpa: Hpa, floor: int, said: list[Said]) -> Action:
    """A floor that counts."""
    if state.hold is not None:
        if floor == hpa.min_replicas:
            return Nothing()
        up = floor > hpa.min_replicas
        said.append(Said(Code.FLOOR_RAISED if up else Code.FLOOR_LOWERED, f"minReplicas {hpa.min_replicas} → {floor}"))
        return Step(floor, state.hold)
    if floor <= hpa.min_replicas:
        return _let_go(hpa)
    refusal = why_not(hpa) if state.aside is None else Said(Code.OWNED_BY_OTHER, f"stepped aside for {state.aside}")
    if refusal is not None:
        said.append(refusal)
        return _let_go(hpa)
    said.append(Said(Code.FLOOR_TAKEN, f"minReplicas {hpa.min_replicas} → {floor}; the user's own is kept"))
    return Take(floor, Hold(hpa.min_replicas, hpa.owners), force=bool(hpa.owners))


def _given_back(state: HpaState, hpa: Hpa, said: list[Said]) -> Action:
    if state.hold is None:
        return _let_go(hpa)
    said.append(Said(Code.RESTORED, f"minReplicas {hpa.min_replicas} → {state.hold.users_own}, the user's own"))
    return Restore(state.hold)


def _walk(state: HpaState, hpa: Hpa, now: float, rules: Rules, said: list[Said]) -> Action:
    """No recommendation counts any more: one step a minute, and at the end the field goes back."""
    assert state.hold is not None
    own = min(state.hold.users_own, hpa.max_replicas)
    if hpa.min_replicas <= own:
        return _given_back(state, hpa, said)
    if now - state.walked_at < rules.walk_every:
        return Nothing()
    floor = max(own, hpa.min_replicas - max(1, math.floor(hpa.min_replicas * rules.max_step_down)))
    said.append(Said(Code.WALKING_BACK, f"no recommendation counts: minReplicas {hpa.min_replicas} → {floor}"))
    return Step(floor, state.hold)


def _let_go(hpa: Hpa) -> Action:
    """Not our field (or one that its owner states, too: then it stays as it is when we drop it)."""
    return LetGo() if hpa.marked else Nothing()


def why_not(hpa: Hpa) -> Said | None:
    """Why `minReplicas` of this HPA must not be taken over; None where it may."""
    return ownership_refusal(hpa, "minReplicas", hpa.owners)


def ownership_refusal(hpa: Hpa, field: str, owners: Sequence[Owner]) -> Said | None:
    """Why a field of this HPA must not be taken over from its owners; None where it may."""
    if hpa.scaled_object is not None:
        note = f"made by KEDA for ScaledObject {hpa.scaled_object}: use `forecaster generate keda`"
        return Said(Code.OWNED_BY_OTHER, note)
    if hpa.min_replicas == 0:
        return Said(Code.HPA_INVALID, "minReplicas is 0 (scale to zero): a floor wakes nothing, and would forbid it")
    for owner in owners:
        if not owner.one_shot:
            return Said(Code.OWNED_BY_OTHER, f"{owner.manager} owns {field}: {_advice(owner, field)}")
    return None


def _advice(owner: Owner, field: str) -> str:
    path = field.removeprefix("spec.")
    if owner.manager.startswith("argocd"):
        return f"let Argo CD ignore /spec/{path} (ignoreDifferences with RespectIgnoreDifferences), or use a metric"
    if owner.operation == "Apply":
        return f"leave {path} out of its manifest, or use the external metric"
    return f"it would set it again: take {path} out of what it manages, or use the external metric"


# --- all HPAs together -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Raise:
    """A wish for more replicas. Replicas."""

    key: str
    stands: int  # minReplicas now
    wanted: int
    current: int | None = None  # replicas that run


def urgency(one: Raise) -> tuple[int, str]:
    """Sorts the biggest deficit first: wanted beyond what runs, or beyond what stands where that is not known."""
    return (-(one.wanted - (one.stands if one.current is None else one.current)), one.key)


def allot(raises: Sequence[Raise], added: int, most: int) -> Mapping[str, int]:
    """Which floor each raise gets, so that replicas added over all HPAs stay within `most`; `added` are there already.

    What is left goes to the biggest deficit first; a raise that gets only a part keeps that part.
    """
    left = max(0, most - added)
    given: dict[str, int] = {}
    for one in sorted(raises, key=urgency):
        extra = min(left, max(0, one.wanted - one.stands))
        given[one.key] = one.stands + extra
        left -= extra
    return given


# --- what stands in the annotations ----------------------------------------------------------------------------------


def marks_of(hold: Hold) -> dict[str, str]:
    return {USERS_OWN: str(hold.users_own), OWNERS: write_owners(hold.former)}


def read_users_own(text: str | None) -> int | None:
    """A whole number that minReplicas can have; None where there is none."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 10:
        return None
    value = int(text)
    return value if value <= MOST_REPLICAS else None


def write_owners(owners: Sequence[Owner]) -> str:
    return ", ".join(str(owner) for owner in owners) or NOBODY


def read_owners(text: str | None) -> tuple[Owner, ...] | None:
    """What `write_owners` wrote; None where it is something else."""
    if text is None:
        return None
    if text == NOBODY:
        return ()
    found = []
    for part in text.split(", "):
        pieces = part.rsplit("/", 3)
        if len(pieces) != 4 or pieces[1] not in ("Apply", "Update"):
            return None
        manager, operation, group, version = pieces
        found.append(Owner(manager, operation, f"{group}/{version}"))
    return tuple(found)
