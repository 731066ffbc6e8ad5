"""Boundary methods: what a structure's periodicity means for its Coulomb energy, decided one by one.

A method maps the number of periodic directions of a structure to a *kind*; the kind alone decides the
formula. Nothing here looks at other structures, so an energy never depends on its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import attrs
import numpy as np
from numpy.typing import NDArray

from lsf.electrostatics.plan import lists
from lsf.electrostatics.plan import mesh_choice as mesh_plan
from lsf.electrostatics.plan.cell_checks import (
    check_cell,
    check_cube,
    check_plane,
    check_vacuum,
    volume_fraction,
)
from lsf.errors import BoundaryError, did_you_mean
from lsf.options import between, one_of, option

if TYPE_CHECKING:
    from torch import Tensor

KIND_OPEN: Final = 0
KIND_PERIODIC: Final = 1
KIND_SLAB: Final = 2
KIND_BOX: Final = 3
REFUSED: Final = -1

SLAB_GAP: Final = 10.0
"""Empty space along a slab's normal in units of the smearing width: images of Gaussians then overlap by
erfc(5) = 2e-12."""

SLAB_CORRECTIONS: Final = ("exact", "dipole")

BOX_EDGE: Final = 30.0
BOX_MARGIN: Final = 20.0

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]


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


# ---------------------------------------------------------------------------------------------------
# methods


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
    """Return the kind of a molecule summed in a cubic box, with the box's leading error removed."""
    return _choose("molecule_in_box", {0: KIND_BOX}, pbc)


def mixed_periodic(pbc: BoolArray) -> int:
    """Return the kind by periodicity: crystal, slab, or molecule in a cubic box."""
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


# ---------------------------------------------------------------------------------------------------
# settings


def _known_method(_instance: Any, attribute: attrs.Attribute[str], value: Any) -> None:
    if value not in METHODS:
        raise ValueError(
            f"{attribute.name} = {value!r} is no boundary method; {did_you_mean(str(value), METHODS)}"
        )


def _positive(_instance: Any, attribute: attrs.Attribute[float], value: Any) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0.0 < value < float("inf"):
        raise ValueError(f"{attribute.name} = {value!r} must be a positive, finite number")


