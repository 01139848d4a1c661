"""`forecaster actuate`, wired: credentials, threads, signals, exit codes."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import msgspec

from forecaster.errors import InputError
from serving.actuator import access, restoring
from serving.actuator.keep import Keep
from serving.actuator.kube import Kube, KubeError
from serving.actuator.leader import Leadership
from serving.actuator.offers import Service
from serving.actuator.run import Actuator, Process, Settings
from serving.actuator.status import Status
from serving.actuator.telling import Teller
from serving.client import read_token

NAME = "forecaster-actuator"  # of the Lease and of the ConfigMap
SCHEMA_VERSION = 1
_log = logging.getLogger("forecaster.actuator")


@dataclass(frozen=True, slots=True)
class Cluster:
    """How to reach the API server, and where our own objects are."""

    kubeconfig: str | None = None
    context: str | None = None
    own_namespace: str | None = None  # of Lease and ConfigMap; None: that of the credentials

    def access(self, environ: Mapping[str, str]) -> tuple[access.Access, str]:
        """Credentials, and the namespace of our own objects. Raises InputError."""
        where = access.find(environ, None if self.kubeconfig is None else Path(self.kubeconfig), self.context)
        return where, self.own_namespace or where.namespace


def duration(option: str, text: str) -> timedelta:
    """`90s`, `5m`, `2h`. Raises InputError."""
    found = re.fullmatch(r"(\d{1,6})(s|m|h)", text)
    if found is None:
        raise InputError(f"{option}: {text!r} is not a duration: write 90s, 5m or 2h")
    return timedelta(seconds=int(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]])


@dataclass(frozen=True, slots=True)
class Asked:
    """All options of a run; of plain types, so that they can be handed to another process."""

    url: str
    token_file: str | None
    cluster: Cluster
    settings: Settings
    host: str
    port: int  # -1: no metrics
    verbose: bool

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()

    @classmethod
    def of_json(cls, text: str) -> Asked:
        return msgspec.json.decode(text, type=cls)

    @property
    def tokens(self) -> Path | None:
        return None if self.token_file is None else Path(self.token_file)


def become(asked: Asked, environ: Mapping[str, str]) -> NoReturn:
    """Replaces this process by the actuator's. Raises InputError for what can be seen to be wrong before."""
    read_token(asked.tokens, environ)
    asked.cluster.access(environ)
    sys.stdout.flush()
    sys.stderr.flush()
    # -P: nothing is imported from the working directory.
    command = [sys.executable, "-P", "-m", "serving.actuator", asked.to_json()]
    os.execv(sys.executable, command)  # noqa: S606 - ourselves


def actuate(asked: Asked, environ: Mapping[str, str]) -> int:
    """Runs until SIGTERM (0) or until the lease is lost (1). Raises InputError."""
    settings, url, host, port = asked.settings, asked.url, asked.host, asked.port
    read_token(asked.tokens, environ)  # a file that is missing is said at once
    where, own = asked.cluster.access(environ)
    me = f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
    kube = Kube(where)
    leadership = Leadership(kube, own, NAME, me) if settings.apply else None
    if leadership is not None:
        kube.may_write = leadership.may_write
    teller = Teller(kube if settings.apply else None, me)
    service = Service(url, lambda: read_token(asked.tokens, environ))
    actuator = Actuator(kube, Keep(kube, own, NAME), teller, settings, kube.may_write)
    process = Process(actuator, kube, service, leadership)
    status = None
    if port >= 0:
        try:
            status = Status(host, port, actuator, kube, teller, leadership)
        except OSError as error:
            raise InputError(f"--metrics-port: {host}:{port} cannot be used: {error.strerror}") from None
        _log.info("metrics at http://%s:%d/metrics", host, status.port)
    mode = "writing (--apply)" if settings.apply else "dry run: nothing is written without --apply"
    _log.info("actuator %s at %s (%s), recommendations from %s; %s", me, where.server, where.where, url, mode)
    _say_rights(kube, settings)
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: process.stop())
    try:
        return process.run()
    finally:
        if status is not None:
            status.close()


def _say_rights(kube: Kube, settings: Settings) -> None:
    """What is missing is said at the start, not first when it is needed."""
    verbs = ("list", "watch", "get", *(("patch",) if settings.apply else ()))
    try:
        for scope in settings.scopes:
            missing = [
                verb for verb in verbs if not kube.may(verb, "autoscaling", "horizontalpodautoscalers", scope or "")
            ]
            if missing:
                place = f"namespace {scope}" if scope else "all namespaces"
                _log.warning("no right to %s HPAs in %s: see deploy/base/actuator-rbac.yaml", ", ".join(missing), place)
    except KubeError as error:
        _log.warning("rights could not be asked for: %s", error)


def restore(
    cluster: Cluster,
    scopes: tuple[str | None, ...],
    if_stale: bool,
    only_targets: bool,
    stale_after: timedelta,
    as_json: bool,
    environ: Mapping[str, str],
) -> tuple[int, str]:
    """(exit code, what to print). Raises ClusterError."""
    where, own = cluster.access(environ)
    kube = Kube(where)
    if if_stale and restoring.alive(kube, own, NAME, stale_after):
        text = "an actuator is alive: nothing is restored"
        return 0, json.dumps({"schemaVersion": SCHEMA_VERSION, "alive": True, "restored": []}) if as_json else text
    leadership = Leadership(kube, own, NAME, f"restore_{socket.gethostname()}_{os.getpid()}")
    kube.may_write = leadership.may_write
    done = restoring.restore_all(kube, Keep(kube, own, NAME), leadership, scopes, only_targets=only_targets)
    failed = [one for one in done if one.error and one.error != restoring.DELETED]
    if as_json:
        told = [
            {
                "hpa": one.key,
                "before": one.before,
                "after": one.after,
                "targetBefore": one.target_before,
                "targetAfter": one.target_after,
                "error": one.error or None,
            }
            for one in done
        ]
        return int(bool(failed)), json.dumps({"schemaVersion": SCHEMA_VERSION, "alive": False, "restored": told})
    lines = [f"{one.key}: {one.error or _given_back(one)}" for one in done]
    lines.append(f"{len(done) - len(failed)} given back, {len(failed)} failed" if done else "no HPA is held by us")
    return int(bool(failed)), "\n".join(lines)


def _given_back(one: restoring.Restored) -> str:
    parts = [f"minReplicas {one.before} → {one.after}"]
    if one.target_before is not None:
        parts.append(f"CPU target {one.target_before} % → {one.target_after} %")
    return ", ".join(parts)
