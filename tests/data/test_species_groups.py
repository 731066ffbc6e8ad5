"""Atoms grouped by species and edges by atom: every one once, few slots empty, numpy and torch alike."""

import numpy as np
import pytest
import torch

from lsf.data import graph, tables
from lsf.data.tables import group_by_species, joined, neighbor_slots


@pytest.mark.parametrize(
    ("counts", "n_groups", "width"),
    [((128, 64), 3, 64), ((2, 1), 2, 2), ((300,), 1, 300), ((500, 8, 8), 6, 125), ((100, 100), 2, 100)],
)
def test_a_frequent_species_has_several_groups(counts, n_groups, width):
    order = np.random.default_rng(0).permutation(sum(counts))
    species = np.repeat(np.arange(1, 2 * len(counts), 2), counts)[order]
    present, slots, place = group_by_species(species)
    assert slots.shape == (n_groups, width)
    assert (present == np.sort(present)).all()
    assert (slots.flatten()[place] == np.arange(sum(counts))).all()
    assert (present[place // width] == species).all()
    assert int((slots < sum(counts)).sum()) == sum(counts)


@pytest.mark.parametrize("seed", range(20))
def test_numpy_and_torch_make_the_same_tables(seed):
    """Random structures of 1 to 200 atoms, elements of very different frequency, atoms without neighbours."""
    rng = np.random.default_rng(seed)
    n_atoms, n_species = int(rng.integers(1, 200)), int(rng.integers(1, 7))
    species = rng.choice(n_species, n_atoms, p=rng.dirichlet(np.full(n_species, 0.4)))
    for one, other in zip(
        tables.group_by_species(species), graph.group_by_species(torch.from_numpy(species)), strict=True
    ):
        assert one.dtype == np.int64
        assert torch.equal(torch.from_numpy(one), other)
    n_edges = int(rng.integers(0, 8 * n_atoms))
    edges = np.stack([rng.integers(n_atoms, size=n_edges), np.sort(rng.integers(n_atoms, size=n_edges))])
    one = neighbor_slots(edges, n_atoms)
    assert torch.equal(torch.from_numpy(one), graph.neighbor_slots(torch.from_numpy(edges), n_atoms))
    assert sorted(one[one < n_edges]) == list(range(n_edges))


def test_parts_become_a_batch_as_graphs_do():
    parts = [
        {
            "positions": np.full((n, 3), float(n)),
            "edge_index": np.array([[n - 1, 0], [0, n - 1]]),
            "open_pairs": np.array([[0], [n - 1]]),
            "batch": np.zeros(n, dtype=np.int64),
            "k_batch": np.zeros(2, dtype=np.int64),
            "layer_batch": np.zeros(1, dtype=np.int64),
            "cell": np.eye(3)[None] * n,
        }
        for n in (2, 4, 3)
    ]
    found = joined(parts, np.concatenate)
    assert found["edge_index"].tolist() == [[1, 0, 5, 2, 8, 6], [0, 1, 2, 5, 6, 8]]
    assert found["batch"].tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2]
    tensors = [{name: torch.from_numpy(value) for name, value in part.items()} for part in parts]
    torch_found = joined(tensors, torch.cat)
    graphs = [
        graph.AtomGraph(num_nodes=len(part["positions"]), **{k: v for k, v in part.items() if k != "batch"})
        for part in tensors
    ]
    collated = graph.collate(graphs)
    for name, value in found.items():
        assert torch.equal(torch.from_numpy(value), torch_found[name])
        assert torch.equal(torch_found[name], collated[name]), name
