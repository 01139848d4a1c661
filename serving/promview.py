"""A read-only view of forecasts and past floors in Prometheus' own query API, so that Grafana can draw tomorrow.

Only selectors with label matchers (and sums of plain numbers, which clients use to test a connection): a function is
`bad_data`, since this is a view and not a query engine. Regular expressions run in RE2, whose time is linear.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import promql_parser as parser

from forecaster.domain import FloatArray
from forecaster.errors import InputError
from serving.render import Rendered
from serving.schemas import duration
from serving.store import Store

VIEW_LOAD = "forecaster_view_load"
VIEW_FLOOR = "forecaster_view_floor_replicas"
METADATA = {
    VIEW_LOAD: ("gauge", "Forecast load by quantile, at the time that it is forecast for."),
    VIEW_FLOOR: ("gauge", "Minimum of replicas that was recommended at that time."),
}
LOOKBACK = 300.0  # seconds, as Prometheus does
MOST_POINTS = 11_000  # per series, as Prometheus does
MOST_VALUES = 2_000_000
MOST_SERIES = 50_000
LONGEST_QUERY = 4_096
FLOOR_LASTS = 660.0  # seconds a stored floor counts: one is stored at least each five minutes

Labels = dict[str, str]
Selection = list[tuple[str, str, str]]  # (label, "=" | "!=" | "=~" | "!~", value), all of which hold


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What the answers are made from: the newest publication and the stored decisions."""

    rendered: Rendered | None
    store: Store | None

    def series(self, selection: Selection) -> list[Labels]:
        return list(self._chosen(selection))

    def values(self, selection: Selection, times: FloatArray) -> list[tuple[Labels, FloatArray]]:
        """Series that match, with a value per time; NaN where there is none."""
        chosen = list(self._chosen(selection))
        if len(chosen) * len(times) > MOST_VALUES:
            raise InputError(f"{len(chosen)} series of {len(times)} points are too many: narrow the selector")
        floors: Mapping[str, list[tuple[float, int | None]]] = {}
        if self.store is not None and len(times) and any(one["__name__"] == VIEW_FLOOR for one in chosen):
            since = max(float(times[0]) - FLOOR_LASTS, 0.0)
            until = min(float(times[-1]), datetime(2100, 1, 1, tzinfo=UTC).timestamp())
            if since <= until:
                floors = self.store.floors(datetime.fromtimestamp(since, UTC), datetime.fromtimestamp(until, UTC))
        out = []
        for labels in chosen:
            if labels["__name__"] == VIEW_LOAD:
                out.append((labels, self._load(labels, times)))
            else:
                out.append((labels, self._floor(labels, floors.get(labels["workload"], []), times)))
        return out

    def _all(self) -> Iterable[Labels]:
        if self.rendered is None:
            return
        forecast = self.rendered.publication.forecast
        for name, one in self.rendered.by_name.items():
            if forecast is not None and forecast.missing[one.row] is None:
                for level in forecast.levels:
                    yield {"__name__": VIEW_LOAD, "workload": name, "quantile": f"{level:g}"}
            scale = one.workload.scale
            if scale is not None:
                yield {"__name__": VIEW_FLOOR, "workload": name, "namespace": scale.namespace, "hpa": scale.hpa}

    def _chosen(self, selection: Selection) -> Iterable[Labels]:
        found = list(self._all())
        for label, sign, value in selection:
            keep = _matching({one.get(label, "") for one in found}, sign, value)
            found = [one for one in found if one.get(label, "") in keep]
        if len(found) > MOST_SERIES:
            raise InputError(f"{len(found)} series match: narrow the selector")
        return found

    def _load(self, labels: Labels, times: FloatArray) -> FloatArray:
        assert self.rendered is not None
        forecast = self.rendered.publication.forecast
        assert forecast is not None
        row = self.rendered.by_name[labels["workload"]].row
        column = [f"{level:g}" for level in forecast.levels].index(labels["quantile"])
        at = forecast.origin.timestamp() + forecast.horizons * forecast.step.total_seconds()
        known = forecast.values[row, :, column].astype(np.float64)
        inside = np.interp(times, at, known)
        return np.where((times >= at[0]) & (times <= at[-1] + LOOKBACK), inside, np.nan)

    def _floor(self, labels: Labels, stored: Sequence[tuple[float, int | None]], times: FloatArray) -> FloatArray:
        assert self.rendered is not None
        points = list(stored)
        recommendation, _ = self.rendered.recommended.get(labels["workload"], (None, 0.0))
        until = math.nan
        if recommendation is not None:
            made = recommendation.made_at.timestamp()
            points = [*[point for point in points if point[0] < made], (made, recommendation.floor)]
            until = recommendation.valid_until.timestamp()
        if not points:
            return np.full(len(times), np.nan)
        at = np.array([point[0] for point in points])
        floor = np.array([np.nan if point[1] is None else point[1] for point in points], dtype=np.float64)
        index = np.searchsorted(at, times, side="right") - 1
        lasts = np.full(len(at), FLOOR_LASTS)
        if recommendation is not None:
            lasts[-1] = until - at[-1]
        age = times - at[np.maximum(index, 0)]
        return np.where((index >= 0) & (age <= lasts[np.maximum(index, 0)]), floor[np.maximum(index, 0)], np.nan)


