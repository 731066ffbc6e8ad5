"""The hidden layers of a radial network and their derivatives w.r.t. the length of the edge.

These are forward-mode tangents: the derivative of the radial basis goes through the network along with its
value. Arrays hold layers first and rows last, ``(width, n_rows)``: products of few long rows are twice as
fast as those of many short ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lsf.machine.tracing import recording
from lsf.models.message_passing.native.radial import rows_at_once


def hidden_with_derivative(basis: Tensor, slopes: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the last hidden layer of a basis ``(n_radial, n_rows)``, and its derivative w.r.t. the length.

    ``slopes`` (n_radial, n_rows) are those of the basis. Both results are ``(width, n_rows)``, and
    differentiable once, w.r.t. the weights.
    """
    if not recording():
        found: tuple[Tensor, Tensor] = _Hidden.apply(basis, slopes, *weights)
        return found
    for weight in weights:
        before = weight.T @ basis
        sigmoid = torch.sigmoid(before)
        basis = before * sigmoid
        slopes = (weight.T @ slopes) * (sigmoid + basis * (1.0 - sigmoid))
    return basis, slopes


class _Hidden(torch.autograd.Function):
    r"""The same, with its derivatives written out.

    A layer takes a value x and a tangent x' to :math:`z = W^T x`, :math:`z' = W^T x'`, :math:`a =
    \mathrm{silu}(z) = z s` with :math:`s = \sigma(z)`, and :math:`a' = d\, z'`. The derivatives of silu are
    :math:`d = s + a (1 - s)` and :math:`d_z = (1 - s)(2 d - a)`. The gradient goes back as :math:`\bar z' =
    d\, \bar a'`, :math:`\bar z = d\, \bar a + d_z z' \bar a'`, :math:`\bar W = x \bar z^T + x' \bar z'^T`.
    Kept are a, s, z' and a'.
    """

    @staticmethod
    def forward(ctx: Any, basis: Tensor, slopes: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        n_rows = basis.shape[1]
        layers = [[basis.new_empty((weight.shape[1], n_rows)) for _ in range(4)] for weight in weights]
        for rows in rows_at_once(n_rows, weights):
            value, slope = basis[:, rows], slopes[:, rows]
            for weight, layer in zip(weights, layers, strict=True):
                a, s, before, after = (part[:, rows] for part in layer)
                torch.mm(weight.T, value, out=a)
                torch.sigmoid(a, out=s)
                torch.mm(weight.T, slope, out=before)
                a.mul_(s)
                torch.mul(before, _derivative(a, s), out=after)
                value, slope = a, after
        ctx.n_weights = len(weights)
        # the node itself must not hold its results, which hold the node
        last = layers[-1]
        value, slope = last[0].detach(), last[3].detach()
        ctx.save_for_backward(*weights, basis, slopes, *(part for layer in layers for part in layer))
        return value, slope

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_value: Tensor, by_slope: Tensor) -> tuple[Any, ...]:
        weights = ctx.saved_tensors[: ctx.n_weights]
        basis, slopes, *parts = ctx.saved_tensors[ctx.n_weights :]
        layers = [parts[first : first + 4] for first in range(0, len(parts), 4)]
        inputs = [(basis, slopes), *((layer[0], layer[3]) for layer in layers[:-1])]
        by_weights = [torch.zeros_like(weight) for weight in weights]
        for rows in rows_at_once(basis.shape[1], weights):
            by_a, by_after = by_value[:, rows], by_slope[:, rows]
            for number in reversed(range(len(weights))):
                a, s, before, _ = (part[:, rows] for part in layers[number])
                derivative = _derivative(a, s)
                by_before = by_after * derivative  # of z'
                by_z = torch.sub(a, derivative, alpha=2.0).mul_(s - 1.0)  # (1 - s)(2 d - a)
                by_z.mul_(before).mul_(by_after).addcmul_(by_a, derivative)  # … z' ā' + d ā
                value, slope = (part[:, rows] for part in inputs[number])
                by_weights[number].addmm_(value, by_z.T).addmm_(slope, by_before.T)
                if number:
                    by_a, by_after = weights[number] @ by_z, weights[number] @ by_before
        return None, None, *by_weights


def _derivative(a: Tensor, s: Tensor) -> Tensor:
    """Return the derivative of silu, ``s + a (1 - s)``."""
    return torch.add(s, a).addcmul_(a, s, value=-1.0)
