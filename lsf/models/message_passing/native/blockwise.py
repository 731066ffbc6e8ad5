"""Neighbour sums block by block of receivers, from the radial basis on: what all native sums share.

Radial functions come as the basis of every edge; the hidden layers H of the radial network are computed here,
once for the two directions of a pair. Where nothing is kept, nothing per edge outlives its block but basis,
harmonics and, while a pass lasts, the hidden layers: memory does not grow with channels, and the work stays
in the processor's cache. :mod:`lsf.models.message_passing.native.autograd` says which derivatives there are.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from lsf.models.message_passing.native.autograd import MaybeTensors, NeighborSum, Postponed, Wanted
from lsf.models.message_passing.native.blocks import Block, EdgeBlocks
from lsf.models.message_passing.native.radial import HiddenLayers, HiddenRows, Tangents


class Inputs(NamedTuple):
    """What a sum depends on besides the hidden layers' weights; the last two are empty where it has none."""

    basis: Tensor  # (n_rows, n_radial), which the blocks' ``rows`` point to
    harmonics: Tensor  # (n_slots, (max_ell + 1)²)
    features: Tensor  # (n_atoms, n_components · n_channels)
    last: Tensor  # (width, n_paths · n_channels)


class Point(NamedTuple):
    """Where a sum of one block is differentiated, or the tangents along which it is."""

    hidden: Tensor  # (n_slots of the block, width) last hidden layer
    inputs: Inputs  # of all blocks


Grads = tuple[Sequence[Tensor], Sequence[Tensor]]
"""Gradients of the tangents of the sums, and of the sums."""


class _Kept(NamedTuple):
    """What :meth:`BlockwiseSum.second` need not compute again, None where nothing is kept."""

    by_layers: list[list[Tensor]] | None  # gradients of <grad, S> w.r.t. the hidden layers
    tangents: tuple[Tensor, list[Tangents]] | None  # of the hidden layers


