r"""Energies of Gaussian multipoles in open space: one GPU program per block of atoms, no pair list.

The potential of all other atoms of a structure and its derivatives,

.. math:: V_i^{abc}(m) = \sum_{j \ne i} \sum_{uvw \le L} (-1)^{u+v+w}\, m_j^{uvw}\,
          \partial^{(a+u)(b+v)(c+w)} \frac{\mathrm{erf}(r/2\sigma)}{r}\Big|_{r_i - r_j}

is its own transpose, :math:`\sum_i u_i V_i(m) = \sum_j m_j V_j(u)`, and its derivative by a position raises
an exponent: the operator ``lsf::open_potential`` is differentiable to any order by itself. Every pair is seen
from both sides, twice the arithmetic of a pair list, in exchange for sums without atomic additions.

Programs work in units of 2σ, where the radial derivatives are ``(-2)^n F_n(r²)`` times 2/√π. Positions and
Boys functions are float64 for either type of moments. Not measured on a GPU yet.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lsf.electrostatics.fourier.pair import kept, raise_and_contract
from lsf.electrostatics.gpu.blocks import parts_of_sums, structure_blocks
from lsf.electrostatics.gpu.launch import kernel_operator, wrap_triton
from lsf.electrostatics.gpu.programs.pairs import potential_program
from lsf.electrostatics.multipoles import fractional_moments, max_degree, monomials
from lsf.units import COULOMB_CONSTANT

BLOCK = 32
"""Atoms per program: one per thread of one warp."""

LEAST_TERMS = 64
"""Other atoms that a program should at least sum over."""


class PairGrid(NamedTuple):
    """Blocks of the atoms of open structures; hold no gradient."""

    tables: list[Tensor]  # (n_programs, 4) int32: own atoms and those summed over
    parts: int
    n_graphs: int


@torch.no_grad()
def pair_grid(batch: Tensor, is_open: Tensor) -> PairGrid:
    """Return the tables of ``batch`` (n_atoms,) int64, ascending; ``is_open`` (n_graphs,) bool."""
    graphs = torch.arange(len(is_open) + 1, device=batch.device)
    bounds = torch.searchsorted(batch, graphs)
    blocks = structure_blocks(bounds, bounds, batch.shape[0], BLOCK, is_open)
    parts = parts_of_sums(blocks.shape[0], batch.shape[0], len(is_open), LEAST_TERMS)
    return PairGrid([blocks], parts, len(is_open))


def _fake_potential(_positions: Tensor, moments: Tensor, *rest: Any) -> Tensor:
    return moments.new_empty(moments.shape[0], len(monomials(rest[-1])))


@kernel_operator("open_potential", _fake_potential)
def _open_potential(
    positions: Tensor, moments: Tensor, tables: list[Tensor], parts: int, source: int, target: int
) -> Tensor:
    n_atoms = positions.shape[0]
    # zeros: atoms of structures that are not open are in no block
    result = moments.new_zeros(parts, len(monomials(target)), n_atoms)
    wrap_triton(potential_program)[(tables[0].shape[0], parts)](
        positions.to(torch.float64).T.contiguous(), moments.T.contiguous(), tables[0], result, n_atoms, parts,
        SOURCE=source, TARGET=target, TERMS=_series_terms(source + target), BLOCK=BLOCK, num_warps=1,
    )  # fmt: skip
    return result.sum(0).T.contiguous()


def _series_terms(highest: int) -> int:
    """Return how many terms the series of F_highest takes at its largest argument, 4, for 1e-17."""
    largest, terms = 1.0, 0
    while largest > 1.0e-17:
        terms += 1
        largest *= 8.0 / (2 * highest + 1 + 2 * terms)
    return terms


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 - torch passes it
    positions, moments, tables, parts, source, target = inputs
    ctx.save_for_backward(positions, moments, *tables)
    ctx.parts, ctx.source, ctx.target = parts, source, target


def _backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    positions, moments, *tables = ctx.saved_tensors
    parts, source, target = ctx.parts, ctx.source, ctx.target
    nothing = ([None] * len(tables), None, None, None)
    if not ctx.needs_input_grad[0]:
        return None, _open_potential(positions, gradient, tables, parts, target, source), *nothing
    at_targets = _open_potential(positions, moments, tables, parts, source, target + 1)
    at_sources = _open_potential(positions, gradient, tables, parts, target, source + 1)
    by_position = raise_and_contract(gradient, at_targets, target)
    by_position = by_position + raise_and_contract(moments, at_sources, source)
    return by_position.to(positions.dtype), kept(at_sources, source), *nothing


_open_potential.register_autograd(_backward, setup_context=_save)


def open_energy(
    coefficients: Tensor,
    positions: Tensor,
    grid: PairGrid,
    batch: Tensor,
    smearing_width: float,
) -> Tensor:
    """Return the energy of all pairs of different atoms of open structures, (n_graphs,) [eV].

    The same as :func:`lsf.electrostatics.open_space.open_energy`, without self-interaction. Coefficients
    (n_atoms, (L+1)^2) [e Å^l], float32 or float64; positions (n_atoms, 3) [Å], best float64.
    """
    degree = max_degree(coefficients)
    scale = 0.5 / smearing_width
    to_reduced = scale * torch.eye(3, dtype=coefficients.dtype, device=coefficients.device)
    moments = fractional_moments(coefficients, to_reduced.expand(len(coefficients), 3, 3))
    potential = _open_potential(positions * scale, moments, grid.tables, grid.parts, degree, degree)
    energies: Tensor = (moments * potential).sum(-1)
    total = energies.new_zeros(grid.n_graphs).index_add(0, batch, energies)
    constant: float = COULOMB_CONSTANT * scale / math.sqrt(math.pi)
    return constant * total
