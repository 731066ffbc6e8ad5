"""Kernels by name: what is refused and when, what ``auto`` takes, one layout of weights for all."""

from __future__ import annotations

import copy
import importlib.util
import re
from pathlib import Path

import pytest
import torch

import lsf
from lsf.errors import CatalogError, RecipeError
from lsf.formats.model_file.file import save_model
from lsf.models.backbone import Backbone
from lsf.models.backbone_options import BackboneOptions
from lsf.models.convolution import ConvolutionPaths
from lsf.models.derivatives import evaluate
from lsf.models.interaction import Interaction
from lsf.models.irreps import parse_irreps
from lsf.models.message_passing.executors import KernelsError, executor_class, require_kernels
from lsf.models.message_passing.vendors import cuequivariance
from lsf.recipe.rules import resolve
from tests.formats.test_torchscript import batch, model_file
from tests.models.helpers import water
from tests.models.test_interaction import geometry, neighborhood, random_graph

RECIPE = Path(__file__).parents[2] / "recipes" / "water_split.toml"

needs_cuequivariance = pytest.mark.skipif(
    importlib.util.find_spec("cuequivariance_torch") is None,
    reason="cuequivariance is not installed: pip install 'lsf[cuequivariance]'",
)


def problem_of(name: str) -> str:
    with pytest.raises(RecipeError) as caught:
        resolve(RECIPE, [f"model.kernels={name}", "device=cpu"])
    (problem,) = caught.value.problems
    return str(problem)


def test_an_unknown_name_gets_the_nearest_one():
    assert re.search(r"model.kernels: found \"nativ\".*\n? *did you mean 'native'", problem_of("nativ"))
    with pytest.raises(CatalogError, match="no 'nativ' among its kernels; did you mean 'native'"):
        executor_class("nativ")


def test_auto_is_native():
    assert executor_class("auto") is executor_class("native")


def test_kernels_that_are_gone_are_an_error_that_names_the_others():
    message = problem_of("openequivariance")
    assert 'model.kernels: found "openequivariance"' in message
    assert "expected the name of one of the kernels (lsf list kernels)" in message


def backbone_with(name: str) -> Backbone:
    torch.manual_seed(0)
    options = BackboneOptions(
        hidden_irreps="2x0e + 2x1o", max_ell=2, correlation=2, num_radial=4, radial_mlp=(8,), kernels=name
    )
    return Backbone(options, n_species=2, avg_num_neighbors=3.0)


@pytest.mark.parametrize("name", ["auto", "plain", "e3nn"])
def test_weights_have_one_layout(name):
    ours, native = backbone_with(name), backbone_with("native")
    assert list(ours.state_dict()) == list(native.state_dict())
    for value, reference in zip(ours.parameters(), native.parameters(), strict=True):
        assert torch.equal(value, reference)  # the same draws: no kernel has random numbers of its own


def test_constants_of_e3nn_in_older_files_are_left_out():
    backbone = backbone_with("native")
    older = dict(backbone.state_dict())
    older["layers.1.interaction.tensor_product.output_mask"] = torch.ones(3)
    backbone.load_state_dict(older, strict=True)


def test_other_kernels_keep_recompute():
    backbone = backbone_with("native")
    backbone.recompute(True)
    backbone.use_kernels("auto")
    assert all(interaction.executor.recompute for interaction in backbone.interactions)


def test_a_file_is_read_with_the_kernels_one_asks_for(tmp_path):
    path = model_file(tmp_path, more='kernels = "plain"\nnum_interactions = 1')
    stored, other = lsf.load(path), lsf.load(path, kernels="e3nn")
    assert (stored.model.backbone.kernels, other.model.backbone.kernels) == ("plain", "e3nn")
    graphs = batch(stored, [water(2)])
    energies = [evaluate(loaded.model, graphs)["energy"] for loaded in (stored, other)]
    assert torch.allclose(*energies, rtol=0.0, atol=1e-10)  # two orders of the same sums, energies of 1e3 eV
    copy = save_model(other.model, tmp_path / "copy.safetensors", other.recipe, other.facts)
    assert lsf.load(copy).model.backbone.kernels == "plain"


