"""Artifacts that were fetched from a registry, kept in a folder: a restart needs no registry.

Each lies under its digest, and is checked whenever it is read. `champions.json` says which one an alias meant last.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from forecaster.errors import ModelError
from models import artifact
from models.artifact import Artifact
from models.artifact_files import read, write

KEPT = 4  # artifacts: the champion, the one before it, and what a roll-back may want
_POINTERS = "champions.json"
_MOST_BYTES = 64 * 1024
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Pointer(msgspec.Struct, frozen=True):
    """What an alias meant when it was looked up last."""

    version: str
    sha256: str


@dataclass(frozen=True, slots=True)
class ArtifactCache:
    """A folder of ours; it is made when it is first needed."""

    folder: Path

    def load(self, sha256: str) -> Artifact | None:
        """The artifact, checked; None where it is not here. What is here but damaged is removed."""
        folder = self._folder_of(sha256)
        if not folder.is_dir():
            return None
        try:
            return artifact.load(folder, sha256)
        except ModelError:
            shutil.rmtree(folder, ignore_errors=True)
            return None

    def keep(self, kept: Artifact) -> None:
        """Adds an artifact and removes those used longest ago. Raises ModelError where the folder cannot be written."""
        folder = self._folder_of(artifact.digest(kept))
        artifact.save(folder, kept)
        with contextlib.suppress(OSError):
            folder.touch()
            others = sorted(self.folder.glob("[0-9a-f]" * 64), key=lambda path: path.stat().st_mtime, reverse=True)
            meant = {pointer.sha256 for pointer in self._pointers().values()}
            for old in others[KEPT:]:
                if old.name not in meant and old != folder:
                    shutil.rmtree(old, ignore_errors=True)

    def champion(self, model: str) -> Pointer | None:
        """What `models:/NAME@ALIAS` meant last; None where that is not known."""
        return self._pointers().get(model)

    def remember(self, model: str, pointer: Pointer) -> None:
        """Raises ModelError where the folder cannot be written."""
        pointers = {**self._pointers(), model: pointer}
        draft = self.folder / f".{_POINTERS}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write(draft, msgspec.json.encode(pointers))
            draft.replace(self.folder / _POINTERS)
        except OSError as error:
            raise ModelError(f"{self.folder} cannot be written: {error.strerror or error}") from error

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for a download, on the same disk. Raises ModelError where it cannot be made."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=".download-", dir=self.folder))
        except OSError as error:
            raise ModelError(f"{self.folder} cannot be written: {error.strerror or error}") from error
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def _folder_of(self, sha256: str) -> Path:
        if not _DIGEST.fullmatch(sha256):  # a registry's tag names a folder here
            raise ModelError(f"{sha256[:80]!r} is no SHA-256: 64 hexadecimal digits")
        return self.folder / sha256

    def _pointers(self) -> Mapping[str, Pointer]:
        try:
            found = msgspec.json.decode(read(self.folder, _POINTERS, _MOST_BYTES), type=dict[str, Pointer])
        except (ModelError, msgspec.DecodeError, UnicodeDecodeError):
            return {}
        return {name: pointer for name, pointer in found.items() if _DIGEST.fullmatch(pointer.sha256)}
