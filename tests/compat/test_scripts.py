"""The evaluation script and the plot of the losses, with their old flags."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.io import read, write

from lsf import cli
from lsf.compat.batch_losses import fit_name, read_losses, running_mean
from tests.formats.test_package import stored
from tests.models.helpers import water

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and frames, current while the test runs."""
    stored(tmp_path)
    frames = [water(1), water(2, seed=1)]
    frames[1].info["external_field"] = np.array([0.0, 0.1, 0.0])
    frames[1].info["note"] = "kept"
    write(tmp_path / "in.xyz", frames, format="extxyz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_eval(*flags: str) -> int:
    files = ["--configs", "in.xyz", "--model", "small.safetensors", "--output", "out.xyz"]
    return cli.main(["compat", "eval", *files, *flags])


def test_labels_have_their_old_names(files: Path) -> None:
    assert run_eval("--batch_size", "1", "--return_contributions", "--compute_stress") == 0
    labelled = read(files / "out.xyz", ":")
    assert set(labelled[0].info) == {"MACE_energy", "MACE_dipole", "MACE_BO_contributions"}
    assert {"MACE_forces", "MACE_density_coefficients"} <= set(labelled[0].arrays)
    assert labelled[1].info["note"] == "kept"
    import lsf

    for atoms, original in zip(labelled, read("in.xyz", ":"), strict=True):
        original.calc = lsf.load("small.safetensors").ase_calculator()
        # a file keeps 8 digits
        assert atoms.info["MACE_energy"] == pytest.approx(original.get_potential_energy(), rel=1e-7)
        assert np.allclose(atoms.arrays["MACE_forces"], original.get_forces(), atol=1e-7)
        parts = original.calc.results
        expected = [parts["energy_atomic"], parts["energy_short_range"]]
        assert np.allclose(atoms.info["MACE_BO_contributions"], expected, rtol=1e-7)


def test_stress_of_periodic_frames_only(files: Path) -> None:
    frames = read("in.xyz", ":")
    frames[0].set_cell([12.0, 12.0, 12.0])
    frames[0].pbc = True
    write("in.xyz", frames, format="extxyz")
    assert run_eval("--compute_stress", "--pbc_handling", "mixed_periodic") == 0
    labelled = read(files / "out.xyz", ":")
    assert np.asarray(labelled[0].info["MACE_stress"]).shape == (3, 3)
    assert "MACE_stress" not in labelled[1].info


def test_prefix_and_old_model_name(files: Path) -> None:
    assert run_eval("--model", "small.model", "--info_prefix", "ML_") == 0
    assert "ML_energy" in read(files / "out.xyz").info


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--bath_size", "3"], "unknown flag --bath_size: did you mean '--batch_size'?"),
        (["--batch_size", "0"], "--batch_size 0: expected a whole number above 0"),
        (["--pbc_handling", "slap"], "pbc_handling 'slap': no such boundary method; did you mean 'slab'?"),
        (["--output", "in.xyz"], "--output in.xyz would overwrite in.xyz: give another file"),
        (["--device", "cuda:99"], "to run on the CPU: "),
        (["--external_field_key", "note"], "external_field (key 'note')"),
    ],
)
def test_wrong_flags_end_in_one_message(
    flags: list[str], message: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_eval(*flags) == 2
    assert message in capsys.readouterr().err
    assert not (files / "out.xyz").exists()


def test_charges_of_the_data_default_to_the_old_column(files: Path) -> None:
    from lsf.compat import eval_local_charges

    frames = read(files / "in.xyz", ":")
    loaded = type("Loaded", (), {})()
    loaded.recipe = type("R", (), {"heads": {"a": type("H", (), {"arrays_keys": {"charges": "q0"}})()}})()
    chosen = eval_local_charges.build_parser().parse_args(["--configs", "a", "--model", "b", "--output", "c"])
    assert eval_local_charges._charges_key(frames, chosen, loaded) == "q0"
    for atoms in frames:
        atoms.arrays["formal_oxidation_states"] = np.zeros(len(atoms))
    assert eval_local_charges._charges_key(frames, chosen, loaded) == "formal_oxidation_states"
    chosen.formal_charges_key = "mine"
    assert eval_local_charges._charges_key(frames, chosen, loaded) == "mine"


# ---------------------------------------------------------------------------------------------------
# losses

METRICS = [
    {"kind": "train", "epoch": 1, "loss": 3.0, "terms": {"forces": 0.5, "dipole": 0.25}},
    {"kind": "eval", "epoch": 1, "loss": 2.0},
    {"kind": "train", "epoch": 2, "loss": 2.0, "terms": {"forces": 0.4, "dipole": None}},
]
RESULTS = [
    {"mode": "opt", "epoch": 0, "loss": 3.0, "loss_forces": 0.5},
    {"mode": "eval", "epoch": 0, "loss": 2.0},
    {"mode": "opt", "epoch": 1, "loss": 2.5},
]
LOG = """\
2026 DEBUG: loss breakdown: forces: 0.5, dipole_per_atom: 2.5e-1
2026 DEBUG: loss breakdown: forces: 0.45
2026 INFO: Epoch 0: loss=3.0, RMSE_F=1.0 meV / A
2026 DEBUG: loss breakdown: forces: 0.4
"""


def lines(records: list[dict[str, object]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("metrics.jsonl", lines(METRICS), [(0, {"forces": 0.5, "dipole": 0.25}), (1, {"forces": 0.4})]),
        ("a_run-1_train.txt", lines(RESULTS), [(0, {"forces": 0.5}), (1, {"loss": 2.5})]),
        (
            "a_run-1_debug.log",
            LOG,
            [(0, {"forces": 0.5, "dipole_per_atom": 0.25}), (0, {"forces": 0.45}), (1, {"forces": 0.4})],
        ),
    ],
)
def test_losses_are_read(name: str, text: str, expected: list[object], tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert [(point.epoch, point.terms) for point in read_losses(path)] == expected


def plot_main(arguments: list[str]) -> int:
    return cli.main(["compat", "plot-losses", *arguments])


def test_losses_are_plotted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("water_run-3_debug.log").write_text(LOG)
    assert plot_main(["water_run-3_debug.log", "--min_epoch", "0", "--max_epoch", "1"]) == 0
    assert Path("water.png").read_bytes()[:4] == b"\x89PNG"
    Path("runs").mkdir()
    Path("runs/metrics.jsonl").write_text(lines(METRICS))
    assert plot_main(["runs", "--name", "other.png"]) == 0
    assert Path("other.png").exists()


def test_losses_that_cannot_be_plotted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    assert plot_main([str(path)]) == 2
    assert "cannot be read" in capsys.readouterr().err
    path.write_text(lines(METRICS))
    assert plot_main([str(path), "--min_epoch", "7"]) == 2
    assert "no terms of the loss in the epochs asked for" in capsys.readouterr().err
    path.write_text('{"a": 1}\n{broken\n')
    assert plot_main([str(path)]) == 2
    assert "metrics.jsonl:2: not a line of JSON" in capsys.readouterr().err


def test_names_of_fits() -> None:
    assert fit_name(Path("logs/water_run-1_debug.log")) == "water"
    assert fit_name(Path("results/water_run-1_train.txt")) == "water"
    assert fit_name(Path("runs/water_run-1/metrics.jsonl")) == "water"
    assert fit_name(Path("plain.log")) == "plain"


def test_running_mean() -> None:
    assert running_mean([1.0, 2.0]) == pytest.approx([1.0, 1.1])


@pytest.mark.parametrize(
    ("script", "command"),
    [
        ("run_train", "compat train"),
        ("eval_local_charges", "compat eval"),
        ("plot_batch_losses", "compat plot-losses"),
        ("preprocess_data", "compat preprocess"),
        ("import_mace", "import-mace"),
    ],
)
def test_scripts_are_commands(
    script: str, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{script}.py", "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(TOOLS / f"{script}.py"), run_name="__main__")
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: lsf {command} ")
