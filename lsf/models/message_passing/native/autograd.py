"""Sums over neighbours, block by block, with their first and second derivatives written out.

Both sums below are linear in the harmonics Y, in the last hidden layer H of the radial network and, where
they have them, in the senders' features h and the last radial weights W. Their gradients are therefore sums
of the same kind, and the derivative of a gradient in the direction of a cotangent is a tangent,

    <g, S(Y, H, h)>  →  d/dε <g, S(Y + ε v_Y, H + ε v_H, h + ε v_h)>,

whose own gradient is written out once more. Where nothing is kept, nothing per edge outlives its block but
basis, harmonics and, while a pass lasts, the hidden layers, which the two directions of a pair share: memory
does not grow with channels. The work stays in the cache. Derivatives beyond the second come from
:meth:`Moments.plain` through autograd.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lsf.models.message_passing.native.blocks import Block, EdgeBlocks
from lsf.models.message_passing.native.radial import HiddenLayers, HiddenRows, Tangents

_state = threading.local()


@contextmanager
def weights_fixed() -> Iterator[None]:
    """Leave out gradients of the radial weights: forces of a model that is not being trained."""
    before = getattr(_state, "fixed", False)
    _state.fixed = True
    try:
        yield
    finally:
        _state.fixed = before


class _Positions:
    """Says whether gradients with respect to positions may still be asked for."""

    wanted = True


@contextmanager
def positions_kept_inside() -> Iterator[None]:
    """Leave out gradients of the geometry once the block has ended: nobody outside holds the positions.

    Those of forces with respect to weights, which a training step takes afterwards, do not need them.
    """
    before, positions = getattr(_state, "positions", None), _Positions()
    _state.positions = positions
    try:
        yield
    finally:
        _state.positions = before
        positions.wanted = False


def positions_context() -> _Positions:
    """Return what says whether gradients of the geometry are still wanted."""
    return getattr(_state, "positions", None) or _Positions()


def weights_are_fixed() -> bool:
    """Say whether gradients of the weights are left out."""
    return bool(getattr(_state, "fixed", False))


class Inputs(NamedTuple):
    """What a sum depends on; ``features`` and ``last`` are empty where a sum has none."""

    basis: Tensor  # (n_rows, n_radial), which the blocks' ``rows`` point to
    harmonics: Tensor  # (n_slots, (max_ell + 1)²)
    features: Tensor  # (n_atoms, n_components · n_channels)
    last: Tensor  # (width, n_paths · n_channels)


class Wanted(NamedTuple):
    """What a backward pass is asked for."""

    geometry: bool  # gradients of basis and harmonics
    weights: bool  # those of the weights
    layers: bool  # those of every hidden layer, for the second pass


class Gradients(NamedTuple):
    """What it finds; empty where it was not asked for."""

    inputs: Inputs
    weights: list[Tensor]
    layers: list[list[Tensor]] | None


class Moments(ABC):
    """A sum over neighbours; methods work on one block at a time.

    With ``keep``, what the forward pass computed on edges is there for the backward passes; otherwise they
    compute it again.
    """

    blocks: EdgeBlocks
    keep: bool = False

    def __init__(self) -> None:
        self.positions = positions_context()
        self.later: _Later | None = None
        self.kept: list[Tensor] = []
        self._hidden: HiddenRows | None = None

    def hidden(self, basis: Tensor, weights: Sequence[Tensor]) -> HiddenRows:
        """Return the hidden layers of all rows, from the forward pass if they were kept."""
        if self._hidden is not None:
            return self._hidden
        rows = HiddenRows(basis, weights, self.kept[: 2 * len(weights)])
        self._hidden = rows if self.keep else None
        return rows

    def sums(self, inputs: Inputs, weights: Sequence[Tensor]) -> list[Tensor]:
        """Return the sums of all sorted atoms; fill ``kept`` with what backward passes need again."""
        rows = self.hidden(inputs.basis, weights)
        if self.keep:
            self.kept = [*rows.values, *self.kept_memory(inputs)]
        out = [inputs.basis.new_empty(shape) for shape in self.shapes(inputs)]
        for block in self.blocks.blocks:
            self.forward(block, self.in_slots(rows.last, block), inputs, out)
        return out

    def gradients(
        self,
        inputs: Inputs,
        weights: Sequence[Tensor],
        grad: Sequence[Tensor],
        wanted: Wanted,
    ) -> Gradients:
        """Return the gradients of ``<grad, sums>``."""
        into = _gradients_of(inputs, wanted.geometry)
        by_weight = [torch.zeros_like(weight) for weight in weights] if wanted.weights else []
        if not wanted.weights:
            into = into._replace(last=inputs.last.new_empty(0))
        rows = self.hidden(inputs.basis, weights)
        by_hidden = torch.zeros_like(rows.last)
        for block in self.blocks.blocks:
            by_block = self.backward(block, self.in_slots(rows.last, block), inputs, grad, into)
            self.add_in_rows(by_block, block, by_hidden)
        layers = rows.backward(by_hidden, by_weight, into.basis, wanted.layers)
        return Gradients(into, by_weight, layers)

    @abstractmethod
    def shapes(self, inputs: Inputs) -> list[tuple[int, ...]]:
        """Return the shapes of the sums of all sorted atoms."""

    def kept_memory(self, inputs: Inputs) -> list[Tensor]:  # noqa: ARG002 - for sums that keep more
        """Return memory for what the forward pass keeps besides the hidden layers."""
        return []

    @abstractmethod
    def forward(self, block: Block, hidden: Tensor, inputs: Inputs, out: Sequence[Tensor]) -> None:
        """Write the sums of a block's atoms."""

    @abstractmethod
    def backward(
        self, block: Block, hidden: Tensor, inputs: Inputs, grad: Sequence[Tensor], into: Inputs
    ) -> Tensor:
        """Write the gradients of a block, add to that of ``features``, and return that of ``hidden``."""

    @abstractmethod
    def tangents(
        self,
        block: Block,
        hidden: tuple[Tensor, Tensor],
        inputs: Inputs,
        tangents: Inputs,
        out: Sequence[Tensor],
    ) -> None:
        """Write the tangents of the sums; ``hidden`` holds values and tangents of the last layer."""

    @abstractmethod
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
        """Write the gradients of ``<grads[0], tangents of the sums> + <grads[1], sums>`` to ``into``.

        Those of the values of ``hidden`` are returned, and those of its tangents with ``tangents_too``.
        """

    @abstractmethod
    def plain(self, inputs: Inputs, hidden: Tensor) -> list[Tensor]:
        """Return the sums by operations that autograd differentiates; ``hidden`` (n_slots, width)."""

    def in_slots(self, values: Tensor, block: Block) -> Tensor:
        """Return the rows ``(n, width)`` of a block's slots."""
        return values.index_select(0, self.blocks.tables.row_of_slot[block.slots])

    def add_in_rows(self, values: Tensor, block: Block, into: Tensor) -> None:
        """Add what a block's slots give back to their rows."""
        into.index_add_(0, self.blocks.tables.row_of_slot[block.slots], values)


