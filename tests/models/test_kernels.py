"""The kernels of the whole backbone against e3nn's, second derivatives included."""

from contextlib import nullcontext

import pytest
import torch

from lsf.data.graph import group_by_species, neighbor_slots
from lsf.models import contraction, monomials
from lsf.models.backbone import Backbone, SpeciesGroups
from lsf.models.backbone_options import BackboneOptions
from lsf.models.convolution import ELEMENTS_AT_MOST
from lsf.models.interaction import Interaction
from lsf.models.irreps import parse_irreps
from lsf.models.message_passing.native.autograd import positions_kept_inside, weights_fixed
from lsf.models.message_passing.native.blocks import SLOTS_PER_BLOCK, edge_blocks
from lsf.models.monomials import IndexPairs, pair_products, runs_of
from tests.models.test_interaction import geometry, neighborhood, random_graph

# irreps, max_ell, correlation, interactions, elements
CASES = [
    ("3x0e", 0, 1, 1, 1),
    ("2x0e + 2x1o", 1, 2, 3, 2),
    ("2x0e + 2x1o", 3, 3, 2, 2),
    ("2x0e + 2x1o + 2x2e", 2, 2, 2, 3),
    ("1x0e + 1x1o + 1x2e", 4, 2, 2, 2),
    ("2x0e + 2x1o", 2, 3, 4, ELEMENTS_AT_MOST + 3),
]


def backbone_of(case, kernels):
    irreps, max_ell, correlation, interactions, elements = case
    torch.manual_seed(3)
    options = BackboneOptions(
        hidden_irreps=irreps,
        num_interactions=interactions,
        max_ell=max_ell,
        correlation=correlation,
        num_radial=4,
        radial_mlp=(8, 6),
        kernels=kernels,
    )
    return Backbone(options, n_species=elements, avg_num_neighbors=3.0).double()


def differentiated(case, kernels, inputs, recompute=False):
    """Scalar features, forces, and the gradient of their squares by every weight."""
    backbone = backbone_of(case, kernels)
    backbone.recompute(recompute)
    positions, edge_index = random_graph(14, seed=5, spread=1.5)
    positions.requires_grad_(True)
    species = torch.arange(14) % case[4]
    edges = geometry(positions, edge_index, case[1])
    groups = SpeciesGroups(*group_by_species(species))
    slots = neighbor_slots(edge_index, 14)
    layers = backbone(backbone.embed(species), edges, slots, groups, inputs)
    scalars = torch.cat([layer[:, 0] for layer in layers], 1)
    (forces,) = torch.autograd.grad(scalars.sin().sum(), positions, create_graph=True)
    loss = forces.square().sum() + scalars.square().sum()
    parameters = [parameter for parameter in backbone.parameters() if parameter.numel()]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return [scalars, forces, *gradients]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_equal_e3nn_to_second_derivatives(case, monkeypatch):
    monkeypatch.setattr(contraction, "ATOMS_AT_ONCE", 3)
    reference = differentiated(case, "e3nn", None)
    nothing = torch.zeros(14, 0, dtype=torch.float64)
    variants = {
        "native": differentiated(case, "native", nothing),
        "native, no sum by element": differentiated(case, "native", None),
        "native, recompute": differentiated(case, "native", nothing, recompute=True),
        "plain": differentiated(case, "plain", nothing),
    }
    for name, found in variants.items():
        for ours, theirs in zip(found, reference, strict=True):
            scale = max(1.0, float(theirs.detach().abs().max()))
            # the same sums in another order; the bar is 1e-10
            assert torch.allclose(ours / scale, theirs / scale, atol=1e-10), name


def test_unlike_atoms_of_one_element_are_not_summed_by_element():
    different = torch.arange(14, dtype=torch.float64).unsqueeze(1)
    groups = SpeciesGroups(*group_by_species(torch.arange(14) % 2))
    assert groups.representatives(different) == (None, None)
    first, element = groups.representatives(torch.ones(14, 1))
    assert first.tolist() == [0, 1]
    assert element.tolist() == [index % 2 for index in range(14)]


def test_third_derivatives_of_the_blocks_are_those_of_plain_operations():
    results = []
    for kernels in ("native", "plain"):
        torch.manual_seed(1)
        module = Interaction(parse_irreps("2x0e + 2x1o"), 2, 4, (5,), 3.7, kernels).double()
        positions, edge_index = random_graph(6, seed=2, spread=1.2)
        positions.requires_grad_(True)
        edges = geometry(positions, edge_index, 2)
        features = torch.ones(6, 4, 2, dtype=torch.float64)
        value = module(features, neighborhood(edges, 6)).sin().sum()
        for _ in range(2):
            (gradient,) = torch.autograd.grad(value, positions, create_graph=True)
            value = gradient.square().sum()
        results.append(torch.autograd.grad(value, [positions, *module.radial.weights]))
    for native, plain in zip(*results, strict=True):
        scale = max(1.0, float(plain.abs().max()))
        assert torch.allclose(native / scale, plain / scale, atol=1e-10)


