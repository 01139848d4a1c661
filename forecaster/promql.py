"""What we need to know of a PromQL expression before it is sent: that it parses, what it keeps, what it may cost.

Rests on promql-parser, which knows no dialects (MetricsQL) and gives no column in its errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import promql_parser as parser

from forecaster.errors import InputError

LONGEST_UNTRUSTED = 4_096  # characters
MOST_SELECTORS = 16
MOST_SUBQUERY_POINTS = 11_000
DEFAULT_SUBQUERY_STEP = timedelta(minutes=1)  # Prometheus' evaluation interval, where the query does not say

_ELEMENTWISE = frozenset({"abs", "ceil", "clamp", "clamp_max", "clamp_min", "floor", "round", "sort", "sort_desc"})
_NO_LABELS = frozenset({"absent", "absent_over_time", "scalar", "time", "vector", "pi"})
_KEEPS_SERIES = frozenset({"topk", "bottomk", "limitk", "limit_ratio"})


@dataclass(frozen=True, slots=True)
class Selector:
    """One vector selector of an expression."""

    name: str | None
    matchers: tuple[tuple[str, str, str], ...]  # (label, "=" | "!=" | "=~" | "!~", value)


def check_query(text: str) -> None:
    """Raises InputError, in the parser's words, where `text` is not an expression with one value per series."""
    expression = _parse(text)
    while isinstance(expression, parser.ParenExpr):
        expression = expression.expr
    if isinstance(expression, (parser.MatrixSelector, parser.SubqueryExpr)):
        raise InputError(f"{text!r} gives a range of samples per series: write a function over it, such as rate(…)")
    if isinstance(expression, parser.StringLiteral):
        raise InputError(f"{text!r} is a text, not an expression with a value")


def check_template(text: str, labels: Sequence[str]) -> None:
    """Raises InputError where the expression loses a label that its template makes workloads of."""
    check_query(text)
    expression = _parse(text)
    lost = [label for label in labels if not _keeps(expression, label)]
    if lost:
        raise InputError(
            f"{text!r} loses {', '.join(lost)}, which forEach names: aggregate with by ({', '.join(labels)})"
        )


def count_behind_sum(query: str) -> str | None:
    """The number of series that the outermost sum adds up, as PromQL; None where there is no sum outermost.

    A sum that falls because half of its scrape targets are gone shows in this count.
    """
    expression = _outermost(_parse(query))
    if not isinstance(expression, parser.AggregateExpr) or str(expression.op) != "sum":
        return None
    modifier = "" if expression.modifier is None else f" {expression.modifier}"
    return f"count{modifier} ({expression.expr})"


def selectors(query: str) -> tuple[Selector, ...]:
    """All vector selectors of the expression."""
    found = []
    for node, _ in _nodes(_parse(query)):
        if isinstance(node, parser.VectorSelector):
            found.append(Selector(node.name, tuple(_matchers(node))))
    return tuple(found)


def limits_for_untrusted(
    query: str, max_range: timedelta = timedelta(days=7), max_offset: timedelta = timedelta(days=60)
) -> None:
    """Raises InputError for an expression that could hurt Prometheus; for PromQL that comes by REST.

    Each selector must name a metric or match a label exactly; ranges, offsets and the points of a subquery are bounded,
    and subqueries do not nest.
    """
    if len(query) > LONGEST_UNTRUSTED:
        raise InputError(f"the expression has {len(query)} characters, at most {LONGEST_UNTRUSTED} are allowed")
    check_query(query)
    count = 0
    for node, depth in _nodes(_parse(query)):
        if isinstance(node, parser.VectorSelector):
            count += 1
            if not _is_narrow(node):
                raise InputError(f"the selector {node} may match everything: name a metric or match a label with =")
            offset = node.offset
        elif isinstance(node, parser.MatrixSelector):
            offset = None
            _bound("range", node.range or timedelta(0), max_range)
        elif isinstance(node, parser.SubqueryExpr):
            offset = node.offset
            reach = node.range or timedelta(0)
            _bound("subquery", reach, max_range)
            if depth:
                raise InputError("subqueries may not nest")
            points = reach / max(node.step or DEFAULT_SUBQUERY_STEP, timedelta(milliseconds=1))
            if points > MOST_SUBQUERY_POINTS:
                raise InputError(f"a subquery has {points:.0f} points, at most {MOST_SUBQUERY_POINTS} are allowed")
        else:
            continue
        if offset is not None:
            _bound("offset", abs(offset), max_offset)
    if count > MOST_SELECTORS:
        raise InputError(f"the expression has {count} selectors, at most {MOST_SELECTORS} are allowed")


# --- the tree --------------------------------------------------------------------------------------------------------


