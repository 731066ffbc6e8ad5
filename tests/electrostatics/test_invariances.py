"""What a Coulomb energy must not depend on, and how it scales."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from structures import (
    KINDS,
    TRICLINIC,
    Structure,
    derivatives,
    energy,
    join,
    kind_structure,
    random_structure,
)
from torch import Tensor

from lsf.electrostatics.energy import coulomb_energy
from lsf.electrostatics.multipoles import _SECOND_DERIVATIVES, dipoles, quadrupoles
from lsf.electrostatics.settings import Electrostatics

# rounding of energies of order 10 eV
ROUNDING = 1.0e-11


def settings(method: str, degree: int = 1, factor: float = 1.25) -> Electrostatics:
    return Electrostatics(
        boundary=method, multipoles_max_l=degree, smearing_width=1.3, kspace_cutoff_factor=factor
    )


def rotate(structure: Structure, rotation: Tensor) -> Structure:
    """Rotate positions, cell and multipoles of every degree."""
    coefficients = structure.coefficients.clone()
    if coefficients.shape[1] >= 4:
        coefficients[:, [3, 1, 2]] = dipoles(structure.coefficients) @ rotation.T
    if coefficients.shape[1] >= 9:
        tensors = rotation @ quadrupoles(structure.coefficients) @ rotation.T
        basis = coefficients.new_tensor(_SECOND_DERIVATIVES)  # mutually orthogonal, each of squared norm 6
        coefficients[:, 4:] = torch.einsum("nab,mab->nm", tensors, basis)
    return structure._replace(
        coefficients=coefficients,
        positions=structure.positions @ rotation.T,
        cell=structure.cell @ rotation.T,
    )


@pytest.mark.parametrize("degree", [0, 1, 2])
@pytest.mark.parametrize("method", KINDS)
def test_translation_rotation_permutation(method: str, degree: int) -> None:
    structure = kind_structure(method, degree=degree)
    chosen = settings(method, degree)
    expected = energy(structure, chosen)
    shift = torch.tensor([31.0, -4.7, 12.3], dtype=torch.float64)
    moved = structure._replace(positions=structure.positions + shift)
    rotated = rotate(structure, torch.from_numpy(Rotation.random(rng=1).as_matrix()))
    order = torch.tensor([3, 1, 4, 0, 2])
    permuted = structure._replace(
        coefficients=structure.coefficients[order], positions=structure.positions[order]
    )
    mirrored = rotate(structure, -torch.eye(3, dtype=torch.float64))
    for other in (moved, rotated, permuted, mirrored):
        torch.testing.assert_close(energy(other, chosen), expected, rtol=0.0, atol=ROUNDING)


@pytest.mark.parametrize("method", ["pbc", "slab"])
def test_lattice_vector_shifts(method: str) -> None:
    structure = kind_structure(method)
    periodic = torch.tensor(structure.pbc, dtype=torch.float64)
    shifts = torch.tensor([[1, 2, -1], [0, 0, 0], [-3, 1, 1], [0, 5, 0], [2, 0, -7]]).double() * periodic
    moved = structure._replace(positions=structure.positions + shifts @ structure.cell)
    chosen = settings(method)
    torch.testing.assert_close(energy(moved, chosen), energy(structure, chosen), rtol=0.0, atol=ROUNDING)


@pytest.mark.parametrize("method", KINDS)
def test_nothing_is_lost_far_from_the_origin(method: str) -> None:
    """Moments are taken about a structure's mean: about the origin, their squares would cancel to 1e-6 eV."""
    structure = kind_structure(method)
    moved = structure._replace(positions=structure.positions + 3.0e4)
    chosen = settings(method)
    # coordinates of 3e4 Å are rounded to 4e-12 Å, at forces of some 10 eV/Å
    torch.testing.assert_close(energy(moved, chosen), energy(structure, chosen), rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("charged", [False, True])
@pytest.mark.parametrize("method", ["pbc", "slab"])
def test_supercell_is_extensive(method: str, charged: bool) -> None:
    """A supercell of n cells has n times the energy, at any cutoff: the same wave vectors contribute."""
    structure = kind_structure(method)
    if not charged:
        structure.coefficients[:, 0] -= structure.coefficients[:, 0].mean()
    repeats = [2 if periodic else 1 for periodic in structure.pbc]
    repeats[0] += 1
    images = torch.cartesian_prod(*[torch.arange(n).double() for n in repeats]).reshape(-1, 3)
    count = len(images)
    supercell = Structure(
        structure.coefficients.repeat(count, 1),
        (images @ structure.cell)[:, None].add(structure.positions).reshape(-1, 3),
        structure.cell * torch.tensor(repeats, dtype=torch.float64)[:, None],
        structure.pbc,
    )
    chosen = settings(method)
    expected = count * energy(structure, chosen)
    torch.testing.assert_close(energy(supercell, chosen), expected, rtol=0.0, atol=count * ROUNDING)


def test_batch_equals_one_by_one() -> None:
    """Structures of every kind in one batch, with and without the self-interaction; sizes far apart."""
    crystal = random_structure(7, 40, TRICLINIC, (True, True, True), 1, size=8.0)
    slabs = [
        random_structure(8 + axis, 6 - axis, TRICLINIC, tuple(i != axis for i in range(3)), 1)
        for axis in range(3)
    ]
    single = random_structure(1, 1, np.eye(3) * 30.0, (False, False, False), 1)
    molecule = random_structure(2, 9, np.eye(3) * 12.0, (False, False, False), 1)
    for method, others in (("mixed_periodic", [single, molecule]), ("auto", [single, molecule])):
        structures = [slabs[0], others[0], crystal, slabs[1], others[1], slabs[2]]
        for flag in (True, False):
            chosen = Electrostatics(boundary=method, smearing_width=1.3, include_self_interaction=flag)
            coefficients, positions, cell, batch, plan = join(structures, chosen)
            leaves = tuple(x.requires_grad_() for x in (coefficients, positions))
            together = coulomb_energy(*leaves, cell, batch, plan, chosen)
            gradients = torch.autograd.grad(together.sum(), leaves)
            alone = [derivatives(structure, chosen) for structure in structures]
            # rounding of sums in another order; energies up to 50 eV
            for found, expected in (
                (together, torch.stack([result.energy for result in alone])),
                (gradients[0], torch.cat([result.by_coefficients for result in alone])),
                (-gradients[1], torch.cat([result.forces for result in alone])),
            ):
                torch.testing.assert_close(found.detach(), expected, rtol=0.0, atol=1e-12 * 50)


@pytest.mark.parametrize("method", KINDS)
def test_batch_of_two_equals_one_by_one(method: str) -> None:
    """Two structures with unlike cells: none may be taken for the only one of its batch."""
    structures = [kind_structure(method), kind_structure(method, seed=1, n_atoms=3)]
    structures[1] = structures[1]._replace(cell=1.1 * structures[1].cell)
    chosen = settings(method)
    together = coulomb_energy(*join(structures, chosen), chosen)
    alone = torch.stack([energy(structure, chosen) for structure in structures])
    torch.testing.assert_close(together, alone, rtol=0.0, atol=ROUNDING)


coordinate = st.floats(-1.0, 1.0)
edge = st.floats(4.0, 9.0)


@hypothesis_settings(max_examples=25, deadline=None, derandomize=True)
@given(
    edges=st.tuples(edge, edge, edge),
    shears=st.tuples(*[st.floats(-2.5, 2.5)] * 3),
    seed=st.integers(0, 10**6),
    n_atoms=st.integers(1, 7),
    degree=st.integers(0, 2),
    n_periodic=st.sampled_from([2, 3]),
)
def test_random_cells(
    edges: tuple[float, ...],
    shears: tuple[float, ...],
    seed: int,
    n_atoms: int,
    degree: int,
    n_periodic: int,
) -> None:
    """Net force zero, wrapping, another choice of lattice vectors, bilinearity and a non-negative energy."""
    cell = np.diag(edges)
    cell[1, 0], cell[2, 0], cell[2, 1] = shears
    axis = seed % 3
    pbc = tuple(n_periodic == 3 or i != axis for i in range(3))
    structure = random_structure(seed, n_atoms, cell, pbc, degree)
    method = "pbc" if n_periodic == 3 else "slab"
    chosen = settings(method, degree, factor=1.0)
    result = derivatives(structure, chosen)
    size = max(1.0, float(abs(result.energy)))
    assert float(result.forces.sum(0).abs().max()) < 1e-9 * size
    # E is a quadratic form of the coefficients: half of c · dE/dc
    half = 0.5 * float((structure.coefficients * result.by_coefficients).sum())
    assert half == pytest.approx(float(result.energy), abs=1e-9 * size)
    if n_periodic == 3:
        assert float(result.energy) >= -1e-12
    # the same lattice by other vectors: add one periodic row to another
    first, second = [i for i in range(3) if pbc[i]][:2]
    other = structure.cell.clone()
    other[first] += other[second]
    changed = float(energy(structure._replace(cell=other), chosen))
    assert changed == pytest.approx(float(result.energy), abs=1e-9 * size)