def test_forces_with_fixed_weights_are_the_same_and_leave_no_gradient():
    torch.manual_seed(1)
    module = Interaction(parse_irreps("2x0e + 2x1o"), 2, 4, (5,), 3.7, "native").double()
    positions, edge_index = random_graph(6, seed=2, spread=1.2)
    positions.requires_grad_(True)
    forces = []
    for fixed in (False, True):
        edges = geometry(positions, edge_index, 2)
        features = torch.ones(6, 4, 2, dtype=torch.float64)
        if fixed:
            with weights_fixed():
                value = module(features, neighborhood(edges, 6)).sin().sum()
            gradient, by_weight = torch.autograd.grad(
                value, [positions, module.radial.weights[0]], materialize_grads=True
            )
            assert not by_weight.any()
        else:
            value = module(features, neighborhood(edges, 6)).sin().sum()
            (gradient,) = torch.autograd.grad(value, positions)
        forces.append(gradient)
    assert torch.equal(*forces)


def two_losses(kernels: str, recompute: bool = False):
    """Return what two losses of two different gradients depend on, and these losses."""
    torch.manual_seed(1)
    module = Interaction(parse_irreps("2x0e + 2x1o"), 2, 4, (5, 6), 3.7, kernels).double()
    module.recompute(recompute)
    positions, edge_index = random_graph(6, seed=2, spread=1.2)
    positions.requires_grad_(True)
    features = torch.linspace(-1.0, 1.0, 48, dtype=torch.float64).view(6, 4, 2).requires_grad_(True)
    values = module(features, neighborhood(geometry(positions, edge_index, 2), 6))
    losses = []
    for value in (values.sin().sum(), values.square().sum()):
        (gradient,) = torch.autograd.grad(value, positions, create_graph=True)
        losses.append(gradient.square().sum() + value)
    return [positions, features, module.radial_out, *module.radial.weights, *module.linear_down], losses


@pytest.mark.parametrize("recompute", [False, True])
def test_second_derivatives_of_several_gradients_and_of_part_of_a_graph(recompute):
    (leaves, native), (others, plain) = two_losses("native", recompute), two_losses("plain")

    def agree(loss, kept, wanted=slice(None)):
        ours = torch.autograd.grad(
            native[loss] if loss < 2 else sum(native), leaves[wanted], retain_graph=kept
        )
        theirs = torch.autograd.grad(
            plain[loss] if loss < 2 else sum(plain), others[wanted], retain_graph=True
        )
        for one, other in zip(ours, theirs, strict=True):
            scale = max(1.0, float(other.abs().max()))
            assert torch.allclose(one / scale, other / scale, atol=1e-11)

    agree(0, True)
    agree(0, True)  # once more through the same graph
    agree(0, True, slice(-1, None))  # of the last weights alone: what the sums depend on is not asked for
    agree(1, True)  # another gradient of the same sums, after that
    agree(2, False)  # both at once


def test_gradients_of_a_training_step_leave_out_the_geometry_of_positions_nobody_holds():
    found = []
    for inside in (False, True):
        torch.manual_seed(1)
        module = Interaction(parse_irreps("2x0e + 2x1o"), 2, 4, (5,), 3.7, "native").double()
        positions, edge_index = random_graph(6, seed=2, spread=1.2)
        positions.requires_grad_(True)
        with positions_kept_inside() if inside else nullcontext():
            edges = geometry(positions, edge_index, 2)
            value = module(torch.ones(6, 4, 2, dtype=torch.float64), neighborhood(edges, 6)).sin().sum()
            (forces,) = torch.autograd.grad(value, positions, create_graph=True)
        wanted = [edges.radial_basis, edges.harmonics, *module.parameters()]
        loss = forces.square().sum() + value
        found.append(torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True))
    assert found[0][0].any()
    assert not found[1][0].any()
    for without, within in zip(found[0][2:], found[1][2:], strict=True):
        assert torch.equal(without, within)


@pytest.mark.parametrize("sparing", [False, True])
def test_blocks_hold_every_edge_once_whatever_the_degrees(monkeypatch, sparing):
    monkeypatch.setitem(SLOTS_PER_BLOCK, "cpu", 16)
    positions, edge_index = random_graph(30, seed=8, spread=1.7)
    n_edges = edge_index.shape[1]
    blocks = edge_blocks(edge_index, neighbor_slots(edge_index, 30), sparing=sparing)
    assert len(blocks.blocks) > (6 if sparing else 3)
    edges = blocks.tables.edge_of_slot
    assert sorted(edges[edges < n_edges].tolist()) == list(range(n_edges))
    assert len(edges) < 1.3 * n_edges + 30  # a table as wide as the highest degree has many more
    ones = blocks.in_slots(torch.ones(n_edges, 1))
    degrees = blocks.unsort(blocks.summed(ones, ones))[:, 0, 0]
    assert degrees.tolist() == torch.bincount(edge_index[1], minlength=30).tolist()
    assert len(positions) == sum(block.n_atoms for block in blocks.blocks)


@pytest.mark.parametrize("large_row", [1, 2**12])  # run by run; by copies of rows
def test_pair_products_are_differentiable_to_any_order(monkeypatch, large_row):
    generator = torch.Generator().manual_seed(4)
    rows = torch.randn(4, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    first, second = [0, 0, 1, 2, 3, 3, 2], [0, 1, 3, 3, 3, 2, 1]
    pairs = IndexPairs(torch.tensor(first), torch.tensor(second), runs_of(first, second))
    monkeypatch.setattr(monomials, "LARGE_ROW", large_row)

    def cubes(values):
        return pair_products(values, pairs) ** 3

    assert torch.allclose(pair_products(rows, pairs), rows[pairs[0]] * rows[pairs[1]])
    assert torch.autograd.gradcheck(cubes, rows)
    assert torch.autograd.gradgradcheck(cubes, rows)
