"""The hidden layers of the radial network on some edges, with first and second derivatives written out.

The network without bias is that of MACE, Batatia et al., arXiv:2206.07697, eq. (8): R = MLP(basis).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

_silu_backward = torch.ops.aten.silu_backward

CHUNK_BYTES: Final = {"cpu": 1 << 19, "cuda": 1 << 30}
"""Memory of one layer's values at a time, so that they stay in the cache. On a GPU, few large chunks."""


def rows_at_once(n_rows: int, weights: Sequence[Tensor]) -> list[slice]:
    """Return the rows of every chunk."""
    widest = max(weight.shape[1] for weight in weights)
    limit = CHUNK_BYTES.get(weights[0].device.type, CHUNK_BYTES["cuda"])
    step = max(1, limit // (widest * weights[0].element_size()))
    return [slice(first, first + step) for first in range(0, n_rows, step)]


class Tangents(NamedTuple):
    """Tangents of the hidden layers; ``last`` is that of the last one."""

    before: list[Tensor]  # dz, layer by layer
    after: list[Tensor]  # da of the inputs of every layer
    last: Tensor


class HiddenLayers:
    r"""``z_l = a_{l-1} W_l``, ``a_l = silu(z_l)``; values are kept for the derivatives of the same edges.

    All scales stand in the weights. With :math:`s = \sigma(z)` and :math:`a = \mathrm{silu}(z)`, the
    derivatives of silu are :math:`d = s\,(1 + z (1 - s))` and :math:`d_z = (1 - s) (2 d - a)`. Of a loss E,

    ==========  =============================================================================================
    gradient    ``∂E/∂z = d · ∂E/∂a``, ``∂E/∂a_{l-1} = ∂E/∂z Wᵀ``, ``∂E/∂W = a_{l-1}ᵀ ∂E/∂z``
    tangent     ``dz = da_{l-1} W``, ``da = d · dz``
    second      of a loss of a and da: ``∂E/∂dz = d · ∂E/∂da``, ``∂E/∂z = d · ∂E/∂a + d_z dz · ∂E/∂da``,
                ``∂E/∂W = a_{l-1}ᵀ ∂E/∂z + da_{l-1}ᵀ ∂E/∂dz``
    ==========  =============================================================================================
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.weights = weights
        self.before: list[Tensor] = []  # what silu acts on, layer by layer
        self.after: list[Tensor] = []  # input of every layer, and the last one's output
        self._slopes: list[Tensor] = []

    def forward(self, basis: Tensor) -> Tensor:
        """Return the last hidden layer ``(n, width)`` of ``(n, n_radial)``."""
        self.after.append(basis)
        for weight in self.weights:
            self.before.append(self.after[-1] @ weight)
            self.after.append(torch.nn.functional.silu(self.before[-1]))
        return self.after[-1]

    def fill(self) -> None:
        """Do the same in the memory of ``before`` and ``after``."""
        for layer, weight in enumerate(self.weights):
            torch.mm(self.after[layer], weight, out=self.before[layer])
            torch.ops.aten.silu.out(self.before[layer], out=self.after[layer + 1])

    def backward(
        self, grad: Tensor, by_weight: list[Tensor], basis: bool, kept: list[Tensor] | None = None
    ) -> Tensor:
        """Return the gradient of the basis, if that is asked for.

        Those of the weights are added to ``by_weight``, unless empty. ``kept`` takes those of every layer's
        output, the last layer first.
        """
        for layer in reversed(range(len(self.weights))):
            if kept is not None:
                kept.append(grad)
            grad = _silu_backward(grad, self.before[layer])
            if by_weight:
                by_weight[layer].addmm_(self.after[layer].T, grad)
            if layer or basis:
                grad = grad @ self.weights[layer].T
        return grad

    def tangent(self, basis: Tensor) -> Tangents:
        """Return the forward-mode tangents for one of the basis."""
        before, after = [], [basis]
        for weight, slope in zip(self.weights, self.slopes(), strict=True):
            before.append(after[-1] @ weight)
            after.append(before[-1] * slope)
        return Tangents(before, after[:-1], after[-1])

    def slopes(self) -> list[Tensor]:
        """Return the derivatives of silu, layer by layer."""
        if not self._slopes:
            one = self.before[0].new_ones(())
            self._slopes = [_silu_backward(one.expand_as(before), before) for before in self.before]
        return self._slopes

    def second(
        self,
        by_value: Tensor,
        by_tangent: Tensor | None,
        known: Sequence[Tensor] | None,
        tangents: Tangents,
        by_weight: list[Tensor],
        basis: bool,
    ) -> Tensor:
        """Return the gradient of the basis, if that is asked for; add those of the weights.

        Given are those of the last layer and of its tangent. Gradients of tangents are those that
        :meth:`backward` found for values: where it kept them, they are ``known``, and ``by_tangent`` is not
        needed.
        """
        for layer in reversed(range(len(self.weights))):
            if known is not None:
                by_tangent = known[-1 - layer]
            assert by_tangent is not None
            weight, slope = self.weights[layer], self.slopes()[layer]
            minus = torch.sigmoid(self.before[layer]).sub_(1.0)  # s - 1
            by_before = torch.sub(self.after[layer + 1], slope, alpha=2.0).mul_(minus)  # (1 - s) (2 d - a)
            # ∂E/∂z = d_z dz · ∂E/∂da + d · ∂E/∂a
            by_before.mul_(tangents.before[layer]).mul_(by_tangent).addcmul_(by_value, slope)
            by_tangent_before = torch.mul(by_tangent, slope, out=minus)  # ∂E/∂dz = d · ∂E/∂da
            by_weight[layer].addmm_(self.after[layer].T, by_before)
            by_weight[layer].addmm_(tangents.after[layer].T, by_tangent_before)
            if layer or basis:
                by_value = by_before @ weight.T
            if layer and known is None:
                by_tangent = by_tangent_before @ weight.T
        return by_value


class HiddenRows:
    """The hidden layers of all rows of a basis, some rows at a time.

    ``last`` (n_rows, width) are the values of the last one. ``values`` are those of all layers, before and
    after silu: they need not be computed where an earlier pass did so.
    """

    def __init__(self, basis: Tensor, weights: Sequence[Tensor], values: Sequence[Tensor] = ()) -> None:
        self.values = list(values) or [
            basis.new_empty((len(basis), weight.shape[1])) for weight in weights for _ in range(2)
        ]
        self.last = self.values[-1]
        self._chunks: list[tuple[slice, HiddenLayers]] = []
        for rows in rows_at_once(len(basis), weights):
            layers = HiddenLayers(weights)
            layers.before = [value[rows] for value in self.values[::2]]
            layers.after = [basis[rows], *(value[rows] for value in self.values[1::2])]
            if not values:
                layers.fill()
            self._chunks.append((rows, layers))

    def backward(
        self, grad: Tensor, by_weight: list[Tensor], out: Tensor, keep: bool
    ) -> list[list[Tensor]] | None:
        """Write the gradient of the basis unless ``out`` is empty; add those of the weights, unless empty.

        With ``keep``, return gradients of all layers for :meth:`second`.
        """
        kept: list[list[Tensor]] = []
        for rows, layers in self._chunks:
            kept.append([])
            by_basis = layers.backward(grad[rows], by_weight, out.numel() > 0, kept[-1] if keep else None)
            if out.numel():
                out[rows] = by_basis
        return kept if keep else None

    def tangent(self, basis: Tensor) -> tuple[Tensor, list[Tangents]]:
        """Return the tangent of the last hidden layer for a tangent of the basis, and those of all."""
        tangents = [layers.tangent(basis[rows]) for rows, layers in self._chunks]
        return torch.cat([part.last for part in tangents]), tangents

    def second(
        self,
        by_value: Tensor,
        by_tangent: Tensor | None,
        known: list[list[Tensor]] | None,
        tangents: list[Tangents],
        by_weight: list[Tensor],
        out: Tensor,
    ) -> None:
        """Write the gradient of the basis unless ``out`` is empty; add those of the weights.

        Either ``by_tangent`` is given, or what :meth:`backward` kept is ``known``.
        """
        for chunk, (rows, layers) in enumerate(self._chunks):
            given = None if by_tangent is None else by_tangent[rows]
            kept = None if known is None else known[chunk]
            by_basis = layers.second(by_value[rows], given, kept, tangents[chunk], by_weight, out.numel() > 0)
            if out.numel():
                out[rows] = by_basis
