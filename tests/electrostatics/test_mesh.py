"""The mesh: splines, spreading, the pair of sums, and energies against the exact backend in every method."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from structures import KINDS, Structure, derivatives, energy, join, kind_structure, random_structure, strained
from test_reference import CASES, case_settings, case_structure
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.graph import saved_tensors_hooks

from lsf.electrostatics.energy import coulomb_energy
from lsf.electrostatics.fourier.blocks import arrange as arrange_direct
from lsf.electrostatics.fourier.pair import fourier_gather, fourier_sum
from lsf.electrostatics.mesh import transfer as mesh_transfer
from lsf.electrostatics.mesh.errors import ORDERS, friendly_sizes, relative_force_error
from lsf.electrostatics.mesh.splines import spline_values
from lsf.electrostatics.mesh.sums import arrange
from lsf.electrostatics.multipoles import monomials
from lsf.electrostatics.plan import mesh_choice as mesh_plan
from lsf.electrostatics.plan.cache import PlanCache
from lsf.electrostatics.settings import Electrostatics

SIZE = (16, 18, 20)
TRIPLETS = torch.tensor([[0, 0, 1], [0, 0, 3], [1, -2, 0], [2, 1, -3], [1, 0, -1], [0, 1, 0], [3, 0, 2]])


def random(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def mesh_settings(method: str, degree: int = 1, accuracy: float = 1e-5, **others: float) -> Electrostatics:
    return Electrostatics(
        boundary=method, multipoles_max_l=degree, backend="mesh", mesh_accuracy=accuracy, **others
    )


@pytest.mark.parametrize("order", ORDERS)
def test_splines_sum_to_one_and_differentiate(order: int) -> None:
    offset = torch.linspace(0.0, 1.0, 12, dtype=torch.float64)[:-1].requires_grad_()
    values = spline_values(offset, order, 4)
    total = values.sum(-1)
    torch.testing.assert_close(total[:, 0], torch.ones(11, dtype=torch.float64), rtol=0, atol=1e-13)
    torch.testing.assert_close(total[:, 1:], torch.zeros(11, 4, dtype=torch.float64), rtol=0, atol=1e-11)
    for d in range(4):
        for place in range(order):
            (slope,) = torch.autograd.grad(values[:, d, place].sum(), offset, retain_graph=True)
            torch.testing.assert_close(slope, values[:, d + 1, place], rtol=0, atol=1e-11)


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_spreading_adds_each_atom_to_its_points(degree: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against one atom after the other; coordinates on faces and far outside the cell included."""
    fractional = torch.cat([3.0 * random(0, 40, 3), torch.tensor([[0.0, 1.0, -1e-17], [2.0, 0.5, 1.0]])])
    moments = random(1, 42, len(monomials(degree)))
    monkeypatch.setattr(mesh_transfer, "CHUNK_ELEMENTS", 2000)
    found = mesh_transfer.arrange_transfer(fractional, SIZE, 6).spread(moments, degree)
    expected = torch.zeros(SIZE, dtype=torch.float64)
    for row, moment in zip(fractional, moments, strict=True):
        axes = []
        for s, n in zip(row, SIZE, strict=True):
            below = torch.floor(s * n)
            values = spline_values(s * n - below, 6, degree)
            dense = torch.zeros(degree + 1, n, dtype=torch.float64)
            dense[:, (int(below) + torch.arange(-2, 4)) % n] = values
            axes.append(dense * n ** torch.arange(degree + 1)[:, None].double())
        for m, (a, b, c) in zip(moment, monomials(degree), strict=True):
            expected += m * torch.einsum("x,y,z->xyz", axes[0][a], axes[1][b], axes[2][c])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-11 * float(expected.abs().max()))


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_pair_is_adjoint_and_near_the_exact_one(degree: int) -> None:
    fractional, moments = 3.0 * random(0, 6, 3), random(1, 6, len(monomials(degree)))
    amplitudes, batch = random(2, len(TRIPLETS), 2), torch.zeros(6, dtype=torch.int64)
    pair = arrange(fractional, TRIPLETS, SIZE, 8)
    sums, gathered = pair.sum(moments, degree), pair.gather(amplitudes, degree)
    torch.testing.assert_close((amplitudes * sums).sum(), (moments * gathered).sum(), rtol=1e-12, atol=1e-10)
    exact = arrange_direct(fractional, batch, TRIPLETS, torch.zeros(7, dtype=torch.int64), 1)
    # aliases of abs(n) <= 3 on 16 points have an amplitude of (3/13)^8 = 8e-6, times (13/3)^degree
    bound = 2e-5 * 5.0**degree
    for found, expected in ((sums, exact.sum(moments, degree)), (gathered, exact.gather(amplitudes, degree))):
        assert float((found - expected).norm() / expected.norm()) < bound


