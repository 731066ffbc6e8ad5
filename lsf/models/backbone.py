"""The equivariant backbone shared by all models: MACE message passing with full hidden irreps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lsf.models.backbone_options import BackboneOptions
from lsf.models.contraction import SymmetricContraction
from lsf.models.convolution import ELEMENTS_AT_MOST
from lsf.models.geometry import Edges
from lsf.models.interaction import Interaction
from lsf.models.irreps import Irreps, parse_irreps
from lsf.models.linear import EquivariantLinear, SpeciesLinear
from lsf.models.message_passing.native.blocks import EdgeTables
from lsf.models.message_passing.neighborhood import ElementFeatures, Neighborhood
from lsf.models.neighbour_density import LocalDensity


class RecordedEdges(NamedTuple):
    """What a graph that is being recorded cannot find out: where edges stand, and which initial features.

    ``element`` (n_atoms,) are species where initial features depend on nothing else, and None elsewhere.
    """

    tables: EdgeTables
    element: Tensor | None


class SpeciesGroups:
    """Atoms grouped by species: the table that turns per-species weights into one product each.

    ``present`` (n_present,) species index of every group, rising, ``slots`` (n_present, n_slots) atom
    indices (n_atoms pads), ``place`` (n_atoms,) flat position of every atom in ``slots``.
    """

    def __init__(self, present: Tensor, slots: Tensor, place: Tensor) -> None:
        self.present, self.slots, self.place = present, slots, place

    def group(self, values: Tensor) -> Tensor:
        """Return ``(n_present, n_slots, …)`` from ``(n_atoms, …)``; padded slots are zero."""
        flat = values.reshape(values.shape[0], -1)
        padded = torch.cat([flat, torch.zeros_like(flat[:1])])
        grouped = nn.functional.embedding(self.slots, padded)
        return grouped.reshape(*self.slots.shape, *values.shape[1:])

    def representatives(self, inputs: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return one atom of every species and every atom's place among them.

        (None, None) where atoms of a species differ in ``inputs`` (n_atoms, n), or species are many.
        """
        new = torch.cat([torch.ones_like(self.present[:1]), self.present.diff().clamp(max=1)])
        element = (new.cumsum(0) - 1)[torch.div(self.place, self.slots.shape[1], rounding_mode="floor")]
        first = self.slots[new > 0, 0]
        if not 0 < first.shape[0] <= ELEMENTS_AT_MOST:
            return None, None
        same = torch.equal(inputs, inputs.index_select(0, first.index_select(0, element)))
        return (first, element) if same else (None, None)

    def ungroup(self, grouped: Tensor) -> Tensor:
        """Return ``(n_atoms, …)``, the inverse of :meth:`group`."""
        flat = grouped.reshape(grouped.shape[0] * grouped.shape[1], -1)
        return nn.functional.embedding(self.place, flat).reshape(-1, *grouped.shape[2:])


class Layer(nn.Module):
    """One interaction, the symmetric contraction of its basis, and a species-dependent map.

    ``style`` says where that map stands: ``residual`` skips the layer with the atom's own features,
    ``plain`` mixes the messages themselves. ``density_residual`` and ``density`` are the same two with
    messages divided by a learned local density in place of the average number of neighbours.
    """

    def __init__(
        self,
        inputs: Irreps,
        outputs: Irreps,
        n_species: int,
        avg_num_neighbors: float,
        options: BackboneOptions,
        correlation: int,
        style: str,
    ) -> None:
        super().__init__()
        max_ell, n_radial = options.max_ell, options.num_radial
        by_density = style.startswith("density")
        divisor = 1.0 if by_density else avg_num_neighbors
        self.interaction = Interaction(
            inputs, max_ell, n_radial, options.radial_mlp, divisor, options.kernels
        )
        self.contraction = SymmetricContraction(
            max_ell, correlation, outputs, n_species, options.product_basis == "complete"
        )
        self.linear = EquivariantLinear(outputs, outputs.channels)
        messages = Irreps(inputs.channels, tuple(range(max_ell + 1)))
        residual = style.endswith("residual")
        self.skip = SpeciesLinear(inputs, outputs, n_species) if residual else None
        self.mix = None if residual else SpeciesLinear(messages, messages, n_species)
        self.density = LocalDensity(n_radial) if by_density else None

    def forward(
        self,
        features: Tensor,
        neighborhood: Neighborhood,
        groups: SpeciesGroups,
        by_element: ElementFeatures | None = None,
    ) -> Tensor:
        """Return the new features ``(n_atoms, n_components_out, n_channels)``."""
        basis = self.interaction(features, neighborhood, by_element)
        if self.density is not None:
            basis = basis / self.density(neighborhood.edges, basis.shape[0]).reshape(-1, 1, 1)
        grouped = groups.group(basis)
        if self.mix is not None:
            grouped = self.mix(grouped, groups.present)
        new: Tensor = self.linear(groups.ungroup(self.contraction(grouped, groups.present)))
        if self.skip is not None:
            new = new + groups.ungroup(self.skip(groups.group(features), groups.present))
        return new


