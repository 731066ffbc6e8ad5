r"""The two neighbour sums of a layer, block by block, with every derivative written out.

Index roles in the comments: i receiver, e edge of i with sender s(e), p path of a group (l1, l2), m1
component of a feature, m2 component of a harmonic, c channel, a hidden unit of the radial network, z element.
Names:

=====  ====================================================================================================
Y, H   harmonics [e, m2] and last hidden layer of the radial network [e, a]
W, R   last radial weights [a, (p, c)] and radial weights of the paths, R = H W, [e, p, c]
h      features of the sender [e, m1, c]
d…     tangent: dY, dH, dh are given, dR = dH W; W has none, forces being derivatives w.r.t. positions
g, dg  gradients: of the tangents dS, and of the sums S themselves
=====  ====================================================================================================

The forward formulas are eq. (8) of Batatia et al., arXiv:2206.07697, before Clebsch–Gordan coupling, which is
done on the atoms (:mod:`lsf.models.message_passing.native.groups`). Gradients and tangents follow from them
by the product rule: each sum is linear in Y, R and h.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lsf.machine.caches import Scratch
from lsf.models.message_passing.native.blocks import Block, EdgeBlocks
from lsf.models.message_passing.native.blockwise import BlockwiseSum, Grads, Inputs, Point
from lsf.models.message_passing.native.groups import Group, uncoupled_sums


class MessageSum(BlockwiseSum):
    """``B_i[m2, p, m1, c] = Σ_e Y[e, m2] R[e, p, c] h[s(e), m1, c]``, for every group of paths."""

    def __init__(
        self, blocks: EdgeBlocks, groups: tuple[Group, ...], n_channels: int, keep: bool = False
    ) -> None:
        super().__init__(blocks, keep)
        self.groups, self.n_channels = groups, n_channels
        self._held: Scratch | None = None
        self._kept_tangent: tuple[Inputs | None, Tensor | None] = None, None

    def shapes(self, inputs: Inputs) -> list[tuple[int, ...]]:
        """Return per group ``(n_atoms, 2 l2 + 1, paths · (2 l1 + 1) · n_channels)``."""
        n_atoms = inputs.features.shape[0]
        return [(n_atoms, 2 * g.l2 + 1, g.paths * g.size * self.n_channels) for g in self.groups]

    def kept_memory(self, inputs: Inputs) -> list[Tensor]:
        """Return memory for the radial weights of all slots."""
        return [inputs.last.new_empty((inputs.harmonics.shape[0], inputs.last.shape[1]))]

    def forward_block(self, block: Block, hidden: Tensor, inputs: Inputs, out: Sequence[Tensor]) -> None:
        """Write the sums of a block."""
        scratch = self._scratch(hidden)
        radial = self._weights(block, hidden, inputs.last, True)
        features = self._gather("features", inputs.features, block)
        for group, result in zip(self.groups, out, strict=True):
            message = self._message(scratch, group, radial)
            torch.mul(self._view(radial, group), self._of(features, group), out=message)  # R h [e, p, m1, c]
            y = self._angular(inputs, block, group)  # [i, e, m2]
            torch.bmm(y.mT, self._rows(message, block), out=result[block.atoms])  # Σ_e Y (R h)

    def backward_block(
        self, block: Block, hidden: Tensor, inputs: Inputs, grad: Sequence[Tensor], into: Inputs
    ) -> Tensor:
        """Write the gradients of ``<g, B>`` of a block."""
        scratch = self._scratch(hidden)
        radial = self._weights(block, hidden, inputs.last)
        features = self._gather("features", inputs.features, block)
        by_radial = scratch("by_radial", *radial.shape)
        by_features, begun = self._by_features(scratch, features), set[int]()
        for group, given in zip(self.groups, grad, strict=True):
            r, h = self._view(radial, group), self._of(features, group)
            y, g = self._angular(inputs, block, group), given[block.atoms]
            message = torch.mul(r, h, out=self._message(scratch, group, radial))
            if into.harmonics.numel():
                # ∂/∂Y[e, m2] = Σ_{p m1 c} (R h)[e, p, m1, c] g[i, m2, p, m1, c]
                self._angular(into, block, group).add_(torch.bmm(self._rows(message, block), g.mT))
            by_message = message  # its values have been used
            # u[e, p, m1, c] = Σ_m2 Y[e, m2] g[i, m2, p, m1, c], the gradient of R h
            torch.bmm(y, g, out=self._rows(by_message, block))
            # ∂/∂R[e, p, c] = Σ_m1 u h;   ∂/∂h[e, m1, c] = Σ_p u R
            _sum_over_components(self._view(by_radial, group), [(by_message, h)])
            _sum_over_paths(self._of(by_features, group), [(by_message, r)], group.l1 in begun)
            begun.add(group.l1)
        self._scatter(by_features, into.features, block)
        if into.last.numel():
            into.last.addmm_(hidden.T, by_radial)  # ∂/∂W = Hᵀ ∂/∂R
        return by_radial @ inputs.last.T  # ∂/∂H = ∂/∂R Wᵀ

    def tangents_block(self, block: Block, at: Point, along: Point, out: Sequence[Tensor]) -> None:
        """Write the forward-mode tangents of a block, ``dB = Σ_e dY (R h) + Y (dR h + R dh)``."""
        scratch = self._scratch(at.hidden)
        radial = self._weights(block, at.hidden, at.inputs.last)
        radial_tangent = self._tangent_weights(block, along.hidden, at.inputs, along.inputs, True)
        features = self._gather("features", at.inputs.features, block)
        features_tangent = self._gather("features_tangent", along.inputs.features, block)
        for group, result in zip(self.groups, out, strict=True):
            r, dr = self._view(radial, group), self._view(radial_tangent, group)
            h, dh = self._of(features, group), self._of(features_tangent, group)
            y, dy = self._angular(at.inputs, block, group), self._angular(along.inputs, block, group)
            message = torch.mul(r, h, out=self._message(scratch, group, radial))
            torch.bmm(dy.mT, self._rows(message, block), out=result[block.atoms])
            message = torch.mul(dr, h, out=message).addcmul_(r, dh)
            result[block.atoms].baddbmm_(y.mT, self._rows(message, block))

    def second_block(
        self, block: Block, at: Point, along: Point, grads: Grads, into: Inputs, tangents_too: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Write the gradients of ``<g, dB> + <dg, B>`` of a block, with dB as in :meth:`tangents_block`."""
        scratch = self._scratch(at.hidden)
        radial = self._weights(block, at.hidden, at.inputs.last)
        radial_tangent = self._tangent_weights(block, along.hidden, at.inputs, along.inputs, False)
        features = self._gather("features", at.inputs.features, block)
        features_tangent = self._gather("features_tangent", along.inputs.features, block)
        by_radial, by_tangent = (scratch(name, *radial.shape) for name in ("by_radial", "by_tangent"))
        by_features, begun = self._by_features(scratch, features), set[int]()
        for group, first, given in zip(self.groups, *grads, strict=True):
            r, dr = self._view(radial, group), self._view(radial_tangent, group)
            h, dh = self._of(features, group), self._of(features_tangent, group)
            y, dy = self._angular(at.inputs, block, group), self._angular(along.inputs, block, group)
            g, dg = first[block.atoms], given[block.atoms]
            u = self._message(scratch, group, radial)
            if into.harmonics.numel():
                # ∂/∂Y[e, m2] = Σ_{p m1 c} (R h) dg + (dR h + R dh) g
                by_y = self._angular(into, block, group)
                by_y.add_(torch.bmm(self._rows(torch.mul(r, h, out=u), block), dg.mT))
                by_y.add_(torch.bmm(self._rows(torch.mul(dr, h, out=u).addcmul_(r, dh), block), g.mT))
            # u[e, p, m1, c] = Σ_m2 Y g, the gradient of dR h + R dh
            torch.bmm(y, g, out=self._rows(u, block))
            # w[e, p, m1, c] = Σ_m2 dY g + Y dg, the gradient of R h: one product of columns side by side
            w = scratch("other", *u.shape)
            torch.bmm(torch.cat((dy, y), 2), torch.cat((g, dg), 1), out=self._rows(w, block))
            # ∂/∂R[e, p, c] = Σ_m1 u dh + w h;   ∂/∂dR = Σ_m1 u h
            _sum_over_components(self._view(by_radial, group), [(u, dh), (w, h)])
            _sum_over_components(self._view(by_tangent, group), [(u, h)])
            # ∂/∂h[e, m1, c] = Σ_p u dR + w R
            _sum_over_paths(self._of(by_features, group), [(u, dr), (w, r)], group.l1 in begun)
            begun.add(group.l1)
        self._scatter(by_features, into.features, block)
        # ∂/∂W = Hᵀ ∂/∂R + dHᵀ ∂/∂dR;   ∂/∂H = ∂/∂R Wᵀ;   ∂/∂dH = ∂/∂dR Wᵀ
        into.last.addmm_(at.hidden.T, by_radial).addmm_(along.hidden.T, by_tangent)
        return by_radial @ at.inputs.last.T, by_tangent @ at.inputs.last.T if tangents_too else None

    def sums_of_hidden(self, inputs: Inputs, hidden: Tensor) -> list[Tensor]:
        """Return the sums by differentiable operations."""
        features = torch.nn.functional.embedding(self.blocks.tables.sender_of_slot, inputs.features)
        features = features.view(features.shape[0], -1, self.n_channels)
        last = inputs.last.view(inputs.last.shape[0], -1, self.n_channels)
        return uncoupled_sums(self.groups, hidden, last, features, inputs.harmonics, self.blocks.summed)

    def _scratch(self, like: Tensor) -> Scratch:
        if self._held is None:
            self._held = Scratch(like)
        return self._held

    def _weights(self, block: Block, hidden: Tensor, last: Tensor, first: bool = False) -> Tensor:
        """Return the radial weights of a block's paths, from the ``first`` pass if they are kept."""
        if not self.keep:
            return self._radial("radial", hidden, last)
        rows = self.kept[-1][block.slots]
        return torch.mm(hidden, last, out=rows) if first else rows

    def _tangent_weights(
        self, block: Block, hidden: Tensor, inputs: Inputs, tangents: Inputs, first: bool
    ) -> Tensor:
        """Return their tangents, from the ``first`` of two passes if they are kept."""
        known, memory = self._kept_tangent
        if first and self.keep and known is not tangents:
            (memory,) = self.kept_memory(inputs)
            self._kept_tangent = known, memory = tangents, memory
        # another pass may have put its own in their place
        if memory is None or known is not tangents:
            return self._radial("radial_tangent", hidden, inputs.last)
        rows = memory[block.slots]
        return torch.mm(hidden, inputs.last, out=rows) if first else rows

    def _radial(self, name: str, hidden: Tensor, last: Tensor) -> Tensor:
        out = self._scratch(hidden)(name, hidden.shape[0], last.shape[1])
        return torch.mm(hidden, last, out=out)

    def _gather(self, name: str, features: Tensor, block: Block) -> Tensor:
        senders = self.blocks.tables.sender_of_slot[block.slots]
        out = self._scratch(features)(name, senders.shape[0], features.shape[1])
        return torch.index_select(features, 0, senders, out=out).view(out.shape[0], -1, self.n_channels)

    def _by_features(self, scratch: Scratch, features: Tensor) -> Tensor:
        """Return memory for the gradients of gathered features; zero what no group will write."""
        by_features = scratch("by_features", *features.shape)
        written = {group.l1: group.size for group in self.groups}
        return by_features if sum(written.values()) == features.shape[1] else by_features.zero_()

    def _scatter(self, by_features: Tensor, into: Tensor, block: Block) -> None:
        """Add the gradients of gathered features to those of the senders."""
        into.index_add_(0, self.blocks.tables.sender_of_slot[block.slots], by_features.flatten(1))

    def _message(self, scratch: Scratch, group: Group, radial: Tensor) -> Tensor:
        return scratch("message", radial.shape[0], group.paths, group.size, self.n_channels)

    def _view(self, radial: Tensor, group: Group) -> Tensor:
        """Columns of a group as ``(n, paths, 1, n_channels)``."""
        columns = radial.view(radial.shape[0], -1, 1, self.n_channels)
        return columns[:, group.column : group.column + group.paths]

    def _of(self, features: Tensor, group: Group) -> Tensor:
        """Components of a group's features as ``(n, 1, 2 l1 + 1, n_channels)``."""
        return features[:, group.component : group.component + group.size].unsqueeze(1)

    def _rows(self, message: Tensor, block: Block) -> Tensor:
        return message.view(block.n_atoms, block.width, -1)

    def _angular(self, inputs: Inputs, block: Block, group: Group) -> Tensor:
        rows = inputs.harmonics[block.slots].view(block.n_atoms, block.width, -1)
        return rows[:, :, group.angular]


