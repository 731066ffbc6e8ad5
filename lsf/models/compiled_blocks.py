"""Sums over neighbours whose blocks run compiled code: functions of one block, compiled once for all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

import torch
from torch import Tensor

from lsf.models.block_functions import BlockFunction, BlockFunctions
from lsf.models.blocks import Block, EdgeBlocks, smaller
from lsf.models.moments import Inputs
from lsf.models.neighbor_sums import Group, MessageMoments
from lsf.models.recorded import Recorded, Sizes, record

SLOTS: Final = 256
"""Slots of a compiled block at most in float64, unless one atom alone has more: what a core's own cache holds
of them. Compiled blocks are few calls each."""

Find = Callable[[BlockFunctions, str, Sequence[Tensor]], BlockFunction]
"""Returns the compiled function of a name, for arguments like these."""

_state = threading.local()


@contextmanager
def compiled_blocks(find: Find) -> Iterator[None]:
    """Have sums that are set up inside run the functions that ``find`` returns."""
    before = getattr(_state, "find", None)
    _state.find = find
    try:
        yield
    finally:
        _state.find = before


def message_moments(blocks: EdgeBlocks, groups: tuple[Group, ...], n_channels: int) -> MessageMoments:
    """Return the sums of messages, compiled inside of :func:`compiled_blocks`."""
    find: Find | None = getattr(_state, "find", None)
    if find is None:
        return MessageMoments(blocks, groups, n_channels)
    return CompiledMessages(blocks, groups, n_channels, find)


class CompiledMessages(MessageMoments):
    """The same sums, by compiled functions of a block."""

    def __init__(self, blocks: EdgeBlocks, groups: tuple[Group, ...], n_channels: int, find: Find) -> None:
        if blocks.tables.slot_widths.device.type == "cpu":
            blocks = EdgeBlocks(blocks.tables, smaller(blocks.blocks, SLOTS))
        super().__init__(blocks, groups, n_channels)
        self.functions, self.find = BlockFunctions(groups, n_channels), find

    def forward(self, block: Block, hidden: Tensor, inputs: Inputs, out: Sequence[Tensor]) -> None:
        """Write the sums of a block."""
        radial = self._weights(block, hidden, inputs.last, True)
        self._write("forward", block, self._values(block, radial, inputs), out)

    def backward(
        self, block: Block, hidden: Tensor, inputs: Inputs, grad: Sequence[Tensor], into: Inputs
    ) -> Tensor:
        """Write the gradients of a block."""
        values = self._values(block, self._weights(block, hidden, inputs.last), inputs)
        found = self._call("backward", *values, *(part[block.atoms] for part in grad))
        by_features, by_radial, by_y = _flat(found)
        self._scatter(by_features, into.features, block)
        if into.last.numel():
            into.last.addmm_(hidden.T, by_radial)
        if into.harmonics.numel():
            into.harmonics[block.slots].add_(by_y)
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
        self._write("tangents", block, self._both(block, hidden, inputs, tangents, True), out)

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
        name = "second_of_all" if into.harmonics.numel() else "second"
        g = [part[block.atoms] for parts in grads for part in parts]
        found = self._call(name, *self._both(block, hidden, inputs, tangents, False), *g)
        by_features, by_radial, by_tangent, *by_y = _flat(found)
        self._scatter(by_features, into.features, block)
        into.last.addmm_(hidden[0].T, by_radial).addmm_(hidden[1].T, by_tangent)
        for part in by_y:
            into.harmonics[block.slots].add_(part)
        return by_radial @ inputs.last.T, by_tangent @ inputs.last.T if tangents_too else None

    def _call(self, name: str, *tensors: Tensor) -> tuple[Tensor, ...]:
        return self.find(self.functions, name, tensors)(*tensors)

    def _write(self, name: str, block: Block, tensors: Sequence[Tensor], out: Sequence[Tensor]) -> None:
        for result, value in zip(out, self._call(name, *tensors), strict=True):
            result[block.atoms] = value

    def _values(self, block: Block, radial: Tensor, inputs: Inputs) -> list[Tensor]:
        shape, slots = (block.n_atoms, block.width), block.slots
        return [
            radial.view(*shape, -1),
            inputs.harmonics[slots].view(*shape, -1),
            inputs.features,
            self.blocks.tables.sender_of_slot[slots].view(shape),
        ]

    def _both(
        self, block: Block, hidden: tuple[Tensor, Tensor], inputs: Inputs, tangents: Inputs, first: bool
    ) -> list[Tensor]:
        shape = block.n_atoms, block.width
        radial = self._weights(block, hidden[0], inputs.last)
        dradial = self._tangent_weights(block, hidden[1], inputs, tangents, first).view(*shape, -1)
        dy = tangents.harmonics[block.slots].view(*shape, -1)
        return [*self._values(block, radial, inputs), dradial, dy, tangents.features]


def _flat(found: Sequence[Tensor]) -> list[Tensor]:
    """Return results (A, W, n) of slots as rows."""
    return [part.view(-1, part.shape[2]) for part in found]


class BlockGraph(NamedTuple):
    """The graph of a function of a block, small arguments, and their sizes by name."""

    recorded: Recorded
    examples: list[Tensor]
    sizes: list[Sizes]


def block_graph(functions: BlockFunctions, name: str, like: Sequence[Tensor], what: str) -> BlockGraph:
    """Return the graph of a function for any number of atoms and slots.

    ``like`` are any arguments of it, which tell what does not vary. Errors name ``what``.
    """
    function: BlockFunction = getattr(functions, name)
    # of the size blocks have: compilers choose by it what to do in parallel
    numbers = {"n_atoms": 199, "n_block": 3, "n_slots": 85}
    slots: Sizes = "n_block", "n_slots"
    leading: list[Sizes] = [slots, slots, ("n_atoms",), slots]
    leading += [] if name in ("forward", "backward") else [slots, slots, ("n_atoms",)]
    leading += [("n_block",)] * (len(like) - len(leading))
    tensors, sizes = [], []
    for value, names in zip(like, leading, strict=True):
        sizes.append((*names, *value.shape[len(names) :]))
        shape = [numbers.get(str(size), size) for size in sizes[-1]]
        tensors.append(torch.ones(shape, dtype=value.dtype, device=value.device))
    # without gradient, as it is called
    with torch.no_grad():
        recorded = record(lambda *arguments: function(*arguments), (), tensors, sizes, what)
    return BlockGraph(recorded, tensors, sizes)
