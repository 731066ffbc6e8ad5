"""Forces are the derivative of the energy across every threshold at which another list or sum is chosen.

Each case moves one coordinate (or the cell) through a threshold in small steps, makes every plan anew, and
compares the difference of energies with the integral of the derivative (Simpson's rule).
"""

from __future__ import annotations

import math

import attrs
import numpy as np
import pytest
import torch

from lsf.electrostatics.energy import coulomb_energy
from lsf.electrostatics.fourier import dispatch
from lsf.electrostatics.plan.coulomb_plan import plan_structure
from lsf.electrostatics.plan.lists import LENGTH_STEP
from lsf.electrostatics.settings import Electrostatics
from lsf.units import COULOMB_CONSTANT

FREE, SLAB, BULK = np.zeros(3, bool), np.array([True, True, False]), np.ones(3, bool)
NO_CELL = np.zeros((3, 3))


def evaluated(settings, coefficients, positions, cell, pbc, along_positions, along_strain):
    """Return the energy in eV, its derivative along a direction of positions and strain, and the plan."""
    r = torch.tensor(positions, dtype=torch.float64, requires_grad=True)
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    deformed = torch.eye(3, dtype=torch.float64) + strain
    plan = plan_structure(settings, positions, cell, pbc)
    batch = torch.zeros(len(positions), dtype=torch.int64)
    cells = (torch.tensor(cell) @ deformed)[None]
    energy = coulomb_energy(torch.tensor(coefficients), r @ deformed, cells, batch, plan, settings).sum()
    by_r, by_strain = torch.autograd.grad(energy, (r, strain))
    slope = (by_r.numpy() * along_positions).sum() + (by_strain.numpy() * along_strain).sum()
    return float(energy.detach()), slope, plan


def crossed(settings, coefficients, path, pbc, choice, n_steps=40):
    """Return the largest error of an energy difference over one step; the choice must change on the way.

    ``path(t)`` gives positions, cell, and their derivatives (of positions, and as a strain) at t in [0, 1].
    """
    energies, slopes, choices = [], [], []
    for t in np.linspace(0.0, 1.0, 2 * n_steps + 1):
        energy, slope, plan = evaluated(settings, coefficients, *path(t)[:2], pbc, *path(t)[2:])
        energies.append(energy)
        slopes.append(slope)
        choices.append(choice(plan))
    assert len(set(choices)) > 1, "the threshold is not crossed"
    h = 1.0 / n_steps
    integrals = [
        h / 6.0 * (slopes[i] + 4.0 * slopes[i + 1] + slopes[i + 2]) for i in range(0, 2 * n_steps, 2)
    ]
    differences = [energies[i + 2] - energies[i] for i in range(0, 2 * n_steps, 2)]
    return float(np.abs(np.array(differences) - integrals).max())


@pytest.mark.parametrize("method", ["mixed_periodic", "molecule_in_box", "realspace", "auto"])
@pytest.mark.parametrize("direction", [(1.0, 0.0, 0.0), (1.0, 1.0, 1.0)])
def test_ions_that_drift_apart_follow_coulombs_law(
    method: str, direction: tuple[float, float, float]
) -> None:
    """F = -k_e/d² whatever the distance and the orientation; the Gaussians (1 Å) do not overlap."""
    settings = Electrostatics(boundary=method, multipoles_max_l=0, smearing_width=1.0)
    unit = np.array(direction) / np.linalg.norm(direction)
    charges = np.array([[1.0], [-1.0]])
    for distance in (9.9, 10.1, 15.0, 40.0):
        positions = np.array([[0.0, 0.0, 0.0], unit * distance])
        along = np.array([[0.0, 0.0, 0.0], unit])
        energy, slope, _ = evaluated(settings, charges, positions, NO_CELL, FREE, along, np.zeros((3, 3)))
        own = 2.0 * COULOMB_CONSTANT / (2.0 * math.sqrt(math.pi))
        assert energy - own == pytest.approx(-COULOMB_CONSTANT / distance, abs=1e-9)  # erfc(4.95) = 3e-12
        assert slope == pytest.approx(COULOMB_CONSTANT / distance**2, abs=1e-9)


def test_slabs_that_grow_thicker_change_their_internal_length() -> None:
    settings = Electrostatics(boundary="slab", smearing_width=1.0, kspace_cutoff_factor=2.5)
    rng = np.random.default_rng(1)
    start = rng.uniform(0.0, 6.0, (8, 3))
    coefficients = rng.normal(size=(8, 4))
    cell = np.diag([7.0, 7.5, 1.0])
    step = LENGTH_STEP * 10.0  # of the internal length, in units of a gap of 10 σ

    def path(t):
        moved = start.copy()
        moved[:, 2] += np.where(np.arange(8) == int(start[:, 2].argmax()), 1.5 * step * t, 0.0)
        along = np.zeros((8, 3))
        along[int(start[:, 2].argmax()), 2] = 1.5 * step
        return moved, cell, along, np.zeros((3, 3))

    # what the exact terms leave: the truncation of the reciprocal sum, k_c σ = 6.9, exp(-24) of the terms
    assert crossed(settings, coefficients, path, SLAB, lambda plan: float(plan.slab_length)) < 1e-8


