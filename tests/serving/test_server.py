"""The service as a process and its server under rude callers: signals, ports, slow headers, reload."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from forecaster.errors import InputError
from serving import server
from serving.dated import Dated
from serving.health import Health
from serving.limits import guarded_protocol
from serving.store import Store

ROOT = Path(__file__).resolve().parents[2]

SERVICE = """
import logging, sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace as Settings
from serving import server
from tests.serving.publications import FakeCycle

logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")

class Cycle(FakeCycle):
    def restore(self, states): print("restored", *sorted(states), flush=True)
    def reconfigure(self, specs): pass
    def take_model(self, forecasters, measured=None): pass

class History:
    def dump(self, changed_only=False): return []
    def restore(self, chunks): list(chunks)

class Source:
    def __init__(self, config): pass
    stats = None
    def close(self): pass

import forecaster.prometheus
forecaster.prometheus.PrometheusSource = Source
folder = Path(sys.argv[1])
config = Settings(store=str(folder / "f.db"), prometheus=None, interval=timedelta(seconds=float(sys.argv[2])),
                  history=timedelta(days=28), step=timedelta(minutes=1), workloads=(1,),
                  model="bundled", mlflow=Settings(cache=folder / "models", poll_interval=timedelta(minutes=1)),
                  kubernetes=Settings(read_hpas="never", kubeconfig=None),
                  alarms=Settings(webhooks=(), alertmanager=None),
                  server=Settings(host="127.0.0.1", port=0, external_url=None, tls_cert_file=None, tls_key_file=None))
listening = server.bind("127.0.0.1", 0)
print(listening.getsockname()[1], flush=True)
def make(config, source):
    return Cycle(history=History())

service = server.Service(config, folder / "forecaster.yaml", "all", None, None, make)
service.open()
try:
    service.run(listening)
finally:
    service.close()
