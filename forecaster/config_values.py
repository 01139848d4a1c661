"""Values as they are written in the configuration: durations, quantities, shares, names. Text in, numbers out.

Every parser takes what YAML (or an environment variable) gave and raises `bad(what, write)`: what is wrong with the
value, and what to write instead.
"""

from __future__ import annotations

import difflib
import math
import re
import zoneinfo
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic_core import PydanticCustomError

from forecaster.domain import ScheduleWindow
from forecaster.errors import InputError
from forecaster.promql import check_query, check_template
from forecaster.scaling import schedule

_UNITS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
DURATION_PATTERN = r"^(?=.)(\d+w)?(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?$"
_DURATION = re.compile(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?", re.ASCII)
_SUFFIXES = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_SUFFIXES |= {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60}
_NUMBER = r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_QUANTITY = re.compile(rf"({_NUMBER})([numkMGTPE]|[KMGTPE]i)?", re.ASCII)
_LOOK_ALIKE = str.maketrans({"O": "0", "o": "0", "l": "1", "I": "1", "S": "5", ",": "."})
_DNS = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", re.ASCII)
PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*", re.ASCII)
LONGEST_NAME = 253


def bad(what: str, write: str, value: str | None = None, at: tuple[str | int, ...] = ()) -> PydanticCustomError:
    """What is wrong and what to write.

    `value` replaces the value as it stands, where that must not be shown; `at` leads from the value that was judged to
    the part of it that is wrong.
    """
    context: dict[str, Any] = {"what": what, "write": write, "at": at}
    if value is not None:
        context["shown"] = value
    return PydanticCustomError("bad", "{what}: write {write}", context)


def closest(word: str, known: Collection[str]) -> str | None:
    """The known word that was probably meant."""
    lowered = {one.replace("_", "").lower(): one for one in known}
    found = difflib.get_close_matches(word.replace("_", "").lower(), lowered, n=1, cutoff=0.7)
    return lowered[found[0]] if found else None


# --- durations -------------------------------------------------------------------------------------------------------


def duration_text(value: timedelta) -> str:
    """As it is written: 1h30m."""
    rest = value // timedelta(milliseconds=1)
    text = ""
    for unit, size in _UNITS.items():
        if unit == "w":  # 28d reads better than 4w
            continue
        count, rest = divmod(rest, size)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def parse_duration(value: object) -> timedelta:
    """`1h30m` as a timedelta. Raises where it is not that."""
    if isinstance(value, timedelta):
        return value
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number or (isinstance(value, str) and re.fullmatch("[0-9]+", value)):
        raise bad("has no unit", f"{value}s, {value}m or {value}h")
    if not isinstance(value, str) or not value:
        raise bad("is not a duration", "5m, 1h30m, 15s or 500ms")
    exact = _exact_duration(value)
    if exact is None:
        raise bad("is not a duration", _duration_hint(value))
    return exact


def duration(least: str, most: str) -> Callable[[object], timedelta]:
    """A parser of durations between two others."""
    low, high = parse_duration(least), parse_duration(most)

    def parse(value: object) -> timedelta:
        parsed = parse_duration(value)
        if not low <= parsed <= high:
            raise bad("is out of range", f"a duration from {least} to {most}")
        return parsed

    return parse


def _exact_duration(text: str) -> timedelta | None:
    found = _DURATION.fullmatch(text)
    if found is None:
        return None
    milliseconds = sum(
        int(count) * size
        for count, size in zip(found.groups(), _UNITS.values(), strict=True)
        if count and len(count) < 16
    )
    if any(count and len(count) >= 16 for count in found.groups()):
        return timedelta.max
    return timedelta(milliseconds=milliseconds) if milliseconds < 3e14 else timedelta.max


def _duration_hint(text: str) -> str:
    parts = re.findall(r"([0-9.]+)\s*([A-Za-zµ]+)", text.translate({ord("O"): "0"}))
    total = 0.0
    for number, unit in parts:
        name = _unit_named(unit)
        try:
            total += float(number) * _UNITS[name]
        except (ValueError, KeyError):
            return "5m, 1h30m, 15s or 500ms"
    if not parts or not 1 <= total < 3e14 or re.sub(r"[0-9.]+\s*[A-Za-zµ]+|[\s,]", "", text.replace("O", "0")):
        return "5m, 1h30m, 15s or 500ms"
    return duration_text(timedelta(milliseconds=total))


def _unit_named(unit: str) -> str:
    low = unit.lower()
    for prefix, name in (("ms", "ms"), ("mil", "ms"), ("m", "m"), ("s", "s"), ("h", "h"), ("d", "d"), ("w", "w")):
        if low.startswith(prefix) and not (low.startswith("mo")):
            return name
    return ""


# --- numbers ---------------------------------------------------------------------------------------------------------


def quantity_of(text: str) -> float | None:
    """`250m`, `1.5k`, `2Gi` or a plain number; None where it is none."""
    found = _QUANTITY.fullmatch(text.strip())
    if found is None:
        return None
    return float(found[1]) * _SUFFIXES[found[2] or ""]


def quantity(least: float, most: float, above: bool = False) -> Callable[[object], float]:
    """A parser of numbers from `least` (or `above` it) to `most`."""
    low = f"above {least:g}" if above else f"of at least {least:g}"

    def parse(value: object) -> float:
        number = _number(value)
        if number is None:
            raise bad("is not a number", number_hint(value) or f"a number {low}, such as 250m, 1.5 or 2k")
        if not (least <= number <= most) or (above and number == least):
            raise bad("is out of range", f"a number {low} and at most {most:g}")
        return number

    return parse


def share(least: float, most: float) -> Callable[[object], float]:
    """A parser of shares, written `1%` or `0.01`, between two others."""

    def parse(value: object) -> float:
        text = str(value).strip()
        is_percentage = isinstance(value, str) and text.endswith("%")
        number = _number(text[:-1].rstrip()) if is_percentage else _number(value)
        span = f"from {percentage_text(least)} to {percentage_text(most)}"
        if number is None:
            hint = number_hint(text.rstrip("%"))
            raise bad(
                "is not a share", f"{hint}%" if hint else f"a percentage {span}, such as {percentage_text(least)}"
            )
        ratio = number / 100 if is_percentage else number
        if least <= ratio <= most:
            return ratio
        if not is_percentage and least <= number / 100 <= most:
            raise bad(f"is {percentage_text(ratio)}", f"{number:g}% if that is meant, else a percentage {span}")
        raise bad("is out of range", f"a percentage {span}")

    return parse


def count(least: int, most: int) -> Callable[[object], int]:
    """A parser of whole numbers between two others."""

    def parse(value: object) -> int:
        number = _number(value)
        if number is None or number != math.floor(number):
            hint = number_hint(value) if number is None else None
            raise bad("is not a whole number", hint or f"a whole number from {least} to {most}")
        if not least <= number <= most:
            raise bad("is out of range", f"a whole number from {least} to {most}")
        return int(number)

    return parse


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        value = quantity_of(value)
    if isinstance(value, (int, float)) and math.isfinite(value):
        return float(value)
    return None


def number_hint(value: object) -> str | None:
    """`10` for `1O`: what was probably meant."""
    text = str(value).strip()
    mended = text.translate(_LOOK_ALIKE)
    if isinstance(value, str) and mended != text and any(c.isdigit() for c in text) and quantity_of(mended) is not None:
        return mended
    return None


def percentage_text(ratio: float) -> str:
    """As it is written: 0.1%."""
    return f"{ratio * 100:.10g}%"


# --- text ------------------------------------------------------------------------------------------------------------


def text(value: object) -> str:
    """A text that is not empty."""
    if isinstance(value, str) and value.strip():
        return value
    if value is None or value == "":
        raise bad("is empty", "a text, or remove the line")
    if isinstance(value, dict):
        raise bad("is not text", "a text, in quotes where it begins with {")
    shown = str(value).lower() if isinstance(value, bool) else value
    raise bad("is not text", f'"{shown}" in quotes' if isinstance(value, (bool, int, float)) else "a text")


def boolean(value: object) -> bool:
    """true or false; the words themselves where they come from the environment."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise bad("is neither true nor false", "true or false")


def choice(*words: str) -> Callable[[object], str]:
    """One of some words."""

    def parse(value: object) -> str:
        if isinstance(value, str) and value in words:
            return value
        near = closest(value, words) if isinstance(value, str) else None
        allowed = ", ".join(words[:-1]) + (" or " if len(words) > 1 else "") + words[-1]
        raise bad("is not known", near or allowed)

    return parse


def file_path(value: object) -> Path:
    """The path of a file; whether it can be read shows when it is read, for secrets rotate."""
    return Path(text(value))


def timezone(value: object) -> str:
    """An IANA time zone."""
    name = text(value)
    try:
        schedule.zone_of(name)
    except ValueError:
        raise bad("is not an IANA time zone", _zone_near(name)) from None
    return name


def _zone_near(name: str) -> str:
    zones = _zones()
    city = name.rpartition("/")[2].replace(" ", "_").lower()
    for zone in zones:
        if zone.rpartition("/")[2].lower() == city and "/" in zone:
            return zone
    return closest(name, zones) or "Europe/Berlin or UTC"


@cache
def _zones() -> tuple[str, ...]:
    return tuple(sorted(zoneinfo.available_timezones() - set(schedule.NO_PLACE)))


def cron(value: object) -> str:
    """A cron of five fields that fires at all."""
    expression = text(value)
    try:
        _check_cron(expression)
    except InputError as error:
        what, _, write = str(error).removeprefix(f"schedule {expression!r}: ").partition(": write ")
        fires = not what.startswith("it never fires")
        raise bad(
            f"is not a cron: {what}" if fires else what.removeprefix("it "),
            write or 'minute hour day month weekday, as in "0 8 * * 1-5"',
        ) from None
    return expression


@cache  # thousands of workloads share a few crons
def _check_cron(expression: str) -> None:
    schedule.validate(ScheduleWindow(expression, timedelta(hours=1), "UTC", 1))


# --- PromQL ----------------------------------------------------------------------------------------------------------


def promql(value: object) -> str:
    """An expression with one value per series."""
    expression = text(value)
    try:
        check_query(expression)
    except InputError as error:
        raise _refused(expression, error) from None
    return expression


def check_labels(expression: str, labels: Sequence[str], at: tuple[str | int, ...]) -> None:
    """Raises where the expression loses one of the labels that its template makes workloads of."""
    try:
        check_template(expression, labels)
    except InputError as error:
        raise _refused(expression, error, at) from None


def keeps_labels(expression: str, labels: Sequence[str]) -> bool:
    """Whether its series can be told apart by these labels."""
    try:
        check_template(expression, labels)
    except InputError:
        return False
    return True


def capacity(value: object) -> float | str | None:
    """A number above 0, PromQL that gives it, or None for `learned`."""
    if value == "learned":
        return None
    is_text = isinstance(value, str) and quantity_of(value) is None
    if not is_text or number_hint(value):
        return quantity(0, 1e15, above=True)(value)
    return promql(value)


def _refused(expression: str, error: InputError, at: tuple[str | int, ...] = ()) -> PydanticCustomError:
    words = " ".join(str(error).removeprefix(f"{expression!r} ").split())
    what, _, write = words.partition(": write ")
    if not write:
        what, _, by = words.partition(": aggregate with ")
        write = f"an aggregation {by}" if by else "PromQL, such as sum(rate(http_requests_total[1m]))"
    return bad(what, write, at=at)


# --- names -----------------------------------------------------------------------------------------------------------


def workload_name(value: object) -> str:
    """A workload's name, which may hold {label} placeholders."""
    name = text(value)
    if len(name) > LONGEST_NAME or not _NAME.fullmatch(PLACEHOLDER.sub("x", name)):
        raise bad(
            "is not a name", f"letters, digits and . _ : / - , beginning with a letter or digit, at most {LONGEST_NAME}"
        )
    return name


def short_name(value: object, example: str = "on-call") -> str:
    """At most 63 letters, digits and . _ -"""
    name = text(value)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name, re.ASCII):
        raise bad("is not a name", f"letters, digits and . _ - , such as {example}")
    return name


