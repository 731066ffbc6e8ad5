"""Neighbour sums whose blocks run compiled code: functions of one block, compiled once for all."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Final, NamedTuple

import torch
from torch import Tensor

from lsf.models.message_passing.compiled.functions import BlockFunction, BlockFunctions
from lsf.models.message_passing.compiled.recording import Recorded, Sizes, record
from lsf.models.message_passing.compiled.sums import ByWeights, CompiledInputs, CompiledSum, Geometry
from lsf.models.message_passing.native.blocks import EdgeBlocks, smaller
from lsf.models.message_passing.native.groups import Group

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


def blocks_are_compiled() -> bool:
    """Say whether sums run compiled functions."""
    return getattr(_state, "find", None) is not None


class CompiledMessageSum(CompiledSum):
    """``B_i[m2, p, m1, c] = Σ_e Y[e, m2] R[e, p, c] h[s(e), m1, c]``, by compiled functions of a block.

    That is :class:`lsf.models.message_passing.native.sums.MessageSum` of other inputs. Radial weights R = H W
    and their derivatives R' = H' W are kept for the backward passes, those of all rows; without ``keep``
    those of a block are computed by every pass.
    """

    def __init__(
        self, blocks: EdgeBlocks, groups: tuple[Group, ...], n_channels: int, keep: bool = True
    ) -> None:
        if blocks.tables.slot_widths.device.type == "cpu":
            blocks = EdgeBlocks(blocks.tables, smaller(blocks.blocks, SLOTS))
        super().__init__(blocks)
        self.groups, self.n_channels, self.keep = groups, n_channels, keep
        self.functions = BlockFunctions(groups, n_channels)
        self.find: Find | None = getattr(_state, "find", None)

    def shapes(self, inputs: CompiledInputs) -> list[tuple[int, ...]]:
        """Return per group ``(n_atoms, 2 l2 + 1, paths · (2 l1 + 1) · n_channels)``."""
        n_atoms = inputs.features.shape[0]
        return [(n_atoms, *self.functions.sum_shape(group)) for group in self.groups]

    def values(self, inputs: CompiledInputs) -> list[Tensor]:
        """Return the sums."""
        return self._joined("forward", self._values(inputs, 1))

    def by_geometry(self, inputs: CompiledInputs, grad: Sequence[Tensor]) -> Geometry:
        """Return the gradients of ``<grad, sums>``."""
        by_features = torch.zeros_like(inputs.features)
        by_slot, by_y = [], []
        blocks = zip(self._senders, self._values(inputs, 2), *map(self._of_atoms, grad), strict=True)
        for senders, values, *g in blocks:
            by_gathered, by_lengths, by_block = self._call("backward", *values, *g)
            by_features.index_add_(0, senders.flatten(), by_gathered.flatten(0, 1))
            by_slot.append(by_lengths.flatten())
            by_y.append(by_block.flatten(0, 1))
        return Geometry(self.of_rows(torch.cat(by_slot), len(inputs.lengths)), torch.cat(by_y), by_features)

    def along(self, inputs: CompiledInputs, tangents: Geometry) -> list[Tensor]:
        """Return the tangents of the sums."""
        return self._joined("tangents", self._values(inputs, 2, tangents))

    def by_weights(
        self, inputs: CompiledInputs, tangents: Geometry, grads: tuple[Sequence[Tensor], Sequence[Tensor]]
    ) -> ByWeights:
        """Return the gradients of sums and tangents."""
        by_features, by_last = torch.zeros_like(inputs.features), torch.zeros_like(inputs.last)
        n_rows, (width, size) = len(inputs.lengths), inputs.last.shape
        # what is looked up gets its gradients back: weights and slopes side by side, or hidden layers
        into = inputs.last.new_zeros((n_rows, 2 * (size if self.keep else width)))
        g = [self._of_atoms(part) for parts in grads for part in parts]
        blocks = zip(self._rows, self._senders, self._values(inputs, 2, tangents), *g, strict=True)
        for rows, senders, values, *of_block in blocks:
            by_gathered, by_radial = self._call("second", *values, *of_block)
            by_features.index_add_(0, senders.flatten(), by_gathered.flatten(0, 1))
            by_rows, of_slots = by_radial.flatten(0, 1), rows.flatten()
            if not self.keep:
                hidden = [part.index_select(1, of_slots) for part in inputs[:2]]
                by_rows = torch.cat(_through_last(by_rows, hidden, inputs.last, by_last)).T
            into.index_add_(0, of_slots, by_rows)
        if self.keep:
            by_values, by_slopes = _through_last(into, inputs[:2], inputs.last, by_last)
        else:
            by_values, by_slopes = (part.contiguous() for part in into.T.split(width))
        return ByWeights(by_values, by_slopes, by_features, by_last)

    def _joined(self, name: str, arguments: Iterator[list[Tensor]]) -> list[Tensor]:
        """Return what a function gives for all blocks."""
        return [torch.cat(parts) for parts in zip(*(self._call(name, *v) for v in arguments), strict=True)]

    def _call(self, name: str, *tensors: Tensor) -> tuple[Tensor, ...]:
        assert self.find is not None, "sums were set up outside of compiled_blocks"
        return self.find(self.functions, name, tensors)(*tensors)

    def _values(
        self, inputs: CompiledInputs, count: int, tangents: Geometry | None = None
    ) -> Iterator[list[Tensor]]:
        """Return the arguments that functions share, block by block.

        They begin with radial weights and, of a ``count`` of 2, slopes, and end with tangents where there are
        some.
        """
        hidden = inputs[:count]
        if self.keep:
            self.kept += [part.T @ inputs.last for part in hidden[len(self.kept) :]]
        moved: Iterator[list[Tensor]] = itertools.repeat([])
        if tangents is not None:
            lengths, dy = self.of_slots(tangents.lengths), tangents.harmonics
            in_blocks = zip(self._of_slots(lengths), self._of_slots(dy), strict=True)
            moved = ([*of_block, tangents.features] for of_block in in_blocks)
        tables = zip(self._rows, self._of_slots(inputs.harmonics), self._senders, strict=True)
        for (rows, y, senders), more in zip(tables, moved, strict=False):
            of_slots = rows.flatten()
            if self.keep:
                # looked up here: compiled code would read every row a few numbers at a time
                radial = [part.index_select(0, of_slots) for part in self.kept[:count]]
            else:
                radial = [part.index_select(1, of_slots).T @ inputs.last for part in hidden]
            yield [*(part.view(*rows.shape, -1) for part in radial), y, inputs.features, senders, *more]

    @cached_property
    def _rows(self) -> list[Tensor]:
        return self._of_slots(self.blocks.tables.row_of_slot)

    @cached_property
    def _senders(self) -> list[Tensor]:
        return self._of_slots(self.blocks.tables.sender_of_slot)

    def _of_slots(self, values: Tensor) -> list[Tensor]:
        """Return values of all slots block by block, ``(n_atoms, width, …)`` each."""
        blocks = self.blocks.blocks
        parts = values.split([block.n_atoms * block.width for block in blocks])
        return [
            part.view(block.n_atoms, block.width, *values.shape[1:])
            for part, block in zip(parts, blocks, strict=True)
        ]

    def _of_atoms(self, values: Tensor) -> list[Tensor]:
        """Return values of all sorted atoms block by block."""
        return list(values.split([block.n_atoms for block in self.blocks.blocks]))


def _through_last(by_radial: Tensor, hidden: Sequence[Tensor], last: Tensor, by_last: Tensor) -> list[Tensor]:
    """Return the gradients of values and slopes ``(width, n)`` of the last hidden layer.

    ``by_radial`` (n, 2 · n_weights) are those of weights and of slopes. Adds those of the last weights.
    """
    found = []
    for part, by_part in zip(hidden, by_radial.split(last.shape[1], 1), strict=True):
        by_last.addmm_(part, by_part)
        found.append(last @ by_part.T)
    return found


class BlockGraph(NamedTuple):
    """The traced graph of a function of a block, small arguments, and their sizes by name."""

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
    leading: list[Sizes] = [slots] if name == "forward" else [slots, slots]
    leading += [slots, ("n_atoms",), slots]
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
