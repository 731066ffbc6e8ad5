"""The models of the benchmark, untrained: the bundled water recipe's with charges, and its backbone alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from lsf.data.statistics import DataFacts
from lsf.formats.model_file.file import load_model
from lsf.formats.write import exporter
from tests.builders import model_file, small_recipe

LEVELS: Final[dict[str, Any]] = {
    "r_max": 4.5,
    "hidden_irreps": "32x0e + 32x1o",
    "num_interactions": 2,
    "correlation": 3,
    "max_ell": 3,
}
"""As in recipes/water_split.toml."""

USES: Final[dict[str, Any]] = {
    "charges": {"use": "LocalSplitCharges", "formal_charges": {"H": 1.0, "O": -2.0}},
    "short": {"use": "MACE", "last_layer": "scalars"},  # as mace-torch has it
}

SCALE: Final = 0.05
"""eV: forces of random weights that a step of 0.5 fs follows."""


def write_model(
    folder: Path, name: str, model: dict[str, Any], levels: dict[str, Any], dtype: str, neighbors: float
) -> Path:
    """Write an untrained model of water; ``model`` and ``levels`` are its settings. Return the file."""
    facts = DataFacts((1, 8), {1: 0.0, 8: 0.0}, neighbors, {"train": 1})
    settings = {"max_ell": None, "radial_mlp": None, **model, "scale": SCALE, **levels}
    recipe = small_recipe(settings, {"boundary": "pbc"}, name="water", seed=0, dtype=dtype)
    return model_file(folder, recipe, facts, name=name)


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
