"""Functions of blocks, and sums as operations of a graph: the numbers of the native kernels."""

from contextlib import nullcontext

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import lsf
from lsf.data.graph import graph_tensors
from lsf.formats.graph import recorded
from lsf.models.derivatives import evaluate
from lsf.models.message_passing.compiled import executor as compiled
from lsf.models.message_passing.compiled.executor import compiled_blocks
from lsf.models.message_passing.compiled.operator import block_arguments
from lsf.models.message_passing.compiled.recording import recorded_inputs
from lsf.models.message_passing.native.autograd import positions_kept_inside
from lsf.models.message_passing.native.blocks import EdgeTables, edge_blocks
from tests.formats.test_torchscript import batch, expected, model_file
from tests.models.helpers import salt_slab, triclinic_salt, water

# a cell smaller than the cutoff, where atoms are neighbours of their own images
STRUCTURES = [triclinic_salt(4), water(2), salt_slab()]
MODELS = [
    ("LocalCharges", "correlation = 2"),
    ("LocalSplitCharges", 'oxidation_mixer = "sum"\nnum_interactions = 3'),
    ("MACE", 'radial_basis = "gaussian"\ndistance_transform = "agnesi"\npair_repulsion = true'),
    ("MACE", 'hidden_irreps = "2x0e + 2x1o + 2x2e"\nnum_interactions = 2'),
]


def plain(functions, name, _):
    """Find functions that nobody compiled."""
    return getattr(functions, name)


def same(found, reference, tolerance=1e-11):
    for value, other in zip(reference, found, strict=True):
        scale = max(1.0, float(value.abs().max()))
        torch.testing.assert_close(other, value, rtol=0.0, atol=tolerance * scale)


def gradients(model, graph, twice):
    """Return energies, forces, and gradients of weights of a sum of squares.

    With ``twice`` the sums are differentiated along two cotangents first.
    """
    with positions_kept_inside():
        positions = graph.positions.clone().requires_grad_(True)
        found = model(*graph._replace(positions=positions))
        (slope,) = torch.autograd.grad(found.energy.sum(), positions, create_graph=True)
        total = slope.square().sum() + found.density.square().sum() + found.polarization.square().sum()
        if twice:
            (other,) = torch.autograd.grad(found.node_energy.cos().sum(), positions, create_graph=True)
            total = total + other.pow(3).sum()
    wanted = [value for value in model.parameters() if value.requires_grad]
    by = torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True)
    return [value.detach() for value in (found.energy, slope, *by)]


def of_energies(model, graph, positions):
    """Return gradients of a function of the energies, by the weights and, if asked for, by positions."""
    moved = graph._replace(positions=graph.positions.clone().requires_grad_(positions))
    with positions_kept_inside() if not positions else nullcontext():
        total = model(*moved).node_energy.cos().sum()
    wanted = [value for value in model.parameters() if value.requires_grad]
    wanted += [moved.positions] if positions else []
    return torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(("model", "more"), MODELS)
def test_functions_of_blocks_give_the_numbers_of_the_native_kernels(
    tmp_path, monkeypatch, model, more, again, twice
):
    loaded = lsf.load(model_file(tmp_path, boundary="auto", model=model, more=more))
    loaded.model.requires_grad_(True)
    loaded.model.backbone.recompute(again)
    graph = graph_tensors(batch(loaded, STRUCTURES), loaded.model.species)
    names = set()

    def find(functions, name, _):
        names.add(name)
        return getattr(functions, name)

    native = gradients(loaded.model, graph, twice)
    monkeypatch.setattr(compiled, "SLOTS", 40)
    with compiled_blocks(find):
        same(gradients(loaded.model, graph, twice), native)
    assert names == {"forward", "backward", "tangents", "second"}


