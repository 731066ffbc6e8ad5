r"""Exact energies of rigid-ion sodium chloride in three, two and zero periodic directions.

The ions carry charges of exactly ±1 e and interact as

.. math:: E = \tfrac12\sum_{ij}\Big[\frac{k_e q_i q_j}{r} + s(r)\Big(A_{ij}e^{(\sigma_{ij}-r)/\rho}
              - \frac{C_{ij}}{r^6} - \frac{D_{ij}}{r^8}\Big)\Big]

with the parameters of Fumi and Tosi, J. Phys. Chem. Solids 25, 31 and 45 (1964),
doi:10.1016/0022-3697(64)90159-3 and 90160-X, as tabulated in joule by Adams and McDonald, J. Phys. C 7,
2761 (1974), doi:10.1088/0022-3719/7/16/009. The Coulomb sums are converged to about 1e-10 eV:

* bulk: three-dimensional Ewald sum, conducting surroundings;
* slab (periodic in the first two cell vectors, open along z): the two-dimensional Ewald sum of Parry,
  Surf. Sci. 49, 433 (1975), and of de Leeuw and Perram, Mol. Phys. 37, 1313 (1979). No vacuum, no
  correction term, no limit: the cell vector along z does not enter;
* cluster: the plain sum over pairs.
"""

from __future__ import annotations

from itertools import product
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, erfc

from lsf.units import COULOMB_CONSTANT, ELEMENTARY_CHARGE

Array = NDArray[np.float64]

CHARGES: Final = {11: 1.0, 17: -1.0}

_EV: Final = ELEMENTARY_CHARGE * 1.0e19  # 1 eV in units of 1e-19 J, in which the table is printed
_HARDNESS: Final = 0.317  # ρ, Å
# (Z, Z'): A (eV), σ (Å), C (eV Å⁶), D (eV Å⁸)
PARAMETERS: Final = {
    (11, 11): (1.25 * 0.338 / _EV, 2.340, 1.68 / _EV, 0.8 / _EV),
    (11, 17): (1.00 * 0.338 / _EV, 2.755, 11.2 / _EV, 13.9 / _EV),
    (17, 17): (0.75 * 0.338 / _EV, 3.170, 116.0 / _EV, 233.0 / _EV),
}
SWITCH_FROM: Final = 6.5
SWITCH_TO: Final = 8.0

_ALPHA: Final = 0.55  # 1/Å; splits real and reciprocal space, the results do not depend on it
_REACH: Final = 6.0  # both sums end where their Gaussian has fallen to exp(-36)


class Labels(NamedTuple):
    """Energy (eV), forces (n, 3) (eV/Å) and strain derivative dE/dε (3, 3) (eV) of one structure."""

    energy: float
    forces: Array
    strain_derivative: Array


def label(
    numbers: NDArray[np.int64], positions: Array, cell: Array, dimensions: int, *, switched: bool = True
) -> Labels:
    """Return the labels of a neutral bulk (3), neutral slab (2) or any cluster (0).

    ``switched`` takes the short-range part (not the Coulomb part) to zero between 6.5 and 8 Å. The
    strain derivative is complete for bulk only.

    Raises ValueError for a charged bulk or slab and for another number of periodic directions.
    """
    charges = np.array([CHARGES[int(number)] for number in numbers])
    if dimensions not in (0, 2, 3):
        raise ValueError(f"found {dimensions} periodic directions; expected 0, 2 or 3")
    if dimensions and abs(charges.sum()) > 1e-12:
        raise ValueError(f"a periodic structure has charge {charges.sum():+g} e; expected 0")
    alpha = _ALPHA if dimensions else 0.0
    result = _pairs(numbers, charges, positions, cell[:dimensions], alpha, switched)
    if dimensions == 3:
        result = _add(result, _reciprocal_bulk(charges, positions, cell, alpha))
    elif dimensions == 2:
        result = _add(result, _reciprocal_slab(charges, positions, cell, alpha))
    return result


def _add(first: Labels, second: Labels) -> Labels:
    return Labels(
        first.energy + second.energy,
        first.forces + second.forces,
        first.strain_derivative + second.strain_derivative,
    )


def _pairs(
    numbers: NDArray[np.int64],
    charges: Array,
    positions: Array,
    lattice: Array,
    alpha: float,
    switched: bool,
) -> Labels:
    """Sum the short-range part and ``k_e q q' erfc(αr)/r`` over pairs and lattice images."""
    difference = positions[:, None] - positions[None, :]  # (n, n, 3), r_i - r_j
    reach = max(_REACH / alpha if alpha else np.inf, SWITCH_TO)
    extent = np.linalg.norm(difference, axis=-1).max()
    shifts = _lattice_points(lattice, reach + extent) if len(lattice) else np.zeros((1, 3))
    table = np.array([[PARAMETERS[min(a, b), max(a, b)] for b in numbers.tolist()] for a in numbers.tolist()])
    products = COULOMB_CONSTANT * charges[:, None] * charges[None, :]
    energy, forces, strain = 0.0, np.zeros_like(positions), np.zeros((3, 3))
    for shift in shifts:
        vectors = difference + shift
        distances = np.linalg.norm(vectors, axis=-1)
        i, j = np.nonzero((distances > 1e-9) & (distances < reach))
        r, v, qq = distances[i, j], vectors[i, j], products[i, j]
        short, short_slope = _short_range(r, table[i, j], switched)
        gauss = 2.0 * alpha / np.sqrt(np.pi) * np.exp(-((alpha * r) ** 2))
        screened = erfc(alpha * r) / r
        slope = short_slope - qq * (screened + gauss) / r  # dE/dr of a pair
        energy += 0.5 * float(np.sum(short + qq * screened))
        pull = (slope / r)[:, None] * v
        np.add.at(forces, i, -pull)  # ordered pairs: i is visited once for every j
        strain += 0.5 * pull.T @ v
    energy -= COULOMB_CONSTANT * alpha / np.sqrt(np.pi) * float(np.sum(charges**2))
    return Labels(energy, forces, strain)


