"""Frames and structures of a file, read by the reader that recognises it or the one that is named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lsf.data.frames import Frame
from lsf.data.readers.base import (
    TITLE,
    Reader,
    Reading,
    Structures,
    limited,
    missing_file,
    shown_path,
)
from lsf.errors import DataError, Problem
from lsf.recipe.catalog import catalog
from lsf.recipe.data_files import AUTO, KIND, DataFile, reader_for

if TYPE_CHECKING:
    from ase import Atoms

    from lsf.recipe.schema import Head


def reader_of(name: str | Path, reader: str = AUTO) -> Reader:
    """Return the reader for a file that is there.

    Raises :class:`lsf.errors.DataError` where there is nothing, where no reader recognises it, and where the
    reader named cannot be given what is there.
    """
    file = DataFile.of(name)
    if not file.path.exists():
        raise DataError(TITLE, [missing_file(file.path)])
    found: Reader | None = reader_for(file, reader)
    if found is None:
        what = "folder" if file.path.is_dir() else "file"
        known = "; ".join(f"{entry.name}: {entry.summary}" for entry in catalog().entries(KIND))
        raise DataError(
            TITLE,
            [
                Problem(
                    shown_path(file.path),
                    "",
                    f"a {what} that no reader recognises",
                    "a format lsf reads (lsf list readers)",
                    f"name the reader with data.reader where the file has an unusual name. {known}",
                )
            ],
        )
    if not found.exists(file):
        what = "a folder" if file.path.is_dir() else "a file"
        raise DataError(TITLE, [Problem(shown_path(file.path), "", what, found.expected)])
    return found


def read_file(
    name: str | Path,
    heads: Mapping[str, Head],
    config_type_weights: Mapping[str, float] | None = None,
    reader: str = AUTO,
) -> Reading:
    """Return the frames of a file or folder with all problems instead of raising them."""
    file = DataFile.of(name)
    try:
        return reader_of(name, reader).read(file, heads, config_type_weights or {})
    except DataError as error:
        return Reading(shown_path(file.path), (), error.problems)


def read_frames(
    name: str | Path,
    heads: Mapping[str, Head],
    config_type_weights: Mapping[str, float] | None = None,
    reader: str = AUTO,
) -> list[Frame]:
    """Return the frames of a file or folder; labels that are absent are no error.

    Raises :class:`lsf.errors.DataError` with every problem found.
    """
    reading = read_file(name, heads, config_type_weights, reader)
    if reading.problems:
        raise DataError(TITLE, limited(reading.problems))
    return list(reading.frames)


def read_structures(name: str | Path, reader: str = AUTO) -> Structures:
    """Return the structures of a file or folder as ASE objects.

    Raises :class:`lsf.errors.DataError` as :func:`read_frames` does.
    """
    structures = reader_of(name, reader).structures(DataFile.of(name))
    if structures.problems:
        raise DataError(TITLE, limited(structures.problems))
    return structures


def read_atoms(name: str | Path, reader: str = AUTO) -> list[Atoms]:
    """Return the structures of a file or folder alone."""
    return [atoms for _, atoms in read_structures(name, reader).numbered]


def checksum_of(name: str | Path, reader: str = AUTO) -> str:
    """Return the SHA-256 of the content of a file or folder, in hexadecimal digits."""
    return reader_of(name, reader).checksum(DataFile.of(name))
