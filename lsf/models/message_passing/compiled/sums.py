r"""Neighbour sums of radial functions that come with their derivative w.r.t. the length: for compiled code.

The last hidden layer H of a radial network depends on the geometry through the length r of an edge alone.
With its derivative H' at hand a force needs one number per edge,

.. math:: \frac{\partial E}{\partial r} = \sum_a \frac{\partial E}{\partial H_a} H'_a

in place of a way back through the network, and the network is differentiated w.r.t. its weights alone.
Positions are differentiated once; what forces depend on besides positions is differentiated after that.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, NoReturn

import torch
from torch import Tensor

from lsf.models.message_passing.native.autograd import MaybeTensors, NeighborSum, Postponed, Wanted
from lsf.models.message_passing.native.blocks import Block, EdgeBlocks
from lsf.models.message_passing.native.blockwise import Inputs, Point
from lsf.models.message_passing.native.sums import ElementSum


class CompiledInputs(NamedTuple):
    """What a sum depends on; ``features`` and ``last`` are empty where a sum has none."""

    values: Tensor  # (width, n_rows) last hidden layer, zero in the last row
    slopes: Tensor  # (width, n_rows) 1/Å, its derivative w.r.t. the length
    lengths: Tensor  # (n_rows,) Å, which gradients of the geometry go to
    harmonics: Tensor  # (n_slots, (max_ell + 1)²)
    features: Tensor  # (n_atoms, n_components · n_channels)
    last: Tensor  # (width, n_paths · n_channels)


class Geometry(NamedTuple):
    """Gradients, or tangents, of what positions move, and of features."""

    lengths: Tensor  # (n_rows,)
    harmonics: Tensor
    features: Tensor


class ByWeights(NamedTuple):
    """Gradients of everything that is no geometry."""

    values: Tensor
    slopes: Tensor
    features: Tensor
    last: Tensor


class CompiledSum(NeighborSum):
    """A sum over neighbours of :class:`CompiledInputs`, twice differentiable: w.r.t. the geometry first.

    ``kept`` is what the forward pass leaves to backward passes.
    """

    weights: ClassVar[slice] = slice(0, 1)

    def __init__(self, blocks: EdgeBlocks) -> None:
        super().__init__(blocks)
        self.kept: list[Tensor] = []

    @abstractmethod
    def shapes(self, inputs: CompiledInputs) -> list[tuple[int, ...]]:
        """Return the shapes of the sums of all sorted atoms."""

    @abstractmethod
    def values(self, inputs: CompiledInputs) -> list[Tensor]:
        """Return the sums."""

    @abstractmethod
    def by_geometry(self, inputs: CompiledInputs, grad: Sequence[Tensor]) -> Geometry:
        """Return the gradients of ``<grad, sums>`` w.r.t. geometry and features."""

    @abstractmethod
    def along(self, inputs: CompiledInputs, tangents: Geometry) -> list[Tensor]:
        """Return the forward-mode tangents of the sums."""

    @abstractmethod
    def by_weights(
        self, inputs: CompiledInputs, tangents: Geometry, grads: tuple[Sequence[Tensor], Sequence[Tensor]]
    ) -> ByWeights:
        """Return the gradients of ``<grads[0], tangents of the sums> + <grads[1], sums>``."""

    def sums(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the sums."""
        return self.values(CompiledInputs(*inputs))

    def gradients(
        self, inputs: Sequence[Tensor], grad: list[Tensor], wanted: Wanted
    ) -> tuple[MaybeTensors, None]:
        """Return the gradients of ``<grad, sums>``; w.r.t. the network's outputs where weights are wanted."""
        given = CompiledInputs(*inputs)
        weights: MaybeTensors = [None] * len(given)
        if wanted.weights:
            still = Geometry(*(torch.zeros_like(value) for value in given[2:5]))
            weights = self.second(inputs, Postponed([torch.zeros_like(part) for part in grad], still), grad)
            if not (self.positions.wanted and wanted.inputs[2]):
                return weights, None
        return [*weights[:2], *self.by_geometry(given, grad), weights[5]], None

    def tangents(
        self,
        inputs: Sequence[Tensor],
        grad: list[Tensor],
        cotangents: Sequence[Tensor | None],
        kept: Any,  # noqa: ARG002 - gradients keep nothing
    ) -> tuple[list[Tensor], Postponed]:
        """Return the tangents of the sums along the cotangents of lengths, harmonics and features."""
        given = CompiledInputs(*inputs)
        if self.positions.wanted and given.lengths.requires_grad:
            self._refuse()
        tangents = Geometry(
            *(
                torch.zeros_like(value) if cotangent is None else cotangent.contiguous()
                for cotangent, value in zip(cotangents[2:5], given[2:5], strict=True)
            )
        )
        return self.along(given, tangents), Postponed(grad, tangents)

    def second(self, inputs: Sequence[Tensor], postponed: Postponed, grad: list[Tensor]) -> MaybeTensors:
        """Return the gradients w.r.t. all but the geometry, which is differentiated once."""
        found = self.by_weights(CompiledInputs(*inputs), postponed.tangents, (postponed.grad, grad))
        return [found.values, found.slopes, None, None, found.features, found.last]

    def by_operations(self, inputs: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Third derivatives are refused."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise RuntimeError("compiled neighbour sums have no second derivatives w.r.t. positions")

    def of_slots(self, lengths: Tensor) -> Tensor:
        """Return numbers of rows ``(n_rows,)`` for all slots."""
        return lengths.index_select(0, self.blocks.tables.row_of_slot)

    def of_rows(self, by_slot: Tensor, n_rows: int) -> Tensor:
        """Return what all slots ``(n_slots,)`` give to their rows."""
        return by_slot.new_zeros(n_rows).index_add_(0, self.blocks.tables.row_of_slot, by_slot)


class CompiledElementSum(CompiledSum):
    """The sum by element of a first layer, block by block as
    :class:`lsf.models.message_passing.native.sums.ElementSum` does it.
    """

    def __init__(self, blocks: EdgeBlocks, elements: Tensor, n_atoms: int) -> None:
        super().__init__(blocks)
        self.elements, self.n_atoms = elements, n_atoms

    def shapes(self, inputs: CompiledInputs) -> list[tuple[int, ...]]:
        """Return ``(n_atoms, n_elements · (max_ell + 1)², width)``."""
        return self._of(inputs).shapes(_as_native(inputs))

    def values(self, inputs: CompiledInputs) -> list[Tensor]:
        """Return the sums."""
        native, given, (values,) = self._of(inputs), _as_native(inputs), self._rows(inputs, 1)
        out = [values.new_empty(shape) for shape in native.shapes(given)]
        for block in self.blocks.blocks:
            native.forward_block(block, self._in_slots(values, block), given, out)
        return out

    def by_geometry(self, inputs: CompiledInputs, grad: Sequence[Tensor]) -> Geometry:
        """Return the gradients of ``<grad, sums>``."""
        native, given = self._of(inputs), _as_native(inputs)
        values, slopes = self._rows(inputs, 2)
        by_slot = inputs.harmonics.new_empty(inputs.harmonics.shape[0])
        into = given._replace(harmonics=torch.empty_like(inputs.harmonics))
        for block in self.blocks.blocks:
            by_hidden = native.backward_block(block, self._in_slots(values, block), given, grad, into)
            torch.sum(by_hidden.mul_(self._in_slots(slopes, block)), 1, out=by_slot[block.slots])
        by_lengths = self.of_rows(by_slot, len(inputs.lengths))
        return Geometry(by_lengths, into.harmonics, torch.zeros_like(inputs.features))

    def along(self, inputs: CompiledInputs, tangents: Geometry) -> list[Tensor]:
        """Return the tangents of the sums."""
        native, given, of_slot = self._of(inputs), _as_native(inputs), self.of_slots(tangents.lengths)
        rows, moved = self._rows(inputs, 2), given._replace(harmonics=tangents.harmonics)
        out = [inputs.values.new_empty(shape) for shape in native.shapes(given)]
        for block in self.blocks.blocks:
            native.tangents_block(block, *self._points(block, rows, of_slot, given, moved), out)
        return out

    def by_weights(
        self, inputs: CompiledInputs, tangents: Geometry, grads: tuple[Sequence[Tensor], Sequence[Tensor]]
    ) -> ByWeights:
        """Return the gradients of sums and tangents."""
        native, given, of_slot = self._of(inputs), _as_native(inputs), self.of_slots(tangents.lengths)
        rows, moved = self._rows(inputs, 2), given._replace(harmonics=tangents.harmonics)
        into = given._replace(harmonics=inputs.harmonics.new_empty(0))
        found = torch.zeros_like(rows[0]), torch.zeros_like(rows[1])
        for block in self.blocks.blocks:
            points = self._points(block, rows, of_slot, given, moved)
            by_value, by_tangent = native.second_block(block, *points, grads, into, True)
            assert by_tangent is not None
            by_tangent.mul_(of_slot[block.slots].unsqueeze(1))
            for total, part in zip(found, (by_value, by_tangent), strict=True):
                total.index_add_(0, self.blocks.tables.row_of_slot[block.slots], part)
        by_values, by_slopes = (total.T.contiguous() for total in found)
        return ByWeights(
            by_values, by_slopes, torch.zeros_like(inputs.features), torch.zeros_like(inputs.last)
        )

    def _of(self, inputs: CompiledInputs) -> ElementSum:
        return ElementSum(self.blocks, self.elements, self.n_atoms, inputs.values.shape[0])

    def _rows(self, inputs: CompiledInputs, count: int) -> list[Tensor]:
        """Return values and, of a ``count`` of 2, slopes row by row, ``(n_rows, width)``."""
        rows = torch.contiguous_format
        self.kept += [part.T.clone(memory_format=rows) for part in inputs[len(self.kept) : count]]
        return self.kept[:count]

    def _in_slots(self, values: Tensor, block: Block) -> Tensor:
        return values.index_select(0, self.blocks.tables.row_of_slot[block.slots])

    def _points(
        self, block: Block, rows: list[Tensor], of_slot: Tensor, given: Inputs, moved: Inputs
    ) -> tuple[Point, Point]:
        """Return values and tangents; that of the last hidden layer is its derivative times ``dr``."""
        values, slopes = (self._in_slots(part, block) for part in rows)
        return Point(values, given), Point(slopes.mul_(of_slot[block.slots].unsqueeze(1)), moved)


def _as_native(inputs: CompiledInputs) -> Inputs:
    return Inputs(inputs.lengths, inputs.harmonics, inputs.features, inputs.last)
