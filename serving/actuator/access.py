"""Where the API server is and who we are there: the pod's service account, or a kubeconfig.

Tokens in files are read again every minute and after a 401, since the kubelet rotates them. Nothing here is ever
printed: the text of an error names the file and what is wrong with it, never what it holds.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from forecaster.errors import InputError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
REREAD_SECONDS = 60.0
PLUGIN_SECONDS = 60.0
TRUSTING_NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # for plain HTTP: the system's authorities take 10 MiB


class Bearer:
    """A token that may change. `read` gives (token, for how many seconds it surely counts). For several threads."""

    def __init__(
        self,
        read: Callable[[], tuple[str | None, float]],
        monotonic: Callable[[], float] = time.monotonic,
        changes: bool = False,
    ) -> None:
        """`changes`: reading again may bring another one."""
        self.changes = changes
        self._read, self._monotonic = read, monotonic
        self._token: str | None = None
        self._until = float("-inf")
        self._lock = threading.Lock()  # a plugin runs once, not once for each thread

    def __call__(self) -> str | None:
        """Raises InputError."""
        with self._lock:
            if self._monotonic() >= self._until:
                token, seconds = self._read()
                self._token, self._until = token, self._monotonic() + seconds
            return self._token

    def refused(self) -> None:
        """The server did not take it: read it anew at the next use."""
        self._until = float("-inf")


@dataclass(frozen=True, slots=True)
class Access:
    """One API server and our credentials there."""

    server: str
    where: str  # what told us, for people
    namespace: str = "default"
    verify: ssl.SSLContext | bool = True
    bearer: Bearer = field(default_factory=lambda: Bearer(lambda: (None, float("inf"))), repr=False)
    server_name: str | None = None  # of the certificate, where it is not the host's
    proxy: str | None = field(default=None, repr=False)  # it may hold a password


def find(
    environ: Mapping[str, str],
    kubeconfig: Path | None = None,
    context: str | None = None,
    service_account: Path = SERVICE_ACCOUNT,
) -> Access:
    """--kubeconfig, else KUBECONFIG, else the pod's service account, else ~/.kube/config. Raises InputError."""
    if kubeconfig is not None:
        return from_kubeconfig(kubeconfig, context)
    if environ.get("KUBECONFIG"):
        files = [Path(one) for one in environ["KUBECONFIG"].split(os.pathsep) if one]
        if len(files) != 1:
            raise InputError("KUBECONFIG names several files: name one with --kubeconfig")
        return from_kubeconfig(files[0], context)
    if environ.get("KUBERNETES_SERVICE_HOST") and context is None:
        return in_cluster(environ, service_account)
    home = Path(environ.get("HOME", "/")) / ".kube" / "config"
    if home.exists():
        return from_kubeconfig(home, context)
    raise InputError("no API server is known: run in a pod with a service account, or give --kubeconfig FILE")


def in_a_pod(environ: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> bool:
    """Whether there is a service account to use."""
    return bool(environ.get("KUBERNETES_SERVICE_HOST")) and (folder / "token").exists()


def in_cluster(environ: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> Access:
    """The pod's service account. Raises InputError."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    token = folder / "token"
    if not host:
        raise InputError("this is no pod: KUBERNETES_SERVICE_HOST is not set: give a kubeconfig")
    if not token.exists():
        raise InputError(f"{token} is missing: set automountServiceAccountToken, or give --kubeconfig FILE")
    namespace = folder / "namespace"
    return Access(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        where="the pod's service account",
        namespace=namespace.read_text().strip() if namespace.exists() else "default",
        verify=_trusting(_file(folder / "ca.crt")),
        bearer=Bearer(_from_file(token), changes=True),
    )


def from_kubeconfig(path: Path, context: str | None = None) -> Access:
    """One context of a kubeconfig: tokens, client certificates, exec plugins, a CA of its own. Raises InputError."""
    told = _parsed(path)
    name = context or told.get("current-context") or ""
    if not name:
        raise InputError(f"{path}: it has no current-context: name one with --context")
    chosen = _named(path, told, "contexts", "context", name)
    cluster = _named(path, told, "clusters", "cluster", str(chosen.get("cluster", "")))
    user = _named(path, told, "users", "user", str(chosen.get("user", ""))) if chosen.get("user") else {}
    server = str(cluster.get("server", ""))
    if not server.startswith(("https://", "http://")):
        raise InputError(f"{path}: clusters: server {server!r} is not a URL")
    if server.startswith("http://"):
        verify = TRUSTING_NOBODY
    elif cluster.get("insecure-skip-tls-verify"):
        verify = ssl.create_default_context()
        verify.check_hostname, verify.verify_mode = False, ssl.CERT_NONE
    else:
        authority = _held(path, cluster, "certificate-authority")
        verify = _trusting(authority) if authority is not None else ssl.create_default_context()
    if server.startswith("https://"):
        _add_certificate(path, user, verify)
    return Access(
        server=server.rstrip("/"),
        where=f"context {name} of {path}",
        namespace=str(chosen.get("namespace") or "default"),
        verify=verify,
        bearer=_bearer(path, user),
        server_name=str(cluster["tls-server-name"]) if cluster.get("tls-server-name") else None,
        proxy=str(cluster["proxy-url"]) if cluster.get("proxy-url") else None,
    )


def _parsed(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        words = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(f"{path} cannot be read: {words}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark is not None else ""
        raise InputError(f"{path} is not YAML{place}: {getattr(error, 'problem', 'it cannot be read')}") from None
    if not isinstance(told, dict):
        raise InputError(f"{path} is not a kubeconfig")
    return told


def _named(path: Path, told: Mapping[str, Any], kind: str, key: str, name: str) -> Mapping[str, Any]:
    entries = told.get(kind)
    for one in entries if isinstance(entries, list) else []:
        if isinstance(one, dict) and one.get("name") == name:
            found = one.get(key)
            return found if isinstance(found, dict) else {}
    raise InputError(f"{path}: {kind} has no {name!r}")


def _held(path: Path, entry: Mapping[str, Any], key: str) -> bytes | None:
    """What `key`-data holds in base64, or the file that `key` names, relative to the kubeconfig."""
    data = entry.get(f"{key}-data")
    if data:
        try:
            return base64.b64decode(str(data), validate=True)
        except (binascii.Error, ValueError):
            raise InputError(f"{path}: {key}-data is not base64") from None
    name = entry.get(key)
    return None if not name else _file(path.parent / str(name))


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def _trusting(authority: bytes) -> ssl.SSLContext:
    """Trusts these authorities and no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=authority.decode("ascii", errors="ignore"))  # a comment may be anything
    except (ssl.SSLError, ValueError):
        raise InputError("the certificate authority of the API server is not PEM") from None
    return context


def _add_certificate(path: Path, user: Mapping[str, Any], context: ssl.SSLContext) -> None:
    certificate, key = _held(path, user, "client-certificate"), _held(path, user, "client-key")
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        raise InputError(f"{path}: a client certificate needs both client-certificate and client-key")
    # ssl reads keys from files only: these exist for a moment, and for us alone.
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder) / "certificate", Path(folder) / "key"
        for place, content in ((first, certificate), (second, key)):
            place.touch(mode=0o600)
            place.write_bytes(content)
        try:
            context.load_cert_chain(first, second, password="")
        except (ssl.SSLError, OSError):
            raise InputError(f"{path}: the client certificate and its key do not fit, or are not PEM") from None


