"""HPAs for the cycle, from the API server: uid, bounds, annotations, and the user's own minimum while we hold it.

kube-state-metrics tells `spec.minReplicas` as it stands; once the actuator has raised it, that is our own floor, and a
decision that took it for the user's would never come down again. Reads by a watch, in a thread; `facts` never waits.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence

from forecaster.config_tree import KubernetesConfig
from forecaster.domain import HpaFacts, Mode
from serving.actuator import access, target, watching
from serving.actuator.kube import Kube
from serving.actuator.policy import Hpa, Said, recognise, why_not

logger = logging.getLogger("forecaster.hpas")


def reader_of(settings: KubernetesConfig, environ: Mapping[str, str]) -> ApiHpas | None:
    """As configured; None where HPAs are not to be read. Raises InputError where they must and cannot be."""
    where = access_of(settings, environ)
    return None if where is None else ApiHpas(Kube(where), settings.namespaces)


def access_of(settings: KubernetesConfig, environ: Mapping[str, str]) -> access.Access | None:
    """To the API server, as configured; None where HPAs are not to be read. Raises InputError as `reader_of`."""
    given = settings.kubeconfig is not None
    if settings.read_hpas == "never":
        return None
    if settings.read_hpas == "auto" and not given and not access.in_a_pod(environ):
        return None
    # KUBECONFIG of the environment is not taken: a laptop's current context need not be what its Prometheus watches.
    if settings.kubeconfig is not None:
        return access.from_kubeconfig(settings.kubeconfig, settings.context)
    return access.in_cluster(environ)


class ApiHpas:
    """What the API server says of HPAs. Seen facts stay while it does not answer: a uid does not age."""

    def __init__(self, kube: Kube, namespaces: Sequence[str] = ()) -> None:
        self._kube, self._scopes = kube, tuple(namespaces) or (None,)
        self._facts: dict[str, HpaFacts] = {}
        self._refusals: dict[str, str] = {}
        self._target_refusals: dict[str, str] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._listed: set[str | None] = set()
        self._first = threading.Event()
        self._trouble: dict[str | None, str] = {}

    @property
    def trouble(self) -> str:
        """Why HPAs cannot be read now; empty where they can."""
        return "; ".join(self._trouble.values())

    def start(self) -> None:
        for scope in self._scopes:
            watch = watching.Watch(self._kube, scope, self._see, self._stop.wait)
            threading.Thread(target=watch.run, name=f"hpas {scope or 'all'}", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Until all have been read once, or cannot be read; False where the time is over before."""
        return self._first.wait(seconds)

    def close(self) -> None:
        self._stop.set()
        self._kube.close()

    def facts(self) -> Mapping[str, HpaFacts]:
        with self._lock:
            return dict(self._facts)

    def refusals(self) -> Mapping[str, str]:
        """ "namespace/hpa" -> why the actuator would leave its minReplicas alone."""
        with self._lock:
            return dict(self._refusals)

    def target_refusals(self) -> Mapping[str, str]:
        """ "namespace/hpa" -> why the actuator would leave its CPU target alone."""
        with self._lock:
            return dict(self._target_refusals)

    def _know(self, hpa: Hpa) -> None:
        self._facts[hpa.key] = facts_of(hpa)
        _note(self._refusals, hpa.key, None if hpa.ours else why_not(hpa))
        _note(self._target_refusals, hpa.key, None if hpa.target.ours else target.why_not(hpa))

    def _forget(self, key: str) -> None:
        self._facts.pop(key, None)
        self._refusals.pop(key, None)
        self._target_refusals.pop(key, None)

    def _see(self, sight: watching.Sight) -> None:
        with self._lock:
            match sight:
                case watching.Listed(scope=scope, found=found, invalid=invalid):
                    if self._trouble.pop(scope, None) is not None:
                        logger.info("HPAs are read again")
                    for text in invalid:
                        logger.warning("an HPA is left out: %s", text)
                    there = {hpa.key for hpa in found}
                    for key in [key for key in self._facts if key not in there]:
                        if scope is None or key.partition("/")[0] == scope:
                            self._forget(key)
                    for hpa in found:
                        self._know(hpa)
                    self._listed.add(scope)
                case watching.Changed(hpa=hpa):
                    self._know(hpa)
                case watching.Deleted(hpa=hpa):
                    self._forget(hpa.key)
                case watching.Trouble(scope=scope, text=text):
                    if self._trouble.get(scope) != text:
                        logger.warning("HPAs of %s cannot be read: %s", scope or "all namespaces", text)
                    self._trouble[scope] = text
            if self._listed | self._trouble.keys() >= set(self._scopes):
                self._first.set()


def _note(refusals: dict[str, str], key: str, refusal: Said | None) -> None:
    if refusal is None:
        refusals.pop(key, None)
    else:
        refusals[key] = refusal.note


def facts_of(hpa: Hpa) -> HpaFacts:
    """What a decision needs of an HPA."""
    hold = recognise(hpa).hold
    users_own = hpa.min_replicas
    if hold is not None:
        # Where somebody wiped the annotation only the actuator's store knows the user's value. One is the lowest that
        # it can be; the actuator, which knows better, never writes less than the user's own.
        users_own = hold.users_own if hpa.users_own is not None else 1
    own = target.users_own(hpa)
    return HpaFacts(
        uid=hpa.uid,
        min_replicas=hpa.min_replicas,
        users_own=users_own,
        max_replicas=hpa.max_replicas,
        current_replicas=hpa.current_replicas,
        target_ratio=hpa.target_ratio if own is None else own / 100.0,
        cpu_target=own,
        scale_target=hpa.scale_target,
        mode=_mode(hpa.mode),
        owner=", ".join(owner.manager for owner in hpa.owners) or ("forecaster-actuator" if hpa.ours else "nobody"),
    )


def _mode(text: str | None) -> Mode | None:
    """By annotation; a word that is no mode is the most cautious one."""
    if text is None:
        return None
    try:
        return Mode(text)
    except ValueError:
        return Mode.OBSERVE
