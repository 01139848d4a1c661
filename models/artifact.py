"""The artifact: weights and a card in one folder, as training writes it and serving loads it.

`weights.safetensors` holds float32 tensors and nothing else, `card.json` says what they are: never a pickle, no code.
What is read is taken for hostile until it is checked: names, sizes, shapes, finite numbers, and digests.
Knows no network and no registry: which tensors an architecture needs is the architecture's matter.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from forecaster.errors import ModelError

FORMAT_VERSION = 1
ARCHITECTURES = frozenset({"network/1"})  # that this release can run
WEIGHTS, CARD = "weights.safetensors", "card.json"
LARGEST_BYTES = 64 * 1024 * 1024  # of the weights: 16 times what a model of ours may weigh
_LARGEST_CARD_BYTES = 1024 * 1024
_MOST_TENSORS = 4096
_MOST_DIMENSIONS = 8
_NAME = re.compile(
    r"[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_][A-Za-z0-9_-]*)*"
)  # no separator, no `..`, no leading dot
_LONGEST_NAME = 200

Tensors = Mapping[str, NDArray[np.float32]]


class TrainingData(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """One source of training data."""

    name: str
    licence: str  # SPDX name, or "own" for the user's own history
    source: str = ""  # where it comes from
    description: str = ""


class DataRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """From which time to which the training data reach."""

    first: datetime  # UTC
    last: datetime  # UTC


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """What the weights are, how they came to be and what they reached: the model card."""

    architecture: str  # one of ARCHITECTURES
    config: dict[str, Any]  # hyper-parameters: JSON values, read by the architecture
    quantile_levels: tuple[float, ...]  # ascending, each in (0, 1)
    training_data: tuple[TrainingData, ...] = ()
    data_range: DataRange | None = None  # None: synthetic data, which have no time
    seed: int = 0
    code_version: str = ""
    metrics: dict[str, float] = {}  # finite numbers by name
    parent: str = ""  # digest of the artifact it was fine-tuned from
    format_version: int = FORMAT_VERSION


class _Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    shape: tuple[int, ...]
    dtype: str = "float32"


class _Body(Card, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    tensors: dict[str, _Tensor]
    weights_sha256: str


class _File(_Body, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    digest: str


class _Version(msgspec.Struct, rename="camel"):
    format_version: int


@dataclass(frozen=True, slots=True, eq=False)
class Artifact:
    """A model as it lies on disk. Raises ModelError if card or tensors are not what an artifact may hold."""

    card: Card
    tensors: Tensors  # by name, read-only

    def __post_init__(self) -> None:
        _check_card(self.card)
        views = {}
        for name in sorted(self.tensors):
            views[name] = _checked(name, self.tensors[name])
        if not 0 < len(views) <= _MOST_TENSORS:
            raise ModelError(f"the artifact holds {len(views)} tensors: 1 to {_MOST_TENSORS} are allowed")
        if sum(tensor.nbytes for tensor in views.values()) > LARGEST_BYTES:
            raise ModelError(f"the artifact's tensors hold more than {LARGEST_BYTES} bytes")
        object.__setattr__(self, "tensors", MappingProxyType(views))


def digest(artifact: Artifact) -> str:
    """SHA-256 (hex) of card and weights together: the artifact's identity, the same before and after it was saved.

    It covers contents (names, shapes, little-endian values, the card in canonical JSON), not the layout of files.
    """
    return _digest_of(_body(artifact))


def save(folder: Path, artifact: Artifact) -> None:
    """Writes the folder, whole or not at all. A folder that holds the same artifact already is left as it is.

    Raises ModelError if the folder holds anything else: artifacts are not overwritten.
    """
    from safetensors.numpy import save as safetensors_bytes

    body = _body(artifact)
    card = msgspec.json.encode(_File(**_fields(body), digest=_digest_of(body)), order="sorted")
    if folder.exists() and any(folder.iterdir()):
        if digest(load(folder)) != _digest_of(body):
            raise ModelError(f"{folder} holds another artifact: choose a folder that does not exist")
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.tmp"
    try:
        draft.mkdir()
        _write(draft / WEIGHTS, safetensors_bytes({name: np.array(t) for name, t in artifact.tensors.items()}))
        _write(draft / CARD, msgspec.json.format(card, indent=1))
        draft.replace(folder)
    except OSError as error:
        raise ModelError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def load(folder: Path, sha256: str | None = None) -> Artifact:
    """Reads an artifact and checks all of it; `sha256` is the digest that it must have, pinned elsewhere.

    Raises ModelError, with the folder and what is wrong in it.
    """
    try:
        return _load(folder, sha256)
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error


def bundled() -> Artifact:
    """The pretrained model that ships inside this package. Raises ModelError where it is missing or damaged."""
    return load(Path(__file__).parent / "bundled")


def _load(folder: Path, sha256: str | None) -> Artifact:
    raw = _read(folder, CARD, _LARGEST_CARD_BYTES)
    written = _file_of(raw)
    weights = _read(folder, WEIGHTS, LARGEST_BYTES)
    tensors = _tensors_of(weights)
    _compare(written.tensors, tensors)
    artifact = Artifact(Card(**{name: getattr(written, name) for name in Card.__struct_fields__}), tensors)
    body = _body(artifact)
    if body.weights_sha256 != written.weights_sha256:
        raise ModelError(f"{WEIGHTS} is damaged: its numbers do not have the checksum that {CARD} gives")
    found = _digest_of(body)
    if found != written.digest:
        raise ModelError(f"{CARD} is damaged or was edited: its digest is {found}, it says {written.digest}")
    if sha256 is not None and found != sha256:
        raise ModelError(f"it is artifact {found}, not {sha256} which was pinned at promotion")
    return artifact


def _file_of(raw: bytes) -> _File:
    try:
        version = msgspec.json.decode(raw, type=_Version).format_version
        if version > FORMAT_VERSION:
            raise ModelError(f"{CARD} has format {version}, this release reads up to {FORMAT_VERSION}: upgrade it")
        return msgspec.json.decode(raw, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{CARD} is no card of an artifact: {error}") from error


def _tensors_of(weights: bytes) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load as safetensors_of

    try:
        return dict(safetensors_of(weights))
    except (SafetensorError, KeyError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise ModelError(f"{WEIGHTS} is truncated, damaged or no safetensors file: {error}") from error


def _compare(stated: Mapping[str, _Tensor], found: Mapping[str, NDArray[Any]]) -> None:
    missing, extra = sorted(set(stated) - set(found)), sorted(set(found) - set(stated))
    if missing or extra:
        names = ", ".join(repr(name[:_LONGEST_NAME]) for name in (missing or extra)[:3])
        raise ModelError(f"{WEIGHTS} {'lacks' if missing else 'has beyond the card'} {names}")
    for name, tensor in found.items():
        if tensor.shape != stated[name].shape or str(tensor.dtype) != stated[name].dtype:
            was = f"{tensor.dtype} {tensor.shape}"
            raise ModelError(f"tensor {name!r} is {was}, the card says {stated[name].dtype} {stated[name].shape}")


def _checked(name: str, tensor: NDArray[Any]) -> NDArray[np.float32]:
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        said = name[:_LONGEST_NAME]
        raise ModelError(
            f"tensor name {said!r} is not allowed: letters, digits, _ and -, in parts joined by single dots"
        )
    if tensor.dtype != np.float32:
        raise ModelError(f"tensor {name!r} is {tensor.dtype}: only float32 is allowed")
    if tensor.ndim > _MOST_DIMENSIONS or not tensor.size:
        raise ModelError(f"tensor {name!r} has shape {tensor.shape}: 1 to {_MOST_DIMENSIONS} dimensions, none empty")
    if not np.isfinite(tensor).all():
        raise ModelError(f"tensor {name!r} holds NaN or infinity")
    view = np.ascontiguousarray(tensor).reshape(tensor.shape).view()
    view.flags.writeable = False
    return view


def _check_card(card: Card) -> None:
    if card.format_version != FORMAT_VERSION:
        raise ModelError(f"the card has format {card.format_version}, this release writes and reads {FORMAT_VERSION}")
    if card.architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ModelError(f"architecture {card.architecture[:100]!r} is not one that this release runs: {known}")
    levels = card.quantile_levels
    if not levels or list(levels) != sorted(set(levels)) or not all(0 < level < 1 for level in levels):
        raise ModelError(f"quantile levels {levels} must ascend and lie between 0 and 1")
    try:
        encoded = msgspec.json.encode(card)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ModelError(f"the card holds what JSON cannot: {error}") from error
    if len(encoded) > _LARGEST_CARD_BYTES // 2:
        raise ModelError(f"the card has {len(encoded)} bytes: at most {_LARGEST_CARD_BYTES // 2} are allowed")
    bad = [name for name, value in card.metrics.items() if not np.isfinite(value)]
    if bad:
        raise ModelError(f"metric {bad[0]!r} of the card is not a finite number: leave it out")


def _body(artifact: Artifact) -> _Body:
    tensors = {name: _Tensor(tensor.shape) for name, tensor in artifact.tensors.items()}
    hashed = hashlib.sha256()
    for name, tensor in artifact.tensors.items():  # sorted by name
        hashed.update(msgspec.json.encode([name, tensor.shape]))
        hashed.update(tensor.astype("<f4", copy=False).tobytes())
    return _Body(**_fields(artifact.card), tensors=tensors, weights_sha256=hashed.hexdigest())


def _digest_of(body: _Body) -> str:
    return hashlib.sha256(msgspec.json.encode(body, order="sorted")).hexdigest()


_S = TypeVar("_S", bound=msgspec.Struct)


def _fields(struct: _S) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def _read(folder: Path, name: str, most: int) -> bytes:
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


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
