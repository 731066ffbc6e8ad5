"""GPU kernels against the plain backends; without a CUDA device they run in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from structures import derivatives, energy, join, kind_structure, random_structure
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx

from lsf.electrostatics import gpu as kernels
from lsf.electrostatics.energy import coulomb_energy
from lsf.electrostatics.fourier import blocks as fourier_blocks
from lsf.electrostatics.mesh.transfer import arrange_transfer
from lsf.electrostatics.multipoles import monomials
from lsf.electrostatics.open_space import open_energy
from lsf.electrostatics.settings import Electrostatics
from lsf.machine import triton as machine

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton is not installed: pip install 'lsf[gpu]' (Linux)",
)

# float64: both sides round at 1e-16 and sum some ten terms of similar size. float32: inputs carry 6e-8.
FLOORS = {torch.float64: 1e-13, torch.float32: 2e-6}

N_ATOMS, N_WAVES = (5, 0, 2, 3), (40, 4, 0, 7)  # no atoms, no wave vectors, less than a block, more than one


def random(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(DEVICE)


def rows(counts: tuple[int, ...]) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(DEVICE)


def half_space(n: int, seed: int, largest: int = 5) -> Tensor:
    grid = torch.cartesian_prod(*[torch.arange(-largest, largest + 1)] * 3)
    chosen = np.random.default_rng(seed).permutation(len(grid) // 2)[:n]
    return grid[len(grid) // 2 + 1 + torch.from_numpy(chosen)].to(DEVICE)


def assert_same(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert found.dtype == dtype
    assert found.shape == expected.shape
    scale = expected.abs().max().item() if expected.numel() else 1.0
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=FLOORS[dtype] * scale)


# --- what a user meets without a GPU --------------------------------------------------------------------


def test_without_triton_and_gpu_the_message_names_extra_and_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (kernels, machine):
        monkeypatch.setattr(module, "triton_installed", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    structure = kind_structure("pbc")
    for method in ("pbc", "realspace"):
        structure = kind_structure(method)
        with pytest.raises(kernels.KernelError, match=r"pip install 'lsf\[gpu\]'.* on 'cpu', not on a CUDA"):
            energy(structure, Electrostatics(boundary=method, backend="kernel"))


def test_with_triton_but_no_gpu_the_message_names_the_device_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (kernels, machine):
        monkeypatch.setattr(module, "triton_installed", lambda: True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(kernels.KernelError, match="cannot be used: the tensors are on 'cpu', not on a CUDA"):
        kernels.require_kernels(torch.device("cpu"))
    kernels.require_kernels(torch.device("cuda"))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    kernels.require_kernels(torch.device("cpu"))


# --- the Fourier pair ---------------------------------------------------------------------------------


@needs_triton
@pytest.mark.parametrize("degree", [0, 1, 2, 4])
def test_fourier_sums_are_those_of_the_direct_backend(degree: int) -> None:
    """Unequal structures, one without atoms, one without wave vectors; sums in one and in several parts."""
    from lsf.electrostatics.gpu.fourier import KernelPair

    batch, k_batch = rows(N_ATOMS), rows(N_WAVES)
    triplets = torch.cat([half_space(n, seed) for seed, n in enumerate(N_WAVES)])
    fractional = 2.0 * random(0, len(batch), 3)
    arguments = (fractional, batch, triplets, k_batch, len(N_ATOMS))
    exact, pair = fourier_blocks.arrange(*arguments), kernels.arrange_kernel(*arguments)
    assert isinstance(pair, KernelPair)
    assert (pair.n_atoms, pair.n_k) == (exact.n_atoms, exact.n_k)
    moments, amplitudes = random(1, len(batch), len(monomials(degree))), random(2, len(k_batch), 2)
    sums, gathered = exact.sum(moments, degree), exact.gather(amplitudes, degree)
    assert_same(pair.sum(moments, degree), sums, torch.float64)
    assert_same(pair.gather(amplitudes, degree), gathered, torch.float64)
    # float64 coordinates beside float32 values: phases stay exact
    parted = pair._replace(grid=pair.grid._replace(sizes=[2, 3, 64 if DEVICE == "cpu" else 32]))
    if parted.grid.sizes[2] == 64:
        narrow = kernels.arrange_kernel(fractional.float(), *arguments[1:])
        parted = parted._replace(grid=narrow.grid._replace(sizes=[2, 3, 64]))
    assert_same(parted.sum(moments.float(), degree), sums, torch.float32)
    assert_same(parted.gather(amplitudes.float(), degree), gathered, torch.float32)


@needs_triton
def test_phases_of_single_precision_do_not_lose_digits_to_large_integers_or_far_atoms() -> None:
    triplets = torch.tensor([[200, -173, 91], [0, 1, -255]]).to(DEVICE)
    batch, k_batch = (
        torch.zeros(4, dtype=torch.int64).to(DEVICE),
        torch.zeros(2, dtype=torch.int64).to(DEVICE),
    )
    # the last two: half a turn, where 32 bits overflow, and a whole one
    exact = torch.tensor([[1000.1, -0.3, 7.7], [0.25, -900.6, 0.0], [0.5, -0.5, 0.5], [1.0, 2.0, 0.0]])
    fractional = exact.double().to(DEVICE)
    pair = kernels.arrange_kernel(fractional, batch, triplets, k_batch, 1)
    charges = random(0, 4, 1)
    turns = fractional @ triplets.T.double()
    phases = torch.exp(-2j * torch.pi * (turns - turns.round()))
    expected = torch.view_as_real((charges * phases).sum(0))
    found = pair.sum(charges.float(), 0)
    # 255 · 2^-33 of a turn, 2e-7 radians, on top of the rounding of the charges
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)
    # products of 200 and 1000 turns leave 13 digits
    torch.testing.assert_close(pair.sum(charges, 0), expected, rtol=0, atol=1e-11)


@needs_triton
@pytest.mark.parametrize(("n_atoms", "n_k"), [(0, 3), (2, 0), (0, 0)])
def test_nothing_to_sum_gives_zeros(n_atoms: int, n_k: int) -> None:
    batch, k_batch = torch.zeros(n_atoms, dtype=torch.int64), torch.zeros(n_k, dtype=torch.int64)
    pair = kernels.arrange_kernel(
        random(0, n_atoms, 3), batch.to(DEVICE), half_space(n_k, 0), k_batch.to(DEVICE), 1
    )
    assert torch.equal(pair.sum(random(1, n_atoms, 4), 1), random(0, n_k, 2) * 0.0)
    assert torch.equal(pair.gather(random(1, n_k, 2), 1), random(0, n_atoms, 4) * 0.0)


def small_pair() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Coordinates, batch, triplets and their structures: two atoms and one, two wave vectors each."""
    triplets = torch.tensor([[0, 0, 1], [1, -2, 0], [2, 1, -3], [0, 1, 1]]).to(DEVICE)
    return random(5, 3, 3).requires_grad_(), rows((2, 1)), triplets, rows((2, 2))


