from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_components import write_registry

from lsf.recipe.catalog import Catalog

RECIPE = """\
schema = 1
name = "water"

[data]
train = "train.xyz"
valid_fraction = 0.2

[heads.default.info_keys]
energy = "REF_energy"
[heads.default.arrays_keys]
forces = "REF_forces"

[model]
use = "Charges"
formal_charges = {H = 1, O = -2.0}

[electrostatics]
multipoles_max_l = 0

[[stages]]
name = "first"
epochs = 2
lr = 0.01
loss = {energy_per_atom = 1, forces = {weight = 100.0}}
"""


@pytest.fixture
def components(tmp_path: Path) -> Catalog:
    return write_registry(tmp_path / "registry")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write the recipe above beside a data file, with pieces of text replaced, and return its path."""

    def write_recipe(*replacements: tuple[str, str], text: str = RECIPE) -> Path:
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "train.xyz").touch()
        path = tmp_path / "water.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_recipe