"""


@contextlib.contextmanager
def running(folder: Path, interval: float = 0.05) -> Iterator[tuple[subprocess.Popen[str], int]]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SERVICE, str(folder), str(interval)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        process.stdout.readline()  # "restored …"
        yield process, port
    finally:
        process.kill()
        process.communicate()


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def ready(port: int) -> None:
    """Asks until the first cycle has ended; the kernel accepts before the server runs, so there is no refusal."""
    while get(port, "/readyz")[0] != 200:
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_service_in_good_order(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path) as (process, port):
        ready(port)
        etag = json.dumps(get(port, "/api/v1/recommendations")[0])
        assert etag == "200"
        process.send_signal(number)
        _, said = process.communicate(timeout=10)
        assert process.returncode == 0, said
        assert "stopped" in said and "Traceback" not in said
    store = Store(str(tmp_path / "f.db"))
    found, _ = store.load_states({"decision": 1, "calibration": 3})
    assert set(found) == {"decision", "calibration"}
    assert store.decisions("checkout")


@pytest.mark.slow
def test_a_long_poll_does_not_delay_the_end(tmp_path: Path) -> None:
    with running(tmp_path) as (process, port):
        ready(port)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/api/v1/recommendations")
        response = connection.getresponse()
        response.read()
        etag = response.headers["ETag"].replace("/", "%2F").replace('"', "%22")
        connection.request("GET", f"/api/v1/recommendations?after={etag}")
        ready(port)  # another connection: the poll has been read by now
        process.send_signal(signal.SIGTERM)
        assert connection.getresponse().status in (200, 304)
        process.communicate(timeout=10)
        assert process.returncode == 0
        connection.close()


@pytest.mark.slow
def test_a_killed_service_goes_on_where_it_was(tmp_path: Path) -> None:
    for turn in range(4):
        with running(tmp_path) as (process, port):
            ready(port)
            assert get(port, "/api/v1/recommendations")[0] == 200
            process.kill()
            process.wait()
        store = Store(str(tmp_path / "f.db"))
        found, said = store.load_states({"decision": 1, "calibration": 3})
        assert said == [] and set(found) == {"decision", "calibration"}, turn
        store.close()


@pytest.mark.slow
def test_a_stopped_process_publishes_nothing_stale_when_it_goes_on(tmp_path: Path) -> None:
    with running(tmp_path, interval=0.2) as (process, port):
        ready(port)
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        process.send_signal(signal.SIGCONT)
        assert get(port, "/healthz")[0] == 200
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
        assert process.returncode == 0


# --- start -----------------------------------------------------------------------------------------------------------


def test_a_taken_port_is_said_in_one_line() -> None:
    with server.bind("127.0.0.1", 0) as taken, pytest.raises(InputError, match=r"is taken on 127\.0\.0\.1"):
        server.bind("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.77"])
def test_an_address_that_is_not_ours_is_said_in_one_line(host: str) -> None:
    with pytest.raises(InputError, match="server") as caught:
        server.bind(host, 0)
    assert "\n" not in str(caught.value)


def test_a_damaged_store_is_refused_unless_it_may_be_set_aside(tmp_path: Path) -> None:
    file = tmp_path / "f.db"
    file.write_bytes(b"not a database at all, but long enough to be looked at" * 100)
    with pytest.raises(InputError, match="integrity_check"):
        server.open_store(str(file))
    store = server.open_store(str(file), set_aside_damaged=True)
    assert store.degraded is None and len(list(tmp_path.glob("f.db.damaged-*"))) == 1


def test_bad_certificate_files_are_said_in_one_line(tmp_path: Path) -> None:
    bad = tmp_path / "cert.pem"
    bad.write_text("no certificate")
    server.check_tls(None, None)
    for certificate, key in ((bad, bad), (tmp_path / "none", None), (None, bad)):
        with pytest.raises(InputError, match="tls") as caught:
            server.check_tls(certificate, key)
        assert "\n" not in str(caught.value)


# --- reload ----------------------------------------------------------------------------------------------------------


def test_a_changed_file_is_applied_once_and_a_bad_one_keeps_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, applied, health = tmp_path / "forecaster.yaml", [], Health(started_at=0.0)
    file.write_text("one")

    def load(path: Path, env: Any) -> str:
        text = path.read_text()
        if "bad" in text:
            raise InputError(f"{path.name}:1:1: {text}")
        return text

    config = type(sys)("forecaster.config")
    config.load_config = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "forecaster.config", config)
    reload = server.Reload(file, applied.append, health)
    reload()
    reload()
    assert applied == []
    file.write_text("two")
    reload()
    reload()
    assert applied == ["two"]
    file.write_text("bad")
    reload()
    reload()
    assert applied == ["two"]
    assert health.config_error == "forecaster.yaml:1:1: bad"
    assert dict(health.config_reloads) == {"applied": 1, "refused": 1}
    file.write_text("three")
    reload()
    assert applied == ["two", "three"] and health.config_error is None


# --- the time of an answer -------------------------------------------------------------------------------------------


def test_an_answer_is_dated_when_it_begins() -> None:
    """A long poll asks at one time and is answered at another; the age of a recommendation rests on the latter."""
    now = [1_000_000_000.0]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        now[0] += 25.0  # waited
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {}

    asyncio.run(Dated(app, lambda: now[0])({"type": "http"}, receive, send))
    assert dict(sent[0]["headers"])[b"date"] == b"Sun, 09 Sep 2001 01:47:05 GMT"


def test_the_server_dates_each_answer_once() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    listening = server.bind("127.0.0.1", 0)

    async def asked() -> http.client.HTTPResponse:
        until = asyncio.Event()
        running = asyncio.create_task(server.answer(app, listening, lambda: None, until=until))
        found = await asyncio.to_thread(answer_of, listening.getsockname()[1])
        until.set()
        await running
        return found

    assert len(asyncio.run(asked()).headers.get_all("date") or ()) == 1
    listening.close()


def answer_of(port: int) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/")
    found = connection.getresponse()
    found.read()
    connection.close()
    return found


# --- rude callers ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def served(**limits: Any) -> Iterator[int]:
    """A bare application behind the guarded protocol, in a thread."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    listening = server.bind("127.0.0.1", 0)
    config = uvicorn.Config(app, http=guarded_protocol(**limits), ws="none", lifespan="off", log_config=None)
    running = server._server(config)
    thread = threading.Thread(target=lambda: asyncio.run(running.serve(sockets=[listening])))
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        running.should_exit = True
        thread.join()
        listening.close()


def test_headers_that_drip_are_cut_off() -> None:
    with served(header_seconds=0.05) as port, socket.create_connection(("127.0.0.1", port), timeout=30) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        with contextlib.suppress(ConnectionResetError):
            assert slow.recv(100) == b""


def test_headers_without_end_are_cut_off() -> None:
    endless = b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 20_000
    with served(header_bytes=10_000) as port, socket.create_connection(("127.0.0.1", port), timeout=30) as greedy:
        greedy.sendall(endless)
        with contextlib.suppress(ConnectionResetError):
            assert greedy.recv(100) == b""


def test_a_connection_too_many_is_closed_and_the_others_go_on() -> None:
    with served(most_connections=2) as port:
        first = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        first.request("GET", "/")
        assert first.getresponse().read() == b"ok"
        second = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        second.request("GET", "/")
        assert second.getresponse().read() == b"ok"
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            get(port, "/")
        first.request("GET", "/")
        assert first.getresponse().read() == b"ok"
        first.close()
        second.close()


def test_a_quick_caller_is_not_cut_off_while_its_connection_rests() -> None:
    with served(header_seconds=0.05) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for _ in range(3):
            connection.request("GET", "/")
            assert connection.getresponse().read() == b"ok"
        connection.close()
