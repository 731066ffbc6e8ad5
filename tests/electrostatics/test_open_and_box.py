"""Open structures against derivatives of the kernel, and molecules in boxes against open structures."""

from __future__ import annotations

import math

import pytest
import torch
from structures import energy, random_structure
from torch import Tensor

from lsf.electrostatics.multipoles import dipoles, quadrupoles, self_energies
from lsf.electrostatics.settings import Electrostatics
from lsf.units import COULOMB_CONSTANT

FREE = (False, False, False)


def operator_energy(coefficients: Tensor, vector: Tensor, sigma: float) -> Tensor:
    """Pair energy as (q_1 + p_1·∇ + T_1:∇∇)(q_2 - p_2·∇ + T_2:∇∇) erf(r/2σ)/r, by automatic derivatives."""
    charges, moments, tensors = coefficients[:, 0], dipoles(coefficients), quadrupoles(coefficients)
    r = vector.clone().requires_grad_()

    def gradient(value: Tensor) -> Tensor:
        return torch.autograd.grad(value, r, create_graph=True)[0]

    def apply(value: Tensor, atom: int, sign: float) -> Tensor:
        slope = gradient(value)
        curvature = torch.stack([gradient(slope[a]) for a in range(3)])
        return charges[atom] * value + sign * (moments[atom] @ slope) + (tensors[atom] * curvature).sum()

    distance = torch.sqrt((r * r).sum())
    return COULOMB_CONSTANT * apply(apply(torch.erf(distance / (2.0 * sigma)) / distance, 1, -1.0), 0, 1.0)


@pytest.mark.parametrize("vector", [[1.1, -0.7, 0.9], [3.0, 2.0, -4.0], [9.0, 5.0, 1.0]])
def test_quadrupole_pairs_are_derivatives_of_the_kernel(vector: list[float]) -> None:
    sigma = 0.9
    pair = random_structure(0, 2, torch.zeros(3, 3).numpy(), FREE, 2)
    pair.positions[0] = pair.positions[1] + torch.tensor(vector, dtype=torch.float64)
    expected = operator_energy(pair.coefficients, torch.tensor(vector, dtype=torch.float64), sigma)
    chosen = Electrostatics("realspace", 2, sigma, include_self_interaction=False)
    # fourth derivatives of erf(r)/r by automatic differentiation lose some digits
    torch.testing.assert_close(energy(pair, chosen), expected.detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_coincident_atoms_interact_like_one(degree: int) -> None:
    """Two atoms at one place are one atom with the sum of their multipoles; r → 0 has no cancellation."""
    pair = random_structure(0, 2, torch.zeros(3, 3).numpy(), FREE, degree)
    pair.positions[1] = pair.positions[0]
    chosen = Electrostatics("realspace", degree)
    merged = self_energies(pair.coefficients.sum(0, keepdim=True), chosen.smearing_width).sum()
    torch.testing.assert_close(energy(pair, chosen), merged, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("degree", [0, 1, 2])
@pytest.mark.parametrize("neutral", [False, True])
def test_box_converges_to_open_with_the_fifth_power(degree: int, neutral: bool) -> None:
    molecule = random_structure(2, 6, torch.zeros(3, 3).numpy(), FREE, degree)
    if neutral:
        molecule.coefficients[:, 0] -= molecule.coefficients[:, 0].mean()
    isolated = energy(molecule, Electrostatics("realspace", degree, 1.0))
    chosen = Electrostatics("molecule_in_box", degree, 1.0, kspace_cutoff_factor=2.6)
    edges = (20.0, 30.0)
    errors = [
        float(energy(molecule._replace(cell=torch.eye(3).double() * edge), chosen) - isolated)
        for edge in edges
    ]
    power = math.log(abs(errors[0] / errors[1])) / math.log(edges[1] / edges[0])
    # L⁻⁵ and corrections of relative order (size / L)^2
    assert 4.8 < power < 5.2