def test_pair_differentiates_twice() -> None:
    fractional = random(0, 4, 3).requires_grad_()
    moments, amplitudes = random(1, 4, 4).requires_grad_(), random(2, 7, 2).requires_grad_()

    def total(fractional: Tensor, moments: Tensor) -> Tensor:
        return fourier_sum(fractional, moments, arrange(fractional, TRIPLETS, SIZE, 6), 1)

    def gathered(fractional: Tensor, amplitudes: Tensor) -> Tensor:
        return fourier_gather(fractional, amplitudes, arrange(fractional, TRIPLETS, SIZE, 6), 1)

    assert gradcheck(total, (fractional, moments), atol=1e-4, rtol=1e-5)
    assert gradcheck(gathered, (fractional, amplitudes), atol=1e-4, rtol=1e-5)
    assert gradgradcheck(total, (fractional, moments), atol=1e-2, rtol=1e-4, fast_mode=True)


def assert_within(found: Structure, chosen: Electrostatics, exact: Electrostatics, accuracy: float) -> None:
    """Forces, potentials and strain derivatives within the requested relative error, energies accordingly."""
    mesh, reference = derivatives(found, chosen), derivatives(found, exact)
    assert int(found.plan(chosen).mesh_order[0]) in ORDERS
    for name in ("forces", "by_coefficients", "by_strain"):
        expected = getattr(reference, name)
        error = float((getattr(mesh, name) - expected).norm())
        # forces of a few atoms of high symmetry may all but vanish: potentials set the scale then
        scale = max(float(expected.norm()), 0.1 * float(reference.by_coefficients.norm()))
        assert error < accuracy * scale, name
    scale = float((found.coefficients * reference.by_coefficients).abs().sum())
    assert abs(float(mesh.energy - reference.energy)) < accuracy * scale


@pytest.mark.parametrize("accuracy", [1e-4, 1e-7])
@pytest.mark.parametrize("degree", [0, 1, 2])
@pytest.mark.parametrize("method", KINDS)
def test_random_cells_agree_with_exact_sums(method: str, degree: int, accuracy: float) -> None:
    structure = kind_structure(method, seed=3, n_atoms=24, degree=degree)
    chosen = mesh_settings(method, degree, accuracy)
    exact = Electrostatics(boundary=method, multipoles_max_l=degree, backend="direct")
    # the estimate is a mean over many atoms; coefficients of order one have quadrupoles far beyond its own
    assert_within(structure, chosen, exact, accuracy * (3.0, 3.0, 10.0)[degree])


SOFT_CASES = [name for name in CASES if CASES[name]["sigma"] >= 0.4 and "far" not in name]


@pytest.mark.parametrize("name", SOFT_CASES)
def test_reference_cases_agree_with_exact_sums(name: str) -> None:
    case = CASES[name]
    method, degree, sigma = case_settings(case).boundary, case["lmax"], case["sigma"]
    structure = case_structure(case)
    extent = float(np.ptp(structure.positions.numpy(), axis=0).max())
    if method == "realspace" and extent > 30.0:
        pytest.skip("a box for atoms far apart has more mesh points than a unit test should")
    chosen = mesh_settings(method, degree, 1e-5, smearing_width=sigma)
    exact = Electrostatics(boundary=method, multipoles_max_l=degree, smearing_width=sigma, backend="direct")
    # one or two atoms and nothing else: up to ten times the mean over many that the estimate is
    assert_within(structure, chosen, exact, 1e-5 * (10.0, 20.0, 20.0)[degree])


def test_mesh_energy_does_not_change_under_translation_and_forces_cancel() -> None:
    structure = kind_structure("pbc", n_atoms=20)
    chosen = mesh_settings("pbc", accuracy=1e-3)
    moved = structure._replace(positions=structure.positions + torch.tensor([0.31, -1.7, 0.05]))
    # rounding only, although the mesh itself errs by 1e-3
    assert float(energy(moved, chosen) - energy(structure, chosen)) == pytest.approx(0.0, abs=1e-11)
    assert derivatives(structure, chosen).forces.sum(0).abs().max() < 1e-11


