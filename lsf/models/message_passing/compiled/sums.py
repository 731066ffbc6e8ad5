"""Sums over neighbours of radial functions that come with their slopes: what compiled code works with.

The last hidden layer H of a radial network depends on the geometry through the length r of an edge alone.
With its slope H' at hand a force needs one number per slot, ``dE/dr = <dE/dH, H'>``, in place of a way back
through the network, and the network is differentiated by its weights alone. Positions are differentiated
once; what forces depend on besides positions is differentiated after that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lsf.models.message_passing.native.autograd import Inputs, positions_context, weights_are_fixed
from lsf.models.message_passing.native.blocks import Block, EdgeBlocks
from lsf.models.message_passing.native.sums import ElementMoments


class SlopedInputs(NamedTuple):
    """What a sum depends on; ``features`` and ``last`` are empty where a sum has none."""

    values: Tensor  # (width, n_rows) last hidden layer, zero in the last row
    slopes: Tensor  # (width, n_rows) its derivative by the length
    lengths: Tensor  # (n_rows,) which gradients of the geometry go to
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


class SlopedSums(ABC):
    """A sum over neighbours. ``kept`` is what the forward pass leaves to backward passes."""

    def __init__(self, blocks: EdgeBlocks) -> None:
        self.blocks = blocks
        self.kept: list[Tensor] = []
        self.positions = positions_context()
        self.later: _Later | None = None

    @abstractmethod
    def shapes(self, inputs: SlopedInputs) -> list[tuple[int, ...]]:
        """Return the shapes of the sums of all sorted atoms."""

    @abstractmethod
    def sums(self, inputs: SlopedInputs) -> list[Tensor]:
        """Return the sums."""

    @abstractmethod
    def gradients(self, inputs: SlopedInputs, grad: Sequence[Tensor]) -> Geometry:
        """Return the gradients of ``<grad, sums>``."""

    @abstractmethod
    def tangents(self, inputs: SlopedInputs, tangents: Geometry) -> list[Tensor]:
        """Return the tangents of the sums."""

    @abstractmethod
    def second(
        self, inputs: SlopedInputs, tangents: Geometry, grads: tuple[Sequence[Tensor], Sequence[Tensor]]
    ) -> ByWeights:
        """Return the gradients of ``<grads[0], tangents of the sums> + <grads[1], sums>``."""

    def of_slots(self, lengths: Tensor) -> Tensor:
        """Return numbers of rows ``(n_rows,)`` for all slots."""
        return lengths.index_select(0, self.blocks.tables.row_of_slot)

    def of_rows(self, by_slot: Tensor, n_rows: int) -> Tensor:
        """Return what all slots ``(n_slots,)`` give to their rows."""
        return by_slot.new_zeros(n_rows).index_add_(0, self.blocks.tables.row_of_slot, by_slot)


class ElementSums(SlopedSums):
    """The sums by element of a first layer, see
    :class:`lsf.models.message_passing.native.sums.ElementMoments`.
    """

    def __init__(self, blocks: EdgeBlocks, elements: Tensor, n_atoms: int) -> None:
        super().__init__(blocks)
        self.elements, self.n_atoms = elements, n_atoms

    def shapes(self, inputs: SlopedInputs) -> list[tuple[int, ...]]:
        """Return ``(n_atoms, n_elements · (max_ell + 1)², width)``."""
        return self._of(inputs).shapes(_plain(inputs))

    def sums(self, inputs: SlopedInputs) -> list[Tensor]:
        """Return the sums."""
        moments, plain, (values,) = self._of(inputs), _plain(inputs), self._rows(inputs, 1)
        out = [values.new_empty(shape) for shape in moments.shapes(plain)]
        for block in self.blocks.blocks:
            moments.forward(block, self._in_slots(values, block), plain, out)
        return out

    def gradients(self, inputs: SlopedInputs, grad: Sequence[Tensor]) -> Geometry:
        """Return the gradients of ``<grad, sums>``."""
        moments, plain = self._of(inputs), _plain(inputs)
        values, slopes = self._rows(inputs, 2)
        by_slot = inputs.harmonics.new_empty(inputs.harmonics.shape[0])
        into = plain._replace(harmonics=torch.empty_like(inputs.harmonics))
        for block in self.blocks.blocks:
            by_hidden = moments.backward(block, self._in_slots(values, block), plain, grad, into)
            torch.sum(by_hidden.mul_(self._in_slots(slopes, block)), 1, out=by_slot[block.slots])
        by_lengths = self.of_rows(by_slot, len(inputs.lengths))
        return Geometry(by_lengths, into.harmonics, torch.zeros_like(inputs.features))

    def tangents(self, inputs: SlopedInputs, tangents: Geometry) -> list[Tensor]:
        """Return the tangents of the sums."""
        moments, plain, of_slot = self._of(inputs), _plain(inputs), self.of_slots(tangents.lengths)
        rows, moved = self._rows(inputs, 2), plain._replace(harmonics=tangents.harmonics)
        out = [inputs.values.new_empty(shape) for shape in moments.shapes(plain)]
        for block in self.blocks.blocks:
            moments.tangents(block, self._both(rows, of_slot, block), plain, moved, out)
        return out

    def second(
        self, inputs: SlopedInputs, tangents: Geometry, grads: tuple[Sequence[Tensor], Sequence[Tensor]]
    ) -> ByWeights:
        """Return the gradients of sums and tangents."""
        moments, plain, of_slot = self._of(inputs), _plain(inputs), self.of_slots(tangents.lengths)
        rows, moved = self._rows(inputs, 2), plain._replace(harmonics=tangents.harmonics)
        into = plain._replace(harmonics=inputs.harmonics.new_empty(0))
        found = torch.zeros_like(rows[0]), torch.zeros_like(rows[1])
        for block in self.blocks.blocks:
            both = self._both(rows, of_slot, block)
            by_value, by_tangent = moments.second(block, both, plain, moved, grads, into, True)
            assert by_tangent is not None
            by_tangent.mul_(of_slot[block.slots].unsqueeze(1))
            for total, part in zip(found, (by_value, by_tangent), strict=True):
                total.index_add_(0, self.blocks.tables.row_of_slot[block.slots], part)
        by_values, by_slopes = (total.T.contiguous() for total in found)
        return ByWeights(
            by_values, by_slopes, torch.zeros_like(inputs.features), torch.zeros_like(inputs.last)
        )

    def _of(self, inputs: SlopedInputs) -> ElementMoments:
        return ElementMoments(self.blocks, self.elements, self.n_atoms, inputs.values.shape[0])

    def _rows(self, inputs: SlopedInputs, count: int) -> list[Tensor]:
        """Return values and, of a ``count`` of 2, slopes row by row, ``(n_rows, width)``."""
        rows = torch.contiguous_format
        self.kept += [part.T.clone(memory_format=rows) for part in inputs[len(self.kept) : count]]
        return self.kept[:count]

    def _in_slots(self, values: Tensor, block: Block) -> Tensor:
        return values.index_select(0, self.blocks.tables.row_of_slot[block.slots])

    def _both(self, rows: list[Tensor], of_slot: Tensor, block: Block) -> tuple[Tensor, Tensor]:
        """Return values and tangents of the last hidden layer."""
        values, slopes = (self._in_slots(part, block) for part in rows)
        return values, slopes.mul_(of_slot[block.slots].unsqueeze(1))


def _plain(inputs: SlopedInputs) -> Inputs:
    return Inputs(inputs.lengths, inputs.harmonics, inputs.features, inputs.last)


def summed(sums: SlopedSums, inputs: SlopedInputs) -> tuple[Tensor, ...]:
    """Return the sums, twice differentiable: by the geometry first, then by what is none."""
    result: tuple[Tensor, ...] = _Sum.apply(sums, weights_are_fixed(), *inputs)
    return result[:-1]


class _Later(NamedTuple):
    """Gradients of ``<grad, tangents of the sums>`` that are still to be added to those of the inputs."""

    grad: list[Tensor]
    tangents: Geometry


class _Sum(torch.autograd.Function):
    """The sums themselves, and a ticket, as in :mod:`lsf.models.message_passing.native.autograd`; its
    gradient is the one below.
    """

    @staticmethod
    def forward(ctx: Any, sums: SlopedSums, fixed: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.sums, ctx.fixed = sums, fixed
        ctx.set_materialize_grads(False)
        out, ticket = sums.sums(SlopedInputs(*tensors)), tensors[0].new_zeros(())
        ctx.save_for_backward(*tensors, ticket)
        ctx.shapes = [part.shape for part in out]
        return (*out, ticket)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        *parts, by_ticket = grads
        sums: SlopedSums = ctx.sums
        *tensors, ticket = ctx.saved_tensors
        inputs = SlopedInputs(*tensors)
        grad = [
            ticket.new_zeros(shape) if part is None else part.contiguous()
            for part, shape in zip(parts, ctx.shapes, strict=True)
        ]
        if by_ticket is not None:
            later, sums.later = sums.later, None
            assert later is not None
            return (None, None, *_by_weights(sums, later, grad, inputs))
        weights_too = not (ctx.fixed or torch.is_grad_enabled()) and ctx.needs_input_grad[2]
        nothing: tuple[Tensor | None, ...] = (None,) * len(tensors)
        if weights_too:
            still = Geometry(*(torch.zeros_like(value) for value in inputs[2:5]))
            later = _Later([torch.zeros_like(part) for part in grad], still)
            nothing = _by_weights(sums, later, grad, inputs)
            if not (sums.positions.wanted and ctx.needs_input_grad[4]):
                return (None, None, *nothing)
        lengths, harmonics, features = _SumBackward.apply(sums, len(grad), *grad, *tensors, ticket)
        return (None, None, *nothing[:2], lengths, harmonics, features, nothing[5])


class _SumBackward(torch.autograd.Function):
    """The gradients of lengths, harmonics and features as a function of their own."""

    @staticmethod
    def forward(ctx: Any, sums: SlopedSums, n_grad: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.sums, ctx.n_grad = sums, n_grad
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors[:-1])
        inputs = SlopedInputs(*tensors[n_grad:-1])
        return (*sums.gradients(inputs, tensors[:n_grad]),)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
        sums: SlopedSums = ctx.sums
        grad, inputs = [*ctx.saved_tensors[: ctx.n_grad]], SlopedInputs(*ctx.saved_tensors[ctx.n_grad :])
        if sums.positions.wanted and inputs.lengths.requires_grad:
            raise RuntimeError("sums with slopes have no second derivatives by positions")
        tangents = Geometry(
            *(
                torch.zeros_like(value) if cotangent is None else cotangent.contiguous()
                for cotangent, value in zip(cotangents, inputs[2:5], strict=True)
            )
        )
        later = _Later(grad, tangents)
        out = sums.tangents(inputs, tangents)
        if sums.later is None:
            sums.later = later
            return (None, None, *out, *(None,) * len(inputs), inputs.values.new_ones(()))
        nothing = [torch.zeros_like(part) for part in grad]
        return (None, None, *out, *_by_weights(sums, later, nothing, inputs), None)


def _by_weights(
    sums: SlopedSums, later: _Later, grad: list[Tensor], inputs: SlopedInputs
) -> tuple[Tensor | None, ...]:
    """Return the gradients of ``<later.grad, tangents of the sums> + <grad, sums>`` by all inputs."""
    found = sums.second(inputs, later.tangents, (later.grad, grad))
    return found.values, found.slopes, None, None, found.features, found.last