def _short_range(r: Array, table: Array, switched: bool) -> tuple[Array, Array]:
    """Return repulsion and dispersion of pairs and their derivative with respect to r."""
    amplitude, contact, c6, c8 = table.T
    wall = amplitude * np.exp((contact - r) / _HARDNESS)
    value = wall - c6 / r**6 - c8 / r**8
    slope = -wall / _HARDNESS + 6.0 * c6 / r**7 + 8.0 * c8 / r**9
    if not switched:
        return value, slope
    x = np.clip((r - SWITCH_FROM) / (SWITCH_TO - SWITCH_FROM), 0.0, 1.0)
    switch = 1.0 - x**3 * (10.0 - 15.0 * x + 6.0 * x**2)
    switch_slope = -30.0 * (x * (1.0 - x)) ** 2 / (SWITCH_TO - SWITCH_FROM)
    return value * switch, slope * switch + value * switch_slope


def _reciprocal_bulk(charges: Array, positions: Array, cell: Array, alpha: float) -> Labels:
    """Sum the reciprocal part of the three-dimensional Ewald sum."""
    volume = abs(np.linalg.det(cell))
    k = _lattice_points(2.0 * np.pi * np.linalg.inv(cell).T, 2.0 * alpha * _REACH)
    k = k[np.any(np.abs(k) > 1e-9, axis=1)]
    k2 = np.sum(k**2, axis=1)
    phase = np.exp(1j * positions @ k.T)  # (n, n_k)
    factor = charges @ phase
    weight = COULOMB_CONSTANT * 2.0 * np.pi / volume * np.exp(-k2 / (4.0 * alpha**2)) / k2
    terms = weight * np.abs(factor) ** 2
    forces = 2.0 * charges[:, None] * ((weight * np.imag(phase * factor.conj())) @ k)
    tensor = k[:, :, None] * k[:, None, :] * (2.0 / k2 + 0.5 / alpha**2)[:, None, None] - np.eye(3)
    return Labels(float(terms.sum()), forces, np.einsum("k,kab->ab", terms, tensor))


def _reciprocal_slab(charges: Array, positions: Array, cell: Array, alpha: float) -> Labels:
    """Sum the reciprocal part of the two-dimensional Ewald sum; its strain derivative is not computed."""
    area = abs(np.cross(cell[0], cell[1])[2])
    reciprocal = 2.0 * np.pi * np.linalg.inv(cell[:2, :2]).T
    g = _lattice_points(reciprocal, 2.0 * alpha * _REACH)
    g = g[np.any(np.abs(g) > 1e-9, axis=1)]
    length = np.linalg.norm(g, axis=1)
    qq = charges[:, None] * charges[None, :]
    difference = positions[:, None] - positions[None, :]
    z = difference[..., 2]
    along = difference[..., :2] @ g.T  # (n, n, n_g)
    # e^{Gz} erfc(G/2α + αz) cannot overflow: G ≤ 2α·6 and layers are a few Å thick
    up = np.exp(z[..., None] * length) * erfc(length / (2.0 * alpha) + alpha * z[..., None])
    down = np.exp(-z[..., None] * length) * erfc(length / (2.0 * alpha) - alpha * z[..., None])
    scale = COULOMB_CONSTANT * np.pi / area
    energy = 0.5 * scale * np.sum(qq[..., None] * np.cos(along) * (up + down) / length)
    flat = z * erf(alpha * z) + np.exp(-((alpha * z) ** 2)) / (alpha * np.sqrt(np.pi))  # G = 0
    energy -= scale * np.sum(qq * flat)
    in_plane = np.einsum("ij,ijg,gd->id", qq, np.sin(along) * (up + down) / length, g)
    normal = np.einsum("ij,ijg->i", qq, np.cos(along) * (up - down))
    normal -= 2.0 * np.sum(qq * erf(alpha * z), axis=1)
    forces = scale * np.column_stack([in_plane, -normal])
    return Labels(float(energy), forces, np.zeros((3, 3)))


def _lattice_points(lattice: NDArray[Any], radius: float) -> Array:
    """Return all integer combinations of the rows of ``lattice`` (2 or 3) no longer than ``radius``."""
    gram = lattice @ lattice.T
    # |n_a| of a point within the sphere is bounded by the length of the dual vector times the radius
    bounds = np.floor(radius * np.sqrt(np.diag(np.linalg.inv(gram)))).astype(int)
    indices = np.array(list(product(*(range(-bound, bound + 1) for bound in bounds))), dtype=float)
    points: Array = indices @ lattice
    inside: Array = points[np.linalg.norm(points, axis=1) <= radius + 1e-9]
    return inside
