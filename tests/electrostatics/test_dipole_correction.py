"""The older slab correction: its own formula, its reference values, how it errs, and how it refuses."""

from __future__ import annotations

import math

import attrs
import numpy as np
import pytest
import torch
from structures import Structure, derivatives, energy, random_structure
from test_reference import (
    CASES,
    K_CUTOFF_SIGMA,
    TOLERANCE,
    assert_close,
    case_settings,
    case_structure,
    in_reference_units,
    tensor,
)

from lsf.electrostatics.multipoles import dipoles
from lsf.electrostatics.settings import Electrostatics
from lsf.errors import BoundaryError
from lsf.units import COULOMB_CONSTANT

SLABS = [name for name, case in CASES.items() if case["method"] == "slab"]


@pytest.mark.parametrize("name", SLABS)
def test_dipole_correction_matches_the_usual_approximate_values(name: str) -> None:
    case = CASES[name]
    settings = attrs.evolve(case_settings(case), correction="dipole")
    result = derivatives(case_structure(case), settings, in_reference_units(case))
    expected = case["dipole_formula"]
    assert_close(result.energy, expected["energy"])
    assert_close(result.forces, expected["forces"])
    # xz and yz: not part of the reference
    defined = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    assert_close(result.by_strain[defined], tensor(expected["dE_dstrain"])[defined])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_dipole_correction_is_the_periodic_energy_and_one_term(axis: int) -> None:
    """With any row as normal: E = E_pbc + 2π k_e M_z² / V in the cell as given."""
    cell = np.roll(np.array([[6.0, 0.4, 0.0], [0.8, 7.0, 0.0], [0.0, 0.0, 21.0]]), axis + 1, axis=0)
    slab = random_structure(axis, 6, cell, tuple(row != axis for row in range(3)), 2, size=5.0)
    found = energy(slab, Electrostatics("slab", 2, correction="dipole"))
    periodic = energy(slab._replace(pbc=(True, True, True)), Electrostatics("pbc", 2))
    # about z = 0: charged slabs depend on the origin in this approximation
    moment = (slab.coefficients[:, 0] * slab.positions[:, 2] + dipoles(slab.coefficients)[:, 2]).sum()
    term = 2.0 * math.pi * COULOMB_CONSTANT * moment**2 / abs(np.linalg.det(cell))
    torch.testing.assert_close(found, periodic + term, rtol=1e-12, atol=1e-11)


def layer(vacuum: float) -> Structure:
    slab = random_structure(4, 8, np.diag([8.0, 8.0, 4.0 + vacuum]), (True, True, False), 1, size=4.0)
    slab.coefficients[:, 0] -= slab.coefficients[:, 0].mean()
    return slab


def test_error_of_the_dipole_correction_decays_with_the_vacuum() -> None:
    """Neutral: as exp(-2π · vacuum / width), the images' slowest in-plane wave, without end at the exact."""
    errors = []
    for vacuum in (10.0, 14.0):
        exact, approximate = (
            float(energy(layer(vacuum), Electrostatics("slab", 1, 1.0, 3.0, correction=correction)))
            for correction in ("exact", "dipole")
        )
        errors.append(abs(approximate - exact))
    rate = math.log(errors[0] / errors[1]) / 4.0
    # the leading term of a sum of exponentials, the next of which is √2 times as fast
    assert rate == pytest.approx(2.0 * math.pi / 8.0, rel=0.05)


def test_exact_energy_does_not_depend_on_the_vacuum() -> None:
    settings = Electrostatics("slab", 1, 1.0, 3.0)
    short, long = energy(layer(6.0), settings), energy(layer(40.0), settings)
    torch.testing.assert_close(short, long, rtol=0.0, atol=TOLERANCE)
    assert K_CUTOFF_SIGMA > 0.75 * 3.0 * 3.0  # the reference is no less converged than this


@pytest.mark.parametrize("height", [0.0, 2.0])
def test_dipole_correction_needs_the_vacuum_in_the_cell(height: float) -> None:
    slab = random_structure(0, 5, np.diag([6.0, 6.0, height]), (True, True, False), 1, size=5.0)
    slab.positions[0, 2] = slab.positions[1, 2] + 2.5
    with pytest.raises(BoundaryError, match=r"Å thick in a cell of height .* correction 'exact'"):
        slab.plan(Electrostatics("slab", correction="dipole"))


def test_unknown_correction_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"correction = 'dipol' is no slab correction; did you mean 'dipole'\?"
    ):
        Electrostatics(correction="dipol")
