"""Graphs of atoms: the batch that carries inputs, targets and weights through torch-geometric.

Shapes: ``n_atoms``, ``n_edges`` and ``n_graphs`` count a whole batch. Floating-point inputs are
float64 whatever the model's dtype, so that neighbour vectors and the Coulomb part lose no digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from lsf.electrostatics.boundary import CoulombPlan


class GraphTensors(NamedTuple):
    """Everything a model's forward needs, in the order of its positional arguments."""

    positions: Tensor  # (n_atoms, 3) Å, unwrapped as given
    cell: Tensor  # (n_graphs, 3, 3) Å, rows are lattice vectors
    atomic_numbers: Tensor  # (n_atoms,) int64
    edge_index: Tensor  # (2, n_edges) int64: sender, receiver; sorted by receiver
    unit_shifts: Tensor  # (n_edges, 3) lattice translations, integer-valued float64
    neighbor_slots: Tensor  # (n_atoms, max_degree) int64: incoming edges; n_edges pads
    batch: Tensor  # (n_atoms,) int64 graph of each atom
    formal_charges: Tensor  # (n_atoms,) e
    external_field: Tensor  # (n_graphs, 3) V/Å, gradient of the potential
    kind: Tensor  # the rest: see CoulombPlan
    slab_axis: Tensor
    slab_length: Tensor
    k_triplets: Tensor
    k_batch: Tensor
    layer_pairs: Tensor
    layer_batch: Tensor
    open_pairs: Tensor


class AtomGraph(Data):  # type: ignore[misc]
    """One structure, or after :func:`collate` a batch: the tensors above, labels and weights.

    Labels stand as ``target_<property>`` and ``weight_<property>`` (zero where the label is absent),
    weights per graph (``weight_dipole``: per graph and Cartesian component).
    """

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if key in ("edge_index", "open_pairs"):
            return self.num_nodes
        if key in ("k_batch", "layer_batch"):
            return 1
        return 0

    def __cat_dim__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        return 1 if key in ("edge_index", "open_pairs") else 0


def neighbor_slots(edge_index: Tensor, n_atoms: int) -> Tensor:
    """Return the padded table of incoming edges of every atom, ``(n_atoms, max(1, max degree))``.

    ``edge_index`` must be sorted by receiver. Unused slots hold ``n_edges``.
    """
    n_edges = edge_index.shape[1]
    receiver = edge_index[1]
    degree = torch.bincount(receiver, minlength=n_atoms)
    first = torch.cumsum(degree, 0) - degree
    width = max(1, int(degree.max())) if n_atoms else 1
    slots = torch.full((n_atoms, width), n_edges, dtype=torch.int64, device=edge_index.device)
    edges = torch.arange(n_edges, device=edge_index.device)
    slots[receiver, edges - first[receiver]] = edges
    return slots


def collate(graphs: Sequence[AtomGraph]) -> Batch:
    """Return one batch of the graphs, with its neighbour table."""
    batch = Batch.from_data_list(list(graphs))
    batch.neighbor_slots = neighbor_slots(batch.edge_index, batch.num_nodes)
    return batch


def graph_tensors(batch: Batch) -> GraphTensors:
    """Return the model inputs of a collated batch as flat tensors."""
    return GraphTensors(*(getattr(batch, name) for name in GraphTensors._fields))


def coulomb_plan(tensors: GraphTensors) -> CoulombPlan:
    """Return the part of the inputs that the Coulomb energy needs."""
    return CoulombPlan(*tensors[-len(CoulombPlan._fields) :])
