"""The formula of the message passing against e3nn's tensor product, and executors against the formula."""

import pytest
import torch

from lsf.data.graph import group_by_species, neighbor_slots
from lsf.models.backbone import Backbone, SpeciesGroups
from lsf.models.backbone_options import BackboneOptions
from lsf.models.convolution import Convolution, ConvolutionPaths, convolution_paths
from lsf.models.geometry import edge_geometry
from lsf.models.interaction import Interaction
from lsf.models.irreps import parse_irreps
from lsf.models.message_passing.neighborhood import Neighborhood
from lsf.models.radial import BesselBasis, polynomial_cutoff
from tests.models.e3nn_convolution import e3nn_convolution


def random_graph(n_atoms: int, seed: int = 0, spread: float = 2.0):
    """Positions and all directed edges shorter than 3 Å; the last atom is isolated."""
    generator = torch.Generator().manual_seed(seed)
    positions = torch.randn(n_atoms, 3, dtype=torch.float64, generator=generator) * spread
    positions[-1] += 100.0
    near = torch.cdist(positions, positions) < 3.0
    near.fill_diagonal_(False)
    edge_index = near.nonzero().T.flip(0)  # sorted by receiver
    return positions, edge_index


def geometry(positions, edge_index, max_ell):
    shifts = positions.new_zeros(edge_index.shape[1], 3)
    cell = positions.new_zeros(1, 3, 3)
    batch = edge_index.new_zeros(len(positions))
    basis = BesselBasis(3.0, 4, 5).to(positions.device)
    return edge_geometry(positions, cell, edge_index, shifts, batch, basis, max_ell, positions.dtype)


def neighborhood(edges, n_atoms):
    return Neighborhood.of_batch(edges, neighbor_slots(edges.edge_index, n_atoms))


CASES = [
    ("3x0e", 0),
    ("3x0e", 3),
    ("2x0e + 2x1o", 1),
    ("2x0e + 2x1o", 3),
    ("2x0e + 2x1o + 2x2e", 2),
    ("1x0e + 1x1o + 1x2e", 4),
]


@pytest.mark.parametrize(("irreps", "max_ell"), CASES)
def test_the_formula_is_e3nn_s_tensor_product_summed_by_receiver(irreps, max_ell):
    paths = ConvolutionPaths(parse_irreps(irreps), max_ell)
    positions, edge_index = random_graph(9)
    edges = geometry(positions, edge_index, max_ell)
    torch.manual_seed(2)
    features = torch.randn(9, paths.inputs.dim, paths.inputs.channels, dtype=torch.float64)
    weights = torch.randn(edge_index.shape[1], len(paths.paths), paths.inputs.channels, dtype=torch.float64)
    given = [value.requires_grad_(True) for value in (features, edges.harmonics, weights)]
    results = []
    for convolution in (Convolution(paths), e3nn_convolution(paths)):
        found = convolution(given[0], edge_index, *given[1:])
        first = torch.autograd.grad(found.sin().sum(), given, create_graph=True)
        second = torch.autograd.grad(sum(part.square().sum() for part in first), given)
        results.append([found, *first, *second])
    for ours, theirs in zip(*results, strict=True):
        scale = float(theirs.detach().abs().max())
        # the same products in another order
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-14 * max(1.0, scale))


@pytest.mark.parametrize(("irreps", "max_ell"), CASES)
def test_native_kernel_equals_e3nn_to_second_derivatives(irreps, max_ell):
    inputs = parse_irreps(irreps)
    results = {}
    for kernels in ("native", "plain", "e3nn"):
        torch.manual_seed(1)
        module = Interaction(inputs, max_ell, 4, (8, 5), 3.7, kernels).double()
        positions, edge_index = random_graph(9)
        positions.requires_grad_(True)
        torch.manual_seed(2)
        features = torch.randn(9, inputs.dim, inputs.channels, dtype=torch.float64, requires_grad=True)
        edges = geometry(positions, edge_index, max_ell)
        out = module(features, neighborhood(edges, 9))
        energy = (out**3).sum()
        first = torch.autograd.grad(energy, (positions, features), create_graph=True)
        loss = sum((gradient**2).sum() for gradient in first)
        parameters = [module.radial_out, *module.radial.weights, module.linear_up.weight]
        second = torch.autograd.grad(loss, parameters)
        results[kernels] = (out, *first, *second)
    # the same sums in another order: 1e-10 relative, the bar, is far above rounding
    for kernels in ("native", "plain"):
        for ours, reference in zip(results[kernels], results["e3nn"], strict=True):
            scale = float(reference.detach().abs().max())
            assert torch.allclose(ours / scale, reference / scale, atol=1e-10)


