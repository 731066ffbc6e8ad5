"""Numbers that a model cannot be given, and results that no simulation may go on with: one message each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lsf.errors import LsfError

SHOWN: Final = 5
"""Atoms that a message names."""

COINCIDENT: Final = 1.0e-6
"""Å; atoms closer than this stand at one place, where no direction leads from one to the other."""

Name = Callable[[int], str]
"""What a program calls the atom of an index; LAMMPS counts from 1 and has IDs."""


class StructureError(LsfError):
    """A structure that cannot be evaluated: what was found, and what was expected instead."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"found {found}; expected {expected}")
        self.found, self.expected = found, expected


def by_index(index: int) -> str:
    """Return the name of an atom in Python."""
    return str(index)


def check_structure(positions: NDArray[np.float64], cell: NDArray[np.float64], name: Name = by_index) -> None:
    """Raise :class:`StructureError` without atoms, or where positions (n, 3) or cell are not finite."""
    if not len(positions):
        raise StructureError("a structure without atoms", "one atom or more")
    wrong = np.flatnonzero(~np.isfinite(positions).all(1))
    if len(wrong):
        raise StructureError(f"positions that are not finite at {_atoms(wrong, name)}", "numbers in Å")
    if not np.isfinite(cell).all():
        raise StructureError(f"the cell {np.asarray(cell).tolist()}", "finite numbers in Å")


def check_distances(
    edge_index: NDArray[np.int64], lengths: NDArray[np.float64], name: Name = by_index
) -> None:
    """Raise :class:`StructureError` where an edge (2, n_edges) of these lengths [Å] has none."""
    if not len(lengths) or lengths.min() > COINCIDENT:
        return
    first, second = sorted(edge_index[:, int(lengths.argmin())].tolist())
    if first == second:
        raise StructureError(f"atom {name(first)} at the place of its own periodic image", "a larger cell")
    raise StructureError(
        f"atoms {name(first)} and {name(second)} at the same place", "a distance between them"
    )


def check_results(results: Mapping[str, Any], name: Name = by_index) -> None:
    """Raise :class:`lsf.errors.LsfError` where an energy or a force of ``results`` is not finite.

    ``forces`` (n_atoms, 3), ``node_energy`` (n_atoms,) and ``energy`` are looked at where they are there.
    """
    for key, what in (("forces", "forces"), ("node_energy", "energies")):
        if key in results:
            values = np.asarray(results[key])
            wrong = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(1))
            if len(wrong):
                raise LsfError(f"the model gives {what} that are not finite at {_atoms(wrong, name)}")
    if not np.isfinite(np.asarray(results["energy"])).all():
        raise LsfError("the model gives an energy that is not finite")


def _atoms(indices: NDArray[np.int64], name: Name) -> str:
    named = ", ".join(name(int(index)) for index in indices[:SHOWN])
    more = f" and {len(indices) - SHOWN} more" if len(indices) > SHOWN else ""
    return f"atom{'s' if len(indices) > 1 else ''} {named}{more}"
