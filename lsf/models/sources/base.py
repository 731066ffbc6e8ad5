"""What a source head sees, what it returns, and what heads share.

A head goes from node features to the multipole density and the polarization; the model's forward knows
nothing else about charges. All charges and dipoles are float64: sums over atoms are exact to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lsf.data.graph import GraphTensors
from lsf.models.geometry import Edges
from lsf.models.irreps import Irreps
from lsf.models.linear import EquivariantLinear
from lsf.models.sources.oxidation import Mixer
from lsf.units import CARTESIAN_FROM_SPHERICAL


class SourceContext(NamedTuple):
    """Everything a source head may look at.

    ``graph`` holds positions (n_atoms, 3) Å as given, cell (n_graphs, 3, 3) Å, batch (n_atoms,),
    formal_charges (n_atoms,) e, total_charge (n_graphs,) e, total_spin (n_graphs,), external_field
    (n_graphs, 3) V/Å and, by :func:`lsf.data.graph.coulomb_plan`, the plan of the Coulomb sums.
    """

    features: list[Tensor]  # per layer (n_atoms, n_components, n_channels)
    edges: Edges  # with vectors in Å
    graph: GraphTensors

    @property
    def n_graphs(self) -> int:
        """Number of structures in the batch."""
        return self.graph.cell.shape[0]


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


def polarization(charges: Tensor, density: Tensor, graph: GraphTensors) -> Tensor:
    r"""Return :math:`P = \sum_i q_i r_i + \sum_i p_i`, ``(n_graphs, 3)`` e·Å, on the positions as given.

    ``charges`` (n_atoms,) e are those that stand at the atoms, ``density`` (n_atoms, (L + 1)²) holds p.
    """
    moments = charges.unsqueeze(1) * graph.positions + cartesian_dipoles(density)
    return sum_over_graph(moments, graph.batch, graph.cell.shape[0])


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
    """A way from features to charges; abstract. ``mixer`` lets formal charges into the initial features."""

    mixer: Mixer

    def forward(self, context: SourceContext) -> Sources:
        """Return the sources of a batch."""
        raise NotImplementedError
