"""The neighbour list in blocks of receivers with nearly as many neighbours: the layout of blockwise sums.

A block is a few atoms and, for each, the same number of slots; slot by slot it holds an incoming edge, or
nothing. Atoms are sorted by degree first, so that slabs, clusters and mixed batches leave few slots empty. A
block is small enough that everything computed on its edges stays in the processor's cache.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from lsf.models.message_passing.native.edge_pairs import radial_rows

SLOTS_PER_BLOCK: Final = {"cpu": 768, "cuda": 1 << 20}
"""Slots of a block at most in float64, unless one atom alone has more. On a GPU, few large blocks."""


class Block(NamedTuple):
    """Sorted atoms ``[first, first + n_atoms)`` of ``width`` slots each; slots are numbered from ``slot``."""

    first: int
    n_atoms: int
    width: int
    slot: int

    @property
    def atoms(self) -> slice:
        """Sorted atoms of the block."""
        return slice(self.first, self.first + self.n_atoms)

    @property
    def slots(self) -> slice:
        """Slots of the block."""
        return slice(self.slot, self.slot + self.n_atoms * self.width)


class EdgeTables(NamedTuple):
    """Where atoms, edges and rows of the radial functions stand; all int64.

    Indices one past the end stand for nothing: edge n_edges, row n_rows - 1, which is zero, and row n_rows.
    """

    slot_widths: Tensor  # (n_atoms,) slots of every sorted atom, falling
    atom_of_place: Tensor  # (n_atoms,) sorted atoms
    place_of_atom: Tensor  # (n_atoms,)
    edge_of_slot: Tensor  # (n_edge_slots,)
    slot_of_edge: Tensor  # (n_edges,)
    sender_of_slot: Tensor  # (n_edge_slots,), 0 where the slot is empty
    row_of_slot: Tensor  # (n_edge_slots,)
    edge_of_row: Tensor  # (n_rows,): radial functions are evaluated once for the two directions of a pair
    row_of_edge: Tensor  # (n_edges,): n_rows where the row is that of the other direction


class EdgeBlocks:
    """The blocks of a batch."""

    def __init__(self, tables: EdgeTables, blocks: list[Block]) -> None:
        self.tables, self.blocks = tables, blocks

    def in_slots(self, values: Tensor) -> Tensor:
        """Return ``(n_edge_slots, n)`` from values of every edge ``(n_edges, n)``; empty slots are zero."""
        found: Tensor = _Looked.apply(values, self.tables.edge_of_slot, self.tables.slot_of_edge, True)
        return found

    def in_rows(self, values: Tensor) -> Tensor:
        """Return ``(n_rows, n)`` from values of every edge ``(n_edges, n)``; the last row is zero."""
        found: Tensor = _Looked.apply(values, self.tables.edge_of_row, self.tables.row_of_edge, True)
        return found

    def summed(self, left: Tensor, right: Tensor) -> Tensor:
        """Return per sorted atom ``Σ_slots left ⊗ right``, ``(n_atoms, n, m)`` of ``(n_slots, n or m)``."""
        parts = []
        for block in self.blocks:
            rows = [values[block.slots].reshape(block.n_atoms, block.width, -1) for values in (left, right)]
            parts.append(torch.bmm(rows[0].transpose(1, 2), rows[1]))
        return torch.cat(parts)

    def unsort(self, values: Tensor) -> Tensor:
        """Return values of sorted atoms ``(n_atoms, …)`` in the atoms' own order."""
        there, back = self.tables.place_of_atom, self.tables.atom_of_place
        found: Tensor = _Looked.apply(values.flatten(1), there, back, False)
        return found.reshape(values.shape)


