"""Forces, potentials and strain derivatives of the whole energy, to second order, in every method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from structures import KINDS, Structure, derivatives, energy, kind_structure, random_structure, strained
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.graph import saved_tensors_hooks

from lsf.electrostatics.settings import Electrostatics


def settings(method: str, degree: int, factor: float = 1.25) -> Electrostatics:
    return Electrostatics(
        boundary=method, multipoles_max_l=degree, smearing_width=1.3, kspace_cutoff_factor=factor
    )


def function_of_inputs(structure: Structure, chosen: Electrostatics) -> Callable[..., Tensor]:
    plan = structure.plan(chosen)

    def function(coefficients: Tensor, positions: Tensor, strain: Tensor) -> Tensor:
        leaf = structure._replace(coefficients=coefficients, positions=positions)
        return energy(strained(leaf, strain), chosen, plan)

    return function


@pytest.mark.parametrize("degree", [0, 1, 2])
@pytest.mark.parametrize("method", KINDS)
def test_first_and_second_derivatives(method: str, degree: int) -> None:
    """Also under unsymmetric strain, which turns a slab's normal."""
    structure = kind_structure(method, n_atoms=3, degree=degree)
    strain = torch.zeros(3, 3, dtype=torch.float64)
    inputs = tuple(x.requires_grad_() for x in (structure.coefficients, structure.positions, strain))
    # a small k-sum: derivatives of the truncated sum must be exact, converged or not
    function = function_of_inputs(structure, settings(method, degree, factor=0.9))
    assert gradcheck(function, inputs, atol=1e-6)
    assert gradgradcheck(function, inputs, atol=1e-5, fast_mode=True)


@pytest.mark.parametrize("degree", [0, 1, 2])
@pytest.mark.parametrize("method", KINDS)
def test_training_sees_the_derivatives_of_dynamics(method: str, degree: int) -> None:
    """First derivatives are made in another way where they will be differentiated again."""
    structure = kind_structure(method, n_atoms=40, degree=degree)
    chosen = settings(method, degree)
    strain = torch.zeros(3, 3, dtype=torch.float64)
    inputs = tuple(x.requires_grad_() for x in (structure.coefficients, structure.positions, strain))
    function = function_of_inputs(structure, chosen)
    alone = torch.autograd.grad(function(*inputs), inputs)
    again = torch.autograd.grad(function(*inputs), inputs, create_graph=True)
    for one, other in zip(alone, again, strict=True):
        # sums in another order; derivatives up to some hundred
        torch.testing.assert_close(one, other.detach(), rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("method", KINDS)
def test_finite_difference_forces_and_strain_with_new_plans(method: str) -> None:
    """As dynamics sees it: every displaced or strained structure gets its own lists."""
    structure = kind_structure(method)
    chosen = settings(method, 1)
    result = derivatives(structure, chosen)
    step = 1.0e-4

    def difference(displace: Callable[[float], Structure]) -> float:
        return float(energy(displace(step), chosen) - energy(displace(-step), chosen)) / (2.0 * step)

    for atom, axis in ((0, 0), (1, 1), (2, 2)):
        direction = torch.zeros_like(structure.positions)
        direction[atom, axis] = 1.0
        shifted = lambda h, d=direction: structure._replace(positions=structure.positions + h * d)  # noqa: E731
        # third derivatives of order 1 eV/Å^3 times step^2 / 6
        assert difference(shifted) == pytest.approx(-float(result.forces[atom, axis]), abs=1e-7)
    for row, column in ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (0, 2)):
        if method == "molecule_in_box" and row != column:
            continue  # a sheared cube is refused
        strain = torch.zeros(3, 3, dtype=torch.float64)
        strain[row, column] += 0.5
        strain[column, row] += 0.5
        shifted = lambda h, e=strain: strained(structure, h * e)  # noqa: E731
        expected = float(result.by_strain[row, column])
        assert difference(shifted) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("method", ["pbc", "slab", "molecule_in_box"])
def test_training_on_forces_keeps_no_array_of_atoms_times_wave_vectors(method: str) -> None:
    cell, pbc = KINDS[method]
    structure = random_structure(0, 60, cell, pbc, degree=1, size=6.0)
    chosen = settings(method, 1, factor=2.0)
    plan = structure.plan(chosen)
    n_waves = len(plan.k_triplets)
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Any:
        sizes.append(tensor.numel())
        return tensor

    strain = torch.zeros(3, 3, dtype=torch.float64)
    inputs = tuple(x.requires_grad_() for x in (structure.coefficients, structure.positions, strain))
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        value = function_of_inputs(structure, chosen)(*inputs)
        gradients = torch.autograd.grad(value, inputs, create_graph=True)
        torch.autograd.grad(sum(g.square().sum() for g in gradients), inputs)
    # O(N + K): at most 3 × 3 numbers per wave vector and 30 per atom (monomials up to degree 3 are 20)
    assert max(sizes) <= max(9 * n_waves, 30 * 60)
    assert 9 * n_waves < 60 * n_waves / 4
    if method == "slab":
        assert len(plan.layer_pairs) > 4
