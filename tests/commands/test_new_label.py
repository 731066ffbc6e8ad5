"""A label nobody knows, one row and one loss: counted, trained, shown, written and served everywhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from ase.io import read, write
from rich.console import Console

import lsf
from lsf.commands.evaluate import evaluate_file
from lsf.commands.train import run_recipe
from lsf.recipe import catalog as registry
from lsf.recipe.catalog import own_folder
from lsf.recipe.quantities import QUANTITIES
from lsf.recipe.quantity import Measure, Prediction, Quantity
from lsf.report import page

# An output that models have and nobody trains on: the energy of each atom.
ROW = Quantity(
    "atomic_energies",
    "label",
    "atom",
    (),
    "eV",
    Prediction("node_energy", written="of_atoms", ase=("energies",)),
    (
        Measure(
            "atomic_energies", "E_i", "eV", automatic=("rmse",), panel="Energies of atoms", in_progress=True
        ),
    ),
)
LOSS = '''
from lsf.train.objective.losses import Loss


class AtomicEnergiesLoss(Loss):
    """Energies of the atoms, eV²."""

    needs = "atomic_energies"
'''
ENTRY = """
kind = "losses"
summary = "Mean squared error of the energies of atoms"
target = "of_atoms:AtomicEnergiesLoss"
requires = ["atomic_energies"]
"""
RECIPE = """
schema = 1
name = "atoms"
[data]
train = "train.xyz"
valid = "valid.xyz"
[heads.default.info_keys]
energy = "REF_energy"
[heads.default.arrays_keys]
atomic_energies = "REF_of_atoms"
[model]
use = "LocalSplitCharges"
r_max = 3.0
hidden_irreps = "4x0e + 4x1o"
num_interactions = 1
correlation = 1
max_ell = 1
radial_mlp = [4]
formal_charges = {H = 1.0, O = -2.0}
[electrostatics]
boundary = "realspace"
[[stages]]
name = "only"
epochs = 1
lr = 0.01
loss = {atomic_energies = 1.0}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A recipe that trains on the new label, its data, and the registry and the table that know it."""
    (tmp_path / "registry" / "losses").mkdir(parents=True)
    (tmp_path / "of_atoms.py").write_text(LOSS, encoding="utf-8")
    (tmp_path / "registry" / "losses" / "atomic_energies.toml").write_text(ENTRY, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_third_party_folders", lambda: [tmp_path / "registry"])
    registry.catalog.cache_clear()
    # the label takes the place of the row of an output without labels
    monkeypatch.delitem(QUANTITIES, "node_energy")
    monkeypatch.setitem(QUANTITIES, ROW.name, ROW)
    for split, places in (("train", "::40"), ("valid", "::15")):
        frames = read(own_folder("recipes") / "data" / f"water_clusters_{split}.xyz", places)
        for place, atoms in enumerate(frames):
            atoms.calc = None
            atoms.arrays["REF_of_atoms"] = np.where(atoms.numbers == 8, -400.0, -13.0) + 0.1 * place
        write(tmp_path / f"{split}.xyz", frames, format="extxyz")
    (tmp_path / "atoms.toml").write_text(RECIPE, encoding="utf-8")
    yield tmp_path / "atoms.toml"
    registry.catalog.cache_clear()
    sys.modules.pop("of_atoms", None)


def test_a_new_label_is_found_everywhere(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []

    def noted(panels, title):
        titles.extend(panel.title for panel in panels if panel.labelled().reference.size)
        return drawn(panels, title)

    drawn = page.parity_figure
    monkeypatch.setattr(page, "parity_figure", noted)
    shown = StringIO()
    result = run_recipe(recipe, (), tmp_path / "run", fresh=True, console=Console(file=shown, width=300))

    counts, errors = shown.getvalue().split("Labelled numbers by split")[1].split("Errors of atoms")
    assert "atomic_energies" in counts
    assert "RMSE E_i" in errors
    assert "Energies of atoms" in titles
    assert "E_i=" in (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")

    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    trained, evaluated = (next(line for line in lines if line["kind"] == kind) for kind in ("train", "eval"))
    assert trained["terms"]["atomic_energies"] > 0.0
    assert evaluated["rmse"]["atomic_energies"] == pytest.approx(
        # one term, of weight 1: the loss is the mean square
        evaluated["loss"] ** 0.5,
        rel=1e-12,
    )

    out = tmp_path / "labelled.xyz"
    metrics = evaluate_file(result.model_file, tmp_path / "valid.xyz", out)
    assert metrics.errors["atomic_energies"].rmse == pytest.approx(evaluated["rmse"]["atomic_energies"])
    for atoms in read(out, ":"):
        calculator = lsf.load(result.model_file).ase_calculator(device="cpu")
        # ASE writes per-atom numbers with eight decimals
        np.testing.assert_allclose(
            atoms.arrays["lsf_of_atoms"], calculator.get_property("energies", atoms), rtol=0, atol=1e-8
        )
