"""The equivariant backbone shared by all models: MACE message passing with full hidden irreps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lsf.models.contraction import SymmetricContraction
from lsf.models.geometry import Edges
from lsf.models.interaction import Interaction
from lsf.models.irreps import Irreps
from lsf.models.linear import EquivariantLinear, SpeciesLinear


class SpeciesGroups:
    """Atoms grouped by species: the table that turns per-species weights into one product each.

    ``present`` (n_present,) species indices that occur, ``slots`` (n_present, n_slots) atom indices
    (n_atoms pads), ``place`` (n_atoms,) flat position of every atom in ``slots``.
    """

    def __init__(self, present: Tensor, slots: Tensor, place: Tensor) -> None:
        self.present, self.slots, self.place = present, slots, place

    def group(self, values: Tensor) -> Tensor:
        """Return ``(n_present, n_slots, …)`` from ``(n_atoms, …)``; padded slots are zero."""
        flat = values.reshape(values.shape[0], -1)
        padded = torch.cat([flat, torch.zeros_like(flat[:1])])
        grouped = nn.functional.embedding(self.slots, padded)
        return grouped.reshape(*self.slots.shape, *values.shape[1:])

    def ungroup(self, grouped: Tensor) -> Tensor:
        """Return ``(n_atoms, …)``, the inverse of :meth:`group`."""
        flat = grouped.reshape(grouped.shape[0] * grouped.shape[1], -1)
        return nn.functional.embedding(self.place, flat).reshape(-1, *grouped.shape[2:])


class Layer(nn.Module):
    """One interaction, the symmetric contraction of its basis, and the species-dependent skip."""

    def __init__(
        self,
        inputs: Irreps,
        outputs: Irreps,
        n_species: int,
        max_ell: int,
        correlation: int,
        n_radial: int,
        radial_widths: tuple[int, ...],
        avg_num_neighbors: float,
        kernels: str,
    ) -> None:
        super().__init__()
        self.interaction = Interaction(inputs, max_ell, n_radial, radial_widths, avg_num_neighbors, kernels)
        self.contraction = SymmetricContraction(max_ell, correlation, outputs, n_species)
        self.linear = EquivariantLinear(outputs, outputs.channels)
        self.skip = SpeciesLinear(inputs, outputs, n_species)

    def forward(
        self, features: Tensor, edges: Edges, neighbor_slots: Tensor, groups: SpeciesGroups
    ) -> Tensor:
        """Return the new features ``(n_atoms, n_components_out, n_channels)``."""
        basis = self.interaction(
            features, edges.harmonics, edges.radial_basis, edges.edge_index, neighbor_slots
        )
        product = groups.ungroup(self.contraction(groups.group(basis), groups.present))
        skipped = groups.ungroup(self.skip(groups.group(features), groups.present))
        new: Tensor = self.linear(product) + skipped
        return new


class Backbone(nn.Module):
    """Features of every layer, ``(n_atoms, n_components, n_channels)`` each.

    Batatia et al., arXiv:2206.07697. Unlike there, the last layer keeps all hidden irreps, since
    multipoles are read from it.
    """

    def __init__(
        self,
        hidden: Irreps,
        n_species: int,
        n_interactions: int,
        max_ell: int,
        correlation: int,
        n_radial: int,
        radial_widths: tuple[int, ...],
        avg_num_neighbors: float,
        kernels: str,
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.embedding = nn.Parameter(torch.randn(n_species, hidden.channels))
        scalars = Irreps(hidden.channels, (0,))
        self.layers = nn.ModuleList(
            Layer(
                scalars if index == 0 else hidden,
                hidden,
                n_species,
                max_ell,
                correlation,
                n_radial,
                radial_widths,
                avg_num_neighbors,
                kernels,
            )
            for index in range(n_interactions)
        )

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return all parameters by group; those named ``decay`` are the ones MACE lets decay."""
        groups: dict[str, list[nn.Parameter]] = {
            "embedding": [self.embedding],
            "interactions_decay": [],
            "interactions_no_decay": [],
            "products": [],
        }
        for name, parameter in self.layers.named_parameters():
            part = name.split(".")[1]  # "<layer>.<part>.<…>"
            if part in ("contraction", "linear"):
                groups["products"].append(parameter)
            elif ".linear_down." in name:
                groups["interactions_decay"].append(parameter)
            else:
                groups["interactions_no_decay"].append(parameter)
        return groups

    def embed(self, species: Tensor) -> Tensor:
        """Return the initial scalars ``(n_atoms, 1, n_channels)`` of species indices."""
        return nn.functional.embedding(species, self.embedding).unsqueeze(1)

    def forward(
        self, initial: Tensor, edges: Edges, neighbor_slots: Tensor, groups: SpeciesGroups
    ) -> list[Tensor]:
        """Return the features after every layer."""
        features = []
        current = initial
        for layer in self.layers:
            current = layer(current, edges, neighbor_slots, groups)
            features.append(current)
        return features
