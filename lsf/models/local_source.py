"""The one forward of every model: features, sources, and the sum of the energy terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, cast

import torch
from torch import Tensor, nn

from lsf.data.graph import GraphTensors
from lsf.models.backbone import Backbone, RecordedEdges, SpeciesGroups
from lsf.models.charge_state_embedding import ChargeState, NoChargeState
from lsf.models.convolution import ELEMENTS_AT_MOST
from lsf.models.energies.base import EnergyContext, EnergyTerm, add_up
from lsf.models.energies.pair_repulsion import BondLengths, NoBondLengths
from lsf.models.energies.readout import NoPolarizability, PolarizabilityReadout
from lsf.models.geometry import Edges, edge_geometry
from lsf.models.message_passing.compiled.executor import blocks_are_compiled
from lsf.models.message_passing.native.blocks import EdgeTables
from lsf.models.radial import RadialBasis
from lsf.models.setting import ModelSetting
from lsf.models.sources.base import SourceContext, SourceHead
from lsf.models.sources.oxidation import NoMixer


class ModelOutput(NamedTuple):
    """What a forward returns, all float64; energies in eV per structure, ``node_energy`` per atom.

    ``energy`` is the sum of ``parts``, among them atomic, short_range, coulomb and field; ``terms`` are the
    energies of all terms by name. ``density`` (n_atoms, (L + 1)²) e·Å^l, ``polarization`` (n_graphs, 3) e·Å;
    ``others`` is what a model reads besides: ``polarizability`` (n_graphs, 3, 3) e·Å²/V, or nothing.
    """

    energy: Tensor
    parts: dict[str, Tensor]
    terms: dict[str, Tensor]
    node_energy: Tensor
    density: Tensor
    polarization: Tensor
    others: dict[str, Tensor]


_ORDER: Final = (
    "backbone",
    "radial",
    "readout",
    "source",
    "coulomb",
    "polarizability",
    "pair_repulsion",
    "charge_state",
    "localized_charge",
)
"""Order of the modules, others follow: checkpoints hold the parameters by it."""


class LocalSourceModel(nn.Module):
    """Backbone, source head and energy terms, put together once for all models.

    ``species`` are the atomic numbers the model knows, rising; ``atomic_energies`` their E0 in eV. The energy
    is the sum of ``energies``: each term is a module of the model under its own name, so that files name its
    weights by it. Buffers stay float64 in a float32 model (:meth:`set_dtype` converts parameters only),
    since energies of atoms and coupling constants must not lose digits.

    Raises ValueError where two parts have one name.
    """

    species: Tensor
    atomic_energies: Tensor
    radial: RadialBasis
    backbone: Backbone
    source: SourceHead
    charge_state: ChargeState | NoChargeState
    polarizability: PolarizabilityReadout | NoPolarizability

    def __init__(
        self,
        setting: ModelSetting,
        backbone: Backbone,
        radial: RadialBasis,
        source: SourceHead,
        energies: Sequence[EnergyTerm],
        polarizability: PolarizabilityReadout | NoPolarizability,
        charge_state: ChargeState | NoChargeState,
    ) -> None:
        super().__init__()
        species, known = setting.facts.species, setting.facts.atomic_energies
        self.register_buffer("species", torch.tensor(species))
        self.register_buffer(
            "atomic_energies", torch.tensor([known[number] for number in species], dtype=torch.float64)
        )
        self.max_ell = setting.options.max_ell
        self.term_names = tuple(term.name for term in energies)
        parts: list[tuple[str, nn.Module]] = [
            ("backbone", backbone),
            ("radial", radial),
            ("source", source),
            ("polarizability", polarizability),
            ("charge_state", charge_state),
            *((term.name, term) for term in energies),
        ]
        rank = {name: place for place, name in enumerate(_ORDER)}
        for name, module in sorted(parts, key=lambda part: rank.get(part[0], len(rank))):
            if name in self._modules or name in self._buffers:
                raise ValueError(f"the model has a part of the name {name!r} already")
            self.add_module(name, module)
        self.bond_lengths = BondLengths(species) if setting.options.needs_bond_lengths() else NoBondLengths()

    @property
    def energies(self) -> list[EnergyTerm]:
        """The terms of the energy, in the order of their sum."""
        return [cast("EnergyTerm", self.get_submodule(name)) for name in self.term_names]

    @property
    def has_polarizability(self) -> bool:
        """Whether a polarizability is among the outputs."""
        return isinstance(self.polarizability, PolarizabilityReadout)

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
        groups["embedding"] += [*self.source.mixer.parameters(), *self.charge_state.parameters()]
        return {
            **groups,
            "readouts": [parameter for term in self.energies for parameter in term.parameters()],
            "source_maps": [p for p in self.source.parameters() if id(p) not in mixer],
            "polarizability_readouts": list(self.polarizability.parameters()),
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
        bonds = self.bond_lengths(graph.species, graph.edge_index)
        features, edges = self._features(graph, tables, bonds)
        sources = self.source(SourceContext(features, edges, graph))
        atomic = self.atomic_energies.index_select(0, graph.species)
        context = EnergyContext(features, edges, graph, sources, bonds, atomic)
        energy = add_up(self.energies, context)
        return ModelOutput(
            energy.total,
            energy.parts,
            energy.terms,
            energy.of_atoms,
            sources.density,
            sources.polarization,
            self.polarizability(context),
        )

    def _features(
        self, graph: GraphTensors, tables: EdgeTables | None, bonds: Tensor | None
    ) -> tuple[list[Tensor], Edges]:
        """Return the node features of every layer, and the edges they were computed on."""
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
        return self.backbone(initial, edges, graph.neighbor_slots, groups, inputs, recorded), edges

    def _recorded(self, graph: GraphTensors, tables: EdgeTables) -> RecordedEdges:
        """Return what the backbone needs where these tables are given."""
        by_species = isinstance(self.source.mixer, NoMixer) and isinstance(self.charge_state, NoChargeState)
        few = self.species.shape[0] <= ELEMENTS_AT_MOST
        return RecordedEdges(tables, graph.species if by_species and few else None)


def split_tensors(tensors: Sequence[Tensor]) -> tuple[GraphTensors, EdgeTables | None]:
    """Return the flat arguments of a model by name."""
    n_graph = len(GraphTensors._fields)
    tables = EdgeTables(*tensors[n_graph:]) if len(tensors) > n_graph else None
    return GraphTensors(*tensors[:n_graph]), tables
