"""YAML as plain data that still knows where each value stood.

Built from events, not by PyYAML's constructors: a tag can build nothing, `yes`, `0777` and `12:30:00` stay what was
written (YAML 1.2's core schema), a repeated key is an error, and aliases share their data, so that a bomb costs
nothing before its size is judged. Knows nothing of what the configuration means.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

LARGEST = 32 * 2**20  # bytes; 10,000 workloads with three resources each are 10 MiB
MOST_NODES = 2_000_000  # aliases filled in
DEEPEST = 32

Path = tuple[str | int, ...]
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_CONTROL = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is 15 times faster, where PyYAML has it


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in the file; both count from 1."""

    line: int
    column: int


class YamlError(Exception):
    """The text is not what we read; `mark` says where."""

    def __init__(self, mark: Mark, text: str) -> None:
        super().__init__(text)
        self.mark = mark


@dataclass(slots=True)
class Node:
    """One value: a scalar, a list of nodes, or a mapping of text to (place of the key, node)."""

    mark: Mark
    content: Any
    size: int = 1  # nodes beneath, aliases filled in
    data: Any = None  # the same as plain data
    open: bool = False


@dataclass(slots=True)
class Document:
    """The file as plain data, and where its parts stand."""

    data: Any
    root: Node | None
    repeated: list[tuple[Path, Mark, Mark]] = field(default_factory=list)  # key, its second and first place

    def mark(self, path: Sequence[str | int], of_key: bool = False) -> Mark:
        """Place of the value at `path` (or of its key); where there is none, of what would have held it."""
        node, key = self.root, None
        if node is None:
            return Mark(1, 1)
        for part in path:
            if isinstance(node.content, dict) and part in node.content:
                key, node = node.content[part]
            elif isinstance(node.content, list) and isinstance(part, int) and part < len(node.content):
                key, node = None, node.content[part]
            else:
                return node.mark
        return key if of_key and key is not None else node.mark


def parse(text: str) -> Document:
    """Raises YamlError."""
    found = _CONTROL.search(text)
    if found is not None:
        raise YamlError(_mark_at(text, found.start()), f"the character {found[0]!r} may not stand here: remove it")
    document = Document(None, None)
    stack: list[_Open] = []
    anchors: dict[str, Node] = {}
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            start = event.start_mark
            mark = Mark(1, 1) if start is None else Mark(start.line + 1, start.column + 1)
            if isinstance(event, yaml.DocumentStartEvent) and document.root is not None:
                raise YamlError(mark, "a second document begins here: write one document, remove the line ---")
            if isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
                node = stack.pop().close(document)
            elif isinstance(event, yaml.AliasEvent):
                node = _alias(anchors, str(event.anchor), mark)
            elif isinstance(event, yaml.NodeEvent):
                if len(stack) >= DEEPEST:
                    raise YamlError(mark, f"this is nested more than {DEEPEST} deep: write it flatter")
                node = _node(event, mark, stack)
                if event.anchor is not None:
                    anchors[event.anchor] = node
                if node.open:
                    continue
            else:
                continue
            if stack:
                stack[-1].add(node, document)
            else:
                document.root = node
    except yaml.MarkedYAMLError as error:
        raise _translated(text, error) from error
    except yaml.YAMLError as error:
        raise YamlError(Mark(1, 1), f"this is not YAML: {' '.join(str(error).split())}") from error
    document.data = None if document.root is None else document.root.data
    return document


def _alias(anchors: dict[str, Node], name: str, mark: Mark) -> Node:
    target = anchors.get(name)
    if target is None:
        raise YamlError(mark, f"*{name} has no anchor above: write &{name} where it is defined")
    if target.open:
        raise YamlError(mark, f"*{name} stands inside of what it repeats: write out what is meant")
    return target


def _node(event: Any, mark: Mark, stack: list[_Open]) -> Node:
    tag = event.tag
    if tag is not None and tag not in ("!", "tag:yaml.org,2002:str"):
        raise YamlError(mark, f"the tag {tag!r} is not used here: remove it")
    if isinstance(event, yaml.ScalarEvent):
        is_plain = event.implicit[0] and event.style in (None, "")
        value = _resolved(event.value) if is_plain and tag is None else event.value
        return Node(mark, value, data=value)
    node = Node(mark, {} if isinstance(event, yaml.MappingStartEvent) else [], open=True)
    stack.append(_Open(node, _path(stack)))
    return node


def _resolved(text: str) -> Any:
    """A plain scalar by YAML 1.2's core schema, without octal and hexadecimal numbers."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text.lower() == "true"
    if _INT.fullmatch(text) and len(text) <= 30:
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not come."""

    node: Node
    path: Path
    key: str | None = None
    key_mark: Mark | None = None
    merged: list[Node] = field(default_factory=list)

    def add(self, node: Node, document: Document) -> None:
        self.node.size += node.size
        if self.node.size > MOST_NODES:
            raise YamlError(node.mark, f"aliases make this more than {MOST_NODES:,} values: write it without them")
        content = self.node.content
        if isinstance(content, list):
            content.append(node)
        elif self.key_mark is None:
            if isinstance(node.content, (list, dict)):
                raise YamlError(node.mark, "a key is a list or mapping: write text before the colon")
            self.key, self.key_mark = _key_text(node), node.mark
        else:
            assert self.key is not None
            if self.key == "<<":
                self.merged += node.content if isinstance(node.content, list) else [node]
            elif self.key in content:
                document.repeated.append(((*self.path, self.key), self.key_mark, content[self.key][0]))
            else:
                content[self.key] = (self.key_mark, node)
            self.key = self.key_mark = None

    def close(self, document: Document) -> Node:
        node = self.node
        if isinstance(node.content, dict):
            for other in self.merged:
                if not isinstance(other.content, dict):
                    raise YamlError(other.mark, "<< takes a mapping: write <<: *name of an anchor above")
                for key, entry in other.content.items():
                    node.content.setdefault(key, entry)
            node.data = {key: entry[1].data for key, entry in node.content.items()}
        else:
            node.data = [item.data for item in node.content]
        node.open = False
        return node


def _key_text(node: Node) -> str:
    value = node.content
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _path(stack: Sequence[_Open]) -> Path:
    if not stack:
        return ()
    last = stack[-1]
    return (*last.path, len(last.node.content) if isinstance(last.node.content, list) else str(last.key))


def _mark_at(text: str, offset: int) -> Mark:
    before = text[:offset]
    return Mark(before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1)


def _translated(text: str, error: yaml.MarkedYAMLError) -> YamlError:
    place = error.problem_mark or error.context_mark
    if place is None:
        return YamlError(Mark(1, 1), f"this is not YAML: {error.problem}")
    mark = Mark(place.line + 1, place.column + 1)
    lines = text.splitlines()
    line = lines[place.line] if place.line < len(lines) else ""
    indent = line[: len(line) - len(line.lstrip())]
    if "\t" in indent:
        return YamlError(Mark(mark.line, indent.index("\t") + 1), "a tab indents this line: write spaces")
    began = error.context_mark
    since = f" (it began in line {began.line + 1})" if began is not None and began.line != place.line else ""
    return YamlError(mark, f"this is not YAML: {error.problem}{since}: {_mend(error.problem or '')}")


def _mend(problem: str) -> str:
    if "mapping values are not allowed" in problem:
        return "write a text that holds a colon and a space in quotes"
    if "cannot start any token" in problem:
        return "write the text in quotes"
    if "end of stream" in problem or "expected ',' or" in problem:
        return "close the quote or bracket"
    return "write keys of one level with the same indentation, and texts with special characters in quotes"
