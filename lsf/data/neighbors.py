"""Neighbours of every atom within a cutoff, periodic images included; found by the library vesin.

Edges are directed: both directions of every pair are listed, and an atom is its own neighbour through
periodic images. The same structure gives the same edges in the same order on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from vesin import NeighborList

from lsf.data.finite import Name, by_index, check_distances, check_structure
from lsf.machine.caches import enabled

Floats = NDArray[np.float64]


class Neighbors(NamedTuple):
    """Directed edges within the cutoff, sorted by receiver, then sender, then shift."""

    edge_index: NDArray[np.int64]  # (2, n_edges): sender, receiver
    unit_shifts: NDArray[np.int64]  # (n_edges, 3): edge vector = r_receiver - r_sender + shift @ cell
    lengths: Floats  # (n_edges,) Å


Search = Callable[[Floats, Floats, NDArray[np.bool_], float], Neighbors]
"""Finds the edges of positions, cell and pbc within a cutoff: :func:`find_neighbors` or a cache."""


def find_neighbors(positions: Floats, cell: Floats, pbc: NDArray[np.bool_], cutoff: float) -> Neighbors:
    """Return all directed edges shorter than ``cutoff``.

    Parameters
    ----------
    positions
        (n_atoms, 3) Å, need not be wrapped
    cell
        (3, 3) Å, rows are lattice vectors; rows of directions that are not periodic may be zero
    pbc
        (3,) periodic directions, with linearly independent rows in ``cell``
    cutoff
        Å; the cell may be smaller than it
    """
    box = completed_cell(positions, cell, pbc)
    # one thread: frames are small, and the caller may work on several of them
    search = NeighborList(cutoff=cutoff, full_list=True, n_threads=1)
    sender, receiver, shifts, lengths = search.compute(
        points=np.ascontiguousarray(positions, dtype=np.float64),
        box=box,
        periodic=np.ascontiguousarray(pbc, dtype=np.bool_),
        quantities="ijSd",
    )
    # the library leaves the order of pairs open, and rounding depends on the order of sums
    order = np.lexsort((shifts[:, 2], shifts[:, 1], shifts[:, 0], sender, receiver))
    edge_index = np.stack([sender[order], receiver[order]]).astype(np.int64)
    return Neighbors(edge_index, shifts[order].astype(np.int64), lengths[order])


def checked_neighbors(
    search: Search,
    positions: Floats,
    cell: Floats,
    pbc: NDArray[np.bool_],
    cutoff: float,
    name: Name = by_index,
) -> Neighbors:
    """Return what ``search`` finds for a structure that can be evaluated.

    Raises :class:`lsf.data.finite.StructureError` without atoms, on numbers that are not finite, and on atoms
    at one place; ``name`` is what atoms are called there.
    """
    check_structure(positions, cell, name)
    found = search(positions, cell, pbc, cutoff)
    check_distances(found.edge_index, found.lengths, name)
    return found


class NeighborCache:
    """Neighbours that are found with a skin and kept until an atom may have crossed it.

    It is called like :func:`find_neighbors` and returns the same edges in the same order. A list lasts until
    an atom has moved half of the skin; in fully periodic cells, moves are counted from where a changing cell
    carries the atom, and what the cell shrinks is taken off the skin. Neighbours are searched anew where an
    atom jumps by a lattice vector, for another number of atoms, periodicity or cutoff, and when a cell with
    open directions changes.
    """

    def __init__(self, skin: float) -> None:
        self.skin = skin
        self._key: tuple[bytes, int, float] | None = None
        self._start = np.zeros((0, 3))
        self._cell = np.zeros((3, 3))
        self._wide = Neighbors(np.zeros((2, 0), np.int64), np.zeros((0, 3), np.int64), np.zeros(0))

    def __call__(self, positions: Floats, cell: Floats, pbc: NDArray[np.bool_], cutoff: float) -> Neighbors:
        """Return all directed edges shorter than the cutoff, arguments as in :func:`find_neighbors`."""
        if not enabled():
            return find_neighbors(positions, cell, pbc, cutoff)
        cell, periodic = np.array(cell, dtype=np.float64), np.asarray(pbc, dtype=np.bool_)
        key = (periodic.tobytes(), len(positions), cutoff)
        if key != self._key or not self._reach(positions, cell, bool(periodic.all())) >= cutoff:
            self._key, self._start, self._cell = key, positions.copy(), cell
            self._wide = find_neighbors(positions, cell, pbc, cutoff + self.skin)
        sender, receiver = self._wide.edge_index
        vectors = positions[receiver] - positions[sender] + self._wide.unit_shifts @ cell
        lengths = np.sqrt((vectors * vectors).sum(1))
        near = lengths < cutoff
        return Neighbors(self._wide.edge_index[:, near], self._wide.unit_shifts[near], lengths[near])

    def _reach(self, positions: Floats, cell: Floats, periodic: bool) -> float:
        """Return the distance in Å below which no pair of atoms is missing from the list."""
        assert self._key is not None
        listed, carried = self._key[2] + self.skin, self._start
        if not np.array_equal(cell, self._cell):
            if not periodic:
                return 0.0
            deformation = np.linalg.solve(self._cell, cell)
            carried = self._start @ deformation
            listed *= float(np.linalg.svd(deformation, compute_uv=False)[-1])
        moves = positions - carried
        largest = float(np.sqrt((moves * moves).sum(1).max())) if len(moves) else 0.0
        return listed - 2.0 * largest


def completed_cell(positions: Floats, cell: Floats, pbc: NDArray[np.bool_]) -> Floats:
    """Return a cell of full rank whose periodic rows are those of ``cell``.

    Every other row becomes a vector normal to the periodic ones, long enough to hold all atoms; no edge
    ever carries a shift along it, so edge vectors keep their meaning in the original cell.
    """
    periodic = np.asarray(pbc, dtype=np.bool_)
    if periodic.all():
        return np.ascontiguousarray(cell, dtype=np.float64)
    box = np.zeros((3, 3))
    box[periodic] = np.asarray(cell, dtype=np.float64)[periodic]
    n_open = int((~periodic).sum())
    # the last rows of the right singular vectors span what the periodic rows leave open
    normals = np.linalg.svd(box[periodic])[2][-n_open:] if periodic.any() else np.eye(3)
    extents = np.ptp(positions @ normals.T, axis=0) if len(positions) else np.zeros(n_open)
    box[~periodic] = normals * (extents + 1.0)[:, None]
    return box


def closest_pair(
    positions: Floats, cell: Floats, pbc: NDArray[np.bool_], limit: float
) -> tuple[int, int, float] | None:
    """Return the two atoms that are closest, with their distance in Å, if it is below ``limit``.

    An atom that meets its own periodic image is returned twice.
    """
    box = completed_cell(positions, cell, pbc)
    spacing = (abs(float(np.linalg.det(box))) / max(1, len(positions))) ** (1.0 / 3.0)
    # a search radius far below the spacing of the atoms costs a grid of mostly empty bins
    cutoff = max(limit, 0.5 * min(spacing, 4.0))
    found = find_neighbors(positions, cell, pbc, cutoff)
    if not len(found.lengths) or float(found.lengths.min()) >= limit:
        return None
    edge = int(found.lengths.argmin())
    first, second = sorted(found.edge_index[:, edge].tolist())
    return first, second, float(found.lengths[edge])
