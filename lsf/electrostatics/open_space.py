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
from lsf.machine.caches import constant, kept_scratch
from lsf.units import COULOMB_CONSTANT

TABLE_END: Final = 128.0
TABLE_STEPS: Final = 64
TAYLOR_TERMS: Final = 6
"""The table's spacing is 1/64: the first term left out is below (1/128)^6 / 6! = 3e-16 of the value."""

BOYS_CHUNK: Final = 2**16
"""Arguments worked on at a time: some twelve arrays of this size are alive (6 MB)."""


def boys(x: Tensor, n_max: int, out: Tensor | None = None) -> Tensor:
    """Return Boys functions of orders 0 … n_max, (n_max + 1, n) for ``x`` (n,) >= 0, to relative 1e-14.

    Far arguments go upward from the error function. Near ones, where this cancels, go downward from the
    highest order: a Taylor series about the nearest point of a table, since F_n' = -F_(n+1). T. Helgaker,
    P. Jørgensen, J. Olsen, Molecular Electronic-Structure Theory, sections 9.8.2 and 9.8.3.
    """
    result = x.new_empty(n_max + 1, len(x)) if out is None else out
    for part, values in zip(x.split(BOYS_CHUNK), result.split(BOYS_CHUNK, 1), strict=True):
        near = (part < _upward_from(n_max)).nonzero()[:, 0]
        if 2 * len(near) > len(part):
            _downward(part, values)
        else:
            _upward(part, values)
            if len(near):
                few = values.new_empty(n_max + 1, len(near))
                _downward(part[near], few)
                values[:, near] = few
    return result


def _upward_from(n_max: int) -> float:
    """Return where upward recursion loses less than two digits of F_n_max: eps (2n-1)!!/(2x)^n F_0/F_n."""
    return max(1.0, 0.5 * (n_max - 1))


def _upward(x: Tensor, out: Tensor) -> None:
    """Write F_0 … to ``out``: F_(n+1) = ((2n+1) F_n - e^-x) / 2x; infinite at x = 0."""
    scratch = kept_scratch("boys", x)
    root, decay = scratch("root", len(x)), scratch("decay", len(x))
    torch.sqrt(x, out=root)
    torch.erf(root, out=out[0]).div_(root).mul_(0.5 * math.sqrt(math.pi))
    if len(out) > 1:
        torch.neg(x, out=decay).exp_()
        half = torch.reciprocal(x, out=root).mul_(-0.5)
        for n in range(len(out) - 1):
            torch.sub(decay, out[n], alpha=2 * n + 1, out=out[n + 1]).mul_(half)


def _downward(x: Tensor, out: Tensor) -> None:
    """Write F_0 … to ``out``: F_n = (e^-x + 2x F_(n+1)) / (2n+1)."""
    n_max = len(out) - 1
    _highest_order(x, n_max, taylor_table(n_max, x.dtype, x.device), out[-1])
    decay, twice = torch.exp(-x), 2.0 * x
    for n in range(n_max - 1, -1, -1):
        torch.addcmul(decay, twice, out[n + 1], out=out[n]).mul_(1.0 / (2 * n + 1))


def _highest_order(x: Tensor, n_max: int, table: Tensor, out: Tensor) -> None:
    """Write F_n_max to ``out`` (n,).

    Beyond the table it is Γ(n + 1/2) / 2 x^(n + 1/2), whose complement is below 1e-38 there.
    """
    inside = x.clamp(max=TABLE_END)
    place = (inside * TABLE_STEPS).round_()
    terms = table.index_select(0, place.to(torch.int64))
    offset = torch.add(inside, place, alpha=-1.0 / TABLE_STEPS)
    value = terms[:, -1]
    for k in range(TAYLOR_TERMS - 2, 0, -1):
        value = torch.addcmul(terms[:, k], value, offset)
    torch.addcmul(terms[:, 0], value, offset, out=out)
    far = x > TABLE_END
    if bool(far.any()):
        inverse = 1.0 / x.clamp(min=TABLE_END)
        value = torch.sqrt(inverse).mul_(0.5 * math.gamma(n_max + 0.5))
        for _ in range(n_max):
            value.mul_(inverse)
        out.copy_(torch.where(far, value, out))