def test_isolated_atom_and_empty_graph_give_zero_basis():
    inputs = parse_irreps("2x0e + 2x1o")
    module = Interaction(inputs, 2, 4, (8,), 3.0, "native").double()
    positions = torch.zeros(1, 3, dtype=torch.float64)
    edge_index = torch.zeros(2, 0, dtype=torch.int64)
    edges = geometry(positions, edge_index, 2)
    features = torch.ones(1, 4, 2, dtype=torch.float64)
    out = module(features, neighborhood(edges, 1))
    assert out.shape == (1, 9, 2)
    assert (out == 0).all()


def test_paths_conserve_parity_and_triangle():
    paths = convolution_paths((0, 1), 3)
    assert len(paths) == 10  # the ten paths of 64x0e + 64x1o at l_max = 3
    assert all((l1 + l2 + l3) % 2 == 0 and abs(l1 - l2) <= l3 <= l1 + l2 for l1, l2, l3 in paths)


def test_cutoff_has_two_continuous_derivatives():
    ratio = torch.tensor([1.0 - 1e-5, 1.0 + 1e-5], dtype=torch.float64, requires_grad=True)
    value = polynomial_cutoff(ratio, 5)
    (first,) = torch.autograd.grad(value.sum(), ratio, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), ratio)
    # value, slope and curvature all vanish at r_max: the next derivative there is -p(p+1)(p+2)
    assert value.abs().max() < 210 * 1e-15
    assert first.abs().max() < 210 * 1e-10
    assert second.abs().max() < 210 * 1.1e-5


def backbone_features(rotation, permutation, kernels="native"):
    torch.manual_seed(3)
    options = BackboneOptions(hidden_irreps="4x0e + 4x1o", num_radial=4, radial_mlp=(8, 8), kernels=kernels)
    backbone = Backbone(options, n_species=2, avg_num_neighbors=3.0).double()
    positions, _ = random_graph(8, seed=4)
    species = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])
    positions, species = (positions @ rotation.T)[permutation], species[permutation]
    near = torch.cdist(positions, positions) < 3.0
    near.fill_diagonal_(False)
    edge_index = near.nonzero().T.flip(0)
    edges = geometry(positions, edge_index, 3)
    groups = SpeciesGroups(*group_by_species(species))
    slots = neighbor_slots(edge_index, 8)
    return backbone(backbone.embed(species), edges, slots, groups, torch.zeros(8, 0))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_backbone_is_equivariant_under_rotation_reflection_and_permutation(sign):
    generator = torch.Generator().manual_seed(5)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator))
    rotation = rotation * torch.sign(torch.linalg.det(rotation)) * sign
    permutation = torch.randperm(8, generator=generator)
    same = torch.arange(8)
    before = backbone_features(torch.eye(3, dtype=torch.float64), same)
    after = backbone_features(rotation, permutation)
    cycle = [1, 2, 0]  # components are (y, z, x)
    turn = rotation[cycle][:, cycle]
    for old, new in zip(before, after, strict=True):
        expected = torch.cat([old[:, :1], torch.einsum("ab,nbc->nac", turn, old[:, 1:])], 1)[permutation]
        assert torch.allclose(new, expected, atol=1e-10)


def test_whole_backbone_is_the_same_with_both_kernels():
    same, identity = torch.arange(8), torch.eye(3, dtype=torch.float64)
    for native, reference in zip(
        backbone_features(identity, same), backbone_features(identity, same, "e3nn"), strict=True
    ):
        assert torch.allclose(native, reference, atol=1e-10)
