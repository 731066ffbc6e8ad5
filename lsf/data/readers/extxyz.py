"""Extended XYZ files, read frame by frame through ASE so that an error names its frame and line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import attrs

from lsf.data.frames import Frame, atom_entries, file_key, frame_entries, frame_from_atoms
from lsf.errors import DataError, Problem, nearest
from lsf.recipe.quantities import LABELS

if TYPE_CHECKING:
    from ase import Atoms

    from lsf.recipe.schema import Head

TITLE: Final = "the data cannot be used; frames are counted from 0"

_VOIGT_ENTRY: Final = re.compile(r"""(?<!\S)(stress|virial)=(["'{\[])([^"'}\]]*)(["'}\]])""")
_DEFAULT_COLUMNS: Final = "species:S:1:pos:R:3"
_NUMBER: Final = re.compile(r"[-+]?\d[\d.]*(e[-+]?\d+)?")
_KNOWN_WEIGHTS: Final = frozenset({"config_weight", *(f"config_{name}_weight" for name in LABELS)})


class _Chunk(NamedTuple):
    """The lines of one frame, its number (from 0) and that of its first line (from 1)."""

    number: int
    line: int
    lines: list[str]


@attrs.frozen
class Reading:
    """What a file held.

    ``problems`` make the file unusable. ``absent`` are mapped keys that no frame has: for training data a
    mistake, for data to be evaluated merely something that cannot be compared. ``unknown_weights`` are
    entries named like weights that weigh nothing. ``heads`` are the heads that frames belong to.
    """

    source: str
    frames: Sequence[Frame]
    problems: tuple[Problem, ...]
    absent: tuple[Problem, ...]
    unknown_weights: tuple[str, ...]
    heads: tuple[str, ...]


def shown_path(path: Path) -> str:
    """Return the path as messages show it: from the current folder where it lies inside."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def read_frames(
    path: str | Path,
    heads: Mapping[str, Head],
    config_type_weights: Mapping[str, float] | None = None,
) -> list[Frame]:
    """Return the frames of an extended XYZ file; labels that are absent are no error.

    Raises :class:`lsf.errors.DataError` with every problem found in the file.
    """
    reading = read_file(path, heads, config_type_weights)
    if reading.problems:
        raise DataError(TITLE, limited(reading.problems))
    return list(reading.frames)


def read_atoms(path: str | Path) -> list[Atoms]:
    """Return the structures of an extended XYZ file as ASE reads them.

    Raises :class:`lsf.errors.DataError` as :func:`read_frames` does.
    """
    structures, problems = _read_structures(Path(path))
    if problems:
        raise DataError(TITLE, limited(problems))
    return [atoms for _, atoms in structures]


def read_file(
    path: str | Path,
    heads: Mapping[str, Head],
    config_type_weights: Mapping[str, float] | None = None,
) -> Reading:
    """Return the frames of a file with all problems instead of raising them."""
    path = Path(path)
    source = shown_path(path)
    structures, problems = _read_structures(path)
    frames: list[Frame] = []
    frame_keys: Counter[str] = Counter()
    atom_keys: Counter[str] = Counter()
    for index, atoms in structures:
        frame_keys.update(frame_entries(atoms).keys())
        atom_keys.update(atom_entries(atoms).keys())
        frame, found = frame_from_atoms(
            atoms, heads, source=source, index=index, config_type_weights=config_type_weights
        )
        problems += found
        if frame is not None:
            frames.append(frame)
    # a file that cannot be read says nothing about its keys
    absent = _absent_keys(source, frames, heads, frame_keys, atom_keys) if frames else []
    unknown = sorted(
        key
        for key in frame_keys
        if key.startswith("config_") and key.endswith("_weight") and key not in _KNOWN_WEIGHTS
    )
    used = tuple(dict.fromkeys(frame.head for frame in frames))
    return Reading(source, tuple(frames), tuple(problems), tuple(absent), tuple(unknown), used)