class ElementSum(BlockwiseSum):
    """``D_i[z, lm, a] = Σ_e δ(z, z_s(e)) Y[e, lm] H[e, a]``: all a first layer needs of its edges.

    Senders' features depend on their element alone there, so that they and the last radial weights can be
    applied after the sum (:mod:`lsf.models.message_passing.native.by_element`). ``elements`` (n_slots,
    n_elements) holds δ(z, z_s(e)); ``width`` is that of the last hidden layer. Below, y stands for δ Y.
    """

    def __init__(
        self, blocks: EdgeBlocks, elements: Tensor, n_atoms: int, width: int, keep: bool = False
    ) -> None:
        super().__init__(blocks, keep)
        self.elements = elements
        self.n_atoms, self.width = n_atoms, width

    def shapes(self, inputs: Inputs) -> list[tuple[int, ...]]:
        """Return ``(n_atoms, n_elements · (max_ell + 1)², width)``."""
        return [(self.n_atoms, self.elements.shape[1] * inputs.harmonics.shape[1], self.width)]

    def forward_block(self, block: Block, hidden: Tensor, inputs: Inputs, out: Sequence[Tensor]) -> None:
        """Write the sums of a block."""
        y = self._by_element(inputs.harmonics, block)
        torch.bmm(y.mT, self._rows(hidden, block), out=out[0][block.atoms])  # Σ_e y H

    def backward_block(
        self, block: Block, hidden: Tensor, inputs: Inputs, grad: Sequence[Tensor], into: Inputs
    ) -> Tensor:
        """Write the gradients of ``<g, D>`` of a block."""
        g = grad[0][block.atoms]  # [i, (z, lm), a]
        self._write(into, block, [(hidden, g)])  # ∂/∂y[e, z, lm] = Σ_a H g
        # ∂/∂H[e, a] = Σ_{z lm} y g
        return torch.bmm(self._by_element(inputs.harmonics, block), g).flatten(0, 1)

    def tangents_block(self, block: Block, at: Point, along: Point, out: Sequence[Tensor]) -> None:
        """Write the forward-mode tangents of a block, ``dD = Σ_e y dH + dy H``."""
        y, dy = self._by_element(at.inputs.harmonics, block), self._by_element(along.inputs.harmonics, block)
        torch.bmm(y.mT, self._rows(along.hidden, block), out=out[0][block.atoms])
        out[0][block.atoms].baddbmm_(dy.mT, self._rows(at.hidden, block))

    def second_block(
        self, block: Block, at: Point, along: Point, grads: Grads, into: Inputs, tangents_too: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Write the gradients of ``<g, dD> + <dg, D>`` of a block."""
        g, dg = grads[0][0][block.atoms], grads[1][0][block.atoms]
        y, dy = self._by_element(at.inputs.harmonics, block), self._by_element(along.inputs.harmonics, block)
        self._write(into, block, [(along.hidden, g), (at.hidden, dg)])  # ∂/∂y = Σ_a dH g + H dg
        # ∂/∂H[e, a] = Σ_{z lm} dy g + y dg;   ∂/∂dH = Σ_{z lm} y g
        by_value = torch.bmm(dy, g).baddbmm_(y, dg)
        return by_value.flatten(0, 1), torch.bmm(y, g).flatten(0, 1) if tangents_too else None

    def sums_of_hidden(self, inputs: Inputs, hidden: Tensor) -> list[Tensor]:
        """Return the sums by differentiable operations."""
        spread = (self.elements.unsqueeze(2) * inputs.harmonics.unsqueeze(1)).flatten(1)
        return [self.blocks.summed(spread, hidden)]

    def _by_element(self, harmonics: Tensor, block: Block) -> Tensor:
        """Return y, ``δ(z, z_s(e)) Y[e, lm]`` as ``(n_atoms, n_slots, n_elements · (max_ell + 1)²)``."""
        spread = self.elements[block.slots].unsqueeze(2) * harmonics[block.slots].unsqueeze(1)
        return self._rows(spread, block)

    def _write(self, into: Inputs, block: Block, products: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Write ``Σ_products hidden · grad`` as the gradient of the harmonics, if that is asked for."""
        if not into.harmonics.numel():
            return
        (hidden, g), *rest = products
        by_spread = torch.bmm(self._rows(hidden, block), g.mT)
        for hidden, g in rest:
            by_spread.baddbmm_(self._rows(hidden, block), g.mT)
        # ∂/∂Y[e, lm] = Σ_z δ(z, z_s(e)) ∂/∂y[e, z, lm]
        elements = self.elements[block.slots].unsqueeze(2)
        by_element = by_spread.view(elements.shape[0], elements.shape[1], -1)
        torch.sum(by_element.mul_(elements), 1, out=into.harmonics[block.slots])

    def _rows(self, values: Tensor, block: Block) -> Tensor:
        return values.view(block.n_atoms, block.width, -1)


def _sum_over_components(target: Tensor, products: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Write ``Σ_products Σ_components a · b`` to ``target`` (n, paths, 1, n_channels)."""
    _sum_over(2, target, products, False)


def _sum_over_paths(target: Tensor, products: Sequence[tuple[Tensor, Tensor]], begun: bool) -> None:
    """Write ``Σ_products Σ_paths a · b`` to ``target`` (n, 1, 2 l1 + 1, n_channels), or add it if begun."""
    _sum_over(1, target, products, begun)


def _sum_over(dim: int, target: Tensor, products: Sequence[tuple[Tensor, Tensor]], begun: bool) -> None:
    for a, b in products:
        for left, right in zip(a.split(1, dim), b.split(1, dim), strict=True):
            if begun:
                target.addcmul_(left, right)
            else:
                torch.mul(left, right, out=target)
            begun = True
