"""From the tables of a TOML file to attrs objects: strict types, every problem noted, none raised.

Every field is tried, nothing is converted but whole numbers to float, and each problem carries its place, its
key path, what was found, what may stand there and the nearest name. cattrs serves where plain data is read
back (facts, model files); here its hooks would know neither key nor field, and it builds no object with parts
refused, so that a reader with it came out longer than this one.
"""

from __future__ import annotations

import math
import os
import types
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import attrs

from lsf.errors import CatalogError, Problem, did_you_mean
from lsf.options import Component, Rule
from lsf.recipe.toml import KeyPath, Positions, dotted
from lsf.recipe.type_names import NONE_WORD, Field, field_types, found_text, rules, type_text

Hook = Callable[["Structurer", Any, KeyPath, "Field | None"], Any]

INVALID: Final = object()
"""Stands for a value that was refused; its problem has been noted."""


class Components(Protocol):
    """What the structurer asks of the registry."""

    def names(self, kind: str) -> Collection[str]:
        """Return the names of all components of a kind."""

    def options_class(self, kind: str, name: str) -> type:
        """Return the attrs class of a component's options; CatalogError when it cannot be imported."""


@attrs.frozen
class FileName:
    """A file a document names: where, its absolute path, and the words that may stand in its place."""

    key: KeyPath
    file: str
    words: tuple[str, ...]


