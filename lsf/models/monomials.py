"""Products of pairs of rows, differentiable to any order without keeping a row more than once.

With index lists a and b, ``P(x, y)_k = x_a(k) y_b(k) + y_a(k) x_b(k)`` and its transpose
``S(x, g)_i = Σ_k g_k (δ_i,a(k) x_b(k) + δ_i,b(k) x_a(k))`` are each other's derivatives. Autograd's own
record of ``x[a] * x[b]`` holds both factors, several times the size of x.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lsf.electrostatics.backends import recording

Pairs = tuple[Tensor, Tensor]


def recorded() -> bool:
    """Say whether operations are being recorded, by TorchScript or as a graph: then they are basic ones."""
    return torch.jit.is_tracing() or recording()  # type: ignore[attr-defined]


def pair_products(rows: Tensor, pairs: Pairs) -> Tensor:
    """Return ``x_a(k) x_b(k)``, ``(n_pairs, …)`` of rows ``(n, …)``."""
    if recorded():
        return rows.index_select(0, pairs[0]) * rows.index_select(0, pairs[1])
    product: Tensor = _Square.apply(rows, pairs)
    return product


def _polar(x: Tensor, y: Tensor, pairs: Pairs) -> Tensor:
    first, second = pairs
    product = x.index_select(0, first).mul_(y.index_select(0, second))
    return product.addcmul_(y.index_select(0, first), x.index_select(0, second))


def _transpose(x: Tensor, grad: Tensor, pairs: Pairs) -> Tensor:
    first, second = pairs
    result = torch.zeros_like(x)
    result.index_add_(0, first, x.index_select(0, second).mul_(grad))
    return result.index_add_(0, second, x.index_select(0, first).mul_(grad))


class _Square(torch.autograd.Function):
    """``P(x, x)/2``, whose gradient is ``S(x, g)``."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, pairs: Pairs) -> Tensor:
        ctx.pairs = pairs
        ctx.save_for_backward(rows)
        return rows.index_select(0, pairs[0]).mul_(rows.index_select(0, pairs[1]))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return _Transpose.apply(rows, grad, ctx.pairs), None


class _Polar(torch.autograd.Function):
    """``P(x, y)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, pairs: Pairs) -> Tensor:
        ctx.pairs = pairs
        ctx.save_for_backward(x, y)
        return _polar(x, y, pairs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, y = ctx.saved_tensors
        return _Transpose.apply(y, grad, ctx.pairs), _Transpose.apply(x, grad, ctx.pairs), None


class _Transpose(torch.autograd.Function):
    """``S(x, g)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grad: Tensor, pairs: Pairs) -> Tensor:
        ctx.pairs = pairs
        ctx.save_for_backward(x, grad)
        return _transpose(x, grad, pairs)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor, None]:
        x, grad = ctx.saved_tensors
        return _Transpose.apply(cotangent, grad, ctx.pairs), _Polar.apply(x, cotangent, ctx.pairs), None
