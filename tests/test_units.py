"""The constants and conventions of lsf/units.py against values and formulas from elsewhere."""

import math

import numpy as np
import pytest
import torch

from lsf.electrostatics.energy import coulomb_energy
from lsf.electrostatics.plan.coulomb_plan import plan_structure
from lsf.electrostatics.settings import Electrostatics
from lsf.models.harmonics import spherical_harmonics
from lsf.units import CARTESIAN_FROM_SPHERICAL, COULOMB_CONSTANT, SPHERICAL_FROM_CARTESIAN


def test_the_coulomb_constant_is_that_of_atomic_units():
    # e²/(4πε₀) = hartree · bohr, CODATA 2022; both are known to 1e-10
    hartree, bohr = 27.211386245981, 0.529177210544
    assert pytest.approx(hartree * bohr, rel=1e-9) == COULOMB_CONSTANT


def test_both_orders_of_a_vector_are_inverse_to_one_another():
    spherical = ["y", "z", "x"]
    assert [spherical[place] for place in CARTESIAN_FROM_SPHERICAL] == ["x", "y", "z"]
    assert [["x", "y", "z"][place] for place in SPHERICAL_FROM_CARTESIAN] == spherical


def solid_harmonics(vector, degree):
    """Return real solid harmonics R_lm of one degree, m = -l … l, Racah-normalised, from their definition.

    R_lm = sqrt((2 - δ_m0) (l-|m|)! / (l+|m|)!) r^l P_l^|m|(cos θ) · (sin |m|φ for m < 0, cos mφ else), with
    P_l^m(t) = (1 - t²)^(m/2) d^m P_l / dt^m: without the factor (-1)^m that Condon and Shortley put there.
    """
    x, y, z = vector
    r = math.sqrt(x * x + y * y + z * z)
    cosine, angle = z / r, math.atan2(y, x)
    values = []
    for m in range(-degree, degree + 1):
        order = abs(m)
        legendre = np.polynomial.legendre.Legendre.basis(degree)
        slope = legendre.deriv(order) if order else legendre
        associated = (1.0 - cosine**2) ** (order / 2.0) * slope(cosine)
        ratio = math.factorial(degree - order) / math.factorial(degree + order)
        norm = math.sqrt((2.0 if order else 1.0) * ratio)
        turn = math.sin(order * angle) if m < 0 else math.cos(order * angle)
        values.append(norm * r**degree * associated * turn)
    return np.array(values)


VECTORS = np.array([[0.3, -1.1, 0.7], [-0.9, 0.2, -1.3], [1.4, 0.8, 0.1], [-0.5, -0.6, 0.9]])


def test_the_degree_one_block_is_y_z_x():
    for x, y, z in VECTORS:
        assert solid_harmonics((x, y, z), 1) == pytest.approx([y, z, x], rel=1e-14)


@pytest.mark.parametrize("degree", range(5))
def test_harmonics_have_no_condon_shortley_phase(degree):
    units = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    found = spherical_harmonics(torch.from_numpy(units), degree)[:, degree * degree :].numpy()
    expected = math.sqrt(2 * degree + 1) * np.array([solid_harmonics(unit, degree) for unit in units])
    # polynomials with coefficients up to a hundred, in float64
    assert found == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("place", range(9))
def test_a_coefficient_has_the_potential_of_its_solid_harmonic(place):
    """A coefficient Q_lm at the origin and a unit charge far away: E = k_e Q_lm R_lm(r) / r^(2l+1)."""
    settings = Electrostatics("realspace", 2, smearing_width=1.0, include_self_interaction=False)
    degree = math.isqrt(place)
    for vector in VECTORS:
        # 20 Å apart, Gaussians of 1 Å do not overlap: erfc(10) = 2e-45
        position = 20.0 * vector / np.linalg.norm(vector)
        positions = np.array([[0.0, 0.0, 0.0], position])
        coefficients = torch.zeros(2, 9, dtype=torch.float64)
        coefficients[0, place], coefficients[1, 0] = 1.7, 1.0
        plan = plan_structure(settings, positions, np.zeros((3, 3)), np.zeros(3, dtype=bool))
        energy = coulomb_energy(
            coefficients,
            torch.from_numpy(positions),
            torch.zeros(1, 3, 3, dtype=torch.float64),
            torch.zeros(2, dtype=torch.int64),
            plan,
            settings,
        )
        harmonic = solid_harmonics(position, degree)[place - degree * degree]
        expected = COULOMB_CONSTANT * 1.7 * harmonic / 20.0 ** (2 * degree + 1)
        assert float(energy) == pytest.approx(expected, rel=1e-11, abs=1e-15)
