"""The artifact: weights and a card in one folder, as training writes it and serving loads it.

`weights.safetensors` holds float32 tensors and nothing else, `card.json` says what they are: never a pickle, no code.
What is read is taken for hostile until it is checked: names, sizes, shapes, finite numbers, and digests.
Knows no network and no registry: which tensors an architecture needs is the architecture's matter.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from forecaster.errors import ModelError
from models.artifact_files import read, tensors_of, write

FORMAT_VERSION = 1
ARCHITECTURES = frozenset({"network/1"})  # that this release can run
WEIGHTS, CARD = "weights.safetensors", "card.json"
RESIDUALS, RESIDUAL_ROWS = "residuals.safetensors", "residuals.json"  # both or neither
BUNDLED = Path(__file__).parent / "bundled"
FILES = (WEIGHTS, CARD, RESIDUALS, RESIDUAL_ROWS)
LARGEST_BYTES = 64 * 1024 * 1024  # of a file of tensors: 16 times what a model of ours may weigh
_LARGEST_CARD_BYTES = 1024 * 1024
_LARGEST_ROWS_BYTES = 16 * 1024 * 1024
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
    residuals_sha256: str = ""  # "": there are none


class _File(_Body, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    digest: str


class _Rows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    layout: str
    keys: tuple[str, ...]


class _Version(msgspec.Struct, rename="camel"):
    format_version: int


@dataclass(frozen=True, slots=True, eq=False)
class Residuals:
    """What a back-test has learned of the model's misses, row by row: where the calibration of these rows starts."""

    layout: str  # identity of the calibration that the arrays are for (forecaster.calibration.Layout.version)
    keys: tuple[str, ...]  # of rows, as state is stored by
    arrays: Tensors  # by name; the first axis of each is the row

    def __post_init__(self) -> None:
        if len(set(self.keys)) != len(self.keys):
            raise ModelError("rows of the residuals repeat")
        arrays = _all_checked(self.arrays)
        for name, array in arrays.items():
            if array.ndim < 1 or len(array) != len(self.keys):
                raise ModelError(f"residuals {name!r} have shape {array.shape} for {len(self.keys)} rows")
        object.__setattr__(self, "arrays", arrays)


@dataclass(frozen=True, slots=True, eq=False)
class Artifact:
    """A model as it lies on disk. Raises ModelError if card or tensors are not what an artifact may hold."""

    card: Card
    tensors: Tensors  # by name, read-only
    residuals: Residuals | None = None

    def __post_init__(self) -> None:
        _check_card(self.card)
        object.__setattr__(self, "tensors", _all_checked(self.tensors))


def digest(artifact: Artifact) -> str:
    """SHA-256 (hex) of card and weights together: the artifact's identity, the same before and after it was saved.

    It covers contents (names, shapes, little-endian values, the card in canonical JSON), not the layout of files.
    """
    return _digest_of(_body(artifact))


def save(folder: Path, artifact: Artifact) -> None:
    """Writes the folder, whole or not at all. A folder that holds the same artifact already is left as it is.

    Raises ModelError if the folder holds anything else: artifacts are not overwritten.
    """
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
        write(draft / WEIGHTS, _packed(artifact.tensors))
        if artifact.residuals is not None:
            write(draft / RESIDUALS, _packed(artifact.residuals.arrays))
            rows = _Rows(artifact.residuals.layout, artifact.residuals.keys)
            write(draft / RESIDUAL_ROWS, msgspec.json.encode(rows))
        write(draft / CARD, msgspec.json.format(card, indent=1))
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
    return load(BUNDLED)


