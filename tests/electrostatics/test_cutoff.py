"""The smooth cutoff: no jumps under changing cells, and the error of the default setting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from structures import Structure, derivatives, energy, random_structure, strained
from torch.autograd import gradcheck, gradgradcheck

from lsf.electrostatics.plan import coulomb_plan
from lsf.electrostatics.reciprocal import taper
from lsf.electrostatics.settings import Electrostatics


def liquid(n_atoms: int, degree: int) -> Structure:
    """Random charged structure of 0.1 atoms/Å³ in a slightly triclinic cell."""
    edge = (n_atoms / 0.1) ** (1.0 / 3.0)
    cell = np.eye(3) * edge + np.array([[0.0, 0.3, -0.2], [0.5, 0.0, 0.4], [-0.8, 0.3, 0.0]])
    return random_structure(3, n_atoms, cell, (True, True, True), degree, size=edge)


def test_taper_is_twice_differentiable() -> None:
    ratio = torch.tensor([0.5, 0.9, 0.95, 0.999, 1.0, 1.2], dtype=torch.float64, requires_grad=True)
    assert float(taper(ratio)[0].detach()) == 1.0
    assert float(taper(ratio)[-1].detach()) == 0.0
    assert gradcheck(taper, (ratio,), atol=1e-4)
    assert gradgradcheck(taper, (ratio,), atol=0.1)  # third derivative 6e4 at the ends times a step of 1e-6


@pytest.mark.parametrize("degree", [0, 1])
def test_wave_vectors_enter_and_leave_without_a_jump(degree: int) -> None:
    """Energies by the lists of two nearby cells differ by less than 1e-4 meV/atom, by default."""
    structure = liquid(30, degree)
    chosen = Electrostatics(boundary="pbc", multipoles_max_l=degree)
    direction = torch.tensor([[1.0, 0.4, 0.0], [0.4, -0.3, 0.2], [0.0, 0.2, 0.7]], dtype=torch.float64)
    sizes, jumps = set(), []
    for amplitude in np.linspace(-0.03, 0.03, 41):
        now = strained(structure, amplitude * direction)
        before = strained(structure, (amplitude - 1.0e-3) * direction).plan(chosen)
        after = strained(structure, (amplitude + 1.0e-3) * direction).plan(chosen)
        sizes |= {len(before.k_triplets), len(after.k_triplets)}
        jumps.append(abs(float(energy(now, chosen, before) - energy(now, chosen, after))) / 30)
    assert len(sizes) > 2  # the scan does change the lists
    assert max(jumps) < 1.0e-7


def test_strain_derivative_holds_across_changing_lists() -> None:
    """Integrating the strain derivative over a scan gives the energy difference of its ends."""
    structure = liquid(12, 1)
    chosen = Electrostatics(boundary="pbc")
    amplitudes, weights = np.polynomial.legendre.leggauss(24)
    direction = torch.tensor([[1.0, 0.4, 0.0], [0.4, -0.3, 0.2], [0.0, 0.2, 0.7]], dtype=torch.float64)
    identity = torch.eye(3, dtype=torch.float64)
    integral = 0.0
    for amplitude, weight in zip(0.03 * amplitudes, 0.03 * weights, strict=True):
        deform = identity + amplitude * direction
        by_strain = derivatives(strained(structure, amplitude * direction), chosen).by_strain
        # d(1 + a D) = (1 + a D) ε with ε = (1 + a D)^-1 D, symmetric as D is
        integral += weight * float((by_strain * (torch.linalg.inv(deform) @ direction)).sum())
    ends = [energy(strained(structure, sign * 0.03 * direction), chosen) for sign in (1.0, -1.0)]
    assert integral == pytest.approx(float(ends[0] - ends[1]), abs=1e-7)


# relative force error, energy error in meV/atom, strain derivative error in meV/atom
DEFAULT_ERRORS = {0: (2e-3, 0.2, 1.0), 1: (1e-4, 0.02, 0.05), 2: (2e-5, 4e-3, 0.02)}


@pytest.mark.parametrize("degree", DEFAULT_ERRORS)
def test_error_of_the_default_cutoff(degree: int) -> None:
    """The figures of docs/boundary_methods.md: random charged liquid, 100 atoms, 0.1 atoms/Å³."""
    structure = liquid(100, degree)
    exact = derivatives(structure, Electrostatics("pbc", degree, kspace_cutoff_factor=3.0))
    found = derivatives(structure, Electrostatics("pbc", degree))
    forces, per_atom, strain = DEFAULT_ERRORS[degree]
    assert float((found.forces - exact.forces).norm() / exact.forces.norm()) < forces
    assert abs(float(found.energy - exact.energy)) / 100 * 1e3 < per_atom
    assert float((found.by_strain - exact.by_strain).abs().max()) / 100 * 1e3 < strain


def test_slab_length_steps_are_below_the_truncation_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The internal length follows the extent in steps; at the default cutoff a step hardly shows."""
    slab = random_structure(3, 60, np.diag([12.0, 12.0, 30.0]), (True, True, False), 1, size=12.0)
    chosen = Electrostatics(boundary="slab")
    values = []
    for gap in (10.0, 12.0, 14.0, 16.0):
        monkeypatch.setattr(coulomb_plan, "SLAB_GAP", gap)
        values.append(float(energy(slab, chosen)) / 60 * 1e3)
    assert 0.0 < max(values) - min(values) < 2e-3  # meV/atom; the truncation error itself is up to 2e-2
