"""The calculator of given multipoles: derivatives, no stale results, kept lists, clear errors."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from lsf.electrostatics.plan import cache as plan_cache
from lsf.electrostatics.settings import Electrostatics
from lsf.engines.ase import coulomb
from lsf.engines.ase.coulomb import CoulombCalculator
from lsf.errors import BoundaryError, LsfError
from lsf.units import COULOMB_CONSTANT

TRICLINIC = np.array([[7.1, 0.3, -0.2], [1.9, 6.4, 0.4], [-1.1, 0.8, 8.2]])
KINDS = {
    "realspace": (np.zeros((3, 3)), (False, False, False)),
    "pbc": (TRICLINIC, (True, True, True)),
    "slab": (TRICLINIC, (True, False, True)),
    "molecule_in_box": (np.eye(3) * 14.0, (False, False, False)),
}


def charged(boundary: str = "pbc", max_l: int = 1, n_atoms: int = 4) -> Atoms:
    """Neutral atoms with random multipoles, periodic as the boundary method asks."""
    cell, pbc = KINDS[boundary]
    rng = np.random.default_rng(0)
    multipoles = rng.normal(size=(n_atoms, (max_l + 1) ** 2)) * 0.5
    multipoles[:, 0] -= multipoles[:, 0].mean()
    atoms = Atoms(f"O{n_atoms}", positions=rng.uniform(0, 5, (n_atoms, 3)), cell=cell, pbc=pbc)
    atoms.set_array("multipoles", multipoles)
    return atoms


def numeric_force(atoms: Atoms, atom: int, axis: int, step: float = 1e-3) -> float:
    """Central difference of the energy."""
    energies = []
    for sign in (1.0, -1.0):
        moved = atoms.copy()
        moved.calc = atoms.calc
        moved.positions[atom, axis] += sign * step
        energies.append(moved.get_potential_energy())
    return (energies[1] - energies[0]) / (2.0 * step)


def point_charges(charges: Any, distance: float = 20.0) -> Atoms:
    atoms = Atoms("Na2", positions=[[0, 0, 0], [distance, 0, 0]])
    atoms.set_array("multipoles", np.asarray(charges, dtype=float))
    return atoms


def test_two_distant_charges() -> None:
    atoms = point_charges([1.0, -0.5])
    atoms.calc = CoulombCalculator(
        max_l=0, smearing_width=1.0, include_self_interaction=False, boundary="auto"
    )
    # 20 Å apart Gaussians of 1 Å act as points: erfc(10) = 2e-45
    assert atoms.get_potential_energy() == pytest.approx(-0.5 * COULOMB_CONSTANT / 20.0, rel=1e-14)
    assert atoms.get_forces()[0] == pytest.approx([0.5 * COULOMB_CONSTANT / 400.0, 0.0, 0.0], rel=1e-13)
    assert atoms.get_charges() == pytest.approx([1.0, -0.5])
    assert atoms.get_dipole_moment() == pytest.approx([-10.0, 0.0, 0.0])
    potential = atoms.calc.get_property("potential", atoms)
    assert potential == pytest.approx([-0.5 * COULOMB_CONSTANT / 20.0, COULOMB_CONSTANT / 20.0], rel=1e-13)


@pytest.mark.parametrize("max_l", [0, 1, 2])
@pytest.mark.parametrize("boundary", KINDS)
def test_forces_are_derivatives_of_the_energy(boundary: str, max_l: int) -> None:
    atoms = charged(boundary, max_l)
    atoms.info["external_field"] = [0.1, -0.2, 0.05]
    atoms.calc = CoulombCalculator(max_l=max_l, smearing_width=1.0, boundary=boundary)
    forces = atoms.get_forces()
    for axis in range(3):
        # central differences of 1e-3 Å: relative 1e-6 of fields that vary over 1 Å
        assert forces[1, axis] == pytest.approx(numeric_force(atoms, 1, axis), abs=2e-5)


@pytest.mark.parametrize("field", [[0.0, 0.0, 0.0], [0.1, -0.2, 0.05]])
def test_stress_is_the_derivative_by_strain(field: list[float]) -> None:
    atoms = charged("pbc")
    atoms.info["external_field"] = field
    atoms.calc = CoulombCalculator(smearing_width=1.0, boundary="pbc")
    stress = atoms.get_stress(voigt=False)
    strain = np.array([[0.3, 0.2, -0.1], [0.2, -0.4, 0.5], [-0.1, 0.5, 0.2]]) * 1e-4
    energies = []
    for sign in (1.0, -1.0):
        moved = atoms.copy()
        moved.set_cell(atoms.cell @ (np.eye(3) + sign * strain), scale_atoms=True)
        moved.calc = CoulombCalculator(smearing_width=1.0, boundary="pbc")
        energies.append(moved.get_potential_energy())
    expected = (energies[0] - energies[1]) / 2.0 / atoms.get_volume()
    assert float((stress * strain).sum()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("boundary", ["realspace", "slab", "molecule_in_box"])
def test_stress_needs_three_periodic_directions(boundary: str) -> None:
    atoms = charged(boundary)
    atoms.calc = CoulombCalculator(boundary=boundary)
    with pytest.raises(PropertyNotImplementedError, match="fully periodic cells"):
        atoms.get_stress()


@pytest.mark.parametrize("max_l", [0, 1, 2])
def test_dipole_is_the_sum_over_charges_and_dipoles(max_l: int) -> None:
    atoms = charged("realspace", max_l)
    atoms.calc = CoulombCalculator(max_l=max_l, boundary="auto")
    multipoles = atoms.arrays["multipoles"]
    expected = multipoles[:, 0] @ atoms.positions
    if max_l > 0:
        # stored in the order y, z, x
        expected = expected + multipoles[:, [3, 1, 2]].sum(0)
    assert atoms.get_dipole_moment() == pytest.approx(expected, abs=1e-13)


def test_the_field_has_the_stated_sign() -> None:
    atoms = charged("realspace")
    atoms.calc = CoulombCalculator(boundary="auto")
    plain, dipole = atoms.get_potential_energy(), atoms.get_dipole_moment()
    atoms.info["external_field"] = np.array([0.1, 0.0, -0.3])
    assert atoms.get_potential_energy() - plain == pytest.approx(dipole @ [0.1, 0.0, -0.3], abs=1e-12)
    atoms.calc.set_electric_field([0.0, 0.2, 0.0])
    assert atoms.get_potential_energy() - plain == pytest.approx(-0.2 * dipole[1], abs=1e-12)
    atoms.calc.set_electric_field(None)
    assert atoms.get_potential_energy() - plain == pytest.approx(dipole @ [0.1, 0.0, -0.3], abs=1e-12)


def test_no_change_of_fields_or_multipoles_meets_a_stale_result() -> None:
    atoms = charged("pbc")
    atoms.calc = CoulombCalculator(boundary="pbc")

    def fresh() -> float:
        copy = atoms.copy()
        copy.calc = CoulombCalculator(boundary="pbc")
        return float(copy.get_potential_energy())

    seen = []
    for change in (
        lambda: None,
        lambda: atoms.info.update(external_field=np.array([0.1, 0.0, 0.0])),
        lambda: atoms.info["external_field"].__setitem__(1, 0.2),  # in place
        lambda: atoms.arrays["multipoles"].__setitem__((0, 1), 0.9),
        lambda: atoms.set_array("multipoles", atoms.arrays["multipoles"] * 1.1),
        lambda: atoms.info.pop("external_field"),
        lambda: atoms.positions.__setitem__((0, 0), 0.3),
        lambda: atoms.set_cell(atoms.cell * 1.01),
    ):
        change()
        seen.append(atoms.get_potential_energy())
        assert seen[-1] == fresh()
    assert len(set(seen)) == len(seen)


def test_set_multipoles_comes_before_the_column_and_is_copied() -> None:
    atoms = charged("realspace")
    atoms.calc = CoulombCalculator(boundary="auto")
    from_column = atoms.get_potential_energy()
    doubled = 2.0 * atoms.arrays["multipoles"]
    atoms.calc.set_multipoles(doubled)
    doubled[:] = 0.0
    assert atoms.get_potential_energy() == pytest.approx(4.0 * from_column, rel=1e-13)
    atoms.calc.set_multipoles(None)
    assert atoms.get_potential_energy() == from_column


def test_results_are_kept_while_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    atoms = charged("pbc")
    atoms.calc = CoulombCalculator(boundary="pbc")
    atoms.get_potential_energy()
    monkeypatch.setattr(coulomb, "coulomb_energy", None)
    atoms.get_forces()
    atoms.get_stress()
    atoms.calc.get_property("potential", atoms)


@pytest.mark.parametrize("boundary", KINDS)
def test_lists_are_kept_along_a_trajectory(boundary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = plan_cache.plan_outline
    monkeypatch.setattr(plan_cache, "plan_outline", lambda *inputs: made.append(1) or original(*inputs))
    atoms = charged(boundary)
    atoms.calc = CoulombCalculator(boundary=boundary)
    for step in range(4):
        atoms.rattle(0.02, seed=step)
        anew = atoms.copy()
        anew.calc = CoulombCalculator(boundary=boundary)
        assert atoms.get_potential_energy() == anew.get_potential_energy()  # to the bit
        assert np.array_equal(atoms.get_forces(), anew.get_forces())
    assert len(made) == 1 + 4  # one for the trajectory, one for each calculator made anew


def test_the_backend_can_be_chosen() -> None:
    atoms = charged("pbc", n_atoms=40)
    atoms.calc = CoulombCalculator(boundary="pbc", backend="direct")
    exact = atoms.get_forces()
    atoms.calc = CoulombCalculator(boundary="pbc", backend="mesh", mesh_accuracy=1e-6)
    error = np.linalg.norm(atoms.get_forces() - exact) / np.linalg.norm(exact)
    # asked of a liquid's density; these atoms fill a part of a small cell and have larger errors
    assert 0.0 < error < 5e-6


def test_a_molecule_without_a_cell_is_summed_in_open_space() -> None:
    """The limit of large boxes, which the box's terms approach as L⁻⁵."""
    atoms = charged("realspace")
    atoms.set_cell(None)
    atoms.calc = CoulombCalculator(boundary="realspace")
    expected = atoms.get_potential_energy()
    atoms.calc = CoulombCalculator(boundary="mixed_periodic")
    assert atoms.get_potential_energy() == pytest.approx(expected, abs=1e-12)
    errors = []
    for edge in (25.0, 50.0):
        atoms.set_cell(np.eye(3) * edge)
        atoms.calc = CoulombCalculator(boundary="mixed_periodic", kspace_cutoff_factor=2.0)
        errors.append(abs(atoms.get_potential_energy() - expected))
    assert errors[0] > 20.0 * errors[1] > 0.0


