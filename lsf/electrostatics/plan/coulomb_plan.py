"""The plan of a structure: integer lists that fix which terms its Coulomb energy has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lsf.electrostatics.boundary import KIND_BOX, KIND_OPEN, KIND_SLAB, METHODS, BoolArray
from lsf.electrostatics.plan import lists, mesh_choice
from lsf.electrostatics.plan.cell_checks import (
    check_cell,
    check_cube,
    check_plane,
    check_vacuum,
    has_volume,
)
from lsf.electrostatics.settings import Electrostatics

if TYPE_CHECKING:
    from torch import Tensor

FloatArray = NDArray[np.float64]

SLAB_GAP: Final = 10.0
"""Empty space along a slab's normal in units of the smearing width: images of Gaussians then overlap by
erfc(5) = 2e-12."""


class CoulombPlan(NamedTuple):
    """Integer lists that fix which terms a Coulomb energy sums; every real number follows from the cell.

    ``n_k`` etc. count a whole batch: lists of several structures are concatenated in order.
    """

    kind: Tensor  # (n_graphs,) int64, one of KIND_*
    slab_axis: Tensor  # (n_graphs,) int64, index of a slab's non-periodic lattice row; 2 elsewhere
    slab_length: (
        Tensor  # (n_graphs,) float64 [Å], internal cell length along a slab's normal; 0: cell as given
    )
    k_triplets: Tensor  # (n_k, 3) int64, half space, k = 0 excluded, along the rows of the (internal) cell
    k_batch: Tensor  # (n_k,) int64, structure of each triplet
    layer_pairs: Tensor  # (n_layer, 2) int64, half plane, along rows slab_axis + 1 and slab_axis + 2 (mod 3)
    layer_batch: Tensor  # (n_layer,) int64
    open_pairs: Tensor  # (2, n_pairs) int64, atoms i < j within open structures
    mesh_size: Tensor  # (n_graphs, 3) int64, mesh points along the rows of the (internal) cell; 0 for no mesh
    mesh_order: Tensor  # (n_graphs,) int64, order of the mesh's B-splines; 0 for no mesh
    open_box: Tensor  # (n_graphs, 3) float64 [Å], box edges of an open structure on a mesh; 0 elsewhere
    truncation_radius: Tensor  # (n_graphs,) float64 [Å], of its kernel; 0 elsewhere


def structure_kind(boundary: str, pbc: BoolArray, cell: FloatArray) -> int:
    """Return how a boundary method treats a structure: one of KIND_*.

    A molecule without a cell has no box: methods that sum molecules in a box sum it in open space, the limit
    of a large box. A box made from the atoms would turn and grow with them, and forces would be no
    derivatives.
    """
    kind = METHODS[boundary](pbc)
    return KIND_OPEN if kind == KIND_BOX and not has_volume(cell) else kind


class Outline(NamedTuple):
    """All that the lists of one structure depend on: while it stays equal, so do they."""

    kind: int
    slab_axis: int
    slab_length: float  # [Å]
    cell: tuple[float, ...]  # 9 numbers [Å], the internal cell; empty for open structures
    n_atoms: int
    truncation: mesh_choice.Truncation | None  # of an open structure that a mesh may sum


def plan_structure(
    settings: Electrostatics, positions: FloatArray, cell: FloatArray, pbc: BoolArray
) -> CoulombPlan:
    """Return the lists of one structure's Coulomb sums.

    Parameters
    ----------
    settings : boundary method and accuracy
    positions : (n_atoms, 3) [Å], need not be wrapped; not NaN
    cell : (3, 3) [Å], rows are lattice vectors; ignored for open structures
    pbc : (3,) declared periodicity

    Raises
    ------
    BoundaryError
        when the method cannot treat this periodicity or cell; the message says what is possible instead.
    """
    return plan_outline(settings, outline_structure(settings, positions, cell, pbc))


def outline_structure(
    settings: Electrostatics, positions: FloatArray, cell: FloatArray, pbc: BoolArray
) -> Outline:
    """Check one structure and return what its lists depend on; arguments and errors of plan_structure."""
    pbc = np.asarray(pbc, dtype=bool).reshape(3)
    cell = np.asarray(cell, dtype=np.float64).reshape(3, 3)
    positions = np.asarray(positions, dtype=np.float64).reshape(-1, 3)
    kind = structure_kind(settings.boundary, pbc, cell)
    if kind == KIND_OPEN:
        truncation = mesh_choice.truncation(mesh_choice.mesh_request(settings), positions)
        return Outline(kind, 2, 0.0, (), len(positions), truncation)
    axis, length = 2, 0.0
    if kind == KIND_SLAB:
        axis = int(np.flatnonzero(~pbc)[0])
        check_plane(cell, axis)
        if settings.correction == "exact":
            _, length, cell = lists.slab_cell(positions, cell, axis, gap=SLAB_GAP * settings.smearing_width)
        else:
            check_vacuum(cell, axis, positions)
    else:
        (check_cube if kind == KIND_BOX else check_cell)(settings.boundary, cell, positions)
    return Outline(kind, axis, length, tuple(cell.reshape(-1).tolist()), len(positions), None)


def plan_outline(
    settings: Electrostatics, outline: Outline, previous: mesh_choice.Mesh = mesh_choice.NO_MESH
) -> CoulombPlan:
    """Return the lists of a structure with this outline; the ``previous`` mesh is kept while it is fit."""
    # here, not above: exported models make their plans without torch
    import torch

    arrays = plan_arrays(settings, outline, previous)
    return CoulombPlan(**{name: torch.from_numpy(values) for name, values in arrays.items()})


def plan_arrays(
    settings: Electrostatics, outline: Outline, previous: mesh_choice.Mesh = mesh_choice.NO_MESH
) -> dict[str, NDArray[Any]]:
    """Return the same lists as arrays, by the names of :class:`CoulombPlan`."""
    triplets = np.zeros((0, 3), dtype=np.int64)
    layers = np.zeros((0, 2), dtype=np.int64)
    pairs = np.zeros((2, 0), dtype=np.int64)
    box, radius = np.zeros(3), 0.0
    request = mesh_choice.mesh_request(settings)
    if outline.kind == KIND_OPEN:
        mesh = mesh_choice.open_mesh(request, outline.n_atoms, outline.truncation, previous)
        if mesh.order and outline.truncation is not None:
            radius, box = outline.truncation.radius, np.array(outline.truncation.box)
            triplets = lists.half_space(np.diag(box), request.open_k_cutoff)
        else:
            pairs = np.stack(np.triu_indices(outline.n_atoms, 1)).astype(np.int64)
    else:
        cell = np.array(outline.cell).reshape(3, 3)
        triplets = lists.half_space(cell, settings.k_cutoff)
        mesh = mesh_choice.periodic_mesh(request, cell, outline.n_atoms, len(triplets), previous)
        if outline.slab_length > 0.0:
            # the least gap, not the present one: the list must not follow every move of an atom
            gap = SLAB_GAP * settings.smearing_width
            layers = lists.layer_half_plane(cell, outline.slab_axis, gap)
    return {
        "kind": np.array([outline.kind], dtype=np.int64),
        "slab_axis": np.array([outline.slab_axis], dtype=np.int64),
        "slab_length": np.array([outline.slab_length], dtype=np.float64),
        "k_triplets": triplets,
        "k_batch": np.zeros(len(triplets), dtype=np.int64),
        "layer_pairs": layers,
        "layer_batch": np.zeros(len(layers), dtype=np.int64),
        "open_pairs": pairs,
        "mesh_size": np.array([mesh.size], dtype=np.int64),
        "mesh_order": np.array([mesh.order], dtype=np.int64),
        "open_box": box[None],
        "truncation_radius": np.array([radius], dtype=np.float64),
    }
