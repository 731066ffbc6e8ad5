"""The constants of lsf/units.py against values from elsewhere."""

import pytest

from lsf.units import CARTESIAN_FROM_SPHERICAL, COULOMB_CONSTANT, SPHERICAL_FROM_CARTESIAN


def test_the_coulomb_constant_is_that_of_atomic_units():
    # e²/(4πε₀) = hartree · bohr, CODATA 2022; both are known to 1e-10
    hartree, bohr = 27.211386245981, 0.529177210544
    assert pytest.approx(hartree * bohr, rel=1e-9) == COULOMB_CONSTANT


def test_both_orders_of_a_vector_are_inverse_to_one_another():
    spherical = ["y", "z", "x"]
    assert [spherical[place] for place in CARTESIAN_FROM_SPHERICAL] == ["x", "y", "z"]
    assert [["x", "y", "z"][place] for place in SPHERICAL_FROM_CARTESIAN] == spherical