def summed(moments: Moments, inputs: Inputs, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the sums over neighbours; ``weights`` are those of the hidden layers, scales included."""
    result: tuple[Tensor, ...] = _Sum.apply(moments, weights_are_fixed(), *inputs, *weights)
    return result[:-1]


def _gradients_of(inputs: Inputs, geometry: bool) -> Inputs:
    """Return where the gradients of inputs go; those of the geometry are empty unless asked for."""
    nothing = inputs.basis.new_empty(0)
    return Inputs(
        torch.empty_like(inputs.basis) if geometry else nothing,
        torch.zeros_like(inputs.harmonics) if geometry else nothing,
        torch.zeros_like(inputs.features),
        torch.zeros_like(inputs.last),
    )


def _geometry(moments: Moments, into: Inputs) -> tuple[Tensor | None, Tensor | None]:
    return (into.basis, into.harmonics) if moments.positions.wanted else (None, None)


class _Later(NamedTuple):
    """Gradients of <grad, tangents of the sums> that are still to be added to those of the inputs."""

    grad: list[Tensor]
    tangents: Inputs
    # Of the hidden layers, where they are kept: gradients of <grad, sums>, and tangents.
    by_hidden: list[list[Tensor]] | None
    hidden: tuple[Tensor, list[Tangents]] | None


class _Sum(torch.autograd.Function):
    """The sums themselves, and a ticket; the gradient is :class:`_SumBackward`.

    A training step goes over the edges twice after the forces: for the gradients of <forces' cotangent,
    forces>, and once the rest of the network has turned the tangents of the sums into a part of the sums' own
    gradient, for what follows from that. Both passes write to the same gradients, so that the first leaves
    its part to the second. The gradient of the ticket, an input of the forces, says that there is one, and
    makes autograd wait for it.
    """

    @staticmethod
    def forward(ctx: Any, moments: Moments, fixed: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        inputs, weights = Inputs(*tensors[:4]), tensors[4:]
        ctx.moments, ctx.fixed = moments, fixed
        ctx.set_materialize_grads(False)
        moments.keep = moments.keep and any(ctx.needs_input_grad)
        out, ticket = moments.sums(inputs, weights), inputs.basis.new_zeros(())
        ctx.save_for_backward(*tensors, ticket)
        ctx.shapes = [part.shape for part in out]
        return (*out, ticket)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        *grad, by_ticket = grads
        moments = ctx.moments
        *tensors, ticket = ctx.saved_tensors
        # With create_graph only forces are asked for: gradients of weights would be thrown away.
        weights_too = not (ctx.fixed or torch.is_grad_enabled()) and any(ctx.needs_input_grad[5:])
        given = [
            ticket.new_zeros(shape) if part is None else part
            for part, shape in zip(grad, ctx.shapes, strict=True)
        ]
        if by_ticket is not None:
            later, moments.later = moments.later, None
            return (None, None, *_second(moments, later, given, tensors))
        again = moments.keep and torch.is_grad_enabled()
        found = _SumBackward.apply(moments, weights_too, again, len(given), *given, *tensors, ticket)
        return (None, None, *found)


class _SumBackward(torch.autograd.Function):
    """The gradient of the sums as a function of its own."""

    @staticmethod
    def forward(
        ctx: Any, moments: Moments, weights_too: bool, again: bool, n_grad: int, *tensors: Tensor
    ) -> tuple[Tensor | None, ...]:
        ctx.moments, ctx.n_grad = moments, n_grad
        ctx.set_materialize_grads(False)
        tensors = tensors[:-1]
        ctx.save_for_backward(*tensors)
        grad = [part.contiguous() for part in tensors[:n_grad]]
        inputs, weights = Inputs(*tensors[n_grad : n_grad + 4]), tensors[n_grad + 4 :]
        wanted = Wanted(moments.positions.wanted, weights_too, again)
        into, by_weight, ctx.by_hidden = moments.gradients(inputs, weights, grad, wanted)
        last = into.last if weights_too else None
        nothing = (None,) * (len(weights) - len(by_weight))
        return (*_geometry(moments, into), into.features, last, *by_weight, *nothing)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
        n_grad, moments = ctx.n_grad, ctx.moments
        tensors = ctx.saved_tensors
        if torch.is_grad_enabled():
            return (None, None, None, None, *_by_autograd(moments, n_grad, tensors, cotangents), None)
        grad = [part.contiguous() for part in tensors[:n_grad]]
        inputs, weights = Inputs(*tensors[n_grad : n_grad + 4]), tensors[n_grad + 4 :]
        basis, harmonics, features = (
            torch.zeros_like(value) if cotangent is None else cotangent.contiguous()
            for cotangent, value in zip(cotangents[:3], inputs[:3], strict=True)
        )
        rows = moments.hidden(inputs.basis, weights)
        tangent, layers = rows.tangent(basis)
        hidden = (tangent, layers) if moments.keep else None
        later = _Later(grad, Inputs(basis, harmonics, features, inputs.last), ctx.by_hidden, hidden)
        out = [torch.empty_like(part) for part in grad]
        for block in moments.blocks.blocks:
            both = moments.in_slots(rows.last, block), moments.in_slots(tangent, block)
            moments.tangents(block, both, inputs, later.tangents, out)
        if moments.later is None:
            moments.later = later
            return (None, None, None, None, *out, *(None,) * (4 + len(weights)), tangent.new_ones(()))
        nothing = [torch.zeros_like(part) for part in grad]
        return (None, None, None, None, *out, *_second(moments, later, nothing, tensors[n_grad:]), None)


def _second(
    moments: Moments, later: _Later, grad: list[Tensor], tensors: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Return the gradients of ``<later.grad, tangents of the sums> + <grad, sums>``."""
    inputs, weights = Inputs(*tensors[:4]), tensors[4:]
    into = _gradients_of(inputs, moments.positions.wanted)
    by_weight = [torch.zeros_like(weight) for weight in weights]
    rows = moments.hidden(inputs.basis, weights)
    tangent, layers = later.hidden or rows.tangent(later.tangents.basis)
    by_value = torch.zeros_like(rows.last)
    # The gradient of the tangents of the last hidden layer is what the forces found for its values.
    by_tangent = torch.zeros_like(tangent) if later.by_hidden is None else None
    grads = later.grad, [part.contiguous() for part in grad]
    for block in moments.blocks.blocks:
        both = moments.in_slots(rows.last, block), moments.in_slots(tangent, block)
        from_block = moments.second(block, both, inputs, later.tangents, grads, into, by_tangent is not None)
        for values, total in zip(from_block, (by_value, by_tangent), strict=True):
            if values is not None and total is not None:
                moments.add_in_rows(values, block, total)
    rows.second(by_value, by_tangent, later.by_hidden, layers, by_weight, into.basis)
    return (*_geometry(moments, into), into.features, into.last, *by_weight)


def _by_autograd(
    moments: Moments, n_grad: int, tensors: Sequence[Tensor], cotangents: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Return what :meth:`_SumBackward.backward` does, differentiable once more, by plain operations."""
    # views, so that one tensor's dependence on another does not enter the partial derivatives
    own = [value.view_as(value) for value in tensors]
    grad, rest = own[:n_grad], own[n_grad:]
    inputs = Inputs(*rest[:4])
    hidden = HiddenLayers(rest[4:]).forward(inputs.basis)
    out = moments.plain(inputs, torch.nn.functional.embedding(moments.blocks.tables.row_of_slot, hidden))
    seen = [
        (value, cotangent)
        for value, cotangent in zip(rest, cotangents, strict=True)
        if cotangent is not None and value.requires_grad
    ]
    first = torch.autograd.grad(out, [value for value, _ in seen], grad, create_graph=True)
    wanted = [value for value in own if value.requires_grad]
    found = iter(
        torch.autograd.grad(
            first,
            wanted,
            [cotangent for _, cotangent in seen],
            create_graph=True,
            allow_unused=True,
        )
    )
    return [next(found) if value.requires_grad else None for value in own]
