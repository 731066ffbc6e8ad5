"""Graphs of atoms: the batch that carries inputs, targets and weights through torch-geometric.

Shapes: ``n_atoms``, ``n_edges`` and ``n_graphs`` count a whole batch. Floating-point inputs are
float64 whatever the model's dtype, so that neighbour vectors and the Coulomb part lose no digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lsf.data.tables import COUNTS_ATOMS, COUNTS_GRAPHS, group_width
from lsf.electrostatics.plan.coulomb_plan import CoulombPlan
from lsf.machine.geometric import Batch, Data


class GraphTensors(NamedTuple):
    """Everything a model's forward needs, in the order of its positional arguments."""

    positions: Tensor  # (n_atoms, 3) Å, unwrapped as given
    cell: Tensor  # (n_graphs, 3, 3) Å, rows are lattice vectors
    species: Tensor  # (n_atoms,) int64 index into the model's species
    present_species: Tensor  # (n_present,) int64 species of every group of atoms, rising
    species_slots: Tensor  # (n_present, n_slots) int64 atoms of each; n_atoms pads
    species_place: Tensor  # (n_atoms,) int64 flat position of every atom in species_slots
    edge_index: Tensor  # (2, n_edges) int64: sender, receiver; sorted by receiver
    unit_shifts: Tensor  # (n_edges, 3) lattice translations, integer-valued float64
    neighbor_slots: Tensor  # (n_atoms, max_degree) int64: incoming edges; n_edges pads
    batch: Tensor  # (n_atoms,) int64 graph of each atom
    formal_charges: Tensor  # (n_atoms,) e
    external_field: Tensor  # (n_graphs, 3) V/Å, gradient of the potential
    total_charge: Tensor  # (n_graphs,) e, seen by models that embed it
    total_spin: Tensor  # (n_graphs,) number of unpaired electrons, seen by models that embed it
    kind: Tensor  # the rest: see CoulombPlan
    slab_axis: Tensor
    slab_length: Tensor
    k_triplets: Tensor
    k_batch: Tensor
    layer_pairs: Tensor
    layer_batch: Tensor
    open_pairs: Tensor
    mesh_size: Tensor
    mesh_order: Tensor
    open_box: Tensor
    truncation_radius: Tensor


_LABELS = ("target_", "weight_")


class AtomGraph(Data):  # type: ignore[misc]
    """One structure, or after :func:`collate` a batch: the tensors above, labels and weights.

    Labels stand as ``target_<property>`` and ``weight_<property>`` (zero where the label is absent),
    weights per graph (``weight_dipole``: per graph and Cartesian component).
    """

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if key in COUNTS_ATOMS:
            return self.num_nodes
        return 1 if key in COUNTS_GRAPHS else 0

    def __cat_dim__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        return 1 if key in COUNTS_ATOMS else 0


def neighbor_slots(edge_index: Tensor, n_atoms: int) -> Tensor:
    """Return :func:`lsf.data.tables.neighbor_slots` by torch operations, on the device of the edges."""
    n_edges = edge_index.shape[1]
    receiver = edge_index[1]
    degree = torch.bincount(receiver, minlength=n_atoms)
    first = torch.cumsum(degree, 0) - degree
    width = max(1, int(degree.max())) if n_atoms else 1
    slots = torch.full((n_atoms, width), n_edges, dtype=torch.int64, device=edge_index.device)
    edges = torch.arange(n_edges, device=edge_index.device)
    slots[receiver, edges - first[receiver]] = edges
    return slots


def collate(graphs: Sequence[AtomGraph], labels: bool = True) -> Batch:
    """Return one batch of the graphs, with its neighbour table; the inputs alone where not ``labels``."""
    left_out = [] if labels else [name for name in graphs[0].keys() if name.startswith(_LABELS)]  # noqa: SIM118
    batch = Batch.from_data_list(list(graphs), exclude_keys=left_out)
    batch.neighbor_slots = neighbor_slots(batch.edge_index, batch.num_nodes)
    return batch


def group_by_species(species: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return :func:`lsf.data.tables.group_by_species` by torch operations, on the device of the atoms."""
    n_atoms = species.shape[0]
    present, local, counts = torch.unique(species, return_inverse=True, return_counts=True)
    order = torch.argsort(local, stable=True)
    first = torch.cumsum(counts, 0) - counts
    rank = torch.empty_like(order)
    rank[order] = torch.arange(n_atoms, device=species.device) - first[local[order]]
    number_of: list[int] = counts.tolist()
    width = group_width(number_of)
    n_groups = torch.div(counts + (width - 1), width, rounding_mode="floor")
    place = (torch.cumsum(n_groups, 0) - n_groups)[local] * width + rank
    slots = torch.full((int(n_groups.sum()) * width,), n_atoms, dtype=torch.int64, device=species.device)
    slots[place] = torch.arange(n_atoms, device=species.device)
    return present.repeat_interleave(n_groups), slots.reshape(-1, width), place


def species_index(atomic_numbers: Tensor, known: Tensor) -> Tensor:
    """Return the index of every atom's element in ``known`` (rising atomic numbers).

    Raises
    ------
    ValueError
        naming the elements that ``known`` lacks.
    """
    index = torch.searchsorted(known, atomic_numbers).clamp(max=known.shape[0] - 1)
    missing = torch.unique(atomic_numbers[known[index] != atomic_numbers]).tolist()
    if missing:
        raise ValueError(f"elements with atomic numbers {missing} are not among {known.tolist()}")
    return index


def graph_tensors(batch: Batch, known_species: Tensor) -> GraphTensors:
    """Return the model inputs of a collated batch as flat tensors.

    ``known_species`` are the model's atomic numbers, rising. Raises ValueError on other elements.
    """
    species = species_index(batch.atomic_numbers, known_species)
    present, slots, place = group_by_species(species)
    grouped = {
        "species": species,
        "present_species": present,
        "species_slots": slots,
        "species_place": place,
    }
    return GraphTensors(*(grouped[name] if name in grouped else batch[name] for name in GraphTensors._fields))


def coulomb_plan(tensors: GraphTensors) -> CoulombPlan:
    """Return the part of the inputs that the Coulomb energy needs."""
    return CoulombPlan(*tensors[-len(CoulombPlan._fields) :])
