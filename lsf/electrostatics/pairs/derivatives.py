r"""Energies of open structures of charges and dipoles together with all first derivatives, as matrices.

With :math:`r = r_i - r_j`, :math:`A = p_i \cdot r`, :math:`B = p_j \cdot r`, the kernels :math:`g_n` of
:mod:`lsf.electrostatics.open_space` and :math:`C = q_j A - q_i B - p_i \cdot p_j`, twice the energy over
:math:`k_e` is the sum of :math:`q_i q_j g_0 + C g_1 - A B g_2` over i and j; therefore, as
:math:`\nabla g_n = r\,g_{n+1}`,

.. math::
    \phi_i &= \partial E/\partial q_i = \sum_j q_j g_0 - B g_1 \\
    \partial E/\partial p_i &= \sum_j (q_j g_1 - B g_2)\,r - p_j g_1 \\
    \partial E/\partial r_i &= \sum_j (q_i q_j g_1 + C g_2 - A B g_3)\,r
                              + (q_j p_i - q_i p_j)\,g_1 - (B p_i + A p_j)\,g_2

Every sum over j is a product of a matrix with a few columns. Rows are worked off in chunks; only
the derivatives are kept.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor

from lsf.electrostatics.open_space import kernel_values
from lsf.machine.caches import kept_scratch

CHUNK_ELEMENTS: Final = 2**16
"""Pairs worked on at a time, in eight arrays of this size that are kept (4 MB)."""


class FirstDerivatives(NamedTuple):
    """Energies over k_e and their derivatives."""

    energies: Tensor  # [a]
    by_charge: Tensor  # [a, i]
    by_dipole: Tensor  # [a, i, 3]
    by_position: Tensor  # [a, i, 3]


class _Columns(NamedTuple):
    """Factors of the matrices: those of the row atoms and, transposed, those of the column atoms."""

    squared: tuple[Tensor, Tensor]  # of |r|²
    own: tuple[Tensor, Tensor]  # of A
    other: tuple[Tensor, Tensor]  # of B
    crossed: tuple[Tensor, Tensor]  # of C
    first: Tensor  # [a, j, 8]: q, p, p·r, q r
    places: Tensor  # [a, j, 4]: 1, r


def first_derivatives(
    charges: Tensor, p: Tensor, positions: Tensor, smearing_width: float
) -> FirstDerivatives:
    """Return energies over k_e of structures and their first derivatives; atoms do not meet themselves.

    ``charges`` [a, i] e, dipoles ``p`` [a, i, 3] e Å, ``positions`` [a, i, 3] Å, near the origin.
    """
    n_structures, n_atoms = charges.shape
    columns = _columns(charges[..., None], p, positions)
    found = FirstDerivatives(
        charges.new_empty(n_structures),
        torch.empty_like(charges),
        torch.empty_like(p),
        torch.empty_like(positions),
    )
    n_chunks = -(-n_structures * n_atoms**2 // CHUNK_ELEMENTS)
    step = -(-n_atoms // min(n_chunks, n_atoms))
    for start in range(0, n_atoms, step):
        rows = slice(start, start + step)
        by_charge, by_dipole, by_position = _rows(
            charges[:, rows, None], p[:, rows], positions[:, rows], columns, rows, smearing_width
        )
        found.by_charge[:, rows] = by_charge[..., 0]
        found.by_dipole[:, rows] = by_dipole
        found.by_position[:, rows] = by_position
    # the diagonals of the matrices: g_0(0) q and -g_1(0) p
    origin = 1.0 / (math.sqrt(math.pi) * smearing_width)
    found.by_charge.sub_(charges, alpha=origin)
    found.by_dipole.sub_(p, alpha=origin / (6.0 * smearing_width**2))
    # the energy is bilinear: Euler's theorem
    twice = torch.linalg.vecdot(charges, found.by_charge) + (p * found.by_dipole).sum((1, 2))
    return found._replace(energies=0.5 * twice)


def _columns(q: Tensor, p: Tensor, r: Tensor) -> _Columns:
    one = torch.ones_like(q)
    along = torch.linalg.vecdot(p, r)[..., None]
    squares = torch.linalg.vecdot(r, r)[..., None]
    places = torch.cat([one, r], 2)
    charged = q * r

    def factors(row: list[Tensor], column: list[Tensor]) -> tuple[Tensor, Tensor]:
        return torch.cat(row, 2), torch.cat(column, 2).transpose(1, 2)

    return _Columns(
        factors([squares, one, r], [one, squares, -2.0 * r]),
        factors([along, p], [one, -r]),
        factors([one, r], [-along, p]),
        factors([along, p, q, -charged, p], [q, -charged, along, p, -p]),
        torch.cat([q, p, along, charged], 2),
        places,
    )


def _rows(
    q: Tensor, p: Tensor, r: Tensor, columns: _Columns, rows: slice, smearing_width: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the derivatives of some rows by charge [a, i, 1], dipole [a, i, 3] and position [a, i, 3]."""
    shape = *q.shape[:2], columns.first.shape[1]
    scratch = kept_scratch("open derivatives", q)

    def matrix(name: str, factors: tuple[Tensor, Tensor]) -> Tensor:
        return torch.bmm(factors[0][:, rows], factors[1], out=scratch(name, *shape))

    squared = matrix("squared", columns.squared)
    g = scratch("g", 4, *shape)
    kernel_values(squared.flatten(), smearing_width, 3, g.flatten(1))
    own, other = matrix("own", columns.own), matrix("other", columns.other)
    product = torch.mul(own, other, out=squared).mul_(g[3])
    potential = torch.bmm(g[0], columns.first[..., :1])
    field, dipole, dipole_along, charged = torch.bmm(g[1], columns.first).split([1, 3, 1, 3], 2)
    crossed = torch.bmm(columns.crossed[0][:, rows], columns.crossed[1], out=g[3])
    tensor = torch.bmm(crossed.mul_(g[2]).sub_(product), columns.places)  # C g_2 - A B g_3
    by_own = torch.bmm(own.mul_(g[2]), columns.first[..., 1:4])
    by_other = torch.bmm(other.mul_(g[2]), columns.places)
    potential = potential - torch.linalg.vecdot(r, dipole)[..., None] + dipole_along
    flux = field - by_other[..., :1]
    by_dipole = r * flux - charged + by_other[..., 1:] - dipole
    weight = q * field + tensor[..., :1]
    by_position = r * weight - q * (charged + dipole) - tensor[..., 1:] + p * flux - by_own
    return potential, by_dipole, by_position