@pytest.mark.parametrize("method", KINDS)
def test_first_and_second_derivatives(method: str) -> None:
    structure = kind_structure(method, n_atoms=3, degree=1)
    chosen = mesh_settings(method, 1, 1e-3, kspace_cutoff_factor=0.9, smearing_width=1.5)
    plan = structure.plan(chosen)

    def function(coefficients: Tensor, positions: Tensor, strain: Tensor) -> Tensor:
        leaf = structure._replace(coefficients=coefficients, positions=positions)
        return energy(strained(leaf, strain), chosen, plan)

    strain = torch.zeros(3, 3, dtype=torch.float64)
    inputs = tuple(x.requires_grad_() for x in (structure.coefficients, structure.positions, strain))
    assert gradcheck(function, inputs, atol=1e-6, fast_mode=True)
    assert gradgradcheck(function, inputs, atol=1e-5, fast_mode=True)


def test_batch_of_meshes_and_pairs_is_one_by_one() -> None:
    chosen = mesh_settings("auto")
    structures = [
        kind_structure("pbc", seed=1, n_atoms=9),
        kind_structure("realspace", seed=2, n_atoms=4),
        kind_structure("slab", seed=3, n_atoms=6),
    ]
    coefficients, positions, cells, batch, plan = join(structures, chosen)
    found = coulomb_energy(coefficients, positions, cells, batch, plan, chosen)
    alone = torch.stack([energy(structure, chosen) for structure in structures])
    torch.testing.assert_close(found, alone, rtol=1e-12, atol=1e-12)
    # exact sums and a mesh side by side
    plan = plan._replace(mesh_order=plan.mesh_order * torch.tensor([1, 1, 0]))
    mixed = coulomb_energy(coefficients, positions, cells, batch, plan, chosen)
    torch.testing.assert_close(mixed[:2], alone[:2], rtol=1e-12, atol=1e-12)
    assert float(mixed[2] - alone[2]) == pytest.approx(0.0, abs=1e-4)


def test_training_on_forces_keeps_no_mesh_and_no_stencils() -> None:
    structure = random_structure(0, 60, np.eye(3) * 9.0, (True, True, True), degree=1, size=9.0)
    chosen = mesh_settings("pbc", 1, 1e-6)
    plan = structure.plan(chosen)
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    positions = structure.positions.requires_grad_()
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        value = energy(structure, chosen, plan)
        (forces,) = torch.autograd.grad(value, positions, create_graph=True)
        torch.autograd.grad(forces.square().sum(), positions)
    assert max(sizes) <= max(9 * len(plan.k_triplets), 30 * 60)
    assert int(plan.mesh_size[0].prod()) > 2 * max(sizes)


def test_estimate_bounds_the_measured_error_without_waste() -> None:
    structure = random_structure(0, 200, np.eye(3) * 12.6, (True, True, True), degree=1, size=12.6)
    coefficients = structure.coefficients * torch.tensor([1.0, 0.4, 0.4, 0.4])
    structure = structure._replace(coefficients=coefficients)
    exact = derivatives(structure, Electrostatics("pbc", backend="direct")).forces
    for accuracy in (1e-3, 1e-5, 1e-7):
        found = derivatives(structure, mesh_settings("pbc", 1, accuracy)).forces
        error = float((found - exact).norm() / exact.norm())
        assert accuracy / 100.0 < error < accuracy


def test_error_falls_with_spacing_and_order() -> None:
    errors = [relative_force_error(order, h, 1, 3.5, 1.5) for order in ORDERS for h in (0.6, 0.4)]
    assert errors[0] > errors[1] > errors[3]
    assert errors[0] > errors[2] > errors[3]


def test_mesh_points_grow_like_the_volume() -> None:
    """From 1e3 to 1e6 atoms, at constant density: O(N) memory."""
    request = mesh_plan.MeshRequest("mesh", 1, 1.5, 2.3, 1e-5)
    points = []
    for n_atoms in (1000, 1_000_000):
        cell = np.eye(3) * (n_atoms / 0.1) ** (1.0 / 3.0)
        points.append(np.prod(mesh_plan.choose_mesh(request, cell, request.k_cutoff, n_atoms).size))
    assert np.log10(points[1] / points[0]) / 3.0 < 1.05


def test_sizes_suit_fast_fourier_transforms() -> None:
    assert friendly_sizes(np.array([1.0, 11.0, 33.5])).tolist() == [2, 12, 36]


