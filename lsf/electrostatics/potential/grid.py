"""Regular grids of points in and around a structure, laid out as volumetric files expect them."""

from __future__ import annotations

from typing import Any, Final

import attrs
import numpy as np
import torch
from torch import Tensor

from lsf.electrostatics.boundary import KIND_BOX, KIND_PERIODIC, KIND_SLAB
from lsf.electrostatics.plan.coulomb_plan import FloatArray, outline_structure
from lsf.electrostatics.settings import Electrostatics
from lsf.errors import LsfError

MARGIN: Final = 4.0
"""Space in Å that a grid leaves around a structure along open directions."""

BOX_SHARE: Final = 0.95
"""A grid around a molecule in a box stays within this part of the box."""


def _vector(values: Any) -> FloatArray:
    return np.asarray(values, dtype=np.float64).reshape(3)


def _matrix(values: Any) -> FloatArray:
    return np.asarray(values, dtype=np.float64).reshape(3, 3)


@attrs.frozen(eq=False)
class Grid:
    """Points ``origin + Σ_a (i_a / n_a) vectors_a`` with ``0 <= i_a < n_a``.

    The point that would close a period is left out, so along periodic vectors every point counts once.
    """

    origin: FloatArray = attrs.field(converter=_vector)  # (3,) Å
    vectors: FloatArray = attrs.field(converter=_matrix)  # (3, 3) Å, rows span the whole grid
    shape: tuple[int, int, int]

    @property
    def steps(self) -> FloatArray:
        """Vectors from one point to the next along each axis, (3, 3) Å."""
        steps: FloatArray = self.vectors / np.array(self.shape, dtype=np.float64)[:, None]
        return steps

    @property
    def n_points(self) -> int:
        """Number of points."""
        return int(np.prod(self.shape))

    def fractions(self, axis: int) -> FloatArray:
        """Return ``i / n`` along one axis, (n,)."""
        return np.arange(self.shape[axis]) / self.shape[axis]

    def points(self) -> FloatArray:
        """Return all points, (n_1, n_2, n_3, 3) Å."""
        mesh = np.stack(np.meshgrid(*(self.fractions(axis) for axis in range(3)), indexing="ij"), axis=-1)
        return np.asarray(self.origin + mesh @ self.vectors)

    def corners(self) -> FloatArray:
        """Return the eight corners of the parallelepiped, (8, 3) Å."""
        ends = np.stack(np.meshgrid(*[(0.0, 1.0)] * 3, indexing="ij"), axis=-1).reshape(8, 3)
        return np.asarray(self.origin + ends @ self.vectors)

    def heights(self, axis: int) -> FloatArray:
        """Return positions of the grid's planes along the normal of the two other vectors, (n,) Å."""
        normal = np.cross(self.vectors[(axis + 1) % 3], self.vectors[(axis + 2) % 3])
        normal = normal / np.linalg.norm(normal)
        if normal @ self.vectors[axis] < 0.0:
            normal = -normal
        return np.asarray(self.origin @ normal + self.fractions(axis) * (self.vectors[axis] @ normal))


def planar_average(values: Tensor, axis: int) -> Tensor:
    """Return the mean of grid values over the planes at constant index of ``axis``, (n_axis,).

    Over periodic vectors that is the average over the plane's cell, without error once the grid resolves
    the waves that values consist of.
    """
    others = [other for other in range(3) if other != axis]
    return values.mean(dim=others)


def structure_grid(
    positions: FloatArray,
    cell: FloatArray,
    pbc: FloatArray,
    settings: Electrostatics,
    spacing: float,
    margin: float = MARGIN,
) -> Grid:
    """Return a grid that shows a structure as its boundary method sees it.

    Periodic: the cell. Slab: the two periodic vectors and, along the normal, the cell's height or the extent
    of the atoms + 2 ``margin``, whichever is larger, centred on the atoms. Molecule: the box around its atoms
    + 2 ``margin``, along x, y, z; a molecule in a box never reaches beyond the box.

    Parameters
    ----------
    positions, cell, pbc : (n_atoms, 3) Å, (3, 3) Å and (3,)
    settings : decides the boundary method
    spacing : largest distance of neighbouring points, Å
    margin : empty space along open directions, Å

    Raises
    ------
    LsfError
        when spacing or margin is no positive number, or the boundary method cannot treat the structure.
    """
    for name, value in (("spacing", spacing), ("margin", margin)):
        if not 0.0 < value < float("inf"):
            raise LsfError(f"grid: found {name} = {value!r}; expected a positive, finite number of Å")
    positions = np.asarray(positions, dtype=np.float64).reshape(-1, 3)
    cell = _matrix(cell)
    outline = outline_structure(settings, positions, cell, np.asarray(pbc))
    if outline.kind == KIND_PERIODIC:
        origin, vectors = np.zeros(3), cell
    elif outline.kind == KIND_SLAB:
        origin, vectors = _slab_frame(positions, cell, outline.slab_axis, margin)
    else:
        edge = np.cbrt(abs(np.linalg.det(cell))) if outline.kind == KIND_BOX else np.inf
        origin, vectors = _molecule_frame(positions, margin, float(edge))
    counts = np.maximum(np.ceil(np.linalg.norm(vectors, axis=1) / spacing - 1.0e-9), 1).astype(int)
    return Grid(origin, vectors, (int(counts[0]), int(counts[1]), int(counts[2])))


def _slab_frame(
    positions: FloatArray, cell: FloatArray, axis: int, margin: float
) -> tuple[FloatArray, FloatArray]:
    normal = np.cross(cell[(axis + 1) % 3], cell[(axis + 2) % 3])
    normal = normal / np.linalg.norm(normal)
    heights = positions @ normal
    extent = float(np.ptp(heights))
    length = max(abs(float(cell[axis] @ normal)), extent + 2.0 * margin)
    lowest = float(heights.min()) + 0.5 * (extent - length)
    vectors = cell.copy()
    vectors[axis] = normal * length
    return normal * lowest, vectors


def _molecule_frame(positions: FloatArray, margin: float, edge: float) -> tuple[FloatArray, FloatArray]:
    lowest, highest = positions.min(axis=0), positions.max(axis=0)
    lengths = np.minimum(highest - lowest + 2.0 * margin, np.maximum(BOX_SHARE * edge, highest - lowest))
    return 0.5 * (lowest + highest - lengths), np.diag(lengths)


def grid_points(grid: Grid) -> Tensor:
    """Return the points of a grid as rows, (n_points, 3) Å."""
    return torch.from_numpy(grid.points().reshape(-1, 3))
