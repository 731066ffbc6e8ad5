"""Names of data files, and which reader of the registry is asked for them.

A name may end in a selection of frames as in ASE, ``run.traj@100::10``. Readers are entries of the kind
``readers``; their classes stand in :mod:`lsf.data.readers` and are imported when the first name is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import attrs

from lsf.recipe.catalog import Catalog, catalog

Item = TypeVar("Item")

KIND: Final = "readers"
AUTO: Final = "auto"
"""Stands for the first reader, by their ``order``, that recognises a file."""

_SELECTION: Final = re.compile(r"-?\d+|(-?\d+)?:(-?\d+)?(:(-?[1-9]\d*)?)?")


@attrs.frozen
class DataFile:
    """A file or folder of frames, and which of its frames are meant; None stands for all."""

    path: Path
    selection: slice | None = None

    @classmethod
    def of(cls, name: str | Path) -> DataFile:
        """Return the file of a name; what follows the last @ is a selection unless a file has that name."""
        path = Path(name)
        stem, _, text = path.name.rpartition("@")
        if not stem or not _SELECTION.fullmatch(text) or path.exists():
            return cls(path)
        return cls(path.with_name(stem), _slice(text))

    def selected(self, items: Iterator[Item]) -> Iterator[tuple[int, Item]]:
        """Yield (place in the file, item) of the items that are meant."""
        if self.selection is None:
            yield from enumerate(items)
            return
        start, stop, step = self.selection.start, self.selection.stop, self.selection.step
        if all(bound is None or bound >= 0 for bound in (start, stop, step)):
            yield from islice(enumerate(items), start, stop, step)
        else:  # places counted from the end
            yield from list(enumerate(items))[self.selection]


def _slice(text: str) -> slice:
    """Return the slice of a selection; a single place selects one frame."""
    if ":" not in text:
        place = int(text)
        return slice(place, None if place == -1 else place + 1)
    return slice(*(int(part) if part else None for part in text.split(":")))


class AnswersForFiles(Protocol):
    """What is asked of a reader before anything is read."""

    order: int

    def exists(self, file: DataFile) -> bool:
        """Tell whether there is something at this place that the reader could be given."""

    def recognises(self, file: DataFile) -> bool:
        """Tell from its name or first bytes whether what is there is in the reader's format."""


def reader_for(file: DataFile, chosen: str = AUTO, components: Catalog | None = None) -> Any:
    """Return the reader of that name, or with "auto" the first that recognises the file; None for none.

    Readers are asked by ascending ``order`` and those of one order by name. Raises
    :class:`lsf.errors.CatalogError` with the nearest name for a reader that is not in the registry.
    """
    known = components or catalog()
    if chosen != AUTO:
        return known.entry(KIND, chosen).target()()
    readers: list[AnswersForFiles] = [known.entry(KIND, name).target()() for name in known.names(KIND)]
    for reader in sorted(readers, key=lambda item: item.order):
        if reader.exists(file) and reader.recognises(file):
            return reader
    return None
