"""The README's first command, as a newcomer runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.prometheus


def test_the_quick_start_reaches_recommendations_and_their_scrape(tmp_path: Path) -> None:
    command = [sys.executable, "tools/quickstart.py", "--once", "--days", "3", "--folder", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("shop/checkout", "shop/search", "shop/payments", "ml/inference"):
        line = next(line for line in done.stdout.splitlines() if line.startswith(f"▸ {name}: floor"))
        assert "None" not in line
    assert "Running. Look at" in done.stdout
    log = (tmp_path / "run" / "forecaster.log").read_text()
    assert "Traceback" not in log and " ERROR " not in log
