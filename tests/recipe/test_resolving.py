from __future__ import annotations

import pytest
import torch

from lsf.errors import LsfError, RecipeError
from lsf.machine.device import pick_device
from lsf.recipe.read import read_recipe
from lsf.recipe.rules import recipe_problems, resolve


def problems_of(path, components, *overrides):
    with pytest.raises(RecipeError) as caught:
        resolve(path, overrides, components)
    return caught.value.problems


def only(path, components, *overrides):
    (problem,) = problems_of(path, components, *overrides)
    return problem


def test_a_good_recipe_resolves(write, components):
    path = write()
    assert resolve(path, (), components) == read_recipe(path, (), components)


def test_valid_and_valid_fraction_exclude_one_another(write, components, tmp_path):
    (tmp_path / "v.xyz").touch()
    problem = only(write(("valid_fraction", 'valid = "v.xyz"\nvalid_fraction')), components)
    assert (problem.key, problem.found) == ("data.valid", "both valid and valid_fraction")
    assert problem.where.endswith("water.toml:6")
    problem = only(write(("valid_fraction = 0.2", "")), components)
    assert problem.found == "neither valid nor valid_fraction"
    assert resolve(
        write(("valid_fraction", 'valid = "v.xyz"\nvalid_fraction')), ["data.valid=none"], components
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("trian.xyz", "did you mean '{folder}/train.xyz'"),
        ("dta/train.xyz", "there is no folder {folder}/dta; paths start at the recipe's folder"),
        ("zzzzzz", "paths start at the recipe's folder, here {folder}"),
    ],
)
def test_a_missing_data_file(write, components, tmp_path, name, hint):
    problem = only(write(("train.xyz", name)), components)
    assert (problem.key, problem.expected) == ("data.train", "a file")
    assert problem.where.endswith("water.toml:5")
    assert problem.found == f"{tmp_path / name}, which does not exist"
    assert hint.format(folder=tmp_path) in problem.hint


def test_a_folder_is_no_data_file(write, components):
    assert "which is a folder" in only(write(("train.xyz", "registry")), components).found


def test_every_named_file_is_looked_for(write, components):
    path = write(
        ("valid_fraction = 0.2", 'valid = "v.xyz"\ntest = {near = "n.xyz", far = "f.xyz"}'),
        ('use = "Charges"', 'use = "Charges"\nstart = "old"'),
    )
    keys = [problem.key for problem in problems_of(path, components)]
    assert keys == ["data.valid", "data.test.near", "data.test.far", "model.start"]


def test_a_mistyped_word_is_no_file(write, components):
    problem = only(write(), components, "data.atomic_energies=averag")
    assert problem.expected == 'a file or "average" or "isolated"'
    assert problem.hint == 'did you mean "average"?'


def test_missing_files_are_reported_with_the_schema(write, components):
    problems = problems_of(write(("train.xyz", "x.xyz"), ('"Charges"', '"Chargse"')), components)
    assert [problem.key for problem in problems] == ["data.train", "model.use"]


def test_elements_are_checked(write, components):
    path = write(("{H = 1, O", "{h = 1, Xx = 1, O"), ("valid_f", "atomic_energies = {Oo = 1}\nvalid_f"))
    problems = problems_of(path, components)
    assert [(problem.key, problem.hint) for problem in problems] == [
        ("data.atomic_energies.Oo", "did you mean 'O'?"),
        ("model.formal_charges.h", "did you mean 'H'?"),
        ("model.formal_charges.Xx", "did you mean 'Xe'?"),
    ]
    assert problems[0].expected == "a chemical symbol"


def test_stage_names_are_unique(write, components):
    again = '[[stages]]\nname = "first"\nepochs = 1\nlr = 1\nloss = {forces = 1}\n[[stages]]'
    problem = only(write(("[[stages]]", again)), components)
    assert problem.key == "stages.1.name"
    assert problem.found == '"first" for 2 stages'
    assert problem.expected == "a name of its own for each stage"


