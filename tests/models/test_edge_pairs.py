"""Both directions of a pair of neighbours share their radial functions."""

import pytest
import torch
from ase import Atoms

from lsf.data.graph import neighbor_slots
from lsf.data.neighbors import find_neighbors
from lsf.models.geometry import edge_geometry
from lsf.models.interaction import Interaction
from lsf.models.irreps import parse_irreps
from lsf.models.message_passing.native import radial as radial_derivatives
from lsf.models.message_passing.native.edge_pairs import radial_rows, two_directions
from lsf.models.message_passing.neighborhood import Neighborhood
from lsf.models.radial import BesselBasis


@pytest.fixture
def crystal():
    """Three atoms in a cell so small that every pair is found several times, an atom and itself, too."""
    atoms = Atoms("OH2", positions=[[0.1, 0.0, 0.2], [1.1, 0.3, 0.0], [0.4, 1.2, 0.9]], pbc=True)
    atoms.cell = [[2.6, 0.1, 0.0], [0.0, 2.4, 0.3], [0.2, 0.0, 2.9]]
    return atoms


def edges_of(atoms, cutoff=3.0):
    found = find_neighbors(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    return torch.as_tensor(found.edge_index), torch.as_tensor(found.unit_shifts).double()


def test_counterparts_are_the_same_edge_turned_round(crystal):
    edge_index, shifts = edges_of(crystal)
    one, other = two_directions(edge_index, shifts, 3)
    assert sorted([*one.tolist(), *other.tolist()]) == list(range(edge_index.shape[1]))
    assert torch.equal(edge_index[:, one], edge_index[:, other].flip(0))
    assert torch.equal(shifts[one], -shifts[other])
    rows = radial_rows(edge_index, shifts, 3)
    assert torch.equal(rows.of_edge[one], rows.of_edge[other])
    assert int(rows.of_edge[-1]) == len(one)


def test_edges_without_counterpart_have_rows_of_their_own(crystal):
    edge_index, shifts = edges_of(crystal)
    assert two_directions(edge_index[:, 1:], shifts[1:], 3) is None
    n_edges = edge_index.shape[1]
    far = shifts[1:] * 2.0**30  # atoms that have drifted across more cells than can be counted
    for known in (shifts[1:], None, far):
        rows = radial_rows(edge_index[:, 1:], known, 3)
        assert torch.equal(rows.edges, torch.arange(n_edges - 1))
        assert torch.equal(rows.of_edge, torch.arange(n_edges))


def test_shared_rows_change_nothing_to_third_derivatives(crystal, monkeypatch):
    monkeypatch.setitem(radial_derivatives.CHUNK_BYTES, "cpu", 800)  # more than one chunk of rows
    edge_index, shifts = edges_of(crystal)
    torch.manual_seed(1)
    module = Interaction(parse_irreps("2x0e + 2x1o"), 2, 4, (8, 5), 3.7, "native").double()
    results = []
    for shared in (True, False):
        positions = torch.tensor(crystal.positions, requires_grad=True)
        cell = torch.tensor(crystal.cell.array[None], requires_grad=True)
        basis = BesselBasis(3.0, 4, 5)
        batch = torch.zeros(3, dtype=torch.int64)
        edges = edge_geometry(positions, cell, edge_index, shifts, batch, basis, 2, positions.dtype)
        edges = edges if shared else edges._replace(unit_shifts=None)
        neighborhood = Neighborhood.of_batch(edges, neighbor_slots(edge_index, 3))
        features = torch.linspace(-1.0, 1.0, 24, dtype=torch.float64).view(3, 4, 2).requires_grad_()
        energy = (module(features, neighborhood) ** 3).sum()
        first = torch.autograd.grad(energy, (positions, cell, features), create_graph=True)
        second = torch.autograd.grad(
            sum((part**2).sum() for part in first), (positions, cell), create_graph=True
        )
        third = torch.autograd.grad(
            sum((part**2).sum() for part in second), (positions, *module.radial.weights, module.radial_out)
        )
        results.append((energy, *first, *second, *third))
    for one, other in zip(*results, strict=True):
        scale = float(other.detach().abs().max())
        assert torch.allclose(one / scale, other / scale, atol=1e-12)
