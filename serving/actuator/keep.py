"""The actuator's own memory of users' values: one ConfigMap, an entry an HPA.

It is written before a field is taken over. Whoever replaces an HPA whole (KEDA, `kubectl replace`) wipes annotations;
this stays. The right to `get` and `patch` it is enough: it must exist, and its manifest says so.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from serving.actuator.kube import Kube
from serving.actuator.policy import Hold, read_owners, read_users_own, write_owners

LONGEST_KEY = 253  # of a ConfigMap; a longer "namespace/hpa" has its annotation alone


@dataclass(frozen=True, slots=True)
class Kept:
    """What is remembered of one HPA over restarts."""

    uid: str
    hold: Hold | None
    aside: str | None = None
    target: Hold | None = None  # of the CPU target, per cent
    raised: int | None = None  # to how much it was raised
    target_aside: str | None = None

    @property
    def empty(self) -> bool:
        return self.hold is None and self.aside is None and self.target is None and self.target_aside is None


class Keep:
    """The ConfigMap, and what it holds as far as we know. Safe to use from several threads."""

    def __init__(self, kube: Kube, namespace: str, name: str) -> None:
        self.namespace, self.name = namespace, name
        self.entries: dict[str, Kept] = {}  # "namespace/hpa" ->
        self.damaged: list[str] = []  # entries that could not be understood
        self._kube = kube
        self._lock = threading.Lock()

    def load(self) -> None:
        """Raises KubeError."""
        told = self._kube.get_config_map(self.namespace, self.name).get("data")
        self.entries, self.damaged = {}, []
        for name, text in (told if isinstance(told, dict) else {}).items():
            kept = read(str(text))
            if kept is None or name.count("_") != 1:
                self.damaged.append(str(name))
            else:
                self.entries[name.replace("_", "/")] = kept

    def hold_of(self, key: str, uid: str) -> Hold | None:
        kept = self.entries.get(key)
        return kept.hold if kept is not None and kept.uid == uid else None

    def of(self, key: str, uid: str) -> Kept:
        """What is known of this very object; an empty entry where nothing is."""
        kept = self.entries.get(key)
        return kept if kept is not None and kept.uid == uid else Kept(uid, None)

    def aside_of(self, key: str, uid: str) -> str | None:
        kept = self.entries.get(key)
        return kept.aside if kept is not None and kept.uid == uid else None

    def write(self, changes: Mapping[str, Kept | None], seen: Mapping[str, Kept | None] | None = None) -> None:
        """Adds, replaces, or (None) removes entries. Raises KubeError; then nothing has changed here.

        With `seen`: only those that are still as they were when the change was thought of.
        """
        with self._lock:
            wanted = {
                key: kept
                for key, kept in changes.items()
                if self.entries.get(key) != kept
                and len(key) <= LONGEST_KEY
                and (seen is None or self.entries.get(key) == seen.get(key))
            }
            if not wanted:
                return
            data = {key.replace("/", "_"): None if kept is None else write(kept) for key, kept in wanted.items()}
            self._kube.merge_config_map(self.namespace, self.name, data)
            for key, kept in wanted.items():
                if kept is None:
                    self.entries.pop(key, None)
                else:
                    self.entries[key] = kept


def write(kept: Kept) -> str:
    told: dict[str, Any] = {"uid": kept.uid}
    if kept.hold is not None:
        told |= {"userMinReplicas": kept.hold.users_own, "owners": write_owners(kept.hold.former)}
    if kept.aside is not None:
        told["aside"] = kept.aside
    if kept.target is not None:
        told |= {"userCpuTarget": kept.target.users_own, "metricsOwners": write_owners(kept.target.former)}
        if kept.raised is not None:
            told["cpuTarget"] = kept.raised
    if kept.target_aside is not None:
        told["targetAside"] = kept.target_aside
    return msgspec.json.encode(told).decode()


def read(text: str) -> Kept | None:
    """What `write` wrote; None where it is something else."""
    try:
        told = msgspec.json.decode(text)
        hold = _hold(told, "userMinReplicas", "owners")
        target = _hold(told, "userCpuTarget", "metricsOwners")
        return Kept(
            str(told["uid"]),
            hold,
            _text(told.get("aside")),
            target,
            None if target is None else read_users_own(str(told.get("cpuTarget"))),
            _text(told.get("targetAside")),
        )
    except (ValueError, msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _hold(told: Mapping[str, Any], value: str, owners: str) -> Hold | None:
    """Raises ValueError where there is one that nobody can read."""
    if value not in told:
        return None
    own, former = read_users_own(str(told[value])), read_owners(told[owners])
    if own is None or former is None:
        raise ValueError(f"{value} or {owners} is damaged")
    return Hold(own, former)
