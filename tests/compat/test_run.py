"""Whole runs by the old command line: recipe, errors, files and their places."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from ase.io import read, write

from lsf import cli
from lsf.recipe.read import read_recipe
from tests.compat.conftest import CONFIG, NONPOLARIZABLE, SPLIT

DATA = Path(__file__).parents[2] / "recipes" / "data" / "water_clusters_valid.xyz"

SMALL = "--r_max 3.0 --hidden_irreps '2x0e + 2x1o' --max_ell 1 --correlation 2 --radial_MLP [4] --device cpu"
"""Makes the models of the documentation small enough for tests."""


def main(arguments: list[str]) -> int:
    return cli.main(["compat", "train", *arguments])


@pytest.fixture
def data(folder: Path) -> Path:
    """The working folder with a dozen frames and a schedule of three epochs."""
    frames = [atoms for atoms in read(DATA, ":") if len(atoms) < 8][:12]
    write(folder / "train.xyz", frames, format="extxyz")
    short = CONFIG.replace("end: 99", "end: 1").replace("start: 100, end: 199", "start: 2, end: 2")
    (folder / "config.yaml").write_text(short)
    return folder


def test_print_recipe_prints_and_saves_and_stops(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*shlex.split(NONPOLARIZABLE), "--print-recipe"]) == 0
    printed = capsys.readouterr()
    saved = folder / "nonpol_example_run-123.toml"
    assert printed.out == saved.read_text()
    assert "lsf run nonpol_example_run-123.toml" in printed.err
    assert "--save_cpu: no effect" in printed.err
    assert read_recipe(saved).name == "nonpol_example"
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "nonpol_example_run-123.toml"]


def test_no_gpu_is_one_clear_error(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(shlex.split(NONPOLARIZABLE)) == 2
    error = capsys.readouterr().err
    assert '"cuda" on a machine with no CUDA device' in error
    assert "to run on the CPU: --device cpu" in error
    assert error.count("  - ") == 1
    assert not (data / "runs").exists()


def test_missing_files_name_their_flag(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert folder.is_dir()
    assert main([*shlex.split(NONPOLARIZABLE), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "command line: --train_file: data.train: found" in error
    assert "command line: --test_file: data.test: found" in error


def test_problems_of_the_data_say_how_to_set_keys(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = SPLIT.replace("{1: 1.0, 8: -2.0}", "{1: 1.0}")
    assert main([*shlex.split(line), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert (
        "the data cannot be used; frames are counted from 0; --set KEY=VALUE sets keys of the recipe" in error
    )
    assert "no formal charge for O" in error
    assert not (data / "runs" / "nonpol_example_run-123" / "metrics.jsonl").exists()


def test_wrong_flags_end_in_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--nam", "a"]) == 2
    assert "did you mean '--name'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "found"),
    [
        ("LocalCharges", "a model without polarizability, LocalCharges"),
        ("LocalSplitCharges --formal_charges_from_data --compute_polarizability False", "LocalSplitCharges"),
    ],
)
def test_a_polarizability_is_trained_by_models_that_have_one(
    model: str, found: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = (data / "config.yaml").read_text().replace("loss: {dipole", "loss: {polarizability: 1.0, dipole")
    config = config.replace("info_keys:\n      {", "info_keys:\n      {polarizability: REF_polarizability, ")
    config = config.replace("arrays_keys: {", "arrays_keys: {charges: formal_charges, ")
    (data / "config.yaml").write_text(config)
    line = NONPOLARIZABLE.replace("--model LocalCharges", f"--model {model}")
    assert main([*shlex.split(line), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "config.yaml:6: train_schedule: stages.1.loss.polarizability: found" in error
    assert found in error
    assert "LocalSplitCharges with model.polarizability = true" in error
    assert not (data / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        NONPOLARIZABLE,
        SPLIT,
        SPLIT.replace("LocalSplitCharges", "FixedChargeBaselinedMACE"),
        NONPOLARIZABLE.replace("--model LocalCharges", "--model MACE"),
        SPLIT + " --compute_polarizability --optimizer adam --ema",
    ],
    ids=["charges", "split", "fixed", "mace", "polarizability"],
)
def test_a_whole_run(line: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "--model MACE" in line or "FixedCharge" in line:
        # without learned charges there is no dipole and no multipole to train
        (data / "config.yaml").write_text(
            (data / "config.yaml")
            .read_text()
            .replace("atomic_multipoles: 100.0, dipole: 1.0, ", "")
            .replace("dipole: 10.0, ", "")
        )
    words = [*shlex.split(line), *shlex.split(SMALL)]
    assert main(words) == 0, capsys.readouterr().err
    name, tag = "nonpol_example", "nonpol_example_run-123"
    log = (data / "logs" / f"{tag}.log").read_text()
    assert "Total Training set [energy: 10, dipole components: 30, " in log
    assert "INFO: Epoch 1: loss=" in log
    assert "RMSE_E_per_atom=" in log
    assert "| RMSE E / meV / atom |" in log
    assert "loss breakdown: " in (data / "logs" / f"{tag}_debug.log").read_text()
    assert (data / "results" / f"{tag}_train.txt").read_text().count('"mode": "opt"') == 3
    for file in (
        f"{name}_stage1.safetensors",
        f"{name}_stage2.safetensors",
        f"{name}.safetensors",
        f"{tag}.toml",
    ):
        assert (data / file).is_file()
    assert (data / "checkpoints" / f"{tag}_best_stage2.pt").is_file()
    assert (data / "runs" / tag / "report" / "index.html").is_file()

    assert main(words) == 0, "the finished run is taken up"
    assert "resuming from" in (data / "logs" / f"{tag}.log").read_text()
    capsys.readouterr()
    assert main([*words, "--r_max", "3.5"]) == 2
    error = capsys.readouterr().err
    assert "start anew with --no-restart_latest" in error
    assert "  - model.r_max: 3.0 there, 3.5 here" in error
    assert "r_max = 3.0" in (data / f"{tag}.toml").read_text(), "the recipe of the run is still there"


@pytest.mark.slow
def test_charges_from_the_data(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = (data / "config.yaml").read_text()
    mapped = config.replace("arrays_keys: {", "arrays_keys: {charges: formal_charges, ")
    (data / "config.yaml").write_text(mapped)
    line = NONPOLARIZABLE.replace(
        "--model LocalCharges", "--model LocalSplitCharges --formal_charges_from_data"
    )
    folders = "--log_dir l --model_dir m --results_dir r --checkpoints_dir c --log_level ERROR"
    assert main([*shlex.split(line), *shlex.split(SMALL), *folders.split()]) == 0, capsys.readouterr().err
    for file in (
        "l/nonpol_example_run-123.log",
        "m/nonpol_example.safetensors",
        "r/nonpol_example_run-123_train.txt",
    ):
        assert (data / file).is_file()
    assert not (data / "logs").exists()
