r"""All pairs of open structures as one sum that is closed under differentiation, like the Fourier sums.

With the Cartesian moments :math:`m^\beta`, :math:`\beta = (a, b, c)`, of
:func:`lsf.electrostatics.multipoles.fractional_moments` in a unit cell, and the smeared kernel g,

.. math:: \Phi_i^\alpha = \sum_{j \ne i} \sum_\beta (-1)^{|\beta|} m_j^\beta\,
                          \partial^{\alpha + \beta} g(r_i - r_j), \qquad
          E = \tfrac{1}{2} \sum_i \sum_\alpha m_i^\alpha \Phi_i^\alpha

A derivative by a position raises an exponent and one by a moment exchanges the roles of :math:`\alpha` and
:math:`\beta`: what a backward pass keeps is O(n_atoms). Pairs are worked off in chunks of rows, their kernels
made on the fly from Boys functions, derivatives by the recursion of L. E. McMurchie, E. R. Davidson,
J. Comput. Phys. 26, 218 (1978), doi:10.1016/0021-9991(78)90092-X.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lsf.electrostatics.fourier.pair import kept, raise_and_contract
from lsf.electrostatics.multipoles import fractional_moments, max_degree, monomials
from lsf.electrostatics.open_space import kernel_values
from lsf.machine.caches import constant
from lsf.units import COULOMB_CONSTANT

CHUNK_ELEMENTS = 2**15
"""Pairs worked on at a time; some forty arrays of this size are alive (10 MB)."""


class OpenBlock(NamedTuple):
    """Open structures of similar size."""

    atoms: Tensor  # [a, j] int64, n_atoms where padded


@torch.no_grad()
def open_blocks(batch: Tensor, is_open: Tensor) -> list[OpenBlock]:
    """Return padded rows of the atoms of open structures, one block per factor of two in size.

    ``batch`` (n_atoms,) int64, ascending; ``is_open`` (n_graphs,) marks the structures to sum.
    """
    counts = torch.bincount(batch, minlength=len(is_open))
    first = torch.cumsum(counts, 0) - counts
    active = is_open & (counts > 1)
    sizes = torch.log2(counts.clamp(min=1).double()).ceil()
    blocks = []
    for size in torch.unique(sizes[active]).tolist():
        chosen = (active & (sizes == size)).nonzero()[:, 0]
        slots = torch.arange(int(counts[chosen].max()), device=batch.device)
        inside = slots < counts[chosen, None]
        blocks.append(OpenBlock(torch.where(inside, first[chosen, None] + slots, len(batch))))
    return blocks


def open_pair_energy(
    coefficients: Tensor, positions: Tensor, batch: Tensor, is_open: Tensor, smearing_width: float
) -> Tensor:
    """Return the energy of all pairs of different atoms, (n_graphs,) [eV]; no self-interaction.

    Coefficients (n_atoms, (L+1)^2) [e Å^l], positions (n_atoms, 3) [Å], ``is_open`` (n_graphs,) bool:
    structures to sum; others are zero.
    """
    unit = torch.eye(3, dtype=positions.dtype, device=positions.device)
    moments = fractional_moments(coefficients, unit[None])
    pairs = _Pairs(open_blocks(batch, is_open), batch, len(is_open), smearing_width)
    energies: Tensor = _PairEnergy.apply(positions, moments, pairs, max_degree(coefficients))  # type: ignore[no-untyped-call]
    return COULOMB_CONSTANT * energies


class _Pairs(NamedTuple):
    blocks: list[OpenBlock]
    batch: Tensor
    n_graphs: int
    smearing_width: float


class _PairEnergy(torch.autograd.Function):
    """Energies of structures, from one sum; made of degree L + 1, it serves the first derivatives as well."""

    @staticmethod
    def forward(ctx: Any, positions: Tensor, moments: Tensor, pairs: _Pairs, degree: int) -> Tensor:
        raised = degree + (1 if any(ctx.needs_input_grad) else 0)
        (sums,) = _pair_sums(positions, [(moments, degree, raised)], pairs)
        ctx.save_for_backward(positions, moments, sums)
        ctx.pairs, ctx.degree = pairs, degree
        energies = 0.5 * (moments * (sums if raised == degree else kept(sums, degree))).sum(1)
        return energies.new_zeros(pairs.n_graphs).index_add(0, pairs.batch, energies)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        positions, moments, sums = ctx.saved_tensors
        degree = ctx.degree
        if torch.is_grad_enabled():
            sums = _pair_sum(positions, moments, degree, degree + 1, ctx.pairs, sums)
        scale = gradient[ctx.pairs.batch, None]
        by_position = scale * raise_and_contract(moments, sums, degree)
        return by_position, scale * kept(sums, degree), None, None


def _pair_sum(
    positions: Tensor, moments: Tensor, degree: int, out_degree: int, pairs: _Pairs, known: Tensor | None
) -> Tensor:
    return _PairSum.apply(positions, moments, degree, out_degree, pairs, known)  # type: ignore[no-any-return, no-untyped-call]


class _PairSum(torch.autograd.Function):
    """``Φ`` of degree ``out_degree`` from moments of ``degree``; ``known`` where it was made before."""

    @staticmethod
    def forward(
        ctx: Any,
        positions: Tensor,
        moments: Tensor,
        degree: int,
        out_degree: int,
        pairs: _Pairs,
        known: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(positions, moments)
        ctx.arguments = (degree, out_degree, pairs)
        if known is not None:
            return known.clone()
        return _pair_sums(positions, [(moments, degree, out_degree)], pairs)[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        positions, moments = ctx.saved_tensors
        degree, out_degree, pairs = ctx.arguments
        # exchanging a pair changes the sign of every odd derivative, which (-1)^|β| has in either role
        requests = [(gradient, out_degree, degree + 1), (moments, degree, out_degree + 1)]
        if torch.is_grad_enabled():
            transposed, raised = (_pair_sum(positions, *request, pairs, None) for request in requests)
        else:
            transposed, raised = _pair_sums(positions, requests, pairs)
        by_position = raise_and_contract(gradient, raised, out_degree)
        by_position = by_position + raise_and_contract(moments, transposed, degree)
        return by_position, kept(transposed, degree), None, None, None, None


def _pair_sums(positions: Tensor, requests: list[tuple[Tensor, int, int]], pairs: _Pairs) -> list[Tensor]:
    """Return ``Φ`` (n_atoms, n_monomials(out)) for every request (moments, degree, out_degree)."""
    padded = torch.cat([positions, positions.new_zeros(1, 3)])
    sources = [torch.cat([m, m.new_zeros(1, m.shape[1])]) for m, _, _ in requests]
    results = [m.new_zeros(len(m) + 1, len(monomials(out))) for m, _, out in requests]
    highest = max(degree + out for _, degree, out in requests)
    for block in pairs.blocks:
        n_structures, width = block.atoms.shape
        everywhere = padded[block.atoms]
        moments = [source[block.atoms] for source in sources]
        sums = [
            m.new_zeros(n_structures, width, result.shape[1])
            for m, result in zip(moments, results, strict=True)
        ]
        # rows with all columns from the first row on: every pair's kernel is made once
        step = max(1, min(-(-width // 4), CHUNK_ELEMENTS // (n_structures * width)))
        for start in range(0, width, step):
            stop = min(start + step, width)
            vectors = everywhere[:, start:stop, None, :] - everywhere[:, None, start:, :]  # [a, i, j, 3]
            derivatives = _derivatives(vectors, highest, pairs.smearing_width)
            for source, result, (_, degree, out) in zip(moments, sums, requests, strict=True):
                for gamma, alphas, betas, signs in _combinations(degree, out):
                    values = derivatives[gamma]
                    weighted = source[:, :, betas] * source.new_tensor(signs)
                    result[:, start:stop, alphas] += torch.bmm(values, weighted[:, start:])
                    if stop < width:
                        odd = -1.0 if sum(gamma) % 2 else 1.0
                        back = torch.bmm(
                            values[:, :, stop - start :].transpose(1, 2), weighted[:, start:stop]
                        )
                        result[:, stop:, alphas] += odd * back
        for result, total in zip(results, sums, strict=True):
            result[block.atoms] = total
    return [result[:-1] for result in results]


def _derivatives(vectors: Tensor, highest: int, width: float) -> dict[tuple[int, int, int], Tensor]:
    """Return ``∂^γ g`` [a, i, j] for every exponent of degree ``highest``; zero for an atom with itself."""
    n_structures, n_rows, n_columns, _ = vectors.shape
    squared = vectors.square().sum(-1)
    radial = kernel_values(squared.reshape(-1), width, highest).reshape(-1, n_structures, n_rows, n_columns)
    own = torch.arange(n_rows, device=vectors.device)
    radial[:, :, own, own] = 0.0
    axes = vectors.unbind(-1)
    level = {(0, 0, 0): radial[highest]}
    # level n holds ∂^γ of g_n for |γ| <= highest - n
    for n in range(highest - 1, -1, -1):
        higher, level = level, {(0, 0, 0): radial[n]}
        for exponents in monomials(highest - n):
            if sum(exponents):
                axis = max(range(3), key=lambda i: exponents[i])
                lower = _minus(exponents, axis)
                value = axes[axis] * higher[lower]
                if lower[axis]:
                    value.add_(higher[_minus(lower, axis)], alpha=lower[axis])
                level[exponents] = value
    return level


def _minus(exponents: tuple[int, int, int], axis: int) -> tuple[int, int, int]:
    a, b, c = (e - (i == axis) for i, e in enumerate(exponents))
    return a, b, c


@constant
def _combinations(
    degree: int, out: int
) -> list[tuple[tuple[int, int, int], list[int], list[int], list[float]]]:
    """Return, per exponent γ, the places of α and β with α + β = γ and the signs (-1)^|β|."""
    found: dict[tuple[int, int, int], tuple[list[int], list[int], list[float]]] = {}
    for i, alpha in enumerate(monomials(out)):
        for j, beta in enumerate(monomials(degree)):
            gamma = (alpha[0] + beta[0], alpha[1] + beta[1], alpha[2] + beta[2])
            places = found.setdefault(gamma, ([], [], []))
            places[0].append(i)
            places[1].append(j)
            places[2].append(-1.0 if sum(beta) % 2 else 1.0)
    return [(gamma, *places) for gamma, places in found.items()]
