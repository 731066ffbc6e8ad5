"""What a reader is: from the name of a file or folder to frames whose mapped keys are properties.

A reader is one class and one registry entry of the kind ``readers``. Most formats come as ASE structures:
:class:`StructureReader` makes frames of them, with the same checks for all.
:func:`lsf.data.readers.choose.read_file` picks the reader.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from lsf.data.frames import Frame, atom_entries, frame_entries, frame_from_atoms
from lsf.errors import Problem, nearest
from lsf.recipe.data_files import DataFile
from lsf.recipe.quantities import LABELS

if TYPE_CHECKING:
    from ase import Atoms

    from lsf.recipe.schema import Head

TITLE: Final = "the data cannot be used; frames are counted from 0"

_NUMBER: Final = re.compile(r"[-+]?\d[\d.]*(e[-+]?\d+)?")
_KNOWN_WEIGHTS: Final = frozenset({"config_weight", *(f"config_{name}_weight" for name in LABELS)})


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
    absent: tuple[Problem, ...] = ()
    unknown_weights: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()


@attrs.frozen
class Structures:
    """The structures of a file as ASE objects with their frame numbers, and the problems of the others."""

    source: str
    numbered: Sequence[tuple[int, Atoms]]
    problems: Sequence[Problem]


class LazyFrames(Sequence[Frame], ABC):
    """Frames that are read when they are asked for."""

    @abstractmethod
    def changed(self, change: Callable[[Frame], Frame]) -> LazyFrames:
        """Return the same frames, each changed when it is read."""

    @abstractmethod
    def select(self, positions: Sequence[int] | NDArray[np.int64]) -> LazyFrames:
        """Return the frames at some positions of this sequence, in that order."""

    @abstractmethod
    def fingerprint(self) -> bytes:
        """Return what ties these frames to their content."""


def changed_frames(frames: Sequence[Frame], change: Callable[[Frame], Frame]) -> Sequence[Frame]:
    """Return frames, each changed; lazy ones when they are read."""
    return frames.changed(change) if isinstance(frames, LazyFrames) else [change(frame) for frame in frames]


def chosen_frames(frames: Sequence[Frame], positions: Sequence[int] | NDArray[np.int64]) -> Sequence[Frame]:
    """Return the frames at some positions, in that order."""
    if isinstance(frames, LazyFrames):
        return frames.select(positions)
    return [frames[position] for position in positions]


class Reader(ABC):
    """Turns a file or folder into frames; made without arguments from its registry entry.

    With ``reader = "auto"`` readers are asked by ascending ``order`` whether they recognise a file: lsf's own
    stand at 10 (shards), 20 (extended XYZ) and 90 (ASE). ``expected`` says in an error what the reader wants.
    A lazy reader returns :class:`LazyFrames`, so that memory does not grow with their number.
    """

    order: ClassVar[int] = 50
    expected: ClassVar[str]

    def exists(self, file: DataFile) -> bool:
        """Tell whether there is something at this place that the reader could be given."""
        return file.path.is_file()

    @abstractmethod
    def recognises(self, file: DataFile) -> bool:
        """Tell from its name or first bytes whether what is there is in the reader's format."""

    @abstractmethod
    def read(
        self, file: DataFile, heads: Mapping[str, Head], config_type_weights: Mapping[str, float]
    ) -> Reading:
        """Return the frames with the properties the heads map, and all problems instead of raising them."""

    @abstractmethod
    def structures(self, file: DataFile) -> Structures:
        """Return the structures with everything the file says about them."""

    def keys_of_structures(self, heads: Mapping[str, Head]) -> Mapping[str, Head]:
        """Return the key mapping that fits :meth:`structures`."""
        return heads

    def statistics(self, _file: DataFile) -> Mapping[str, Any] | None:
        """Return what an index beside the frames says about them; None for formats without one."""
        return None

    def checksum(self, file: DataFile) -> str:
        """Return the SHA-256 of the content, in hexadecimal digits."""
        if file.path.is_file():
            return hashlib.sha256(file.path.read_bytes()).hexdigest()
        total = hashlib.sha256()
        for part in sorted(item for item in file.path.rglob("*") if item.is_file()):
            total.update(part.relative_to(file.path).as_posix().encode() + b"\0" + part.read_bytes())
        return total.hexdigest()


class StructureReader(Reader):
    """A reader of a format whose frames come as ASE structures."""

    def read(
        self, file: DataFile, heads: Mapping[str, Head], config_type_weights: Mapping[str, float]
    ) -> Reading:
        """Return the frames with the properties the heads map, and all problems instead of raising them."""
        return reading_of(self.structures(file), self.keys_of_structures(heads), config_type_weights)


def reading_of(
    structures: Structures, heads: Mapping[str, Head], config_type_weights: Mapping[str, float]
) -> Reading:
    """Return the frames of ASE structures, with everything that is wrong with their labels."""
    source, problems = structures.source, list(structures.problems)
    frames: list[Frame] = []
    frame_keys: Counter[str] = Counter()
    atom_keys: Counter[str] = Counter()
    for index, atoms in structures.numbered:
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
                if key in keys:
                    continue
                match = nearest(key, keys)
                listed = ", ".join(sorted(keys)) or "none"
                hint = f"did you mean {match!r}? " if match else ""
                if key in other_keys:
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


# ---------------------------------------------------------------------------------------------------
# messages


def shown_path(path: Path) -> str:
    """Return the path as messages show it: from the current folder where it lies inside."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def limited(problems: Iterable[Problem], first: int = 5) -> list[Problem]:
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


def missing_file(path: Path) -> Problem:
    """Return the problem of a name under which there is nothing, with the nearest name there."""
    siblings = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    match = nearest(path.name, siblings)
    hint = f"did you mean {match!r}?" if match else ""
    if not path.parent.is_dir():
        hint = f"the folder {shown_path(path.parent)} does not exist either"
    return Problem(shown_path(path), "", "no such file", "a file or folder with frames", hint)


def no_frames(file: DataFile, expected: str) -> Problem:
    """Return the problem of a file in which no frame is left."""
    if file.selection is None:
        return Problem(shown_path(file.path), "", "an empty file", f"{expected} with at least one frame")
    bounds = [file.selection.start, file.selection.stop]
    bounds += [] if file.selection.step is None else [file.selection.step]
    text = ":".join("" if bound is None else str(bound) for bound in bounds)
    return Problem(shown_path(file.path), "", f"no frame at @{text}", "a selection of frames the file has")
