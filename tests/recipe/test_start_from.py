"""Training that starts from a model file: what is taken over, what starts anew, what is refused."""

import json
import logging
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import write

from lsf.cli import main
from lsf.commands.train import resolved_recipe as resolve
from lsf.compat.import_mace import import_mace
from lsf.compat.mace_settings import read_mace
from lsf.data.graph import collate
from lsf.data.loader import load_data
from lsf.errors import LsfError, RecipeError
from lsf.formats.model_file.file import load_model, save_model
from lsf.models.build import build_model
from lsf.models.derivatives import evaluate
from lsf.train.warm_start import start_from_file
from tests.compat.mace_files import SAMPLES

LOG = logging.getLogger("lsf.test")
SPLIT = "formal_charges = {H = 1.0, O = -2.0}"
RECIPE = """
schema = 1
name = "tuned"
seed = 3
[data]
train = "train.xyz"
valid = "train.xyz"
@DATA@
[data.checks]
allow_duplicates = true
[heads.default.info_keys]
energy = "REF_energy"
total_charge = "total_charge"
[heads.default.arrays_keys]
forces = "REF_forces"
[model]
use = "@USE@"
start_from = "@FILE@"
@MODEL@
[electrostatics]
boundary = "realspace"
[training]
batch_size = 4
ema_decay = "none"
[[stages]]
name = "only"
epochs = 15
lr = 0.003
loss = {energy_per_atom = 1.0, forces = 1.0}
"""