# --- requests --------------------------------------------------------------------------------------------------------


def query_range(view: View, form: Mapping[str, str]) -> dict[str, Any]:
    """Raises InputError, which the caller shows as bad_data."""
    start, end = timestamp(form.get("start"), "start"), timestamp(form.get("end"), "end")
    step = _step(form.get("step"))
    if end < start:
        raise InputError("end: it is before start")
    count = int((end - start) // step) + 1
    if count > MOST_POINTS:
        raise InputError("exceeded maximum resolution of 11,000 points per timeseries: raise the step")
    times = start + step * np.arange(count, dtype=np.float64)
    constant = _number(form.get("query", ""))
    if constant is not None:
        told = _text(constant)
        return _matrix([{"metric": {}, "values": [[at, told] for at in times.tolist()]}])
    result = []
    for labels, values in view.values(selection_of(form.get("query", "")), times):
        there = ~np.isnan(values)
        pairs = [[at, _text(v)] for at, v in zip(times[there].tolist(), values[there].tolist(), strict=True)]
        if pairs:
            result.append({"metric": labels, "values": pairs})
    return _matrix(result)


def query(view: View, form: Mapping[str, str], now: float) -> dict[str, Any]:
    at = timestamp(form["time"], "time") if form.get("time") else now
    constant = _number(form.get("query", ""))
    if constant is not None:
        return {"resultType": "scalar", "result": [at, _text(constant)]}
    found = view.values(selection_of(form.get("query", "")), np.array([at]))
    result = [{"metric": labels, "value": [at, _text(float(v[0]))]} for labels, v in found if not math.isnan(v[0])]
    return {"resultType": "vector", "result": result}


def series(view: View, selectors: Sequence[str]) -> list[Labels]:
    if not selectors:
        raise InputError("no match[] parameter provided")
    found = {tuple(sorted(one.items())): one for text in selectors for one in view.series(selection_of(text))}
    return list(found.values())


def labels(view: View, selectors: Sequence[str]) -> list[str]:
    return sorted({label for one in _some(view, selectors) for label in one})


def label_values(view: View, label: str, selectors: Sequence[str]) -> list[str]:
    return sorted({one[label] for one in _some(view, selectors) if label in one})


def metadata(name: str | None) -> dict[str, Any]:
    chosen = METADATA if not name else {key: value for key, value in METADATA.items() if key == name}
    return {key: [{"type": kind, "help": text, "unit": ""}] for key, (kind, text) in chosen.items()}


def _some(view: View, selectors: Sequence[str]) -> list[Labels]:
    return series(view, selectors) if selectors else view.series([])


def _matrix(result: list[Any]) -> dict[str, Any]:
    return {"resultType": "matrix", "result": result}


def _text(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def timestamp(text: str | None, name: str) -> float:
    """Unix seconds or RFC 3339, as Prometheus takes them."""
    if not text:
        raise InputError(f"{name}: it is missing")
    try:
        value = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
            value = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError, OSError):
            raise InputError(f"{name}: cannot parse {text[:60]!r} to a valid timestamp") from None
    if not -1e11 < value < 1e11:
        raise InputError(f"{name}: cannot parse {text[:60]!r} to a valid timestamp")
    return value


def _step(text: str | None) -> float:
    try:
        value: timedelta = duration(text)
    except ValueError:
        raise InputError("step: write seconds or a duration, e.g. 15 or 1m") from None
    return value.total_seconds()


def selection_of(text: str) -> Selection:
    """The matchers of a lone selector. Raises InputError for anything else."""
    if not 0 < len(text) <= LONGEST_QUERY:
        raise InputError("query: write a selector, e.g. " + VIEW_LOAD + '{workload="checkout"}')
    node = _parsed(text)
    while isinstance(node, parser.ParenExpr):
        node = node.expr
    if not isinstance(node, parser.VectorSelector) or node.offset is not None or node.at is not None:
        raise InputError(
            "this is a view over stored forecasts: it knows selectors with label matchers, no functions, operators, "
            "ranges or offsets"
        )
    if node.matchers.or_matchers:
        raise InputError("alternatives with `or` inside of a selector are not known here")
    signs = ((parser.MatchOp.Equal, "="), (parser.MatchOp.NotEqual, "!="), (parser.MatchOp.Re, "=~"))
    chosen: Selection = [("__name__", "=", node.name)] if node.name else []
    for one in node.matchers.matchers:
        chosen.append((one.name, next((sign for op, sign in signs if one.op == op), "!~"), one.value))
    return chosen


def _number(text: str) -> float | None:
    """The value of plain arithmetic on numbers, None for anything else: clients send `1+1` to test a connection."""
    if not re.fullmatch(r"[\d\s.+*()-]{1,40}", text):
        return None
    try:
        return _evaluated(_parsed(text))
    except (InputError, RecursionError):
        return None


def _evaluated(node: parser.Expr) -> float | None:
    if isinstance(node, parser.NumberLiteral):
        return float(node.val)
    if isinstance(node, parser.ParenExpr):
        return _evaluated(node.expr)
    if isinstance(node, parser.BinaryExpr):
        left, right = _evaluated(node.lhs), _evaluated(node.rhs)
        if left is not None and right is not None:
            return {"+": left + right, "-": left - right, "*": left * right}.get(str(node.op))
    return None


def _parsed(text: str) -> parser.Expr:
    try:
        return parser.parse(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"invalid parameter 'query': {error}") from None


def _matching(values: set[str], sign: str, wanted: str) -> set[str]:
    if sign in ("=", "!="):
        same = {wanted} & values
    else:
        same = _regex(values, wanted)
    return same if sign in ("=", "=~") else values - same


def _regex(values: set[str], pattern: str) -> set[str]:
    if re.fullmatch(r"[\w/ |-]*", pattern):
        return values & set(pattern.split("|"))
    import pyarrow as pa  # late: 40 MB that most answers do not need
    import pyarrow.compute as pc

    listed = sorted(values)
    try:
        found = pc.match_substring_regex(pa.array(listed, pa.string()), f"^(?s:(?:{pattern}))$").to_pylist()
    except pa.ArrowInvalid as error:
        raise InputError(f"invalid regular expression: {error}") from None
    return {value for value, matches in zip(listed, found, strict=True) if matches}
