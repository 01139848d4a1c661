"""Fetches what the web page takes from npm, by lock file, and copies it beside our own files; `make setup` calls it.

Needs nothing but Python's own library, for the wheel's build calls it, too. Without npm one line says what is missing.
`--shipped` leaves out what only the tests need.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WEB = ROOT / "web"
VENDOR = ROOT / "serving" / "static" / "vendor"
COPIED = {  # below node_modules -> below vendor
    "uplot/dist/uPlot.iife.min.js": "uPlot.iife.min.js",
    "uplot/dist/uPlot.min.css": "uPlot.min.css",
    "uplot/LICENSE": "uPlot.LICENSE.txt",
}
TESTS_NEED = "axe-core/axe.min.js"
STAMP = "lock.sha256"
WITHOUT = "the page has no charts, its data tables stand in"


def fetch(shipped_only: bool = False) -> str | None:
    """Copies the files where the lock file has changed. Returns a line where that is not possible, else None."""
    lock = WEB / "package-lock.json"
    modules = WEB / "node_modules"
    if not lock.exists():  # a wheel that is built from a source archive finds the files in it
        return None if (VENDOR / STAMP).exists() else f"web/package-lock.json is missing: {WITHOUT}"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    stamp = VENDOR / STAMP
    if stamp.exists() and stamp.read_text() == digest and (shipped_only or (modules / TESTS_NEED).exists()):
        return None
    npm = shutil.which("npm")
    if npm is None:
        return f"npm is not installed: {WITHOUT}. Install npm (Debian: apt-get install npm), then: make setup"
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", *(["--omit=dev"] if shipped_only else [])]
    done = subprocess.run(command, cwd=WEB, capture_output=True, text=True, check=False, env={**os.environ})
    if done.returncode != 0:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        return f"npm ci failed ({why}): {WITHOUT}"
    VENDOR.mkdir(parents=True, exist_ok=True)
    for source, target in COPIED.items():
        shutil.copyfile(modules / source, VENDOR / target)
    stamp.write_text(digest)
    return None


def main() -> int:
    said = fetch("--shipped" in sys.argv[1:])
    if said is not None:
        print(said, file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
