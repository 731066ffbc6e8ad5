"""Frames in shards, read when they are asked for.

However many frames there are, a few shards are open at a time, and what is read is the caller's.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, overload

import attrs
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from lsf.data.frames import Frame
from lsf.data.readers.base import LazyFrames, Reader, Reading, Structures, shown_path
from lsf.data.readers.shards import INDEX, Arrays, read_index
from lsf.errors import DataError, Problem, did_you_mean
from lsf.recipe.data_files import DataFile
from lsf.recipe.quantities import LABELS, PROPERTIES

if TYPE_CHECKING:
    from ase import Atoms

    from lsf.recipe.schema import Head

OPEN_SHARDS: Final = 8
"""Shards kept open for frames that are asked for in any order."""


class _Shard:
    """One open shard; ``arrays`` returns rows of a table, straight from the file."""

    def __init__(self, path: Path) -> None:
        self.file = safe_open(str(path), framework="numpy")
        self.texts: dict[str, list[str]] = json.loads(self.file.metadata()["texts"])
        self.names = set(self.file.keys())
        self.n_atoms = self.file.get_tensor("n_atoms")
        self.first_atom = np.cumsum(self.n_atoms) - self.n_atoms
        self.columns: dict[str, NDArray[np.int64]] = {}
        self.first_row: dict[str, NDArray[np.int64]] = {}
        for name, item in PROPERTIES.items():
            if f"columns.{name}" in self.names:
                columns = self.file.get_tensor(f"columns.{name}")
                rows = np.where(columns < 0, 0, self.n_atoms if item.level == "atom" else 1)
                self.columns[name], self.first_row[name] = columns, np.cumsum(rows) - rows

    def held(self) -> _Held:
        """Return the shard with all its arrays in memory, for reading frame after frame."""
        return _Held(self, {name: self.file.get_tensor(name) for name in self.names})

    def rows(self, name: str, first: int, count: int) -> NDArray[Any]:
        """Return rows of an array; the memory is the caller's."""
        rows: NDArray[Any] = self.file.get_slice(name)[first : first + count]
        return rows

    def frame(self, place: int) -> Frame:
        """Return one frame."""
        return _frame(self, self.rows, place)


@attrs.frozen
class _Held:
    """A shard whose arrays are in memory."""

    shard: _Shard
    arrays: Arrays

    def rows(self, name: str, first: int, count: int) -> NDArray[Any]:
        """Return rows of an array; the memory is the caller's."""
        return self.arrays[name][first : first + count].copy()

    def frame(self, place: int) -> Frame:
        """Return one frame."""
        return _frame(self.shard, self.rows, place)


def _frame(shard: _Shard, rows: Callable[[str, int, int], NDArray[Any]], place: int) -> Frame:
    count, first = int(shard.n_atoms[place]), int(shard.first_atom[place])
    values, weights = {}, {}
    for name, item in PROPERTIES.items():
        if item.label:
            zero = np.zeros(3 if name == "dipole" else ())
            weight = f"weight.{name}"
            weights[name] = np.asarray(rows(weight, place, 1)[0]) if weight in shard.names else zero
        columns = int(shard.columns[name][place]) if name in shard.columns else -1
        if columns < 0:
            continue
        n_rows = count if item.level == "atom" else 1
        table = rows(f"value.{name}", int(shard.first_row[name][place]), n_rows)[:, :columns]
        shape = (columns,) if item.shape == (-1,) else item.shape
        values[name] = np.ascontiguousarray(table).reshape(
            (*([n_rows] if item.level == "atom" else []), *shape)
        )
    return Frame(
        numbers=rows("numbers", first, count),
        positions=rows("positions", first, count),
        cell=rows("cell", place, 1)[0],
        pbc=rows("pbc", place, 1)[0].astype(np.bool_),
        values=values,
        weights=weights,
        config_type=shard.texts["config_type"][place],
        head=shard.texts["head"][place],
        source=shard.texts["source"][place],
        index=int(rows("index", place, 1)[0]),
        has_dipole_weight=bool(rows("has_dipole_weight", place, 1)[0]),
    )


