"""What is wrong with a configuration, in lines that name place, value and mend. Owns the words, not the rules."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from forecaster import config_values as values
from forecaster.config_entries import entries, model_at
from forecaster.config_yaml import Document, Mark
from forecaster.config_yaml import Path as Loc

LONGEST_VALUE = 120  # characters shown of a value
_LAST = Mark(2**31, 0)  # variables come after the file


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    path: Loc
    what: str
    write: str
    value: str = ""  # as it may be shown
    of_key: bool = False  # the key itself is wrong
    mark: Mark | None = None  # where `path` does not tell
    variable: str | None = None  # of the environment


@dataclass(frozen=True, slots=True)
class Place:
    """Where values came from."""

    path: Path
    document: Document
    variables: Mapping[Loc, str]

    def line(self, problem: Problem) -> tuple[Mark, str]:
        """Its place, to sort by, and the line as it is shown."""
        write = problem.write if problem.write.startswith("remove ") else f"write {problem.write}"
        text = " ".join(f"{problem.value} {problem.what}: {write}".split())
        variable = problem.variable or self._variable(problem.path)
        if variable is not None:
            return _LAST, f"{variable}: {text.replace('remove the line', 'unset it')}"
        mark = problem.mark or self.document.mark(problem.path, problem.of_key)
        where = f"{self.path}:{mark.line}:{mark.column}:"
        return mark, f"{where} {path_text(problem.path)}: {text}" if problem.path else f"{where} {text}"

    def _variable(self, path: Loc) -> str | None:
        return next((self.variables[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.variables), None)


def path_text(path: Loc) -> str:
    """workloads[0].scale.risk"""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            key = part if re.fullmatch(r"[^\s.\[\]:]{1,80}", part) else shown(part)
            text += f".{key}" if text else key
    return text


def shown(value: object) -> str:
    """A value as a line can show it."""
    if isinstance(value, timedelta):
        return values.duration_text(value)
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    if len(text) > LONGEST_VALUE:
        text = text[: LONGEST_VALUE - 1] + "…"
    is_plain = not isinstance(value, str) or re.fullmatch(r"[^\s\"'](?:[^\n\r\t:\"]|:(?! ))*(?<!\s)", text)
    return text if is_plain and text.isprintable() else json.dumps(text, ensure_ascii=False)


def of_error(error: ValidationError) -> Iterator[Problem]:
    """The problems that pydantic found."""
    for one in error.errors(include_url=False):
        path, kind = tuple(one["loc"]), one["type"]
        if kind == "bad":
            yield _bad(path, one["input"], one["ctx"])
        elif kind == "extra_forbidden":
            yield _unknown(path)
        elif kind == "missing":
            yield _missing(path)
        elif one["input"] is None:
            yield Problem(path, "is empty", "what belongs beneath it, or remove the line", "null")
        elif kind in ("model_type", "model_attributes_type"):
            section = model_at(path)
            example = f", such as {entries(section)[0].key}: …" if section else ""
            value = "a text" if isinstance(one["input"], str) else shown(one["input"])  # it may be user:password
            yield Problem(path, "is not a mapping", f"keys beneath it{example}", value)
        elif kind == "tuple_type":
            yield Problem(path, "is not a list", "its items after dashes, or in brackets: [a, b]", shown(one["input"]))
        else:
            yield Problem(path, f"is wrong ({one['msg']})", "it as the reference says", shown(one["input"]))


def _bad(path: Loc, value: Any, context: Mapping[str, Any]) -> Problem:
    for part in context["at"]:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            value = None
    text = context.get("shown")
    text = shown(value) if text is None else shown(text) if text else ""
    what = "is empty" if text == "null" else context["what"]
    return Problem((*path, *context["at"]), what, context["write"], text)


def _missing(path: Loc) -> Problem:
    section = model_at(path[:-1])
    hows = (one.written.how for one in entries(section) if one.key == path[-1] and one.written) if section else ()
    return Problem(path, "is missing", f"{path[-1]}: {next(iter(hows), '…')}")


def _unknown(path: Loc) -> Problem:
    section = model_at(path[:-1])
    known = [one.key for one in entries(section)] if section else []
    near = values.closest(str(path[-1]), known)
    return Problem(path, "this key is not known", near or f"one of {', '.join(known)}", of_key=True)
