"""What single precision costs: inputs decide the type of the result; models always use float64."""

from __future__ import annotations

import pytest
import torch
from structures import KINDS, derivatives, kind_structure

from lsf.electrostatics.energy import coulomb_energy
from lsf.electrostatics.settings import Electrostatics


def relative_errors(method: str, offset: float) -> list[float]:
    """Errors of energy, forces and potential of 40 charged atoms in float32, by those in float64."""
    structure, settings = kind_structure(method, n_atoms=40), Electrostatics(method)
    exact = derivatives(structure, settings)
    positions = (structure.positions + offset).float().requires_grad_()
    coefficients = structure.coefficients.float().requires_grad_()
    batch = torch.zeros(40, dtype=torch.int64)
    plan = structure.plan(settings)
    found = coulomb_energy(coefficients, positions, structure.cell.float()[None], batch, plan, settings).sum()
    by_position, by_coefficient = torch.autograd.grad(found, (positions, coefficients))
    assert found.dtype == by_position.dtype == by_coefficient.dtype == torch.float32
    pairs = (
        (found.detach(), exact.energy),
        (-by_position, exact.forces),
        (by_coefficient, exact.by_coefficients),
    )
    return [float((value - reference).norm() / reference.norm()) for value, reference in pairs]


@pytest.mark.parametrize("method", KINDS)
def test_floor_of_single_precision(method: str) -> None:
    energy, forces, potential = relative_errors(method, 0.0)
    # eps = 6e-8 of sums that cancel in part; a charged slab's energy is a difference of larger terms
    assert energy < (2e-5 if method == "slab" else 3e-6)
    assert forces < 3e-6
    assert potential < 3e-6


@pytest.mark.parametrize("method", KINDS)
def test_single_precision_positions_lose_digits_far_from_the_origin(method: str) -> None:
    """1000 Å away a position has a resolution of 6e-5 Å, relative to distances of Å."""
    near, far = (relative_errors(method, offset)[1] for offset in (0.0, 1000.0))
    assert 3.0 * near < far < 3e-4
