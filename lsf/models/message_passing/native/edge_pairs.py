"""Which two edges are the two directions of one pair of neighbours: they have one length."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class RadialRows(NamedTuple):
    """Edges for which radial functions are evaluated, one of each pair, and where every edge finds them."""

    edges: Tensor  # (n_rows,) int64
    of_edge: Tensor  # (n_edges + 1,) int64, n_rows for the edge behind the last, which empty slots hold


def radial_rows(edge_index: Tensor, unit_shifts: Tensor | None, n_atoms: int) -> RadialRows:
    """Return one row per pair; one per edge where pairs are not known.

    That is without shifts, where an edge has no counterpart, and where pairs cannot be numbered.
    """
    n_edges = edge_index.shape[1]
    ends = None if unit_shifts is None else two_directions(edge_index, unit_shifts, n_atoms)
    if ends is None:
        every = torch.arange(n_edges + 1, device=edge_index.device)
        return RadialRows(every[:-1], every)
    one, other = ends
    of_edge = edge_index.new_full((n_edges + 1,), len(one))
    of_edge[one] = of_edge[other] = torch.arange(len(one), device=one.device)
    return RadialRows(one, of_edge)


def two_directions(edge_index: Tensor, unit_shifts: Tensor, n_atoms: int) -> tuple[Tensor, Tensor] | None:
    """Return the edges of one direction and, in the same order, their counterparts.

    ``unit_shifts`` (n_edges, 3) are whole numbers. None where an edge has no counterpart, and where pairs
    cannot be numbered in 63 bits.
    """
    sender, receiver = edge_index[0], edge_index[1]
    shifts = unit_shifts.round().to(torch.int64)
    most = _farthest(unit_shifts)
    if n_atoms**2 * (2 * most + 1) ** 3 >= 1 << 63:
        return None

    def key(first: Tensor, second: Tensor, shift: Tensor) -> Tensor:
        number = first * n_atoms + second
        for axis in range(3):
            number = number * (2 * most + 1) + (shift[:, axis] + most)
        return number

    there, back = key(sender, receiver, shifts), key(receiver, sender, -shifts)
    one, other = torch.nonzero(there < back)[:, 0], torch.nonzero(there >= back)[:, 0]
    one, other = one[torch.argsort(there[one])], other[torch.argsort(back[other])]
    return (one, other) if torch.equal(there[one], back[other]) else None


def _farthest(unit_shifts: Tensor) -> int:
    return round(float(unit_shifts.abs().max())) if unit_shifts.numel() else 0
