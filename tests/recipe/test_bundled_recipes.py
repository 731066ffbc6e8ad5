"""Every recipe that comes with lsf resolves, fits its data, and trains."""

import io
from pathlib import Path

import numpy as np
import pytest
from ase.io import read
from rich.console import Console

from lsf import load
from lsf.commands.train import run_recipe
from lsf.recipe.catalog import own_folder
from lsf.recipe.rules import resolve

RECIPES = sorted(path.name for path in own_folder("recipes").glob("*.toml"))

# One short epoch per stage on small networks: enough to pass every line a real run passes.
SHORT = [
    "model.hidden_irreps=8x0e + 8x1o",
    "model.max_ell=2",
    "model.radial_mlp=[16, 16]",
    "training.batch_size=24",
]


def test_there_are_recipes():
    assert {"water_split.toml", "water_charges.toml", "ions_from_data.toml", "nacl_fixed.toml"} <= set(
        RECIPES
    )
    assert "mixed_periodic.toml" in RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_resolves(name):
    recipe = resolve(own_folder("recipes") / name)
    assert f"{recipe.name}.toml" == name


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_recipe_trains_and_its_model_runs_in_ase(name, tmp_path):
    path = own_folder("recipes") / name
    recipe = resolve(path)
    epochs = [f"stages.{index}.epochs=1" for index in range(len(recipe.stages))]
    console = Console(file=io.StringIO(), width=200)
    result = run_recipe(path, [*SHORT, *epochs], tmp_path / "run", False, console)
    assert result.report.is_file()
    losses = [record["train_loss"] for record in result.training.history]
    assert np.isfinite(losses).all()
    first = recipe.data.test if isinstance(recipe.data.test, str) else next(iter(recipe.data.test.values()))
    atoms = read(first, 0)
    atoms.calc = load(result.model_file).ase_calculator()
    assert np.isfinite(atoms.get_potential_energy())
    assert np.isfinite(atoms.get_forces()).all()
    if recipe.model.use != "MACE":
        total = atoms.calc.results["total_charge"]
        if recipe.model.options.formal_charge_rule() is not None:
            # exact by construction, whatever the weights: the bound of 1e-10 e
            assert total == pytest.approx(atoms.info["total_charge"], abs=1e-10)
    assert Path(result.model_file).name == f"{recipe.name}.safetensors"
