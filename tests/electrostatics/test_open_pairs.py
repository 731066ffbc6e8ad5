"""Pairs of open structures: the list and the chunked sum are the same function, to second order."""

from __future__ import annotations

import pytest
import torch
from structures import derivatives, energy, join, random_structure
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.graph import saved_tensors_hooks

from lsf.electrostatics import dispatch, open_pairs
from lsf.electrostatics.boundary import Electrostatics
from lsf.electrostatics.energy import coulomb_energy

OPEN = (False, False, False)


def cluster(n_atoms: int, degree: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    structure = random_structure(seed, n_atoms, torch.zeros(3, 3).numpy(), OPEN, degree)
    return structure.coefficients, structure.positions


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_chunks_equal_the_list(degree: int, monkeypatch: pytest.MonkeyPatch) -> None:
    structure = random_structure(1, 30, torch.zeros(3, 3).numpy(), OPEN, degree)
    settings = Electrostatics(boundary="realspace", multipoles_max_l=degree, backend="direct")
    listed = derivatives(structure, settings)
    monkeypatch.setattr(dispatch, "LISTED_ATOMS", 1)
    monkeypatch.setattr(open_pairs, "CHUNK_ELEMENTS", 100)
    for found, expected in zip(derivatives(structure, settings), listed, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_chunks_differentiate_twice(degree: int) -> None:
    """Two structures of unequal size in one block, a third that is not open."""
    coefficients, positions = (values.requires_grad_() for values in cluster(9, degree))
    batch = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2])
    is_open = torch.tensor([True, True, False])

    def function(coefficients: Tensor, positions: Tensor) -> Tensor:
        return open_pairs.open_pair_energy(coefficients, positions, batch, is_open, 1.2)

    assert float(function(coefficients, positions)[2].detach()) == 0.0
    assert gradcheck(function, (coefficients, positions), atol=1e-6, fast_mode=True)
    assert gradgradcheck(function, (coefficients, positions), atol=1e-5, fast_mode=True)


def test_large_and_small_clusters_share_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "LISTED_ATOMS", 6)
    settings = Electrostatics(boundary="realspace", backend="direct")
    structures = [
        random_structure(s, n, torch.zeros(3, 3).numpy(), OPEN, 1) for s, n in enumerate((4, 9, 1, 7))
    ]
    coefficients, positions, cells, batch, plan = join(structures, settings)
    found = coulomb_energy(coefficients, positions, cells, batch, plan, settings)
    alone = torch.stack([energy(structure, settings) for structure in structures])
    torch.testing.assert_close(found, alone, rtol=1e-12, atol=1e-12)


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
