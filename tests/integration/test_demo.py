"""`forecaster demo` as a process: it says where it is, answers soon, and ends in good order."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE = 60.0  # seconds


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "serving.cli", "demo", "--port", "0", "--no-browser", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture
def demo() -> Iterator[subprocess.Popen[str]]:
    process = start()
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


def address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
    assert found is not None
    return found[0]


def answered(url: str) -> Any:
    """The JSON of a 200, as soon as there is one that holds something."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                told = json.load(answer)
                if told.get("items") or told.get("services"):
                    return told
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
        time.sleep(0.05)
    raise AssertionError(f"{url} did not answer in {PATIENCE:.0f} s")


@pytest.mark.slow
def test_the_demo_says_where_it_is_and_answers(demo: subprocess.Popen[str]) -> None:
    url = address(demo)
    assert len(answered(f"{url}/api/v1/demo")["services"]) == 6
    items = answered(f"{url}/api/v1/workloads")["items"]
    assert len(items) == 6 and any(one["floor"] is not None for one in items)
    demo.send_signal(signal.SIGTERM)
    out, error = demo.communicate(timeout=PATIENCE)
    assert (demo.returncode, error) == (0, ""), out


@pytest.mark.slow
def test_the_demo_ends_by_itself_after_the_duration() -> None:
    process = start("--duration", "1s")
    out, error = process.communicate(timeout=PATIENCE)
    assert (process.returncode, error) == (0, "")
    assert "http://127.0.0.1:" in out
