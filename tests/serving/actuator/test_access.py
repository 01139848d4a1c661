"""Credentials: kubeconfigs of every kind, the pod's service account, TLS; and that no token is ever told."""

from __future__ import annotations

import base64
import http.server
import json
import shutil
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from forecaster.errors import InputError
from serving.actuator.access import REREAD_SECONDS, Access, Bearer, find, from_kubeconfig, in_cluster
from serving.actuator.kube import Kube, KubeError

CANARY = "canary-token"


def kubeconfig(folder: Path, user: dict[str, Any], cluster: dict[str, Any] | None = None, **more: Any) -> Path:
    told = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "main",
        "contexts": [{"name": "main", "context": {"cluster": "c", "user": "u", "namespace": "ours"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:6443/", **(cluster or {})}}],
        "users": [{"name": "u", "user": user}],
        **more,
    }
    path = folder / "config"
    path.write_text(yaml.safe_dump(told))
    return path


def test_a_token_in_the_file(tmp_path: Path) -> None:
    found = from_kubeconfig(kubeconfig(tmp_path, {"token": f"{CANARY}\n"}))
    assert (found.server, found.namespace) == ("https://127.0.0.1:6443", "ours")
    assert found.bearer() == CANARY
    assert not found.bearer.changes
    assert CANARY not in repr(found) + str(found)


def test_a_token_file_is_relative_to_the_kubeconfig_and_read_again(tmp_path: Path) -> None:
    (tmp_path / "tok").write_text(f"{CANARY}\n")
    found = from_kubeconfig(kubeconfig(tmp_path, {"tokenFile": "tok", "token": "other"}))
    assert found.bearer() == CANARY
    (tmp_path / "tok").write_text("second")
    assert found.bearer() == CANARY  # for a minute
    found.bearer.refused()
    assert found.bearer() == "second"


def test_a_token_counts_for_a_minute_of_the_given_clock() -> None:
    now, reads = [0.0], []

    def read() -> tuple[str, float]:
        reads.append(now[0])
        return str(len(reads)), REREAD_SECONDS

    bearer = Bearer(read, lambda: now[0])
    assert (bearer(), bearer()) == ("1", "1")
    now[0] = 59.9
    assert bearer() == "1"
    now[0] = 60.0
    assert bearer() == "2"
    bearer.refused()
    assert bearer() == "3"


def plugin(folder: Path, text: str) -> dict[str, Any]:
    file = folder / "plugin"
    file.write_text(f"#!{sys.executable}\n{text}")
    file.chmod(stat.S_IRWXU)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "./plugin", "args": ["a", 7],
                     "env": [{"name": "WORD", "value": "said"}]}}  # fmt: skip


def test_an_exec_plugin_gives_the_token(tmp_path: Path) -> None:
    text = (
        "import json, os, sys\n"
        "asked = json.loads(os.environ['KUBERNETES_EXEC_INFO'])\n"
        "assert asked['kind'] == 'ExecCredential' and sys.argv[1:] == ['a', '7'] and os.environ['WORD'] == 'said'\n"
        f"status = {{'token': '{CANARY}', 'expirationTimestamp': '2999-01-01T00:00:00Z'}}\n"
        "print(json.dumps({'status': status}))\n"
    )
    found = from_kubeconfig(kubeconfig(tmp_path, plugin(tmp_path, text)))
    assert found.bearer() == CANARY
    assert found.bearer.changes


@pytest.mark.parametrize(
    "printed",
    [
        "no json",
        "[]",
        "{}",
        '{"status": 7}',
        '{"status": {}}',
        '{"status": {"token": 7}}',
        '{"status": {"token": "canary-token\\nX: y"}}',
        '{"status": {"token": "canary-token", "expirationTimestamp": "soon"}}',
        '{"status": {"token": "canary-token", "expirationTimestamp": "2999-01-01T00:00:00"}}',
        '{"status": {"token": "canary-token", "expirationTimestamp": 7}}',
    ],
)
def test_an_exec_plugin_that_gives_none_is_one_line_without_the_token(tmp_path: Path, printed: str) -> None:
    found = from_kubeconfig(kubeconfig(tmp_path, plugin(tmp_path, f"print({printed!r})")))
    with pytest.raises(InputError, match="exec plugin") as error:
        found.bearer()
    assert "\n" not in str(error.value)
    assert CANARY not in str(error.value)
    with pytest.raises(KubeError):  # and no other exception out of a request
        Kube(found).get_hpa("shop", "checkout")


