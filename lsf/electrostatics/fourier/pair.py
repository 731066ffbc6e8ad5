r"""The adjoint pair of Fourier sums that everything periodic is built from.

In fractional coordinates s with real fractional moments m (:mod:`lsf.electrostatics.multipoles`):

type 1, :math:`F_n = \sum_j \sum_{abc \le L} m_j^{abc} (-2\pi i\,n)^{abc} e^{-2\pi i\, n\cdot s_j}`

type 2, :math:`v_j^{abc} = \mathrm{Re} \sum_n \bar G_n (-2\pi i\,n)^{abc} e^{-2\pi i\, n\cdot s_j}`

They are each other's transpose for the product :math:`\mathrm{Re}\sum \bar G F`. As a derivative by s only
raises an exponent, the derivative of either is again one of the two with L + 1: the pair is closed under
differentiation to any order, and nothing of size n_atoms × n_k is kept for a backward pass.

Complex numbers are pairs of reals (last dimension 2).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lsf.electrostatics.fourier.backends import AdjointPair
from lsf.electrostatics.multipoles import monomials
from lsf.machine.caches import constant
from lsf.machine.tracing import capturing


def fourier_sum(fractional: Tensor, moments: Tensor, pair: AdjointPair, degree: int) -> Tensor:
    """Return the type 1 sum, differentiable to any order.

    Parameters
    ----------
    fractional : (n_atoms, 3), need not be wrapped; the values the pair was made from
    moments : (n_atoms, n_monomials(degree)) [e]
    pair : atoms and wave vectors as a backend arranged them
    degree : L, highest total exponent

    Returns
    -------
    (n_k, 2) [e], real and imaginary part
    """
    return _FourierSum.apply(fractional, moments, pair, degree)  # type: ignore[no-any-return, no-untyped-call]


def fourier_gather(fractional: Tensor, amplitudes: Tensor, pair: AdjointPair, degree: int) -> Tensor:
    """Return the type 2 sum of ``amplitudes`` (n_k, 2), shape (n_atoms, n_monomials(degree))."""
    return _FourierGather.apply(fractional, amplitudes, pair, degree)  # type: ignore[no-any-return, no-untyped-call]


class _FourierSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fractional: Tensor, moments: Tensor, pair: AdjointPair, degree: int) -> Tensor:
        ctx.save_for_backward(fractional, moments)
        ctx.pair, ctx.degree = pair, degree
        return pair.sum(moments, degree)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        fractional, moments = ctx.saved_tensors
        if not ctx.needs_input_grad[0]:
            return None, fourier_gather(fractional, gradient, ctx.pair, ctx.degree), None, None
        gathered = fourier_gather(fractional, gradient, ctx.pair, ctx.degree + 1)
        by_position = raise_and_contract(moments, gathered, ctx.degree)
        return by_position, kept(gathered, ctx.degree), None, None


class _FourierGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fractional: Tensor, amplitudes: Tensor, pair: AdjointPair, degree: int) -> Tensor:
        ctx.save_for_backward(fractional, amplitudes)
        ctx.pair, ctx.degree = pair, degree
        return pair.gather(amplitudes, degree)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        fractional, amplitudes = ctx.saved_tensors
        by_position = by_amplitude = None
        if ctx.needs_input_grad[0]:
            gathered = fourier_gather(fractional, amplitudes, ctx.pair, ctx.degree + 1)
            by_position = raise_and_contract(gradient, gathered, ctx.degree)
        if ctx.needs_input_grad[1]:
            by_amplitude = fourier_sum(fractional, gradient, ctx.pair, ctx.degree)
        return by_position, by_amplitude, None, None


def kept(values: Tensor, degree: int) -> Tensor:
    """Return those columns of degree L + 1 (n_atoms, n_monomials(L + 1)) that are columns of degree L."""
    return values.index_select(1, _columns(degree, values.device)[0])


def raise_and_contract(moments: Tensor, gathered: Tensor, degree: int) -> Tensor:
    """Return ``Σ_abc m^abc v^(abc + e_x)`` for x = 1, 2, 3: the derivative by position, (n_atoms, 3)."""
    raised = gathered.index_select(1, _columns(degree, gathered.device)[1])
    return (raised.reshape(moments.shape[0], 3, -1) * moments[:, None, :]).sum(-1)


def _columns(degree: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the places, among the monomials of degree L + 1, of those of degree L.

    First as they are, then with one axis' exponent raised by one, all of them per axis.
    """
    # a tensor made while a graph is captured must not outlive it
    return (_made_columns if capturing() else _kept_columns)(degree, device)


def _made_columns(degree: int, device: torch.device) -> tuple[Tensor, Tensor]:
    lower, higher = monomials(degree), monomials(degree + 1)
    steps = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    raised = [higher.index((a + x, b + y, c + z)) for x, y, z in steps for a, b, c in lower]
    same = [higher.index(exponents) for exponents in lower]
    return torch.tensor(same, device=device), torch.tensor(raised, device=device)


_kept_columns = constant(_made_columns)
