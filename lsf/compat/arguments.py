"""Old command lines and YAML configs, read into checked values that know where they came from."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import attrs

from lsf.compat.table import Row, flag_rows
from lsf.errors import LsfError, MissingExtraError, Problem, did_you_mean

TRUE: Final = ("true", "yes", "t", "y", "1")
FALSE: Final = ("false", "no", "f", "n", "0")

EXPECTED: Final = {
    "word": "a word",
    "words": "words",
    "integer": "a whole number",
    "number": "a number",
    "number or None": "a number or None",
    "yes/no": "True or False",
    "table": "a table such as {1: 1.0, 8: -2.0}",
    "word or table": "a word or a table",
    "list": "a list such as [64, 64]",
}
"""What a flag takes, in the words of error messages."""


@attrs.frozen
class Given:
    """A value somebody wrote: where, under which label, and what."""

    where: str
    label: str
    value: Any


class Assignment(NamedTuple):
    """A value of the recipe, and the flag it comes from."""

    flag: str
    key: str
    value: Any


Assignments = Iterator[Assignment]
"""What a rule of old flags yields."""


@attrs.define
class Flags:
    """All flags of one call: values as given or by default, problems and remarks collected on the way."""

    given: dict[str, Given] = attrs.field(factory=dict)
    table: str = "flags"
    problems: list[Problem] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)

    def __getitem__(self, name: str) -> Any:
        return self.given[name].value if name in self.given else self.rows[name].default

    @property
    def rows(self) -> Mapping[str, Row]:
        """The flags of the script."""
        return flag_rows(self.table)

    def has(self, name: str) -> bool:
        """Tell whether somebody gave the flag."""
        return name in self.given

    def label(self, name: str) -> str:
        """Return the flag as its user wrote it."""
        return self.given[name].label if name in self.given else f"--{name}"

    def note(self, name: str, text: str) -> None:
        """Remark on a flag, in one line."""
        self.notes.append(f"{self.label(name)}: {text}")

    def refuse(self, name: str, found: str, expected: str, hint: str = "") -> None:
        """Collect a problem with a flag."""
        where = self.given[name].where if name in self.given else "command line"
        self.problems.append(Problem(where, self.label(name), found, expected, hint))


def read_flags(arguments: Sequence[str], table: str = "flags") -> Flags:
    """Return the flags of a command line and of the YAML config it names; the command line wins."""
    flags = Flags(table=table)
    written = _command_line(arguments, flags)
    config = written.pop("config", None)
    if config is not None:
        for name, given in _config_file(str(config.value), flags).items():
            written.setdefault(name, given)
    for name, given in written.items():
        value = _converted(flags.rows[name], given, flags)
        if value is not None:
            flags.given[name] = attrs.evolve(given, value=value)
    return flags


# ---------------------------------------------------------------------------------------------------
# command line


def _command_line(arguments: Sequence[str], flags: Flags) -> dict[str, Given]:
    """Return the texts after each flag; the last one counts where a flag is repeated."""
    found: dict[str, Given] = {}
    rest = list(arguments)
    while rest:
        text = rest.pop(0)
        if not text.startswith("--"):
            flags.problems.append(
                Problem("command line", "", repr(text), "a flag", "quote values that contain spaces")
            )
            continue
        label, equals, attached = text.partition("=")
        name = label.removeprefix("--").replace("-", "_")
        negated = name not in flags.rows and name.removeprefix("no_") in flags.rows
        name = name.removeprefix("no_") if negated else name
        if name not in flags.rows:
            _unknown(label, flags)
            while rest and not rest[0].startswith("--"):
                rest.pop(0)
            continue
        takes = flags.rows[name].takes
        values = [attached] if equals else _following(rest, takes)
        if negated:
            values = ["False"]
        elif not values and takes == "yes/no":
            values = ["True"]
        if name in found and takes != "words":
            flags.notes.append(f"{label}: given more than once, the last one counts")
        if not values:
            flags.problems.append(Problem("command line", label, "nothing after it", EXPECTED[takes]))
            continue
        words = [*found[name].value, *values] if takes == "words" and name in found else values
        found[name] = Given("command line", label, words if takes == "words" else values[0])
    return found


def _following(rest: list[str], takes: str) -> list[str]:
    """Take the values after a flag: all words, the next one, or for yes/no only one that says either."""
    if takes == "yes/no":
        return [rest.pop(0)] if rest and rest[0].lower() in (*TRUE, *FALSE) else []
    values: list[str] = []
    while rest and not rest[0].startswith("--") and (takes == "words" or not values):
        values.append(rest.pop(0))
    return values


def _unknown(label: str, flags: Flags) -> None:
    names = [f"--{name}" for name in flags.rows]
    hint = did_you_mean(label, names)
    hint = hint if hint.startswith("did") else "docs/migration.md lists the flags"
    flags.problems.append(Problem("command line", label, "an unknown flag", "a flag of the table", hint))


# ---------------------------------------------------------------------------------------------------
# YAML


def _config_file(name: str, flags: Flags) -> dict[str, Given]:
    content, lines = load_yaml(Path(name))
    found: dict[str, Given] = {}
    for key, value in content.items():
        flag, where = str(key).replace("-", "_"), f"{name}:{lines[key]}"
        if flag in flag_rows() and flag not in flags.rows:
            flags.notes.append(f"{where}: {key}: no effect: it belongs to run_train.py")
        elif flag not in flags.rows or flag == "config":
            hint = did_you_mean(flag, flags.rows)
            flags.problems.append(Problem(where, str(key), "an unknown key", "a flag of the table", hint))
        elif value is not None:
            found[flag] = Given(where, str(key), value)
    return found


def load_yaml(path: Path) -> tuple[dict[Any, Any], dict[Any, int]]:
    """Return a YAML file's top-level table and the line of each of its keys.

    Raises :class:`lsf.errors.LsfError` when the file cannot be read, is no YAML, is no table or gives a key
    of any table twice, which YAML itself lets pass.
    """
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError("pyyaml", "compat", "reading a YAML config") from error
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise LsfError(f"--config {path}: cannot be read: {reason}") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise LsfError(f"--config {path}: not valid YAML: {' '.join(str(error).split())}") from error
    if content is None or node is None:
        return {}, {}
    if not isinstance(content, dict):
        raise LsfError(f"--config {path}: found a {type(content).__name__}; expected a table of flags")
    _refuse_repeated_keys(node, path, yaml.MappingNode)
    lines = {key: node.value[place][0].start_mark.line + 1 for place, key in enumerate(content)}
    return content, lines


def _refuse_repeated_keys(node: Any, path: Path, mapping: type) -> None:
    children = []
    if isinstance(node, mapping):
        seen: set[str] = set()
        for key, value in node.value:  # type: ignore[attr-defined]
            if key.value in seen:
                raise LsfError(f"--config {path}:{key.start_mark.line + 1}: {key.value!r} is there twice")
            seen.add(key.value)
            children.append(value)
    elif isinstance(node.value, list):
        children = node.value
    for child in children:
        _refuse_repeated_keys(child, path, mapping)


# ---------------------------------------------------------------------------------------------------
# values


def _converted(row: Row, given: Given, flags: Flags) -> Any:
    """Return the value as what the flag takes; None, with a problem noted, where it is something else."""
    try:
        return _read(row.takes, given.value)
    except (ValueError, SyntaxError, TypeError):
        shown = str(given.value)
        found = repr(shown if len(shown) < 60 else f"{shown[:57]}...")
        flags.problems.append(Problem(given.where, given.label, found, EXPECTED[row.takes]))
        return None


def _read(takes: str, value: Any) -> Any:
    if takes == "words":
        return [str(word) for word in value] if isinstance(value, list) else [str(value)]
    if takes == "yes/no":
        return _yes_or_no(value)
    if takes == "integer":
        return _integer(value)
    if takes.startswith("number"):
        return "None" if takes.endswith("None") and str(value) == "None" else _number(value)
    if takes == "table":
        return _literal(value, Mapping)
    if takes == "list":
        return list(_literal(value, (list, tuple)))
    if takes == "word or table" and (isinstance(value, Mapping) or str(value).lstrip().startswith("{")):
        return _literal(value, Mapping)
    if isinstance(value, list | dict):
        raise TypeError
    return str(value)


def _yes_or_no(value: Any) -> bool:
    word = str(value).lower()
    if word not in (*TRUE, *FALSE):
        raise ValueError(word)
    return word in TRUE


def _integer(value: Any) -> int:
    if isinstance(value, bool | float):
        raise TypeError
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def _literal(value: Any, kind: Any) -> Any:
    """Return a Python literal out of a text; values from YAML are taken as they are. Nothing is executed."""
    parsed = ast.literal_eval(value.strip()) if isinstance(value, str) else value
    if not isinstance(parsed, kind):
        raise TypeError
    return parsed
