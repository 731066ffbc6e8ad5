"""Energies of free atoms: fitted, from isolated atoms, from a table or a file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from data_files import frame

from lsf.data.atomic_energies import (
    average_energies,
    energies_from_file,
    given_energies,
    isolated_energies,
    robust_energies,
)

SPECIES = (1, 6, 8)
TRUE = {1: -13.6, 6: -1030.0, 8: -2040.0}
COMPOSITIONS = ([8, 1, 1], [6, 1, 1, 1, 1], [6, 8], [6, 8, 8], [1, 1])


def molecules(noise=0.0):
    rng = np.random.default_rng(1)
    return [
        frame(numbers=numbers, energy=sum(TRUE[n] for n in numbers) + noise * rng.normal())
        for numbers in COMPOSITIONS
    ]


def messages(result):
    return "\n".join(map(str, result.problems))


def test_average_recovers_exact_sums():
    result = average_energies([*molecules(), frame(numbers=[6, 6])], SPECIES)
    assert not result.problems
    assert not result.warnings
    # sums of exactly representable sizes: least squares loses a few digits of 1e3 only
    assert result.energies == pytest.approx(TRUE, abs=1e-8)


def test_frames_without_usable_energy_do_not_count():
    odd = [frame(numbers=[6, 6]), frame(numbers=[6], energy=np.nan)]
    ignored = frame(numbers=[1], energy=1e6)
    ignored.weights["energy"] = np.zeros(())
    assert average_energies([*molecules(), *odd, ignored], SPECIES).energies == pytest.approx(TRUE, abs=1e-8)


def test_one_composition_gives_the_smallest_norm_and_a_warning():
    result = average_energies([frame(energy=-15.0), frame(energy=-15.0)], (1, 8))
    # minimum norm: proportional to the composition (2, 1), -15 = 2 * -6 + 1 * -3
    assert result.energies == pytest.approx({1: -6.0, 8: -3.0})
    assert "do not fix the atomic energies of H, O" in result.warnings[0]


def test_only_undetermined_elements_are_named():
    frames = [
        frame(numbers=[1], energy=-13.6),
        frame(numbers=[1, 1], energy=-27.0),
        frame(numbers=[6, 8], energy=-9.0),
    ]
    result = average_energies(frames, SPECIES)
    assert "atomic energies of C, O:" in result.warnings[0]


def test_without_energies_all_are_zero():
    result = average_energies([frame()], (1, 8))
    assert result.energies == {1: 0.0, 8: 0.0}
    assert "no training frame has an energy" in result.warnings[0]
    assert robust_energies([frame()], (1, 8)) == {1: 0.0, 8: 0.0}


def test_the_robust_fit_is_not_pulled_by_absurd_energies():
    frames = [*molecules(0.01), *molecules(0.01), *molecules(0.01), frame(energy=-76.0)]
    fitted = robust_energies(frames, SPECIES)
    # noise of 10 meV, and an outlier of 2 keV that would shift the plain average by far more
    assert fitted == pytest.approx(TRUE, abs=0.05)
    assert average_energies(frames, SPECIES).energies != pytest.approx(TRUE, abs=1.0)


def atom(number, energy, index=0):
    values = {} if energy is None else {"energy": energy}
    return frame(numbers=[number], index=index, **values)


def test_isolated_atoms():
    result = isolated_energies([atom(1, -13.6), atom(8, -2040.0), atom(1, -13.6)], (1, 8), "a.xyz")
    assert result.energies == {1: -13.6, 8: -2040.0}
    assert not result.problems


def test_energies_of_the_same_free_atom_may_differ_by_a_tenth_of_a_mev():
    assert not isolated_energies([atom(1, 0.0), atom(1, 0.9999e-4)], (1,), "a.xyz").problems
    assert "as in" in messages(isolated_energies([atom(1, 0.0), atom(1, 1.0001e-4)], (1,), "a.xyz"))


def test_isolated_atoms_that_cannot_be_used():
    frames = [atom(1, -13.6), atom(1, -13.0, 1), atom(8, None, 2), frame(index=3, energy=1.0)]
    text = messages(isolated_energies(frames, SPECIES, "a.xyz"))
    assert "frame 1: energy: found -13.000000 eV for H; expected -13.600000 eV as in a.xyz, frame 0" in text
    assert "frame 2: energy: found a free O without energy; expected its energy" in text
    assert "frame 3: config_type: found 3 atoms in a frame marked IsolatedAtom; expected one atom" in text
    assert "a.xyz: data.atomic_energies: found no energy for C; expected one for every element" in text
    assert "add frames of one atom with config_type=IsolatedAtom" in text


def test_energies_by_symbol():
    assert given_energies({"H": -13, "O": -2040.5}, (1, 8), "r").energies == {1: -13.0, 8: -2040.5}
    assert given_energies({"1": -13, "8": -2040.5, "C": 1.0}, (1, 8), "r").energies == {1: -13.0, 8: -2040.5}


def test_energies_by_symbol_that_cannot_be_used():
    text = messages(given_energies({"H": "low", "Ox": 1.0, "C": True}, SPECIES, "recipe small"))
    assert "recipe small: data.atomic_energies.H: found 'low'; expected an energy in eV" in text
    assert "data.atomic_energies.C: found True; expected an energy in eV" in text
    assert "data.atomic_energies.Ox: found 'Ox'; expected a chemical symbol\n    did you mean 'O" in text
    assert "found no energy for H, C, O" in text


@pytest.mark.parametrize("name", ["e0.json", "e0.toml"])
def test_energies_from_files(tmp_path, name):
    text = json.dumps({"H": -13.6, "O": -2040.0}) if name.endswith("json") else "H = -13.6\nO = -2040.0\n"
    (tmp_path / name).write_text(text)
    assert energies_from_file(tmp_path / name, (1, 8)).energies == {1: -13.6, 8: -2040.0}


def test_files_that_cannot_be_used(tmp_path):
    text = messages(energies_from_file(tmp_path / "none.json", (1,)))
    assert "none.json: data.atomic_energies: found a file that cannot be read (No such file" in text
    assert 'or one of the words "average" and "isolated"' in text
    (tmp_path / "broken.toml").write_text("H = ")
    assert "cannot be parsed" in messages(energies_from_file(tmp_path / "broken.toml", (1,)))
    (tmp_path / "list.json").write_text("[1, 2]")
    assert "found a list; expected a JSON or TOML file with a table" in messages(
        energies_from_file(tmp_path / "list.json", (1,))
    )
