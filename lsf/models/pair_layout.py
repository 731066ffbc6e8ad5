"""Edges two by two: the layout that compiled models work in.

Every pair of neighbours is two edges, one in each direction. They have one length, hence one set of radial
weights, and their harmonics differ by the sign (-1)^l: whatever is costly per edge is computed once per pair
and looked up by atoms, in a table of slots. What was looked up is summed in one loop over the slots of an
atom, which a compiler fuses; evaluated operation by operation, it takes far more memory than the kernels of
:mod:`lsf.models.neighbor_sums`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lsf.data.graph import GraphTensors
from lsf.models.edge_pairs import two_directions
from lsf.models.harmonics import spherical_harmonics
from lsf.models.radial import RadialBasis


class PairTables(NamedTuple):
    """Where the edges of a batch stand as pairs and in slots; the last pair is empty, for empty slots."""

    pairs: Tensor  # (2, n_pairs + 1) int64: sender and receiver of one of the two edges
    pair_shifts: Tensor  # (n_pairs + 1, 3) its lattice translations, float64
    filled: Tensor  # (n_pairs + 1,) bool: false for the empty pair
    pair_of_slot: Tensor  # (n_atoms, width) int64; n_pairs where the slot is empty
    sign_of_slot: Tensor  # (n_atoms, width) float64: -1 where the slot holds the other edge of its pair
    atoms_of_pair: Tensor  # (2, n_pairs + 1) int64: rows of the slots of its two edges
    slots_of_pair: Tensor  # (2, n_pairs + 1) int64: their columns
    senders: Tensor  # (n_atoms, width) int64; the atom itself where the slot is empty
    other_slot: Tensor  # (n_atoms, width) int64: column, in the sender's row, of the pair's other edge
    elements: Tensor  # (n_atoms, width, n_species) float64: one at the sender's species


def pair_tables(graph: GraphTensors, n_species: int) -> PairTables:
    """Return the tables of a batch.

    Raises ``ValueError`` when an edge has no counterpart: neighbour lists hold both directions.
    """
    sender, slots = graph.edge_index[0], graph.neighbor_slots
    n_edges = sender.shape[0]
    n_atoms, width = slots.shape
    device = slots.device
    directions = two_directions(graph.edge_index, graph.unit_shifts, n_atoms)
    if directions is None:
        raise ValueError("an edge has no counterpart in the other direction; expected full neighbour lists")
    one, other = directions
    n_pairs = one.shape[0]
    pair = torch.full((n_edges + 1,), n_pairs, dtype=torch.int64, device=device)
    pair[one] = pair[other] = torch.arange(n_pairs, device=device)
    sign = torch.ones(n_edges + 1, dtype=torch.float64, device=device)
    sign[other] = -1.0
    counterpart = torch.full((n_edges + 1,), n_edges, dtype=torch.int64, device=device)
    counterpart[one], counterpart[other] = other, one
    columns = torch.arange(width, device=device).expand(n_atoms, -1)
    column = torch.zeros(n_edges + 1, dtype=torch.int64, device=device)
    column[slots] = columns
    column[n_edges] = 0
    # what is computed in an empty slot is zero, so that the slot may stand for its own counterpart
    empty = slots == n_edges
    own = torch.arange(n_atoms, device=device)[:, None]
    senders = torch.where(empty, own, torch.cat([sender, sender.new_zeros(1)])[slots])
    ends = torch.stack([one, other])
    rows = graph.edge_index[1][ends]
    return PairTables(
        nn.functional.pad(graph.edge_index[:, one], (0, 1)),
        nn.functional.pad(graph.unit_shifts[one], (0, 0, 0, 1)),
        torch.arange(n_pairs + 1, device=device) < n_pairs,
        pair[slots],
        sign[slots],
        nn.functional.pad(rows, (0, 1)),
        nn.functional.pad(column[ends], (0, 1)),
        senders,
        torch.where(empty, columns, column[counterpart[slots]]),
        nn.functional.one_hot(graph.species[senders], n_species).to(torch.float64),
    )


class PairLayout:
    """What a compiled network sees of a batch's edges.

    ``basis`` (n_pairs + 1, n_radial) and ``harmonics`` (n_atoms, width, (max_ell + 1)²), both zero or
    without effect where slots are empty. ``initial`` (n_species, 1, n_channels) are the features of every
    species before the first layer, None where they depend on more than the species, and after that layer.
    """

    def __init__(self, tables: PairTables, basis: Tensor, harmonics: Tensor) -> None:
        self.tables, self.basis, self.harmonics = tables, basis, harmonics
        self.initial: Tensor | None = None

    @property
    def elements(self) -> Tensor:
        """One and zeros, ``(n_atoms, width, n_species)``."""
        return self.tables.elements.to(self.harmonics.dtype)

    def in_slots(self, values: Tensor) -> Tensor:
        """Return ``(n_atoms, width, n)`` from values of pairs ``(n_pairs + 1, n)``."""
        return _in_slots(self.tables, values)

    def of_senders(self, values: Tensor) -> Tensor:
        """Return ``(n_atoms, width, n)`` from values of atoms ``(n_atoms, n)``."""
        found: Tensor = _OfSenders.apply(values, self.tables.senders, self.tables.other_slot)
        return found


def _in_slots(tables: PairTables, values: Tensor) -> Tensor:
    spread: Tensor = _Spread.apply(values, tables.pair_of_slot, tables.atoms_of_pair, tables.slots_of_pair)
    return spread


def pair_layout(
    tables: PairTables,
    positions: Tensor,
    cell: Tensor,
    batch: Tensor,
    radial: RadialBasis,
    max_ell: int,
    dtype: torch.dtype,
    bond_lengths: Tensor | None,
) -> PairLayout:
    """Return the geometry of all pairs; arguments as in :func:`lsf.models.geometry.edge_geometry`.

    ``bond_lengths`` (n_pairs + 1,) Å.
    """
    first, second = tables.pairs[0], tables.pairs[1]
    pair_cell = cell.index_select(0, batch.index_select(0, second))
    shifts = torch.bmm(tables.pair_shifts.unsqueeze(1), pair_cell).squeeze(1)
    vectors = positions.index_select(0, second) - positions.index_select(0, first) + shifts
    # the empty pair is too long for the envelope: its basis is exactly zero, and so is all that follows
    vectors = torch.where(tables.filled.unsqueeze(1), vectors, 2.0 * radial.r_max)
    lengths = torch.sqrt((vectors * vectors).sum(-1))
    harmonics = spherical_harmonics((vectors / lengths.unsqueeze(-1)).to(dtype), max_ell)
    sign = tables.sign_of_slot.to(dtype).unsqueeze(2)
    in_slots = _in_slots(tables, harmonics)
    parts = [in_slots[..., degree**2 : (degree + 1) ** 2] for degree in range(max_ell + 1)]
    turned = torch.cat([part * sign if degree % 2 else part for degree, part in enumerate(parts)], dim=2)
    bonds = None if bond_lengths is None else bond_lengths.to(dtype)
    return PairLayout(tables, radial(lengths.to(dtype), bonds), turned)


# Both lookups and their transposes are gathers: the counterpart of an edge is known, nothing is scattered.


class _Spread(torch.autograd.Function):
    """Values of pairs (n_pairs + 1, n) in the slots of both edges; the gradient is the sum over them."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, slots: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        ctx.save_for_backward(slots, rows, columns)
        return nn.functional.embedding(slots, values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _Collect.apply(gradient, *ctx.saved_tensors), None, None, None


class _Collect(torch.autograd.Function):
    """The transpose of :class:`_Spread`, but for the empty pair, whose values are constants."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, slots: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        ctx.save_for_backward(slots, rows, columns)
        return values[rows[0], columns[0]] + values[rows[1], columns[1]]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _Spread.apply(gradient, *ctx.saved_tensors), None, None, None


class _OfSenders(torch.autograd.Function):
    """Values of atoms (n_atoms, n) in the slots they are senders of."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, senders: Tensor, other_slot: Tensor) -> Tensor:
        ctx.save_for_backward(senders, other_slot)
        return nn.functional.embedding(senders, values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _ToSenders.apply(gradient, *ctx.saved_tensors), None, None


class _ToSenders(torch.autograd.Function):
    """The transpose of :class:`_OfSenders` for values that are zero in empty slots.

    An atom is the sender of the counterparts of its own edges.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, senders: Tensor, other_slot: Tensor) -> Tensor:
        ctx.save_for_backward(senders, other_slot)
        return values[senders, other_slot].sum(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _OfSenders.apply(gradient, *ctx.saved_tensors), None, None
