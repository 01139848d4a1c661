"""Whether a real browser and what its tests need are there. Debian's Chromium; none is ever downloaded."""

from __future__ import annotations

import shutil
from pathlib import Path

from serving.page import assets

ROOT = Path(__file__).resolve().parents[3]
AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
ARGUMENTS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"]


def program() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")


def missing() -> str | None:
    """Why the browser tests cannot run; None where they can."""
    if program() is None:
        return "Chromium is not installed (Debian: apt-get install chromium)"
    if not assets.load().has_charts or not AXE.exists():
        return "uPlot and axe-core are not installed: make setup, with npm"
    return None