@needs_triton
def test_operators_of_the_fourier_pair_are_their_own_derivatives() -> None:
    from lsf.electrostatics.gpu.fourier import fourier_gather, fourier_sum, kernel_grid

    fractional, batch, triplets, k_batch = small_pair()
    grid = kernel_grid(batch, triplets, k_batch, 2, torch.float64)
    moments, amplitudes = random(6, 3, 4).requires_grad_(), random(7, 4, 2).requires_grad_()
    # random directions (fast_mode): an interpreted kernel takes a tenth of a second
    assert gradcheck(partial(fourier_sum, grid=grid, degree=1), (fractional, moments), fast_mode=True)
    assert gradcheck(partial(fourier_gather, grid=grid, degree=1), (fractional, amplitudes), fast_mode=True)
    # the second sum is differentiated twice on the way
    charges = moments.detach()[:, :1].requires_grad_()
    assert gradgradcheck(partial(fourier_sum, grid=grid, degree=0), (fractional, charges), fast_mode=True)


def forces(fractional: Tensor, moments: Tensor, batch: Tensor, triplets: Tensor, k_batch: Tensor) -> Tensor:
    from lsf.electrostatics.gpu.fourier import fourier_sum, kernel_grid

    grid = kernel_grid(batch, triplets, k_batch, 2, torch.float64)
    value = fourier_sum(fractional, moments, grid, 1).square().sum()
    return torch.autograd.grad(value, fractional, create_graph=True)[0]


