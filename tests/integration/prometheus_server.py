"""A real Prometheus (Debian's package) as an ordinary process on a free loopback port, filled with history."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

PATIENCE = 60.0  # seconds until it must be ready, or gone

Point = tuple[int, float]  # Unix seconds, value


def missing() -> str | None:
    """Why there can be no real Prometheus here; None where there can."""
    lacking = [name for name in ("prometheus", "promtool") if shutil.which(name) is None]
    return f"{' and '.join(lacking)} not installed (apt-get install prometheus)" if lacking else None


def openmetrics(series: Iterable[tuple[str, Mapping[str, str], Iterable[Point]]], kind: str = "gauge") -> Iterable[str]:
    """Lines of an OpenMetrics file: series of one metric next to each other, samples in order of time."""
    known: str | None = None
    for name, labels, points in series:
        if name != known:
            yield f"# TYPE {name} {kind}\n"
            known = name
        text = ",".join(f"{key}={json.dumps(value)}" for key, value in labels.items())
        head = f"{name}{{{text}}}" if text else name
        for at, value in points:
            yield f"{head} {value!r} {at}\n"
    yield "# EOF\n"


class PrometheusServer:
    """One server with its data in `folder`; starts with `with`, stops for good at its end."""

    def __init__(
        self,
        folder: Path,
        scrape: Sequence[Mapping[str, object]] = (),
        flags: Sequence[str] = (),
        retention: str = "400d",
    ) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.port = _free_port()
        self.flags = tuple(flags)
        self.retention = retention
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "prometheus.log"
        self.data.mkdir(parents=True, exist_ok=True)
        self.scrape(scrape, reload=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> PrometheusServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def backfill(self, series: Iterable[tuple[str, Mapping[str, str], Iterable[Point]]], kind: str = "gauge") -> None:
        """Writes history as finished blocks; a server that runs sees it after a restart at the latest."""
        text, blocks = self.folder / "history.om", self.folder / "blocks"
        with text.open("w") as file:
            file.writelines(openmetrics(series, kind))
        blocks.mkdir(exist_ok=True)
        subprocess.run(
            ["promtool", "tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=168h", text, blocks],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        for block in blocks.iterdir():
            block.rename(self.data / block.name)
        text.unlink()

    def scrape(self, jobs: Sequence[Mapping[str, object]], reload: bool = True) -> None:
        """What it scrapes: entries of `scrape_configs` (JSON is YAML too)."""
        config = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": list(jobs)}
        (self.folder / "prometheus.yml").write_text(json.dumps(config))
        if reload and self.running:
            self._post("/-/reload")

    def start(self) -> None:
        """Starts it and returns when it is ready."""
        assert not self.running
        command = [
            "prometheus",
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.data}",
            f"--storage.tsdb.retention.time={self.retention}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--web.enable-lifecycle",
            "--web.enable-admin-api",
            *self.flags,
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "GOMAXPROCS": "2"})
        deadline = time.monotonic() + PATIENCE
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Prometheus did not become ready:\n{self._log.read_text()[-2000:]}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=0.02)

    def stop(self) -> None:
        """As an administrator stops it."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """As the OOM killer stops it."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def drop(self, selector: str) -> None:
        """Deletes series for all time."""
        self._post(f"/api/v1/admin/tsdb/delete_series?match[]={urllib.request.quote(selector)}")

    def cpu_seconds(self) -> float:
        """CPU time that the process has used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _post(self, path: str) -> None:
        request = urllib.request.Request(self.url + path, method="POST")
        with urllib.request.urlopen(request, timeout=10):
            pass

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(how)
        self._process.wait(timeout=PATIENCE)
        self._process = None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