def _bearer(path: Path, user: Mapping[str, Any]) -> Bearer:
    if user.get("auth-provider"):
        raise InputError(f"{path}: auth-provider is no longer supported by Kubernetes: use an exec plugin")
    if any(user.get(key) for key in ("as", "as-uid", "as-groups", "as-user-extra")):
        raise InputError(f"{path}: acting as somebody else (as: …) is not supported: give that user's credentials")
    if user.get("tokenFile"):
        return Bearer(_from_file(path.parent / str(user["tokenFile"])), changes=True)
    if user.get("token"):
        token = str(user["token"]).strip()
        if not _sendable(token):
            raise InputError(f"{path}: users: what stands as token is none")
        return Bearer(lambda: (token, float("inf")))
    if user.get("exec"):
        if not isinstance(user["exec"], dict) or not user["exec"].get("command"):
            raise InputError(f"{path}: users: exec has no command")
        return Bearer(_from_plugin(path, user["exec"]), changes=True)
    return Bearer(lambda: (None, float("inf")))


def _from_file(path: Path) -> Callable[[], tuple[str | None, float]]:
    def read() -> tuple[str | None, float]:
        token = _file(path).decode(errors="replace").strip()
        if not _sendable(token):
            raise InputError(f"{path} does not hold a token")
        return token, REREAD_SECONDS

    return read


def _sendable(token: str) -> bool:
    """Whether it can stand in a header: the HTTP library would put one that cannot into the text of its error."""
    return bool(token) and token.isascii() and token.isprintable() and " " not in token


def _from_plugin(path: Path, told: Mapping[str, Any]) -> Callable[[], tuple[str | None, float]]:
    """A client-go credential plugin: it prints an ExecCredential."""
    program, given, extra = str(told["command"]), told.get("args"), told.get("env")
    if os.sep in program:
        program = str(path.parent / program)  # as kubectl: relative to the kubeconfig
    command = [program, *[str(one) for one in (given if isinstance(given, list) else [])]]
    more = {
        str(one.get("name")): str(one.get("value") or "")
        for one in (extra if isinstance(extra, list) else [])
        if isinstance(one, dict) and one.get("name")
    }
    ask = {"apiVersion": told.get("apiVersion"), "kind": "ExecCredential", "spec": {"interactive": False}}

    def read() -> tuple[str | None, float]:
        environ = {**os.environ, **more, "KUBERNETES_EXEC_INFO": msgspec.json.encode(ask).decode()}
        try:
            done = subprocess.run(  # noqa: S603 - the user's own kubeconfig names it
                command, env=environ, capture_output=True, timeout=PLUGIN_SECONDS, check=True, stdin=subprocess.DEVNULL
            )
            status = msgspec.json.decode(done.stdout)["status"]
            token, until = status.get("token"), status.get("expirationTimestamp")
            left = REREAD_SECONDS
            if until is not None:
                left = max(1.0, (datetime.fromisoformat(until) - datetime.now(UTC)).total_seconds() - REREAD_SECONDS)
        except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError, AttributeError):
            # ValueError: also what is no JSON, and a time that is none
            raise InputError(f"{path}: exec plugin {command[0]!r} gave no credential: run it by hand") from None
        if not isinstance(token, str) or not _sendable(token):
            raise InputError(f"{path}: exec plugin {command[0]!r} gave no token (certificates are not supported)")
        return token, left

    return read
