"""A picture of a benchmark of anomaly detection: recall over false alarms per week, and VUS-PR, for each family."""

from __future__ import annotations

import math
from pathlib import Path

from forecaster.errors import InputError
from training.anomalies.detectors import OURS
from training.anomalies.run import BUDGETS, Told


def picture(told: Told, path: Path) -> None:
    """Writes it; the ending says the format. Raises InputError where it cannot be written so."""
    from matplotlib.figure import Figure

    families = list(dict.fromkeys(row.family for row in told.rows))
    figure = Figure(figsize=(10, 1.2 + 3.0 * max(len(families), 1)), layout="constrained")
    axes = figure.subplots(max(len(families), 1), 2, squeeze=False)
    for (left, right), family in zip(axes, families, strict=False):
        for i, row in enumerate(row for row in told.rows if row.family == family):
            color = "black" if row.model == OURS else f"C{i % 10}"
            equal = [row.equal[budget].outcome for budget in BUDGETS]
            learned = [row.learned[budget].outcome for budget in BUDGETS]
            left.plot(
                [one.false_alarms_per_week for one in equal],
                [one.recall for one in equal],
                marker="o",
                color=color,
                label=row.model,
            )
            left.plot(
                [one.false_alarms_per_week for one in learned],
                [one.recall for one in learned],
                marker="x",
                linestyle="none",
                color=color,
            )
            right.barh(i, 0.0 if math.isnan(row.vus_pr) else row.vus_pr, color=color)
        left.set(xscale="symlog", ylabel="events found", ylim=(0, 1), title=family, xlim=(0, None))
        left.set_xlabel("false alarms per series-week as measured (o: equal for all, x: learned thresholds)")
        names = [row.model for row in told.rows if row.family == family]
        right.set_yticks(range(len(names)), names)
        right.set(xlabel="VUS-PR", xlim=(0, 1))
        right.invert_yaxis()
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise InputError(f"--png: {path}: {' '.join(str(error).split())}") from None