@needs_triton
def test_a_traced_graph_of_forces_holds_the_operators_and_takes_other_sizes() -> None:
    fractional, *lists = small_pair()
    traced = make_fx(forces, tracing_mode="symbolic")(fractional, random(6, 3, 4), *lists)
    names = [str(node.target) for node in traced.graph.nodes]
    assert "lsf.fourier_sum.default" in names
    assert "lsf.fourier_gather.default" in names
    other = (random(8, 5, 3).requires_grad_(), random(9, 5, 4), rows((1, 4)), half_space(6, 3), rows((4, 2)))
    torch.testing.assert_close(traced(*other), forces(*other), rtol=0, atol=1e-12)


@needs_triton
def test_compiled_energies_and_derivatives_are_the_eager_ones() -> None:
    """No graph break. The code generator is left out: in the interpreter operators are opaque to it."""
    from lsf.electrostatics.gpu.fourier import fourier_sum, kernel_grid

    fractional, batch, triplets, k_batch = small_pair()
    moments = random(6, 3, 4).requires_grad_()

    def value(s: Tensor, m: Tensor) -> Tensor:
        grid = kernel_grid(batch, triplets, k_batch, 2, torch.float64)
        return fourier_sum(s, m, grid, 1).square().sum()

    compiled = torch.compile(value, backend="aot_eager", fullgraph=True)
    found = torch.autograd.grad(compiled(fractional, moments), (fractional, moments))
    expected = torch.autograd.grad(value(fractional, moments), (fractional, moments))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


# from 2.14 on, torch warns of a look at its own copies of the inputs
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@needs_triton
def test_operators_keep_the_contract_of_the_dispatcher() -> None:
    """Schema, fake tensors, autograd and ahead-of-time dispatch with dynamic shapes."""
    from lsf.electrostatics.gpu import fourier, mesh, pairs

    fractional, batch, triplets, k_batch = small_pair()
    moments = random(6, 3, 4).requires_grad_()
    grid = fourier.kernel_grid(batch, triplets, k_batch, 2, torch.float64)
    torch.library.opcheck(fourier._fourier_sum, (fractional, moments, *grid, 1))
    torch.library.opcheck(fourier._fourier_gather, (fractional, random(7, 4, 2).requires_grad_(), *grid, 0))
    splines = mesh.spline_table(6, torch.float64, fractional.device)
    charges = random(6, 3, 1).requires_grad_()
    one = fractional.detach()[:1].requires_grad_()
    torch.library.opcheck(mesh._mesh_spread, (one, charges.detach()[:1], [splines], [4, 5, 6, 6], 0))
    torch.library.opcheck(mesh._mesh_interpolate, (one, random(8, 4, 5, 6), [splines], [4, 5, 6, 6], 0))
    tables, parts, _ = pairs.pair_grid(batch, torch.tensor([True, True]).to(DEVICE))
    torch.library.opcheck(pairs._open_potential, (fractional, charges, tables, parts, 0, 0))


# --- the mesh ---------------------------------------------------------------------------------------------


@needs_triton
@pytest.mark.parametrize(("order", "degree"), [(6, 0), (6, 2), (8, 1)])
def test_mesh_transfer_is_that_of_the_mesh_backend(order: int, degree: int) -> None:
    size = (9, 6, 10)  # the second axis shorter than an atom's 8 points
    fractional = torch.cat([3.0 * random(0, 2, 3), torch.tensor([[0.0, 1.0, -1e-17]]).double().to(DEVICE)])
    moments, potential = random(1, 3, len(monomials(degree))), random(2, *size)
    exact = arrange_transfer(fractional, size, order)
    found = kernels.kernel_transfer(fractional, size, order)
    mesh, values = exact.spread(moments, degree), exact.interpolate(potential, degree)
    assert_same(found.spread(moments, degree), mesh, torch.float64)
    assert_same(found.interpolate(potential, degree), values, torch.float64)
    single = kernels.kernel_transfer(fractional.float(), size, order)
    # coordinates of three periods in single precision: 2e-7 of a period, 2e-6 of a mesh cell
    tolerance = 1e-5 * mesh.abs().max().item()
    torch.testing.assert_close(single.spread(moments.float(), degree).double(), mesh, rtol=0, atol=tolerance)
    tolerance = 1e-5 * values.abs().max().item()
    found_values = single.interpolate(potential.float(), degree)
    torch.testing.assert_close(found_values.double(), values, rtol=0, atol=tolerance)