def _load(folder: Path, sha256: str | None) -> Artifact:
    raw = read(folder, CARD, _LARGEST_CARD_BYTES)
    written = _file_of(raw)
    tensors = tensors_of(read(folder, WEIGHTS, LARGEST_BYTES), WEIGHTS)
    _compare(written.tensors, tensors)
    residuals = _residuals_of(folder) if written.residuals_sha256 else None
    card = Card(**{name: getattr(written, name) for name in Card.__struct_fields__})
    artifact = Artifact(card, tensors, residuals)
    body = _body(artifact)
    if body.weights_sha256 != written.weights_sha256:
        raise ModelError(f"{WEIGHTS} is damaged: its numbers do not have the checksum that {CARD} gives")
    if body.residuals_sha256 != written.residuals_sha256:
        raise ModelError(f"{RESIDUALS} is damaged: it does not have the checksum that {CARD} gives")
    found = _digest_of(body)
    if found != written.digest:
        raise ModelError(f"{CARD} is damaged or was edited: its digest is {found}, it says {written.digest}")
    if sha256 is not None and found != sha256:
        raise ModelError(f"it is artifact {found}, not {sha256} which was pinned at promotion")
    return artifact


def _packed(tensors: Tensors) -> bytes:
    from safetensors.numpy import save as safetensors_bytes

    return safetensors_bytes({name: np.array(tensor) for name, tensor in tensors.items()})


def _file_of(raw: bytes) -> _File:
    try:
        version = msgspec.json.decode(raw, type=_Version).format_version
        if version > FORMAT_VERSION:
            raise ModelError(f"{CARD} has format {version}, this release reads up to {FORMAT_VERSION}: upgrade it")
        return msgspec.json.decode(raw, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{CARD} is no card of an artifact: {error}") from error


def _residuals_of(folder: Path) -> Residuals:
    raw = read(folder, RESIDUAL_ROWS, _LARGEST_ROWS_BYTES)
    try:
        rows = msgspec.json.decode(raw, type=_Rows)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{RESIDUAL_ROWS} is damaged: {error}") from error
    return Residuals(rows.layout, rows.keys, tensors_of(read(folder, RESIDUALS, LARGEST_BYTES), RESIDUALS))


def _compare(stated: Mapping[str, _Tensor], found: Mapping[str, NDArray[Any]]) -> None:
    missing, extra = sorted(set(stated) - set(found)), sorted(set(found) - set(stated))
    if missing or extra:
        names = ", ".join(repr(name[:_LONGEST_NAME]) for name in (missing or extra)[:3])
        raise ModelError(f"{WEIGHTS} {'lacks' if missing else 'has beyond the card'} {names}")
    for name, tensor in found.items():
        if tensor.shape != stated[name].shape or str(tensor.dtype) != stated[name].dtype:
            was = f"{tensor.dtype} {tensor.shape}"
            raise ModelError(f"tensor {name!r} is {was}, the card says {stated[name].dtype} {stated[name].shape}")


def _all_checked(tensors: Tensors) -> Tensors:
    views = {name: _checked(name, tensors[name]) for name in sorted(tensors)}
    if not 0 < len(views) <= _MOST_TENSORS:
        raise ModelError(f"the artifact holds {len(views)} tensors: 1 to {_MOST_TENSORS} are allowed")
    if sum(tensor.nbytes for tensor in views.values()) > LARGEST_BYTES:
        raise ModelError(f"the artifact's tensors hold more than {LARGEST_BYTES} bytes")
    return MappingProxyType(views)


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
    residuals = artifact.residuals
    return _Body(
        **_fields(artifact.card),
        tensors={name: _Tensor(tensor.shape) for name, tensor in artifact.tensors.items()},
        weights_sha256=_hashed(artifact.tensors),
        residuals_sha256="" if residuals is None else _hashed(residuals.arrays, [residuals.layout, *residuals.keys]),
    )


def _hashed(tensors: Tensors, words: Sequence[str] = ()) -> str:
    hashed = hashlib.sha256(msgspec.json.encode(words))
    for name, tensor in tensors.items():  # sorted by name
        hashed.update(msgspec.json.encode([name, tensor.shape]))
        hashed.update(tensor.astype("<f4", copy=False).tobytes())
    return hashed.hexdigest()


def _digest_of(body: _Body) -> str:
    return hashlib.sha256(msgspec.json.encode(body, order="sorted")).hexdigest()


_S = TypeVar("_S", bound=msgspec.Struct)


def _fields(struct: _S) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}
