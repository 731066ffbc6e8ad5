"""The one forward of every model: short-range energy, density, Coulomb energy, field energy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lsf.data.graph import GraphTensors, coulomb_plan
from lsf.electrostatics.energy import coulomb_energy
from lsf.electrostatics.field import field_energy
from lsf.electrostatics.settings import Electrostatics
from lsf.models.backbone import Backbone, RecordedEdges, SpeciesGroups
from lsf.models.charge_state_embedding import ChargeState
from lsf.models.convolution import ELEMENTS_AT_MOST
from lsf.models.energies.localized_charge import LocalizedCharge
from lsf.models.energies.pair_repulsion import BondLengths, PairRepulsion
from lsf.models.energies.readout import EnergyReadout, PolarizabilityReadout
from lsf.models.geometry import edge_geometry
from lsf.models.message_passing.compiled.executor import blocks_are_compiled
from lsf.models.message_passing.native.blocks import EdgeTables
from lsf.models.radial import RadialBasis
from lsf.models.sources.heads import SourceHead, sum_over_graph
from lsf.models.sources.oxidation import NoMixer


class ModelOutput(NamedTuple):
    """What a forward returns, all float64; energies in eV per graph, ``node_energy`` per atom.

    ``energy = energy_atomic + energy_short_range + energy_coulomb + energy_field``; ``node_energy``
    holds the first two. ``density`` (n_atoms, (L + 1)²) e·Å^l, ``polarization`` (n_graphs, 3) e·Å,
    ``polarizability`` (n_graphs, 3, 3) e·Å²/V, or None where the model has no such readout.
    """

    energy: Tensor
    energy_atomic: Tensor
    energy_short_range: Tensor
    energy_coulomb: Tensor
    energy_field: Tensor
    node_energy: Tensor
    density: Tensor
    polarization: Tensor
    polarizability: Tensor | None


class ShortRange(NamedTuple):
    """What a network gives, float64: ``node_energy`` (n_atoms,) eV, the rest as in :class:`ModelOutput`."""

    node_energy: Tensor
    density: Tensor
    polarization: Tensor
    polarizability: Tensor | None


class CoulombTerm(nn.Module):
    """Coulomb energy of the density, in float64 whatever the model's dtype."""

    def __init__(self, settings: Electrostatics) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, density: Tensor, graph: GraphTensors) -> Tensor:
        """Return ``(n_graphs,)`` eV."""
        return coulomb_energy(
            density, graph.positions, graph.cell, graph.batch, coulomb_plan(graph), self.settings
        )


class NoCoulomb(nn.Module):
    """No Coulomb energy: the null object of the plain short-range model."""

    def forward(self, density: Tensor, graph: GraphTensors) -> Tensor:
        """Return zeros, ``(n_graphs,)``."""
        return torch.zeros((graph.cell.shape[0],), dtype=torch.float64, device=density.device)