class _Looked(torch.autograd.Function):
    """Rows ``there`` of values (n, m), and nothing is scattered: ``back`` says where every row went.

    With ``padded`` indices may be one past the end, where there is zero.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, there: Tensor, back: Tensor, padded: bool) -> Tensor:
        ctx.save_for_backward(there, back)
        ctx.padded = padded
        if padded:
            values = torch.cat([values, values.new_zeros((1, values.shape[1]))])
        return nn.functional.embedding(there, values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        there, back = ctx.saved_tensors
        return _Looked.apply(grad, back, there, ctx.padded), None, None, None


def edge_blocks(
    edge_index: Tensor,
    neighbor_slots: Tensor,
    unit_shifts: Tensor | None = None,
    itemsize: int = 8,
    sparing: bool = False,
    more_slots: int = 0,
) -> EdgeBlocks:
    """Return the blocks of a batch.

    ``neighbor_slots`` are those of :func:`lsf.data.graph.neighbor_slots`, ``itemsize`` the bytes of a number.
    With ``unit_shifts`` (n_edges, 3) radial functions are evaluated once per pair. With ``sparing`` blocks
    are a quarter as large, for less memory in somewhat more calls. Atoms of the first block get
    ``more_slots`` than they need.
    """
    n_edges = edge_index.shape[1]
    n_atoms = neighbor_slots.shape[0]
    degrees = (neighbor_slots < n_edges).sum(1)
    order = torch.argsort(degrees, descending=True, stable=True)
    falling = degrees.index_select(0, order).tolist()
    falling[:1] = [falling[0] + more_slots] if falling else []
    blocks = blocks_of(falling, block_limit(edge_index.device, itemsize, sparing))
    rows = nn.functional.pad(neighbor_slots, (0, more_slots), value=n_edges).index_select(0, order)
    edges = torch.cat([rows[block.atoms, : block.width].reshape(-1) for block in blocks])
    widths = [block.width for block in blocks for _ in range(block.n_atoms)]
    radial = radial_rows(edge_index, unit_shifts, n_atoms)
    n_rows = len(radial.edges) + 1
    edge_of_row = torch.cat([radial.edges, radial.edges.new_full((1,), n_edges)])
    tables = EdgeTables(
        torch.tensor(widths, dtype=torch.int64, device=order.device),
        order,
        _inverse(order, n_atoms, 0),
        edges,
        _inverse(edges, n_edges + 1, 0)[:-1],
        torch.cat([edge_index[0], edge_index.new_zeros(1)]).index_select(0, edges),
        radial.of_edge.index_select(0, edges),
        edge_of_row,
        _inverse(edge_of_row, n_edges + 1, n_rows)[:-1],
    )
    return EdgeBlocks(tables, blocks)


def block_limit(device: torch.device, itemsize: int, sparing: bool = False) -> int:
    """Return the largest number of slots of a block of several atoms."""
    limit = SLOTS_PER_BLOCK.get(device.type, SLOTS_PER_BLOCK["cuda"]) * 8 // itemsize
    return limit // 4 if sparing else limit


def blocks_of(widths: list[int], limit: int) -> list[Block]:
    """Return blocks of at most ``limit`` slots for atoms that need so many slots, falling.

    From the widths of blocks it returns these blocks.
    """
    blocks, first, slot = [], 0, 0
    while first < len(widths):
        width = max(1, widths[first])
        count = min(max(1, limit // width), len(widths) - first)
        blocks.append(Block(first, count, width, slot))
        first, slot = first + count, slot + count * width
    return blocks


def smaller(blocks: list[Block], limit: int) -> list[Block]:
    """Return the same blocks in pieces of at most ``limit`` slots, or of one atom."""
    pieces = []
    for block in blocks:
        step = max(1, limit // block.width)
        for first in range(0, block.n_atoms, step):
            count, slot = min(step, block.n_atoms - first), block.slot + first * block.width
            pieces.append(Block(block.first + first, count, block.width, slot))
    return pieces


def _inverse(index: Tensor, length: int, rest: int) -> Tensor:
    """Return where in ``index`` every number below ``length`` stands, ``rest`` for those that do not."""
    found = torch.full((length,), rest, dtype=torch.int64, device=index.device)
    return found.scatter(0, index, torch.arange(len(index), device=index.device))