def layer_irreps(hidden: Irreps, n_interactions: int, scalars_last: bool) -> list[Irreps]:
    """Return the irreps every layer leaves; with ``scalars_last`` the last one has scalars alone."""
    last = Irreps(hidden.channels, (0,)) if scalars_last else hidden
    return [hidden] * (n_interactions - 1) + [last]


class Backbone(nn.Module):
    """Features of every layer, ``(n_atoms, n_components, n_channels)`` each.

    Batatia et al., arXiv:2206.07697. Unlike there, the last layer keeps all hidden irreps, since
    multipoles are read from it, unless the options say otherwise. ``avg_num_neighbors`` is that of the data,
    for options that give none.
    """

    def __init__(self, options: BackboneOptions, n_species: int, avg_num_neighbors: float) -> None:
        super().__init__()
        self.hidden = hidden = parse_irreps(options.hidden_irreps)
        n_layers, orders = options.num_interactions, options.correlation
        orders = (orders,) * n_layers if isinstance(orders, int) else orders
        styles = (options.interaction_first, *[options.interaction] * (n_layers - 1))
        neighbors = options.avg_num_neighbors or avg_num_neighbors
        self.embedding = nn.Parameter(torch.randn(n_species, hidden.channels))
        inputs = [Irreps(hidden.channels, (0,)), *[hidden] * (n_layers - 1)]
        outputs = layer_irreps(hidden, n_layers, options.last_layer == "scalars")
        self.layers = nn.ModuleList(
            Layer(inputs[index], outputs[index], n_species, neighbors, options, orders[index], styles[index])
            for index in range(n_layers)
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

    @property
    def interactions(self) -> list[Interaction]:
        """The message passing of every layer."""
        return [layer.interaction for layer in self.layers if isinstance(layer, Layer)]

    @property
    def kernels(self) -> str:
        """Kernels of the message passing."""
        return self.interactions[0].kernels

    def use_kernels(self, kernels: str) -> None:
        """Compute with other kernels from now on; the weights stay."""
        for interaction in self.interactions:
            interaction.use_kernels(kernels)

    def recompute(self, again: bool) -> None:
        """Let backward passes compute intermediates again, or keep them from the forward pass."""
        for interaction in self.interactions:
            interaction.recompute(again)
        for module in self.modules():
            if isinstance(module, SymmetricContraction):
                module.recompute = again

    def embed(self, species: Tensor) -> Tensor:
        """Return the initial scalars ``(n_atoms, 1, n_channels)`` of species indices."""
        return nn.functional.embedding(species, self.embedding).unsqueeze(1)

    def forward(
        self,
        initial: Tensor,
        edges: Edges,
        neighbor_slots: Tensor,
        groups: SpeciesGroups,
        inputs: Tensor | None = None,
        recorded: RecordedEdges | None = None,
    ) -> list[Tensor]:
        """Return the features after every layer.

        ``inputs`` (n_atoms, n) are the numbers that ``initial`` depends on besides the element. Where they
        are the same for all atoms of an element, the first layer sums its neighbours by element; without
        them it does not. ``recorded`` is what takes their place in a graph.
        """
        executor = self.interactions[0].executor
        by_element = None
        if recorded is not None:
            neighborhood = Neighborhood.traced(edges, neighbor_slots, recorded.tables)
            if recorded.element is not None:
                by_element = ElementFeatures(self.embedding.unsqueeze(1), recorded.element)
        else:
            neighborhood = Neighborhood.of_batch(edges, neighbor_slots, sparing=executor.recompute)
            if inputs is not None and executor.sums_by_element:
                first, element = groups.representatives(inputs)
                if first is not None and element is not None:
                    by_element = ElementFeatures(initial.index_select(0, first), element)
        features = []
        current = initial
        for index, layer in enumerate(self.layers):
            # after the first layer features differ from atom to atom, also where they are scalars alone
            current = layer(current, neighborhood, groups, by_element if index == 0 else None)
            features.append(current)
        return features