def test_cells_that_grow_take_in_wave_vectors_without_a_jump() -> None:
    settings = Electrostatics(boundary="pbc", smearing_width=1.0)
    rng = np.random.default_rng(2)
    fractional, coefficients = rng.uniform(size=(6, 3)), rng.normal(size=(6, 4))
    cell = np.array([[6.0, 0.0, 0.0], [1.0, 6.5, 0.0], [0.4, -0.8, 7.0]])

    def path(t):
        grown = cell * (1.0 + 0.1 * t)
        rate = 0.1 / (1.0 + 0.1 * t)
        return fractional @ grown, grown, np.zeros((6, 3)), np.eye(3) * rate

    # the taper is twice differentiable: Simpson's rule errs by the third derivative where a wave enters
    assert crossed(settings, coefficients, path, BULK, lambda plan: len(plan.k_triplets), 200) < 2e-7


@pytest.mark.parametrize("n_atoms", [dispatch.LISTED_ATOMS, dispatch.MATRIX_ATOMS])
def test_sizes_at_which_open_sums_change_give_the_same_energy(n_atoms: int) -> None:
    """One atom more, without charge, takes another sum and adds nothing but rounding."""
    rng = np.random.default_rng(3)
    positions = rng.uniform(0.0, 2.5 * n_atoms ** (1.0 / 3.0), (n_atoms + 1, 3))
    coefficients = rng.normal(size=(n_atoms + 1, 4))
    coefficients[-1] = 0.0
    settings = Electrostatics(boundary="realspace", smearing_width=1.0, backend="direct")
    along = np.zeros((n_atoms + 1, 3))
    along[0] = 1.0, 2.0, -1.0
    below = evaluated(
        settings, coefficients[:-1], positions[:-1], NO_CELL, FREE, along[:-1], np.zeros((3, 3))
    )
    above = evaluated(settings, coefficients, positions, NO_CELL, FREE, along, np.zeros((3, 3)))
    assert below[0] == pytest.approx(above[0], rel=1e-12)
    assert below[1] == pytest.approx(above[1], rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("pbc", [BULK, SLAB], ids=["bulk", "slab"])
def test_meshes_that_change_with_the_cell_stay_within_their_accuracy(pbc: np.ndarray) -> None:
    rng = np.random.default_rng(4)
    n = 40
    fractional, coefficients = rng.uniform(size=(n, 3)), rng.normal(size=(n, 4))
    fractional[:, 2] *= 0.6
    coefficients[:, 0] -= coefficients[:, 0].mean()
    boundary = "pbc" if pbc.all() else "slab"
    settings = Electrostatics(boundary=boundary, smearing_width=1.0, backend="mesh", mesh_accuracy=1e-7)
    exact = attrs.evolve(settings, backend="direct")
    cell = np.diag([11.0, 12.0, 13.0])

    def path(t):
        grown = cell * (1.0 + 0.25 * t)
        return fractional @ grown, grown, np.zeros((n, 3)), np.eye(3) * 0.25 / (1.0 + 0.25 * t)

    sizes, errors = set(), []
    for t in np.linspace(0.0, 1.0, 12):
        args = (coefficients, *path(t)[:2], pbc, *path(t)[2:])
        (found, slope, plan), (right, right_slope, _) = evaluated(settings, *args), evaluated(exact, *args)
        sizes.add(tuple(plan.mesh_size[0].tolist()))
        errors.append((abs(found - right) / n, abs(slope - right_slope) / abs(right_slope)))
    assert len(sizes) > 1
    # relative error of forces 1e-7; energies of some eV per atom
    assert np.max(errors, 0).tolist() < [1e-6, 1e-5]


def test_a_cluster_on_a_mesh_keeps_its_energy_when_its_box_grows() -> None:
    """The truncation radius follows the atoms in steps; what it leaves is below the mesh's error."""
    rng = np.random.default_rng(5)
    n = 20
    start, coefficients = rng.uniform(0.0, 9.0, (n, 3)), rng.normal(size=(n, 4))
    settings = Electrostatics(boundary="realspace", smearing_width=1.0, backend="mesh", mesh_accuracy=1e-7)
    far = int(start[:, 0].argmax())
    along = np.zeros((n, 3))
    along[far, 0] = 4.0

    def path(t):
        moved = start.copy()
        moved[far, 0] += 4.0 * t
        return moved, NO_CELL, along, np.zeros((3, 3))

    assert (
        crossed(settings, coefficients, path, FREE, lambda plan: tuple(plan.open_box[0].tolist()), 12) < 1e-5
    )
