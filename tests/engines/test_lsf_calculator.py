"""The ASE calculator: all outputs, a cache that sees fields and charges, dynamics that conserve energy."""

import numpy as np
import pytest
from ase import units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.md.verlet import VelocityVerlet

import lsf
from lsf.errors import DataError, LsfError
from tests.engines import engines
from tests.formats.test_package import stored
from tests.models.helpers import triclinic_salt, water


@pytest.fixture
def loaded(tmp_path):
    return lsf.load(stored(tmp_path)[1])


def test_forces_dipole_and_field_are_consistent(loaded):
    atoms = water(2)
    atoms.calc = loaded.ase_calculator()
    energy, dipole = atoms.get_potential_energy(), atoms.get_dipole_moment()
    moved = atoms.copy()
    moved.calc = loaded.ase_calculator()
    values = []
    for sign in (1, -1):
        moved.positions = atoms.positions
        moved.positions[1, 0] += sign * 1e-4
        values.append(moved.get_potential_energy())
    assert atoms.get_forces()[1, 0] == pytest.approx(-(values[0] - values[1]) / 2e-4, abs=1e-6)
    atoms.calc.set_electric_field([0.0, 0.1, 0.0])
    # the physical field lowers the energy along the dipole: E(F) = E(0) - mu · F
    assert atoms.get_potential_energy() - energy == pytest.approx(-0.1 * dipole[1], abs=1e-9)
    assert atoms.get_charges().sum() == pytest.approx(0.0, abs=1e-12)


def test_a_changed_field_in_info_is_never_served_from_the_cache(loaded):
    atoms = water(1)
    atoms.calc = loaded.ase_calculator()
    plain = atoms.get_potential_energy()
    atoms.info["external_field"] = np.array([0.0, 0.0, 0.2])
    first = atoms.get_potential_energy()
    atoms.info["external_field"][2] = 0.4
    second = atoms.get_potential_energy()
    dipole = atoms.get_dipole_moment()
    assert first - plain == pytest.approx(0.2 * dipole[2], abs=1e-9)
    assert second - plain == pytest.approx(0.4 * dipole[2], abs=1e-9)


def test_results_are_reused_while_nothing_changes(loaded):
    atoms = water(1)
    atoms.calc = loaded.ase_calculator()
    atoms.get_potential_energy()
    before = atoms.calc.results
    atoms.get_forces()
    assert atoms.calc.results is before


def test_properties_on_request(loaded):
    atoms = water(1)
    calculator = atoms.calc = loaded.ase_calculator()
    assert calculator.get_property("born_charges", atoms).shape == (3, 3, 3)
    assert calculator.get_property("potential", atoms).shape == (3,)
    assert calculator.get_property("hessian", atoms).shape == (9, 9)
    assert calculator.results["energy_coulomb"] != 0.0
    with pytest.raises(PropertyNotImplementedError, match="fully periodic"):
        atoms.get_stress()
    with pytest.raises(PropertyNotImplementedError, match=r"model\.polarizability = true"):
        calculator.get_property("polarizability", atoms)


def test_bad_input_ends_in_one_clear_message(loaded):
    atoms = triclinic_salt()
    atoms.calc = loaded.ase_calculator()
    with pytest.raises(DataError, match="Na"):
        atoms.get_potential_energy()
    periodic = water(1)
    periodic.set_cell(np.eye(3) * 6)
    periodic.pbc = True
    periodic.calc = loaded.ase_calculator()
    with pytest.raises(DataError, match="realspace"):
        periodic.get_potential_energy()
    with pytest.raises(LsfError, match="3 finite numbers"):
        loaded.ase_calculator(electric_field=[1.0, 2.0])
    with pytest.raises(LsfError, match="cuda"):
        loaded.ase_calculator(device="cuda:7")


def test_dynamics_conserve_energy(loaded):
    atoms = water(2)
    atoms.calc = loaded.ase_calculator()
    rng = np.random.default_rng(0)
    atoms.set_momenta(rng.normal(size=(6, 3)) * np.sqrt(atoms.get_masses() * 0.01)[:, None])
    start = atoms.get_total_energy()
    VelocityVerlet(atoms, 0.1 * units.fs).run(20)
    # an untrained model is stiff; Verlet's error at 0.1 fs is far below this
    assert atoms.get_total_energy() == pytest.approx(start, abs=2e-3)


def test_formal_charges_are_those_of_the_atoms_where_the_model_reads_them(tmp_path):
    atoms = water(2)
    atoms.calc = engines.stored(tmp_path, "realspace", "from_data").ase_calculator()
    first = atoms.get_potential_energy()
    # transfer keeps the sum of formal charges
    assert atoms.get_charges().sum() == pytest.approx(0.0, abs=1e-12)
    atoms.arrays["formal_charges"][:] = np.where(atoms.numbers == 1, 0.6, -1.0)
    assert atoms.get_charges().sum() == pytest.approx(0.4, abs=1e-12)
    assert abs(atoms.get_potential_energy() - first) > 1e-3
    del atoms.arrays["formal_charges"]
    with pytest.raises(DataError, match="formal_charges"):
        atoms.get_potential_energy()