def water(rng: np.random.Generator) -> Atoms:
    """A distorted water molecule, H before O, labelled by harmonic springs about its shape."""
    rest = np.array([[0.0, 0.76, -0.47], [0.0, -0.76, -0.47], [0.0, 0.0, 0.12]])
    moved = rng.normal(size=(3, 3)) * 0.08
    atoms = Atoms("HHO", rest + moved, pbc=False)
    atoms.info["REF_energy"] = -2000.0 + 5.0 * float((moved**2).sum())
    atoms.info["total_charge"] = 0.0
    atoms.arrays["REF_forces"] = -10.0 * moved
    return atoms


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Eight labelled molecules of H and O, and an imported model that knows H, C and O."""
    folder = tmp_path_factory.mktemp("start")
    rng = np.random.default_rng(2)
    write(folder / "train.xyz", [water(rng) for _ in range(8)])
    made = import_mace(read_mace(SAMPLES / "sample.weights.safetensors", "mp2"), "imported")
    save_model(made.model, folder / "imported.safetensors", made.recipe, made.facts)
    return folder


def recipe_file(
    folder: Path,
    name: str,
    use: str = "LocalCharges",
    model: str = "",
    data: str = 'atomic_energies = "average"',
    file: str = "imported.safetensors",
) -> Path:
    """Write a recipe that starts from a file and return its path."""
    text = RECIPE
    for mark, value in {"USE": use, "MODEL": model, "DATA": data, "FILE": file}.items():
        text = text.replace(f"@{mark}@", value)
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


def started(path: Path):
    """Return the model of a recipe before training, and a batch of its data."""
    recipe = resolve(path)
    splits = load_data(recipe, LOG)
    model = start_from_file(build_model(recipe, splits.facts), recipe, splits.facts, LOG, load_model)
    return model, collate(list(splits.train)), recipe


@pytest.mark.parametrize(
    ("use", "model"),
    [
        ("LocalCharges", ""),
        ("LocalCharges", 'last_layer = "all"'),
        ("LocalCharges", "total_charge_embedding = true"),
        ("MACE", "recompute = true"),
        ("FixedChargeBaselinedMACE", SPLIT),
        ("LocalSplitCharges", SPLIT),
        ("LocalSplitCharges", f'{SPLIT}\noxidation_mixer = "product"'),
        ("LocalSplitCharges", f'{SPLIT}\nlast_layer = "all"\npolarizability = true'),
    ],
)
def test_short_range_energies_are_those_of_the_file_before_training(folder, use, model):
    ours, batch, _ = started(recipe_file(folder, "before", use, model))
    theirs = load_model(folder / "imported.safetensors").model
    expected = evaluate(theirs, batch)
    found = evaluate(ours, batch)
    # the file's model has other species, in another place: the same sums in another order
    difference = found["energy_short_range"] - expected["energy_short_range"]
    assert difference.abs().max() < 1e-11
    if use != "MACE":
        assert found["density_coefficients"].abs().max() > 1e-3
    assert found["energy_atomic"].allclose(torch.tensor(-2000.0).double(), atol=1.0)


def test_settings_left_out_are_those_of_the_file(folder):
    recipe = resolve(recipe_file(folder, "filled", data=""))
    options = recipe.model.options
    stored = load_model(folder / "imported.safetensors")
    for name in ("r_max", "hidden_irreps", "max_ell", "distance_transform", "radial_mlp", "scale", "shift"):
        assert getattr(options, name) == getattr(stored.recipe.model.options, name), name
    # and so are the atomic energies, for which the short-range energy was made
    assert recipe.data.atomic_energies["O"] == stored.facts.atomic_energies[8]
    assert recipe.data.atomic_energies["C"] == stored.facts.atomic_energies[6]


def test_training_lowers_the_loss_and_leaves_a_complete_model_file(folder, tmp_path):
    path = recipe_file(folder, "train")
    assert main(["run", str(path), "--out", str(tmp_path / "run"), "--set", "device=cpu"]) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [record["loss"] for record in map(json.loads, lines) if record["kind"] == "eval"]
    assert len(losses) == 15
    assert losses[-1] < 0.8 * losses[0]
    moved = folder / "imported.safetensors"
    hidden = moved.rename(folder / "elsewhere.safetensors")
    try:
        tuned = load_model(tmp_path / "run" / "tuned.safetensors")
    finally:
        hidden.rename(moved)
    assert tuned.model.source.multipoles.maps[0].weight.abs().max() > 0.0
    assert "started from imported.safetensors" in (tmp_path / "run" / "log.txt").read_text()


def test_a_model_of_lsf_with_the_same_charges_is_taken_over_whole(folder):
    first, batch, recipe = started(recipe_file(folder, "first"))
    splits = load_data(recipe, LOG)
    save_model(first, folder / "charged.safetensors", recipe, splits.facts)
    same = attrs.evolve(recipe, seed=99)
    again = started(recipe_file(folder, "again", file="charged.safetensors"))[0]
    other = build_model(same, splits.facts)
    assert evaluate(again, batch)["energy_coulomb"].equal(evaluate(first, batch)["energy_coulomb"])
    assert not evaluate(other, batch)["energy_coulomb"].equal(evaluate(first, batch)["energy_coulomb"])


def test_a_backbone_that_differs_is_one_error_that_lists_what_does(folder):
    path = recipe_file(folder, "differs", model='r_max = 4.0\ngate = "tanh"')
    with pytest.raises(RecipeError, match=r"start_from: found a model with r_max = 3\.0, gate = 'silu'"):
        resolve(path)
    with pytest.raises(RecipeError, match=r"r_max = 4\.0, gate = 'tanh'.*\n.*leave r_max, gate out of"):
        resolve(path)


def test_no_scale_and_a_scale_of_one_are_the_same(folder):
    plain = resolve(recipe_file(folder, "plain"))
    splits = load_data(plain, LOG)
    options = attrs.evolve(plain.model.options, scale=None, shift=None)
    unscaled = attrs.evolve(plain, model=attrs.evolve(plain.model, options=options))
    save_model(build_model(unscaled, splits.facts), folder / "one.safetensors", unscaled, splits.facts)
    assert resolve(recipe_file(folder, "one", model='scale = "none"', file="one.safetensors"))


def test_elements_the_file_does_not_know_are_named(folder):
    labels = {"REF_energy": -1.0, "total_charge": 0.0}
    write(folder / "salt.xyz", Atoms("NaO", [[0, 0, 0], [0, 0, 2.0]], info=labels))
    text = recipe_file(folder, "salt").read_text().replace("train.xyz", "salt.xyz")
    text = text.replace('[heads.default.arrays_keys]\nforces = "REF_forces"\n', "")
    text = text.replace(", forces = 1.0", "")
    (folder / "salt.toml").write_text(text)
    recipe = resolve(folder / "salt.toml")
    splits = load_data(recipe, LOG)
    with pytest.raises(LsfError, match=r"does not know Na; it knows H, C, O"):
        start_from_file(build_model(recipe, splits.facts), recipe, splits.facts, LOG, load_model)


def test_a_missing_file_and_a_file_of_something_else_are_refused(folder):
    with pytest.raises(RecipeError, match=r"model\.start_from: found .*nowhere\.safetensors, which does not"):
        resolve(recipe_file(folder, "nowhere", file="nowhere.safetensors"))
    with pytest.raises(LsfError, match=r"train\.xyz: not a readable safetensors file"):
        resolve(recipe_file(folder, "other", file="train.xyz"))