def _degree(_instance: Any, attribute: attrs.Attribute[int], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 2:
        raise ValueError(f"{attribute.name} = {value!r} must be 0 (charges), 1 (dipoles) or 2 (quadrupoles)")


def _known_correction(_instance: Any, attribute: attrs.Attribute[str], value: Any) -> None:
    if value not in SLAB_CORRECTIONS:
        raise ValueError(
            f"{attribute.name} = {value!r} is no slab correction; "
            f"{did_you_mean(str(value), SLAB_CORRECTIONS)}"
        )


def _flag(_instance: Any, attribute: attrs.Attribute[bool], value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{attribute.name} = {value!r} must be true or false")


@attrs.frozen
class Electrostatics:
    """Settings of the Coulomb energy, the ``[electrostatics]`` table of a recipe."""

    boundary: str = option(
        "Boundary method: realspace, pbc, slab, molecule_in_box, mixed_periodic or auto. "
        "A structure whose periodicity the method cannot treat is refused.",
        default="mixed_periodic",
        validator=_known_method,
    )
    multipoles_max_l: int = option(
        "Highest multipole of each atom's density: 0 charges, 1 dipoles, 2 quadrupoles. "
        "Higher ones describe polar and lone-pair directions; the cost grows with (l + 1)².",
        default=1,
        validator=_degree,
    )
    smearing_width: float = option(
        "Standard deviation of the Gaussian that carries each multipole, in Å. "
        "Wider is smoother and cheaper (k-vectors ∝ 1/σ³) but softens interactions below about 3 σ.",
        default=1.5,
        validator=_positive,
    )
    kspace_cutoff_factor: float = option(
        "Scales the largest wave vector of reciprocal sums; it has no effect on open structures. "
        "Larger is more exact at a cost ∝ factor³; below 1.2 stresses are unreliable.",
        default=1.25,
        validator=_positive,
    )
    include_self_interaction: bool = option(
        "Whether each Gaussian's interaction with itself counts. "
        "It is the same constant per coefficient in every boundary method, so leave it on unless "
        "energies are compared with a code that removes it.",
        default=True,
        validator=_flag,
    )
    correction: str = option(
        "How the images of a slab are removed: exact, or dipole, the older approximation. "
        "dipole keeps the cell as given and adds the dipole term alone: its error depends on the vacuum, and "
        "it is not meant for charged slabs.",
        default="exact",
        validator=_known_correction,
    )

    backend: str = option(
        "How reciprocal sums are evaluated: direct (exact, cost ∝ atoms²), mesh (to mesh_accuracy, "
        "cost ∝ atoms), kernel (direct, GPU kernels) or auto, the fastest for each structure. "
        "Large open clusters are summed on a mesh, too, where it is faster or asked for.",
        default="auto",
        validator=one_of("auto", "direct", "mesh", "kernel"),
    )
    mesh_accuracy: float = option(
        "Relative error of the Coulomb forces that a mesh may add; it has no effect on direct sums. "
        "Ten times smaller makes the mesh about 1.4 times finer along each axis.",
        default=mesh_plan.DEFAULT_ACCURACY,
        validator=between(1.0e-9, 1.0e-2),
    )

    @property
    def k_cutoff(self) -> float:
        """Largest wave vector in 1/Å, ``factor · 0.75 · (3/σ) · (L + 1)^0.3``."""
        degree = float((self.multipoles_max_l + 1) ** 0.3)
        return self.kspace_cutoff_factor * 0.75 * 3.0 / self.smearing_width * degree


# ---------------------------------------------------------------------------------------------------
# plans


class Outline(NamedTuple):
    """All that the lists of one structure depend on: while it stays equal, so do they."""

    kind: int
    slab_axis: int
    slab_length: float  # [Å]
    cell: tuple[float, ...]  # 9 numbers [Å], the internal cell; empty for open structures
    n_atoms: int
    truncation: mesh_plan.Truncation | None  # of an open structure that a mesh may sum


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
    kind = METHODS[settings.boundary](pbc)
    if kind == KIND_OPEN:
        truncation = mesh_plan.truncation(mesh_request(settings), positions)
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
    settings: Electrostatics, outline: Outline, previous: mesh_plan.Mesh = mesh_plan.NO_MESH
) -> CoulombPlan:
    """Return the lists of a structure with this outline; the ``previous`` mesh is kept while it is fit."""
    # here, not above: exported models make their plans without torch
    import torch

    arrays = plan_arrays(settings, outline, previous)
    return CoulombPlan(**{name: torch.from_numpy(values) for name, values in arrays.items()})


def plan_arrays(
    settings: Electrostatics, outline: Outline, previous: mesh_plan.Mesh = mesh_plan.NO_MESH
) -> dict[str, NDArray[Any]]:
    """Return the same lists as arrays, by the names of :class:`CoulombPlan`."""
    triplets = np.zeros((0, 3), dtype=np.int64)
    layers = np.zeros((0, 2), dtype=np.int64)
    pairs = np.zeros((2, 0), dtype=np.int64)
    box, radius = np.zeros(3), 0.0
    request = mesh_request(settings)
    if outline.kind == KIND_OPEN:
        mesh = mesh_plan.open_mesh(request, outline.n_atoms, outline.truncation, previous)
        if mesh.order and outline.truncation is not None:
            radius, box = outline.truncation.radius, np.array(outline.truncation.box)
            triplets = lists.half_space(np.diag(box), request.open_k_cutoff)
        else:
            pairs = np.stack(np.triu_indices(outline.n_atoms, 1)).astype(np.int64)
    else:
        cell = np.array(outline.cell).reshape(3, 3)
        triplets = lists.half_space(cell, settings.k_cutoff)
        mesh = mesh_plan.periodic_mesh(request, cell, outline.n_atoms, len(triplets), previous)
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


def mesh_request(settings: Electrostatics) -> mesh_plan.MeshRequest:
    """Return the settings that a mesh depends on."""
    return mesh_plan.MeshRequest(
        backend=settings.backend,
        degree=settings.multipoles_max_l,
        smearing_width=settings.smearing_width,
        k_cutoff=settings.k_cutoff,
        accuracy=settings.mesh_accuracy,
    )


def default_box(positions: FloatArray, pbc: BoolArray, cell: FloatArray, boundary: str) -> FloatArray | None:
    """Return the cubic cell, (3, 3) Å, for a non-periodic structure without one; None where none is needed.

    Methods that sum a molecule in a box need a cube; 30 Å or the structure's largest extent + 20 Å,
    whichever is larger, leaves an error of order L⁻⁵.
    """
    treated_in_box = boundary in ("molecule_in_box", "mixed_periodic") and not np.any(pbc)
    if not treated_in_box or volume_fraction(np.asarray(cell, dtype=np.float64).reshape(3, 3)) > 1.0e-6:
        return None
    positions = np.asarray(positions, dtype=np.float64).reshape(-1, 3)
    extent = float(np.ptp(positions, axis=0).max()) if len(positions) else 0.0
    return np.eye(3) * max(BOX_EDGE, extent + BOX_MARGIN)
