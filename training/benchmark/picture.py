"""A picture of a benchmark: relative WQL of each family, a panel a horizon."""

from __future__ import annotations

import math
from pathlib import Path

from forecaster.errors import InputError
from training.benchmark.answers import OURS
from training.benchmark.panels import HORIZONS
from training.benchmark.run import Told

LOW, HIGH = 0.03, 4.0  # what lies beyond is drawn at the edge
_MARKERS = "ovs^Dp*XPhd"


def picture(told: Told, path: Path) -> None:
    """Writes it; the ending says the format. Raises InputError where it cannot be written so."""
    from matplotlib.figure import Figure

    horizons = [horizon for horizon in HORIZONS if any(row.horizon == horizon for row in told.rows)]
    families = list(dict.fromkeys(row.family for row in told.rows))
    figure = Figure(figsize=(4 + 2.6 * max(len(horizons), 1), 2.2 + 0.34 * len(families)), layout="constrained")
    axes = figure.subplots(1, max(len(horizons), 1), sharey=True, squeeze=False)[0]
    by = {(row.family, row.horizon, row.model): row.figures["relativeWql"] for row in told.rows}
    for place, (horizon, one) in enumerate(zip(horizons, axes, strict=True)):
        for i, name in enumerate(reversed(told.models)):
            shown = [(by.get((family, horizon, name), math.nan), y) for y, family in enumerate(families)]
            shown = [(min(max(value, LOW), HIGH), y) for value, y in shown if not math.isnan(value)]
            mine = name == OURS
            one.scatter(
                [value for value, _ in shown],
                [y for _, y in shown],
                s=70 if mine else 26,
                marker=_MARKERS[(len(told.models) - 1 - i) % len(_MARKERS)],
                color="black" if mine else f"C{i % 10}",
                alpha=1.0 if mine else 0.8,
                zorder=3 if mine else 2,
                label=name if place == 0 else None,
            )
        one.axvline(1.0, color="0.6", linewidth=0.8, zorder=1)
        one.set_xscale("log")
        one.set_xlim(LOW * 0.9, HIGH * 1.1)
        one.set_xticks([0.03, 0.1, 0.3, 1.0, 3.0], ["0.03", "0.1", "0.3", "1", "3"])
        one.minorticks_off()
        one.set_title(f"{horizon} ahead", fontsize=10)
        one.grid(axis="y", color="0.92")
        one.tick_params(labelsize=8)
    axes[0].set_yticks(range(len(families)), families)
    axes[0].invert_yaxis()
    figure.suptitle(
        f"WQL over that of daily seasonal naive, {told.asked.part} part: further left is better", fontsize=11
    )
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles[::-1],
        labels[::-1],
        loc="outside lower center",
        ncols=min(len(told.models), 5),
        fontsize=8,
        frameon=False,
    )
    try:
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as error:
        raise InputError(f"--png: {path}: {' '.join(str(error).split())}") from None
