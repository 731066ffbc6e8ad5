"""The neighbour list of a batch in the layouts that executors sum over."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from lsf.models.geometry import Edges
from lsf.models.message_passing.native.blocks import EdgeBlocks, EdgeTables, edge_blocks


class ElementFeatures(NamedTuple):
    """Features before the first layer where they depend on the element of an atom alone."""

    features: Tensor  # (n_elements, 1, n_channels)
    element: Tensor  # (n_atoms,) int64, which row is whose


class RadialRows(NamedTuple):
    """Radial basis and its derivative w.r.t. the length, one column per row of the radial functions."""

    basis: Tensor  # (n_radial, n_rows), a constant
    derivative: Tensor  # (n_radial, n_rows) 1/Å, a constant
    lengths: Tensor  # (n_rows,) Å, which gradients of the geometry go to


@dataclass(frozen=True, eq=False)
class Neighborhood:
    """Edges of a batch and, made when asked for, the layouts in which executors sum over them.

    Both kinds of neighbour list are here: ``slots`` (n_atoms, n_slots) names the incoming edges of every
    atom, n_edges where there is none. ``tables`` are given where blocks cannot be made from the edges since a
    graph is being traced. ``sparing`` asks for blocks that take less memory.
    """

    edges: Edges
    slots: Tensor
    sparing: bool = False
    tables: EdgeTables | None = None

    @classmethod
    def of_batch(cls, edges: Edges, slots: Tensor, sparing: bool = False) -> Neighborhood:
        """Return that of a batch at hand."""
        return cls(edges, slots, sparing)

    @classmethod
    def traced(cls, edges: Edges, slots: Tensor, tables: EdgeTables) -> Neighborhood:
        """Return that of a graph that is being traced, where ``tables`` are among the inputs."""
        return cls(edges, slots, tables=tables)

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return self.slots.shape[0]

    @cached_property
    def blocks(self) -> EdgeBlocks:
        """Blocks of receivers."""
        if self.tables is not None:
            return EdgeBlocks(self.tables, [])
        edges, itemsize = self.edges, self.edges.harmonics.element_size()
        return edge_blocks(edges.edge_index, self.slots, edges.unit_shifts, itemsize, self.sparing)

    @cached_property
    def basis_in_rows(self) -> Tensor:
        """Radial basis ``(n_rows, n_radial)`` that the blocks' rows point to; zero in the last one."""
        return self.blocks.in_rows(self.edges.radial_basis)

    @cached_property
    def radial_rows(self) -> RadialRows | None:
        """Radial basis with its derivative, for compiled sums; None where edges come without derivatives."""
        lengths, derivative = self.edges.lengths, self.edges.radial_slopes
        if lengths is None or derivative is None:
            return None
        rows = [self.edges.radial_basis.detach(), derivative, lengths.unsqueeze(1)]
        basis, derivative, lengths = (self.blocks.in_rows(values).T for values in rows)
        return RadialRows(basis, derivative, lengths[0])

    @cached_property
    def harmonics_in_slots(self) -> Tensor:
        """Harmonics ``(n_edge_slots, (max_ell + 1)²)`` of the blocks."""
        return self.blocks.in_slots(self.edges.harmonics)

    @cached_property
    def by_receiver(self) -> tuple[Tensor, Tensor]:
        """Edges sorted by receiver ``(n_edges,)``, and where those of every atom begin ``(n_atoms + 1,)``."""
        return _sorted(self.edges.edge_index[1], self.n_atoms)

    @cached_property
    def by_sender(self) -> tuple[Tensor, Tensor]:
        """The same by sender: no atom need be written to by several others."""
        return _sorted(self.edges.edge_index[0], self.n_atoms)


def _sorted(atom: Tensor, n_atoms: int) -> tuple[Tensor, Tensor]:
    order = torch.argsort(atom, stable=True)
    bounds = torch.arange(n_atoms + 1, device=atom.device)
    return order, torch.searchsorted(atom.index_select(0, order), bounds)