class Structurer:
    """Turns tables into objects of annotated types; collects ``problems`` and ``files`` on the way.

    ``folder`` is where relative file names start; ``hooks`` override how a type is built.
    """

    def __init__(
        self,
        positions: Positions,
        components: Components,
        folder: Path,
        hooks: Mapping[Any, Hook] | None = None,
    ) -> None:
        self.positions = positions
        self.components = components
        self.folder = folder
        self.hooks: dict[Any, Hook] = {Component: _component, **(hooks or {})}
        self.problems: list[Problem] = []
        self.files: list[FileName] = []

    def refuse(self, path: KeyPath, found: str, expected: str, hint: str = "") -> Any:
        """Note a problem and return INVALID."""
        self.problems.append(Problem(self.positions.where(path), dotted(path), found, expected, hint))
        return INVALID

    def value(self, annotation: Any, value: Any, path: KeyPath, field: Field | None = None) -> Any:
        """Return ``value`` as the annotated type, or INVALID."""
        origin, args = typing.get_origin(annotation), typing.get_args(annotation)
        if annotation in self.hooks:
            return self.hooks[annotation](self, value, path, field)
        if origin in (typing.Union, types.UnionType):
            return self._union(annotation, value, path, field)
        if not _fits(annotation, value):
            return self._wrong_type(annotation, value, path, field)
        if attrs.has(annotation):
            return self.table(annotation, value, path)
        if origin is dict:
            return self._entries(args[1], value, path, field)
        if origin in (tuple, list):
            return self._items(annotation, value, path, field)
        return float(value) if annotation is float else value

    def table(self, cls: type, table: Mapping[str, Any], path: KeyPath) -> Any:
        """Return an object of an attrs class from a table, or INVALID when a required value is missing.

        Where problems leave enough to build one, an object comes back even so: later checks can run on it
        and report with the rest.
        """
        hints, fields = field_types(cls), {field.name: field for field in attrs.fields(cls) if field.init}
        for key in table:
            if key not in fields:
                hint = did_you_mean(key, fields)
                self.refuse((*path, key), "an unknown key", "a known option", hint)
        values = {name: self._field_value(field, hints[name], table, path) for name, field in fields.items()}
        draft, obeyed = self._draft(cls, values, path)
        if any(getattr(draft, name, INVALID) is INVALID for name in fields):
            return INVALID
        if not obeyed:
            return draft
        try:
            return cls(**{fields[name].alias: getattr(draft, name) for name in fields})
        except (ValueError, TypeError) as error:
            return self.refuse(path, "options that do not fit together", str(error))

    def _field_value(self, field: Field, annotation: Any, table: Mapping[str, Any], path: KeyPath) -> Any:
        here = (*path, field.name)
        if field.name not in table:
            return self._missing(field, annotation, here)
        value = self.value(annotation, table[field.name], here, field)
        if value is INVALID:
            return value
        if isinstance(value, str) and field.metadata.get("registry") and value not in field.metadata["words"]:
            value = self._registered(field.metadata["registry"], value, here)
        if field.metadata.get("path"):
            value = self._absolute(value, here, field.metadata["words"])
        return value

    def _missing(self, field: Field, annotation: Any, path: KeyPath) -> Any:
        default = self._default(field, annotation, path)
        if default is INVALID and field.default is attrs.NOTHING:
            self.refuse(path, "nothing", type_text(annotation, field), field.metadata.get("doc", ""))
        return default

    def _default(self, field: Field, annotation: Any, path: KeyPath) -> Any:
        """Return what a missing field is; INVALID when it must be given.

        Tables and components are built from empty tables, so that they come from this structurer's registry.
        """
        default: Any = field.default
        if default is attrs.NOTHING:
            return INVALID
        if field.metadata.get("use"):
            return self.value(annotation, {"use": field.metadata["use"]}, path, field)
        if isinstance(annotation, type) and attrs.has(annotation):
            return self.value(annotation, {}, path, field)
        return default.factory() if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]

    def _draft(self, cls: type, values: Mapping[str, Any], path: KeyPath) -> tuple[Any, bool]:
        """Return an object made without its validators, and whether these would accept it.

        Refused values are replaced by their defaults where there are any and left out elsewhere.
        """
        draft: Any = object.__new__(cls)
        hints = field_types(cls)
        fields = [field for field in attrs.fields(cls) if field.name in values]
        for field in fields:
            value = values[field.name]
            if value is INVALID:
                value = self._quietly_default(field, hints[field.name], path)
            if value is not INVALID:
                object.__setattr__(draft, field.name, value)
        accepted = [field for field in fields if values[field.name] is not INVALID]
        obeyed = [self._obeys(draft, field, path) for field in accepted]
        return draft, all(obeyed)

    def _quietly_default(self, field: Field, annotation: Any, path: KeyPath) -> Any:
        """Return the default in place of a refused value, whose problem has been noted already."""
        known = len(self.problems)
        default = self._default(field, annotation, (*path, field.name))
        del self.problems[known:]
        return default

    def _obeys(self, draft: Any, field: Field, path: KeyPath) -> bool:
        """Run the validators of one field and note what they say."""
        value, here = getattr(draft, field.name), (*path, field.name)
        for rule in rules(field):
            if not rule.holds(value):
                expected = type_text(field_types(type(draft))[field.name], field)
                self.refuse(here, found_text(_plain(value)), expected, _nearest_choice(rule, value))
                return False
        if field.validator is not None:
            try:
                field.validator(draft, field, value)
            except AttributeError as error:
                # it may look at a field that was refused; anything else that is missing is its own mistake
                if error.obj is not draft or error.name not in field_types(type(draft)):
                    raise
                return True
            except (ValueError, TypeError) as error:
                expected = type_text(field_types(type(draft))[field.name], field)
                self.refuse(here, found_text(_plain(value)), expected, str(error.args[0]))
                return False
        return True

    def _wrong_type(self, annotation: Any, value: Any, path: KeyPath, field: Field | None) -> Any:
        hint = ""
        if isinstance(value, str) and typing.get_origin(annotation) is Literal:
            hint = did_you_mean(value, [arg for arg in typing.get_args(annotation) if isinstance(arg, str)])
        elif isinstance(value, str) and _reads_as(annotation, value):
            hint = "write it without quotes"
        elif isinstance(value, float) and annotation is int and value.is_integer():
            hint = f"write {int(value)}"
        return self.refuse(path, found_text(value), type_text(annotation, field), hint)

    def _union(self, annotation: Any, value: Any, path: KeyPath, field: Field | None) -> Any:
        members = typing.get_args(annotation)
        if type(None) in members and value == NONE_WORD:
            return None
        for member in members:
            if member in self.hooks or _fits(member, value):
                return self.value(member, value, path, field)
        literals = [word for member in members for word in typing.get_args(member) if isinstance(word, str)]
        if isinstance(value, str) and literals:
            return self.refuse(
                path, found_text(value), type_text(annotation, field), did_you_mean(value, literals)
            )
        others = [member for member in members if member is not type(None)]
        if len(others) == 1:
            return self._wrong_type(others[0], value, path, field)
        return self.refuse(path, found_text(value), type_text(annotation, field))

    def _entries(self, annotation: Any, table: Mapping[str, Any], path: KeyPath, field: Field | None) -> Any:
        if not _has_hook(self, annotation):
            field = None  # the field's rules are about the whole table
        entries = {key: self.value(annotation, item, (*path, key), field) for key, item in table.items()}
        return INVALID if any(item is INVALID for item in entries.values()) else entries

    def _items(self, annotation: Any, items: list[Any], path: KeyPath, field: Field | None) -> Any:
        origin, args = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is tuple and Ellipsis not in args:
            if len(items) != len(args):
                return self.refuse(path, found_text(items), type_text(annotation, field))
            each = args
        else:
            each = (args[0],) * len(items)
        built = [
            self.value(kind, item, (*path, index))
            for index, (kind, item) in enumerate(zip(each, items, strict=True))
        ]
        return INVALID if any(item is INVALID for item in built) else origin(built)

    def _registered(self, kind: str, name: str, path: KeyPath) -> Any:
        names = self.components.names(kind)
        if name in names:
            return name
        return self.refuse(
            path, f'"{name}"', f"the name of one of the {kind} (lsf list {kind})", did_you_mean(name, names)
        )

    def _absolute(self, value: Any, path: KeyPath, words: tuple[str, ...]) -> Any:
        """Return a file name, or every one in a table, as an absolute path, and take note of it."""
        if isinstance(value, dict):
            return {key: self._absolute(item, (*path, key), words) for key, item in value.items()}
        if not isinstance(value, str) or value in words:
            return value
        file = os.path.normpath(self.folder / Path(value).expanduser())
        self.files.append(FileName(path, file, words))
        return file

    def options(
        self, kind: str, table: Mapping[str, Any], name: str, path: KeyPath, name_path: KeyPath
    ) -> Any:
        """Return the options object of a component from its table, or INVALID."""
        if self._registered(kind, name, name_path) is INVALID:
            return INVALID
        try:
            cls = self.components.options_class(kind, name)
        except CatalogError as error:
            return self.refuse(name_path, f'"{name}"', "a component that can be imported", str(error))
        return self.table(cls, table, path)


