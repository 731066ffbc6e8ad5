"""Source heads: from node features to the multipole density and the polarization.

Each head returns a :class:`Sources`; the model's forward knows nothing else about charges. All
charges and dipoles are float64, so that sums over atoms are exact to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lsf.models.geometry import Edges
from lsf.models.irreps import Irreps
from lsf.models.linear import EquivariantLinear
from lsf.models.sources.oxidation import Mixer, NoMixer
from lsf.units import CARTESIAN_FROM_SPHERICAL


class Sources(NamedTuple):
    """Density coefficients and polarization of a batch."""

    density: Tensor  # (n_atoms, (L + 1)²) [Q, d_y, d_z, d_x] e, e·Å
    polarization: Tensor  # (n_graphs, 3) e·Å, Cartesian


def cartesian_dipoles(density: Tensor) -> Tensor:
    """Return the atomic dipoles ``(n_atoms, 3)`` in x, y, z of density coefficients."""
    if density.shape[1] < 4:
        return torch.zeros((density.shape[0], 3), dtype=density.dtype, device=density.device)
    return density[:, 1:4][:, list(CARTESIAN_FROM_SPHERICAL)]


def sum_over_graph(values: Tensor, batch: Tensor, n_graphs: int) -> Tensor:
    """Return ``(n_graphs, …)``, the sums of ``(n_atoms, …)`` over the atoms of each graph."""
    zeros = torch.zeros((n_graphs, *values.shape[1:]), dtype=values.dtype, device=values.device)
    return zeros.index_add(0, batch, values)


def _polarization(charges: Tensor, positions: Tensor, density: Tensor, batch: Tensor, n: int) -> Tensor:
    """``Σ q_i r_i + Σ p_i`` per graph."""
    return sum_over_graph(charges.unsqueeze(1) * positions + cartesian_dipoles(density), batch, n)


class MultipoleReadout(nn.Module):
    """One equivariant linear map per layer to one copy of each degree, summed over layers.

    A last layer that keeps scalars alone adds to the charges only: the leading components.
    """

    def __init__(self, layers: Sequence[Irreps], degrees: tuple[int, ...]) -> None:
        super().__init__()
        kept = [tuple(degree for degree in degrees if degree in layer.degrees) for layer in layers]
        self.maps = nn.ModuleList(
            EquivariantLinear(layer, 1, present)
            for layer, present in zip(layers, kept, strict=True)
            if present
        )
        self.missing = [sum(2 * degree + 1 for degree in degrees if degree not in here) for here in kept]

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return ``(n_atoms, Σ (2l + 1))`` in float64."""
        terms = [
            nn.functional.pad(readout(layer).squeeze(2), (0, missing))
            for readout, layer, missing in zip(self.maps, features, self.missing, strict=False)
        ]
        return torch.stack(terms).sum(0).to(torch.float64)


class SourceHead(nn.Module):
    """A way from features to charges; ``mixer`` lets formal charges into the initial features."""

    mixer: Mixer

    def forward(
        self,
        features: list[Tensor],
        edges: Edges,
        positions: Tensor,
        formal_charges: Tensor,
        batch: Tensor,
        n_graphs: int,
    ) -> Sources:
        """Return the sources of a batch.

        Parameters
        ----------
        features : per layer (n_atoms, n_components, n_channels)
        edges : geometry, with vectors in Å
        positions : (n_atoms, 3) Å, as given
        formal_charges : (n_atoms,) e
        batch : (n_atoms,) graph of each atom
        n_graphs : number of graphs
        """
        raise NotImplementedError


class NoSource(SourceHead):
    """No charges at all: the null object of the plain short-range model."""

    def __init__(self) -> None:
        super().__init__()
        self.mixer = NoMixer()

    def forward(
        self,
        features: list[Tensor],
        edges: Edges,
        positions: Tensor,
        formal_charges: Tensor,
        batch: Tensor,
        n_graphs: int,
    ) -> Sources:
        """Return a density of zeros."""
        density = torch.zeros((positions.shape[0], 1), dtype=torch.float64, device=positions.device)
        return Sources(density, torch.zeros((n_graphs, 3), dtype=torch.float64, device=positions.device))


class FixedSource(SourceHead):
    """Monopoles that are the formal charges; ``P = Σ q_i⁰ r_i``."""

    def __init__(self, max_l: int) -> None:
        super().__init__()
        self.mixer = NoMixer()
        self.n_higher = (max_l + 1) ** 2 - 1

    def forward(
        self,
        features: list[Tensor],
        edges: Edges,
        positions: Tensor,
        formal_charges: Tensor,
        batch: Tensor,
        n_graphs: int,
    ) -> Sources:
        """Return the formal charges as density; higher multipoles are zero."""
        density = nn.functional.pad(formal_charges.unsqueeze(1), (0, self.n_higher))
        return Sources(density, _polarization(formal_charges, positions, density, batch, n_graphs))


class LocalSource(SourceHead):
    """Multipoles read from the features; ``P = Σ q_i r_i + Σ p_i`` on the positions as given."""

    def __init__(self, layers: Sequence[Irreps], max_l: int) -> None:
        super().__init__()
        self.mixer = NoMixer()
        self.multipoles = MultipoleReadout(layers, tuple(range(max_l + 1)))

    def forward(
        self,
        features: list[Tensor],
        edges: Edges,
        positions: Tensor,
        formal_charges: Tensor,
        batch: Tensor,
        n_graphs: int,
    ) -> Sources:
        """Return learned multipoles of every degree."""
        density = self.multipoles(features)
        return Sources(density, _polarization(density[:, 0], positions, density, batch, n_graphs))


class SplitSource(SourceHead):
    r"""Formal charges plus transfer along edges.

    .. math::
        q_i = q_i^0 + \sum_{e \to i} p_e - \sum_{i \to e} p_e, \qquad
        P = \sum_i q_i^0 r_i + \sum_e p_e r_e + \sum_i p_i

    What leaves one atom arrives at another, so the total charge is Σ q⁰ whatever the weights, and
    moving an atom by a lattice vector a changes P by exactly q⁰ a.
    """

    def __init__(self, mixer: Mixer, transfers: nn.ModuleList, multipoles: MultipoleReadout | None) -> None:
        super().__init__()
        self.mixer = mixer
        self.transfers = transfers
        self.multipoles = multipoles

    def forward(
        self,
        features: list[Tensor],
        edges: Edges,
        positions: Tensor,
        formal_charges: Tensor,
        batch: Tensor,
        n_graphs: int,
    ) -> Sources:
        """Return formal charges shifted by the transfers, and learned dipoles."""
        sender, receiver = edges.edge_index[0], edges.edge_index[1]
        moved = torch.zeros((edges.vectors.shape[0],), dtype=torch.float64, device=positions.device)
        seen = []
        for transfer, layer in zip(self.transfers, features, strict=True):
            amount, dressed = transfer(layer, edges, formal_charges)
            moved = moved + amount.to(torch.float64)
            seen.append(dressed)
        charges = formal_charges.index_add(0, receiver, moved).index_add(0, sender, -moved)
        density = charges.unsqueeze(1)
        if self.multipoles is not None:
            density = torch.cat([density, self.multipoles(seen)], dim=1)
        bound = _polarization(formal_charges, positions, density, batch, n_graphs)
        flow = moved.unsqueeze(1) * edges.vectors
        return Sources(density, bound + sum_over_graph(flow, batch.index_select(0, receiver), n_graphs))
