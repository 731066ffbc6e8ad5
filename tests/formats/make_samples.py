"""Writes the samples of the present format: python -m tests.formats.make_samples.

One small untrained model of two kinds each, with energies, forces and charges of two structures. Once a
format is out, its samples stay as they are.
"""

from __future__ import annotations

import json
from pathlib import Path

import lsf
from lsf.formats.model_file.upgrades import FORMAT_VERSION
from tests.builders import WATER, model_file, small_recipe
from tests.models.helpers import water

FOLDER = Path(__file__).parent / "samples"
SETTINGS = {
    "r_max": 3.5,
    "hidden_irreps": "2x0e + 2x1o",
    "max_ell": 1,
    "correlation": 2,
    "num_radial": 4,
    "radial_mlp": [4],
}
MODELS = {
    "split": {
        "use": "LocalSplitCharges",
        "formal_charges": {"H": 1.0, "O": -2.0},
        "polarizability": True,
    },
    "mace": {
        "use": "MACE",
        "radial_basis": "gaussian",
        "last_layer": "scalars",
        "shift": 0.5,
        "scale": 2.0,
    },
}


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
        recipe = small_recipe({**SETTINGS, **model}, name=name, dtype="float64")
        path = model_file(FOLDER, recipe, WATER, {"epoch": 1}, f"format_{FORMAT_VERSION}_{name}")
        path.with_suffix(".json").write_text(json.dumps(results(path)) + "\n")


if __name__ == "__main__":
    main()
