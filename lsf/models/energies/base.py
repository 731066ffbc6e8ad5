"""What an energy term sees and what it is; the sum of all terms is the energy of a model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from lsf.data.graph import GraphTensors
from lsf.models.geometry import Edges
from lsf.models.sources.base import Sources, sum_over_graph


class EnergyContext(NamedTuple):
    """Everything an energy term may look at."""

    features: list[Tensor]  # per layer (n_atoms, n_components, n_channels)
    edges: Edges  # with vectors in Å
    graph: GraphTensors  # positions, cell, batch, total charge, field, plan of the Coulomb sums …
    sources: Sources  # density coefficients and polarization
    bond_lengths: Tensor | None  # (n_edges,) Å, sums of covalent radii, for models that use them
    atomic_energies: Tensor  # (n_atoms,) eV, E0 of every atom's element

    @property
    def n_graphs(self) -> int:
        """Number of structures in the batch."""
        return self.graph.cell.shape[0]


class EnergyTerm(nn.Module):
    """One part of the energy, in the outputs as ``energy_<name>``; abstract.

    ``forward`` returns eV in float64: ``(n_atoms,)`` where ``per_atom``, which then also counts to
    ``node_energy``, else ``(n_graphs,)``. The term's weights stand in model files under ``name``. Terms of
    the same ``part`` are added up and shown under its name, too; without one, a term is a part of its own.
    It may depend on positions and cell in any differentiable way: forces and stress follow by themselves.
    """

    name: ClassVar[str]
    part: ClassVar[str | None] = None
    per_atom: ClassVar[bool]

    def forward(self, context: EnergyContext) -> Tensor:
        """Return the energy of every atom, or of every structure."""
        raise NotImplementedError


class EnergySums(NamedTuple):
    """Energies of a batch in eV, float64."""

    total: Tensor  # (n_graphs,), the sum of the parts
    parts: dict[str, Tensor]  # (n_graphs,) by the name of the part
    terms: dict[str, Tensor]  # (n_graphs,) by the name of the term
    of_atoms: Tensor  # (n_atoms,), all terms that are given per atom


def add_up(terms: Sequence[EnergyTerm], context: EnergyContext) -> EnergySums:
    """Evaluate all terms, at least one of them per atom, and add them up: per part, and atom by atom."""
    of_atoms: dict[str, Tensor] = {}
    of_graphs: dict[str, Tensor] = {}
    named: dict[str, Tensor] = {}
    for term in terms:
        energy, part = term(context), term.part or term.name
        sums = of_atoms if term.per_atom else of_graphs
        sums[part] = sums[part] + energy if part in sums else energy
        named[term.name] = of_structures(energy, context) if term.per_atom else energy
    # terms of a part are summed atom by atom before they are summed over atoms
    parts: dict[str, Tensor] = {}
    for part in dict.fromkeys(term.part or term.name for term in terms):
        found = [of_structures(of_atoms[part], context)] if part in of_atoms else []
        found += [of_graphs[part]] if part in of_graphs else []
        parts[part] = reduce(add, found)
    return EnergySums(reduce(add, parts.values()), parts, named, reduce(add, of_atoms.values()))


def of_structures(energy: Tensor, context: EnergyContext) -> Tensor:
    """Return ``(n_graphs,)``, the sums of energies of atoms ``(n_atoms,)``."""
    return sum_over_graph(energy, context.graph.batch, context.n_graphs)