def _parse(text: str) -> parser.Expr:
    if not text.strip():
        raise InputError("the expression is empty")
    try:
        return parser.parse(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{text!r} is not PromQL: {error}") from error


def _children(node: parser.Expr) -> list[parser.Expr]:
    if isinstance(node, parser.AggregateExpr):
        return [node.expr] if node.param is None else [node.expr, node.param]
    if isinstance(node, parser.BinaryExpr):
        return [node.lhs, node.rhs]
    if isinstance(node, parser.Call):
        return list(node.args)
    if isinstance(node, parser.MatrixSelector):
        return [node.vector_selector]
    if isinstance(node, (parser.ParenExpr, parser.SubqueryExpr, parser.UnaryExpr)):
        return [node.expr]
    return []


def _nodes(root: parser.Expr) -> Iterator[tuple[parser.Expr, int]]:
    """All nodes, each with the number of subqueries around it."""
    todo = [(root, 0)]
    while todo:
        node, depth = todo.pop()
        yield node, depth
        inner = depth + isinstance(node, parser.SubqueryExpr)
        todo += [(child, inner) for child in _children(node)]


def _outermost(node: parser.Expr) -> parser.Expr:
    """Down through brackets, numbers that scale the whole, and functions that work on each value alone."""
    while True:
        if isinstance(node, parser.ParenExpr):
            node = node.expr
        elif isinstance(node, parser.Call) and node.func.name in _ELEMENTWISE and node.args:
            node = node.args[0]
        elif isinstance(node, parser.BinaryExpr) and isinstance(node.rhs, parser.NumberLiteral):
            node = node.lhs
        elif isinstance(node, parser.BinaryExpr) and isinstance(node.lhs, parser.NumberLiteral):
            node = node.rhs
        else:
            return node


def _matchers(node: parser.VectorSelector) -> Iterator[tuple[str, str, str]]:
    signs = ((parser.MatchOp.Equal, "="), (parser.MatchOp.NotEqual, "!="), (parser.MatchOp.Re, "=~"))
    alternatives = [node.matchers.matchers, *node.matchers.or_matchers]
    for matcher in [one for matchers in alternatives for one in matchers]:
        sign = next((text for op, text in signs if matcher.op == op), "!~")
        yield matcher.name, sign, matcher.value


def _is_narrow(node: parser.VectorSelector) -> bool:
    if node.name:
        return True
    alternatives = [matchers for matchers in (node.matchers.matchers, *node.matchers.or_matchers) if matchers]
    return bool(alternatives) and all(
        any(one.op == parser.MatchOp.Equal and one.value for one in matchers) for matchers in alternatives
    )


def _bound(what: str, value: timedelta, most: timedelta) -> None:
    if value > most:
        raise InputError(f"a {what} of {value} is longer than the {most} that are allowed")


def _keeps(node: parser.Expr, label: str) -> bool:
    """Whether the series of the result can still tell `label`."""
    if isinstance(node, parser.AggregateExpr):
        op = str(node.op)
        if op in _KEEPS_SERIES:
            return _keeps(node.expr, label)
        if op == "count_values" and isinstance(node.param, parser.StringLiteral) and node.param.val == label:
            return True
        if node.modifier is None:
            return False
        named = label in node.modifier.labels
        wanted = named if node.modifier.type == parser.AggModifierType.By else not named
        return wanted and _keeps(node.expr, label)
    if isinstance(node, parser.BinaryExpr):
        return _binary_keeps(node, label)
    if isinstance(node, parser.Call):
        name = node.func.name
        if name in _NO_LABELS:
            return False
        if name in ("label_replace", "label_join") and isinstance(node.args[1], parser.StringLiteral):
            return node.args[1].val == label or _keeps(node.args[0], label)
        if name in ("histogram_quantile", "histogram_fraction") and label == "le":
            return False
        return any(_keeps(child, label) for child in node.args)
    if isinstance(node, parser.VectorSelector):
        return True
    return any(_keeps(child, label) for child in _children(node))


def _binary_keeps(node: parser.BinaryExpr, label: str) -> bool:
    op = str(node.op)
    if op in ("and", "unless"):
        return _keeps(node.lhs, label)
    if op == "or":
        return _keeps(node.lhs, label) and _keeps(node.rhs, label)
    if _is_scalar(node.lhs):
        return _keeps(node.rhs, label)
    if _is_scalar(node.rhs) or node.modifier is None:
        return _keeps(node.lhs, label)
    modifier = node.modifier
    many = modifier.card
    if many == parser.VectorMatchCardinality.ManyToOne:
        return _keeps(node.lhs, label) or label in (modifier.group_labels or ())
    if many == parser.VectorMatchCardinality.OneToMany:
        return _keeps(node.rhs, label) or label in (modifier.group_labels or ())
    if modifier.matching is not None:
        named = label in modifier.matching.labels
        if named != (modifier.matching.type == parser.LabelModifierType.Include):
            return False
    return _keeps(node.lhs, label)


def _is_scalar(node: parser.Expr) -> bool:
    if isinstance(node, (parser.ParenExpr, parser.UnaryExpr)):
        return _is_scalar(node.expr)
    if isinstance(node, parser.BinaryExpr):
        return _is_scalar(node.lhs) and _is_scalar(node.rhs)
    return isinstance(node, parser.NumberLiteral) or (
        isinstance(node, parser.Call) and node.func.name in ("scalar", "time", "pi")
    )


# --- composed --------------------------------------------------------------------------------------------------------


def bracketed(text: str) -> str:
    """The expression in brackets, as an instant vector, fit to stand inside another one.

    Its own text is kept. A line feed ends the comment that it may hold; a scalar becomes a vector without labels.
    Raises InputError as `check_query`.
    """
    check_query(text)
    inner = f"{text.strip()}\n" if "#" in text else text.strip()
    return f"vector({inner})" if _is_scalar(_parse(text)) else f"({inner})"
