"""Structures and results that are not finite are one message that names the atoms."""

import numpy as np
import pytest
from ase import Atoms

import lsf
from lsf.data.finite import check_results
from lsf.engines.ase.coulomb import CoulombCalculator
from lsf.errors import DataError, LsfError
from tests.formats.test_package import stored


def water(**changes):
    atoms = Atoms("OHH", [[0.0, 0.0, 0.1], [0.76, 0.0, -0.5], [-0.76, 0.0, -0.5]])
    for index, place in changes.get("moved", {}).items():
        atoms.positions[index] = place
    return atoms


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (water(moved={1: [0.0, 0.0, 0.1]}), "atoms 0 and 1 at the same place"),
        (water(moved={2: [np.nan, 0.0, 0.0]}), "found NaN or infinity for atom 2"),
        (Atoms(), "without atoms"),
    ],
)
def test_the_calculator_of_a_model_names_the_atoms(tmp_path, atoms, message):
    _, path = stored(tmp_path)
    atoms.calc = lsf.load(path).ase_calculator()
    with pytest.raises(DataError, match=message):
        atoms.get_potential_energy()


def test_the_calculator_of_given_multipoles_needs_finite_positions():
    atoms = water(moved={2: [np.inf, 0.0, 0.0]})
    atoms.calc = CoulombCalculator(boundary="realspace", max_l=0)
    atoms.calc.set_multipoles(np.array([[-0.8], [0.4], [0.4]]))
    with pytest.raises(LsfError, match="positions that are not finite at atom 2"):
        atoms.get_potential_energy()


def test_results_that_are_not_finite_name_the_first_atoms():
    forces = np.zeros((9, 3))
    forces[2:, 1] = np.nan
    with pytest.raises(LsfError, match="forces that are not finite at atoms 2, 3, 4, 5, 6 and 2 more"):
        check_results({"energy": np.zeros(1), "forces": forces})
    energies = np.array([0.0, np.inf])
    with pytest.raises(LsfError, match="energies that are not finite at atom with ID 8"):
        check_results({"energy": np.zeros(1), "node_energy": energies}, lambda index: f"with ID {7 + index}")
    with pytest.raises(LsfError, match="an energy that is not finite"):
        check_results({"energy": np.array([np.nan]), "forces": np.zeros((1, 3))})
    check_results({"energy": np.zeros(1), "forces": np.zeros((2, 3)), "node_energy": np.zeros(2)})
