"""Draws a week of each recipe of synthetic data: docs/images/synthetic-FAMILY.png, one panel for each recipe.

Run it from the root of the repository: python tools/synthetic_plots.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.synthetic import RECIPES, Recipe
from training.synthetic_clock import Clock

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
COLUMNS = 3
DAY = 288  # columns of 5 minutes
MONTH = Clock(step=300, first_end=1_709_510_400 + 300, size=28 * DAY)  # from Monday 2024-03-04, UTC
WEEK = slice(14 * DAY, 21 * DAY)
SEED = 2
LINE, MARK, GRID = "#1f4e79", "#c0392b", "#d9d9d9"


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    for family in dict.fromkeys(recipe.family for recipe in RECIPES):
        ours = [recipe for recipe in RECIPES if recipe.family == family]
        path = IMAGES / f"synthetic-{family}.png"
        figure(ours).savefig(path, dpi=110, metadata={"Software": None})
        print(f"wrote {path.relative_to(IMAGES.parent.parent)}")


def figure(recipes: list[Recipe]) -> Figure:
    rows = -(-len(recipes) // COLUMNS)
    page = Figure(figsize=(10.5, 1.45 * rows + 0.2), layout="constrained")
    panels = page.subplots(rows, COLUMNS, squeeze=False).ravel()
    for panel, recipe in zip(panels, recipes, strict=False):
        draw(panel, recipe)
    for panel in panels[len(recipes) :]:
        panel.set_axis_off()
    return page


def draw(panel: Axes, recipe: Recipe) -> None:
    """One week of one series, in black and white but for samples that are clipped at capacity."""
    load = recipe.draw(np.random.default_rng((SEED, RECIPES.index(recipe))), MONTH)
    values = load.values[WEEK]
    days = np.arange(len(values)) / DAY
    panel.plot(days, values, color=LINE, linewidth=0.7)
    if load.saturated is not None:
        panel.plot(days, np.where(load.saturated[WEEK], values, np.nan), color=MARK, linewidth=1.4)
    panel.set_title(recipe.name, fontsize=8, loc="left", pad=2)
    panel.set_xlim(0, 7)
    panel.set_xticks(np.arange(7) + 0.5, list("MTWTFSS"), fontsize=6)
    panel.set_xticks(np.arange(8), minor=True)
    panel.grid(axis="x", which="minor", color=GRID, linewidth=0.6)
    panel.tick_params(axis="x", which="both", length=0)
    low, high = values.min(), values.max()
    room = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
    panel.set_ylim(low - room, high + room)
    panel.set_yticks([low, high], [f"{low:.3g}", f"{high:.3g}"] if high > low else ["", f"{high:.3g}"], fontsize=6)
    for side in ("top", "right", "left", "bottom"):
        panel.spines[side].set_color(GRID)


if __name__ == "__main__":
    main()
