"""`forecaster train`: pretraining from nothing, or fine-tuning to a folder of series; what it tells while it works."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from forecaster.errors import InputError
from forecaster.tidy import TidySeries, read_tidy
from models import artifact
from models.artifact import Artifact, TrainingData
from training import tracking
from training.benchmark.panels import files_of
from training.fit import device_of, left
from training.pretrain import PretrainConfig, Watcher, pretrain
from training.tracking import Run
from training.tune import fine_tune
from training.windows import SeriesGroup


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says."""

    out: Path
    work: Path
    groups: int
    steps: int
    seed: int
    device: str
    processes: int
    amp: bool
    data: Path | None
    licence: str
    tune: Path | None  # artifact to fine-tune; None: pretrain
    tracking_uri: str | None
    onnx: Path | None
    stamps_end: bool


def is_first() -> bool:
    """Whether this is the first of torchrun's processes, or the only one: it alone writes and reports."""
    return os.environ.get("RANK", "0") == "0"


def train(asked: Asked, quiet: bool = False) -> Artifact:
    """The artifact, saved in `asked.out`. Raises InputError for what the user must mend."""
    if asked.data is not None and not asked.licence:
        raise InputError("--licence: say under which licence --data may be trained on: the model card names it")
    if asked.tune is not None and asked.data is None:
        raise InputError("--data: fine-tuning needs a folder of tidy files")
    extra = [] if asked.data is None else groups_of(asked.data, asked.stamps_end)
    with (
        _in_group(),
        tracking.started(asked.tracking_uri if is_first() else None, "forecaster-train") as run,
        _Watch(run, quiet or not is_first()) as watch,
        _stoppable() as stop,
    ):
        if asked.tune is not None:
            made = _tuned(asked, extra, watch, stop)
        else:
            made = _pretrained(asked, extra, watch, stop)
        if stop[0]:
            raise InputError(f"stopped; the same command goes on from {asked.work}")
        if is_first():
            artifact.save(asked.out, made)
            if asked.onnx is not None:
                from models.onnx_export import export

                export(made, asked.onnx)
            run.finished(made, asked.out)
    return made


def _pretrained(asked: Asked, extra: list[SeriesGroup], watch: _Watch, stop: list[bool]) -> Artifact:
    usual = PretrainConfig()
    held = max(min(usual.validation_groups, asked.groups // 8), 1)
    config = replace(
        usual, groups=asked.groups, validation_groups=held, fit=replace(usual.fit, steps=asked.steps, seed=asked.seed)
    )
    watch.run.parameters({"groups": config.groups, **asdict(config.fit)})
    data = [] if asked.data is None else [TrainingData(asked.data.name, asked.licence, str(asked.data.name))]
    return pretrain(
        asked.work,
        config,
        device_of(asked.device),
        watch,
        extra=extra,
        extra_data=data,
        processes=asked.processes,
        amp=asked.amp,
        code_version=version("forecaster-k8s"),
        stopped=lambda: stop[0],
    )


def _tuned(asked: Asked, groups: list[SeriesGroup], watch: _Watch, stop: list[bool]) -> Artifact:
    assert asked.tune is not None
    first = artifact.load(asked.tune)
    watch.began("rounds", 0)
    return fine_tune(
        first,
        groups,
        seed=asked.seed,
        device=device_of(asked.device),
        report=lambda step, figures: watch.advanced(0, figures),
        stopped=lambda: stop[0],
    )


def groups_of(folder: Path, stamps_end: bool) -> list[SeriesGroup]:
    """The series of all tidy files of a folder, those on one grid together. Raises InputError where there is none."""
    by_grid: dict[tuple[int, int, int], list[Any]] = {}
    for path in files_of(folder, only=None):
        for series in read_tidy(path, stamps_end):
            times, values = _gridded(path, series)
            by_grid.setdefault((series.usual_step, int(times[0]), len(times)), []).append(values)
    return [SeriesGroup(np.array(rows), step, first) for (step, first, _), rows in by_grid.items()]


def _gridded(path: Path, series: TidySeries) -> tuple[Any, Any]:
    if not series.usual_step:
        raise InputError(f"{path}: series {series.name} has a single sample: leave it out")
    try:
        return series.on_grid(series.usual_step)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


class _Watch(Watcher):
    """A progress bar on stderr where that is a terminal, and what MLflow is told."""

    def __init__(self, run: Run, quiet: bool) -> None:
        self.run = run
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[said]}"),
        )
        self._bar = Progress(*columns, disable=quiet or not sys.stderr.isatty(), transient=True)
        self._task: Any = None
        self._step = 0

    def __enter__(self) -> _Watch:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def began(self, what: str, total: int) -> None:
        self._step = 0
        self._task = self._bar.add_task(what, total=total or None, said="")

    def advanced(self, units: int, figures: Mapping[str, float]) -> None:
        self._step += units
        said = " ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self._bar.update(self._task, advance=units, said=said)
        if figures:
            self.run.measured(self._step, figures)


@contextmanager
def _in_group() -> Iterator[None]:
    """torchrun's group of processes, if there is one, is left at the end."""
    try:
        yield
    finally:
        left()


@contextmanager
def _stoppable() -> Iterator[list[bool]]:
    """SIGTERM, which a spot node sends before it goes, ends the fit at its next step, with a checkpoint."""
    stop = [False]

    def on_signal(*_: object) -> None:
        stop[0] = True

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
