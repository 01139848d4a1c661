"""The artifact format: what is saved comes back, and nothing damaged, foreign or hostile is accepted."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import struct
import subprocess
import sys
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecaster.errors import ModelError
from models import artifact
from models.artifact import (
    CARD,
    RESIDUAL_ROWS,
    RESIDUALS,
    WEIGHTS,
    Artifact,
    Card,
    DataRange,
    Residuals,
    TrainingData,
)


def made(**changes: Any) -> Artifact:
    random = np.random.default_rng(7)
    card = Card(
        architecture="network/1",
        config={"width": 4, "ratio": 1.0, "names": ["a", None, True]},
        quantile_levels=(0.1, 0.5, 0.9),
        training_data=(TrainingData(name="synthetic", licence="Apache-2.0"),),
        data_range=DataRange(first=datetime(2026, 1, 1, tzinfo=UTC), last=datetime(2026, 2, 1, tzinfo=UTC)),
        seed=3,
        code_version="0.1.0",
        metrics={"wql": 0.123456789},
    )
    tensors = {
        "body.0.weight": random.normal(size=(3, 4)).astype(np.float32),
        "body.0.bias": random.normal(size=4).astype(np.float32),
        "scale": np.array(2.5, dtype=np.float32),
    }
    residuals = Residuals("calibration/1/0", ("a-1/load", "b-2/load"), {"offset": tensors["body.0.weight"][:2]})
    return Artifact(msgspec.structs.replace(card, **changes), tensors, residuals)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    artifact.save(tmp_path / "model", made())
    return tmp_path / "model"


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    card = json.loads((folder / CARD).read_text())
    change(card)
    (folder / CARD).write_text(json.dumps(card))


def raw_weights(tensors: dict[str, Any], body: bytes) -> bytes:
    header = json.dumps(tensors).encode()
    return struct.pack("<Q", len(header)) + header + body


# --- round trip ----------------------------------------------------------------------------------------------------


def test_what_is_saved_comes_back(folder: Path) -> None:
    loaded = artifact.load(folder)
    assert loaded.card == made().card
    assert list(loaded.tensors) == sorted(made().tensors)
    for name, tensor in made().tensors.items():
        np.testing.assert_array_equal(loaded.tensors[name], tensor)
        assert loaded.tensors[name].shape == tensor.shape
        assert not loaded.tensors[name].flags.writeable
    assert loaded.residuals is not None
    assert (loaded.residuals.layout, loaded.residuals.keys) == ("calibration/1/0", ("a-1/load", "b-2/load"))
    np.testing.assert_array_equal(loaded.residuals.arrays["offset"], made().tensors["body.0.weight"][:2])
    assert artifact.digest(loaded) == artifact.digest(made())
    assert artifact.digest(artifact.load(folder, sha256=artifact.digest(made()))) == artifact.digest(made())


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
names = st.from_regex(r"[a-z0-9_]{1,8}(\.[a-z0-9_]{1,8}){0,2}", fullmatch=True)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(names, st.lists(finite, min_size=1, max_size=6), min_size=1, max_size=4))
def test_any_finite_tensors_survive_bit_for_bit(tmp_path: Path, tensors: dict[str, list[float]]) -> None:
    given = Artifact(made().card, {name: np.array(values, dtype=np.float32) for name, values in tensors.items()})
    where = tmp_path / uuid.uuid4().hex
    artifact.save(where, given)
    loaded = artifact.load(where)
    assert artifact.digest(loaded) == artifact.digest(given)
    for name, tensor in given.tensors.items():
        assert loaded.tensors[name].tobytes() == tensor.tobytes()


@pytest.mark.parametrize("change", [{"seed": 4}, {"config": {"width": 5}}, {"metrics": {}}, {"parent": "a"}], ids=str)
def test_the_digest_covers_the_card(change: dict[str, Any]) -> None:
    assert artifact.digest(made(**change)) != artifact.digest(made())


def test_the_digest_covers_every_number_and_its_place() -> None:
    changed = dict(made().tensors)
    changed["body.0.bias"] = changed["body.0.bias"][::-1]
    assert artifact.digest(Artifact(made().card, changed)) != artifact.digest(made())


def test_saving_twice_changes_nothing_and_another_artifact_is_not_overwritten(folder: Path) -> None:
    before = (folder / CARD).stat().st_mtime_ns
    artifact.save(folder, made())
    assert (folder / CARD).stat().st_mtime_ns == before
    with pytest.raises(ModelError, match="holds another artifact: choose a folder that does not exist"):
        artifact.save(folder, made(seed=99))
    assert artifact.load(folder).card.seed == 3


def test_a_save_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelError, match="cannot be written: No space left on device"):
        artifact.save(tmp_path / "model", made())
    assert list(tmp_path.iterdir()) == []


# --- M23: damage and other formats ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", artifact.FILES)
def test_every_truncation_is_refused(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for length in range(0, len(whole), 3):
        (folder / name).write_bytes(whole[:length])
        with pytest.raises(ModelError):
            artifact.load(folder)


@pytest.mark.parametrize("name", artifact.FILES)
def test_a_flipped_bit_is_refused_or_changes_nothing(folder: Path, name: str) -> None:
    """Blank space may change: whatever loads has the digest that it had."""
    whole = (folder / name).read_bytes()
    refused = 0
    for position in range(0, len(whole), 2):
        for bit in (0, 5):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << bit
            (folder / name).write_bytes(flipped)
            try:
                assert artifact.digest(artifact.load(folder)) == artifact.digest(made())
            except ModelError:
                refused += 1
    assert refused > 0.8 * len(whole)


def test_a_newer_format_says_which_release_is_needed(folder: Path) -> None:
    def newer(card: dict[str, Any]) -> None:
        card |= {"formatVersion": 2, "somethingNew": 1}

    rewrite(folder, newer)
    with pytest.raises(ModelError, match=r"card.json has format 2, this release reads up to 1: upgrade it"):
        artifact.load(folder)


def wrong_shape(card: dict[str, Any]) -> None:
    card["tensors"]["body.0.weight"]["shape"] = [4, 3]


def missing(card: dict[str, Any]) -> None:
    card["tensors"]["body.1.weight"] = {"shape": [1], "dtype": "float32"}


def extra(card: dict[str, Any]) -> None:
    del card["tensors"]["scale"]


def foreign(card: dict[str, Any]) -> None:
    card["architecture"] = "gpt"


def unknown_field(card: dict[str, Any]) -> None:
    card["entryPoint"] = "os.system"


def edited(card: dict[str, Any]) -> None:
    card["config"]["width"] = 5


def bad_levels(card: dict[str, Any]) -> None:
    card["quantileLevels"] = [0.5, 0.1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (wrong_shape, r"tensor 'body.0.weight' is float32 \(3, 4\), the card says float32 \(4, 3\)"),
        (missing, "lacks 'body.1.weight'"),
        (extra, "has beyond the card 'scale'"),
        (foreign, "architecture 'gpt' is not one that this release runs: network/1"),
        (unknown_field, "is no card of an artifact: .*entryPoint"),
        (edited, "card.json is damaged or was edited"),
        (bad_levels, "must ascend and lie between 0 and 1"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_card_that_does_not_fit_is_refused(folder: Path, change: Callable[[dict[str, Any]], None], said: str) -> None:
    rewrite(folder, change)
    with pytest.raises(ModelError, match=said) as caught:
        artifact.load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_artifact_than_the_pinned_one_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="which was pinned at promotion"):
        artifact.load(folder, sha256="0" * 64)


def test_an_artifact_without_residuals_has_two_files(tmp_path: Path) -> None:
    plain = Artifact(made().card, made().tensors)
    artifact.save(tmp_path / "model", plain)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == sorted([WEIGHTS, CARD])
    assert artifact.load(tmp_path / "model").residuals is None
    assert artifact.digest(plain) != artifact.digest(made())


def test_residuals_of_other_rows_or_another_layout_are_refused(folder: Path) -> None:
    for rows in (
        {"layout": "calibration/2/0", "keys": ["a-1/load", "b-2/load"]},
        {"layout": "calibration/1/0", "keys": ["b-2/load", "a-1/load"]},
    ):
        (folder / RESIDUAL_ROWS).write_text(json.dumps(rows))
        with pytest.raises(ModelError, match=r"residuals.safetensors is damaged"):
            artifact.load(folder)
    (folder / RESIDUAL_ROWS).write_text(json.dumps({"layout": "calibration/1/0", "keys": ["a-1/load"]}))
    with pytest.raises(ModelError, match=r"residuals 'offset' have shape \(2, 4\) for 1 rows"):
        artifact.load(folder)
    (folder / RESIDUALS).unlink()
    with pytest.raises(ModelError, match=r"residuals.safetensors cannot be read"):
        artifact.load(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
def test_weights_that_are_no_numbers_are_refused(folder: Path, value: float) -> None:
    whole = bytearray((folder / WEIGHTS).read_bytes())
    whole[-4:] = struct.pack("<f", value)
    (folder / WEIGHTS).write_bytes(whole)
    with pytest.raises(ModelError, match="holds NaN or infinity"):
        artifact.load(folder)


def test_a_folder_that_is_missing_or_empty_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"card.json cannot be read: No such file or directory"):
        artifact.load(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"card.json cannot be read: No such file or directory"):
        artifact.load(tmp_path)


# --- M28: hostile files ---------------------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.abort, ()


@pytest.mark.parametrize("name", artifact.FILES)
def test_a_pickle_is_refused_and_not_run(folder: Path, name: str) -> None:
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelError, match=r"no safetensors file|is no card of an artifact|is damaged"):
        artifact.load(folder)


def test_loading_needs_neither_pickle_nor_torch(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from models import artifact;"
        f"artifact.load(Path({str(folder)!r})); assert 'torch' not in sys.modules;"
        "sys.modules['pickle'].Unpickler = sys.modules['pickle'].loads = None;"
        f"artifact.load(Path({str(folder)!r}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(artifact.__file__).parents[1])


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../up", "a/b", "a\\b", "..", "", ".hidden", "a..b", "x" * 300, "a\0b"]
)
def test_names_that_look_like_paths_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(ModelError, match=r"tensor name .* is not allowed"):
        Artifact(made().card, {name: np.ones(1, dtype=np.float32)})
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    (folder / WEIGHTS).write_bytes(raw_weights({name: entry}, b"\0" * 4))
    rewrite(folder, lambda card: card.update(tensors={name: {"shape": [1], "dtype": "float32"}}))
    with pytest.raises(ModelError, match=r"tensor name .* is not allowed"):
        artifact.load(folder)


@pytest.mark.parametrize("name", artifact.FILES)
def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_followed(
    folder: Path, tmp_path: Path, name: str
) -> None:
    """Kubernetes mounts ConfigMaps and Secrets as links to a folder inside the mount."""
    inside = folder / "..data"
    inside.mkdir()
    (folder / name).rename(inside / name)
    (folder / name).symlink_to(Path("..data") / name)
    assert artifact.digest(artifact.load(folder)) == artifact.digest(made())
    (inside / name).rename(tmp_path / name)
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(ModelError, match="is a link out of the folder"):
        artifact.load(folder)


@pytest.mark.parametrize("name", artifact.FILES)
def test_a_pipe_a_folder_and_a_loop_of_links_are_refused_without_waiting(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ModelError, match="is not a file"):
        artifact.load(folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(ModelError, match="cannot be read"):
        artifact.load(folder)
    (folder / name).rmdir()
    (folder / name).symlink_to(name)
    with pytest.raises(ModelError, match="cannot be read"):
        artifact.load(folder)


def test_files_beyond_the_limit_are_not_read(folder: Path) -> None:
    with (folder / WEIGHTS).open("r+b") as file:
        file.truncate(artifact.LARGEST_BYTES + 1)  # sparse: takes no space
    with pytest.raises(ModelError, match="has 67108865 bytes: at most 67108864 are read"):
        artifact.load(folder)


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}, b""),
        ({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}}, b""),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, b"\0" * 4),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"\0" * 4),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 8),
        ({"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
        ({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, b"\0" * 4),
        ({"a": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}, b"\0" * 8),
    ],
    ids=["huge", "overflow", "backwards", "negative", "left over", "unknown type", "bfloat16", "integers"],
)
def test_headers_that_lie_are_refused(folder: Path, header: dict[str, Any], body: bytes) -> None:
    (folder / WEIGHTS).write_bytes(raw_weights(header, body))
    rewrite(folder, lambda card: card.update(tensors={"a": {"shape": [1], "dtype": "float32"}}))
    with pytest.raises(ModelError):
        artifact.load(folder)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.sampled_from(artifact.FILES))
def test_no_bytes_raise_anything_but_a_model_error(folder: Path, data: bytes, name: str) -> None:
    (folder / name).write_bytes(data)
    with pytest.raises(ModelError):
        artifact.load(folder)
    artifact.save(folder.parent / "again", made())
    (folder / name).write_bytes((folder.parent / "again" / name).read_bytes())


# --- what an artifact may hold --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({}, "holds 0 tensors"),
        ({"a": np.ones(1)}, "is float64: only float32 is allowed"),
        ({"a": np.ones(0, dtype=np.float32)}, "none empty"),
        ({"a": np.ones((1,) * 9, dtype=np.float32)}, "1 to 8 dimensions"),
        ({"a": np.array([np.nan], dtype=np.float32)}, "holds NaN or infinity"),
    ],
    ids=["none", "double", "empty", "many dimensions", "NaN"],
)
def test_tensors_that_are_not_allowed(tensors: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        Artifact(made().card, tensors)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metrics": {"wql": float("nan")}}, "metric 'wql' of the card is not a finite number"),
        ({"config": {"a": object()}}, "the card holds what JSON cannot"),
        ({"config": {"a": "x" * 1_000_000}}, "at most 524288 are allowed"),
        ({"quantile_levels": (0.0, 0.5)}, "must ascend and lie between 0 and 1"),
        ({"format_version": 2}, "has format 2"),
    ],
    ids=["metric", "object", "long", "levels", "format"],
)
def test_cards_that_are_not_allowed(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        made(**change)


def test_an_artifact_cannot_be_changed() -> None:
    given = made()
    with pytest.raises(dataclasses.FrozenInstanceError):
        given.card = given.card  # type: ignore[misc]
    with pytest.raises(TypeError):
        given.tensors["a"] = np.ones(1, dtype=np.float32)  # type: ignore[index]
