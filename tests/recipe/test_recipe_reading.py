from __future__ import annotations

import tomllib

import attrs
import fake_components
import pytest

from lsf.errors import RecipeError
from lsf.options import Component, option
from lsf.recipe.convert import INVALID, Structurer
from lsf.recipe.read import read_recipe, read_recipe_text, resolved_toml
from lsf.recipe.schema import Checks, LossTerm
from lsf.recipe.toml import Positions


def problems_of(path, components, *overrides):
    with pytest.raises(RecipeError) as caught:
        read_recipe(path, overrides, components)
    return caught.value.problems


def only(path, components, *overrides):
    (problem,) = problems_of(path, components, *overrides)
    return problem


def test_a_recipe_is_read_and_its_defaults_filled_in(write, components, tmp_path):
    recipe = read_recipe(write(), (), components)
    assert recipe.data.train == str(tmp_path / "train.xyz")
    assert recipe.data.atomic_energies == "average"
    assert recipe.data.checks == Checks()
    assert recipe.training.optimizer == Component("adam", fake_components.AdamOptions())
    assert recipe.model.options.formal_charges == {"H": 1.0, "O": -2.0}
    assert isinstance(recipe.model.options.formal_charges["H"], float)
    assert recipe.model.options.mixer == Component("sum", fake_components.MixerOptions())
    assert recipe.stages[0].loss == {
        "energy_per_atom": LossTerm(1.0, fake_components.NoLossOptions()),
        "forces": LossTerm(100.0, fake_components.NoLossOptions()),
    }


def test_the_resolved_recipe_reads_back_equal(write, components):
    path = write(
        ("loss = {energy", "loss = {dipole = {weight = 2, per_atom = true}, energy"),
        ("lr = 0.01", "lr = 1e-5"),
        ("valid_fraction = 0.2", 'valid = "v.xyz"\ntest = {near = "a.xyz", "far away" = "/b.xyz"}'),
        ("[[stages]]", '[training]\nema_decay = "none"\noptimizer = {use = "sgd", momentum = 0}\n[[stages]]'),
        (USE, USE + '\nstart = "old.safetensors"\nwidths = [1, 2]\nmixer.use = "sum"'),
    )
    recipe = read_recipe(path, (), components)
    text = resolved_toml(recipe)
    again = read_recipe_text(text, "stored", "/elsewhere", components)
    assert again == recipe
    assert resolved_toml(again) == text
    assert recipe.training.ema_decay is None
    assert recipe.data.test == {"near": str(path.parent / "a.xyz"), "far away": "/b.xyz"}


def test_every_field_stands_in_the_resolved_recipe(write, components):
    table = tomllib.loads(resolved_toml(read_recipe(write(), (), components)))
    assert set(table["data"]["checks"]) == {field.name for field in attrs.fields(Checks)}
    assert table["data"]["valid"] == "none"
    assert table["model"]["mixer"] == {"use": "sum", "width": 4}
    assert table["stages"][0]["loss"] == {"energy_per_atom": 1.0, "forces": 100.0}


# -------------------------------------------------------------------------------- wrong values