def resource_name(value: object) -> str:
    name = short_name(value, "memory")
    if name == "load":
        raise bad("is the name of the load itself", "another name")
    return name


def label_name(value: object) -> str:
    name = text(value)
    if not LABEL.fullmatch(name) or name.startswith("__"):
        raise bad("is not a label", "a label of the query's series, such as namespace")
    return name


def hpa(value: object) -> str:
    """namespace/name, which may hold {label} placeholders."""
    whole = text(value)
    parts = PLACEHOLDER.sub("x", whole).split("/")
    if len(parts) != 2 or not all(_DNS.fullmatch(part) and len(part) <= LONGEST_NAME for part in parts):
        example = f"default/{whole}" if len(parts) == 1 and _DNS.fullmatch(parts[0]) else "shop/checkout"
        raise bad("is not namespace/name", f"{example}, in lower case")
    return whole


# --- addresses -------------------------------------------------------------------------------------------------------


def http_url(value: object) -> str:
    """http(s)://host[:port][/path]; a user and password only come from the environment (see config.py)."""
    url = text(value).strip()
    if "://" not in url:
        shown = redacted(f"http://{url}")
        raise bad("is not a URL", shown, shown.removeprefix("http://"))
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise bad("is not a URL", "http://prometheus:9090", redacted(url)) from None
    if parts.scheme not in ("http", "https"):
        raise bad(f"has the scheme {parts.scheme!r}", "http://… or https://…", redacted(url))
    if not parts.hostname or port == 0 or re.search(r"\s", url):
        raise bad("is not a URL", "http://prometheus:9090", redacted(url))
    if parts.query or parts.fragment:
        raise bad("holds more than scheme, host, port and path", redacted(re.split("[?#]", url)[0]), redacted(url))
    return url.rstrip("/")


