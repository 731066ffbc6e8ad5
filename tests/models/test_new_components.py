"""The energy term and the source head of CONTRIBUTING.md: one class and one entry each, no more."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.io import read
from rich.console import Console

import lsf
from lsf.commands.train import run_recipe
from lsf.errors import RecipeError
from lsf.formats.torchscript.read import ScriptFile
from lsf.formats.verify import batch_of
from lsf.models.derivatives import evaluate
from lsf.recipe import catalog as registry
from lsf.recipe.catalog import own_folder
from lsf.recipe.rules import resolve
from tests.test_docs import section_blocks

HEADING = "### An energy term and a source head, step by step"
SMALL = """
r_max = 3.5
hidden_irreps = "4x0e + 4x1o"
num_interactions = 1
max_ell = 2
num_radial = 4
radial_mlp = [8]
"""


@pytest.fixture
def recipe_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A recipe that uses both, written as the page says, with the registry that knows them."""
    (code,) = section_blocks("CONTRIBUTING.md", HEADING, "python")
    restraint, source, tables = section_blocks("CONTRIBUTING.md", HEADING, "toml")
    (tmp_path / "confined.py").write_text(code, encoding="utf-8")
    for place, text in (("energies/harmonic_restraint", restraint), ("sources/neutralised", source)):
        entry = tmp_path / "registry" / f"{place}.toml"
        entry.parent.mkdir(parents=True)
        entry.write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_third_party_folders", lambda: [tmp_path / "registry"])
    registry.catalog.cache_clear()
    recipe = (own_folder("recipes") / "water_charges.toml").read_text(encoding="utf-8")
    recipe = recipe.replace('"data/', f'"{own_folder("recipes")}/data/')
    start, end = recipe.index("[model]"), recipe.index("[electrostatics]")
    path = tmp_path / "confined.toml"
    model = f'[model]\nuse = "LocalCharges"{SMALL}\n{tables}\n'
    path.write_text(recipe[:start] + model + recipe[end:], encoding="utf-8")
    yield path
    registry.catalog.cache_clear()
    sys.modules.pop("confined")


def test_a_term_and_a_head_are_trained_exported_and_simulated(recipe_file: Path, tmp_path: Path) -> None:
    # validation frames are few: two epochs of training take seconds
    data = own_folder("recipes") / "data"
    settings = [
        "stages.0.epochs=1",
        "stages.1.epochs=1",
        f"data.train={data / 'water_clusters_valid.xyz'}",
        f"data.valid={data / 'water_clusters_test.xyz'}",
        "data.test=none",
        "data.checks.allow_duplicates=true",
        'export.formats=["safetensors", "torchscript"]',
        "device=cpu",
    ]
    run_recipe(recipe_file, settings, tmp_path / "run", fresh=True, console=Console(file=io.StringIO()))
    (path,) = (tmp_path / "run").rglob("water_charges.safetensors")
    loaded = lsf.load(path)
    frames = read(data / "water_clusters_test.xyz", ":4")

    outputs = evaluate(loaded.model, batch_of(loaded, frames, loaded.recipe.electrostatics), ("forces",))
    own = [0.1 * np.square(f.positions - f.positions.mean(0)).sum() for f in frames]
    # rounding of energies of up to 10³ eV
    assert np.allclose(outputs["energy_harmonic_restraint"], own, rtol=0, atol=1e-10)
    parts = ("atomic", "short_range", "coulomb", "field", "harmonic_restraint")
    assert torch.allclose(outputs["energy"], sum(outputs[f"energy_{part}"] for part in parts), atol=1e-9)
    assert torch.equal(outputs["energy_short_range"], outputs["energy_readout"])

    script = ScriptFile(path.with_suffix(".pt"))
    for charge in (0.0, 1.0):
        for atoms in frames:
            atoms.info["total_charge"] = charge
        found = script.evaluate(script.inputs(frames))
        first = 0
        for index, atoms in enumerate(frames):
            atoms.calc = loaded.ase_calculator(device="cpu")
            rows = slice(first, first + len(atoms))
            first += len(atoms)
            # sums are made in another order
            assert float(found["energy"][index]) == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
            assert np.allclose(found["forces"][rows], atoms.get_forces(), rtol=0, atol=1e-10)
            # the head gives the total charge exactly, to rounding
            assert float(atoms.get_charges().sum()) == pytest.approx(charge, abs=1e-12)
    assert script.metadata["sees_total_charge"]


def test_a_component_says_what_its_recipe_lacks(recipe_file: Path) -> None:
    recipe_file.write_text(recipe_file.read_text().replace('total_charge = "total_charge"\n', ""))
    expected = (
        r"model\.source: found a component that sees total_charge, but heads\.default maps no total_charge"
    )
    with pytest.raises(RecipeError, match=expected):
        resolve(recipe_file, ["device=cpu"])


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (
            "model.energies.coulomb={}",
            r"model\.energies\.coulomb: found a term that models have by themselves",
        ),
        ("model.energies.harmonic_restrain={}", "did you mean 'harmonic_restraint'"),
        ("model.energies.harmonic_restraint.k=-1.0", "a number, at least 0"),
        ('model.source={use = "fixed"}', r'expected model\.use = "FixedChargeBaselinedMACE"'),
    ],
)
def test_wrong_choices_are_refused(recipe_file: Path, setting: str, expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        resolve(recipe_file, [setting, "device=cpu"])
