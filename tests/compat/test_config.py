"""Heads, train_schedule and the YAML file they stand in."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import attrs
import pytest

from lsf.compat.arguments import Flags, Given, load_yaml
from lsf.compat.schedule import heads_table, stage_tables
from lsf.compat.table import Name, names_of
from lsf.errors import LsfError
from lsf.recipe.read import read_recipe_text
from tests.compat.conftest import NONPOLARIZABLE, SPLIT, Command

STAGE = {"name": "a", "start": 0, "end": 0, "loss": {"forces": 1}}


def flags_with(**values: Any) -> Flags:
    return Flags({name: Given("config.yaml:1", name, value) for name, value in values.items()})


def stages_of(*stages: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    flags = flags_with(train_schedule=dict(enumerate(stages)))
    return stage_tables(flags), "\n".join(map(str, flags.problems))


def heads_of(**parts: Any) -> tuple[dict[str, Any], Flags]:
    flags = flags_with(heads={"default": parts})
    return heads_table(flags), flags


def by_fate(kind: str, fate: str) -> list[str]:
    """Return the names of a kind that are mapped, dropped or refused, without those that lsf lacks as yet."""
    return [name for name, item in names_of(kind).items() if getattr(item, fate) and not item.pending]


def test_the_old_command_line_to_the_letter(command: Command) -> None:
    table = command(NONPOLARIZABLE).table
    assert table["model"]["use"] == "LocalCharges"
    assert table["device"] == "cuda"
    assert [stage["epochs"] for stage in table["stages"]] == [100, 100]
    assert table["stages"][1] == {
        "name": "stage2",
        "epochs": 100,
        "lr": 0.001,
        "loss": {"dipole": 10.0, "energy_per_atom": 1000.0, "forces": 100.0},
    }
    assert table["heads"]["default"]["info_keys"]["external_field"] == "external_field"
    assert table["training"]["optimizer"]["use"] == "schedulefree"
    assert table["training"]["ema_decay"] == "none"


def test_the_recipe_is_one_and_says_what_had_no_effect(command: Command) -> None:
    translation = command(NONPOLARIZABLE)
    text = translation.text()
    assert "# --save_cpu: no effect" in text
    assert tomllib.loads(text) == translation.table
    recipe = read_recipe_text(text, "text")
    assert recipe.electrostatics.boundary == "mixed_periodic"
    assert recipe.model.options.hidden_irreps == "64x0e + 64x1o"


@pytest.mark.parametrize(
    ("flags", "formal_charges", "polarizability"),
    [
        ('--atomic_formal_charges "{1: 1.0, 8: -2.0}"', {"H": 1.0, "O": -2.0}, False),
        ("--formal_charges_from_data", "from_data", False),
        ("--formal_charges_from_data --compute_polarizability", "from_data", True),
        ("--compute_polarizability True --formal_charges_from_data", "from_data", True),
        ("--formal_charges_from_data --compute_polarizability=False", "from_data", False),
        ("--compute_polarizability --formal_charges_from_data --amsgrad", "from_data", True),
    ],
)
def test_split_charges(flags: str, formal_charges: Any, polarizability: bool, command: Command) -> None:
    model = command(SPLIT.replace('--atomic_formal_charges "{1: 1.0, 8: -2.0}"', flags)).table["model"]
    assert model["use"] == "LocalSplitCharges"
    assert model["formal_charges"] == formal_charges
    assert model["polarizability"] is polarizability
    assert model["transfer"] == "oxidation_dependent"
    assert model["oxidation_mixer"] == "sum"
    assert model["oxidation_range"] == [-6.0, 6.0]


def test_a_polarizability_that_is_trained_is_built(folder: Path, command: Command) -> None:
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("dipole: 10.0", "polarizability: 10"))
    assert command(SPLIT).table["model"]["polarizability"] is True


def test_fixed_charges(command: Command) -> None:
    table = command(SPLIT.replace("LocalSplitCharges", "FixedChargeBaselinedMACE")).table
    assert table["model"]["use"] == "FixedChargeBaselinedMACE"
    assert "transfer" not in table["model"]


@pytest.mark.parametrize("name", by_fate("models", "becomes"))
def test_models(name: str, command: Command) -> None:
    line = SPLIT.replace("LocalSplitCharges", name)
    translation = command(line)
    assert translation.table["model"]["use"] == names_of("models")[name].becomes
    assert ("electrostatics" in translation.table) == (translation.table["model"]["use"] != "MACE")


def test_data_files_start_at_the_working_folder(command: Command) -> None:
    data = command(NONPOLARIZABLE + " --work_dir runs/deep --valid_file /data/valid.xyz").table["data"]
    assert data["train"] == "../../train.xyz"
    assert data["valid"] == "/data/valid.xyz"
    assert "valid_fraction" not in data


def test_isolated_atoms_of_the_training_file_win(folder: Path, command: Command) -> None:
    (folder / "train.xyz").write_text("1\nREF_energy=-13.6 config_type=IsolatedAtom\nH 0 0 0\n")
    translation = command(NONPOLARIZABLE)
    assert translation.table["data"]["atomic_energies"] == "isolated"
    assert any(
        note.startswith("--E0s: no effect: the training file has frames") for note in translation.notes
    )


def test_atomic_energies_of_a_file(command: Command) -> None:
    data = command(NONPOLARIZABLE.replace("--E0s average", "--E0s e0s.json")).table["data"]
    assert data["atomic_energies"] == "e0s.json"


def test_without_atomic_energies_isolated_atoms_are_expected(command: Command) -> None:
    assert command(NONPOLARIZABLE.replace("--E0s average", "")).table["data"]["atomic_energies"] == "isolated"


# ---------------------------------------------------------------------------------------------------
# heads


@pytest.mark.parametrize("name", by_fate("properties", "becomes"))
def test_properties(name: str) -> None:
    heads, flags = heads_of(info_keys={name: "key"})
    assert heads["default"]["info_keys"] == {names_of("properties")[name].becomes: "key"}
    assert not flags.notes


@pytest.mark.parametrize("name", by_fate("properties", "drop"))
def test_properties_of_other_models_are_said_to_have_no_effect(name: str) -> None:
    heads, flags = heads_of(info_keys={name: "key", "energy": "E"})
    assert heads["default"]["info_keys"] == {"energy": "E"}
    assert f"heads.default.info_keys.{name} has no effect" in flags.notes[0]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"info_keys": {"enrgy": "E"}},
            "heads.default.info_keys.enrgy; expected a property\n    did you mean 'energy'",
        ),
        ({"infos": {}}, "heads.default with infos; expected the two tables info_keys and arrays_keys"),
    ],
)
def test_wrong_heads(parts: dict[str, Any], message: str) -> None:
    _, flags = heads_of(**parts)
    assert message in str(flags.problems[0])


def test_heads_must_be_there() -> None:
    flags = Flags()
    assert heads_table(flags) == {}
    assert "found nothing; expected the keys of the data file" in str(flags.problems[0])


# ---------------------------------------------------------------------------------------------------
# stages


def test_both_ends_belong_to_a_stage() -> None:
    stages, problems = stages_of(STAGE | {"end": 4}, STAGE | {"name": "b", "start": 5, "end": 5})
    assert not problems
    assert [stage["epochs"] for stage in stages] == [5, 1]


def test_stages_may_be_a_list_or_numbered_by_text() -> None:
    second = STAGE | {"name": "b", "start": 1, "end": 1}
    assert stage_tables(flags_with(train_schedule=[STAGE, second]))[1]["name"] == "b"
    assert stage_tables(flags_with(train_schedule={"1": second, "0": STAGE}))[1]["name"] == "b"


def test_weights_are_numbers_or_tables() -> None:
    loss = {"forces": 10, "energy_per_atom": "1e3", "dipole": {"weight": 2}}
    loss["atomic_multipoles"] = {"weight": 100, "higher_order_weight": 0.5}
    stages, problems = stages_of(STAGE | {"loss": loss})
    assert not problems
    assert stages[0]["loss"] == {
        "forces": 10.0,
        "energy_per_atom": 1000.0,
        "dipole": 2.0,
        "atomic_multipoles": {"weight": 100.0, "higher_order_weight": 0.5},
    }


def test_the_stage_decides_its_learning_rate_before_the_flag() -> None:
    flags = flags_with(train_schedule={0: STAGE | {"lr": 0.5}, 1: STAGE | {"start": 1, "end": 1}}, lr=0.02)
    assert [stage["lr"] for stage in stage_tables(flags)] == [0.5, 0.02]


@pytest.mark.parametrize("name", by_fate("losses", "becomes"))
def test_losses(name: str) -> None:
    stages, problems = stages_of(STAGE | {"loss": {name: 2.0}})
    assert not problems
    assert stages[0]["loss"] == {names_of("losses")[name].becomes: 2.0}


@pytest.mark.parametrize(
    ("kind", "content"), [("losses", {"loss": {"esps": 1}}), ("stages", {"embedding_lr": 0.1})]
)
def test_what_lsf_lacks_is_refused(
    kind: str, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "esps" if kind == "losses" else "embedding_lr"
    monkeypatch.setitem(names_of(kind), name, Name(becomes="x", pending="lsf has no such thing yet"))
    _, problems = stages_of(STAGE | content)
    assert f"{name}; expected" in problems
    assert "lsf has no such thing yet" in problems


@pytest.mark.parametrize("name", by_fate("losses", "refused"))
def test_losses_of_other_models_are_refused(name: str) -> None:
    _, problems = stages_of(STAGE | {"loss": {name: 2.0}})
    assert f"loss {name}" in problems
    assert "leave it out" in problems


@pytest.mark.parametrize("name", [name for name in names_of("stages") if name.endswith("_lr")])
def test_learning_rates_by_group(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(names_of("stages"), name, attrs.evolve(names_of("stages")[name], pending=""))
    stages, problems = stages_of(STAGE | {name: 0.5})
    assert not problems
    group = names_of("stages")[name].becomes.removeprefix("lr_groups.")
    assert stages[0]["lr_groups"] == {group: 0.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": 1, "end": 3}, "a start of 0 and an end not before it"),
        ({"end": -1}, "from 0 to -1"),
        ({"end": "ten"}, "from 0 to ten"),
        ({"los": {}}, "stage 0: los; expected a key of a stage\n    did you mean 'loss'"),
        ({"lr": "fast"}, "stage 0: lr = 'fast'; expected a number"),
        ({"lr": True}, "lr = True; expected a number"),
        ({"loss": {"force": 1}}, "loss force; expected a loss\n    did you mean 'forces'"),
        ({"loss": {"forces": None}}, "weight of forces = None; expected a number"),
        ({"loss": {"forces": {"wait": 1}}}, "weight of forces = 'nothing'; expected a number"),
        ({"loss": 3}, "expected a table {name: weight}"),
        ({"fixed_point_training_options": {}}, "it belongs to the self-consistent models"),
    ],
)
def test_wrong_stages(change: dict[str, Any], message: str) -> None:
    assert message in stages_of(STAGE | change)[1]


def test_incomplete_stages() -> None:
    assert "stage 0 without start, loss" in stages_of({"name": "a", "end": 1})[1]
    flags = flags_with(train_schedule={0: "a"})
    assert stage_tables(flags) == []
    assert "expected a table with name, start, end and loss" in str(flags.problems[0])
    empty = Flags()
    assert stage_tables(empty) == []
    assert "found nothing; expected stages" in str(empty.problems[0])


# ---------------------------------------------------------------------------------------------------
# the file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1,\n", "not valid YAML"),
        ("- 1\n- 2\n", "found a list; expected a table of flags"),
        ("a: 1\nb: 2\na: 3\n", "config.yaml:3: 'a' is there twice"),
        ("a:\n  c: 1\n  c: 2\n", "config.yaml:3: 'c' is there twice"),
        ("a: !!python/object/apply:os.getcwd []\n", "not valid YAML: could not determine a constructor"),
    ],
)
def test_wrong_files(text: str, message: str, folder: Path) -> None:
    path = folder / "config.yaml"
    path.write_text(text)
    with pytest.raises(LsfError, match=message):
        load_yaml(path)


def test_missing_and_empty_files(folder: Path) -> None:
    with pytest.raises(LsfError, match="cannot be read: No such file"):
        load_yaml(folder / "none.yaml")
    (folder / "empty.yaml").write_text("")
    assert load_yaml(folder / "empty.yaml") == ({}, {})
