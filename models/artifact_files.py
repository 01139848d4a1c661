"""Bytes of an artifact's files: read with bounds from a folder that may be hostile, written through to the disk."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from forecaster.errors import ModelError


def tensors_of(data: bytes, name: str) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file; the library checks header, offsets and lengths, and runs no code.

    Raises ModelError, with `name` of the file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as safetensors_of

    try:
        return dict(safetensors_of(data))
    except (SafetensorError, KeyError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise ModelError(f"{name} is truncated, damaged or no safetensors file: {error}") from error


def read(folder: Path, name: str, most: int) -> bytes:
    """The file's bytes. Links may lead around inside the folder, as Kubernetes mounts volumes, but not out of it."""
    try:
        path = (folder / name).resolve(strict=True)
        if not path.is_relative_to(folder.resolve(strict=True)):
            raise ModelError(f"{name} is a link out of the folder")
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise ModelError(f"{name} is not a file")
            data = file.read(most + 1) if found.st_size <= most else b""
            if found.st_size > most or len(data) > most:
                raise ModelError(f"{name} has {found.st_size} bytes: at most {most} are read")
            return data
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise ModelError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
