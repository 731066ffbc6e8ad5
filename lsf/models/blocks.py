"""Receivers in blocks of nearly equal degree: the layout in which edges are summed block by block.

A block is a few atoms and, for each, the same number of slots; slot by slot it holds an incoming edge, or
nothing. Atoms are sorted by degree first, so that slabs, clusters and mixed batches leave few slots empty. A
block is small enough that everything computed on its edges stays in the processor's cache.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

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


class EdgeBlocks:
    """The blocks of a batch.

    ``place`` (n_atoms,) the position of every atom in the sorted order; ``edges`` (n_slots,) the edge in each
    slot, n_edges where it is empty; ``senders`` (n_slots,) its sender, 0 where it is empty. ``rows``
    (n_slots,) are those of the radial functions: the edges themselves unless edges share them.
    """

    def __init__(self, blocks: list[Block], place: Tensor, edges: Tensor, senders: Tensor) -> None:
        self.blocks, self.place, self.edges, self.senders = blocks, place, edges, senders
        self.rows = edges

    def gather(self, values: Tensor) -> Tensor:
        """Return ``(n_slots, n)`` from values of every edge ``(n_edges, n)``; empty slots are zero."""
        padded = torch.cat(
            [values, torch.zeros((1, values.shape[1]), dtype=values.dtype, device=values.device)]
        )
        return nn.functional.embedding(self.edges, padded)

    def summed(self, left: Tensor, right: Tensor) -> Tensor:
        """Return per sorted atom ``Σ_slots left ⊗ right``, ``(n_atoms, n, m)`` of ``(n_slots, n or m)``."""
        parts = []
        for block in self.blocks:
            rows = [values[block.slots].reshape(block.n_atoms, block.width, -1) for values in (left, right)]
            parts.append(torch.bmm(rows[0].transpose(1, 2), rows[1]))
        return torch.cat(parts)

    def unsort(self, values: Tensor) -> Tensor:
        """Return values of sorted atoms ``(n_atoms, …)`` in the atoms' own order."""
        flat = values.reshape(values.shape[0], -1)
        return nn.functional.embedding(self.place, flat).reshape(values.shape)


def edge_blocks(
    edge_index: Tensor, neighbor_slots: Tensor, itemsize: int = 8, sparing: bool = False
) -> EdgeBlocks:
    """Return the blocks of a batch.

    The slots are those of :func:`lsf.data.graph.neighbor_slots`, ``itemsize`` the bytes of a number. With
    ``sparing`` blocks are a quarter as large, for less memory in somewhat more calls.
    """
    n_edges = edge_index.shape[1]
    degrees = (neighbor_slots < n_edges).sum(1)
    order = torch.argsort(degrees, descending=True, stable=True)
    falling = degrees.index_select(0, order).tolist()
    limit = SLOTS_PER_BLOCK.get(edge_index.device.type, SLOTS_PER_BLOCK["cuda"]) * 8 // itemsize
    limit = limit // 4 if sparing else limit
    blocks, first, slot = [], 0, 0
    while first < len(falling):
        width = max(1, falling[first])
        count = min(max(1, limit // width), len(falling) - first)
        blocks.append(Block(first, count, width, slot))
        first, slot = first + count, slot + count * width
    rows = neighbor_slots.index_select(0, order)
    edges = torch.cat([rows[block.atoms, : block.width].reshape(-1) for block in blocks])
    sender = torch.cat([edge_index[0], edge_index.new_zeros(1)])
    place = torch.empty_like(order)
    place[order] = torch.arange(len(falling), device=order.device)
    return EdgeBlocks(blocks, place, edges, sender.index_select(0, edges))
