"""What the reports of benchmarks share: figures as text, tables, and JSON without what it cannot say."""

from __future__ import annotations

import io
import math
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

PLAIN_WIDTH = 200  # where no terminal says how wide it is
DIVERGES = 1_000.0


def terminal(width: int | None) -> tuple[io.StringIO, Console]:
    """A text, and the console that writes to it; `width` of the terminal, None where there is none."""
    file = io.StringIO()
    console = Console(file=file, width=max(width or 0, PLAIN_WIDTH), force_terminal=width is not None, highlight=False)
    return file, console


def without_nan(value: Any) -> Any:
    """The same without what JSON cannot say: NaN and infinities become null."""
    if isinstance(value, dict):
        return {key: without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_nan(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def digits(value: float, places: int = 3) -> str:
    """A figure; what is not known is a dash."""
    if math.isnan(value):
        return "-"
    return "diverges" if value > DIVERGES else f"{value:.{places}f}"


def percent(value: float) -> str:
    """A share; what is not known is a dash."""
    return "-" if math.isnan(value) else f"{value:.1%}"


def new_table(title: str, *columns: str, left: int = 2) -> Table:
    """An empty table whose first `left` columns are text."""
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i < left else "right", no_wrap=True)
    return table