@constant
def taylor_table(n_max: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return ``(-1)^k F_(n_max + k)(x) / k!`` of all points x of the table, (n_points, TAYLOR_TERMS)."""
    x = torch.arange(int(TABLE_END) * TABLE_STEPS + 1, dtype=torch.float64) / TABLE_STEPS
    decay = torch.exp(-x)
    order = 2 * (n_max + TAYLOR_TERMS) - 1
    # e^x F_n = Σ_k (2x)^k / [(2n+1)(2n+3)…(2n+2k+1)]: positive terms, no cancellation
    term = torch.full_like(x, 1.0 / order)
    total = torch.zeros_like(x)
    while bool((term > 1.0e-17 * total).any()):
        total += term
        order += 2
        term *= 2.0 * x / order
    values = [total * decay]
    for n in range(n_max + TAYLOR_TERMS - 2, n_max - 1, -1):
        values.append((2.0 * x * values[-1] + decay) / (2 * n + 1))
    columns = [value * (-1) ** k / math.factorial(k) for k, value in enumerate(reversed(values))]
    return torch.stack(columns, 1).to(dtype=dtype, device=device)


def kernel_values(squared: Tensor, smearing_width: float, n_max: int, out: Tensor | None = None) -> Tensor:
    """Return g_0 … g_n_max, (n_max + 1, n_pairs), of squared distances, as plain numbers."""
    a = 0.5 / smearing_width
    values = boys(a * a * squared, n_max, out)
    for n, value in enumerate(values):
        value.mul_(2.0 * a / math.sqrt(math.pi) * (-2.0 * a * a) ** n)
    return values


class _Kernels(torch.autograd.Function):
    """``g_0 … g_n_max`` as functions of r²; the derivative of g_n by r² is g_(n+1) / 2, to any order."""

    @staticmethod
    def forward(ctx: Any, squared: Tensor, smearing_width: float, n_max: int) -> tuple[Tensor, ...]:
        # one order more costs a tenth, a second evaluation for the first derivative all of it
        raised = kernel_values(squared, smearing_width, n_max + ctx.needs_input_grad[0])
        ctx.save_for_backward(squared, raised)
        ctx.smearing_width, ctx.n_max = smearing_width, n_max
        return raised[: n_max + 1].unbind(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        squared, raised = ctx.saved_tensors
        orders = raised.unbind(0)
        if torch.is_grad_enabled():
            orders = kernels(squared, ctx.smearing_width, ctx.n_max + 1)
        total = gradients[0] * orders[1]
        for gradient, order in zip(gradients[1:], orders[2:], strict=True):
            total = torch.addcmul(total, gradient, order)
        return 0.5 * total, None, None


def kernels(squared: Tensor, smearing_width: float, n_max: int) -> tuple[Tensor, ...]:
    """Return g_0 … g_n_max [1/Å^(2n+1)], (n_pairs,) each, of squared distances (n_pairs,) [Å^2]."""
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


def _charge_terms(charges: Tensor, first: Tensor, second: Tensor, g: tuple[Tensor, ...]) -> Tensor:
    return charges[first] * charges[second] * g[0]


def _dipole_terms(
    coefficients: Tensor, first: Tensor, second: Tensor, vector: Tensor, g: tuple[Tensor, ...]
) -> Tensor:
    """Charge-dipole and dipole-dipole terms; ``vector`` points from the second atom to the first."""
    charges, moments = coefficients[:, 0], dipoles(coefficients)
    p_first, p_second = moments[first], moments[second]
    along_first, along_second = (p_first * vector).sum(-1), (p_second * vector).sum(-1)
    mixed = charges[second] * along_first - charges[first] * along_second - (p_first * p_second).sum(-1)
    return mixed * g[1] - along_first * along_second * g[2]


def _quadrupole_terms(
    coefficients: Tensor, first: Tensor, second: Tensor, vector: Tensor, g: tuple[Tensor, ...]
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
