"""The polarization of open molecules is Σ q r + Σ p: from densities and positions alone."""

import numpy as np
import pytest
import torch
from ase import Atoms

from lsf.electrostatics.settings import Electrostatics
from lsf.models.derivatives import evaluate
from lsf.models.irreps import Irreps
from lsf.models.sources import MultipoleReadout
from tests.models.helpers import MODELS, batch_of, make_model, water, with_charges

CHARGED = [name for name in MODELS if name != "MACE"]
OPEN = Electrostatics(boundary="realspace", smearing_width=1.0)


def hydroxide() -> Atoms:
    """Return an ion far from the origin, whose dipole depends on the origin."""
    return with_charges(Atoms("OH", [[4.0, -7.0, 2.5], [4.3, -6.2, 2.9]]))


def dipole_of(coefficients: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return Σ q r + Σ p of coefficients in the order Q, y, z, x, written out once more."""
    total = np.zeros(3)
    for (charge, y, z, x), position in zip(coefficients, positions, strict=True):
        total += charge * position + np.array([x, y, z])
    return total


@pytest.mark.parametrize("name", CHARGED)
def test_polarization_of_open_molecules_follows_from_the_density(name):
    model = make_model(name, OPEN)
    structures = [water(2), hydroxide(), water(1, seed=4)]
    out = evaluate(model, batch_of(structures, model, OPEN), ())
    coefficients = out["density_coefficients"].numpy()
    start = 0
    for found, atoms in zip(out["dipole"].numpy(), structures, strict=True):
        expected = dipole_of(coefficients[start : start + len(atoms)], atoms.positions)
        start += len(atoms)
        # sums of a few terms below 30 e·Å in float64
        assert found == pytest.approx(expected, abs=1e-12)
    # every part of the sum is so large that an error of a thousandth in it shows
    formal = np.concatenate([atoms.arrays["formal_charges"] for atoms in structures])
    if name != "FixedChargeBaselinedMACE":
        assert np.abs(coefficients[:, 0] - formal).max() > 1e-3
        assert np.abs(coefficients[:, 1:]).max() > 1e-3


@pytest.mark.parametrize("name", CHARGED)
def test_field_energy_and_field_forces_are_those_of_the_density(name):
    """E = + Σ (q r + p) · external_field, and its slope in one coordinate, by the density at both sides."""
    field = np.array([0.03, -0.02, 0.05])
    model = make_model(name, OPEN)
    atoms = water(2)
    atoms.info["external_field"] = field
    without = water(2)
    out = evaluate(model, batch_of([atoms, without], model, OPEN))
    expected = dipole_of(out["density_coefficients"].numpy()[:6], atoms.positions) @ field
    assert float(out["energy_field"][0]) == pytest.approx(expected, abs=1e-13)
    step, energies = 1e-4, []
    for sign in (1, -1):
        moved = without.copy()
        moved.positions[2, 1] += sign * step
        density = evaluate(model, batch_of([moved], model, OPEN), ())["density_coefficients"].numpy()
        energies.append(dipole_of(density, moved.positions) @ field)
    slope = (energies[0] - energies[1]) / (2 * step)
    # central difference: error step² · third derivative of a dipole, below 1e-8 · 10 · |field|
    assert float((out["forces"][2] - out["forces"][8])[1]) == pytest.approx(-slope, abs=1e-8)


def test_born_charges_of_a_molecule_are_those_of_the_density():
    model = make_model("LocalSplitCharges", OPEN)
    atoms = hydroxide()
    born = evaluate(model, batch_of([atoms], model, OPEN), ("born_charges",))["born_charges"]
    step, dipoles = 1e-4, []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[1, 0] += sign * step
        density = evaluate(model, batch_of([moved], model, OPEN), ())["density_coefficients"].numpy()
        dipoles.append(dipole_of(density, moved.positions))
    slope = (dipoles[0] - dipoles[1]) / (2 * step)
    # as above, without the field
    assert born[1, :, 0].numpy() == pytest.approx(slope, abs=1e-6)
    assert torch.allclose(born.sum(0), -torch.eye(3, dtype=torch.float64), atol=1e-12)


def test_multipoles_are_the_sum_of_one_linear_map_per_layer():
    """A last layer that keeps scalars alone adds to the charges only; density stays in float64."""
    layers = [Irreps(4, (0, 1)), Irreps(3, (0,))]
    torch.manual_seed(0)
    readout = MultipoleReadout(layers, (0, 1))
    features = [torch.randn(5, 4, 4), torch.randn(5, 1, 3)]
    first, last = (linear.weight.squeeze(-1) for linear in readout.maps)
    expected = torch.zeros(5, 4)
    for component in range(4):
        # channels are averaged with weights of unit variance: divided by the root of their number
        expected[:, component] = features[0][:, component] @ first[min(component, 1)] / 4**0.5
    expected[:, 0] += features[1][:, 0] @ last[0] / 3**0.5
    found = readout(features)
    assert found.dtype == torch.float64
    # sums of four products in float32
    assert torch.allclose(found, expected.to(torch.float64), rtol=0.0, atol=1e-6)
