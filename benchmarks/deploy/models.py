"""The models of the benchmark, untrained: the bundled water recipe's with charges, and its backbone alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from lsf.data.statistics import DataFacts
from lsf.formats.model_file.file import load_model, save_model
from lsf.formats.write import exporter
from lsf.models.build import build_model
from lsf.recipe.read import read_recipe_text

LEVELS: Final[dict[str, Any]] = {
    "r_max": 4.5,
    "hidden_irreps": "32x0e + 32x1o",
    "num_interactions": 2,
    "correlation": 3,
    "max_ell": 3,
}
"""As in recipes/water_split.toml."""

USES: Final = {
    "charges": 'use = "LocalSplitCharges"\nformal_charges = {H = 1.0, O = -2.0}',
    "short": 'use = "MACE"\nlast_layer = "scalars"',  # as mace-torch has it
}

RECIPE: Final = """
schema = 1
name = "water"
dtype = "{dtype}"
[data]
train = "water.xyz"
valid_fraction = 0.2
[heads.default.info_keys]
energy = "energy"
[heads.default.arrays_keys]
forces = "forces"
[model]
{model}
scale = 0.05 # eV: forces of random weights that a step of 0.5 fs follows
{levels}
[electrostatics]
boundary = "pbc"
[[stages]]
name = "one"
epochs = 1
lr = 0.01
loss = {{forces = 1.0}}
"""


def write_model(
    folder: Path, name: str, model: str, levels: dict[str, Any], dtype: str, neighbors: float
) -> Path:
    """Write an untrained model of water; ``model`` are lines of its recipe. Return the file."""
    lines = "\n".join(
        f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}"
        for key, value in levels.items()
    )
    facts = DataFacts((1, 8), {1: 0.0, 8: 0.0}, neighbors, {"train": 1})
    recipe = read_recipe_text(RECIPE.format(model=model, levels=lines, dtype=dtype), "benchmark")
    return save_model(build_model(recipe, facts), folder / f"{name}.safetensors", recipe, facts)


def write_models(folder: Path) -> dict[tuple[str, str], str]:
    """Write both models in both formats; return the files by model and format."""
    files = {}
    for name, model in USES.items():
        saved = write_model(folder, name, model, LEVELS, "float32", 34.0)
        script = folder / f"{name}.pt"
        exporter("torchscript")(load_model(saved), script)
        files |= {(name, "eager"): str(saved), (name, "torchscript"): str(script)}
    return files


def write_package(saved: Path) -> str:
    """Compile a model file into a package next to it, which takes minutes; return its path."""
    package = saved.with_suffix(".pt2")
    exporter("aoti")(load_model(saved), package)
    return str(package)
