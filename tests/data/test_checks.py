"""Every check finds what it is for, says so, and can be told to accept it."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
from data_files import frame

from lsf.data import checks
from lsf.data.charges import charges_of
from lsf.recipe.schema import Checks

STRICT = Checks()


def only(problems):
    assert len(problems) == 1, problems
    return str(problems[0])


# ---------------------------------------------------------------------------------------------------
# structures


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_positions_and_cells_must_be_finite(bad):
    positions = np.zeros((3, 3))
    positions[1, 2] = bad
    text = only(checks.structure_problems(frame(positions=positions), STRICT))
    assert text == "a.xyz, frame 0: positions: found NaN or infinity for atom 1; expected finite numbers"
    cell = np.eye(3) * 9
    cell[2, 0] = bad
    assert "cell: found NaN or infinity for lattice vector 2" in only(
        checks.structure_problems(frame(cell=cell), STRICT)
    )


@pytest.mark.parametrize(
    ("pbc", "cell"),
    [
        ("TTT", np.zeros((3, 3))),
        ("TTF", [[5, 0, 0], [0, 0, 0], [0, 0, 5]]),
        ("TTT", [[5, 0, 0], [0, 5, 0], [5, 5, 0]]),
    ],
)
def test_periodic_directions_need_lattice_vectors(pbc, cell):
    text = only(checks.structure_problems(frame(cell=cell, pbc=pbc), STRICT))
    assert f"pbc = {' '.join(pbc)} with the cell" in text
    assert "expected independent lattice vectors where periodic" in text


def test_zero_vectors_along_open_directions_are_fine():
    assert not checks.structure_problems(frame(cell=[[20, 0, 0], [0, 20, 0], [0, 0, 0]], pbc="TTF"), STRICT)


def test_atoms_on_top_of_each_other():
    positions = [[0.0, 0, 0], [1, 0, 0], [1.2, 0, 0]]
    close = frame(positions=positions)
    text = only(checks.structure_problems(close, STRICT))
    assert "found atoms 1 (H) and 2 (H) 0.200 Å apart; expected at least 0.3 Å" in text
    assert "set data.checks.min_distance to" in text
    assert not checks.structure_problems(close, Checks(min_distance=0.1))
    assert not checks.structure_problems(close, Checks(min_distance=0.0))


def test_atoms_that_meet_across_the_cell():
    positions = [[0.05, 1, 1], [4.9, 1, 1], [2.5, 2, 2]]
    periodic = frame(positions=positions, cell=np.eye(3) * 5, pbc="TTT")
    assert "atoms 0 (O) and 1 (H) 0.150 Å apart" in only(checks.structure_problems(periodic, STRICT))
    thin = frame(numbers=[1], positions=[[0, 0, 0]], cell=np.diag([0.2, 5, 5]), pbc="TTT")
    assert "atom 0 (H) 0.200 Å from its own periodic image" in only(checks.structure_problems(thin, STRICT))


def test_low_density():
    dilute = frame(cell=np.eye(3) * 10, pbc="TTT")
    text = only(checks.density_problems([dilute], STRICT))
    assert "found 333.3 Å³ per atom (1000 Å³, 3 atoms, config_type Default) with pbc = T T T" in text
    assert "expected at most 100 Å³ per atom in a fully periodic frame" in text
    assert "set data.checks.allow_low_density to true" in text
    assert not checks.density_problems([dilute], Checks(allow_low_density=True))
    assert not checks.density_problems([dilute], Checks(max_volume_per_atom=334.0))
    assert not checks.density_problems([attrs.evolve(dilute, pbc=np.array([True, True, False]))], STRICT)


# ---------------------------------------------------------------------------------------------------
# labels


def test_dipole_without_weight():
    silent = frame(given=False, dipole=[1, 2, 3])
    text = only(checks.dipole_weight_problems([silent, frame(dipole=[1, 2, 3]), frame(given=False)], STRICT))
    assert "dipole: found a dipole without config_dipole_weight; expected three weights" in text
    assert '"0 0 1" for a slab with normal z' in text
    assert not checks.dipole_weight_problems([silent], Checks(allow_dipole_without_weight=True))


def test_dipoles_along_periodic_directions_are_remarked():
    cell = np.eye(3) * 5
    bulk = attrs.evolve(
        frame(cell=cell, pbc="TTT", given=False, dipole=[1, 2, 3]), weights={"dipole": np.zeros(3)}
    )
    weighted = frame(cell=cell, pbc="TTF", dipole=[1, 2, 3])
    silent, doubtful = checks.dipole_warnings("train", [bulk, weighted])
    assert "train: the dipoles of 1 of 2 frames are not used" in silent
    assert "train: 1 of 2 frames give weight to a dipole along a periodic direction" in doubtful
    assert not checks.dipole_warnings("train", [frame(dipole=[1, 2, 3]), frame()])


def test_formal_charges_per_element():
    water, salt = frame(total_charge=0.0), frame(numbers=[11, 17], index=1, total_charge=0.0)
    rule = {"H": 1.0, "O": -2.0}
    text = only(checks.charge_problems([water, salt], rule, STRICT))
    assert "a.xyz, frame 1: formal_charges: found no formal charge for Na, Cl; expected a formal" in text
    assert "add Na, Cl to model.formal_charges, which has H, O" in text
    assert "set data.checks.allow_missing_formal_charges to true" in text
    assert not checks.charge_problems([water, salt], rule, Checks(allow_missing_formal_charges=True))
    np.testing.assert_array_equal(charges_of(water.numbers, water.values, rule)[0], [-2.0, 1.0, 1.0])
    assert not checks.charge_problems([salt], None, STRICT)


def test_formal_charges_from_the_data():
    with_charges = frame(charges=[-2, 1, 1], total_charge=0)
    assert not checks.charge_problems([with_charges], "from_data", STRICT)
    text = only(checks.charge_problems([with_charges, frame(index=4)], "from_data", STRICT))
    assert "frame 4: formal_charges: found no formal charges in the data" in text
    assert "map the column that holds them: heads.<name>.arrays_keys.charges" in text
    charges, lacking = charges_of(np.array([1, 1]), {}, "from_data")
    assert not charges.any()
    assert lacking is not None


def test_formal_charges_must_add_up_to_the_total_charge():
    rule = {"H": 1.0, "O": -2.0}
    ion = frame(numbers=[8, 1], total_charge=0.0)
    text = only(checks.charge_problems([ion], rule, STRICT))
    assert "total_charge: found formal charges that add up to -1 e; expected 0 e, the total_charge" in text
    assert "set data.checks.allow_total_charge_mismatch to true" in text
    assert not checks.charge_problems([ion], rule, Checks(allow_total_charge_mismatch=True))
    # rounding of a file with seven digits is no mismatch
    assert not checks.charge_problems([frame(numbers=[8, 1], total_charge=-1.0 + 5e-7)], rule, STRICT)
    # a frame that does not say its charge is not judged
    assert not checks.charge_problems([frame(numbers=[8, 1])], rule, STRICT)


def test_labels_must_be_numbers():
    forces = np.zeros((3, 3))
    forces[2, 0] = np.nan
    bad = frame(energy=np.inf, forces=forces, external_field=[0, 0, np.nan])
    texts = [str(problem) for problem in checks.label_problems([bad], 1, STRICT)]
    assert "energy: found NaN or infinity; expected finite numbers" in texts[0]
    assert "forces: found NaN or infinity at atom 2" in texts[1]
    assert "set data.checks.drop_nonfinite_labels to true" in texts[1]
    assert "external_field: found NaN" in texts[2]  # an input cannot be left out
    assert "drop" not in texts[2]
    accepted = checks.tolerated(bad, Checks(drop_nonfinite_labels=True), 1)
    assert set(accepted.values) == {"external_field"}
    assert accepted.weights["energy"] == accepted.weights["forces"] == 0.0


def test_absurd_forces():
    forces = np.zeros((3, 3))
    forces[1, 1] = -400.0
    text = only(checks.label_problems([frame(forces=forces)], 1, STRICT))
    assert "forces: found 400 eV/Å on atom 1 (H); expected components up to 300 eV/Å" in text
    assert not checks.label_problems([frame(forces=forces)], 1, Checks(max_force=None))
    assert not checks.label_problems([frame(forces=forces)], 1, Checks(max_force=401.0))


def test_multipoles_with_too_few_columns():
    charges_only = frame(energy=1.0, atomic_multipoles=np.ones((3, 1)))
    text = only(checks.label_problems([charges_only], 1, STRICT))
    assert "atomic_multipoles: found 1 columns; expected at least 4: 0 ≤ l ≤ 1" in text
    assert "set data.checks.drop_short_multipoles to true" in text
    assert not checks.label_problems([charges_only], 0, STRICT)
    assert set(checks.tolerated(charges_only, Checks(drop_short_multipoles=True), 1).values) == {"energy"}
    assert checks.tolerated(charges_only, STRICT, 1) is charges_only


def test_absurd_energies():
    energies = {8: -10.0, 1: -2.0}
    good, bad = frame(energy=-20.0), frame(index=1, energy=-14.0 * 27.2)
    text = only(checks.energy_problems([good, bad], energies, STRICT))
    assert "frame 1: energy: found an energy -122.3 eV per atom from the sum of the atomic energies" in text
    assert "expected within 20 eV per atom" in text
    assert not checks.energy_problems([bad], energies, Checks(max_energy_per_atom_deviation=None))
    # elements without atomic energy are another check's business
    assert not checks.energy_problems([frame(numbers=[6], energy=-1e6)], energies, STRICT)


def test_unknown_elements():
    text = only(checks.species_problems([frame(), frame(numbers=[6, 17, 1], index=1)], [1, 8]))
    assert "frame 1: species: found C, Cl; expected elements the model was trained on: H, O" in text


# ---------------------------------------------------------------------------------------------------
# duplicates


def test_duplicates_name_both_frames():
    first, again, other = frame(), frame(index=7), frame(index=8, positions=np.ones((3, 3)))
    text = only(checks.duplicate_problems({"train": [first, other], "test": [again]}, STRICT))
    assert "a.xyz, frame 7 (test): duplicate: found the same structure as a.xyz, frame 0 (train)" in text
    assert "set data.checks.allow_duplicates to true" in text
    assert len(checks.duplicate_problems({"train": [first, again]}, STRICT)) == 1
    assert not checks.duplicate_problems({"train": [first, again]}, Checks(allow_duplicates=True))


@pytest.mark.parametrize(
    "change",
    [
        {"total_charge": 1.0},
        {"external_field": [0, 0, 0.1]},
        {"charges": [-2, 1, 1]},
        {"numbers": (8, 1, 3)},
        {"cell": np.eye(3) * 9},
        {"cell": np.eye(3) * 9, "pbc": "TTT"},
        {"positions": np.arange(9.0).reshape(3, 3) + 1e-4},
    ],
)
def test_whatever_a_model_sees_makes_frames_different(change):
    assert not checks.duplicate_problems({"train": [frame(), frame(**change)]}, STRICT)


def test_two_test_sets_may_overlap():
    assert not checks.duplicate_problems({"train": [], "near": [frame()], "all": [frame()]}, STRICT)
    assert checks.duplicate_problems({"train": [], "valid": [frame()], "all": [frame()]}, STRICT)
    assert checks.duplicate_problems({"train": [], "all": [frame(), frame(index=1)]}, STRICT)
