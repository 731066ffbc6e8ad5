"""From a resolved recipe and the facts of its data to a model."""

from __future__ import annotations

import torch

from lsf.data.statistics import DataFacts
from lsf.models.local_source import LocalSourceModel
from lsf.recipe.catalog import catalog
from lsf.recipe.schema import Recipe

DTYPES = {"float64": torch.float64, "float32": torch.float32}


def build_model(recipe: Recipe, facts: DataFacts) -> LocalSourceModel:
    """Return the untrained model of a recipe, with weights drawn from the recipe's seed, on the CPU.

    The weights are drawn in float32 for either dtype, so that the same seed gives the same start.
    """
    build = catalog().entry("models", recipe.model.use).target()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model: LocalSourceModel = build(recipe.model.options, recipe.electrostatics, facts)
    return model.set_dtype(DTYPES[recipe.dtype])
