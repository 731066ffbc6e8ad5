"""Pairs of open structures: list, matrices and chunks are the same function, to second order."""

from __future__ import annotations

import pytest
import torch
from structures import derivatives, energy, join, random_structure
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.graph import saved_tensors_hooks

from lsf.electrostatics.energy import coulomb_energy
from lsf.electrostatics.fourier import dispatch
from lsf.electrostatics.open_space import open_energy
from lsf.electrostatics.pairs import chunks as open_pairs
from lsf.electrostatics.pairs import matrices as open_matrices
from lsf.electrostatics.settings import Electrostatics

OPEN = (False, False, False)


def cluster(n_atoms: int, degree: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    structure = random_structure(seed, n_atoms, torch.zeros(3, 3).numpy(), OPEN, degree)
    return structure.coefficients, structure.positions


SUMS = {"matrices": open_matrices.open_matrix_energy, "chunks": open_pairs.open_pair_energy}


@pytest.mark.parametrize("way", ["matrices", "chunks"])
@pytest.mark.parametrize("degree", [0, 1, 2])
def test_all_ways_equal_the_list(degree: int, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    structure = random_structure(1, 30, torch.zeros(3, 3).numpy(), OPEN, degree)
    settings = Electrostatics(boundary="realspace", multipoles_max_l=degree, backend="direct")
    listed = derivatives(structure, settings)
    monkeypatch.setattr(dispatch, "LISTED_ATOMS", 1)
    monkeypatch.setattr(dispatch, "MATRIX_ATOMS", 1 if way == "chunks" else 1000)
    monkeypatch.setattr(open_pairs, "CHUNK_ELEMENTS", 100)
    for found, expected in zip(derivatives(structure, settings), listed, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    # and where the derivatives will be differentiated again
    inputs = (structure.coefficients.requires_grad_(), structure.positions.requires_grad_())
    again = torch.autograd.grad(energy(structure, settings), inputs, create_graph=True)
    for found, expected in zip(again, (listed.by_coefficients, -listed.forces), strict=True):
        torch.testing.assert_close(found.detach(), expected, rtol=1e-11, atol=1e-11)
    # and second ones likewise
    total = sum(value.square().sum() for value in again)
    second = torch.autograd.grad(total, inputs, retain_graph=True)
    for found, expected in zip(torch.autograd.grad(total, inputs, create_graph=True), second, strict=True):
        torch.testing.assert_close(found.detach(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("way", ["matrices", "chunks"])
@pytest.mark.parametrize("degree", [0, 1, 2])
def test_sums_differentiate_twice(degree: int, way: str) -> None:
    """Two structures of unequal size in one block, a third that is not open."""
    coefficients, positions = (values.requires_grad_() for values in cluster(9, degree))
    batch = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2])
    is_open = torch.tensor([True, True, False])

    def function(coefficients: Tensor, positions: Tensor) -> Tensor:
        return SUMS[way](coefficients, positions, batch, is_open, 1.2)

    assert float(function(coefficients, positions)[2].detach()) == 0.0
    assert gradcheck(function, (coefficients, positions), atol=1e-6, fast_mode=True)
    assert gradgradcheck(function, (coefficients, positions), atol=1e-5, fast_mode=True)


def test_large_and_small_clusters_share_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "LISTED_ATOMS", 4)
    monkeypatch.setattr(dispatch, "MATRIX_ATOMS", 7)
    settings = Electrostatics(boundary="realspace", backend="direct")
    structures = [
        random_structure(s, n, torch.zeros(3, 3).numpy(), OPEN, 1) for s, n in enumerate((4, 9, 1, 7))
    ]
    coefficients, positions, cells, batch, plan = join(structures, settings)
    found = coulomb_energy(coefficients, positions, cells, batch, plan, settings)
    alone = torch.stack([energy(structure, settings) for structure in structures])
    torch.testing.assert_close(found, alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("way", ["matrices", "chunks"])
def test_far_from_the_origin_and_nearly_coincident(way: str) -> None:
    """Matrices take differences of products: nothing may be lost where these cancel."""
    coefficients, positions = cluster(6, 2)
    positions[1] = positions[0] + 1e-7
    batch, is_open = torch.zeros(6, dtype=torch.int64), torch.ones(1, dtype=torch.bool)
    pairs = torch.combinations(torch.arange(6)).T
    expected = open_energy(coefficients, positions, pairs, batch, 1, 0.7)
    found = SUMS[way](coefficients, positions + 500.0, batch, is_open, 0.7)
    # coordinates of 500 Å are rounded to 6e-14 Å
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-11)


def test_training_on_forces_keeps_no_pairs() -> None:
    coefficients, positions = (values.requires_grad_() for values in cluster(120, 1))
    batch, is_open = torch.zeros(120, dtype=torch.int64), torch.ones(1, dtype=torch.bool)
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        total = open_pairs.open_pair_energy(coefficients, positions, batch, is_open, 1.2).sum()
        (forces,) = torch.autograd.grad(total, positions, create_graph=True)
        torch.autograd.grad(forces.square().sum(), positions)
    # twenty monomials per atom; pairs are 7140
    assert max(sizes) <= 20 * 120
