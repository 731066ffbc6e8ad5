"""The two sums over neighbours of a message-passing layer; derivatives as
:mod:`lsf.models.message_passing.native.autograd` wants.

Both return sums before coupling: Clebsch–Gordan coupling is linear and does not see the edge, so that it is
done on the atoms afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lsf.machine.caches import Scratch
from lsf.models.message_passing.native.autograd import Inputs, Moments
from lsf.models.message_passing.native.blocks import Block, EdgeBlocks


class Group(NamedTuple):
    """All paths of one feature degree l1 and one harmonic degree l2."""

    l1: int
    l2: int
    paths: int  # number of message degrees
    column: int  # of the first path among the radial weights
    component: int  # of the first one of l1 among the features

    @property
    def size(self) -> int:
        """Components of the feature degree."""
        return 2 * self.l1 + 1

    @property
    def angular(self) -> slice:
        """Columns of the harmonics."""
        return slice(self.l2 * self.l2, (self.l2 + 1) ** 2)


class MessageMoments(Moments):
    """``B_i[m2, path, m1, c] = Σ_e Y_e,m2 (H_e W)_path,c h_sender,m1,c``, for every group of paths."""

    def __init__(self, blocks: EdgeBlocks, groups: tuple[Group, ...], n_channels: int) -> None:
        super().__init__()
        self.blocks, self.groups, self.n_channels = blocks, groups, n_channels
        self._held: Scratch | None = None
        self._kept_tangent: tuple[Inputs | None, Tensor | None] = None, None

    def shapes(self, inputs: Inputs) -> list[tuple[int, ...]]:
        """Return per group ``(n_atoms, 2 l2 + 1, paths · (2 l1 + 1) · n_channels)``."""
        n_atoms = inputs.features.shape[0]
        return [(n_atoms, 2 * g.l2 + 1, g.paths * g.size * self.n_channels) for g in self.groups]

    def kept_memory(self, inputs: Inputs) -> list[Tensor]:
        """Return memory for the radial weights of all slots."""
        return [inputs.last.new_empty((inputs.harmonics.shape[0], inputs.last.shape[1]))]

    def forward(self, block: Block, hidden: Tensor, inputs: Inputs, out: Sequence[Tensor]) -> None:
        """Write the sums of a block."""
        scratch = self._scratch(hidden)
        radial = self._weights(block, hidden, inputs.last, True)
        features = self._gather("features", inputs.features, block)
        for group, result in zip(self.groups, out, strict=True):
            message = self._message(scratch, group, radial)
            torch.mul(self._view(radial, group), self._of(features, group), out=message)
            torch.bmm(
                self._angular(inputs, block, group).mT, self._rows(message, block), out=result[block.atoms]
            )

    def backward(
        self, block: Block, hidden: Tensor, inputs: Inputs, grad: Sequence[Tensor], into: Inputs
    ) -> Tensor:
        """Write the gradients of a block."""
        scratch = self._scratch(hidden)
        radial = self._weights(block, hidden, inputs.last)
        features = self._gather("features", inputs.features, block)
        by_radial = scratch("by_radial", *radial.shape)
        by_features, begun = self._by_features(scratch, features), set[int]()
        for group, given in zip(self.groups, grad, strict=True):
            r, h = self._view(radial, group), self._of(features, group)
            g = given[block.atoms]
            message = torch.mul(r, h, out=self._message(scratch, group, radial))
            if into.harmonics.numel():
                self._angular(into, block, group).add_(torch.bmm(self._rows(message, block), g.mT))
            by_message = message  # its values have been used
            torch.bmm(self._angular(inputs, block, group), g, out=self._rows(by_message, block))
            _reduce(self._view(by_radial, group), [(by_message, h)])
            _accumulate(self._of(by_features, group), [(by_message, r)], group.l1 in begun)
            begun.add(group.l1)
        self._scatter(by_features, into.features, block)
        if into.last.numel():
            into.last.addmm_(hidden.T, by_radial)
        return by_radial @ inputs.last.T

    def tangents(
        self,
        block: Block,
        hidden: tuple[Tensor, Tensor],
        inputs: Inputs,
        tangents: Inputs,
        out: Sequence[Tensor],
    ) -> None:
        """Write the tangents of a block's sums."""
        scratch = self._scratch(hidden[0])
        radial = self._weights(block, hidden[0], inputs.last)
        radial_tangent = self._tangent_weights(block, hidden[1], inputs, tangents, True)
        features = self._gather("features", inputs.features, block)
        features_tangent = self._gather("features_tangent", tangents.features, block)
        for group, result in zip(self.groups, out, strict=True):
            r, dr = self._view(radial, group), self._view(radial_tangent, group)
            h, dh = self._of(features, group), self._of(features_tangent, group)
            y, dy = self._angular(inputs, block, group), self._angular(tangents, block, group)
            message = torch.mul(r, h, out=self._message(scratch, group, radial))
            torch.bmm(dy.mT, self._rows(message, block), out=result[block.atoms])
            message = torch.mul(dr, h, out=message).addcmul_(r, dh)
            result[block.atoms].baddbmm_(y.mT, self._rows(message, block))

    def second(
        self,
        block: Block,
        hidden: tuple[Tensor, Tensor],
        inputs: Inputs,
        tangents: Inputs,
        grads: tuple[Sequence[Tensor], Sequence[Tensor]],
        into: Inputs,
        tangents_too: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Write the gradients of a block's sums and of their tangents."""
        scratch = self._scratch(hidden[0])
        radial = self._weights(block, hidden[0], inputs.last)
        radial_tangent = self._tangent_weights(block, hidden[1], inputs, tangents, False)
        features = self._gather("features", inputs.features, block)
        features_tangent = self._gather("features_tangent", tangents.features, block)
        by_radial, by_tangent = (scratch(name, *radial.shape) for name in ("by_radial", "by_tangent"))
        by_features, begun = self._by_features(scratch, features), set[int]()
        for group, first, given in zip(self.groups, *grads, strict=True):
            r, dr = self._view(radial, group), self._view(radial_tangent, group)
            h, dh = self._of(features, group), self._of(features_tangent, group)
            y, dy = self._angular(inputs, block, group), self._angular(tangents, block, group)
            g, dg = first[block.atoms], given[block.atoms]
            u = self._message(scratch, group, radial)
            if into.harmonics.numel():
                by_y = self._angular(into, block, group)
                by_y.add_(torch.bmm(self._rows(torch.mul(r, h, out=u), block), dg.mT))
                by_y.add_(torch.bmm(self._rows(torch.mul(dr, h, out=u).addcmul_(r, dh), block), g.mT))
            w = scratch("other", *u.shape)
            torch.bmm(y, g, out=self._rows(u, block))
            torch.bmm(torch.cat((dy, y), 2), torch.cat((g, dg), 1), out=self._rows(w, block))
            _reduce(self._view(by_radial, group), [(u, dh), (w, h)])
            _reduce(self._view(by_tangent, group), [(u, h)])
            _accumulate(self._of(by_features, group), [(u, dr), (w, r)], group.l1 in begun)
            begun.add(group.l1)
        self._scatter(by_features, into.features, block)
        into.last.addmm_(hidden[0].T, by_radial).addmm_(hidden[1].T, by_tangent)
        return by_radial @ inputs.last.T, by_tangent @ inputs.last.T if tangents_too else None

    def plain(self, inputs: Inputs, hidden: Tensor) -> list[Tensor]:
        """Return the sums by differentiable operations."""
        radial = hidden @ inputs.last
        features = torch.nn.functional.embedding(self.blocks.tables.sender_of_slot, inputs.features)
        features = features.view(features.shape[0], -1, self.n_channels)
        results = []
        for group in self.groups:
            message = (self._view(radial, group) * self._of(features, group)).flatten(1)
            results.append(self.blocks.summed(inputs.harmonics[:, group.angular], message))
        return results

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


class ElementMoments(Moments):
    """``D_i[z, lm, a] = Σ_e δ(z, element of sender) Y_e,lm H_e,a``: all a first layer needs of its edges.

    Senders' features depend on their element alone there, so that they and the last radial weights can be
    applied after the sum. ``elements`` (n_slots, n_elements) holds ones and zeros; ``width`` is that of the
    last hidden layer.
    """

    def __init__(self, blocks: EdgeBlocks, elements: Tensor, n_atoms: int, width: int) -> None:
        super().__init__()
        self.blocks, self.elements = blocks, elements
        self.n_atoms, self.width = n_atoms, width

    def shapes(self, inputs: Inputs) -> list[tuple[int, ...]]:
        """Return ``(n_atoms, n_elements · (max_ell + 1)², width)``."""
        return [(self.n_atoms, self.elements.shape[1] * inputs.harmonics.shape[1], self.width)]

    def forward(self, block: Block, hidden: Tensor, inputs: Inputs, out: Sequence[Tensor]) -> None:
        """Write the sums of a block."""
        y = self._by_element(inputs.harmonics, block)
        torch.bmm(y.mT, self._rows(hidden, block), out=out[0][block.atoms])

    def backward(
        self, block: Block, hidden: Tensor, inputs: Inputs, grad: Sequence[Tensor], into: Inputs
    ) -> Tensor:
        """Write the gradients of a block."""
        g = grad[0][block.atoms]
        self._write(into, block, [(hidden, g)])
        return torch.bmm(self._by_element(inputs.harmonics, block), g).flatten(0, 1)

    def tangents(
        self,
        block: Block,
        hidden: tuple[Tensor, Tensor],
        inputs: Inputs,
        tangents: Inputs,
        out: Sequence[Tensor],
    ) -> None:
        """Write the tangents of a block's sums."""
        y, dy = self._by_element(inputs.harmonics, block), self._by_element(tangents.harmonics, block)
        torch.bmm(y.mT, self._rows(hidden[1], block), out=out[0][block.atoms])
        out[0][block.atoms].baddbmm_(dy.mT, self._rows(hidden[0], block))

    def second(
        self,
        block: Block,
        hidden: tuple[Tensor, Tensor],
        inputs: Inputs,
        tangents: Inputs,
        grads: tuple[Sequence[Tensor], Sequence[Tensor]],
        into: Inputs,
        tangents_too: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Write the gradients of a block's sums and of their tangents."""
        g, dg = grads[0][0][block.atoms], grads[1][0][block.atoms]
        y, dy = self._by_element(inputs.harmonics, block), self._by_element(tangents.harmonics, block)
        self._write(into, block, [(hidden[1], g), (hidden[0], dg)])
        by_value = torch.bmm(dy, g).baddbmm_(y, dg)
        return by_value.flatten(0, 1), torch.bmm(y, g).flatten(0, 1) if tangents_too else None

    def plain(self, inputs: Inputs, hidden: Tensor) -> list[Tensor]:
        """Return the sums by differentiable operations."""
        spread = (self.elements.unsqueeze(2) * inputs.harmonics.unsqueeze(1)).flatten(1)
        return [self.blocks.summed(spread, hidden)]

    def _by_element(self, harmonics: Tensor, block: Block) -> Tensor:
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
        elements = self.elements[block.slots].unsqueeze(2)
        by_element = by_spread.view(elements.shape[0], elements.shape[1], -1)
        torch.sum(by_element.mul_(elements), 1, out=into.harmonics[block.slots])

    def _rows(self, values: Tensor, block: Block) -> Tensor:
        return values.view(block.n_atoms, block.width, -1)


def _reduce(target: Tensor, products: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Write ``Σ_products Σ_components a · b`` to ``target`` (n, paths, 1, n_channels)."""
    _sum_over(2, target, products, False)


def _accumulate(target: Tensor, products: Sequence[tuple[Tensor, Tensor]], begun: bool) -> None:
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
