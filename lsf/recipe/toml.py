"""TOML beyond the standard library: the line each key stands on, overrides, and writing.

:mod:`tomllib` parses but forgets lines. :func:`key_lines` walks the same text once more and notes where
every key, list item and table begins; it relies on the text having been parsed, so it need not find
errors.
"""

from __future__ import annotations

import json
import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from lsf.errors import Problem, RecipeError

KeyPath = tuple[str | int, ...]
"""Keys and list indices from the root of a document to a value."""

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SCALAR = re.compile(r"[^,\]}\n#]+")
_STRINGS = {
    '"""': re.compile(r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*"{3,5}', re.DOTALL),
    "'''": re.compile(r"'''(?:[^']|'{1,2}(?!'))*'{3,5}", re.DOTALL),
    '"': re.compile(r'"(?:[^"\\\n]|\\.)*"'),
    "'": re.compile(r"'[^'\n]*'"),
}


def dotted(path: KeyPath) -> str:
    """Return a key path as it is written after ``--set``; keys with other characters are quoted."""
    parts = (str(part) for part in path)
    return ".".join(part if BARE_KEY.fullmatch(part) else _quoted(part) for part in parts)


def _quoted(text: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which TOML wants escaped
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """Return the document, or raise RecipeError with the line of the syntax error."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        match = re.search(r"\s*\(at line (\d+), column (\d+)\)", message)
        where = f"{source}:{match.group(1)}" if match else f"{source}:{text.count(chr(10)) + 1}"
        detail = message[: match.start()] if match else message.removesuffix(" (at end of document)")
        column = f", column {match.group(2)}" if match else ""
        problem = Problem(where, "", f"a TOML syntax error{column}", "valid TOML", f"{detail}.")
        raise RecipeError(f"{source} is not valid TOML", [problem]) from None


def key_lines(text: str) -> dict[KeyPath, int]:
    """Return the line (from 1) on which every key, list item and table of a valid document begins."""
    return _Scanner(text).scan()


class _Scanner:
    """One walk over a valid document. ``at`` is the next character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[KeyPath, int] = {}
        self.newlines = [match.start() for match in re.finditer("\n", text)]
        self.counts: dict[KeyPath, int] = {}  # length of every array of tables so far

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while self._skip_blank() < len(self.text):
            line = self._line()
            if self.text[self.at] == "[":
                table = self._header(line)
            else:
                self._pair(table)
        return self.lines

    def _line(self) -> int:
        return bisect_right(self.newlines, self.at - 1) + 1

    def _skip_blank(self) -> int:
        match = _BLANK.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.at

    def _string_end(self) -> int | None:
        """Return where the string at the cursor ends, or None when there is no string."""
        for quote, pattern in _STRINGS.items():
            if self.text.startswith(quote, self.at):
                match = pattern.match(self.text, self.at)
                return match.end() if match else len(self.text)
        return None

    def _key(self) -> tuple[str, ...]:
        parts: list[str] = []
        while True:
            self._skip_blank()
            end = self._string_end()
            if end is not None:
                parts.append(tomllib.loads(f"key = {self.text[self.at : end]}")["key"])
                self.at = end
            else:
                match = BARE_KEY.match(self.text, self.at)
                parts.append(match.group() if match else "")
                self.at = match.end() if match else self.at + 1
            self._skip_blank()
            if not self.text.startswith(".", self.at):
                return tuple(parts)
            self.at += 1

    def _note(self, start: KeyPath, keys: tuple[str, ...], line: int) -> KeyPath:
        """Note every table on the way to a key; enter the last item of arrays of tables passed."""
        path = start
        for remaining, key in zip(range(len(keys) - 1, -1, -1), keys, strict=True):
            path = (*path, key)
            self.lines.setdefault(path, line)
            if path in self.counts and remaining:
                path = (*path, self.counts[path] - 1)
        return path

    def _header(self, line: int) -> KeyPath:
        brackets = 2 if self.text.startswith("[[", self.at) else 1
        self.at += brackets
        path = self._note((), self._key(), line)
        self.at += brackets
        if brackets == 2:
            self.counts[path] = self.counts.get(path, 0) + 1
            path = (*path, self.counts[path] - 1)
        self.lines[path] = line
        return path

    def _pair(self, table: KeyPath) -> None:
        line = self._line()
        path = self._note(table, self._key(), line)
        self.at += 1  # the equals sign
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        self._skip_blank()
        end = self._string_end()
        if end is not None:
            self.at = end
        elif self.text[self.at] == "[":
            for index in self._items("]"):
                self.lines[(*path, index)] = self._line()
                self._value((*path, index))
        elif self.text[self.at] == "{":
            for _ in self._items("}"):
                self._pair(path)
        else:
            match = _SCALAR.match(self.text, self.at)
            self.at = match.end() if match else self.at + 1

    def _items(self, close: str) -> Iterator[int]:
        """Yield the index of each item with the cursor on it, until the closing bracket is passed."""
        self.at += 1
        index = 0
        while self._skip_blank() < len(self.text) and self.text[self.at] != close:
            yield index
            index += 1
            self._skip_blank()
            if self.text.startswith(",", self.at):
                self.at += 1
        self.at += 1


@attrs.frozen
class Positions:
    """Where each value of a document came from: a line of the file, or ``--set``."""

    source: str
    places: dict[KeyPath, str]

    @classmethod
    def of(cls, text: str, source: str) -> Positions:
        """Return the positions of all keys of a valid document."""
        return cls(source, {path: f"{source}:{line}" for path, line in key_lines(text).items()})

    def where(self, path: KeyPath) -> str:
        """Return the place of a value, or of the innermost table around it when it is missing."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return self.source

    def override(self, path: KeyPath) -> None:
        """Note that a value, and all it contains, now comes from the command line."""
        for known in [known for known in self.places if known[: len(path)] == path]:
            del self.places[known]
        for length in range(1, len(path)):  # tables that only the override made
            self.places.setdefault(path[:length], "--set")
        self.places[path] = "--set"


def write_toml(document: Mapping[str, Any]) -> str:
    """Return a document of tables, lists and scalars as TOML that parses back to the same values."""
    lines: list[str] = []
    _write_table(document, (), lines)
    return "\n".join(lines).strip("\n") + "\n"


def _write_table(table: Mapping[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    nested = {key: value for key, value in table.items() if _is_block(value)}
    for key, value in table.items():
        if key not in nested:
            lines.append(f"{dotted((key,))} = {inline_toml(value)}")
    for key, value in nested.items():
        here = (*path, key)
        if isinstance(value, Mapping):
            if not value or not all(_is_block(item) for item in value.values()):
                lines.extend(["", f"[{dotted(here)}]"])
            _write_table(value, here, lines)
        else:
            for item in value:
                lines.extend(["", f"[[{dotted(here)}]]"])
                _write_table(item, here, lines)


def _is_block(value: Any) -> bool:
    """Tell tables and lists of tables, which get a header of their own, from values on one line."""
    if isinstance(value, Mapping):
        return True
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def inline_toml(value: Any) -> str:
    """Return a value as it stands after the equals sign, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{dotted((key,))} = {inline_toml(item)}" for key, item in value.items())
        return f"{{{pairs}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(inline_toml(item) for item in value)}]"
    raise TypeError(f"TOML has no way to write {value!r}")
