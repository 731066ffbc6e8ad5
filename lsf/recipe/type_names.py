"""Types, ranges and values in the words of error messages and option tables."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

import attrs

from lsf.options import Component, Rule

Field: TypeAlias = "attrs.Attribute[Any]"

NONE_WORD: Final = "none"
"""TOML has no null: this word stands for "not set" in every optional field."""

_SCALARS: Final[dict[Any, str]] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    Any: "any value",
}


def field_types(cls: type) -> dict[str, Any]:
    """Return the resolved annotation of every field of an attrs class."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in attrs.fields(cls)}


def rules(field: Field | None) -> tuple[Rule, ...]:
    """Return the rules of a field, which can say what they expect."""
    return () if field is None else field.metadata.get("rules", ())


def type_text(annotation: Any, field: Field | None = None) -> str:
    """Return what may stand at a field, in words: type and range."""
    words = _type_words(annotation)
    if field is not None and field.metadata.get("path"):
        special = "".join(f' or "{word}"' for word in field.metadata["words"])
        words = words.replace("a string", f"a file name{special}").replace("of strings", "of file names")
    kind = "" if field is None else field.metadata.get("registry")
    if kind and annotation is Component:
        words = f"a table {{use = name of one of the {kind}, its options}}"
    elif kind and typing.get_origin(annotation) is dict:
        words = f"a table of {kind} by name"
    elif kind:
        words = f"{words}, the name of one of the {kind}"
    return ", ".join([words, *(rule.expected for rule in rules(field))])


def _type_words(annotation: Any) -> str:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    if annotation is type(None):
        return f'"{NONE_WORD}"'
    if origin is Literal:
        words = ", ".join(f'"{arg}"' if isinstance(arg, str) else str(arg) for arg in args)
        return f"one of {words}" if len(args) > 1 else words
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_words(arg) for arg in args)
    if origin is dict:
        return f"a table of {_plural(args[1])}"
    if origin in (tuple, list):
        if origin is tuple and Ellipsis not in args:
            return f"a list of {len(args)} {_plural(args[0])}"
        return f"a list of {_plural(args[0])}"
    return "a table"


def _plural(annotation: Any) -> str:
    words = _type_words(annotation)
    singular = {"a number": "numbers", "a string": "strings", "an integer": "integers", "a table": "tables"}
    return singular.get(words, f"values, each {words}")


def found_text(value: Any) -> str:
    """Return a TOML value in words, with its type."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        shown = value if len(value) <= 60 else f"{value[:57]}..."
        return f'the string "{shown}"'
    if isinstance(value, int):
        return f"the integer {value}"
    if isinstance(value, float):
        return f"the number {value!r}"
    if isinstance(value, Mapping):
        return f"a table with {', '.join(map(str, value))}" if value else "an empty table"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"the {type(value).__name__} {value}"  # TOML's dates and times
