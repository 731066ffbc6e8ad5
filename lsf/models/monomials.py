"""Monomials of second degree: products of pairs of rows, differentiable to any order and sparing memory.

The monomials of the symmetric contraction are products ``A_a(k) A_b(k)`` of components A, with index lists a
and b over the pairs k. Two bilinear forms are closed under differentiation,

    P(x, y)_k = x_a(k) y_b(k) + y_a(k) x_b(k)                                              (polarization)
    S(x, g)_i = Σ_k g_k (δ_i,a(k) x_b(k) + δ_i,b(k) x_a(k))                                (transpose)

by ``<g, P(x, y)> = <y, S(x, g)> = <x, S(y, g)>``. Hence the monomials, P(x, x)/2, have the gradient S(x, g)
for a gradient g, and the second derivatives are, with a cotangent v,

    ∂<v, S(x, g)>/∂x = S(v, g)            ∂<v, S(x, g)>/∂g = P(x, v)

Autograd's own record of ``x[a] * x[b]`` holds both factors, several times the size of x; here x is kept once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from lsf.machine.tracing import recording, scripting

LARGE_ROW: Final = 2**12
"""On a CPU, copying rows of at least so many numbers costs more than a call for every run of pairs."""


class Run(NamedTuple):
    """Pairs ``k`` of row ``one`` with consecutive ``others``."""

    one: int
    others: slice
    k: slice


class IndexPairs(NamedTuple):
    """Pairs of rows: two index lists (n_pairs,) int64, and the same in runs."""

    first: Tensor
    second: Tensor
    runs: tuple[Run, ...]


def runs_of(first: Sequence[int], second: Sequence[int]) -> tuple[Run, ...]:
    """Return the pairs of two index lists in runs as long as can be; a product has no order."""
    runs: list[Run] = []
    k = 0
    while k < len(first):
        best = Run(first[k], slice(second[k], second[k] + 1), slice(k, k + 1))
        for ones, others in ((first, second), (second, first)):
            end = k + 1
            while end < len(first) and ones[end] == ones[k] and others[end] == others[end - 1] + 1:
                end += 1
            if end > best.k.stop:
                best = Run(ones[k], slice(others[k], others[k] + end - k), slice(k, end))
        runs.append(best)
        k = best.k.stop
    return tuple(runs)


def recorded() -> bool:
    """Say whether operations are being recorded, by TorchScript or as a graph: then they are basic ones."""
    return scripting() or recording()


def chosen(rows: Tensor, index: Tensor) -> Tensor:
    """Return some rows of ``(n, …)``, a few hundred at most."""
    if not recording():
        return rows.index_select(0, index)
    found: Tensor = _Chosen.apply(rows.flatten(1), index)
    return found.reshape(-1, *rows.shape[1:])


class _Chosen(torch.autograd.Function):
    """Rows ``(n, m)``; the gradient is a product with ones and zeros, which in a graph costs less than sums
    into rows that indices name.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.n_rows = rows.shape[0]
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        every = torch.arange(ctx.n_rows, device=index.device).unsqueeze(1)
        return (every == index).to(grad.dtype) @ grad, None


def pair_products(rows: Tensor, pairs: IndexPairs) -> Tensor:
    """Return ``x_a(k) x_b(k)``, ``(n_pairs, …)`` of rows ``(n, …)``."""
    if recorded():
        return chosen(rows, pairs.first) * chosen(rows, pairs.second)
    product: Tensor = _Square.apply(rows, pairs)
    return product


def _in_runs(rows: Tensor) -> bool:
    return rows.device.type == "cpu" and rows[0].numel() >= LARGE_ROW


def _square(x: Tensor, pairs: IndexPairs) -> Tensor:
    """Return ``P(x, x)/2``, ``x_a(k) x_b(k)``."""
    if not _in_runs(x):
        return x.index_select(0, pairs.first).mul_(x.index_select(0, pairs.second))
    product = x.new_empty((len(pairs.first), *x.shape[1:]))
    for one, others, k in pairs.runs:
        torch.mul(x[others], x[one], out=product[k])
    return product


def _polar(x: Tensor, y: Tensor, pairs: IndexPairs) -> Tensor:
    """Return ``P(x, y)``."""
    first, second, runs = pairs
    if _in_runs(x):
        product = x.new_empty((len(first), *x.shape[1:]))
        for one, others, k in runs:
            torch.mul(x[others], y[one], out=product[k]).addcmul_(y[others], x[one])
        return product
    product = x.index_select(0, first).mul_(y.index_select(0, second))
    return product.addcmul_(y.index_select(0, first), x.index_select(0, second))


def _transpose(x: Tensor, grad: Tensor, pairs: IndexPairs) -> Tensor:
    """Return ``S(x, grad)``."""
    first, second, runs = pairs
    result = torch.zeros_like(x)
    if _in_runs(x):
        for one, others, k in runs:
            result[others].addcmul_(grad[k], x[one])
            for other, row in zip(range(others.start, others.stop), range(k.start, k.stop), strict=True):
                result[one].addcmul_(grad[row], x[other])
        return result
    result.index_add_(0, first, x.index_select(0, second).mul_(grad))
    return result.index_add_(0, second, x.index_select(0, first).mul_(grad))


class _Square(torch.autograd.Function):
    """``P(x, x)/2``, whose gradient is ``S(x, g)``."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, pairs: IndexPairs) -> Tensor:
        ctx.pairs = pairs
        ctx.save_for_backward(rows)
        return _square(rows, pairs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return _Transpose.apply(rows, grad, ctx.pairs), None


class _Polar(torch.autograd.Function):
    """``P(x, y)``, with ``∂<g, P>/∂x = S(y, g)`` and ``∂<g, P>/∂y = S(x, g)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, pairs: IndexPairs) -> Tensor:
        ctx.pairs = pairs
        ctx.save_for_backward(x, y)
        return _polar(x, y, pairs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, y = ctx.saved_tensors
        return _Transpose.apply(y, grad, ctx.pairs), _Transpose.apply(x, grad, ctx.pairs), None


class _Transpose(torch.autograd.Function):
    """``S(x, g)``, with ``∂<v, S>/∂x = S(v, g)`` and ``∂<v, S>/∂g = P(x, v)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grad: Tensor, pairs: IndexPairs) -> Tensor:
        ctx.pairs = pairs
        ctx.save_for_backward(x, grad)
        return _transpose(x, grad, pairs)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor, None]:
        x, grad = ctx.saved_tensors
        return _Transpose.apply(cotangent, grad, ctx.pairs), _Polar.apply(x, cotangent, ctx.pairs), None
