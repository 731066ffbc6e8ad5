r"""Pair energies of Gaussian multipoles in open space, in closed form.

Derivatives of the smeared Coulomb kernel follow from

.. math:: g_n(r) = \left(\frac{1}{r}\frac{d}{dr}\right)^n \frac{\mathrm{erf}(r/2\sigma)}{r}
                 = \frac{2a}{\sqrt\pi} (-2a^2)^n F_n(a^2 r^2), \qquad a = \frac{1}{2\sigma}

with the Boys functions :math:`F_n(x) = \int_0^1 t^{2n} e^{-x t^2} dt`: smooth in r², exact at r = 0.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import Tensor

from lsf.electrostatics.multipoles import dipoles, max_degree, quadrupoles
from lsf.units import COULOMB_CONSTANT

SERIES_BELOW: Final = 4.0
"""Arguments up to here use the series; from here on the upward recursion loses less than two digits."""


def boys(x: Tensor, n_max: int) -> Tensor:
    """Return Boys functions of orders 0 … n_max, (n_max + 1, n) for ``x`` (n,) >= 0, to relative 1e-14.

    Small arguments: series of the highest order, then the stable downward recursion. Large ones: error
    function, then upward. T. Helgaker, P. Jørgensen, J. Olsen, Molecular Electronic-Structure Theory,
    sections 9.8.2 and 9.8.3.
    """
    result = x.new_empty(n_max + 1, len(x))
    near = x < SERIES_BELOW
    result[:, near] = _boys_downward(x[near], n_max)
    result[:, ~near] = _boys_upward(x[~near], n_max)
    return result


def _boys_downward(x: Tensor, n_max: int) -> Tensor:
    decay = torch.exp(-x)
    # e^x F_n = Σ_k (2x)^k / [(2n+1)(2n+3)…(2n+2k+1)]: positive terms, no cancellation
    term = torch.full_like(x, 1.0 / (2 * n_max + 1))
    total = term.clone()
    largest, order = 1.0, 2 * n_max + 1
    while largest > 1.0e-17:
        order += 2
        largest *= 2.0 * SERIES_BELOW / order
        term = term * (2.0 * x / order)
        total += term
    values = [total * decay]
    for n in range(n_max - 1, -1, -1):
        values.append((2.0 * x * values[-1] + decay) / (2 * n + 1))
    return torch.stack(values[::-1])


def _boys_upward(x: Tensor, n_max: int) -> Tensor:
    decay = torch.exp(-x)
    root = torch.sqrt(x)
    values = [0.5 * math.sqrt(math.pi) * torch.erf(root) / root]
    for n in range(n_max):
        values.append(((2 * n + 1) * values[-1] - decay) / (2.0 * x))
    return torch.stack(values)


def kernel_values(squared: Tensor, smearing_width: float, n_max: int) -> Tensor:
    """Return g_0 … g_n_max, (n_max + 1, n_pairs), of squared distances, as plain numbers."""
    a = 0.5 / smearing_width
    scales = [2.0 * a / math.sqrt(math.pi) * (-2.0 * a * a) ** n for n in range(n_max + 1)]
    return boys(a * a * squared, n_max) * squared.new_tensor(scales)[:, None]


class _Kernels(torch.autograd.Function):
    """``g_0 … g_n_max`` as functions of r²; the derivative of g_n by r² is g_(n+1) / 2, to any order."""

    @staticmethod
    def forward(ctx: Any, squared: Tensor, smearing_width: float, n_max: int) -> Tensor:
        ctx.save_for_backward(squared)
        ctx.smearing_width, ctx.n_max = smearing_width, n_max
        return kernel_values(squared, smearing_width, n_max)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (squared,) = ctx.saved_tensors
        raised = kernels(squared, ctx.smearing_width, ctx.n_max + 1)[1:]
        return 0.5 * (gradient * raised).sum(0), None, None


def kernels(squared: Tensor, smearing_width: float, n_max: int) -> Tensor:
    """Return g_0 … g_n_max [1/Å^(2n+1)], (n_max + 1, n_pairs), of squared distances (n_pairs,) [Å^2]."""
    return _Kernels.apply(squared, smearing_width, n_max)  # type: ignore[no-any-return, no-untyped-call]


def open_energy(
    coefficients: Tensor,
    positions: Tensor,
    open_pairs: Tensor,
    batch: Tensor,
    n_graphs: int,
    smearing_width: float,
) -> Tensor:
    """Return the energy of all pairs of different atoms, (n_graphs,) [eV]; no self-interaction.

    Coefficients (n_atoms, (L+1)^2) [e Å^l], positions (n_atoms, 3) [Å], open_pairs (2, n_pairs) int64.
    """
    degree = max_degree(coefficients)
    first, second = open_pairs
    vector = positions[first] - positions[second]
    g = kernels(vector.square().sum(-1), smearing_width, 2 * degree)
    energies = _charge_terms(coefficients[:, 0], first, second, g)
    if degree >= 1:
        energies = energies + _dipole_terms(coefficients, first, second, vector, g)
    if degree >= 2:
        energies = energies + _quadrupole_terms(coefficients, first, second, vector, g)
    total = energies.new_zeros(n_graphs).index_add(0, batch[first], energies)
    return COULOMB_CONSTANT * total


def _charge_terms(charges: Tensor, first: Tensor, second: Tensor, g: Tensor) -> Tensor:
    return charges[first] * charges[second] * g[0]


def _dipole_terms(coefficients: Tensor, first: Tensor, second: Tensor, vector: Tensor, g: Tensor) -> Tensor:
    """Charge-dipole and dipole-dipole terms; ``vector`` points from the second atom to the first."""
    charges, moments = coefficients[:, 0], dipoles(coefficients)
    p_first, p_second = moments[first], moments[second]
    along_first, along_second = (p_first * vector).sum(-1), (p_second * vector).sum(-1)
    mixed = charges[second] * along_first - charges[first] * along_second - (p_first * p_second).sum(-1)
    return mixed * g[1] - along_first * along_second * g[2]


def _quadrupole_terms(
    coefficients: Tensor, first: Tensor, second: Tensor, vector: Tensor, g: Tensor
) -> Tensor:
    """All terms with at least one quadrupole; traces of T vanish, which drops terms."""
    charges, moments, tensors = coefficients[:, 0], dipoles(coefficients), quadrupoles(coefficients)
    p_first, p_second = moments[first], moments[second]
    t_first, t_second = tensors[first], tensors[second]
    once_first = torch.einsum("nab,nb->na", t_first, vector)
    once_second = torch.einsum("nab,nb->na", t_second, vector)
    twice_first, twice_second = (once_first * vector).sum(-1), (once_second * vector).sum(-1)
    along_first, along_second = (p_first * vector).sum(-1), (p_second * vector).sum(-1)
    order_2 = charges[first] * twice_second + charges[second] * twice_first
    order_2 = order_2 + 2.0 * ((p_first * once_second).sum(-1) - (p_second * once_first).sum(-1))
    order_2 = order_2 + 2.0 * (t_first * t_second).sum((-2, -1))
    order_3 = twice_second * along_first - twice_first * along_second
    order_3 = order_3 + 4.0 * (once_first * once_second).sum(-1)
    return order_2 * g[2] + order_3 * g[3] + twice_first * twice_second * g[4]
