"""The files that pages load: own styles and modules, and uPlot where it was installed.

All of them stand below one address that holds a hash over all contents, so that a browser may keep them for ever and
modules that import each other always fit. Read once, compressed once.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "static"
UPLOT_JS, UPLOT_CSS = "vendor/uPlot.iife.min.js", "vendor/uPlot.min.css"
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
MISSING = (
    "The charts are missing in this installation: npm was not there when it was built, so uPlot was not. "
    "The data tables stand in."
)


@dataclass(frozen=True, slots=True)
class Asset:
    body: bytes
    packed: bytes  # gzip
    media_type: str
    etag: str


@dataclass(frozen=True)
class Assets:
    """Name below the static folder -> file."""

    files: Mapping[str, Asset]

    @cached_property
    def version(self) -> str:
        parts = "".join(f"{name}{one.etag}" for name, one in sorted(self.files.items()))
        return hashlib.sha256(parts.encode()).hexdigest()[:16]

    @property
    def has_charts(self) -> bool:
        return UPLOT_JS in self.files and UPLOT_CSS in self.files

    def url(self, name: str) -> str:
        return f"/static/{self.version}/{name}"


def load(folder: Path = FOLDER) -> Assets:
    """All styles, modules and pictures of a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        kind = TYPES.get(path.suffix)
        if kind is not None and path.is_file():
            body = path.read_bytes()
            digest = hashlib.sha256(body).hexdigest()[:32]
            packed = gzip.compress(body, 9, mtime=0)
            found[path.relative_to(folder).as_posix()] = Asset(body, packed, kind, f'"{digest}"')
    return Assets(found)
