"""The older preprocessing command line, and training on what it writes."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write

from lsf import cli
from lsf.compat.arguments import EXPECTED
from lsf.compat.preprocess import KEY_FLAGS, usage
from lsf.compat.table import Row, flag_rows, markdown_table
from lsf.compat.translate import translate
from lsf.data.readers.choose import read_file, read_frames
from lsf.data.readers.shards import read_index
from lsf.recipe.schema import Head
from tests.compat.conftest import Command

MACE_FLAGS = """
train_file valid_file num_process valid_fraction test_file work_dir h5_prefix r_max config_type_weights
energy_key forces_key virials_key stress_key dipole_key polarizability_key charges_key atomic_numbers
compute_statistics batch_size scaling E0s shuffle seed head_key heads config
"""
"""Flags of the preprocess_data.py of mace-torch."""

ROWS = flag_rows("preprocess")
HEADS = {"default": Head({"energy": "E", "dipole": "mu"}, {"forces": "F"})}
KEYS = "--energy_key E --forces_key F --dipole_key mu"


@pytest.fixture
def data(folder: Path) -> Path:
    """The working folder with twenty waters and two free atoms."""
    rng = np.random.default_rng(0)
    frames = []
    for place in range(20):
        atoms = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]] + rng.normal(0, 0.05, (3, 3)))
        atoms.info.update(
            E=-20.0 + rng.normal(), mu=rng.normal(size=3), config_type="w" if place % 2 else "v"
        )
        atoms.info["config_dipole_weight"] = np.ones(3)
        atoms.arrays["F"] = rng.normal(size=(3, 3))
        frames.append(atoms)
    write(folder / "train.xyz", frames, format="extxyz")
    return folder


def main(arguments: list[str]) -> int:
    return cli.main(["compat", "preprocess", *arguments])


def frames_of(folder: Path) -> list[int]:
    return [frame.index for frame in read_file(folder, HEADS).frames]


def test_every_flag_of_the_older_script_has_a_row() -> None:
    assert sorted(set(MACE_FLAGS.split()) - set(ROWS)) == []
    for row in ROWS.values():
        assert row.takes in EXPECTED
        assert row.means or row.why
        assert f"--{row.name} " in usage()
    page = Path(__file__).parents[2] / "docs" / "migration.md"
    assert markdown_table("preprocess") in page.read_text(encoding="utf-8"), "run tools/make_flag_table.py"


def test_splits_weights_and_statistics(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = (
        f"--train_file train.xyz --valid_fraction 0.25 --test_file train.xyz --h5_prefix p/a_ {KEYS} "
        "--r_max 3 --config_type_weights '{\"w\": 3.0}' --compute_statistics --seed 5 "
        '--E0s "{1: -1.0, 8: -12.0}"'
    )
    assert main(shlex.split(line)) == 0, capsys.readouterr().err
    train, valid, test = (frames_of(data / "p" / f"a_{name}") for name in ("train", "val", "test"))
    assert len(train) == 15
    assert len(valid) == 5
    assert sorted(train + valid) == test == list(range(20))
    assert train != sorted(train), "shuffled"
    weights = {f.config_type: float(f.weights["energy"]) for f in read_file(data / "p/a_test", HEADS).frames}
    assert weights == {"v": 1.0, "w": 3.0}
    index = read_index(data / "p" / "a_train")["statistics"]
    assert (index["avg_num_neighbors"], index["atoms"], index["species"]) == (2.0, 45, [1, 8])
    found = json.loads((data / "p" / "a_statistics.json").read_text())
    assert found["atomic_energies"] == {"H": -1.0, "O": -12.0}
    kept = [frame for frame in read_frames("train.xyz", HEADS) if frame.index in train]
    energies = [(float(frame.values["energy"]) + 14.0) / 3 for frame in kept]
    assert found["mean"] == pytest.approx(np.mean(energies))
    forces = np.concatenate([frame.values["forces"] for frame in kept])
    assert found["std"] == pytest.approx(np.sqrt(np.mean(forces**2)))
    again = shlex.split(line.replace("p/a_", "q/"))
    assert main(again) == 0
    assert frames_of(data / "q" / "train") == train


def test_order_kept_files_given_and_other_scalings(data: Path) -> None:
    line = f"--train_file train.xyz --valid_file train.xyz --shuffle False {KEYS} --compute_statistics"
    for scaling, expected in (("std_scaling", None), ("no_scaling", 1.0)):
        assert main(shlex.split(f"{line} --scaling {scaling} --work_dir {scaling}")) == 0
        found = json.loads((data / scaling / "statistics.json").read_text())
        assert expected is None or found["std"] == expected
    assert (
        frames_of(data / "no_scaling" / "train") == frames_of(data / "no_scaling" / "val") == list(range(20))
    )
    assert not (data / "no_scaling" / "test").exists()


def test_isolated_atoms_stay_in_training_and_win(data: Path) -> None:
    frames = read("train.xyz", ":")[:6]
    for symbol, energy in (("H", -2.0), ("O", -15.0)):
        free = Atoms(symbol, info={"E": energy, "config_type": "IsolatedAtom"})
        free.arrays["F"] = np.zeros((1, 3))
        frames.insert(0, free)
    write("free.xyz", frames, format="extxyz")
    assert main(shlex.split(f"--train_file free.xyz --valid_fraction 0.5 {KEYS} --compute_statistics")) == 0
    assert {0, 1} <= set(frames_of(data / "train"))
    assert json.loads((data / "statistics.json").read_text())["atomic_energies"] == {"H": -2.0, "O": -15.0}
    table = translate(
        shlex.split("--name a --config config.yaml --train_file train --model LocalCharges")
    ).table
    assert table["data"]["atomic_energies"] == "isolated"


def test_run_train_takes_shards_and_statistics(data: Path, command: Command) -> None:
    assert main(shlex.split(f"--train_file train.xyz {KEYS} --compute_statistics")) == 0
    line = (
        "--name a --config config.yaml --train_file train --valid_file val --statistics_file statistics.json"
    )
    table = command(f"{line} --model ScaleShiftMACE").table
    found = json.loads((data / "statistics.json").read_text())
    assert table["data"]["atomic_energies"] == found["atomic_energies"]
    model = table["model"]
    assert (model["avg_num_neighbors"], model["scale"], model["shift"]) == (2.0, found["std"], found["mean"])
    given = command(
        f"{line} --model ScaleShiftMACE --E0s average --avg_num_neighbors 3 --std 2 --mean 1 "
        "--compute_avg_num_neighbors False"
    ).table
    assert given["data"]["atomic_energies"] == "average"
    assert [given["model"][key] for key in ("avg_num_neighbors", "scale", "shift")] == [3.0, 2.0, 1.0]
    # tables as texts, as the older script wrote them
    (data / "statistics.json").write_text(json.dumps({**found, "atomic_energies": "{1: -1.5, 8: -13.0}"}))
    assert command(f"{line} --model MACE").table["data"]["atomic_energies"] == {"H": -1.5, "O": -13.0}
    (data / "statistics.json").write_text("{")
    with pytest.raises(Exception, match=r"--statistics_file: found statistics\.json, which cannot be read"):
        command(f"{line} --model MACE")


@pytest.mark.parametrize(
    "row", [row for row in ROWS.values() if row.kind == "ignored"], ids=lambda row: row.name
)
def test_flags_without_effect_say_so(row: Row, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [*shlex.split(f"--train_file train.xyz {KEYS}"), f"--{row.name}", row.example]
    assert main(line) == 0
    assert (data / "train").is_dir()
    assert f"--{row.name}: no effect: {row.why}" in capsys.readouterr().err


def test_flags_of_run_train_in_the_yaml_are_passed_over(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = (data / "config.yaml").read_text().replace("REF_energy", "E").replace("REF_forces", "F")
    (data / "config.yaml").write_text(config)
    assert main(["--train_file", "train.xyz", "--config", "config.yaml"]) == 0
    assert "train_schedule: no effect: it belongs to run_train.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", r"--train_file: found nothing; expected the file"),
        ("--train_file train.xyz", r"--heads: found nothing; expected the keys of the data file"),
        (f"--trian_file train.xyz {KEYS}", r"unknown flag.*\n.*did you mean '--train_file'"),
        (f"--train_file trian.xyz {KEYS}", r"no such file"),
        (f"--train_file train.xyz {KEYS} --scaling std", r"--scaling: found 'std'.*\n.*std_scaling"),
        (f"--train_file train.xyz {KEYS} --valid_fraction 1", r"expected a number from 0 to below 1"),
        (f"--train_file train.xyz {KEYS} --config_type_weights '{{\"a\": -1}}'", r"a number, at least 0"),
        (f"--train_file train.xyz {KEYS} --E0s '{{1: -1.0}}'", r"no energy for O"),
        (f"--train_file train.xyz {KEYS} --E0s nothing.json", r"a file that cannot be read"),
        (f"--train_file train.xyz {KEYS} --fermi_level_key x", r"local-source models have no Fermi level"),
        (f"--train_file train.xyz {KEYS} --elec_temp_key x", r"no model here depends on an electronic"),
        (
            f"--train_file train.xyz {KEYS} --heads \"{{'default': {{'info_keys': {{'energy': 'E'}}}}}}\"",
            r"--energy_key: found both it and --heads",
        ),
    ],
)
def test_wrong_flags_end_in_one_message(
    line: str, message: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(shlex.split(line)) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (data / "train").exists()


def test_every_key_flag_names_its_property() -> None:
    assert {name for name in ROWS if name.endswith("_key") and ROWS[name].kind == "script"} == set(KEY_FLAGS)


def test_the_tool_passes_the_old_flags_on(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = str(Path(__file__).parents[2] / "tools" / "preprocess_data.py")
    for arguments, status in ((["--help"], 0), (shlex.split(f"--train_file train.xyz {KEYS}"), 0)):
        monkeypatch.setattr(sys, "argv", [tool, *arguments])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(tool, run_name="__main__")
        assert caught.value.code == status
    assert "usage: lsf compat preprocess" in capsys.readouterr().out
    assert (data / "train" / "index.json").is_file()