class _Folder:
    """The shards of a folder, the last used ones open."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards = read_index(folder)["shards"]
        problems = [_shard_problem(folder / shard["file"], shard["sha256"]) for shard in self.shards]
        found = [problem for problem in problems if problem is not None]
        if found:
            raise DataError("the shards cannot be used", found)
        counts = np.array([shard["frames"] for shard in self.shards], dtype=np.int64)
        self.ends = np.cumsum(counts)
        self.starts = self.ends - counts
        self._open: OrderedDict[int, _Shard] = OrderedDict()

    @property
    def count(self) -> int:
        """Number of frames."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def shard(self, number: int) -> _Shard:
        """Return a shard, opened where it is not among the last used ones."""
        if number in self._open:
            self._open.move_to_end(number)
        else:
            self._open[number] = _Shard(self.folder / self.shards[number]["file"])
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
        return self._open[number]

    def number_of(self, place: int) -> int:
        """Return the shard that holds a frame of the folder."""
        return int(np.searchsorted(self.ends, place, side="right"))


class ShardFrames(LazyFrames):
    """Frames of a folder of shards, read when they are asked for; ``places`` count through the folder."""

    def __init__(
        self, folder: _Folder, places: NDArray[np.int64], changes: tuple[Callable[[Frame], Frame], ...] = ()
    ) -> None:
        self._folder = folder
        self._changes = changes
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Frame: ...

    @overload
    def __getitem__(self, index: slice) -> ShardFrames: ...

    def __getitem__(self, index: int | slice) -> Frame | ShardFrames:
        if isinstance(index, slice):
            return ShardFrames(self._folder, self.places[index], self._changes)
        place = int(self.places[index])
        number = self._folder.number_of(place)
        return self._changed(self._folder.shard(number).frame(place - int(self._folder.starts[number])))

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames; those of one shard that follow one another are read together."""
        numbers = np.searchsorted(self._folder.ends, self.places, side="right")
        for run in np.split(np.arange(len(numbers)), np.flatnonzero(np.diff(numbers)) + 1):
            if not len(run):
                continue
            number = int(numbers[run[0]])
            held = self._folder.shard(number).held()
            for place in self.places[run]:
                yield self._changed(held.frame(int(place - self._folder.starts[number])))

    def _changed(self, frame: Frame) -> Frame:
        for change in self._changes:
            frame = change(frame)
        return frame

    def changed(self, change: Callable[[Frame], Frame]) -> ShardFrames:
        """Return the same frames, each changed when it is read."""
        return ShardFrames(self._folder, self.places, (*self._changes, change))

    def select(self, positions: Sequence[int] | NDArray[np.int64]) -> ShardFrames:
        """Return the frames at some positions of this sequence, in that order."""
        return ShardFrames(self._folder, self.places[np.asarray(positions, dtype=np.int64)], self._changes)

    def fingerprint(self) -> bytes:
        """Return what ties these frames to their content: the checksums of the shards, and the places."""
        checksums = "".join(shard["sha256"] for shard in self._folder.shards)
        return hashlib.sha256(checksums.encode() + self.places.tobytes()).digest()


def _shard_problem(path: Path, checksum: str) -> Problem | None:
    expected = "the shard of this name that the index describes"
    hint = "write the shards anew with lsf shards"
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return Problem(shown_path(path), "", f"no readable file ({error.strerror})", expected, hint)
    if found != checksum:
        return Problem(shown_path(path), "", "a file with another checksum", expected, hint)
    try:
        with safe_open(str(path), framework="numpy"):
            return None
    except SafetensorError as error:
        return Problem(shown_path(path), "", f"no safetensors file ({error})", expected, hint)


class Shards(Reader):
    """Frames of a folder of shards, read when they are asked for.

    The keys of a mapping say nothing here: shards hold properties under their own names.
    """

    order = 10
    expected = f"a folder of shards with {INDEX}"

    def exists(self, file: DataFile) -> bool:
        """Tell whether there is a folder with an index."""
        return (file.path / INDEX).is_file()

    def recognises(self, file: DataFile) -> bool:
        """Tell whether there is a folder with an index."""
        return self.exists(file)

    def read(
        self, file: DataFile, heads: Mapping[str, Head], config_type_weights: Mapping[str, float]
    ) -> Reading:
        """Return the frames with the properties the heads map, and what is wrong.

        Raises :class:`lsf.errors.DataError` when a shard is missing or is not the one of the index.
        """
        return _read_shards(file, heads, config_type_weights)

    def structures(self, file: DataFile) -> Structures:
        """Return the frames as ASE structures, properties under their own names."""
        shards = _Folder(file.path)
        places = np.arange(shards.count, dtype=np.int64)
        frames = ShardFrames(shards, places[slice(None) if file.selection is None else file.selection])
        return Structures(shown_path(file.path), [(frame.index, _atoms_of(frame)) for frame in frames], ())

    def keys_of_structures(self, heads: Mapping[str, Head]) -> Mapping[str, Head]:
        """Return the heads with every property mapped to its own name."""
        return {
            name: attrs.evolve(
                head,
                info_keys={key: key for key in head.info_keys},
                arrays_keys={key: key for key in head.arrays_keys},
            )
            for name, head in heads.items()
        }

    def statistics(self, file: DataFile) -> Mapping[str, Any]:
        """Return the statistics of the index."""
        statistics: dict[str, Any] = read_index(file.path)["statistics"]
        return statistics

    def checksum(self, file: DataFile) -> str:
        """Return the SHA-256 of the index, which holds the checksums of all its files."""
        return hashlib.sha256((file.path / INDEX).read_bytes()).hexdigest()


def _atoms_of(frame: Frame) -> Atoms:
    from ase import Atoms

    atoms = Atoms(numbers=frame.numbers, positions=frame.positions, cell=frame.cell, pbc=frame.pbc)
    atoms.info |= {"config_type": frame.config_type, "head": frame.head}
    for name, value in frame.values.items():
        (atoms.arrays if PROPERTIES[name].level == "atom" else atoms.info)[name] = value
        if PROPERTIES[name].label and (name != "dipole" or frame.has_dipole_weight):
            atoms.info[f"config_{name}_weight"] = frame.weights[name]
    return atoms


def _read_shards(
    file: DataFile, heads: Mapping[str, Head], config_type_weights: Mapping[str, float]
) -> Reading:
    source = shown_path(file.path)
    shards = _Folder(file.path)
    problems: list[Problem] = []
    found: dict[str, set[str]] = {name: set() for name in heads}
    used: dict[str, None] = {}
    usable: list[NDArray[np.int64]] = []
    for number, start in enumerate(shards.starts.tolist()):
        shard = shards.shard(number)
        names = np.array(shard.texts["head"])
        used |= {name: None for name in shard.texts["head"] if name in heads}
        for name, columns in shard.columns.items():
            for head in set(names[columns >= 0].tolist()) & set(heads):
                found[head].add(name)
        known = np.isin(names, list(heads))
        usable.append(start + np.flatnonzero(known))
        problems += [
            _unknown_head(shard.frame(place), heads) for place in np.flatnonzero(~known)[:5].tolist()
        ]
    places = np.concatenate(usable) if usable else np.zeros(0, dtype=np.int64)
    if file.selection is not None:
        meant = np.arange(shards.count)[file.selection]
        places = meant[np.isin(meant, places)]
    prepare = partial(_as_mapped, heads=heads, config_type_weights=config_type_weights)
    frames = ShardFrames(shards, places.astype(np.int64), (prepare,))
    absent = _absent(source, heads, list(used), found)
    return Reading(source, frames, tuple(problems), tuple(absent), (), tuple(used))


def _as_mapped(frame: Frame, heads: Mapping[str, Head], config_type_weights: Mapping[str, float]) -> Frame:
    """Return a frame with the properties its head maps, weighed by its config type."""
    head = heads[frame.head]
    mapped = {*head.info_keys, *head.arrays_keys}
    factor = config_type_weights.get(frame.config_type, 1.0)
    weights = {name: factor * weight for name, weight in frame.weights.items()}
    weighed = attrs.evolve(frame, weights=weights)
    return weighed.without(name for name in (*LABELS, *frame.values) if name not in mapped)


def _unknown_head(frame: Frame, heads: Mapping[str, Head]) -> Problem:
    expected = f"one of the recipe's heads: {', '.join(heads)}"
    return Problem(frame.where, "head", repr(frame.head), expected, did_you_mean(frame.head, heads))


def _absent(
    source: str, heads: Mapping[str, Head], used: Sequence[str], found: Mapping[str, set[str]]
) -> list[Problem]:
    """Return a problem for every mapped property that no frame of the shards has."""
    problems = []
    for head in used:
        for table, mapping in (
            ("info_keys", heads[head].info_keys),
            ("arrays_keys", heads[head].arrays_keys),
        ):
            for name in mapping:
                if name == "head" or name in found[head]:
                    continue
                hint = f"properties in the shards: {', '.join(sorted(found[head])) or 'none'}"
                key = f"heads.{head}.{table}.{name}"
                problems.append(
                    Problem(source, key, f"no {name} in any frame", "a property of the shards", hint)
                )
    return problems
