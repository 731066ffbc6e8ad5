"""Small recipes and untrained models that tests and benchmarks share: a recipe, its model, its file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from lsf.data.statistics import DataFacts
from lsf.formats.model_file.file import save_model
from lsf.models.build import build_model
from lsf.recipe.read import read_recipe_text
from lsf.recipe.schema import Recipe
from lsf.recipe.toml import write_toml

CHARGES: Final = {"H": 1.0, "O": -2.0, "Na": 1.0, "Cl": -1.0}
"""Formal charges of the structures in :mod:`tests.models.helpers`, e."""

SMALL: Final = {"r_max": 3.5, "hidden_irreps": "4x0e + 4x1o", "max_ell": 2, "radial_mlp": [8, 8]}
"""A backbone that is evaluated in milliseconds."""

SPLIT: Final = {"use": "LocalSplitCharges", "formal_charges": CHARGES}
"""The model with charges on bonds."""

WATER: Final = DataFacts((1, 8), {1: -13.6, 8: -430.0}, 7.3, {"train": 4}, {"train": {"frames": 4}})
"""Facts of data with H and O."""

SALT: Final = DataFacts(
    (1, 8, 11, 17), {1: -13.6, 8: -430.0, 11: -5.0, 17: -460.0}, 7.3, {"train": 4}, {"train": {"frames": 4}}
)
"""Facts of data with H, O, Na and Cl."""


def small_recipe(
    model: Mapping[str, Any] | None = None,
    electrostatics: Mapping[str, Any] | None = None,
    info_keys: Mapping[str, str] | None = None,
    arrays_keys: Mapping[str, str] | None = None,
    **settings: Any,
) -> Recipe:
    """Return a recipe of one epoch, of LocalSplitCharges in open space where nothing else is said.

    ``model`` are the settings of [model], those of :data:`SMALL` where they are not given; None among them
    takes a setting away. Energies and forces are mapped besides ``info_keys`` and ``arrays_keys``.
    ``settings`` stand at the top of the recipe.
    """
    options = {name: value for name, value in {**SMALL, **(model or SPLIT)}.items() if value is not None}
    head = {
        "info_keys": {"energy": "REF_energy", **(info_keys or {})},
        "arrays_keys": {"forces": "REF_forces", **(arrays_keys or {})},
    }
    table = {
        "schema": 1,
        "name": "small",
        "seed": 3,
        **settings,
        "data": {"train": "frames.xyz", "valid_fraction": 0.2},
        "heads": {"default": head},
        "model": options,
        "electrostatics": {"boundary": "realspace", **(electrostatics or {})},
        "stages": [{"name": "one", "epochs": 1, "lr": 0.01, "loss": {"forces": 1.0}}],
    }
    return read_recipe_text(write_toml(table), "small recipe")


def model_file(
    folder: Path,
    recipe: Recipe,
    facts: DataFacts = SALT,
    training: Mapping[str, Any] | None = None,
    name: str = "small",
) -> Path:
    """Write the untrained model of a recipe and return the file."""
    path = folder / f"{name}.safetensors"
    return save_model(build_model(recipe, facts), path, recipe, facts, dict(training or {}))
