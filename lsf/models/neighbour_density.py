"""Learned local density: how crowded the surroundings of an atom are."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lsf.models.geometry import Edges


class LocalDensity(nn.Module):
    r""":math:`1 + \sum_j \tanh (w \cdot R(r_{ij}))^2`, which messages may be divided by.

    ``R`` is the enveloped radial basis, so the density is smooth where neighbours enter. It replaces the
    average number of neighbours in the density interactions of mace-torch (its
    ``RealAgnosticDensityInteractionBlock``), where structures are unevenly crowded.
    """

    def __init__(self, n_radial: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_radial))

    def forward(self, edges: Edges, n_atoms: int) -> Tensor:
        """Return ``(n_atoms,)``, at least 1."""
        basis = edges.radial_basis
        amount = torch.tanh((basis @ (self.weight / math.sqrt(basis.shape[1]))) ** 2)
        ones = torch.ones((n_atoms,), dtype=amount.dtype, device=amount.device)
        return ones.index_add(0, edges.edge_index[1], amount)