def test_a_file_trained_on_a_gpu_is_read_anywhere(tmp_path):
    path = model_file(tmp_path, more='kernels = "triton"\nnum_interactions = 1')
    assert lsf.load(path).model.backbone.kernels == "auto"
    assert lsf.load(path).recipe.model.options.kernels == "triton"  # as it was trained
    assert lsf.load(path, kernels="triton").model.backbone.kernels == "triton"


# --- packages of others ---------------------------------------------------------------------------------


def test_missing_packages_are_named_with_their_extra(monkeypatch):
    monkeypatch.setattr(cuequivariance, "installed", lambda name: name != "cuequivariance_torch")
    assert "package 'cuequivariance-torch' is not installed: pip install 'lsf[cuequivariance]'" in problem_of(
        "cuequivariance"
    )
    assert cuequivariance.CuequivarianceExecutor.missing(torch.device("cuda")) is not None
    monkeypatch.setattr(cuequivariance, "installed", lambda name: name != "cuequivariance_ops_torch")
    assert cuequivariance.CuequivarianceExecutor.missing(torch.device("cpu")) is None
    with pytest.raises(KernelsError, match="pip install cuequivariance-ops-torch-cu12 or -cu13; kernels"):
        require_kernels("cuequivariance", torch.device("cuda"))


@needs_cuequivariance
@pytest.mark.parametrize(("irreps", "max_ell"), [("3x0e", 2), ("2x0e + 2x1o", 3), ("2x0e + 2x1o + 2x2e", 2)])
def test_cuequivariance_equals_e3nn_to_second_derivatives(irreps, max_ell):
    """By its method "naive", which is plain torch; kernels for GPUs take the same description."""
    inputs, results = parse_irreps(irreps), []
    for name in ("cuequivariance", "e3nn"):
        torch.manual_seed(1)
        module = Interaction(inputs, max_ell, 4, (8, 5), 3.7, name).double()
        positions, edge_index = random_graph(9, spread=1.2)
        positions.requires_grad_()
        features = torch.randn(9, inputs.dim, inputs.channels, dtype=torch.float64, requires_grad=True)
        edges = geometry(positions, edge_index, max_ell)
        basis = module(features, neighborhood(edges, 9))
        first = torch.autograd.grad(basis.sin().sum(), (positions, features), create_graph=True)
        loss = sum(gradient.square().sum() for gradient in first)
        weights = [module.radial_out, *module.radial.weights, module.linear_up.weight]
        results.append([basis, *first, *torch.autograd.grad(loss, weights)])
    for found, expected in zip(*results, strict=True):
        scale = float(expected.detach().abs().max())
        # the same products in another order; the bar is 1e-10
        torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-13 * max(1.0, scale))


@needs_cuequivariance
def test_cuequivariance_is_copied_and_takes_no_edges():
    module = Interaction(parse_irreps("2x0e + 2x1o"), 2, 4, (8,), 3.0, "cuequivariance").double()
    features = torch.ones(1, 4, 2, dtype=torch.float64)
    positions, edge_index = torch.zeros(1, 3, dtype=torch.float64), torch.zeros(2, 0, dtype=torch.int64)
    for one in (module, copy.deepcopy(module)):
        assert not one(features, neighborhood(geometry(positions, edge_index, 2), 1)).any()


@needs_cuequivariance
def test_the_description_fits_the_kernels_of_cuequivariance():
    """What their method "uniform_1d" asks for: segments of one size, those of an edge or all channels."""
    convolution = ConvolutionPaths(parse_irreps("4x0e + 4x1o + 4x2e"), 3)
    polynomial = cuequivariance.description(convolution).flatten_coefficient_modes().squeeze_modes()
    sizes = [{tuple(segment) for segment in operand.segments} for operand in polynomial.operands]
    assert sizes == [{(4,)}, {(4,)}, {()}, {(4,)}]
    assert [len(operand.segments) for operand in polynomial.operands] == [
        len(convolution.paths),
        convolution.inputs.dim,
        16,
        sum(2 * l3 + 1 for _, _, l3 in convolution.paths),
    ]
