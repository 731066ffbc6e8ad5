"""``lsf potential``: files that agree with the functions behind them, and one clear error for bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc100, molecule
from ase.io import write
from ase.io.cube import read_cube

import lsf
from lsf import cli
from lsf.electrostatics.potential.structure import ChargedStructure
from lsf.electrostatics.potential.values import potential_at
from tests.builders import model_file, small_recipe


def stored(folder: Path, boundary: str = "auto", model: str = "FixedChargeBaselinedMACE") -> Path:
    options: dict[str, Any] = {"use": model}
    if model == "FixedChargeBaselinedMACE":
        options["formal_charges"] = {"H": 0.4, "O": -0.8, "Na": 1.0, "Cl": -1.0}
    settings = {"boundary": boundary, "multipoles_max_l": 0, "smearing_width": 0.8}
    recipe = small_recipe(options, settings, {"external_field": "field"}, name="salt", seed=0)
    return model_file(folder, recipe, name="salt")


def slab() -> Atoms:
    atoms = fcc100("Na", (2, 2, 2), a=4.2, vacuum=6.0)
    atoms.numbers[1::2] = 17
    atoms.positions[::2, 2] += 0.4
    atoms.pbc = (True, True, False)
    atoms.info.clear()
    return atoms


STRUCTURES = {
    "crystal": lambda: bulk("NaCl", "rocksalt", a=5.6),
    "slab": slab,
    "molecule": lambda: molecule("H2O"),
}


def draw(folder: Path, atoms: Atoms, *arguments: str, boundary: str = "auto") -> int:
    write(folder / "s.xyz", atoms)
    model = stored(folder, boundary)
    return cli.main(
        ["potential", str(model), str(folder / "s.xyz"), "--out", str(folder / "out"), *arguments]
    )


def structure(atoms: Atoms, cell: np.ndarray | None = None) -> ChargedStructure:
    charges = np.array([{"H": 0.4, "O": -0.8, "Na": 1.0, "Cl": -1.0}[symbol] for symbol in atoms.symbols])
    return ChargedStructure(
        torch.from_numpy(charges[:, None]),
        torch.from_numpy(atoms.positions),
        torch.from_numpy(atoms.cell.array if cell is None else cell),
        np.array(atoms.pbc),
    )


@pytest.mark.parametrize("name", STRUCTURES)
def test_files_hold_what_the_functions_give(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    atoms = STRUCTURES[name]()
    assert draw(tmp_path, atoms, "--spacing", "1.2") == 0
    expected = ["lines.png", "lines.csv", "slices.png"]
    if name != "molecule":
        expected += ["planar_average.png", "planar_average.csv"]
    expected += ["potential.cube", "density.cube"]
    folder = tmp_path / "out"
    assert capsys.readouterr().out.split() == [str(folder / file) for file in expected]
    assert sorted(file.name for file in folder.iterdir()) == sorted(expected)
    settings = lsf.load(tmp_path / "salt.safetensors").recipe.electrostatics

    with open(folder / "potential.cube") as file:
        cube = read_cube(file)
    origin, steps = cube["origin"], cube["atoms"].cell.array / np.array(cube["data"].shape)[:, None]
    # the file keeps 6 digits of lengths in Bohr and of values
    np.testing.assert_allclose(cube["atoms"].positions, atoms.positions, atol=1e-5)
    index = (1, 2, 3)
    point = torch.from_numpy(origin + index @ steps)[None]
    value = float(potential_at(structure(atoms), point, settings).potential[0])
    assert cube["data"][index] == pytest.approx(value, abs=2e-4)

    header, *rows = (folder / "lines.csv").read_text().splitlines()
    assert header == "line,distance_A,potential_V,field_V_per_A"
    assert len(rows) == 3 * 400
    if name == "crystal":
        first, last = (np.array(row.split(",")[1:], dtype=float) for row in (rows[0], rows[399]))
        assert first[1:] == pytest.approx(last[1:], abs=1e-7)  # a whole period


def test_lines_between_atoms_and_points(tmp_path: Path) -> None:
    atoms = molecule("H2O")
    lines = ["--line", "0:1", "--line=-1,0,0:2.5,0.5,-1"]
    assert draw(tmp_path, atoms, "--no-cube", "--slice", "c=0.3", "--spacing", "1", *lines) == 0
    assert not list((tmp_path / "out").glob("*.cube"))
    rows = [row.split(",") for row in (tmp_path / "out" / "lines.csv").read_text().splitlines()]
    settings = lsf.load(tmp_path / "salt.safetensors").recipe.electrostatics
    oxygen = potential_at(structure(atoms), torch.from_numpy(atoms.positions[:1]), settings)
    assert float(rows[1][2]) == pytest.approx(float(oxygen.potential[0]), abs=1e-7)
    bond = atoms.positions[1] - atoms.positions[0]
    along = float(oxygen.electric_field[0] @ torch.from_numpy(bond / np.linalg.norm(bond)))
    assert float(rows[1][3]) == pytest.approx(along, abs=1e-7)


def test_a_molecule_in_a_box_and_a_smeared_probe(tmp_path: Path) -> None:
    arguments = ["--spacing", "1.5", "--probe-width", "0.5", "--slice", "a"]
    assert draw(tmp_path, molecule("H2O"), *arguments, boundary="mixed_periodic") == 0
    with open(tmp_path / "out" / "potential.cube") as file:
        cube = read_cube(file)
    steps = cube["atoms"].cell.array / np.array(cube["data"].shape)[:, None]
    point = torch.from_numpy(cube["origin"] + (2, 3, 1) @ steps)[None]
    settings = lsf.load(tmp_path / "salt.safetensors").recipe.electrostatics
    boxed = structure(molecule("H2O"), 30.0 * np.eye(3))
    value = float(potential_at(boxed, point, settings, probe_width=0.5).potential[0])
    assert cube["data"][2, 3, 1] == pytest.approx(value, abs=2e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--line", "0"], "--line '0': expected FROM:TO, for example 0:3 (atoms)"),
        (["--line", "0:9"], "--line '0:9': there is no atom 9; atoms are counted 0 … 2"),
        (["--line", "0:1,2"], "--line '0:1,2': '1,2' is neither the number of an atom nor x,y,z in Å"),
        (["--line", "1:1"], "--line '1:1': begins and ends at the same place"),
        (["--slice", "d"], "--slice 'd': expected a, b or c, or with a fraction of the grid, c=0.25"),
        (["--slice", "a=1.5"], "--slice 'a=1.5': the fraction must lie between 0 and 1"),
        (["--spacing", "0"], "--spacing 0: expected a positive number of Å"),
        (["--probe-width", "nan"], "--probe-width nan: expected a number of Å, 0 for a point charge"),
        (["--spacing", "0.01"], "points, more than 4000000: try --spacing 0."),
        (["--frame", "3"], "there is no frame 3; frames are counted from 0"),
    ],
)
def test_bad_arguments_are_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert draw(tmp_path, molecule("H2O"), *arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("error: ")
    assert captured.out == ""
    assert not (tmp_path / "out").exists()


def test_bad_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = stored(tmp_path)
    assert cli.main(["potential", str(model), str(tmp_path / "none.xyz")]) == 2
    assert "none.xyz: there is no such file" in capsys.readouterr().err
    (tmp_path / "bad.xyz").write_text("3\n\nO 0 0 0\n")
    assert cli.main(["potential", str(model), str(tmp_path / "bad.xyz")]) == 2
    assert "bad.xyz: not a structure ASE can read" in capsys.readouterr().err
    write(tmp_path / "gold.xyz", Atoms("Au"))
    assert cli.main(["potential", str(model), str(tmp_path / "gold.xyz")]) == 2
    assert "Au" in capsys.readouterr().err
    write(tmp_path / "w.xyz", molecule("H2O"))
    short_range = stored(tmp_path, model="MACE")
    assert cli.main(["potential", str(short_range), str(tmp_path / "w.xyz")]) == 2
    assert "salt.safetensors is a MACE model without charges: it has no potential" in capsys.readouterr().err


def test_the_command_line_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import lsf.commands.potential

    calls = []
    monkeypatch.setattr(lsf.commands.potential, "draw_potential", lambda *arguments: calls.append(arguments))
    assert cli.main(["potential", "m", "s"]) == 0
    assert calls[0][:6] == (Path("m"), Path("s"), lsf.commands.potential.Request(), None, 0, "auto")
    arguments = ["--out", "o", "--frame", "-1", "--line", "0:1", "--slice", "a", "--slice", "b=0.1"]
    more = ["--spacing", "0.5", "--probe-width", "1", "--no-cube", "--device", "cpu"]
    assert cli.main(["potential", "m", "s", *arguments, *more]) == 0
    request = lsf.commands.potential.Request(("0:1",), ("a", "b=0.1"), 0.5, 1.0, False)
    assert calls[1][2:6] == (request, Path("o"), -1, "cpu")