def test_a_plugin_that_fails_or_is_missing(tmp_path: Path) -> None:
    found = from_kubeconfig(kubeconfig(tmp_path, plugin(tmp_path, f"raise SystemExit('{CANARY}')")))
    with pytest.raises(InputError, match="run it by hand") as error:
        found.bearer()
    assert CANARY not in str(error.value)
    found = from_kubeconfig(kubeconfig(tmp_path, {"exec": {"command": "no-such-plugin-anywhere"}}))
    with pytest.raises(InputError, match="no-such-plugin-anywhere"):
        found.bearer()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"current-context": ""}, "current-context"),
        ({"current-context": "other"}, "contexts has no 'other'"),
        ({"clusters": []}, "clusters has no 'c'"),
        ({"users": 7}, "users has no 'u'"),
        ({"clusters": [{"name": "c", "cluster": {}}]}, "not a URL"),
        ({"users": [{"name": "u", "user": {"auth-provider": {"name": "gcp"}}}]}, "exec plugin"),
        ({"users": [{"name": "u", "user": {"exec": "aws"}}]}, "exec has no command"),
        ({"users": [{"name": "u", "user": {"exec": {"args": []}}}]}, "exec has no command"),
        ({"users": [{"name": "u", "user": {"token": "canary-token\nX: y"}}]}, "token"),
        ({"users": [{"name": "u", "user": {"token": "canary-token-ä"}}]}, "token"),
        ({"users": [{"name": "u", "user": {"token": "canary-token", "as": "root"}}]}, "not supported"),
        ({"users": [{"name": "u", "user": {"client-certificate-data": "AAAA"}}]}, "both"),
        ({"users": [{"name": "u", "user": {"client-certificate-data": "%", "client-key-data": "AAAA"}}]}, "base64"),
        ({"users": [{"name": "u", "user": {"client-certificate-data": "AAAA", "client-key-data": "AAAA"}}]}, "PEM"),
        ({"users": [{"name": "u", "user": {"client-certificate": "gone", "client-key": "gone"}}]}, "cannot be read"),
    ],
)
def test_what_is_missing_or_wrong_is_said_in_one_clear_line(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        from_kubeconfig(kubeconfig(tmp_path, {"token": CANARY}, **change))
    assert "\n" not in str(error.value)
    assert CANARY not in str(error.value)


@pytest.mark.parametrize(("text", "words"), [("a: [", "is not YAML at line"), ("- a", "not a kubeconfig"), ("", "not")])
def test_a_file_that_is_no_kubeconfig(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        from_kubeconfig(path)
    with pytest.raises(InputError, match="cannot be read"):
        from_kubeconfig(tmp_path / "gone")


def test_where_credentials_are_looked_for(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, {"token": CANARY})
    assert find({"KUBECONFIG": str(path)}).bearer() == CANARY
    assert find({"KUBECONFIG": "elsewhere"}, path).bearer() == CANARY
    with pytest.raises(InputError, match="several files"):
        find({"KUBECONFIG": f"{path}:{path}"})
    (tmp_path / ".kube").mkdir()
    path.rename(tmp_path / ".kube" / "config")
    assert find({"HOME": str(tmp_path)}).bearer() == CANARY
    with pytest.raises(InputError, match="no API server is known"):
        find({"HOME": str(tmp_path / "other")})


# --- in a pod ---------------------------------------------------------------------------------------------------------


def test_in_a_pod(tmp_path: Path, authority: Authority) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443", "HOME": "/nonexistent"}
    with pytest.raises(InputError, match="automountServiceAccountToken"):
        find(environ, service_account=tmp_path)
    (tmp_path / "token").write_text(CANARY)
    with pytest.raises(InputError, match=r"ca\.crt cannot be read"):
        in_cluster(environ, tmp_path)
    (tmp_path / "ca.crt").write_bytes(authority.certificate.read_bytes() + "# Prüfstelle\n".encode())
    found = find(environ, service_account=tmp_path)
    assert (found.server, found.namespace) == ("https://[fd00::1]:6443", "default")
    (tmp_path / "namespace").write_text("forecaster\n")
    found = in_cluster({**environ, "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, tmp_path)
    assert (found.server, found.namespace) == ("https://10.0.0.1:6443", "forecaster")
    assert found.bearer() == CANARY
    assert found.bearer.changes
    assert CANARY not in repr(found)
    (tmp_path / "token").write_text("")
    found.bearer.refused()
    with pytest.raises(InputError, match="does not hold a token"):
        found.bearer()
    (tmp_path / "ca.crt").write_text("nothing")
    with pytest.raises(InputError, match="not PEM"):
        in_cluster(environ, tmp_path)


# --- TLS --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Authority:
    certificate: Path
    other: Path  # of somebody else
    server: Path  # certificate and key
    client: Path
    client_key: Path
    locked_key: Path  # with a password


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority of the test's own, a server's certificate for `api.test`, and a client's."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj")
    for name in ("ca", "other"):
        openssl("req", "-x509", *new, f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.crt", "-days", "2")
    for name in ("api.test", "actuator"):
        openssl("req", *new, f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        (folder / "ext").write_text(f"subjectAltName=DNS:{name}\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-extfile", "ext", "-out", f"{name}.crt")  # fmt: skip
    openssl("pkcs8", "-topk8", "-in", "actuator.key", "-out", "locked.key", "-passout", "pass:secret")
    (folder / "server.pem").write_text((folder / "api.test.crt").read_text() + (folder / "api.test.key").read_text())
    return Authority(
        certificate=folder / "ca.crt",
        other=folder / "other.crt",
        server=folder / "server.pem",
        client=folder / "actuator.crt",
        client_key=folder / "actuator.key",
        locked_key=folder / "locked.key",
    )


@dataclass
class TlsServer:
    url: str
    seen: list[tuple[str, str]]  # (name of the client's certificate, Authorization)


@pytest.fixture
def tls(authority: Authority) -> Iterator[TlsServer]:
    """Answers everything with an empty object, over TLS; a client's certificate is welcome."""
    seen: list[tuple[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told: Any = self.connection.getpeercert()
            name = dict(pair for part in (told or {}).get("subject", ()) for pair in part).get("commonName", "")
            seen.append((name, self.headers.get("Authorization", "")))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.server)
    context.load_verify_locations(authority.certificate)
    context.verify_mode = ssl.CERT_OPTIONAL
    server = Server(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield TlsServer(f"https://127.0.0.1:{server.server_address[1]}", seen)
    server.shutdown()
    server.server_close()


def asked(access: Access) -> None:
    kube = Kube(access)
    try:
        kube.get_hpa("shop", "checkout")
    finally:
        kube.close()


def encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


@pytest.mark.parametrize("how", ["data", "files"])
def test_a_client_certificate_and_an_authority_of_its_own(
    tmp_path: Path, authority: Authority, tls: TlsServer, how: str
) -> None:
    if how == "data":
        user = {"client-certificate-data": encoded(authority.client), "client-key-data": encoded(authority.client_key)}
        cluster = {"certificate-authority-data": encoded(authority.certificate)}
    else:
        shutil.copy(authority.client, tmp_path / "me.crt")
        user = {"client-certificate": "me.crt", "client-key": str(authority.client_key)}
        cluster = {"certificate-authority": str(authority.certificate)}
    asked(from_kubeconfig(kubeconfig(tmp_path, user, {"server": tls.url, "tls-server-name": "api.test", **cluster})))
    assert tls.seen == [("actuator", "")]


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(tmp_path: Path, authority: Authority) -> None:
    user = {"client-certificate": str(authority.client), "client-key": str(authority.locked_key)}
    with pytest.raises(InputError, match="the client certificate and its key"):
        from_kubeconfig(kubeconfig(tmp_path, user))


@pytest.mark.parametrize(
    "cluster",
    [{"tls-server-name": "api.test"}, {}, {"tls-server-name": "other.test"}],
    ids=["another authority", "another authority, no name", "both"],
)
def test_a_server_that_the_authority_does_not_know_gets_no_token(
    tmp_path: Path, authority: Authority, tls: TlsServer, cluster: dict[str, str]
) -> None:
    told = {"server": tls.url, "certificate-authority": str(authority.other), **cluster}
    with pytest.raises(KubeError, match="certificate verify failed") as error:
        asked(from_kubeconfig(kubeconfig(tmp_path, {"token": CANARY}, told)))
    assert CANARY not in str(error.value)
    assert not tls.seen


def test_a_server_of_another_name_gets_no_token(tmp_path: Path, authority: Authority, tls: TlsServer) -> None:
    told = {"server": tls.url, "certificate-authority": str(authority.certificate)}
    with pytest.raises(KubeError, match=r"(?i)ip address mismatch|hostname mismatch|not valid for"):
        asked(from_kubeconfig(kubeconfig(tmp_path, {"token": CANARY}, told)))
    assert not tls.seen


def test_verification_ends_only_where_the_kubeconfig_says_so(tmp_path: Path, tls: TlsServer) -> None:
    with pytest.raises(KubeError, match="certificate verify failed"):
        asked(from_kubeconfig(kubeconfig(tmp_path, {"token": CANARY}, {"server": tls.url})))
    told = {"server": tls.url, "insecure-skip-tls-verify": True}
    asked(from_kubeconfig(kubeconfig(tmp_path, {"token": CANARY}, told)))
    assert tls.seen == [("", f"Bearer {CANARY}")]


def test_a_refusal_never_holds_the_token() -> None:
    """What the server echoes is its own affair; what we add is not."""
    access = Access("http://127.0.0.1:9", "a test", bearer=Bearer(lambda: (CANARY, 60.0)))
    with pytest.raises(KubeError) as error:
        asked(access)
    assert CANARY not in str(error.value) + repr(error.value) + json.dumps(error.value.args)
