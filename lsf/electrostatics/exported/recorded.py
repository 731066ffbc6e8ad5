r"""The two heavy Coulomb sums by plain operations, for recorded graphs: ONNX and AOTInductor.

What is recorded is a fixed list of operations, derivatives included. Without ``autograd.Function`` and loops
over chunks, a graph keeps some ten arrays of n_atoms × n_k numbers, in open space n_pairs; elsewhere the same
sums need O(n_atoms + n_k), :mod:`lsf.electrostatics.fourier.pair` and :mod:`lsf.electrostatics.pairs.chunks`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from lsf.electrostatics.exported.torchscript import kernel_scales, pair_energies
from lsf.electrostatics.multipoles import dipoles, max_degree, monomials, quadrupoles
from lsf.electrostatics.open_space import TABLE_END, TABLE_STEPS, taylor_table
from lsf.electrostatics.plan.coulomb_plan import CoulombPlan
from lsf.units import COULOMB_CONSTANT


def reciprocal_energy(
    fractional: Tensor, moments: Tensor, weights: Tensor, batch: Tensor, plan: CoulombPlan, degree: int
) -> Tensor:
    r"""Return ``Σ_n w_n |F_n|²`` of every structure, (n_graphs,) [eV].

    Parameters
    ----------
    fractional : (n_atoms, 3), any period
    moments : (n_atoms, n_monomials(degree)) [e]
    weights : (n_k,) [eV/e²]
    batch : (n_atoms,) int64
    plan : its ``k_triplets`` and ``k_batch`` are used
    degree : L of the moments
    """
    # phases of wrapped coordinates: wave vectors are integers, and small angles keep their digits
    reduced = fractional - fractional.detach().round()
    turned = 2.0 * math.pi * plan.k_triplets.to(moments.dtype)
    angle = turned @ reduced.transpose(0, 1)  # [n, j]
    inside = (plan.k_batch[:, None] == batch).to(moments.dtype)
    along, across = (torch.cos(angle) * inside) @ moments, (torch.sin(angle) * inside) @ moments
    real, imaginary = [], []
    for column, (a, b, c) in enumerate(monomials(degree)):
        # (-2πi n)^abc (C - iS), C and S the sums of cosines and sines
        power = _power(turned, (a, b, c))
        cosine, sine = along[:, column] * power, across[:, column] * power
        re, im = ((cosine, -sine), (-sine, -cosine), (-cosine, sine), (sine, cosine))[(a + b + c) % 4]
        real.append(re)
        imaginary.append(im)
    squares = torch.stack(real).sum(0).square() + torch.stack(imaginary).sum(0).square()
    terms = weights * squares
    return terms.new_zeros(plan.kind.shape[0]).index_add(0, plan.k_batch, terms)


def _power(turned: Tensor, exponents: tuple[int, int, int]) -> Tensor:
    """Return ``Π t_x^e_x`` (n_k,) of ``turned`` (n_k, 3)."""
    result = torch.ones_like(turned[:, 0])
    for axis, exponent in enumerate(exponents):
        for _ in range(exponent):
            result = result * turned[:, axis]
    return result


def open_energy(
    coefficients: Tensor, positions: Tensor, batch: Tensor, plan: CoulombPlan, smearing_width: float
) -> Tensor:
    """Return the energy of the plan's ``open_pairs``, (n_graphs,) [eV]; once differentiable.

    Coefficients (n_atoms, (L+1)^2) [e Å^l], positions (n_atoms, 3) [Å].
    """
    degree = max_degree(coefficients)
    first, second = plan.open_pairs[0], plan.open_pairs[1]
    energies = pair_energies(
        coefficients[:, 0],
        dipoles(coefficients),
        quadrupoles(coefficients),
        positions,
        first,
        second,
        *_tables(2 * degree + 1, smearing_width),
        TABLE_END,
        TABLE_STEPS,
        degree,
    )
    sums = energies.new_zeros(plan.kind.shape[0]).index_add(0, batch[first], energies)
    return COULOMB_CONSTANT * sums


def _tables(n_max: int, smearing_width: float) -> tuple[Tensor, Tensor]:
    """Return the constants of the kernels, which other graphs share: nothing of this one may be in them."""
    with _disable_current_modes():
        table = taylor_table(n_max, torch.float64, torch.device("cpu"))
        return table, kernel_scales(n_max, smearing_width)