class BlockwiseSum(NeighborSum):
    """A sum of blocks; methods whose names end in ``block`` work on one at a time.

    The tensors it depends on are those of :class:`Inputs`, then the weights of the hidden layers, all scales
    inside. With ``keep``, what the forward pass computed on edges is there for the backward passes; otherwise
    they compute it again.
    """

    weights: ClassVar[slice] = slice(3, None)

    def __init__(self, blocks: EdgeBlocks, keep: bool = False) -> None:
        super().__init__(blocks)
        self.keep = keep
        self.kept: list[Tensor] = []
        self._hidden: HiddenRows | None = None

    def begin(self, derivatives: bool) -> None:
        """Keep nothing for derivatives that nobody asks for."""
        self.keep = self.keep and derivatives

    def hidden(self, basis: Tensor, weights: Sequence[Tensor]) -> HiddenRows:
        """Return the hidden layers of all rows, from the forward pass if they were kept."""
        if self._hidden is not None:
            return self._hidden
        rows = HiddenRows(basis, weights, self.kept[: 2 * len(weights)])
        self._hidden = rows if self.keep else None
        return rows

    def sums(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the sums of all sorted atoms; fill ``kept`` with what backward passes need again."""
        values, weights = _split(inputs)
        rows = self.hidden(values.basis, weights)
        if self.keep:
            self.kept = [*rows.values, *self.kept_memory(values)]
        out = [values.basis.new_empty(shape) for shape in self.shapes(values)]
        for block in self.blocks.blocks:
            self.forward_block(block, self.in_slots(rows.last, block), values, out)
        return out

    def gradients(
        self, inputs: Sequence[Tensor], grad: list[Tensor], wanted: Wanted
    ) -> tuple[MaybeTensors, list[list[Tensor]] | None]:
        """Return the gradients of ``<grad, S>``, and those of the hidden layers where they are kept."""
        values, weights = _split(inputs)
        into = _gradients_of(values, self.positions.wanted)
        by_weight = [torch.zeros_like(weight) for weight in weights] if wanted.weights else []
        if not wanted.weights:
            into = into._replace(last=values.last.new_empty(0))
        rows = self.hidden(values.basis, weights)
        by_hidden = torch.zeros_like(rows.last)
        for block in self.blocks.blocks:
            by_block = self.backward_block(block, self.in_slots(rows.last, block), values, grad, into)
            self.add_in_rows(by_block, block, by_hidden)
        layers = rows.backward(by_hidden, by_weight, into.basis, self.keep and wanted.twice)
        last = into.last if wanted.weights else None
        nothing = [None] * (len(weights) - len(by_weight))
        return [*self._geometry(into), into.features, last, *by_weight, *nothing], layers

    def tangents(
        self, inputs: Sequence[Tensor], grad: list[Tensor], cotangents: Sequence[Tensor | None], kept: Any
    ) -> tuple[list[Tensor], Postponed]:
        """Return the tangents of the sums along the cotangents of basis, harmonics and features."""
        values, weights = _split(inputs)
        basis, harmonics, features = (
            torch.zeros_like(value) if cotangent is None else cotangent.contiguous()
            for cotangent, value in zip(cotangents[:3], values[:3], strict=True)
        )
        tangents = Inputs(basis, harmonics, features, values.last)
        rows = self.hidden(values.basis, weights)
        tangent, layers = rows.tangent(basis)
        out = [torch.empty_like(part) for part in grad]
        for block in self.blocks.blocks:
            at = Point(self.in_slots(rows.last, block), values)
            self.tangents_block(block, at, Point(self.in_slots(tangent, block), tangents), out)
        of_layers = (tangent, layers) if self.keep else None
        return out, Postponed(grad, tangents, _Kept(kept, of_layers))

    def second(self, inputs: Sequence[Tensor], postponed: Postponed, grad: list[Tensor]) -> MaybeTensors:
        """Return the gradients of ``<postponed.grad, tangents> + <grad, S>``."""
        values, weights = _split(inputs)
        tangents, kept = postponed.tangents, postponed.kept
        into = _gradients_of(values, self.positions.wanted)
        by_weight = [torch.zeros_like(weight) for weight in weights]
        rows = self.hidden(values.basis, weights)
        tangent, layers = kept.tangents or rows.tangent(tangents.basis)
        by_value = torch.zeros_like(rows.last)
        # The gradient of the tangents of the last hidden layer is what the forces found for its values.
        by_tangent = torch.zeros_like(tangent) if kept.by_layers is None else None
        grads = postponed.grad, grad
        for block in self.blocks.blocks:
            at = Point(self.in_slots(rows.last, block), values)
            along = Point(self.in_slots(tangent, block), tangents)
            found = self.second_block(block, at, along, grads, into, by_tangent is not None)
            for part, total in zip(found, (by_value, by_tangent), strict=True):
                if part is not None and total is not None:
                    self.add_in_rows(part, block, total)
        rows.second(by_value, by_tangent, kept.by_layers, layers, by_weight, into.basis)
        return [*self._geometry(into), into.features, into.last, *by_weight]

    def by_operations(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the sums by operations that autograd differentiates."""
        values, weights = _split(inputs)
        hidden = HiddenLayers(weights).forward(values.basis)
        in_slots = torch.nn.functional.embedding(self.blocks.tables.row_of_slot, hidden)
        return self.sums_of_hidden(values, in_slots)

    @abstractmethod
    def shapes(self, inputs: Inputs) -> list[tuple[int, ...]]:
        """Return the shapes of the sums of all sorted atoms."""

    def kept_memory(self, inputs: Inputs) -> list[Tensor]:  # noqa: ARG002 - for sums that keep more
        """Return memory for what the forward pass keeps besides the hidden layers."""
        return []

    @abstractmethod
    def forward_block(self, block: Block, hidden: Tensor, inputs: Inputs, out: Sequence[Tensor]) -> None:
        """Write the sums of a block's atoms."""

    @abstractmethod
    def backward_block(
        self, block: Block, hidden: Tensor, inputs: Inputs, grad: Sequence[Tensor], into: Inputs
    ) -> Tensor:
        """Write the gradients of a block, add to that of ``features``, and return that of ``hidden``."""

    @abstractmethod
    def tangents_block(self, block: Block, at: Point, along: Point, out: Sequence[Tensor]) -> None:
        """Write the forward-mode tangents of the sums."""

    @abstractmethod
    def second_block(
        self, block: Block, at: Point, along: Point, grads: Grads, into: Inputs, tangents_too: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Write the gradients of ``<grads[0], tangents of the sums> + <grads[1], sums>`` to ``into``.

        Those of ``at.hidden`` are returned, and those of ``along.hidden`` with ``tangents_too``.
        """

    @abstractmethod
    def sums_of_hidden(self, inputs: Inputs, hidden: Tensor) -> list[Tensor]:
        """Return the sums by operations that autograd differentiates; ``hidden`` (n_slots, width)."""

    def in_slots(self, values: Tensor, block: Block) -> Tensor:
        """Return the rows ``(n, width)`` of a block's slots."""
        return values.index_select(0, self.blocks.tables.row_of_slot[block.slots])

    def add_in_rows(self, values: Tensor, block: Block, into: Tensor) -> None:
        """Add what a block's slots give back to their rows."""
        into.index_add_(0, self.blocks.tables.row_of_slot[block.slots], values)

    def _geometry(self, into: Inputs) -> tuple[Tensor | None, Tensor | None]:
        return (into.basis, into.harmonics) if self.positions.wanted else (None, None)


def _split(inputs: Sequence[Tensor]) -> tuple[Inputs, Sequence[Tensor]]:
    """Return the inputs by name, and the weights of the hidden layers."""
    return Inputs(*inputs[:4]), inputs[4:]


def _gradients_of(inputs: Inputs, geometry: bool) -> Inputs:
    """Return where the gradients of inputs go; those of the geometry are empty unless asked for."""
    nothing = inputs.basis.new_empty(0)
    return Inputs(
        torch.empty_like(inputs.basis) if geometry else nothing,
        torch.zeros_like(inputs.harmonics) if geometry else nothing,
        torch.zeros_like(inputs.features),
        torch.zeros_like(inputs.last),
    )