@pytest.mark.parametrize("positions", [False, True])
def test_energies_alone_have_gradients(tmp_path, positions):
    loaded = lsf.load(model_file(tmp_path, boundary="auto"))
    loaded.model.requires_grad_(True)
    graph = graph_tensors(batch(loaded, STRUCTURES), loaded.model.species)
    native = of_energies(loaded.model, graph, positions)
    with compiled_blocks(plain):
        same(of_energies(loaded.model, graph, positions), native)


def test_second_derivatives_by_positions_are_refused(tmp_path):
    loaded = lsf.load(model_file(tmp_path, boundary="auto"))
    structure = batch(loaded, [water(1)])
    assert evaluate(loaded.model, structure, ("hessian",))["hessian"].shape == (9, 9)
    with (
        compiled_blocks(plain),
        pytest.raises(RuntimeError, match=r"no second derivatives w\.r\.t\. positions"),
    ):
        evaluate(loaded.model, structure, ("hessian",))


def test_what_is_kept_for_two_cotangents_is_not_mixed_up(tmp_path):
    loaded = lsf.load(model_file(tmp_path, boundary="auto"))
    loaded.model.requires_grad_(True)
    graph = graph_tensors(batch(loaded, STRUCTURES), loaded.model.species)
    kept = gradients(loaded.model, graph, True)
    loaded.model.backbone.recompute(True)
    same(gradients(loaded.model, graph, True), kept)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "more"), MODELS)
def test_a_recorded_graph_gives_the_numbers_of_the_model(tmp_path, model, more):
    loaded = lsf.load(model_file(tmp_path, boundary="auto", model=model, more=more))
    graph = recorded(loaded, torch.float64, opaque=True)
    assert block_arguments(graph.module)
    for structures in (STRUCTURES, [water(1)], [water(1)[[0]]]):
        tensors = graph_tensors(batch(loaded, structures), loaded.model.species)
        with compiled_blocks(plain):
            values = graph.module(*recorded_inputs(tensors, graph.inputs))
        reference = expected(loaded, structures)
        assert set(graph.outputs) == set(reference)
        same(values, [reference[name] for name in graph.outputs])


def test_gradients_of_weights_in_a_graph_are_refused(tmp_path):
    loaded = lsf.load(model_file(tmp_path, model="MACE"))
    loaded.model.requires_grad_(True)
    graph = graph_tensors(batch(loaded, [water(2)]), loaded.model.species)
    tables = edge_blocks(graph.edge_index, graph.neighbor_slots, graph.unit_shifts).tables
    with pytest.raises(ValueError, match=r"no gradients w\.r\.t\. weights in a traced graph"):
        make_fx(lambda *tensors: loaded.model(*tensors).energy)(*graph, *tables)


def test_tables_lead_there_and_back(tmp_path):
    loaded = lsf.load(model_file(tmp_path, boundary="auto"))
    graph = graph_tensors(batch(loaded, [triclinic_salt(4), water(2)]), loaded.model.species)
    n_edges, n_atoms = graph.edge_index.shape[1], graph.positions.shape[0]
    blocks = edge_blocks(graph.edge_index, graph.neighbor_slots, graph.unit_shifts)
    tables: EdgeTables = blocks.tables
    assert torch.equal(tables.atom_of_place[tables.place_of_atom], torch.arange(n_atoms))
    assert torch.equal(tables.edge_of_slot[tables.slot_of_edge], torch.arange(n_edges))
    filled = tables.edge_of_slot < n_edges
    assert torch.equal(tables.sender_of_slot[filled], graph.edge_index[0][tables.edge_of_slot[filled]])
    # one row for the two directions of a pair, and one of zeros
    assert len(tables.edge_of_row) == n_edges // 2 + 1
    firsts = tables.row_of_edge < len(tables.edge_of_row)
    assert int(firsts.sum()) == n_edges // 2
    assert torch.equal(tables.edge_of_row[tables.row_of_edge[firsts]], torch.arange(n_edges)[firsts])
    assert torch.equal(
        tables.row_of_slot[~filled], torch.full_like(tables.row_of_slot[~filled], n_edges // 2)
    )
