r"""Pair energies of small open structures as matrices over all atoms, without a list of pairs.

Every scalar a pair's energy is made of is a sum of products of one factor per atom, for instance
:math:`p_i \cdot (r_i - r_j) = p_i \cdot r_i - p_i \cdot r_j`. Whole matrices of them are matrix products, and
what belongs to j is the transpose of what belongs to i. The smeared kernel is smooth in r², so that nothing
is lost where these differences cancel. Of charges and dipoles, first derivatives are made together with the
energy; what is to be differentiated again is made anew from operations that autograd knows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lsf.electrostatics.multipoles import dipoles, max_degree, quadrupoles, self_energies, stored_dipoles
from lsf.electrostatics.open_space import kernels
from lsf.electrostatics.pairs.chunks import open_blocks
from lsf.electrostatics.pairs.derivatives import first_derivatives
from lsf.units import COULOMB_CONSTANT


def open_matrix_energy(
    coefficients: Tensor, positions: Tensor, batch: Tensor, is_open: Tensor, smearing_width: float
) -> Tensor:
    """Return the energy of all pairs of different atoms, (n_graphs,) [eV]; no self-interaction.

    Differentiable to any order; keeps some ten matrices of n_atoms × n_atoms per structure.

    Parameters
    ----------
    coefficients : (n_atoms, (L+1)^2) [e Å^l]
    positions : (n_atoms, 3) [Å]
    batch : (n_atoms,) int64, structure of each atom, ascending
    is_open : (n_graphs,) bool, structures to sum; others are zero
    smearing_width : σ [Å]
    """
    energies = coefficients.new_zeros(len(is_open))
    columns = torch.cat([positions, coefficients], 1)
    padded = torch.cat([columns, columns.new_zeros(1, columns.shape[1])])
    for block in open_blocks(batch, is_open):
        values = padded[block.atoms]
        inside = (block.atoms < len(batch)).to(values.dtype)[..., None]
        centre = values[..., :3].detach().sum(1, keepdim=True) / inside.sum(1, keepdim=True)
        centred = (values[..., :3] - centre) * inside
        if columns.shape[1] <= 7:
            summed = _FirstOrder.apply(centred, values[..., 3:], smearing_width)  # type: ignore[no-untyped-call]
        else:
            summed = _block_energy(centred, values[..., 3:], smearing_width)
        energies = energies.index_add(0, batch[block.atoms[:, 0]], summed)
    return energies


class _FirstOrder(torch.autograd.Function):
    """:func:`_block_energy` of charges and dipoles, its first derivatives with it, others by autograd."""

    @staticmethod
    def forward(ctx: Any, positions: Tensor, coefficients: Tensor, smearing_width: float) -> Tensor:
        p = dipoles(coefficients.flatten(0, 1)).reshape(positions.shape)
        found = first_derivatives(coefficients[..., 0], p, positions, smearing_width)
        by_moment = torch.cat([found.by_charge[..., None], stored_dipoles(found.by_dipole)], 2)
        by_coefficient = by_moment[..., : coefficients.shape[2]]
        ctx.save_for_backward(positions, coefficients, found.by_position, by_coefficient)
        ctx.smearing_width = smearing_width
        return COULOMB_CONSTANT * found.energies

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        positions, coefficients, *derivatives = ctx.saved_tensors
        if torch.is_grad_enabled():
            energies = _block_energy(positions, coefficients, ctx.smearing_width)
            by_position, by_coefficient = torch.autograd.grad(
                energies, [positions, coefficients], gradient, create_graph=True
            )
            return by_position, by_coefficient, None
        scale = COULOMB_CONSTANT * gradient[:, None, None]
        return scale * derivatives[0], scale * derivatives[1], None


def _block_energy(positions: Tensor, coefficients: Tensor, smearing_width: float) -> Tensor:
    """Return the energies (n_structures,) [eV] of positions [a, i, 3] and coefficients [a, i, (L+1)²]."""
    n_structures, n_atoms, _ = positions.shape
    degree = max_degree(coefficients[0])
    squares = positions.square().sum(-1)
    transposed = positions.transpose(1, 2)
    squared = torch.baddbmm(squares[:, :, None] + squares[:, None, :], positions, transposed, alpha=-2.0)
    found = kernels(squared.reshape(-1), smearing_width, 2 * degree)
    g = tuple(values.reshape(squared.shape) for values in found)
    charges = coefficients[..., :1]
    total = (charges * torch.bmm(g[0], charges)).sum((1, 2))
    if degree >= 1:
        p = dipoles(coefficients.flatten(0, 1)).reshape(n_structures, n_atoms, 3)
        own = (p * positions).sum(-1, keepdim=True)
        along = torch.baddbmm(own, p, transposed, alpha=-1.0)  # p_i · r_ij
        mixed = 2.0 * torch.bmm(along * g[1], charges).sum((1, 2)) - (p * torch.bmm(g[1], p)).sum((1, 2))
        total = total + mixed + (along * along.transpose(1, 2) * g[2]).sum((1, 2))
    if degree >= 2:
        total = total + _quadrupole_terms(positions, coefficients, p, along, g)
    # the matrices' diagonals are the interactions of atoms with themselves
    themselves = self_energies(coefficients.flatten(0, 1), smearing_width)
    return (0.5 * COULOMB_CONSTANT) * total - themselves.reshape(n_structures, n_atoms).sum(1)


def _quadrupole_terms(
    positions: Tensor, coefficients: Tensor, p: Tensor, along: Tensor, g: tuple[Tensor, ...]
) -> Tensor:
    """Return twice the terms with at least one quadrupole, (n_structures,); traces of T vanish."""
    n_structures, n_atoms, _ = positions.shape
    tensors = quadrupoles(coefficients.flatten(0, 1)).reshape(n_structures, n_atoms, 3, 3)
    flat = tensors.flatten(2)
    transposed = positions.transpose(1, 2)
    own = (tensors @ positions[..., None])[..., 0]  # T_i r_i
    outer = (positions[..., :, None] * positions[..., None, :]).flatten(2)
    twice = (own * positions).sum(-1, keepdim=True) - 2.0 * torch.bmm(own, transposed)
    twice = twice + torch.bmm(flat, outer.transpose(1, 2))  # r_ij T_i r_ij
    mixed = (p[..., :, None] * positions[..., None, :]).flatten(2)
    crossed = torch.bmm(mixed, flat.transpose(1, 2)) - torch.bmm(p, own.transpose(1, 2))  # p_i T_j r_ij
    once = own.transpose(1, 2)[..., None] - (tensors.transpose(1, 2) @ transposed[:, None])
    products = (once * once.transpose(2, 3)).sum(1)  # (T_i r_ij) · (T_j r_ji)
    order_2 = 2.0 * twice * coefficients[:, None, :, 0] + 4.0 * crossed
    order_2 = order_2 + 2.0 * torch.bmm(flat, flat.transpose(1, 2))
    order_3 = 2.0 * twice.transpose(1, 2) * along - 4.0 * products
    order_4 = twice * twice.transpose(1, 2)
    return (order_2 * g[2] + order_3 * g[3] + order_4 * g[4]).sum((1, 2))
