"""Every flag of the older trainer has its row, and every row does what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import attrs
import pytest

from lsf.compat.arguments import EXPECTED
from lsf.compat.rules import RULES
from lsf.compat.table import Row, flag_rows, markdown_table, names_of
from lsf.compat.translate import Translation
from lsf.errors import RecipeError
from lsf.recipe.catalog import catalog
from lsf.recipe.old_names import ERROR_TABLES
from lsf.recipe.quantities import array_properties, info_properties
from lsf.recipe.schema import Stage
from tests.compat.conftest import Command

OLD_FLAGS = """
heads train_schedule error_table model optimizer restart_latest compute_polarizability
atomic_multipoles_max_l atomic_multipoles_smearing_width kspace_cutoff_factor
include_electrostatic_self_interaction electrostatic_pbc_method atomic_formal_charges
formal_charges_from_data static_bond_transfer_block oxidation_state_mixer oxidation_state_range
valid_set_seed beta_two use_linear_final_readout log_on_test_sets allow_low_density_pbc
override_pbc_checks low_density_pbc_max_volume_per_atom wandb_watch wandb_watch_log_freq
debug_log_grad_summary field_block_weight_decay local_charges_weight_decay dont_include_pbc_corrections
polarizable_charges field_feature_max_l field_feature_widths field_feature_norms field_norm_factor
fermi_level_offset quadrupole_feature_corrections include_field_si include_local_electron_energy
return_electrostatic_potentials fixedpoint_update_config field_readout_config use_linear_local_charges
atom_density_scaling skip_scf_convergence_summary scf_convergence_summary log_all_ranks
qeq_charges train_hardness read_enegs read_hardness
default_hardness
name config seed work_dir log_dir model_dir checkpoints_dir results_dir device default_dtype distributed
launcher log_level r_max radial_type num_radial_basis num_cutoff_basis interaction interaction_first max_ell
correlation num_interactions MLP_irreps radial_MLP hidden_irreps num_channels max_L gate avg_num_neighbors
compute_avg_num_neighbors compute_stress compute_forces train_file valid_file test_file valid_fraction
num_workers pin_memory E0s config_type_weights keep_isolated_atoms batch_size valid_batch_size lr
weight_decay amsgrad beta scheduler lr_factor scheduler_patience lr_scheduler_gamma clip_grad ema ema_decay
eval_interval patience keep_checkpoints save_all_checkpoints save_cpu wandb wandb_dir wandb_project
wandb_entity wandb_name wandb_log_hypers
energy_weight forces_weight stress_weight virials_weight dipole_weight polarizability_weight
swa_energy_weight swa_forces_weight swa_stress_weight swa_virials_weight swa_dipole_weight
swa_polarizability_weight swa swa_lr stage_two stage_two_lr start_swa start_stage_two max_num_epochs
huber_delta lbfgs plot plot_frequency plot_interaction_e dry_run enable_cueq only_cueq enable_oeq
foundation_model foundation_model_readout foundation_model_elements foundation_model_kwargs
multiheads_finetuning pt_train_file pt_valid_file lora lora_rank lora_alpha pair_repulsion
distance_transform use_reduced_cg use_so3 embedding_specs skip_evaluate_heads
test_dir statistics_file
energy_key forces_key stress_key virials_key dipole_key polarizability_key head_key charges_key
total_charge_key external_field_key atomic_multipoles_key electrostatic_potentials_key fermi_level_key
enegs_key
loss scaling mean std atomic_numbers edge_irreps downloads_dir multi_processed_test compute_atomic_dipole
freeze lr_params_factors weight_pt_head num_samples_pt subselect_pt filter_type_pt
"""
"""Flags of the older trainer: its own, those of MACE that it reads, and those it accepts without effect."""

ROWS = flag_rows()

BASE = "--config config.yaml --name run --train_file train.xyz --model LocalCharges"


def params(kind: str) -> list[Any]:
    chosen = []
    for row in ROWS.values():
        if row.kind == kind:
            marks = [pytest.mark.xfail(strict=True, reason=row.pending)] if row.pending else []
            chosen.append(pytest.param(row, id=row.name, marks=marks))
    return chosen


def line_for(row: Row, text: str) -> str:
    """Return a command line with one flag under test and what it needs beside it."""
    needed = shlex.split(row.needs)
    model = row.models[0] if row.models else "LocalCharges"
    if row.name == "mean":
        model = "ScaleShiftMACE"
    words = ["--config", "config.yaml"]
    for name, value in (("name", "run"), ("train_file", "train.xyz"), ("E0s", "average"), ("model", model)):
        words += [f"--{name}", value] if name != row.name else []
    if model in ("LocalSplitCharges", "FixedChargeBaselinedMACE") and row.rule != "formal_charges":
        words += ["--atomic_formal_charges", "{1: 1.0, 8: -2.0}"]
    words += [
        *needed,
        f"--{row.name}",
        *(shlex.split(text) if row.takes == "words" else [text] if text else []),
    ]
    return shlex.join(words)


def at(table: dict[str, Any], key: str) -> Any:
    value: Any = table
    for part in key.split("."):
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value


def test_every_flag_of_the_older_trainer_has_a_row() -> None:
    assert sorted(set(OLD_FLAGS.split()) - set(ROWS)) == []


@pytest.mark.parametrize("row", list(ROWS.values()), ids=list(ROWS))
def test_rows_are_complete(row: Row) -> None:
    assert row.takes in EXPECTED
    assert not row.rule or row.rule in RULES
    assert row.kind != "mapped" or (row.key and row.gives is not None)
    assert row.kind != "script" or row.means
    assert row.kind != "ignored" or row.why
    assert row.kind != "refused" or (row.why and row.instead)
    assert set(row.models) <= set(names_of("models"))


@pytest.mark.parametrize("row", params("mapped"))
def test_mapped_flag_becomes_its_key(row: Row, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    # what is expected to fail is the recipe: once it knows the key, this test says that `pending` can go
    for other in [item for item in ROWS.values() if row.pending and item.pending == row.pending]:
        monkeypatch.setitem(ROWS, other.name, attrs.evolve(other, pending=""))
    for name, item in list(names_of("models").items()):
        monkeypatch.setitem(names_of("models"), name, attrs.evolve(item, pending=""))
    translation = command(line_for(row, row.example))
    assert at(translation.table, row.key) == row.gives
    assert not [note for note in translation.notes if note.startswith(f"--{row.name}:")]


@pytest.mark.parametrize("row", params("ignored"))
def test_flag_without_effect_is_said_in_one_line(row: Row, command: Command) -> None:
    with_it = command(line_for(row, row.example))
    said = [note for note in with_it.notes if note.startswith(f"--{row.name}: ")]
    assert said == [f"--{row.name}: no effect: {row.why}"]
    assert "\n" not in said[0]
    without = command(
        "--config config.yaml --name run --train_file train.xyz --E0s average --model LocalCharges"
    )
    assert with_it.table == without.table


@pytest.mark.parametrize("row", params("refused"))
def test_refused_flag_says_why_and_what_instead(row: Row, command: Command) -> None:
    with pytest.raises(RecipeError, match=re.escape(row.why)) as caught:
        command(line_for(row, row.example))
    assert f"instead: {row.instead}" in str(caught.value)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS.values() if row.kind == "refused" and row.default is not None],
    ids=lambda row: row.name,
)
def test_refused_flag_is_accepted_when_it_asks_for_nothing(row: Row, command: Command) -> None:
    assert f"--{row.name}: no effect: it is the default" in command(line_for(row, str(row.default))).notes


@pytest.mark.parametrize(
    ("flag", "text", "check"),
    [
        ("config", "config.yaml", lambda t: len(t.table["stages"]) == 2),
        ("work_dir", "elsewhere", lambda t: t.table["data"]["train"] == "../train.xyz"),
        ("log_dir", "l", lambda t: t.flags["log_dir"] == "l"),
        ("model_dir", "m", lambda t: t.flags["model_dir"] == "m"),
        ("checkpoints_dir", "c", lambda t: t.flags["checkpoints_dir"] == "c"),
        ("results_dir", "r", lambda t: t.flags["results_dir"] == "r"),
        ("restart_latest", "False", lambda t: t.flags["restart_latest"] is False),
        ("no-restart_latest", "", lambda t: t.flags["restart_latest"] is False),
        ("log_level", "debug", lambda t: t.flags["log_level"] == "debug"),
        ("launcher", "none", lambda t: t.flags["launcher"] == "none"),
        ("print-recipe", "", lambda t: t.flags["print_recipe"] is True),
        ("set", "training.clip_grad=3 model.max_ell=1", lambda t: t.table["model"]["max_ell"] == 1),
    ],
)
def test_flags_of_the_script(flag: str, text: str, check: Any, command: Command) -> None:
    line = f"--name run --train_file train.xyz --model LocalCharges --config config.yaml --{flag} {text}"
    translation: Translation = command(line)
    assert check(translation)


def test_distributed_counts_the_batch_over_processes(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ROWS, "distributed", attrs.evolve(ROWS["distributed"], pending=""))
    monkeypatch.setenv("WORLD_SIZE", "2")
    line = line_for(ROWS["batch_size"], "4") + " --distributed"
    assert command(line).table["training"]["batch_size"] == 8


def test_distributed_without_torchrun(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS, "distributed", attrs.evolve(ROWS["distributed"], pending=""))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(RecipeError, match=r"torchrun --nproc-per-node=2 -m lsf compat train"):
        command(f"{BASE} --distributed")


def test_accelerated_backends(command: Command) -> None:
    translation = command(f"{BASE} --enable_cueq True --only_cueq True --enable_oeq True")
    assert translation.table["model"]["kernels"] == "cuequivariance"
    assert any(
        note.startswith("--enable_oeq: no effect: no kernels of OpenEquivariance")
        for note in translation.notes
    )
    assert "kernels" not in command(f"{BASE} --enable_cueq False").table["model"]


def test_a_foundation_model_decides_about_the_backbone(command: Command) -> None:
    line = f"{BASE} --foundation_model runs/mace.safetensors"
    translated = command(line)
    assert translated.table["model"] == {"use": "LocalCharges", "start_from": "runs/mace.safetensors"}
    assert "atomic_energies" not in translated.table["data"]
    # what is given is kept: lsf compares it with the file
    given = command(f"{line} --r_max 5.0 --E0s average --max_L 2 --avg_num_neighbors 9 --scaling no_scaling")
    assert given.table["model"]["r_max"] == 5.0
    assert given.table["model"]["hidden_irreps"] == "128x0e + 128x1o + 128x2e"
    assert given.table["data"]["atomic_energies"] == "average"
    assert "atomic_energies" not in command(f"{line} --E0s foundation").table["data"]


def test_a_pickle_of_mace_torch_has_to_be_imported_first(command: Command) -> None:
    with pytest.raises(RecipeError, match=r"found 'mace\.model'.*\n.*tools/export_mace_weights\.py"):
        command(f"{BASE} --foundation_model mace.model")
    with pytest.raises(RecipeError, match=r"--E0s: found foundation; expected --foundation_model"):
        command(f"{BASE} --E0s foundation")


def test_blocks_that_lsf_lacks_get_the_nearest_name(command: Command) -> None:
    with pytest.raises(RecipeError, match=r"--interaction: found 'RealAgnosticAttResidualInteractionBlock'"):
        command(f"{BASE} --interaction RealAgnosticAttResidualInteractionBlock")


def test_script_rows_are_all_tested_above() -> None:
    tested = {
        "config",
        "work_dir",
        "log_dir",
        "model_dir",
        "checkpoints_dir",
        "results_dir",
        "restart_latest",
    }
    tested |= {"log_level", "launcher", "print_recipe", "set", "distributed"}
    tested |= {"statistics_file"}  # in test_preprocess.py
    assert {row.name for row in ROWS.values() if row.kind == "script"} == tested


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--r_mx 5", r"--r_mx: found an unknown flag.*\n    did you mean '--r_max'\?"),
        ("--zzzzzzzzzzzzzzzz 5", r"--zzzzzzzzzzzzzzzz: found an unknown flag.*\n    docs/migration.md lists"),
        ("--r_max five", r"--r_max: found 'five'; expected a number"),
        ("--r_max inf", r"--r_max: found 'inf'; expected a number"),
        ("--r_max", r"--r_max: found nothing after it; expected a number"),
        ("--batch_size 2.5", r"--batch_size: found '2.5'; expected a whole number"),
        ("--ema maybe", r"'maybe': found|found 'maybe'; expected a flag"),
        ("--compute_forces=maybe", r"--compute_forces: found 'maybe'; expected True or False"),
        ("--E0s __import__('os').getcwd()", r"--E0s: found .*; expected average, a table"),
        ("--E0s \"{1: open('x')}\"", r"--E0s: found .*; expected a word or a table"),
        ('--config_type_weights \'{"Default": "two"}\'', r"Default: 'two'; expected a number"),
        (
            "--model LocalCharge",
            r"--model: found 'LocalCharge'; expected a model\n    did you mean 'LocalCharges'",
        ),
        ("--model MACEQEq", r"charge equilibration is not part of lsf"),
        ("--model FixedPoint", r"self-consistent models are not part of lsf"),
        ("--E0s estimated", r"average fits them to the data"),
        ("--E0s avarage", r"did you mean 'average'\?"),
        ("--launcher slurm", r"let srun or mpirun start torchrun"),
        ("--log_level LOUD", r"--log_level: found 'LOUD'"),
        ("--correlation 9", r"command line: --correlation: model.correlation: found the integer 9"),
        ("--set model.r_mx=3", r"model.r_mx: found an unknown key.*\n    did you mean 'r_max'"),
        ("--set nothing", r'found "nothing"; expected key=value'),
        ("stray", r"found 'stray'; expected a flag"),
        (
            "--error_table PerAtomRSME",
            r"--error_table: found 'PerAtomRSME'.*\n    did you mean 'PerAtomRMSE'",
        ),
        (
            "--oxidation_state_mixer Sum --model LocalSplitCharges --formal_charges_from_data",
            r"SumOxidationState",
        ),
        ("--model LocalSplitCharges", r"--atomic_formal_charges: found nothing; expected a charge for every"),
        (
            "--model LocalSplitCharges --atomic_formal_charges '{300: 1.0}'",
            r"the key 300; expected an atomic number",
        ),
        ("--model LocalSplitCharges --atomic_formal_charges \"{1: 'a'}\"", r"a number for every element"),
    ],
)
def test_wrong_values_are_explained(line: str, message: str, command: Command) -> None:
    # [\s\S] lets a pattern go on over the line break before a hint
    with pytest.raises(RecipeError, match=message.replace(".*", r"[\s\S]*")):
        command(f"--config config.yaml --name run --train_file train.xyz {line}")


def test_all_problems_come_at_once(command: Command) -> None:
    with pytest.raises(RecipeError) as caught:
        command("--config config.yaml --r_mx 5 --foundation_model small --batch_size x --correlation 9")
    keys = {problem.key for problem in caught.value.problems}
    assert {
        "--r_mx",
        "--foundation_model",
        "--batch_size",
        "--name",
        "--train_file",
        "model.correlation",
    } <= keys


def test_everything_may_stand_in_the_yaml_and_the_command_line_wins(folder: Path, command: Command) -> None:
    (folder / "all.yaml").write_text(
        (folder / "config.yaml").read_text() + "name: run\ntrain_file: train.xyz\nmodel: LocalSplitCharges\n"
        "atomic_formal_charges: {1: 1.0, 8: -2}\nr_max: 4\nweight_decay: 1e-6\nwandb-watch: off\n"
        "radial_MLP: [8, 8]\nclip_grad: null\nsave_cpu: true\n"
    )
    translation = command("--config all.yaml --r_max 4.5")
    assert translation.table["model"]["r_max"] == 4.5
    assert translation.table["model"]["radial_mlp"] == [8, 8]
    assert translation.table["model"]["formal_charges"] == {"H": 1.0, "O": -2.0}
    assert translation.table["training"]["optimizer"]["weight_decay"] == 1e-6
    assert translation.table["training"]["clip_grad"] == 10.0
    assert "save_cpu: no effect: model files belong to no device" in translation.notes


def test_problems_in_the_yaml_name_file_and_line(folder: Path, command: Command) -> None:
    (folder / "bad.yaml").write_text("name: run\n\nr_mx: 5.0\nbatch_size: many\nconfig: other.yaml\n")
    with pytest.raises(RecipeError, match=r"bad.yaml:3: r_mx: found an unknown key[\s\S]*'r_max'") as caught:
        command("--config bad.yaml")
    assert "bad.yaml:4: batch_size: found 'many'; expected a whole number" in str(caught.value)
    assert "bad.yaml:5: config" in str(caught.value)


def test_a_repeated_flag_is_noticed(command: Command) -> None:
    translation = command(f"{BASE} --r_max 4 --r_max 5")
    assert translation.table["model"]["r_max"] == 5.0
    assert "--r_max: given more than once, the last one counts" in translation.notes


def test_flags_of_other_models_have_no_effect(command: Command) -> None:
    notes = command(f"{BASE} --formal_charges_from_data").notes
    assert "--formal_charges_from_data: no effect with --model LocalCharges" in notes


def names(kind: str) -> list[Any]:
    """Return the names of a kind that become something, with what it is; absent ones are expected to fail."""
    return [
        pytest.param(
            kind,
            item.becomes,
            id=f"{kind}-{name}",
            marks=[pytest.mark.xfail(strict=True, reason=item.pending)] if item.pending else [],
        )
        for name, item in names_of(kind).items()
        if item.becomes
    ]


@pytest.mark.parametrize(
    ("kind", "name"),
    [param for kind in ("models", "properties", "losses", "stages", "error_tables") for param in names(kind)],
)
def test_what_a_name_becomes_exists(kind: str, name: str, request: pytest.FixtureRequest) -> None:
    known = {
        "models": catalog().names("models"),
        "properties": (*info_properties(), *array_properties()),
        "losses": catalog().names("losses"),
        "stages": attrs.fields_dict(Stage),
        "error_tables": ERROR_TABLES,
    }
    assert name.partition(".")[0] in known[kind]
    if request.node.callspec.id.endswith("ScaleShiftMACE"):
        assert "shift" in attrs.fields_dict(catalog().options_class("models", name))


@pytest.mark.parametrize(
    "table", [name for name, item in names_of("error_tables").items() if not item.pending]
)
def test_every_old_error_table(table: str, command: Command) -> None:
    chosen = command(f"{BASE} --error_table {table}").table["training"]["error_table"]
    assert chosen == names_of("error_tables")[table].becomes


def test_the_documentation_holds_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "migration.md"
    assert markdown_table() in page.read_text(encoding="utf-8"), "run tools/make_flag_table.py"
