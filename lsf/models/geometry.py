"""Edge vectors and what the network sees of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lsf.models.harmonics import spherical_harmonics
from lsf.models.radial import RadialBasis


class Edges(NamedTuple):
    """Geometry of the directed edges of a batch."""

    edge_index: Tensor  # (2, n_edges) sender, receiver
    vectors: Tensor  # (n_edges, 3) Å, float64, r_receiver - r_sender + shift
    harmonics: Tensor  # (n_edges, (max_ell + 1)²) in the model's dtype
    radial_basis: Tensor  # (n_edges, n_radial) in the model's dtype, zero from r_max on
    unit_shifts: Tensor | None = None  # (n_edges, 3) whole lattice translations, where they are known
    lengths: Tensor | None = None  # (n_edges,) Å in the model's dtype, where slopes are asked for
    radial_slopes: Tensor | None = None  # (n_edges, n_radial) 1/Å, derivatives of the radial basis by them


def edge_geometry(
    positions: Tensor,
    cell: Tensor,
    edge_index: Tensor,
    unit_shifts: Tensor,
    batch: Tensor,
    radial: RadialBasis,
    max_ell: int,
    dtype: torch.dtype,
    bond_lengths: Tensor | None = None,
    slopes: bool = False,
) -> Edges:
    """Return the edges; differences of positions are taken in float64, the rest in ``dtype``.

    ``bond_lengths`` (n_edges,) Å are what a radial basis with a transform needs. With ``slopes`` come
    lengths and derivatives of the radial basis by them.
    """
    sender, receiver = edge_index[0], edge_index[1]
    edge_cell = cell.index_select(0, batch.index_select(0, receiver))
    shifts = torch.bmm(unit_shifts.unsqueeze(1), edge_cell).squeeze(1)
    vectors = positions.index_select(0, receiver) - positions.index_select(0, sender) + shifts
    lengths = torch.sqrt((vectors * vectors).sum(-1))
    directions = (vectors / lengths.unsqueeze(-1)).to(dtype)
    harmonics = spherical_harmonics(directions, max_ell)
    bonds = None if bond_lengths is None else bond_lengths.to(dtype)
    lengths = lengths.to(dtype)
    edges = Edges(edge_index, vectors, harmonics, radial(lengths, bonds), unit_shifts)
    if not slopes:
        return edges
    return edges._replace(lengths=lengths, radial_slopes=radial.slopes(lengths.detach(), bonds))