@needs_triton
def test_mesh_operators_are_their_own_derivatives() -> None:
    from lsf.electrostatics.gpu.mesh import KernelTransfer, spline_table

    fractional = random(0, 1, 3).requires_grad_()
    splines = spline_table(6, torch.float64, fractional.device)
    charges, potential = random(1, 1, 1).requires_grad_(), random(2, 4, 5, 6).requires_grad_()

    def spread(s: Tensor, q: Tensor) -> Tensor:
        return KernelTransfer(s, (4, 5, 6), 6, splines).spread(q, 0)

    def interpolate(s: Tensor, mesh: Tensor) -> Tensor:
        return KernelTransfer(s, (4, 5, 6), 6, splines).interpolate(mesh, 0)

    assert gradcheck(spread, (fractional, charges), fast_mode=True)
    assert gradcheck(interpolate, (fractional, potential), fast_mode=True)
    # interpolation is differentiated twice on the way
    assert gradgradcheck(spread, (fractional, charges), fast_mode=True)


# --- open structures --------------------------------------------------------------------------------------


@needs_triton
@pytest.mark.parametrize(("degree", "dtype"), [(0, torch.float64), (1, torch.float32), (2, torch.float64)])
def test_pair_sum_and_its_derivatives_are_those_of_the_pair_list(degree: int, dtype: torch.dtype) -> None:
    """Atoms almost on top of each other, 60 Å apart, alone and in a structure that is not open."""
    batch = rows((3, 1, 1))
    is_open = torch.tensor([True, False, True]).to(DEVICE)
    positions = 2.0 * random(0, 5, 3)
    positions[1] = positions[0] + 1e-3
    positions[2] += 60.0
    positions.requires_grad_()
    coefficients = random(1, 5, (degree + 1) ** 2).requires_grad_()
    pairs = torch.tensor([[0, 0, 1], [1, 2, 2]]).to(DEVICE)
    results = []
    for energies in (
        kernels.kernel_open_energy(coefficients.to(dtype), positions, batch, is_open, 0.8),
        open_energy(coefficients, positions, pairs, batch, 3, 0.8),
    ):
        inputs = (positions, coefficients)
        first = torch.autograd.grad(energies.sum(), inputs, create_graph=True)
        results.append((energies, *first))
        if degree < 2:  # the interpreter takes seconds for the sixth derivative of 1/r
            results[-1] += torch.autograd.grad(first[0].square().sum() + first[1].square().sum(), inputs)
    for found, expected in zip(*results, strict=True):
        scale = expected.abs().max().item()
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=FLOORS[dtype] * scale)


# --- the whole energy -------------------------------------------------------------------------------------


@needs_triton
@pytest.mark.parametrize("method", ["pbc", "slab", "realspace"])
def test_energies_and_derivatives_are_those_of_the_direct_backend(method: str) -> None:
    """sigma = 2 Å keeps the lists short enough for the interpreter."""
    structure = kind_structure(method, n_atoms=3)
    options = {"boundary": method, "smearing_width": 2.0, "kspace_cutoff_factor": 1.0}
    found = derivatives(structure, Electrostatics(backend="kernel", **options))
    expected = derivatives(structure, Electrostatics(backend="direct", **options))
    for ours, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-11)


@needs_triton
def test_a_batch_of_open_and_periodic_structures_is_one_by_one() -> None:
    settings = Electrostatics(boundary="auto", backend="kernel", smearing_width=2.0, kspace_cutoff_factor=1.0)
    cell = np.eye(3) * 9.0
    structures = [
        random_structure(0, 2, cell, (True, True, True), 1),
        random_structure(1, 3, np.zeros((3, 3)), (False, False, False), 1),
        random_structure(2, 1, 0.8 * cell, (True, True, True), 1),
    ]
    together = coulomb_energy(*join(structures, settings), settings)
    alone = torch.stack([energy(structure, settings) for structure in structures])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


# --- what the GPU will get ----------------------------------------------------------------------------------


@needs_triton
@pytest.mark.slow
def test_every_program_compiles_for_a_hopper_gpu_and_is_captured_in_graphs() -> None:
    """In a process without the interpreter; Triton's compiler needs no GPU when it is told the target."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["compiled", "10", "captured", "5"]
