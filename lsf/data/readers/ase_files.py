"""Files of all the formats that ASE reads, with keys by ASE's names.

What a calculation gave stands under ``energy``, ``free_energy``, ``forces``, ``stress``, ``dipole``,
``charges``, ``magmoms``; further entries are those of ``atoms.info`` and ``atoms.arrays``, in databases the
key-value pairs and the data of a row. Units are ASE's, which are lsf's.

Of the two energies of VASP (``vasprun.xml``, ``OUTCAR``), ``energy`` is extrapolated to zero smearing of the
occupations; ``free_energy`` is the one whose derivatives the forces are.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lsf.data.frames import atom_entries, frame_entries
from lsf.data.readers.base import StructureReader, Structures, no_frames, shown_path
from lsf.errors import Problem
from lsf.recipe.data_files import DataFile

if TYPE_CHECKING:
    from ase import Atoms

_OWN_ARRAYS: Final = frozenset({"numbers", "positions"})


class _FrameError(Exception):
    """ASE failed on a frame."""

    def __init__(self, place: int, error: Exception) -> None:
        super().__init__(place)
        self.place = place
        self.error = error


class ASEFiles(StructureReader):
    """Frames of a file that ASE reads."""

    order = 90
    expected = "a file of a format that ASE reads"

    def exists(self, file: DataFile) -> bool:
        """Tell whether there is a file or a folder."""
        return file.path.exists()

    def recognises(self, file: DataFile) -> bool:
        """Tell whether ASE finds its format, from the name or the first bytes."""
        return _format_of(file.path) is not None

    def structures(self, file: DataFile) -> Structures:
        """Return the structures, results of calculations attached; a problem names the frame ASE fails on."""
        source, format_name = shown_path(file.path), _format_of(file.path)
        if format_name is None:
            return Structures(source, (), [Problem(source, "", "a file of none of them", self.expected)])
        found: list[tuple[int, Atoms]] = []
        problems: list[Problem] = []
        try:
            for place, atoms in file.selected(_counted(_images(file.path, format_name))):
                wrong = _structure_problem(atoms, f"{source}, frame {place}")
                found += [] if wrong else [(place, atoms)]
                problems += wrong
        except _FrameError as broken:
            what = f"a frame ASE cannot read ({type(broken.error).__name__}: {broken.error})"
            where = f"{source}, frame {broken.place}"
            problems.append(Problem(where, "", what, f"the format {format_name!r} of ASE"))
        problems += _unfinished(file, format_name)
        if not found and not problems:
            problems.append(no_frames(file, self.expected))
        return Structures(source, found, problems)


def _format_of(path: Path) -> str | None:
    """Return ASE's name of a file's format."""
    from ase.io.bundletrajectory import BundleTrajectory
    from ase.io.formats import UnknownFileTypeError, filetype, ioformats

    if path.is_dir() and not BundleTrajectory.is_bundle(str(path)):
        return None
    try:
        name = filetype(str(path))
    except (UnknownFileTypeError, OSError, EOFError, zlib.error):
        return None
    return name if name in ioformats and ioformats[name].can_read else None


def _images(path: Path, format_name: str) -> Iterator[Atoms]:
    if format_name in ("db", "json"):
        return _rows(path, format_name)
    from ase.io import iread

    images: Iterator[Atoms] = iread(str(path), index=":", format=format_name, do_not_split_by_at_sign=True)
    return images


def _rows(path: Path, format_name: str) -> Iterator[Atoms]:
    """Yield the structures of a database with everything a row holds; ``ase.io`` drops most of it."""
    from ase.db import connect

    kind = "extract_from_name" if path.suffix == ".aselmdb" else format_name
    with connect(str(path), type=kind, serial=True) as database:
        for row in database.select():
            atoms = row.toatoms(add_additional_information=True)
            pairs, data = atoms.info.pop("key_value_pairs", {}), atoms.info.pop("data", {})
            _add_entries(atoms, pairs)
            _add_entries(atoms, data)
            yield atoms


def _add_entries(atoms: Atoms, entries: Mapping[str, Any]) -> None:
    """Add entries to ``info``, those with a row for every atom to ``arrays`` as well."""
    for key, value in entries.items():
        if key in frame_entries(atoms) or key in atom_entries(atoms) or key in _OWN_ARRAYS:
            raise ValueError(f"the row has a second {key!r} among its key-value pairs and data")
        atoms.info[key] = value
        # a vector of three per frame looks like a number for each of three atoms: the recipe says which
        if isinstance(value, np.ndarray) and value.ndim and len(value) == len(atoms):
            atoms.arrays[key] = value


def _counted(images: Iterator[Atoms]) -> Iterator[Atoms]:
    """Yield the structures; whatever ASE raises says at which of them."""
    for place in count():
        try:
            atoms = next(images)
        except StopIteration:
            return
        except Exception as error:  # ASE's readers let exceptions of every kind through
            raise _FrameError(place, error) from error
        yield atoms


def _structure_problem(atoms: Atoms, where: str) -> list[Problem]:
    if not len(atoms):
        return [Problem(where, "", "no atoms", "at least one atom")]
    unknown = np.flatnonzero(atoms.numbers < 1)
    if len(unknown):
        found = f"atomic number {atoms.numbers[unknown[0]]} of atom {unknown[0]}"
        return [Problem(where, "species", found, "a chemical element")]
    return []


def _unfinished(file: DataFile, format_name: str) -> list[Problem]:
    """Return a problem for a ``vasprun.xml`` that ends early: ASE reads on without a word."""
    if format_name != "vasp-xml" or (file.selection is not None and file.selection.stop is not None):
        return []
    from ase.io.formats import open_with_compression

    with open_with_compression(str(file.path), "rb") as content:
        if content.read().rstrip().endswith(b"</modeling>"):
            return []
    where, expected = shown_path(file.path), "the whole output of a finished calculation"
    hint = "the calculation was stopped: choose the steps that are complete, for example @:10"
    return [Problem(where, "", "the end of the file before </modeling>", expected, hint)]
