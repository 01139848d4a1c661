"""Reads tidy files: `series_id,timestamp,value[,is_anomaly]` (or `unique_id,ds,y`), parquet or CSV.

What is missing stays so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from forecaster import grid
from forecaster.domain import FloatArray, IntArray
from forecaster.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

MOST_COLUMNS = 500_000  # steps of one series
_NAMES = {"unique_id": "series_id", "ds": "timestamp", "y": "value"}


@dataclass(frozen=True, slots=True, eq=False)
class TidySeries:
    """One series of a file; times are ends of intervals."""

    name: str
    times: IntArray  # (n,) Unix seconds, ascending, each once
    values: FloatArray  # (n,)
    usual_step: int  # seconds; the median distance of its stamps, 0 where it has but one
    labels: FloatArray | None = None  # (n,) 1 anomaly, 0 none, NaN where nobody labelled; None without such a column
    quirks: tuple[str, ...] = ()  # what was odd about its rows, and what was made of it

    def on_grid(self, step: int) -> tuple[IntArray, FloatArray]:
        """(times, values) on the grid of `step` seconds: its times are whole multiples of it, NaN where nothing is.

        A stamp between two grid points counts at the later one, where it is known. Raises ValueError where that
        makes more than MOST_COLUMNS.
        """
        end, columns = self._columns(step)
        values = grid.on_grid(self.times, self.values, end, step, columns)
        return end - step * np.arange(columns - 1, -1, -1, dtype=np.int64), values

    def labels_on_grid(self, step: int) -> FloatArray:
        """(n,) the labels of the rows of `on_grid`; NaN where nobody labelled and where nothing is."""
        end, columns = self._columns(step)
        if self.labels is None:
            return np.full(columns, np.nan)
        return grid.on_grid(self.times, self.labels, end, step, columns)

    def _columns(self, step: int) -> tuple[int, int]:
        """(last time, number of columns) of its grid."""
        end = -grid.floor_to(-float(self.times[-1]), step)
        columns = (end - grid.floor_to(float(self.times[0]), step)) // step + 1
        if columns > MOST_COLUMNS:
            raise ValueError(f"{self.name} spans {columns} steps of {step} s")
        return end, columns


def read_tidy(path: Path, stamps_end: bool) -> Iterator[TidySeries]:
    """The series of a file, in order of name. `stamps_end` False: a stamp is the start of its interval.

    Raises InputError naming the file, the column or the row, and the mend.
    """
    import pandas as pd

    table = _table(path).rename(columns=_NAMES)
    for column in ("timestamp", "value"):
        if column not in table:
            raise InputError(f"{path}: no column {column!r}: write series_id,timestamp,value (or unique_id,ds,y)")
    if "series_id" not in table:
        table["series_id"] = path.stem
    seconds = _seconds(path, table["timestamp"])
    values = pd.to_numeric(table["value"], errors="coerce")
    odd = values.isna() & table["value"].notna()
    if odd.any():
        row = int(np.flatnonzero(odd.to_numpy())[0])
        raise InputError(f"{path}: value {table['value'].iloc[row]!r} in row {row + 1} is not a number")
    tidy = pd.DataFrame({"id": table["series_id"].astype(str), "t": seconds, "v": values.astype("float64")})
    labelled = "is_anomaly" in table
    if labelled:
        tidy["label"] = _labels(path, table["is_anomaly"])
    if not len(tidy):
        raise InputError(f"{path}: the file holds no rows")
    for name, part in tidy.groupby("id", sort=True):
        one = part.sort_values("t", kind="stable").drop_duplicates("t", keep="last")
        times = one["t"].to_numpy(dtype=np.int64)
        step = max(1, round(float(np.median(np.diff(times))))) if len(times) > 1 else 0
        found = one["v"].to_numpy(dtype=np.float64)
        found = np.where(np.isfinite(found), found, np.nan)
        yield TidySeries(
            name=str(name),
            times=times if stamps_end else times + step,
            values=found,
            usual_step=step,
            labels=one["label"].to_numpy(dtype=np.float64) if labelled else None,
            quirks=_quirks(part["t"].to_numpy(dtype=np.int64), times, step),
        )


def _quirks(as_written: IntArray, times: IntArray, step: int) -> tuple[str, ...]:
    """What was odd about the stamps of a series, in words."""
    said = []
    if (np.diff(as_written) < 0).any():
        said.append("its timestamps are not in order: they were sorted")
    twice = len(as_written) - len(times)
    if twice:
        said.append(f"{twice} of its timestamps come twice: the last row of each counts")
    between = int((np.diff(times) % step != 0).sum()) if step else 0
    if between:
        said.append(
            f"{between} of {len(times) - 1} distances of its timestamps are no multiple of its usual step of {step} s: "
            "each sample counts at the grid point that follows it"
        )
    return tuple(said)


def _labels(path: Path, column: pd.Series) -> pd.Series:
    """1 anomaly, 0 none, NaN nobody labelled; of booleans, numbers or words."""
    import pandas as pd

    words = {"true": 1.0, "1": 1.0, "1.0": 1.0, "false": 0.0, "0": 0.0, "0.0": 0.0}
    labels = column.astype("float64") if pd.api.types.is_bool_dtype(column) else None
    if labels is None:
        labels = column.astype("string").str.strip().str.lower().map(words).astype("float64")
    odd = labels.isna() & column.notna()
    if odd.any():
        row = int(np.flatnonzero(odd.to_numpy())[0])
        raise InputError(f"{path}: is_anomaly {column.iloc[row]!r} in row {row + 1}: write true or false, or nothing")
    return labels


def _table(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix == ".csv":
            return pd.read_csv(path)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except (OSError, ValueError, UnicodeDecodeError) as error:  # pyarrow's and pandas' errors are ValueErrors
        raise InputError(f"{path}: the file cannot be read: {' '.join(str(error).split())}") from None
    raise InputError(f"{path}: {path.suffix or 'a file without an ending'} is not known: write .parquet or .csv")


def _seconds(path: Path, stamps: pd.Series) -> pd.Series:
    """Unix seconds; numbers are taken as Unix seconds, text without a zone as UTC."""
    import pandas as pd

    if pd.api.types.is_numeric_dtype(stamps):
        return stamps.astype("int64")
    try:
        return pd.to_datetime(stamps, utc=True).astype("datetime64[s, UTC]").astype("int64")
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: a timestamp cannot be read: {' '.join(str(error).split())}") from None