def store_url(value: object) -> str:
    """sqlite:///FILE or postgresql://HOST/NAME."""
    url = text(value).strip()
    scheme, separator, rest = url.partition("://")
    dialect = scheme.partition("+")[0]
    if not separator:
        shown = redacted(f"://{url}").removeprefix("://")
        raise bad("is not a URL", f"sqlite:///{shown}" if shown == url else "postgresql://HOST/NAME", shown)
    if dialect == "postgres":
        raise bad("has an old scheme", f"postgresql://{redacted(url).partition('://')[2]}", redacted(url))
    if dialect not in ("sqlite", "postgresql"):
        raise bad(f"has the scheme {scheme!r}", "sqlite:///FILE or postgresql://HOST/NAME", redacted(url))
    if dialect == "sqlite" and not rest.startswith("/") and rest:
        raise bad(
            "lacks a slash",
            f"sqlite:///{redacted(f'://{rest}')[3:]} (four slashes for an absolute path)",
            redacted(url),
        )
    return url


def tracking_uri(value: object) -> str:
    """http(s)://HOST[:PORT][/PATH], or sqlite:///FILE."""
    url = text(value).strip()
    scheme, separator, rest = url.partition("://")
    if scheme == "sqlite" and separator:
        if not rest.startswith("/") or len(rest) < 2:
            raise bad("names no file", "sqlite:///mlflow.db (four slashes for an absolute path)", redacted(url))
        return url
    if not separator or scheme not in ("http", "https"):
        raise bad("is not the address of an MLflow server", "http://mlflow:5000 or sqlite:///mlflow.db", redacted(url))
    return http_url(url)


MODEL_PATTERN = r"^(bundled|models:/[A-Za-z0-9_. -]+@[A-Za-z0-9_-]+|(?!models:).*/.*)$"


def model(value: object) -> str:
    """`bundled`, `models:/NAME@ALIAS`, or the path of an artifact's folder, which has a slash."""
    name = text(value).strip()
    if name.startswith("models:"):
        if not re.fullmatch(r"models:/[A-Za-z0-9_. -]+@[A-Za-z0-9_-]+", name):
            raise bad("names no alias of a registered model", "models:/forecaster@champion")
        return name
    if name != "bundled" and "/" not in name:
        raise bad("is not known", closest(name, ("bundled",)) or f"bundled, models:/NAME@ALIAS, or a folder: ./{name}")
    return name


def has_password(url: str) -> bool:
    """Whether a secret stands in the URL."""
    return redacted(url) != url


def redacted(url: str) -> str:
    """The URL as it may be shown. Up to the last @, for a password may hold an @ or / that was not escaped."""
    shown = re.sub(r"(://[^/@:]*):.*@", r"\1:***@", url)
    return re.sub(r"([?&](?:password|token)=)[^&]+", r"\1***", shown, flags=re.IGNORECASE)
