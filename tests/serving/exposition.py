"""A strict reader of Prometheus' text format 0.0.4: what a scrape would take, and what it would refuse."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(?:,|$)')
_NUMBER = re.compile(r"[+-]Inf|NaN|[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_UNESCAPED = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


@dataclass
class Exposition:
    """Types and samples of one scrape."""

    types: dict[str, str] = field(default_factory=dict)
    helps: dict[str, str] = field(default_factory=dict)
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = field(default_factory=dict)


def parse(text: str) -> Exposition:
    """Raises AssertionError where a line is malformed, repeated, undeclared, or apart from its family."""
    out = Exposition()
    assert text.endswith("\n")
    done: list[str] = []
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            name, _, words = line[7:].partition(" ")
            assert name not in out.helps, name
            out.helps[name] = words
        elif line.startswith("# TYPE "):
            name, kind = line[7:].split(" ")
            assert kind in ("gauge", "counter"), line
            assert name not in out.types, name
            out.types[name] = kind
        else:
            match = _SAMPLE.fullmatch(line)
            assert match, line
            name, labels, number = match.group(1), match.group(2) or "", match.group(3)
            assert _NUMBER.fullmatch(number), line
            assert name in out.types, line
            if not done or done[-1] != name:
                assert name not in done, f"{name} is not in one piece"
                done.append(name)
            found = _LABEL.findall(labels)
            assert _LABEL.sub("", labels) == "", line
            read = {key: re.sub(r'\\\\|\\"|\\n', lambda m: _UNESCAPED[m.group()], value) for key, value in found}
            assert len(read) == len(found), line
            key = (name, frozenset(read.items()))
            assert key not in out.samples, line
            out.samples[key] = float(number)
    return out
