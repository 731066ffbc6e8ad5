"""Check that modules stay below 400 lines and functions below 60, as ``make lint`` asks.

A function is counted from its ``def`` to its last line, without decorators and docstring: nobody should
shorten an explanation to meet a limit. Where a limit is in the way a noun is missing; the few that
have a reason to be longer stand in ``EXCEPTIONS``, and an exception that is not needed is a problem too.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

MODULE_LIMIT: Final = 400
FUNCTION_LIMIT: Final = 60

# place of a module or function: why it may be longer
EXCEPTIONS: Final[Mapping[str, str]] = {}


class Length(NamedTuple):
    """Lines of one module or function."""

    place: str
    lines: int
    limit: int


def lengths(path: Path, name: str) -> Iterator[Length]:
    """Yield the length of a module, as ``name``, and of its functions, as ``name::Class.function``."""
    source = path.read_text(encoding="utf-8")
    yield Length(name, len(source.splitlines()), MODULE_LIMIT)
    yield from _functions(ast.parse(source), f"{name}::")


def _functions(node: ast.AST, prefix: str) -> Iterator[Length]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            place = prefix + child.name
            yield Length(
                place, _last_line(child) - child.lineno + 1 - _docstring_lines(child), FUNCTION_LIMIT
            )
            yield from _functions(child, f"{place}.")
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")
        else:
            yield from _functions(child, prefix)


def _docstring_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = function.body[0]
    if ast.get_docstring(function) is None:
        return 0
    return _last_line(first) - first.lineno + 1


def _last_line(node: ast.stmt) -> int:
    return node.lineno if node.end_lineno is None else node.end_lineno


def problems(found: Sequence[Length], exceptions: Mapping[str, str] = EXCEPTIONS) -> list[str]:
    """Return what is too long, and the exceptions that are no longer needed."""
    long = {item.place: item for item in found if item.lines >= item.limit}
    said = [
        f"{item.place}: {item.lines} lines, expected fewer than {item.limit}"
        for item in long.values()
        if item.place not in exceptions
    ]
    return said + [f"{place}: an exception that is not needed" for place in exceptions if place not in long]


def main(root: Path) -> int:
    """Check the package below a folder; return 1 where something is too long."""
    paths = sorted((root / "lsf").rglob("*.py"))
    found = [item for path in paths for item in lengths(path, path.relative_to(root).as_posix())]
    said = problems(found)
    for line in said:
        sys.stderr.write(f"{line}\n")
    return int(bool(said))


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent.parent))
