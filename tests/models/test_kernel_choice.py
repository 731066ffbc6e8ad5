"""Kernels by name: what is refused and when, what ``auto`` takes, one layout of weights for all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import lsf
from lsf.errors import CatalogError, RecipeError
from lsf.export.package import save_model
from lsf.models.backbone import Backbone
from lsf.models.derivatives import evaluate
from lsf.models.irreps import parse_irreps
from lsf.models.kernels import kernel_class
from lsf.resolve import resolve
from tests.export.test_torchscript import batch, model_file
from tests.models.helpers import water

RECIPE = Path(__file__).parents[2] / "recipes" / "water_split.toml"


def problem_of(name: str) -> str:
    with pytest.raises(RecipeError) as caught:
        resolve(RECIPE, [f"model.kernels={name}", "device=cpu"])
    (problem,) = caught.value.problems
    return str(problem)


def test_an_unknown_name_gets_the_nearest_one():
    assert re.search(r"model.kernels: found \"nativ\".*\n? *did you mean 'native'", problem_of("nativ"))
    with pytest.raises(CatalogError, match="no 'nativ' among its kernels; did you mean 'native'"):
        kernel_class("nativ")


def backbone_with(name: str) -> Backbone:
    torch.manual_seed(0)
    return Backbone(parse_irreps("2x0e + 2x1o"), 2, 2, 2, 2, 4, (8,), 3.0, name)


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
    assert all(interaction.kernel.recompute for interaction in backbone.interactions)


def test_a_file_is_read_with_the_kernels_one_asks_for(tmp_path):
    path = model_file(tmp_path, more='kernels = "plain"\nnum_interactions = 1')
    stored, other = lsf.load(path), lsf.load(path, kernels="e3nn")
    assert (stored.model.backbone.kernels, other.model.backbone.kernels) == ("plain", "e3nn")
    graphs = batch(stored, [water(2)])
    energies = [evaluate(loaded.model, graphs)["energy"] for loaded in (stored, other)]
    assert torch.allclose(*energies, rtol=0.0, atol=1e-10)  # two orders of the same sums, energies of 1e3 eV
    copy = save_model(other.model, tmp_path / "copy.safetensors", other.recipe, other.facts)
    assert lsf.load(copy).model.backbone.kernels == "plain"