USE = 'use = "Charges"'


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "found", "expected", "hint"),
    [
        ("name =", "nmae =", 2, "nmae", "unknown key", "known option", "did you mean 'name'"),
        ("schema = 1", "schema = 2", 1, "schema", "the integer 2", "^1$", ""),
        ("epochs = 2", "epochs = 2.0", 22, "stages.0.epochs", "the number 2.0", "an integer", "write 2"),
        ("epochs = 2", "epochs = true", 22, "stages.0.epochs", "true", "an integer", ""),
        ("epochs = 2", "epochs = 0", 22, "stages.0.epochs", "the integer 0", "an integer, at least 1", ""),
        ("lr = 0.01", 'lr = "0.01"', 23, "stages.0.lr", 'the string "0.01"', "a number", "without quotes"),
        ("lr = 0.01", "lr = nan", 23, "stages.0.lr", "the number nan", "a number, above 0", ""),
        ("lr = 0.01", "lr = 2020-01-01", 23, "stages.0.lr", "the date 2020-01-01", "a number", ""),
        ("lr = 0.01", "lr = [1]", 23, "stages.0.lr", "a list of 1", "a number", ""),
        ("lr = 0.01", "lr = {a = 1}", 23, "stages.0.lr", "a table with a", "a number", ""),
        ("forces = {", "forced = {", 24, "stages.0.loss.forced", '"forced"', "one of the losses", "'forces'"),
        ("forces = {weight = 100.0}", "forces = -1", 24, "stages.0.loss.forces", "-1", "at least 0", ""),
        ("weight = 100.0", "weight = -1", 24, "stages.0.loss.forces.weight", "-1", "at least 0", ""),
        ("weight = 100.0", "", 24, "stages.0.loss.forces.weight", "nothing", "a number, at least", "Factor"),
        ("weight =", "w = 1, weight =", 24, "stages.0.loss.forces.w", "unknown key", "", "no valid names"),
        ("name = \"water\"", 'name = "a/b"', 2, "name", 'the string "a/b"', "letters, digits", ""),
        ('"Charges"', '"Chargse"', 14, "model.use", '"Chargse"', "one of the models", "'Charges'"),
        (USE, "", 13, "model.use", "nothing", "one of the models", "ChargeFree, Charges"),
        (USE, "use = 1", 14, "model.use", "the integer 1", "one of the models", "ChargeFree"),
        ("O = -2.0", 'O = "-2"', 15, "model.formal_charges.O", '"-2"', "a number", "without quotes"),
        (
            "{H = 1, O = -2.0}", '"from_dta"', 15, "model.formal_charges", '"from_dta"',
            'a table of numbers or "from_data"', "did you mean 'from_data'",
        ),
        (USE, USE + '\nwidths = [1, 0]', 15, "model.widths", "list of 2", "each above 0", ""),
        (USE, USE + '\nwidths = []', 15, "model.widths", "list of 0", "not empty", ""),
        (USE, USE + '\nwidths = [1.5]', 15, "model.widths.0", "1.5", "an integer", ""),
        (USE, USE + '\nlow = 2', 15, "model.low", "2.0", "a number", "below high = 1"),
        (USE, USE + '\nmixer = "sum"', 15, "model.mixer", '"sum"', "{use = ", "lsf list mixers"),
        (
            USE, USE + '\nmixer.use = "product"', 15, "model.mixer.use", '"product"',
            "one of the mixers", "valid names: sum",
        ),
        ("energy = ", "enrgy = ", 9, "heads.default.info_keys.enrgy", "unknown", "lsf knows", "energy"),
        (
            "energy = ", "forces = ", 9, "heads.default.info_keys.forces", '"forces"',
            "a property of the whole frame", "move it to arrays_keys",
        ),
        (
            "forces = \"", "dipole = \"", 11, "heads.default.arrays_keys.dipole", '"dipole"',
            "a property of every atom", "move it to info_keys",
        ),
        ("multipoles_max_l = 0", 'boundary = "slb"', 18, "electrostatics.boundary", '"slb"', "", "'slab'"),
        ("[[stages]]", '[export]\nformats = ["onx"]\n[[stages]]', 21, "export.formats", "list", "each", ""),
        ("[[stages]]", '[training]\noptimizer = {use = "sgd"}\n[[stages]]', 21, "training.optimizer.momentum",
         "nothing", "a number, at least 0", "Momentum. It smooths."),
        ("[[stages]]", '[training.optimizer]\nuse = "adam"\nbetas = [1]\n[[stages]]', 22,
         "training.optimizer.betas", "a list of 1", "a list of 2 numbers", ""),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_problem(write, components, old, new, line, key, found, expected, hint):
    path = write((old, new))
    problems = [problem for problem in problems_of(path, components) if problem.key == key]
    assert len(problems) == 1
    (problem,) = problems
    assert problem.where == f"{path}:{line}"
    assert found in problem.found
    assert expected.strip("^$") in problem.expected
    assert hint in problem.hint


def test_all_problems_come_at_once_in_the_order_of_the_file(write, components):
    path = write(
        ('name = "water"', 'name = "water"\nsede = 1\ndtype = "float46"\nseed = "5"'),
        ("valid_fraction = 0.2", "valid_fraction = 1.0"),
        ("multipoles_max_l = 0", "multipoles_max_l = 0.0"),
        ("lr = 0.01", "lr = -0.01"),
    )
    problems = problems_of(path, components, "training.batch_size=0")
    assert [problem.key for problem in problems] == [
        "sede",
        "dtype",
        "seed",
        "data.valid_fraction",
        "electrostatics.multipoles_max_l",
        "stages.0.lr",
        "training.batch_size",
    ]
    with pytest.raises(RecipeError, match=r"water.toml cannot be used \(7 problems\)"):
        read_recipe(path, ["training.batch_size=0"], components)


def test_required_tables_that_are_missing(write, components):
    path = write(text='schema = 1\nname = "x"\n')
    problems = problems_of(path, components)
    assert [problem.key for problem in problems] == ["data", "heads", "model", "stages"]
    assert all(problem.where == str(path) and problem.found == "nothing" for problem in problems)


def test_no_heads_at_all(write, components):
    path = write(
        ('[heads.default.info_keys]\nenergy = "REF_energy"\n', "[heads]\n"),
        ('[heads.default.arrays_keys]\nforces = "REF_forces"\n', ""),
    )
    problem = only(path, components)
    assert (problem.key, problem.found) == ("heads", "an empty table")
    assert problem.expected == "a table of tables, not empty"


def test_a_head_that_is_no_table(write, components):
    path = write(("[model]", "[heads]\nother = 1\n[model]"))
    problem = only(path, components)
    assert (problem.key, problem.expected) == ("heads.other", "a table with info_keys and arrays_keys")


def test_a_recipe_that_is_not_there(write, components, tmp_path):
    write()
    with pytest.raises(
        RecipeError, match=r"watre.toml: found no such file; (?s:.*)did you mean '.*water.toml'"
    ):
        read_recipe(tmp_path / "watre.toml", (), components)


def test_a_recipe_that_cannot_be_read(tmp_path, components):
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(RecipeError, match="bytes that are not UTF-8 text"):
        read_recipe(tmp_path / "latin.toml", (), components)
    with pytest.raises(RecipeError, match="Is a directory; expected a readable text file"):
        read_recipe(tmp_path, (), components)


def test_a_syntax_error_is_one_problem_with_its_line(write, components):
    problem = only(write(("lr = 0.01", "lr = ")), components)
    assert problem.where.endswith("water.toml:23")
    assert problem.found == "a TOML syntax error, column 6"


@attrs.frozen
class ValidatedOptions:
    """Options whose validators look at another field, and at something that is not there."""

    high: float = option("Upper bound. It cuts.")
    low: float = option("Lower bound. It cuts.", default=0.0)
    width: int = option("Width. Wider fits more.", default=1)
    scale: int = option("Scale. It scales.", default=1)

    @low.validator
    def _below_high(self, _attribute: object, value: float) -> None:
        if value >= self.high:
            raise ValueError(f"low = {value:g} must be below high")

    @width.validator
    def _odd(self, _attribute: object, value: int) -> None:
        if value > 1:
            assert self.widht % 2

    @scale.validator
    def _short(self, _attribute: object, value: int) -> None:
        if value > 1:
            assert value.length() < 3


def test_a_validator_that_looks_at_a_refused_field_says_nothing(components, tmp_path):
    reader = Structurer(Positions("r.toml", {}), components, tmp_path)
    assert reader.table(ValidatedOptions, {"high": "x", "low": 2.0}, ()) is INVALID
    assert [problem.key for problem in reader.problems] == ["high"]
    reader = Structurer(Positions("r.toml", {}), components, tmp_path)
    reader.table(ValidatedOptions, {"high": 1.0, "low": 2.0}, ())
    assert [(problem.key, problem.hint) for problem in reader.problems] == [
        ("low", "low = 2 must be below high")
    ]


@pytest.mark.parametrize(("field", "missing"), [("width", "widht"), ("scale", "length")])
def test_a_mistake_in_a_validator_is_no_consent(components, tmp_path, field, missing):
    for high in (1.0, "refused"):
        reader = Structurer(Positions("r.toml", {}), components, tmp_path)
        with pytest.raises(AttributeError, match=missing):
            reader.table(ValidatedOptions, {"high": high, field: 2}, ())


# -------------------------------------------------------------------------------- overrides


def test_overrides_replace_values_before_anything_is_checked(write, components):
    recipe = read_recipe(
        write(("epochs = 2", 'epochs = "two"')),
        [
            "stages.0.epochs=7",
            "training.clip_grad=none",
            "heads.default.info_keys.dipole=REF dipole",
            'model.formal_charges={H = 1, O = -2, "Na" = 1}',
            "model.widths=[3]",
            "dtype=float32",
            'name="quoted"',
            "training.optimizer.use=sgd",
            "training.optimizer.momentum=0.5",
        ],
        components,
    )
    assert recipe.stages[0].epochs == 7
    assert recipe.training.clip_grad is None
    assert recipe.heads["default"].info_keys["dipole"] == "REF dipole"
    assert recipe.model.options.formal_charges == {"H": 1.0, "O": -2.0, "Na": 1.0}
    assert recipe.model.options.widths == (3,)
    assert (recipe.dtype, recipe.name) == ("float32", "quoted")
    assert recipe.training.optimizer == Component("sgd", fake_components.SgdOptions(momentum=0.5))


@pytest.mark.parametrize(
    ("override", "key", "found", "expected"),
    [
        ("seed", "", '"seed"', "key=value"),
        ("two words=1", "", '"two words=1"', "key=value"),
        ("=1", "", '"=1"', "key=value"),
        ("stages.1.epochs=3", "stages.1", '"1" after a list of 1', "an index from 0 to 0"),
        ("stages.first.epochs=3", "stages.first", '"first" after a list of 1', "an index from 0 to 0"),
        ("name.first=3", "name.first", 'the string "water" before .first', "a table or a list"),
        ("trainig.batch_size=3", "trainig", "an unknown key", "a known option"),
        ("seed=1.0", "seed", "the number 1.0", "an integer, at least 0"),
        ("seed=five", "seed", 'the string "five"', "an integer, at least 0"),
    ],
)
def test_a_wrong_override_says_so(write, components, override, key, found, expected):
    problem = only(write(), components, override)
    assert (problem.where, problem.key) == ("--set", key)
    assert found in problem.found
    assert expected in problem.expected


def test_an_empty_list_has_no_index(write, components):
    path = write((USE, USE + "\nwidths = []"))
    found = [
        problem for problem in problems_of(path, components, "model.widths.0=1") if problem.where == "--set"
    ]
    assert found[0].expected == "no index: the list is empty"


# -------------------------------------------------------------------------------- paths


def test_paths_start_at_the_recipe(write, components, tmp_path, monkeypatch):
    path = write(("valid_fraction = 0.2", 'valid = "../v.xyz"\natomic_energies = "e0.toml"'))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for name in (path, f"../{path.name}"):
        data = read_recipe(name, (), components).data
        assert data.valid == str(tmp_path.parent / "v.xyz")
        assert data.atomic_energies == str(tmp_path / "e0.toml")


def test_words_are_no_paths(write, components):
    for word in ("average", "isolated"):
        path = write(("valid_fraction = 0.2", f'valid_fraction = 0.2\natomic_energies = "{word}"'))
        assert read_recipe(path, (), components).data.atomic_energies == word


def test_atomic_energies_by_element(write, components):
    path = write(("valid_fraction = 0.2", "valid_fraction = 0.2\natomic_energies = {H = -13, O = -2e3}"))
    assert read_recipe(path, (), components).data.atomic_energies == {"H": -13.0, "O": -2000.0}


def test_a_component_whose_options_cannot_be_imported(write, components, tmp_path):
    entry = tmp_path / "registry/models/Charges.toml"
    text = entry.read_text().replace("fake_components:ChargesOptions", "no_such_module:Options")
    entry.write_text(text)
    problem = only(write(), type(components)([tmp_path / "registry"]))
    assert problem.expected == "a component that can be imported"
    assert "No module named 'no_such_module'" in problem.hint


def test_trackers_are_tables_by_name(write):
    end = "loss = {energy_per_atom = 1, forces = {weight = 100.0}}\n"
    path = write(
        (end, f'{end}\n[trackers.tensorboard]\n[trackers.wandb]\nproject = "water"\n'),
        ("O = -2.0}", "O = -2.0}"),
    )
    recipe = read_recipe(path, REAL)
    assert recipe.trackers["tensorboard"].options.folder is None
    assert recipe.trackers["wandb"].options.project == "water"
    assert read_recipe_text(resolved_toml(recipe), "resolved") == recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trackers.wand={}", 'trackers.wand: found "wand"; expected the name of one of the trackers .*'),
        ("trackers.wandb=true", "trackers.wandb: found true; expected a table with the options of wandb"),
        ("trackers.wandb.watch=some", 'trackers.wandb.watch: found the string "some"; expected one of'),
        ("trackers.wandb.projct=a", "trackers.wandb.projct: found an unknown key"),
    ],
)
def test_trackers_that_are_none(write, override, message):
    with pytest.raises(RecipeError, match=message):
        read_recipe(write(), [*REAL, override])


REAL = ('model={use = "MACE"}',)
"""Overrides that make the recipe one of the real registry."""
