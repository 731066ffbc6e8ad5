"""The hidden layers of the radial network on some edges, with derivatives written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

_silu_backward = torch.ops.aten.silu_backward

CHUNK_BYTES: Final = {"cpu": 1 << 19, "cuda": 1 << 30}
"""Memory of one layer's values at a time, so that they stay in the cache. On a GPU, few large chunks."""


class HiddenLayers:
    r"""``a_l = silu(a_{l-1} W_l)``; values are kept for the derivatives of the same edges.

    All scales stand in the weights. With :math:`s = \sigma(z)`, the derivatives of silu are
    :math:`s\,(1 + z (1 - s))` and :math:`s (1 - s) (2 + z (1 - 2 s))`.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.weights = weights
        self.before: list[Tensor] = []  # what silu acts on, layer by layer
        self.after: list[Tensor] = []  # input of every layer
        self.tangents_before: list[Tensor] = []
        self.tangents_after: list[Tensor] = []

    def forward(self, basis: Tensor) -> Tensor:
        """Return the last hidden layer ``(n, width)`` of ``(n, n_radial)``."""
        value = basis
        for weight in self.weights:
            self.after.append(value)
            self.before.append(value @ weight)
            value = torch.nn.functional.silu(self.before[-1])
        return value

    def backward(self, grad: Tensor, by_weight: list[Tensor], basis: bool = True) -> Tensor:
        """Return the gradient of the basis; add those of the weights to ``by_weight``, unless empty."""
        for layer in reversed(range(len(self.weights))):
            grad = _silu_backward(grad, self.before[layer])
            if by_weight:
                by_weight[layer].addmm_(self.after[layer].T, grad)
            if layer == 0 and not basis:
                break
            grad = grad @ self.weights[layer].T
        return grad

    def tangent(self, basis: Tensor) -> Tensor:
        """Return the tangent of the last hidden layer for a tangent of the basis."""
        self.tangents_before, self.tangents_after = [], []
        value = basis
        for weight, before in zip(self.weights, self.before, strict=True):
            self.tangents_after.append(value)
            self.tangents_before.append(value @ weight)
            value = _silu_backward(self.tangents_before[-1], before)
        return value

    def second(self, by_value: Tensor, by_tangent: Tensor, by_weight: list[Tensor], basis: bool) -> Tensor:
        """Return the gradient of the basis, given those of last hidden layer and its tangent."""
        for layer in reversed(range(len(self.weights))):
            before, weight = self.before[layer], self.weights[layer]
            s = torch.sigmoid(before)
            curvature = torch.addcmul(torch.full_like(s, 2.0), before, 1.0 - 2.0 * s).mul_(s).mul_(1.0 - s)
            curvature.mul_(self.tangents_before[layer]).mul_(by_tangent)
            by_before = _silu_backward(by_value, before).add_(curvature)
            by_tangent_before = _silu_backward(by_tangent, before)
            by_weight[layer].addmm_(self.after[layer].T, by_before)
            by_weight[layer].addmm_(self.tangents_after[layer].T, by_tangent_before)
            if layer == 0 and not basis:
                break
            by_value, by_tangent = by_before @ weight.T, by_tangent_before @ weight.T
        return by_value


class HiddenRows:
    """The hidden layers of all rows of a basis, some rows at a time.

    ``last`` (n_rows, width) are the values of the last one.
    """

    def __init__(self, basis: Tensor, weights: Sequence[Tensor]) -> None:
        widest = max(weight.shape[1] for weight in weights)
        limit = CHUNK_BYTES.get(basis.device.type, CHUNK_BYTES["cuda"])
        step = max(1, limit // (widest * basis.element_size()))
        self._chunks: list[tuple[slice, HiddenLayers]] = []
        parts = []
        for first in range(0, len(basis), step):
            layers = HiddenLayers(weights)
            rows = slice(first, first + step)
            parts.append(layers.forward(basis[rows]))
            self._chunks.append((rows, layers))
        self.last = torch.cat(parts)

    def backward(self, grad: Tensor, by_weight: list[Tensor], out: Tensor) -> None:
        """Write the gradient of the basis; add those of the weights to ``by_weight``, unless empty."""
        for rows, layers in self._chunks:
            by_basis = layers.backward(grad[rows], by_weight, bool(out.numel()))
            if out.numel():
                out[rows] = by_basis

    def tangent(self, basis: Tensor) -> Tensor:
        """Return the tangent of the last hidden layer for a tangent of the basis."""
        return torch.cat([layers.tangent(basis[rows]) for rows, layers in self._chunks])

    def second(self, by_value: Tensor, by_tangent: Tensor, by_weight: list[Tensor], out: Tensor) -> None:
        """Write the gradient of the basis, given those of last hidden layer and its tangent."""
        for rows, layers in self._chunks:
            by_basis = layers.second(by_value[rows], by_tangent[rows], by_weight, bool(out.numel()))
            if out.numel():
                out[rows] = by_basis