def test_a_loss_may_be_content_with_one_of_two_properties(write, components):
    loss = ("loss = {", "loss = {esps = 1, ")
    problem = only(write(loss), components)
    assert problem.key == "stages.0.loss.esps"
    assert problem.found == 'no head that maps "electrostatic_potentials" or "atomic_multipoles"'
    for name in ("electrostatic_potentials", "atomic_multipoles"):
        path = write(loss, ('forces = "REF_forces"', f'forces = "REF_forces"\n{name} = "key"'))
        assert "esps" in resolve(path, components=components).stages[0].loss


def test_a_loss_needs_its_property_mapped(write, components):
    problem = only(write(("loss = {", "loss = {dipole = 1, ")), components)
    assert problem.key == "stages.0.loss.dipole"
    assert problem.found == 'no head that maps "dipole"'
    assert problem.expected == 'dipole = "its key in the file" in heads.<name>.info_keys'
    assert problem.hint == "add it, or remove the loss; mapped are: energy, forces"
    problem = only(write(('forces = "REF_forces"', "")), components)
    assert problem.expected == 'forces = "its key in the file" in heads.<name>.arrays_keys'


def test_charges_from_data_need_their_key(write, components):
    charges = ("{H = 1, O = -2.0}", '"from_data"')
    problem = only(write(charges), components)
    assert problem.key == "model.formal_charges"
    assert problem.found == '"from_data" and no head that maps "charges"'
    assert resolve(write(charges), ["heads.default.arrays_keys.charges=q"], components)


def test_a_model_has_a_say(write, components):
    path = write(("multipoles_max_l = 0", "multipoles_max_l = 1"))
    problem = only(path, components)
    assert (problem.key, problem.hint) == ("model.r_max", "set l = 0")
    assert problem.where == f"{path}:13"
    assert resolve(write(("multipoles_max_l = 0", "")), ["model={use = 'ChargeFree'}"], components)


def test_rules_are_silent_about_what_the_schema_refused(write, components):
    """What follows from a problem already reported is not reported again."""
    path = write(
        ("energy = ", "enrgy = "),
        ("multipoles_max_l = 0", 'multipoles_max_l = "1"'),
        ("valid_fraction = 0.2", "valid_fraction = 2"),
    )
    assert len(problems_of(path, components)) == 3


def test_a_gpu_that_is_not_there(write, components, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    problem = only(write(), components, "device=cuda")
    assert (problem.where, problem.key) == ("--set", "device")
    assert problem.found == '"cuda" on a machine with no CUDA device'
    assert "to run on the CPU: --set device=cpu" in problem.hint
    with pytest.raises(
        LsfError, match=r'device "cuda:1" on a machine with no CUDA device; to run on the CPU'
    ):
        pick_device("cuda:1")
    assert pick_device("auto") == "cpu"
    assert pick_device("cpu") == "cpu"


def test_a_gpu_by_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert pick_device("auto") == "cuda"
    assert pick_device("cuda:0") == "cuda:0"
    with pytest.raises(LsfError, match='"cuda:1" on a machine with 1 CUDA device;'):
        pick_device("cuda:1")


def test_a_device_lsf_does_not_know(write, components):
    problem = only(write(), components, "device=cdua")
    assert problem.expected == 'a string, one of "auto", "cpu", "cuda", "cuda:<number>"'
    assert problem.hint == "did you mean 'cuda'?"
    with pytest.raises(LsfError, match=r"device 'gpu': expected one of"):
        pick_device("gpu")


def test_a_recipe_made_in_python_is_checked_too(write, components):
    recipe = read_recipe(write(("loss = {", "loss = {dipole = 1, ")), (), components)
    (problem,) = recipe_problems(recipe, components=components)
    assert str(problem).startswith('recipe: stages.0.loss.dipole: found no head that maps "dipole"')
