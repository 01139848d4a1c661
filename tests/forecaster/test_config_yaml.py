"""YAML as plain data with places: what is read, what is refused, and where."""

from __future__ import annotations

import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from forecaster.config_yaml import DEEPEST, Mark, YamlError, parse

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12)
SCALARS = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | TEXTS
TREES = st.recursive(SCALARS, lambda x: st.lists(x, max_size=4) | st.dictionaries(TEXTS, x, max_size=4), max_leaves=12)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("", None),
        ("# only a comment\n", None),
        ("{}", {}),
        ("a: yes\nb: no\nc: on", {"a": "yes", "b": "no", "c": "on"}),
        ("a: true\nb: False\nc: ~\nd:", {"a": True, "b": False, "c": None, "d": None}),
        ("a: 0777\nb: 0x1F\nc: 12:30:00\nd: 1_000", {"a": 777, "b": "0x1F", "c": "12:30:00", "d": "1_000"}),
        ("a: 1.5\nb: .5\nc: 1e3\nd: .inf", {"a": 1.5, "b": 0.5, "c": 1000.0, "d": ".inf"}),
        ('a: "1"\nb: !!str 1\nc: ! 2', {"a": "1", "b": "1", "c": "2"}),
        ("a: &x {b: 1}\nc: *x", {"a": {"b": 1}, "c": {"b": 1}}),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}),
        ("a: 2024-01-01", {"a": "2024-01-01"}),
        ("8080: a\ntrue: b", {"8080": "a", "true": "b"}),
    ],
)
def test_scalars_stay_what_was_written(text: str, data: object) -> None:
    assert parse(text).data == data


@given(TREES)
def test_what_yaml_writes_is_read_back_the_same(tree: object) -> None:
    texts = _texts(tree)
    assert parse(yaml.safe_dump(texts, allow_unicode=True, default_style='"', width=1000)).data == texts


def _texts(tree: object) -> object:
    if isinstance(tree, list):
        return [_texts(item) for item in tree]
    if isinstance(tree, dict):
        return {f"k{key}": _texts(value) for key, value in tree.items()}
    return str(tree)


@given(st.text(max_size=60))
def test_no_text_ends_in_another_error(text: str) -> None:
    try:
        parse(text)
    except YamlError as error:
        said = error
    else:
        return
    assert said.mark >= Mark(1, 1) and "\n" not in str(said)


def test_each_part_knows_its_place() -> None:
    document = parse("a:\n  - b: 1\n  - c: [x,\n      yy]\n")
    assert document.mark(("a",)) == Mark(2, 3)
    assert document.mark(("a",), of_key=True) == Mark(1, 1)
    assert document.mark(("a", 0, "b")) == Mark(2, 8)
    assert document.mark(("a", 1, "c", 1)) == Mark(4, 7)


def test_what_is_missing_is_placed_where_it_would_have_been() -> None:
    document = parse("a:\n  - b: 1\n")
    assert document.mark(("a", 0, "z")) == document.mark(("a", 0)) == Mark(2, 5)
    assert parse("").mark(("a",)) == Mark(1, 1)


def test_a_repeated_key_keeps_the_first_value_and_tells_both_places() -> None:
    document = parse("a: {b: 1, b: 2}\na: 3\n")
    assert document.data == {"a": {"b": 1}}
    assert document.repeated == [(("a", "b"), Mark(1, 11), Mark(1, 5)), (("a",), Mark(2, 1), Mark(1, 1))]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: \x07", Mark(1, 4), "may not stand here"),
        ("a: !!python/name:os.system x", Mark(1, 4), "the tag"),
        ("a: !mine x", Mark(1, 4), "the tag"),
        ("a: 1\n---\nb: 2", Mark(2, 1), "a second document"),
        ("a: *b", Mark(1, 4), "has no anchor"),
        ("? [a]\n: b", Mark(1, 3), "a key is a list or mapping"),
        ("a: {<<: 3}", Mark(1, 9), "<< takes a mapping"),
        ("a:\n\tb: 1", Mark(2, 1), "a tab"),
        ("a: [1, 2", Mark(2, 1), "close the quote or bracket"),
        ("a: @x", Mark(1, 4), "write the text in quotes"),
        ("[" * (DEEPEST + 1), Mark(1, DEEPEST + 1), "nested"),
    ],
)
def test_what_we_do_not_read_is_refused_at_its_place(text: str, place: Mark, words: str) -> None:
    with pytest.raises(YamlError) as caught:
        parse(text)
    assert caught.value.mark == place and words in str(caught.value)


def test_a_bomb_is_refused_before_it_goes_off() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 40)]
    began = time.perf_counter()
    with pytest.raises(YamlError, match="aliases make this more than"):
        parse("\n".join(lines))
    assert time.perf_counter() - began < 2
