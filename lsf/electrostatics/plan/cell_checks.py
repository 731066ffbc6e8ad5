"""What a boundary method demands of a cell, and how it says no."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from lsf.errors import BoundaryError

FloatArray = NDArray[np.float64]

CUBE_TOLERANCE: Final = 0.01
"""Largest relative difference of edge lengths, and cosine of an angle, of a cell that counts as a cube."""


FLAT: Final = 1.0e-6
"""Largest volume of a cell without one, in units of the product of its edges."""


def volume_fraction(cell: FloatArray) -> float:
    """Return the volume divided by the product of the edges: 0 for a missing or flat cell, 1 for a brick."""
    edges = float(np.prod(np.linalg.norm(cell, axis=1)))
    return abs(float(np.linalg.det(cell))) / edges if edges > 0.0 else 0.0


def has_volume(cell: FloatArray) -> bool:
    """Return whether three lattice vectors span a volume; a missing or flat cell is no cell."""
    # one with numbers that are not finite is there, and wrong: the checks below say so
    return volume_fraction(cell) > FLAT or not np.isfinite(cell).all()


def check_cell(method: str, cell: FloatArray, _positions: FloatArray) -> None:
    """Check a cell of any shape that is summed in three directions."""
    if not np.isfinite(cell).all() or not has_volume(cell):
        raise BoundaryError(
            f"boundary {method!r} needs three lattice vectors that span a volume; "
            f"found cell = {cell.tolist()}: give a cell, or declare pbc = F F F and use realspace or auto"
        )


def check_plane(cell: FloatArray, axis: int) -> None:
    """Check the two periodic vectors of a slab, those other than ``axis``."""
    first, second = cell[(axis + 1) % 3], cell[(axis + 2) % 3]
    area = float(np.linalg.norm(np.cross(first, second)))
    if not area > 1.0e-6 * float(np.linalg.norm(first) * np.linalg.norm(second)):
        raise BoundaryError(
            "a slab needs two periodic lattice vectors that span an area; found "
            f"{first.tolist()} and {second.tolist()}: give both, or declare pbc = F F F and use auto"
        )


def check_vacuum(cell: FloatArray, axis: int, positions: FloatArray) -> None:
    """Check the cell of a slab that is summed in the cell as given."""
    normal = np.cross(cell[(axis + 1) % 3], cell[(axis + 2) % 3])
    normal = normal / np.linalg.norm(normal)
    height = abs(float(cell[axis] @ normal))
    extent = float(np.ptp(positions @ normal)) if len(positions) else 0.0
    if not height > extent:
        raise BoundaryError(
            f"correction 'dipole' sums a slab in its cell with vacuum; found a slab {extent:.4g} Å thick in "
            f"a cell of height {height:.4g} Å: enlarge the cell, unwrap the atoms along the normal, or use "
            "correction 'exact', which ignores the third vector"
        )


def check_cube(method: str, cell: FloatArray, positions: FloatArray) -> None:
    """Check the box of a molecule: near-cubic, and larger than the molecule."""
    edges = np.linalg.norm(cell, axis=1)
    advice = "use realspace or auto, which need no cell, or give a cubic cell"
    if not np.isfinite(cell).all() or edges.min() <= 0.0:
        raise BoundaryError(
            f"boundary {method!r} sums a non-periodic structure in a cubic cell; "
            f"found cell = {cell.tolist()}: {advice}"
        )
    cosines = (cell @ cell.T / np.outer(edges, edges))[np.triu_indices(3, 1)]
    if edges.max() > (1.0 + CUBE_TOLERANCE) * edges.min() or np.abs(cosines).max() > CUBE_TOLERANCE:
        found = " x ".join(f"{edge:.4g}" for edge in edges)
        angles = ", ".join(
            f"{angle:.4g}" for angle in np.degrees(np.arccos(np.clip(cosines[::-1], -1.0, 1.0)))
        )
        raise BoundaryError(
            f"boundary {method!r} sums a non-periodic structure in a cubic cell; found {found} Å with angles "
            f"{angles} degrees (edges within {CUBE_TOLERANCE:.0%} are a cube): {advice}"
        )
    spread = float(np.ptp(positions @ np.linalg.inv(cell), axis=0).max()) if len(positions) else 0.0
    if spread >= 1.0:
        raise BoundaryError(
            f"boundary {method!r}: the structure extends over {spread:.3g} of its {edges.min():.4g} Å box: "
            "unwrap the molecule or enlarge the box, or use realspace or auto, which need no cell"
        )