def _absent_keys(
    source: str,
    frames: Sequence[Frame],
    heads: Mapping[str, Head],
    frame_keys: Mapping[str, int],
    atom_keys: Mapping[str, int],
) -> list[Problem]:
    """Return a problem for every mapped key that no frame has, naming the nearest one there is."""
    problems = []
    for head_name in dict.fromkeys(frame.head for frame in frames):
        head = heads[head_name]
        tables = (
            ("info_keys", head.info_keys, frame_keys, atom_keys, "frame", "atom"),
            ("arrays_keys", head.arrays_keys, atom_keys, frame_keys, "atom", "frame"),
        )
        for table, mapping, keys, other_keys, level, other_level in tables:
            for name, key in mapping.items():
                if file_key(key) in keys:
                    continue
                match = nearest(key, keys)
                listed = ", ".join(sorted(keys)) or "none"
                hint = f"did you mean {match!r}? " if match else ""
                if file_key(key) in other_keys:
                    hint = f"{key!r} is there once per {other_level}, not per {level}. "
                problems.append(
                    Problem(
                        source,
                        f"heads.{head_name}.{table}.{name}",
                        f"the key {key!r} in no frame",
                        f"a key of the file, once per {level}",
                        f"{hint}keys per {level} in the file: {listed}",
                    )
                )
    return problems


def limited(problems: Sequence[Problem], first: int = 5) -> list[Problem]:
    """Return the problems with repetitions cut: of one kind in one file the first few, a count, one hint.

    Two problems are of one kind when key, expectation and hint agree but for numbers.
    """
    groups: dict[tuple[str, ...], list[Problem]] = {}
    for problem in problems:
        text = [_NUMBER.sub("#", part) for part in (problem.expected, problem.hint)]
        groups.setdefault((problem.where.split(", frame")[0], problem.key, *text), []).append(problem)
    shown: list[Problem] = []
    for group in groups.values():
        *others, last = group[:first]
        shown += [attrs.evolve(problem, hint="") for problem in others]
        more = [f"… and {len(group) - first} more like this"] if len(group) > first else []
        shown.append(attrs.evolve(last, hint="\n    ".join([*more, last.hint] if last.hint else more)))
    return shown


# ---------------------------------------------------------------------------------------------------
# from text to ASE


def _read_structures(path: Path) -> tuple[list[tuple[int, Atoms]], list[Problem]]:
    """Return (frame number, structure) of every readable frame, and the problems of the others."""
    structures: list[tuple[int, Atoms]] = []
    problems: list[Problem] = []
    try:
        for item in _chunks(path):
            if isinstance(item, Problem):
                problems.append(item)
                continue
            atoms = _parse(shown_path(path), item)
            if isinstance(atoms, Problem):
                problems.append(atoms)
            else:
                structures.append((item.number, atoms))
    except UnicodeDecodeError:
        expected = "an extended XYZ file as plain text"
        return [], [
            Problem(shown_path(path), "", "bytes that are no text", expected, "unpack compressed files")
        ]
    except OSError as error:
        return [], [_unreadable(path, error)]
    if not structures and not problems:
        problems.append(
            Problem(shown_path(path), "", "an empty file", "an extended XYZ file with at least one frame")
        )
    return structures, problems


def _unreadable(path: Path, error: OSError) -> Problem:
    expected = "an extended XYZ file"
    if isinstance(error, FileNotFoundError):
        siblings = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
        match = nearest(path.name, siblings)
        hint = f"did you mean {match!r}?" if match else ""
        if not path.parent.is_dir():
            hint = f"the folder {shown_path(path.parent)} does not exist either"
        return Problem(shown_path(path), "", "no such file", expected, hint)
    if isinstance(error, IsADirectoryError):
        return Problem(shown_path(path), "", "a folder", expected)
    return Problem(shown_path(path), "", f"a file that cannot be read ({error.strerror})", expected)


def _chunks(path: Path) -> Iterator[_Chunk | Problem]:
    """Yield the lines of every frame; a problem where the file ends early or a header is missing."""
    with path.open(encoding="utf-8") as file:
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
