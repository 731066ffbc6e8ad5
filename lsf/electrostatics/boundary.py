"""Boundary methods: what a structure's periodicity means for its Coulomb energy, decided one by one.

A method maps the number of periodic directions of a structure to a *kind*; the kind alone decides the
formula. Nothing here looks at other structures, so an energy never depends on its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lsf.errors import BoundaryError

KIND_OPEN: Final = 0
KIND_PERIODIC: Final = 1
KIND_SLAB: Final = 2
KIND_BOX: Final = 3
REFUSED: Final = -1

BoolArray = NDArray[np.bool_]


def realspace(pbc: BoolArray) -> int:
    """Return the kind of a molecule or cluster summed pair by pair, in open space."""
    return _choose("realspace", {0: KIND_OPEN}, pbc)


def pbc(pbc: BoolArray) -> int:
    """Return the kind of a crystal, liquid or any structure periodic along all three directions."""
    return _choose("pbc", {3: KIND_PERIODIC}, pbc)


def slab(pbc: BoolArray) -> int:
    """Return the kind of a layer periodic along two directions, open along their normal."""
    return _choose("slab", {2: KIND_SLAB}, pbc)


def molecule_in_box(pbc: BoolArray) -> int:
    """Return the kind of a molecule summed in a cubic box, with the box's leading error removed.

    Without a cell there is no box: such a molecule is summed in open space.
    """
    return _choose("molecule_in_box", {0: KIND_BOX}, pbc)


def mixed_periodic(pbc: BoolArray) -> int:
    """Return the kind by periodicity: crystal, slab, or molecule in a cubic box, if it has one."""
    return _choose("mixed_periodic", {0: KIND_BOX, 2: KIND_SLAB, 3: KIND_PERIODIC}, pbc)


def auto(pbc: BoolArray) -> int:
    """Return the kind by periodicity: crystal, slab, or open molecule."""
    return _choose("auto", {0: KIND_OPEN, 2: KIND_SLAB, 3: KIND_PERIODIC}, pbc)


METHODS: Final[Mapping[str, Callable[[BoolArray], int]]] = {
    "realspace": realspace,
    "pbc": pbc,
    "slab": slab,
    "molecule_in_box": molecule_in_box,
    "mixed_periodic": mixed_periodic,
    "auto": auto,
}


def kinds_by_periodicity(boundary: str) -> list[int]:
    """Return a method's kind of structures with 0, 1, 2 and 3 periodic directions; ``REFUSED`` for none."""
    kinds = []
    for count in range(4):
        try:
            kinds.append(METHODS[boundary](np.arange(3) < count))
        except BoundaryError:
            kinds.append(REFUSED)
    return kinds


def possible_kinds(boundary: str) -> set[int]:
    """Return all kinds that structures of a method may have; a molecule without a box is open."""
    kinds = {*kinds_by_periodicity(boundary)} - {REFUSED}
    return kinds | ({KIND_OPEN} if KIND_BOX in kinds else set())


def structure_sorts(boundary: str) -> list[tuple[int, bool]]:
    """Return (number of periodic directions, whether there is a cell) of structures of every kind."""
    sorts = [(count, True) for count, kind in enumerate(kinds_by_periodicity(boundary)) if kind != REFUSED]
    return sorts + ([(0, False)] if KIND_BOX in kinds_by_periodicity(boundary) else [])


def _choose(method: str, kinds: Mapping[int, int], pbc: BoolArray) -> int:
    directions = int(np.count_nonzero(pbc))
    if directions in kinds:
        return kinds[directions]
    found = " ".join("T" if periodic else "F" for periodic in pbc)
    treats = {0: "F F F", 2: "two T and one F", 3: "T T T"}
    able = " or ".join(treats[count] for count in sorted(kinds))
    others = {
        0: "use realspace, auto, mixed_periodic or molecule_in_box",
        1: "no method treats one periodic direction: repeat the structure in a cell with vacuum and declare "
        "it T T T, or cut a cluster and declare it F F F",
        2: "use slab, mixed_periodic or auto",
        3: "use pbc, mixed_periodic or auto",
    }
    raise BoundaryError(
        f"boundary {method!r} cannot treat pbc = {found}: it treats pbc = {able}; {others[directions]}"
    )
