r"""Multipoles of Gaussian densities: from stored coefficients to the moments the sums use.

.. math:: \rho_i(r) = (q_i - p_i\cdot\nabla + T_i:\nabla\nabla)\, g_\sigma(r - r_i)

with ``g`` the unit-charge Gaussian of standard deviation σ. Stored coefficients are real spherical
moments ``[Q, d_y, d_z, d_x, Q_xy, Q_yz, Q_z2, Q_xz, Q_x2-y2]``; the l = 2 block holds the moments of
Racah-normalised solid harmonics, ``∫ ρ R_2m``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lsf.machine.caches import constant
from lsf.units import CARTESIAN_FROM_SPHERICAL, COULOMB_CONSTANT

_ROOT_3 = math.sqrt(3.0)
# Second derivatives of R_2m, in the order xy, yz, z2, xz, x2-y2; T = Σ_m Q_m ∇∇R_2m / 6.
_SECOND_DERIVATIVES = (
    ((0.0, _ROOT_3, 0.0), (_ROOT_3, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ((0.0, 0.0, 0.0), (0.0, 0.0, _ROOT_3), (0.0, _ROOT_3, 0.0)),
    ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 2.0)),
    ((0.0, 0.0, _ROOT_3), (0.0, 0.0, 0.0), (_ROOT_3, 0.0, 0.0)),
    ((_ROOT_3, 0.0, 0.0), (0.0, -_ROOT_3, 0.0), (0.0, 0.0, 0.0)),
)


def max_degree(coefficients: Tensor) -> int:
    """Return L of coefficients with ``(L + 1)²`` columns."""
    return math.isqrt(coefficients.shape[1]) - 1


def dipoles(coefficients: Tensor) -> Tensor:
    """Return the Cartesian dipoles (n_atoms, 3) [e Å]; zero for charges only."""
    if coefficients.shape[1] == 1:
        return coefficients.new_zeros(coefficients.shape[0], 3)
    # a cyclic order: a slice and a rotation cost less than an index, above all backwards
    return coefficients[:, 1:4].roll(CARTESIAN_FROM_SPHERICAL.index(0), 1)


def stored_dipoles(p: Tensor) -> Tensor:
    """Return Cartesian dipoles (…, 3) in the order of coefficients; the inverse of :func:`dipoles`."""
    return p.roll(-CARTESIAN_FROM_SPHERICAL.index(0), -1)


def quadrupoles(coefficients: Tensor) -> Tensor:
    """Return the traceless symmetric T of the density operator (n_atoms, 3, 3) [e Å^2]; zero below l = 2."""
    if coefficients.shape[1] < 9:
        return coefficients.new_zeros(coefficients.shape[0], 3, 3)
    basis = coefficients.new_tensor(_SECOND_DERIVATIVES) / 6.0
    return torch.einsum("nm,mab->nab", coefficients[:, 4:9], basis)


@constant
def monomials(degree: int) -> tuple[tuple[int, int, int], ...]:
    """Return all exponents (a, b, c) with ``a + b + c <= degree``, grouped by c."""
    return tuple(
        (a, b, c) for c in range(degree + 1) for a in range(degree + 1 - c) for b in range(degree + 1 - c - a)
    )


def transformed(vectors: Tensor, matrices: Tensor) -> Tensor:
    """Return ``v M`` of vectors (n, 3) and their matrices (n, 3, 3), or the one of all (1, 3, 3)."""
    if matrices.shape[0] == 1:
        return vectors @ matrices[0]
    return torch.matmul(vectors[:, None, :], matrices)[:, 0]


def fractional_moments(coefficients: Tensor, inverse: Tensor) -> Tensor:
    r"""Return moments that turn the structure factor into a polynomial in integer triplets n.

    .. math:: q - i k\cdot p - k\cdot T k = \sum_{abc} m^{abc} (-2\pi i\,n)^{abc}, \quad k = 2\pi n h^{-T}

    Parameters
    ----------
    coefficients : (n_atoms, (L+1)^2) [e Å^l]
    inverse : (n_atoms, 3, 3) or (1, 3, 3) [1/Å], inverse cell of each atom's structure, or of all

    Returns
    -------
    (n_atoms, n_monomials) [e], columns ordered as :func:`monomials`
    """
    degree = max_degree(coefficients)
    if degree == 0:
        return coefficients
    if degree == 1:
        return transformed(coefficients, _first_degree(inverse))
    dipole = transformed(dipoles(coefficients), inverse)
    columns = {(0, 0, 0): coefficients[:, 0], **{_exponents(a): dipole[:, a] for a in range(3)}}
    tensor = inverse.transpose(1, 2) @ quadrupoles(coefficients) @ inverse
    for a in range(3):
        columns[_exponents(a, a)] = tensor[:, a, a]
        columns |= {_exponents(a, b): 2.0 * tensor[:, a, b] for b in range(a)}
    return torch.stack([columns[exponents] for exponents in monomials(degree)], dim=1)


def moment_matrices(inverse: Tensor, degree: int) -> Tensor:
    """Return the matrices ``(n_graphs, (L+1)^2, n_monomials)`` of :func:`fractional_moments`, by structure.

    ``inverse`` (n_graphs, 3, 3) [1/Å].
    """
    if degree == 1:
        return _first_degree(inverse)
    n_graphs, n_columns = inverse.shape[0], (degree + 1) ** 2
    single = torch.eye(n_columns, dtype=inverse.dtype, device=inverse.device)
    single = single.expand(n_graphs, n_columns, n_columns).reshape(-1, n_columns)
    of_each = inverse.unsqueeze(1).expand(n_graphs, n_columns, 3, 3).reshape(-1, 3, 3)
    return fractional_moments(single, of_each).reshape(n_graphs, n_columns, -1)


def _first_degree(inverse: Tensor) -> Tensor:
    """Return the matrices (n, 4, 4) from charge and stored dipole to the moments of degree 1.

    One product per atom, and one backwards, in place of a dozen calls.
    """
    axes = [exponents.index(1) for exponents in monomials(1)[1:]]
    from_stored = inverse.roll(-1, 1)[:, :, axes]  # rows y, z, x
    corner = torch.nn.functional.pad(inverse.new_ones(1, 1), (0, 3, 0, 3))
    return corner + torch.nn.functional.pad(from_stored, (1, 0, 1, 0))


def _exponents(*axes: int) -> tuple[int, int, int]:
    return (axes.count(0), axes.count(1), axes.count(2))


def self_energies(coefficients: Tensor, smearing_width: float) -> Tensor:
    r"""Return the energy of each atom's Gaussian multipoles with themselves, (n_atoms,) [eV].

    .. math:: \frac{k_e}{\sqrt\pi}\left[\frac{q^2}{2\sigma} + \frac{|p|^2}{12\sigma^3}
              + \frac{T:T}{20\sigma^5}\right]
    """
    sigma = smearing_width
    energies = coefficients[:, 0].square() / (2.0 * sigma)
    if coefficients.shape[1] >= 4:
        energies = energies + dipoles(coefficients).square().sum(-1) / (12.0 * sigma**3)
    if coefficients.shape[1] >= 9:
        energies = energies + quadrupoles(coefficients).square().sum((-2, -1)) / (20.0 * sigma**5)
    return energies * (COULOMB_CONSTANT / math.sqrt(math.pi))
