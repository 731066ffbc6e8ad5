"""Extended XYZ files, read frame by frame through ASE so that an error names its frame and line."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO

import attrs

from lsf.data.readers.base import StructureReader, Structures, no_frames, shown_path
from lsf.errors import Problem
from lsf.recipe.data_files import DataFile

if TYPE_CHECKING:
    from ase import Atoms

    from lsf.recipe.schema import Head

_VOIGT_ENTRY: Final = re.compile(r"""(?<!\S)(stress|virial)=(["'{\[])([^"'}\]]*)(["'}\]])""")
_DEFAULT_COLUMNS: Final = "species:S:1:pos:R:3"
_RENAMED_COLUMNS: Final = {"charge": "charges"}
"""Columns that ASE keeps under another name."""
_PROBE: Final = 4096
"""Characters of a line that are looked at to recognise a file."""
_UNPACKING: Final = (OSError, EOFError, zlib.error)
"""What opening and unpacking a file raises."""


class _Chunk(NamedTuple):
    """The lines of one frame, its number (from 0) and that of its first line (from 1)."""

    number: int
    line: int
    lines: list[str]


class ExtendedXYZ(StructureReader):
    """Frames of an extended XYZ file."""

    order = 20
    expected = "an extended XYZ file"

    def recognises(self, file: DataFile) -> bool:
        """Tell by the suffix, elsewhere by a count of atoms followed by a comment line with entries."""
        name = file.path.name.lower().removesuffix(".gz")
        if name.endswith((".xyz", ".extxyz")):
            return True
        try:
            with _opened(file.path) as lines:
                first, second = (lines.readline(_PROBE) for _ in range(2))
        except (*_UNPACKING, UnicodeDecodeError):
            return False
        return first.strip().isdecimal() and "=" in second

    def structures(self, file: DataFile) -> Structures:
        """Return the structures; problems name frame and line."""
        found, problems = _read_structures(file)
        return Structures(shown_path(file.path), found, problems)

    def keys_of_structures(self, heads: Mapping[str, Head]) -> Mapping[str, Head]:
        """Return the mapping with the names that ASE gives to columns."""
        return {
            name: attrs.evolve(
                head,
                arrays_keys={
                    key: _RENAMED_COLUMNS.get(column, column) for key, column in head.arrays_keys.items()
                },
            )
            for name, head in heads.items()
        }


# ---------------------------------------------------------------------------------------------------
# from text to ASE


def _read_structures(file: DataFile) -> tuple[list[tuple[int, Atoms]], list[Problem]]:
    """Return (frame number, structure) of every readable frame, and the problems of the others."""
    path, source = file.path, shown_path(file.path)
    structures: list[tuple[int, Atoms]] = []
    problems: list[Problem] = []
    try:
        for _, chunk in file.selected(_noting(_chunks(path), problems)):
            atoms = _parse(source, chunk)
            if isinstance(atoms, Problem):
                problems.append(atoms)
            else:
                structures.append((chunk.number, atoms))
    except UnicodeDecodeError:
        expected = "an extended XYZ file as plain text"
        hint = "compressed files are read where their name ends in .gz"
        return [], [Problem(source, "", "bytes that are no text", expected, hint)]
    except _UNPACKING as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        found = f"a file that cannot be read ({reason})"
        return [], [Problem(source, "", found, "an extended XYZ file")]
    if not structures and not problems:
        problems.append(no_frames(file, "an extended XYZ file"))
    return structures, problems


def _noting(items: Iterable[_Chunk | Problem], problems: list[Problem]) -> Iterator[_Chunk]:
    """Yield the chunks; problems go where they are collected."""
    for item in items:
        if isinstance(item, Problem):
            problems.append(item)
        else:
            yield item


def _opened(path: Path) -> TextIO:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def _chunks(path: Path) -> Iterator[_Chunk | Problem]:
    """Yield the lines of every frame; a problem where the file ends early or a header is missing."""
    with _opened(path) as file:
        lines = enumerate(file, start=1)
        index = 0
        for number, header in lines:
            if not header.strip():
                continue  # ASE would stop reading here and drop the rest without a word
            where = f"{shown_path(path)}, frame {index}, line {number}"
            if not header.strip().isdecimal() or int(header) == 0:
                found = repr(header.strip()[:60])
                expected = "the number of atoms of the next frame"
                hint = "the frame before may have more lines than its first line says" if index else ""
                yield Problem(where, "", found, expected, hint)
                return
            n_atoms = int(header)
            block = [header]
            for _ in range(n_atoms + 1):
                item = next(lines, None)
                if item is None:
                    break
                block.append(item[1])
            if len(block) < n_atoms + 2:
                found = f"the end of the file after {max(0, len(block) - 2)} atoms"
                yield Problem(where, "", found, f"{n_atoms} atoms", "the file is truncated")
                return
            yield _Chunk(index, number, block)
            index += 1


def _parse(source: str, chunk: _Chunk) -> Atoms | Problem:
    """Return the frame's structure, or what is wrong with which line."""
    from ase.io.extxyz import read_xyz

    try:
        text = StringIO("".join(chunk.lines))
        atoms = next(read_xyz(text, index=0, properties_parser=_parse_comment))
    except Exception as error:  # ASE's parser lets exceptions of every kind through
        return _diagnosis(source, chunk, error)
    if (atoms.numbers < 1).any():
        bad = int((atoms.numbers < 1).argmax())
        where = f"{source}, frame {chunk.number}, line {chunk.line + 2 + bad}"
        return Problem(where, "species", repr(chunk.lines[2 + bad].split()[0]), "a chemical element")
    return atoms


def _parse_comment(line: str) -> dict[str, Any]:
    """Return the entries of a comment line; ASE alone refuses ``stress`` with six numbers."""
    from ase.io.extxyz import key_val_str_to_dict

    def spelled_out(match: re.Match[str]) -> str:
        numbers = match[3].replace(",", " ").split()
        if len(numbers) != 6:
            return match[0]
        xx, yy, zz, yz, xz, xy = numbers
        return f'{match[1]}="{xx} {xy} {xz} {xy} {yy} {yz} {xz} {yz} {zz}"'

    entries: dict[str, Any] = key_val_str_to_dict(_VOIGT_ENTRY.sub(spelled_out, line))
    return entries


def _diagnosis(source: str, chunk: _Chunk, error: Exception) -> Problem:
    """Return the first line of a frame that does not fit its own description."""
    from ase.data import atomic_numbers
    from ase.io.extxyz import parse_properties

    def problem(offset: int, key: str, found: str, expected: str, hint: str = "") -> Problem:
        where = f"{source}, frame {chunk.number}, line {chunk.line + offset}"
        return Problem(where, key, found, expected, hint)

    try:
        entries = _parse_comment(chunk.lines[1].strip())
        properties = str(entries.get("Properties", _DEFAULT_COLUMNS))
        _, _, dtype, converters = parse_properties(properties)
    except Exception as cause:
        return problem(1, "", f"a comment line ASE cannot read ({cause})", "key=value entries")
    names = list(dtype.names)
    for offset, line in enumerate(chunk.lines[2:], start=2):
        words = line.split()
        if len(words) < len(names):
            expected = f"{len(names)} columns ({properties})"
            return problem(offset, "", f"{len(words)} columns", expected)
        for name, converter, word in zip(names, converters, words, strict=False):
            if name == "species" and word.capitalize() not in atomic_numbers:
                return problem(offset, name, repr(word), "a chemical element")
            try:
                converter(word)
            except ValueError:
                return problem(offset, name, repr(word), "a number")
    return problem(0, "", f"a frame ASE cannot read ({error})", "extended XYZ")