def _component(structurer: Structurer, value: Any, path: KeyPath, field: Field | None) -> Any:
    kind = field.metadata["registry"] if field is not None else ""
    if not isinstance(value, Mapping):
        expected = type_text(Component, field)
        return structurer.refuse(path, found_text(value), expected, f"lsf list {kind} shows the names")
    name = value.get("use")
    if not isinstance(name, str):
        found = "nothing" if name is None else found_text(name)
        names = ", ".join(sorted(structurer.components.names(kind)))
        return structurer.refuse(
            (*path, "use"), found, f"the name of one of the {kind}", f"valid names: {names}"
        )
    rest = {key: item for key, item in value.items() if key != "use"}
    options = structurer.options(kind, rest, name, path, (*path, "use"))
    return INVALID if options is INVALID else Component(name, options)


def _has_hook(structurer: Structurer, annotation: Any) -> bool:
    return annotation in structurer.hooks


def _fits(annotation: Any, value: Any) -> bool:
    """Tell whether a TOML value has the outer shape of a type; what it contains is checked later."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return True
    if annotation is bool:
        return isinstance(value, bool)
    if isinstance(value, bool):
        return origin is Literal and any(value is arg for arg in args)
    if annotation is int:
        return isinstance(value, int)
    if annotation is float:
        return isinstance(value, int | float) and math.isfinite(value)
    if annotation is str:
        return isinstance(value, str)
    if origin is Literal:
        return any(value == arg and type(value) is type(arg) for arg in args)
    if origin is dict or (isinstance(annotation, type) and attrs.has(annotation)):
        return isinstance(value, Mapping)
    return origin in (tuple, list) and isinstance(value, list)


def _reads_as(annotation: Any, text: str) -> bool:
    """Tell whether a quoted value would be right without its quotes."""
    if annotation is bool:
        return text in ("true", "false")
    try:
        number = int(text) if annotation is int else float(text)
    except ValueError:
        return False
    return annotation in (int, float) and math.isfinite(number)


def _nearest_choice(rule: Rule, value: Any) -> str:
    """Return the hint for the first word that is not among a rule's few choices."""
    words = [value] if isinstance(value, str) else list(value) if isinstance(value, tuple | list) else []
    wrong = [word for word in words if word not in rule.choices]
    return did_you_mean(wrong[0], rule.choices) if rule.choices and wrong else ""


def _plain(value: Any) -> Any:
    """Return a structured value as TOML would hold it."""
    return list(value) if isinstance(value, tuple) else value
