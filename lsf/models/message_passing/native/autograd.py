r"""Neighbour sums as autograd functions: first and second derivatives written by hand, both passes shared.

A neighbour sum S(x) of inputs x (harmonics, radial functions, senders' features, weights) is linear in each
of them. Reverse mode needs the gradient of :math:`\langle g, S(x) \rangle`, a sum of the same kind. Training
on forces differentiates that gradient once more, along cotangents v of the geometry. This is the forward-mode
tangent of the sum,

.. math:: \frac{d}{d\epsilon} \langle g, S(x + \epsilon v) \rangle = \langle g, \dot S(x; v) \rangle

so that two more routines suffice: the tangent :math:`\dot S`, and the gradient of :math:`\langle g, \dot S(x;
v) \rangle + \langle g', S(x) \rangle` w.r.t. x. A :class:`NeighborSum` states these four;
:func:`neighbor_sum` makes them a function that autograd differentiates. Higher derivatives come from
:meth:`NeighborSum.by_operations` through autograd itself.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from lsf.models.message_passing.native.blocks import EdgeBlocks

_state = threading.local()

MaybeTensors = list[Tensor | None]


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


class Wanted(NamedTuple):
    """What a first backward pass is asked for."""

    inputs: Sequence[bool]  # which inputs need a gradient
    weights: bool  # whether those of the weights are among them
    twice: bool  # whether the gradients will be differentiated


class Postponed(NamedTuple):
    """A part of the second derivatives that is still to be added: the gradient of ``<grad, tangent>``."""

    grad: list[Tensor]
    tangents: Any  # v, as the sum has it
    kept: Any = None  # what else the sum needs again


class NeighborSum(ABC):
    """A sum over neighbours with its derivatives.

    ``inputs`` of all methods are the tensors :func:`neighbor_sum` was given, ``grad`` is a gradient of every
    result. ``weights`` says which inputs are weights, which forces alone do not need.
    """

    weights: ClassVar[slice]

    def __init__(self, blocks: EdgeBlocks) -> None:
        self.blocks = blocks
        self.positions: _Positions = getattr(_state, "positions", None) or _Positions()
        self.postponed: Postponed | None = None

    def begin(self, derivatives: bool) -> None:  # noqa: B027 - for sums that keep something
        """Say before the forward pass whether derivatives will follow."""

    @abstractmethod
    def sums(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return S."""

    @abstractmethod
    def gradients(
        self, inputs: Sequence[Tensor], grad: list[Tensor], wanted: Wanted
    ) -> tuple[MaybeTensors, Any]:
        """Return the gradients of ``<grad, S>`` w.r.t. all inputs, and ``kept`` of :meth:`tangents`.

        None stands for gradients that are not wanted.
        """

    @abstractmethod
    def tangents(
        self, inputs: Sequence[Tensor], grad: list[Tensor], cotangents: Sequence[Tensor | None], kept: Any
    ) -> tuple[list[Tensor], Postponed]:
        """Return the forward-mode tangents of S along the cotangents of all gradients.

        With them comes what :meth:`second` needs to differentiate ``<grad, tangents>``.
        """

    @abstractmethod
    def second(self, inputs: Sequence[Tensor], postponed: Postponed, grad: list[Tensor]) -> MaybeTensors:
        """Return the gradients of ``<postponed.grad, tangents> + <grad, S>`` w.r.t. all inputs."""

    @abstractmethod
    def by_operations(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return S by operations that autograd differentiates to any order."""


def neighbor_sum(sums: NeighborSum, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return S, differentiable; a ``sums`` object serves one call."""
    fixed = bool(getattr(_state, "fixed", False))
    result: tuple[Tensor, ...] = _Sums.apply(sums, fixed, *inputs)
    return result[:-1]


class _Sums(torch.autograd.Function):
    """S, and a token that orders the backward passes; the gradient of S is :class:`_Gradients`.

    The loss of a training step reaches S on two ways: through the forces, by the backward pass of
    :class:`_Gradients`, and through the energy and the tangents which that pass returns, by this one. Both
    add to the gradients of the same inputs, over the same edges. The first therefore leaves its part in
    ``sums.postponed`` for the second, and the edges are visited once. Two things make this safe. The token, a
    zero that is a result here and an input of :class:`_Gradients`, makes autograd run this pass after that
    one. Its gradient says that a part waits. A graph without forces, or a second one through the same S,
    finds no gradient of a token, and nothing is postponed twice.
    """

    @staticmethod
    def forward(ctx: Any, sums: NeighborSum, fixed: bool, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.sums, ctx.fixed = sums, fixed
        ctx.set_materialize_grads(False)
        sums.begin(any(ctx.needs_input_grad))
        out, token = sums.sums(inputs), inputs[0].new_zeros(())
        ctx.save_for_backward(*inputs, token)
        ctx.shapes = [part.shape for part in out]
        return (*out, token)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        *parts, of_token = grads
        sums: NeighborSum = ctx.sums
        *inputs, token = ctx.saved_tensors
        grad = [
            token.new_zeros(shape) if part is None else part.contiguous()
            for part, shape in zip(parts, ctx.shapes, strict=True)
        ]
        if of_token is not None:
            postponed, sums.postponed = sums.postponed, None
            assert postponed is not None
            return (None, None, *sums.second(inputs, postponed, grad))
        needed = ctx.needs_input_grad[2:]
        # With create_graph only forces are asked for: gradients of weights would be thrown away.
        again = torch.is_grad_enabled()
        wanted = Wanted(needed, not (ctx.fixed or again) and any(needed[sums.weights]), again)
        found = _Gradients.apply(sums, wanted, len(grad), *grad, *inputs, token)
        return (None, None, *found)


class _Gradients(torch.autograd.Function):
    """The gradients of S as a function of its own."""

    @staticmethod
    def forward(
        ctx: Any, sums: NeighborSum, wanted: Wanted, n_grad: int, *tensors: Tensor
    ) -> tuple[Tensor | None, ...]:
        ctx.sums, ctx.n_grad = sums, n_grad
        ctx.set_materialize_grads(False)
        tensors = tensors[:-1]
        ctx.save_for_backward(*tensors)
        found, ctx.kept = sums.gradients(tensors[n_grad:], [*tensors[:n_grad]], wanted)
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
        sums: NeighborSum = ctx.sums
        grad, inputs = [*ctx.saved_tensors[: ctx.n_grad]], ctx.saved_tensors[ctx.n_grad :]
        nothing: MaybeTensors = [None] * len(inputs)
        if torch.is_grad_enabled():
            return (None, None, None, *_by_autograd(sums, grad, inputs, cotangents), None)
        out, part = sums.tangents(inputs, grad, cotangents, ctx.kept)
        if sums.postponed is None:
            # the pass of _Sums that the token's gradient announces adds this part to its own
            sums.postponed = part
            return (None, None, None, *out, *nothing, out[0].new_ones(()))
        # another gradient of the same S waits already: this one is added at once
        zero = [torch.zeros_like(value) for value in grad]
        return (None, None, None, *out, *sums.second(inputs, part, zero), None)


def _by_autograd(
    sums: NeighborSum, grad: list[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor | None]
) -> MaybeTensors:
    """Return what the backward pass of :class:`_Gradients` does, differentiable once more."""
    # views, so that one tensor's dependence on another does not enter the partial derivatives
    own = [value.view_as(value) for value in (*grad, *inputs)]
    grad, inputs = own[: len(grad)], own[len(grad) :]
    out = sums.by_operations(inputs)
    seen = [
        (value, cotangent)
        for value, cotangent in zip(inputs, cotangents, strict=True)
        if cotangent is not None and value.requires_grad
    ]
    first = torch.autograd.grad(out, [value for value, _ in seen], grad, create_graph=True)
    wanted = [value for value in own if value.requires_grad]
    along = [cotangent for _, cotangent in seen]
    found = iter(torch.autograd.grad(first, wanted, along, create_graph=True, allow_unused=True))
    return [next(found) if value.requires_grad else None for value in own]