class LocalSourceModel(nn.Module):
    """Short-range backbone, source head and Coulomb energy, put together once for all models.

    ``species`` are the atomic numbers the model knows, rising; ``atomic_energies`` their E0 in eV.
    Buffers stay float64 in a float32 model (:meth:`set_dtype` converts parameters only), since
    energies of atoms and coupling constants must not lose digits.
    """

    species: Tensor
    atomic_energies: Tensor
    radial: RadialBasis
    backbone: Backbone
    source: SourceHead

    def __init__(
        self,
        species: tuple[int, ...],
        atomic_energies: tuple[float, ...],
        backbone: Backbone,
        radial: RadialBasis,
        max_ell: int,
        readout: EnergyReadout,
        source: SourceHead,
        coulomb: nn.Module,
        polarizability: PolarizabilityReadout | None = None,
        pair_repulsion: PairRepulsion | None = None,
        charge_state: ChargeState | None = None,
        localized_charge: LocalizedCharge | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("species", torch.tensor(species))
        self.register_buffer("atomic_energies", torch.tensor(atomic_energies, dtype=torch.float64))
        self.backbone = backbone
        self.radial = radial
        self.max_ell = max_ell
        self.readout = readout
        self.source = source
        self.coulomb = coulomb
        self.polarizability = polarizability
        self.pair_repulsion = pair_repulsion
        self.charge_state = charge_state
        self.localized_charge = localized_charge
        needs_bonds = pair_repulsion is not None or radial.transform is not None
        self.bond_lengths = BondLengths(species) if needs_bonds else None

    @property
    def r_max(self) -> float:
        """Cutoff radius in Å."""
        return self.radial.r_max

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the parameters and the short-range part."""
        return self.backbone.embedding.dtype

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return all parameters, each once, by the group that may have a learning rate of its own.

        The names follow MACE; ``source_maps`` are the weights that make charges out of features.
        """
        mixer = {id(parameter) for parameter in self.source.mixer.parameters()}
        groups = self.backbone.parameter_groups()
        groups["embedding"] += self.source.mixer.parameters()
        groups["embedding"] += [] if self.charge_state is None else self.charge_state.parameters()
        return {
            **groups,
            "readouts": [
                *self.readout.parameters(),
                *([] if self.localized_charge is None else self.localized_charge.parameters()),
            ],
            "source_maps": [p for p in self.source.parameters() if id(p) not in mixer],
            "polarizability_readouts": []
            if self.polarizability is None
            else list(self.polarizability.parameters()),
        }

    def set_dtype(self, dtype: torch.dtype) -> LocalSourceModel:
        """Convert the parameters, leave the buffers, return the model."""
        for parameter in self.parameters():
            parameter.data = parameter.data.to(dtype)
        return self

    def _initial(self, graph: GraphTensors) -> tuple[Tensor, Tensor]:
        """Return the initial scalars and the numbers they depend on besides the element, (n_atoms, n)."""
        elements = self.backbone.embed(graph.species)
        initial = self.source.mixer(elements, graph.formal_charges)
        inputs = [graph.formal_charges.detach()]
        if self.charge_state is not None:
            numbers = self.charge_state.numbers(graph.total_charge, graph.total_spin)
            per_atom = [number.index_select(0, graph.batch) for number in numbers]
            initial = self.charge_state(initial, elements, per_atom)
            inputs += per_atom
        return initial, torch.stack(inputs, dim=1)

    def forward(self, *tensors: Tensor) -> ModelOutput:
        """Return energies, density and polarization of the flat tensors of :class:`GraphTensors`.

        Those of :class:`lsf.models.message_passing.native.blocks.EdgeTables` may follow: what a recorded
        graph is given.
        """
        graph, tables = split_tensors(tensors)
        n_graphs = graph.cell.shape[0]
        network = self.short_range(graph, tables)
        node_atomic = self.atomic_energies.index_select(0, graph.species)
        atomic = sum_over_graph(node_atomic, graph.batch, n_graphs)
        short_range = sum_over_graph(network.node_energy, graph.batch, n_graphs)
        coulomb = self.coulomb(network.density, graph)
        field = field_energy(network.polarization, graph.external_field)
        return ModelOutput(
            atomic + short_range + coulomb + field,
            atomic,
            short_range,
            coulomb,
            field,
            node_atomic + network.node_energy,
            network.density,
            network.polarization,
            network.polarizability,
        )

    def short_range(self, graph: GraphTensors, tables: EdgeTables | None = None) -> ShortRange:
        """Return what the network gives: all but energies of atoms, Coulomb and field energy."""
        n_graphs = graph.cell.shape[0]
        bonds = None
        if self.bond_lengths is not None:
            bonds = self.bond_lengths(graph.species, graph.edge_index)
        edges = edge_geometry(
            graph.positions,
            graph.cell,
            graph.edge_index,
            graph.unit_shifts,
            graph.batch,
            self.radial,
            self.max_ell,
            self.dtype,
            bonds,
            slopes=tables is not None or blocks_are_compiled(),
        )
        groups = SpeciesGroups(graph.present_species, graph.species_slots, graph.species_place)
        initial, inputs = self._initial(graph)
        recorded = None if tables is None else self._recorded(graph, tables)
        features = self.backbone(initial, edges, graph.neighbor_slots, groups, inputs, recorded)
        sources = self.source(features, edges, graph.positions, graph.formal_charges, graph.batch, n_graphs)

        node_energy = self.readout(features)
        if self.pair_repulsion is not None:
            lengths = torch.sqrt((edges.vectors * edges.vectors).sum(-1))
            repulsion = self.pair_repulsion(lengths, bonds, graph.species, graph.edge_index)
            node_energy = node_energy + self.readout.scale * repulsion
        if self.localized_charge is not None and self.charge_state is not None:
            numbers = self.charge_state.numbers(graph.total_charge, graph.total_spin)
            node_energy = node_energy + self.localized_charge(features, graph.batch, numbers)
        polarizability = None
        if self.polarizability is not None:
            polarizability = sum_over_graph(self.polarizability(features), graph.batch, n_graphs)
        return ShortRange(node_energy, sources.density, sources.polarization, polarizability)

    def _recorded(self, graph: GraphTensors, tables: EdgeTables) -> RecordedEdges:
        """Return what the backbone needs where these tables are given."""
        by_species = isinstance(self.source.mixer, NoMixer) and self.charge_state is None
        few = self.species.shape[0] <= ELEMENTS_AT_MOST
        return RecordedEdges(tables, graph.species if by_species and few else None)


def split_tensors(tensors: Sequence[Tensor]) -> tuple[GraphTensors, EdgeTables | None]:
    """Return the flat arguments of a model by name."""
    n_graph = len(GraphTensors._fields)
    tables = EdgeTables(*tensors[n_graph:]) if len(tensors) > n_graph else None
    return GraphTensors(*tensors[:n_graph]), tables
