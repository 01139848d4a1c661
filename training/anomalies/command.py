"""`forecaster benchmark --anomalies`: the labelled sets, then null series and injected faults where asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from training.anomalies import report, run
from training.anomalies.causes import Causes
from training.anomalies.detectors import Detector, taking_part
from training.anomalies.faults import WorkloadDetector, measured_faults
from training.anomalies.nulls import measured_nulls

SEED = 0
CAUSES = "causes"  # our kinds that see a whole workload: among the injected faults only
Stages = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of the verb."""

    data: Path
    stamps_end: bool
    only: str | None
    models: tuple[str, ...] | None
    processes: int
    nulls: bool
    faults: int  # workloads for each kind; 0: none
    by_series: bool
    png: Path | None


def benchmark(asked: Asked, as_json: bool, stages: Stages, width: int | None) -> tuple[str, bool]:
    """(what is printed, whether a series was scored). Raises InputError for what the user must mend."""
    if asked.png is not None:
        import matplotlib  # noqa: F401 - that it is missing is to be said before the work, not after it
    has_causes = asked.faults > 0 and (asked.models is None or CAUSES in asked.models)
    models = asked.models
    if has_causes and models is not None:
        models = tuple(name for name in models if name != CAUSES)
    wanted = run.Asked(asked.data, asked.stamps_end, asked.only, models, asked.processes)
    known = taking_part()
    told = run.benchmark(wanted, known, lambda share: stages("scoring", share))
    detectors = {name: known[name] for name in told.models}
    nulls, faults = [], []
    if asked.nulls:
        nulls = measured_nulls(told.cases, detectors, SEED, asked.processes, lambda share: stages("null series", share))
    if asked.faults:
        of_workloads: dict[str, Detector | WorkloadDetector] = {**detectors}
        if has_causes:
            of_workloads[CAUSES] = Causes()
        faults = measured_faults(
            of_workloads, asked.faults, SEED, asked.processes, lambda share: stages("injected faults", share)
        )
    if asked.png is not None:
        from training.anomalies.picture import picture

        picture(told, asked.png)
    if as_json:
        return report.as_json(told, asked.by_series, nulls, faults), bool(told.rows)
    return report.as_text(told, asked.by_series, nulls, faults, width), bool(told.rows)
