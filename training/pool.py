"""A store of examples on disk: made once from a seed by several processes, read as one set of arrays.

A shard is the examples of one synthetic group; it is a function of (seed, index, sampling), so that a run that was
stopped goes on where it was, and a larger pool keeps the shards of a smaller one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster.errors import InputError
from training import synthetic
from training.windows import Examples, Sampling, SeriesGroup, examples_of

POOL_VERSION = 1
_NAMES = tuple(field.name for field in fields(Examples))


def build(
    folder: Path,
    seed: int,
    groups: int,
    sampling: Sampling,
    processes: int = 1,
    done: Callable[[], None] = lambda: None,
) -> list[Path]:
    """The paths of all shards, which are made where they are not there yet; `done` is called for each.

    Raises InputError where the folder holds a pool of another seed or sampling.
    """
    _claim(folder, {"version": POOL_VERSION, "seed": seed, **asdict(sampling)})
    paths = paths_of(folder, groups)
    missing = [index for index, path in enumerate(paths) if not path.is_dir()]
    for _ in range(groups - len(missing)):
        done()
    if processes <= 1 or len(missing) <= 1:
        for index in missing:
            _make(paths[index], seed, index, sampling)
            done()
        return paths
    # `spawn`: a fork of a process with threads of a matrix library can hang.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as workers:
        for future in as_completed([workers.submit(_make, paths[i], seed, i, sampling) for i in missing]):
            future.result()
            done()
    return paths


def paths_of(folder: Path, groups: int) -> list[Path]:
    """Where the shards of a pool lie, made or not."""
    return [folder / f"shard-{index:05d}" for index in range(groups)]


def read(paths: Iterable[Path]) -> Examples:
    """All examples of the shards, in memory: about 5 kB each."""
    paths = list(paths)
    sizes = [len(np.load(path / "target.npy", mmap_mode="r")) for path in paths]
    whole: dict[str, NDArray[Any]] = {}
    for name in _NAMES:
        at = 0
        for path, size in zip(paths, sizes, strict=True):
            part = np.load(path / f"{name}.npy")
            if name not in whole:
                whole[name] = np.empty((sum(sizes), *part.shape[1:]), dtype=part.dtype)
            whole[name][at : at + size] = part
            at += size
    return Examples(**whole)


def _make(path: Path, seed: int, index: int, sampling: Sampling) -> None:
    group = synthetic.group(seed, index)
    rng = np.random.default_rng((seed, index, len(group.values) + 1))  # a stream that no series of the group has
    examples = examples_of(series_of(group), sampling, rng)
    draft = path.with_suffix(f".{os.getpid()}")
    draft.mkdir(parents=True, exist_ok=True)
    for name in _NAMES:
        np.save(draft / f"{name}.npy", getattr(examples, name))
    draft.replace(path)


def series_of(group: synthetic.SyntheticGroup) -> SeriesGroup:
    """A synthetic group as examples are made of it."""
    names = [recipe.name for recipe in synthetic.RECIPES]
    kind = np.array([names.index(name) for name in group.kinds])
    return SeriesGroup(group.values, group.step, group.first_end, group.timezone, group.saturated, kind)


def _claim(folder: Path, wanted: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    card = folder / "pool.json"
    if card.exists():
        found = json.loads(card.read_text())
        if found != wanted:
            raise InputError(f"{card}: holds examples of {found}, asked for {wanted}: choose another folder")
        return
    card.write_text(json.dumps(wanted, indent=1))
