"""The HPAs of the demo's second future, and the actuator's decisions about them.

The decisions are those of `serving/actuator/policy.py`; only the API server is simulated: an HPA made by kubectl, whose
`minReplicas` is the user's until the actuator takes it. Times are simulated seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from forecaster.domain import HpaFacts, Recommendation
from forecaster.reasons import ReasonCode
from serving.actuator.policy import (
    OWNERS,
    USERS_OWN,
    Hpa,
    HpaState,
    LetGo,
    Offer,
    Owner,
    Restore,
    Rules,
    Said,
    Step,
    Take,
    decide,
    marks_of,
    recognise,
)
from serving.demo.services import NAMESPACE, SERVICES
from serving.hpa_reader import facts_of

KUBECTL = Owner("kubectl-client-side-apply", "Update", "autoscaling/v2")


@dataclass(slots=True, eq=False)
class SimulatedHpas:
    """One HPA for each service, and what the actuator remembers of it."""

    hpas: dict[str, Hpa]
    states: dict[str, HpaState]
    rules: Rules
    said: dict[str, Said]  # service -> the last that was said of it

    @classmethod
    def of_services(cls) -> SimulatedHpas:
        hpas = {
            one.name: Hpa(
                namespace=NAMESPACE,
                name=one.name,
                uid=f"uid-{one.name}",
                version="1",
                min_replicas=one.min_replicas,
                max_replicas=one.max_replicas,
                owners=(KUBECTL,),
            )
            for one in SERVICES
        }
        return cls(hpas, {name: recognise(hpa) for name, hpa in hpas.items()}, Rules(), {})

    @property
    def floors(self) -> dict[str, int]:
        """`minReplicas` as it stands in each HPA."""
        return {name: hpa.min_replicas for name, hpa in self.hpas.items()}

    def facts(self) -> Mapping[str, HpaFacts]:
        """What the service reads of them at the API server."""
        return {hpa.key: facts_of(hpa) for hpa in self.hpas.values()}

    def obey(self, recommendations: Sequence[Recommendation], now: float, replicas: Mapping[str, int]) -> None:
        """One pass of the actuator at `now` (Unix seconds of the simulation); `replicas` are what the HPAs have."""
        offers = {one.hpa: self._offer(one) for one in recommendations if one.hpa in self.hpas}
        for name, known in self.hpas.items():
            hpa = replace(known, current_replicas=replicas[name], desired_replicas=replicas[name], grows_alone=True)
            verdict = decide(self.states[name], offers.get(name), hpa, now, self.rules)
            self.hpas[name] = applied(hpa, verdict.action)
            self.states[name] = verdict.after
            if verdict.said:
                self.said[name] = verdict.said[-1]

    def _offer(self, one: Recommendation) -> Offer:
        return Offer(
            namespace=one.namespace,
            hpa=one.hpa,
            hpa_uid=one.hpa_uid,
            floor=one.floor,
            mode=one.mode.value,
            expires_at=one.valid_until.timestamp(),
            reactive=one.reactive,
            paused=any(reason.code is ReasonCode.PAUSED for reason in one.reasons),
            words=one.bound_by,
        )


def applied(hpa: Hpa, action: object) -> Hpa:
    """The HPA as the API server holds it once the actuator's write has succeeded."""
    version = str(int(hpa.version) + 1)
    match action:
        case Take(floor=floor, hold=hold) | Step(floor=floor, hold=hold):
            marks = marks_of(hold)
            return replace(
                hpa,
                version=version,
                min_replicas=floor,
                owners=(),
                ours=True,
                marked=True,
                users_own=marks[USERS_OWN],
                former=marks[OWNERS],
            )
        case Restore(hold=hold):
            return replace(
                hpa,
                version=version,
                min_replicas=min(hold.users_own, hpa.max_replicas),
                owners=hold.former,
                ours=False,
                marked=False,
                users_own=None,
                former=None,
            )
        case LetGo():
            return replace(hpa, version=version, ours=False, marked=False, users_own=None, former=None)
        case _:
            return hpa
