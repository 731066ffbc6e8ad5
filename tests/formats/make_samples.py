"""Writes the samples of the present format: python -m tests.formats.make_samples.

One small untrained model of two kinds each, with energies, forces and charges of two structures. Once a
format is out, its samples stay as they are.
"""

from __future__ import annotations

import json
from pathlib import Path

import lsf
from lsf.data.statistics import DataFacts
from lsf.formats.model_file.file import save_model
from lsf.formats.model_file.upgrades import FORMAT_VERSION
from lsf.models.build import build_model
from lsf.recipe.read import read_recipe_text
from tests.models.helpers import water

FOLDER = Path(__file__).parent / "samples"
FACTS = DataFacts((1, 8), {1: -13.6, 8: -430.0}, 7.3, {"train": 4}, {"train": {"frames": 4}})
MODELS = {
    "split": 'use = "LocalSplitCharges"\nformal_charges = {H = 1.0, O = -2.0}\npolarizability = true',
    "mace": 'use = "MACE"\nradial_basis = "gaussian"\nlast_layer = "scalars"\nshift = 0.5\nscale = 2.0',
}
RECIPE = """
schema = 1
name = "{name}"
seed = 3
dtype = "float64"
[data]
train = "frames.xyz"
valid_fraction = 0.2
[heads.default.info_keys]
energy = "REF_energy"
[heads.default.arrays_keys]
forces = "REF_forces"
[model]
{model}
r_max = 3.5
hidden_irreps = "2x0e + 2x1o"
max_ell = 1
correlation = 2
num_radial = 4
radial_mlp = [4]
[electrostatics]
boundary = "realspace"
[[stages]]
name = "one"
epochs = 1
lr = 0.01
loss = {{forces = 1.0}}
"""


def results(path: Path) -> dict[str, list]:
    """Return what a file's model says of two structures."""
    calculator = lsf.load(path).ase_calculator(device="cpu")
    found: dict[str, list] = {"energies": [], "forces": [], "charges": []}
    for index in (1, 2):
        calculator.calculate(water(index, seed=index))
        found["energies"].append(calculator.results["energy"])
        found["forces"].append(calculator.results["forces"].tolist())
        found["charges"].append(calculator.results["charges"].tolist())
    return found


def main() -> None:
    """Write files and numbers."""
    FOLDER.mkdir(exist_ok=True)
    for name, model in MODELS.items():
        recipe = read_recipe_text(RECIPE.format(name=name, model=model), "sample")
        path = FOLDER / f"format_{FORMAT_VERSION}_{name}.safetensors"
        save_model(build_model(recipe, FACTS), path, recipe, FACTS, {"epoch": 1})
        path.with_suffix(".json").write_text(json.dumps(results(path)) + "\n")


if __name__ == "__main__":
    main()
