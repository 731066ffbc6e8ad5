"""Energies of graphs that leave Python, traced for TorchScript or recorded operation by operation."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from structures import KINDS, Structure, energy, join, kind_structure
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from lsf.electrostatics.energy import coulomb_energy
from lsf.electrostatics.exported import torchscript as scripted
from lsf.electrostatics.settings import Electrostatics

Inputs = tuple[Tensor, Tensor, Tensor]


def function_of(structure: Structure, chosen: Electrostatics) -> Callable[..., Tensor]:
    plan = structure.plan(chosen)

    def function(coefficients: Tensor, positions: Tensor, cell: Tensor) -> Tensor:
        return energy(Structure(coefficients, positions, cell, structure.pbc), chosen, plan)

    return function


def inputs_of(structure: Structure) -> Inputs:
    return structure.coefficients, structure.positions, structure.cell


def with_gradients(function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """Return a function that gives energy and all first derivatives."""

    def both(*inputs: Tensor) -> tuple[Tensor, ...]:
        leaves = [value.detach().requires_grad_() for value in inputs]
        value = function(*leaves)
        return value, *torch.autograd.grad(value, leaves)

    return both


def traced(function: Callable[..., Tensor], example: Inputs) -> Callable[..., tuple[Tensor, ...]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tests on shapes, which the same lists keep
        module = torch.jit.trace(function, example, check_trace=False)
    return with_gradients(module)


def recorded(function: Callable[..., Tensor], example: Inputs) -> Callable[..., tuple[Tensor, ...]]:
    return make_fx(with_gradients(function))(*example)


@pytest.mark.parametrize("capture", [traced, recorded])
@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("method", KINDS)
def test_captured_energies_are_those_of_python(
    method: str,
    degree: int,
    capture: Callable[..., Callable[..., tuple[Tensor, ...]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scripted, "CHUNK_ELEMENTS", 7)  # of five atoms, one or two at a time
    chosen = Electrostatics(method, degree, smearing_width=1.3, backend="direct")
    structure = kind_structure(method, degree=degree)
    if method == "realspace":
        structure.positions[0] += 40.0  # where Gaussians act as points, beyond all tables
    function = function_of(structure, chosen)
    captured = capture(function, inputs_of(structure))
    # other numbers than those it was captured with, for the same lists
    generator = torch.Generator().manual_seed(5)
    other = structure._replace(
        coefficients=structure.coefficients.flip(0) + 0.1,
        positions=structure.positions
        + 0.2 * torch.rand(structure.positions.shape, generator=generator, dtype=torch.float64),
        cell=1.01 * structure.cell,
    )
    found = captured(*inputs_of(other))
    expected = with_gradients(function)(*inputs_of(other))
    for one, reference in zip(found, expected, strict=True):
        # sums in another order, of energies and derivatives up to some ten
        torch.testing.assert_close(one.detach(), reference, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("capture", [traced, recorded])
def test_a_captured_batch_sums_pairs_of_open_structures_only(
    capture: Callable[..., Callable[..., tuple[Tensor, ...]]],
) -> None:
    chosen = Electrostatics("auto", smearing_width=1.3, backend="direct")
    structures = [kind_structure("pbc"), kind_structure("realspace", n_atoms=4), kind_structure("slab")]
    coefficients, positions, cell, batch, plan = join(structures, chosen)

    def function(coefficients: Tensor, positions: Tensor, cell: Tensor) -> Tensor:
        weights = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
        return (weights * coulomb_energy(coefficients, positions, cell, batch, plan, chosen)).sum()

    inputs = (coefficients, positions, cell)
    found = capture(function, inputs)(*inputs)
    for one, reference in zip(found, with_gradients(function)(*inputs), strict=True):
        # sums in another order, of energies and derivatives up to some ten
        torch.testing.assert_close(one.detach(), reference, rtol=1e-11, atol=1e-11)
