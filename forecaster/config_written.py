"""What a setting is made of: a section, and a value with its parser and its description for people and editors.

Knows no setting; the ways to write values are in `config_values.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, core_schema

from forecaster import config_values as values
from forecaster.config_values import bad

_NUMBER_TEXT = r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?"
TEXT: Mapping[str, Any] = {"type": "string", "minLength": 1}
DURATION: Mapping[str, Any] = {"type": "string", "pattern": values.DURATION_PATTERN}
SHARE: Mapping[str, Any] = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": rf"^{_NUMBER_TEXT} ?%?$"}]}
NAME: Mapping[str, Any] = {"type": "string", "minLength": 1, "maxLength": values.LONGEST_NAME}
HPA: Mapping[str, Any] = {"type": "string", "pattern": "^[^/]+/[^/]+$"}
BOOLEAN: Mapping[str, Any] = {"type": "boolean"}


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """How a value is written: its parser, and the same for people and for editors."""

    parse: Callable[[Any], Any]
    how: str  # for the reference
    schema: Mapping[str, Any] = field(default_factory=lambda: TEXT)
    show: Callable[[Any], str] = str  # a default, as it would be written
    none: str = ""  # what a default of None means

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)


def duration(least: str, most: str, none: str = "") -> Written:
    how = f"duration, {least} to {most}"
    return Written(values.duration(least, most), how, DURATION, values.duration_text, none)


def share(least: float, most: float, none: str = "") -> Written:
    how = f"percentage, {values.percentage_text(least)} to {values.percentage_text(most)}"
    return Written(values.share(least, most), how, SHARE, values.percentage_text, none)


def count(least: int, most: int, none: str = "") -> Written:
    schema = {"type": "integer", "minimum": least, "maximum": most}
    return Written(values.count(least, most), f"whole number, {least} to {most}", schema, none=none)


def not_null(value: object) -> object:
    if value is None:
        raise bad("is empty", "what belongs beneath it, or remove the line")
    return value


def show_flag(value: object) -> str:
    return str(value).lower()


FILE = Written(values.file_path, "path of a file")
FOLDER = Written(values.file_path, "path of a folder", show=os.fspath)
FLAG = Written(values.boolean, "true or false", BOOLEAN, show_flag)
PROMQL = Written(values.promql, "PromQL")


class ConfigModel(BaseModel):
    """One section. Frozen; unknown keys are errors; keys are written in camelCase."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, use_attribute_docstrings=True)