def test_auto_takes_pairs_and_direct_sums_for_small_and_meshes_for_large_structures() -> None:
    for method, size in (("pbc", None), ("realspace", 60.0)):
        for n_atoms, meshed in ((100, False), (20_000, True)):
            edge = size or (n_atoms / 0.1) ** (1.0 / 3.0)
            pbc = (method == "pbc",) * 3
            structure = random_structure(0, n_atoms, np.eye(3) * edge, pbc, 1, size=edge)
            plan = structure.plan(Electrostatics(boundary=method))
            assert bool(plan.mesh_order > 0) is meshed
            assert (plan.open_pairs.shape[1] > 0) is (method == "realspace" and not meshed)


def test_cached_plans_keep_their_mesh_while_it_is_fit() -> None:
    cache, chosen = PlanCache(), mesh_settings("pbc")
    structure = random_structure(0, 30, np.eye(3) * 12.0, (True, True, True), 1, size=12.0)
    sizes = []
    for factor in (1.0, 1.02, 0.97, 1.05, 1.5):
        cell = structure.cell.numpy() * factor
        plan = cache(chosen, structure.positions.numpy() * factor, cell, np.array(structure.pbc))
        sizes.append(plan.mesh_size.tolist())
    assert sizes[0] == sizes[1] == sizes[2] == sizes[3]
    assert sizes[4] != sizes[0]


@pytest.mark.parametrize(("order", "spacing", "degree"), [(6, 0.5, 0), (6, 0.7, 1), (8, 0.6, 2)])
def test_estimate_is_its_formula(order: int, spacing: float, degree: int) -> None:
    """Aliases k + 2πm/h along one axis, written out as vectors, on another grid of quadrature."""
    k_cutoff, width = 3.5, 1.5
    nodes, weights = np.polynomial.legendre.leggauss(64)

    def power(squared: np.ndarray) -> np.ndarray:
        dipoles, quadrupoles = 0.4**2 * squared / width**2, 0.4**2 * squared**2 / (9.0 * width**4)
        return 1.0 + (degree >= 1) * dipoles + (degree >= 2) * quadrupoles

    size, cosine = (0.5 * k_cutoff * (nodes + 1.0))[:, None], (0.5 * (nodes + 1.0))[None, :]
    vectors = np.stack([size * np.sqrt(1.0 - cosine**2), 0.0 * size * cosine, size * cosine], -1)
    # k² dk of the volume element times the square of the kernel exp(-k²) / k²
    volume = weights[:, None] * weights[None, :] * size**2 * (np.exp(-(size**2)) / size**2) ** 2
    errors, force = 0.0, (volume * power(size**2) ** 2 * size**2).sum()
    for alias in (-2, -1, 1, 2):
        shifted = vectors + np.array([0.0, 0.0, 2.0 * np.pi * alias / spacing])
        squared = (shifted**2).sum(-1)
        share = (vectors[..., 2] / shifted[..., 2]) ** (2 * order)
        # three axes
        errors += 3.0 * (volume * power(size**2) * power(squared) * share * (size**2 + squared)).sum()
    expected = 3.0 * np.sqrt(errors / force)
    assert relative_force_error(order, spacing, degree, k_cutoff, width) == pytest.approx(expected, rel=1e-7)


def test_chosen_meshes_keep_the_accuracy_at_any_size() -> None:
    """Cells of 400 sizes, some just below a friendlier number of points."""
    request = mesh_plan.MeshRequest("mesh", 1, 1.5, 2.3, 1e-5)
    for edge in np.linspace(15.0, 40.0, 400):
        mesh = mesh_plan.choose_mesh(request, np.eye(3) * edge, request.k_cutoff, 1000)
        spacing = edge / mesh.size[0] / 1.5
        # bisected to 1e-9 of the spacing
        assert relative_force_error(mesh.order, spacing, 1, 2.3 * 1.5, 1.5) <= 1e-5 * (1.0 + 1e-6)


@pytest.mark.parametrize("shift", [0.0, 300.0])
def test_truncation_reaches_across_a_cluster_and_its_gap(shift: float) -> None:
    """An octahedron: 2 r from corner to corner, less than the diagonal of its extents."""
    request = mesh_plan.MeshRequest("mesh", 1, 1.5, 2.3, 1e-5)
    for radius in (10.24, 10.26):
        corners = np.concatenate([np.eye(3), -np.eye(3)]) * radius + shift
        found = mesh_plan.truncation(request, corners)
        # eight widths of empty space, and multiples of 0.5 Å: 20.48 + 12 → 32.5, 20.52 + 12 → 33
        expected = 32.5 if radius < 10.25 else 33.0
        assert found.radius == expected
        assert found.box == (np.ceil(2.0 * (2.0 * radius + expected + 12.0)) / 2.0,) * 3