@pytest.mark.parametrize(
    ("boundary", "correction", "words"),
    [
        ("pbc", "exact", "uniform background.* the pressure"),
        ("slab", "exact", "equal charge and area"),
        ("slab", "dipole", "correction 'dipole' has no term for it"),
    ],
)
def test_net_charge_is_warned_of_once(boundary: str, correction: str, words: str) -> None:
    atoms = charged(boundary)
    if correction == "dipole":
        atoms.set_cell(np.diag([7.0, 25.0, 8.0]))
    atoms.arrays["multipoles"][0, 0] += 1.0
    atoms.calc = CoulombCalculator(boundary=boundary, correction=correction)
    with pytest.warns(UserWarning, match=rf"a net charge of \+1 e in a .*{words}"):
        atoms.get_potential_energy()
    atoms.rattle(0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.get_potential_energy()


@pytest.mark.parametrize("boundary", ["realspace", "molecule_in_box"])
def test_charged_molecules_and_neutral_crystals_need_no_warning(boundary: str) -> None:
    atoms = charged(boundary)
    atoms.arrays["multipoles"][0, 0] += 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for structure, method in ((atoms, boundary), (charged("pbc"), "pbc")):
            structure.calc = CoulombCalculator(boundary=method)
            structure.get_potential_energy()


def test_bad_input_ends_in_one_clear_message() -> None:
    atoms = charged("realspace")
    atoms.calc = CoulombCalculator(max_l=0)
    with pytest.raises(LsfError, match=r"atoms.arrays\['multipoles'\]: found an array of shape \(4, 4\)"):
        atoms.get_potential_energy()
    with pytest.raises(LsfError, match="expected finite numbers, one row per atom and 1 columns"):
        atoms.calc.set_multipoles([1.0, np.nan, 0.0, 0.0])
    with pytest.raises(LsfError, match="multipoles: found an array of shape"):
        atoms.calc.set_multipoles("none")
    atoms.calc.set_multipoles([1.0, -1.0])
    with pytest.raises(LsfError, match="found 2 rows; expected one for each of 4 atoms"):
        atoms.get_potential_energy()
    bare = Atoms("Na", calculator=CoulombCalculator())
    with pytest.raises(LsfError, match=r"no multipoles: set atoms.arrays\['multipoles'\] with 4 columns"):
        bare.get_potential_energy()
    line = charged("pbc")
    line.pbc = (True, False, False)
    line.calc = CoulombCalculator(boundary="auto")
    with pytest.raises(BoundaryError, match="no method treats one periodic direction"):
        line.get_potential_energy()
    line.info["external_field"] = [1.0, 2.0]
    with pytest.raises(LsfError, match=r"atoms.info\['external_field'\]: found .* expected 3 finite numbers"):
        line.get_potential_energy()
    with pytest.raises(LsfError, match="CoulombCalculator: boundary = 'peridic' is no boundary method"):
        CoulombCalculator(boundary="peridic")
    with pytest.raises(LsfError, match=r"CoulombCalculator: .*'meshes'"):
        CoulombCalculator(backend="meshes")
    with pytest.raises(LsfError, match=r"electric_field: found .* expected 3 finite numbers"):
        CoulombCalculator(electric_field=[0.0, float("inf"), 0.0])


def test_settings_of_a_recipe_in_place_of_single_ones() -> None:
    settings = Electrostatics(boundary="pbc", multipoles_max_l=1, smearing_width=0.9, correction="dipole")
    whole, single = charged(), charged()
    whole.calc = CoulombCalculator(settings=settings)
    single.calc = CoulombCalculator(smearing_width=0.9, boundary="pbc", correction="dipole")
    assert whole.calc.settings == single.calc.settings == settings
    assert whole.get_potential_energy() == single.get_potential_energy()
    with pytest.raises(LsfError, match="found settings and single ones besides; expected one of the two"):
        CoulombCalculator(max_l=0, settings=settings)
