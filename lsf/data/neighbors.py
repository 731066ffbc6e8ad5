"""Neighbours of every atom within a cutoff, periodic images included; found by the library vesin.

Edges are directed: both directions of every pair are listed, and an atom is its own neighbour through
periodic images. The same structure gives the same edges in the same order on every machine.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from vesin import NeighborList

Floats = NDArray[np.float64]


class Neighbors(NamedTuple):
    """Directed edges within the cutoff, sorted by receiver, then sender, then shift."""

    edge_index: NDArray[np.int64]  # (2, n_edges): sender, receiver
    unit_shifts: NDArray[np.int64]  # (n_edges, 3): edge vector = r_receiver - r_sender + shift @ cell
    lengths: Floats  # (n_edges,) Å


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


class NeighborCache:
    """Neighbours that are found with a skin and kept until an atom may have crossed it.

    The edges are those of :func:`find_neighbors`, in its order. Positions must not jump by lattice vectors
    between calls; where one does, the neighbours are searched anew.
    """

    def __init__(self, cutoff: float, skin: float) -> None:
        self.cutoff, self.skin = cutoff, skin
        self._key: tuple[bytes, bytes, int] | None = None
        self._start = np.zeros((0, 3))
        self._wide = Neighbors(np.zeros((2, 0), np.int64), np.zeros((0, 3), np.int64), np.zeros(0))

    def find(self, positions: Floats, cell: Floats, pbc: NDArray[np.bool_]) -> Neighbors:
        """Return all directed edges shorter than the cutoff, arguments as in :func:`find_neighbors`."""
        key = (np.asarray(cell).tobytes(), np.asarray(pbc).tobytes(), len(positions))
        fresh = key == self._key and self._largest_move(positions) < 0.5 * self.skin
        if not fresh:
            self._key, self._start = key, positions.copy()
            self._wide = find_neighbors(positions, cell, pbc, self.cutoff + self.skin)
        sender, receiver = self._wide.edge_index
        vectors = positions[receiver] - positions[sender] + self._wide.unit_shifts @ np.asarray(cell)
        lengths = np.sqrt((vectors * vectors).sum(1))
        near = lengths < self.cutoff
        return Neighbors(self._wide.edge_index[:, near], self._wide.unit_shifts[near], lengths[near])

    def _largest_move(self, positions: Floats) -> float:
        moves = positions - self._start
        return float(np.sqrt((moves * moves).sum(1).max())) if len(moves) else 0.0


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
