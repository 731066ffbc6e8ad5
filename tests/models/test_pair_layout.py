"""The layout of pairs: the numbers of the native kernels, with derivatives of any order."""

import pytest
import torch

import lsf
from lsf.data.graph import graph_tensors
from lsf.models.pair_layout import pair_tables
from tests.export.test_torchscript import batch, model_file
from tests.models.helpers import salt_slab, triclinic_salt, water


def outputs(model, graph, tables):
    """Return energies, forces, and gradients of weights of a sum of squares."""
    positions = graph.positions.clone().requires_grad_(True)
    found = model(*graph._replace(positions=positions), *tables)
    (slope,) = torch.autograd.grad(found.energy.sum(), positions, create_graph=True)
    total = slope.square().sum() + found.density.square().sum() + found.polarization.square().sum()
    parameters = [value for value in model.parameters() if value.requires_grad]
    gradients = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
    return [value.detach() for value in (found.energy, slope, *gradients)]


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("LocalCharges", "correlation = 2"),
        ("LocalSplitCharges", 'oxidation_mixer = "sum"\nnum_interactions = 3'),
        ("MACE", 'radial_basis = "gaussian"\ndistance_transform = "agnesi"\npair_repulsion = true'),
        ("MACE", 'interaction_first = "density"\ninteraction = "density_residual"'),
    ],
)
def test_pairs_give_the_numbers_of_the_native_kernels(tmp_path, model, more):
    loaded = lsf.load(model_file(tmp_path, boundary="auto", model=model, more=more))
    # a cell smaller than the cutoff, where atoms are neighbours of their own images
    structures = [triclinic_salt(4), water(2), salt_slab()]
    graph = graph_tensors(batch(loaded, structures), loaded.model.species)
    tables = pair_tables(graph, loaded.model.species.shape[0])
    native, paired = outputs(loaded.model, graph, ()), outputs(loaded.model, graph, tables)
    for value, other in zip(native, paired, strict=True):
        scale = max(1.0, float(value.abs().max()))
        torch.testing.assert_close(other, value, rtol=0.0, atol=1e-11 * scale)


def test_tables_hold_every_edge_once(tmp_path):
    loaded = lsf.load(model_file(tmp_path, boundary="pbc"))
    graph = graph_tensors(batch(loaded, [triclinic_salt(4)]), loaded.model.species)
    tables = pair_tables(graph, 4)
    n_edges = graph.edge_index.shape[1]
    assert tables.pairs.shape == (2, n_edges // 2 + 1)
    full = graph.neighbor_slots < n_edges
    assert torch.equal(tables.pair_of_slot < n_edges // 2, full)
    counts = torch.bincount(tables.pair_of_slot[full])
    assert torch.equal(counts, torch.full_like(counts, 2))
    # the counterpart of a counterpart is the slot itself
    back = tables.other_slot[tables.senders, tables.other_slot]
    columns = torch.arange(full.shape[1]).expand_as(back)
    assert torch.equal(back[full], columns[full])


def test_an_edge_without_counterpart_is_an_error(tmp_path):
    loaded = lsf.load(model_file(tmp_path))
    graph = graph_tensors(batch(loaded, [water(2)]), loaded.model.species)
    edges = graph.edge_index.clone()
    edges[0, 0] = (edges[0, 0] + 1) % 3
    with pytest.raises(ValueError, match="no counterpart in the other direction"):
        pair_tables(graph._replace(edge_index=edges), 4)
