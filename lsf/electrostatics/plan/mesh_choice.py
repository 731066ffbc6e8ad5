"""Which structures are summed on a mesh, and on which one: chosen with the plan, outside all derivatives."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lsf.electrostatics.mesh.errors import ORDERS, friendly_sizes, largest_spacing, relative_force_error
from lsf.electrostatics.settings import Electrostatics

FloatArray = NDArray[np.float64]

# Seconds of energy and forces on one CPU core at l = 1, fitted by benchmarks.electrostatics.run --fit
DIRECT_COST: Final = (1.8e-5, 2.1e-9)
"""Direct sums, per atom and per atom and wave vector."""
ATOM_COST: Final = {6: 1.6e-5, 8: 1.9e-5}
"""Spreading and interpolating, per atom, by order of the splines."""
POINT_COST: Final = 8.5e-8
"""Fourier transforms, per mesh point."""
MESH_COST: Final = 1.3e-2
"""What any mesh costs more than any direct sum."""
PAIR_COST: Final = 3.5e-7
"""Open space, per ordered pair of atoms."""

SHORT_TIME: Final = 1.0e-2
"""Structures whose exact sums take less [s] are not considered for a mesh."""

TRUNCATION_GAP: Final = 8.0
"""Space between a cluster and its images in the truncated kernel, in units of the smearing width: an error of
1e-8 eV."""

HYSTERESIS: Final = 2.0
"""A mesh is kept while its estimated error is below this multiple of the requested one and while it has at
most this multiple of the points needed."""


class MeshRequest(NamedTuple):
    """What a mesh must do; see the settings of the same names."""

    backend: str
    degree: int
    smearing_width: float  # [Å]
    k_cutoff: float  # [1/Å]
    accuracy: float

    @property
    def open_k_cutoff(self) -> float:
        """Largest wave vector for a cluster on a mesh [1/Å]: forces err by about exp(-(k σ)²).

        The taper takes effect from nine tenths of it.
        """
        return math.sqrt(math.log(10.0 / self.accuracy)) / (0.92 * self.smearing_width)

    @property
    def wanted(self) -> bool:
        """Whether the backend is a mesh or may become one."""
        return self.backend in ("auto", "mesh")


def mesh_request(settings: Electrostatics) -> MeshRequest:
    """Return the settings that a mesh depends on."""
    return MeshRequest(
        backend=settings.backend,
        degree=settings.multipoles_max_l,
        smearing_width=settings.smearing_width,
        k_cutoff=settings.k_cutoff,
        accuracy=settings.mesh_accuracy,
    )


class Mesh(NamedTuple):
    """Points along each axis and order of the splines; all zero for no mesh."""

    size: tuple[int, int, int]
    order: int


NO_MESH: Final = Mesh((0, 0, 0), 0)


class Truncation(NamedTuple):
    """Coulomb kernel of a cluster: 1/r up to a radius, zero beyond, in a periodic box. [Å]"""

    radius: float
    box: tuple[float, float, float]


def periodic_mesh(request: MeshRequest, cell: FloatArray, n_atoms: int, n_k: int, previous: Mesh) -> Mesh:
    """Return the mesh of a structure with ``n_k`` wave vectors in ``cell`` (3, 3), NO_MESH for exact sums."""
    exact = direct_cost(n_atoms, n_k, request.degree)
    return _mesh_if_faster(request, cell, request.k_cutoff, n_atoms, exact, previous)


def open_mesh(request: MeshRequest, n_atoms: int, truncation: Truncation | None, previous: Mesh) -> Mesh:
    """Return the mesh of an open structure, NO_MESH where its pairs are summed."""
    if truncation is None:
        return NO_MESH
    exact = pair_cost(n_atoms, request.degree)
    box = np.diag(truncation.box)
    return _mesh_if_faster(request, box, request.open_k_cutoff, n_atoms, exact, previous)


def _mesh_if_faster(
    request: MeshRequest, cell: FloatArray, k_cutoff: float, n_atoms: int, exact: float, previous: Mesh
) -> Mesh:
    if not request.wanted or (request.backend == "auto" and exact < SHORT_TIME):
        return NO_MESH
    mesh = choose_mesh(request, cell, k_cutoff, n_atoms)
    if request.backend == "auto" and exact <= mesh_cost(mesh, n_atoms, request.degree):
        return NO_MESH
    return previous if _still_fit(previous, mesh, request, cell, k_cutoff) else mesh


def choose_mesh(request: MeshRequest, cell: FloatArray, k_cutoff: float, n_atoms: int) -> Mesh:
    """Return the cheapest mesh for ``cell`` (3, 3) [Å] with the requested estimated force error."""
    meshes = []
    for order in ORDERS:
        spacing = largest_spacing(
            order, request.accuracy, request.degree, k_cutoff * request.smearing_width, request.smearing_width
        )
        least = np.linalg.norm(cell, axis=1) / (spacing * request.smearing_width)
        least = np.maximum(least, _fewest(cell, k_cutoff))
        x, y, z = friendly_sizes(np.maximum(least, order)).tolist()
        meshes.append(Mesh((x, y, z), order))
    return min(meshes, key=lambda mesh: mesh_cost(mesh, n_atoms, request.degree))


def _fewest(cell: FloatArray, k_cutoff: float) -> FloatArray:
    """Return points (3,) that hold every wave vector, ``abs(n_i) <= k_c |a_i| / 2π``."""
    bounds = np.floor(k_cutoff * np.linalg.norm(cell, axis=1) / (2.0 * math.pi) + 1.0e-12)
    return np.asarray(2.0 * bounds + 2.0, dtype=np.float64)


def _still_fit(previous: Mesh, mesh: Mesh, request: MeshRequest, cell: FloatArray, k_cutoff: float) -> bool:
    if previous.order == 0 or (np.array(previous.size) < _fewest(cell, k_cutoff)).any():
        return False
    spacings = np.linalg.norm(cell, axis=1) / np.array(previous.size) / request.smearing_width
    error = relative_force_error(
        previous.order,
        round(float(spacings.max()), 4),
        request.degree,
        k_cutoff * request.smearing_width,
        request.smearing_width,
    )
    points = math.prod(previous.size) / math.prod(mesh.size)
    return error <= HYSTERESIS * request.accuracy and points <= HYSTERESIS


def mesh_cost(mesh: Mesh, n_atoms: int, degree: int) -> float:
    """Return estimated seconds for energy and forces on a mesh."""
    atoms = ATOM_COST[mesh.order] * (degree + 2.0) / 3.0 * n_atoms
    return MESH_COST + atoms + POINT_COST * math.prod(mesh.size)


def direct_cost(n_atoms: int, n_k: int, degree: int) -> float:
    """Return estimated seconds for energy and forces by direct sums: 2 L + 3 matrix products."""
    return (2.0 * degree + 3.0) / 5.0 * n_atoms * (DIRECT_COST[0] + DIRECT_COST[1] * n_k)


def pair_cost(n_atoms: int, degree: int) -> float:
    """Return estimated seconds for energy and forces of an open structure pair by pair."""
    return PAIR_COST * (degree + 1.0) ** 2 / 4.0 * n_atoms**2


def truncation(request: MeshRequest, positions: FloatArray) -> Truncation | None:
    """Return the truncated kernel for a cluster (n_atoms, 3) [Å]; None where its pairs are summed anyway.

    The radius reaches across the cluster; in a box of extent + radius no image is inside it. Both leave space
    for the Gaussians. Lengths are multiples of 0.5 Å, so that they rarely change during dynamics.
    """
    few = request.backend == "auto" and pair_cost(len(positions), request.degree) < SHORT_TIME
    if not request.wanted or few or len(positions) == 0:
        return None
    gap = TRUNCATION_GAP * request.smearing_width
    extent = np.ptp(positions, axis=0)
    centre = 0.5 * (positions.max(0) + positions.min(0))
    reach = 2.0 * float(np.linalg.norm(positions - centre, axis=1).max())
    radius = _rounded_up(min(reach, float(np.linalg.norm(extent))) + gap)
    x, y, z = (_rounded_up(float(edge) + radius + gap) for edge in extent)
    return Truncation(radius, (x, y, z))


def _rounded_up(length: float) -> float:
    return 0.5 * math.ceil(2.0 * length)
