from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsf.errors import RecipeError
from lsf.recipe.toml import Positions, dotted, key_lines, parse_toml, write_toml

DOCUMENT = '''\
# a comment with = and [brackets]
title = "a # no comment"   # a comment
"quoted key" = 1
'literal.key'.inner = 2
a.b.c = 3

[table]
numbers = [
    1,  # [ first
    [2, 3],
    {x = 4, "y z" = [5]},
]
text = """
[not.a.table]
quote "" and "\\"""
x = 1
"""
raw = \'\'\'it's
\'\'\'
date = 1979-05-27 07:32:00
empty = []
nothing = {}

[table.sub]
key = true

[[items]]
name = "one"
[items.options]
deep = 1
[[items.parts]]
id = 1
[[items.parts]]
id = 2

[[items]]
name = "two"
inline = {a = 1, b.c = "}", d = [{e = 1}]}
[[items.parts]]
id = 3
last = \'# ]\''''

LINES = {
    ("title",): 2,
    ("quoted key",): 3,
    ("literal.key",): 4,
    ("literal.key", "inner"): 4,
    ("a",): 5,
    ("a", "b", "c"): 5,
    ("table",): 7,
    ("table", "numbers"): 8,
    ("table", "numbers", 0): 9,
    ("table", "numbers", 1): 10,
    ("table", "numbers", 1, 1): 10,
    ("table", "numbers", 2, "x"): 11,
    ("table", "numbers", 2, "y z", 0): 11,
    ("table", "text"): 13,
    ("table", "raw"): 18,
    ("table", "date"): 20,
    ("table", "empty"): 21,
    ("table", "nothing"): 22,
    ("table", "sub", "key"): 25,
    ("items",): 27,
    ("items", 0): 27,
    ("items", 0, "name"): 28,
    ("items", 0, "options", "deep"): 30,
    ("items", 0, "parts", 0, "id"): 32,
    ("items", 0, "parts", 1, "id"): 34,
    ("items", 1): 36,
    ("items", 1, "name"): 37,
    ("items", 1, "inline", "b", "c"): 38,
    ("items", 1, "inline", "d", 0, "e"): 38,
    ("items", 1, "parts", 0, "id"): 40,
    ("items", 1, "parts", 0, "last"): 41,
}


def leaves(value, path=()):
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        yield from leaves(item, (*path, key))


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_key_has_its_line(newline):
    text = DOCUMENT.replace("\n", newline)
    lines = key_lines(text)
    assert {path: lines[path] for path in LINES} == LINES
    assert set(leaves(tomllib.loads(text))) - {()} == set(lines)


def test_repeated_names_on_the_way_down():
    lines = key_lines("[[a]]\n[[a.a]]\nb = 1\n[[a.a]]\nb = 2\n[[a]]\n[a.a]\nb = 3\n")
    assert lines["a", 0, "a", 1, "b"] == 5
    assert lines["a", 1, "a", "b"] == 8


def test_a_missing_value_stands_where_its_table_stands():
    positions = Positions.of("x = 1\n[t]\ny = 2\n", "r.toml")
    assert positions.where(("t", "z")) == "r.toml:2"
    assert positions.where(("unknown",)) == "r.toml"


def test_an_override_hides_the_line_of_what_it_replaces():
    positions = Positions.of("[t]\n[t.a]\nb = 1\n", "r.toml")
    positions.override(("t", "a"))
    assert positions.where(("t", "a", "b")) == "--set"
    assert positions.where(("t",)) == "r.toml:1"
    positions.override(("new", "key"))
    assert positions.where(("new",)) == "--set"


@pytest.mark.parametrize(
    ("text", "line"),
    [("a = 1\nb = \n", 2), ("a = 1\na = 2\n", 2), ("[t\n", 1), ('a = """\n\n', 3), ("a = 1\nb = 01\n", 2)],
)
def test_a_syntax_error_names_its_line(text, line):
    with pytest.raises(RecipeError, match=rf"r.toml:{line}: found a TOML syntax error") as caught:
        parse_toml(text, "r.toml")
    assert len(caught.value.problems) == 1


def test_dotted_quotes_what_is_no_bare_key():
    assert dotted(("a", 0, "b c", "d-e")) == 'a.0."b c".d-e'


SCALARS = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_what_is_written_reads_back(document):
    text = write_toml(document)
    assert tomllib.loads(text) == document
    assert set(leaves(document)) - {()} == set(key_lines(text))


def test_the_bundled_recipes_have_a_line_for_every_key():
    for file in Path(__file__).parents[2].glob("recipes/*.toml"):
        text = file.read_text(encoding="utf-8")
        assert set(leaves(tomllib.loads(text))) - {()} == set(key_lines(text)), file


def test_a_value_toml_cannot_hold_is_refused():
    with pytest.raises(TypeError, match="TOML has no way to write None"):
        write_toml({"a": None})
