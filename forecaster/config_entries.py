"""The settings as a list: what the reference, the JSON Schema and the names of environment variables are made from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from forecaster.config_tree import Config
from forecaster.config_written import Written
from forecaster.config_yaml import Path as Loc


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a section."""

    key: str
    name: str  # of the field
    text: str  # what it means
    required: bool
    default: Any
    is_list: bool
    section: type[BaseModel] | None  # of the value, or of each item
    written: Written | None  # of the value, or of each item, where it is no section

    @property
    def default_text(self) -> str:
        """As it would be written; empty where there is none."""
        if self.required or self.section is not None or self.written is None:
            return ""
        if self.is_list:
            return f"[{', '.join(map(self.written.show, self.default))}]"
        return self.written.none if self.default is None else self.written.show(self.default)


@cache
def entries(section: type[BaseModel]) -> tuple[Entry, ...]:
    """Its keys, in the order of the file."""
    return tuple(_entry(name, field) for name, field in section.model_fields.items())


def model_at(path: Loc) -> type[BaseModel] | None:
    """The section at a path of keys and indices."""
    section: type[BaseModel] | None = Config
    for part in path:
        if isinstance(part, int):
            continue
        if section is None:
            return None
        section = next((one.section for one in entries(section) if one.key == part), None)
    return section


def scalars(section: type[BaseModel] = Config, above: tuple[Entry, ...] = ()) -> Iterator[tuple[Entry, ...]]:
    """Every single value that is not in a list, as its way down from the root."""
    for one in entries(section):
        if one.is_list:
            continue
        if one.section is None:
            yield (*above, one)
        else:
            yield from scalars(one.section, (*above, one))


def _entry(name: str, field: FieldInfo) -> Entry:
    annotation: Any = field.annotation
    is_list = get_origin(annotation) is tuple and not any(isinstance(one, Written) for one in field.metadata)
    metadata = list(field.metadata)
    if is_list:
        item = get_args(annotation)[0]
        annotation, *metadata = get_args(item) if get_origin(item) is not tuple and get_args(item) else (item,)
    written = next((one for one in metadata if isinstance(one, Written)), None)
    kinds = (annotation, *get_args(annotation))
    section = next((one for one in kinds if isinstance(one, type) and issubclass(one, BaseModel)), None)
    text = " ".join((field.description or "").split())
    return Entry(str(field.alias), name, text, field.is_required(), field.get_default(), is_list, section, written)
