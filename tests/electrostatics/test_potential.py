"""Potentials, fields and densities: against energies with a probe, against closed forms, on grids."""

from __future__ import annotations

import math

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis.strategies import floats, integers, lists, sampled_from
from structures import KINDS, Structure, derivatives, energy, kind_structure, random_structure
from torch import Tensor

from lsf.electrostatics.multipoles import dipoles
from lsf.electrostatics.potential import sums as potential_sums
from lsf.electrostatics.potential.grid import Grid, grid_points, planar_average, structure_grid
from lsf.electrostatics.potential.structure import ChargedStructure
from lsf.electrostatics.potential.values import (
    density_at,
    density_on_grid,
    field_on_grid,
    potential_at,
    potential_at_atoms,
    potential_on_grid,
)
from lsf.electrostatics.settings import Electrostatics
from lsf.errors import BoundaryError, LsfError
from lsf.units import COULOMB_CONSTANT

# points inside a molecule, between atoms, and outside
POINTS = torch.tensor(
    [[0.3, 1.0, 2.0], [2.5, 2.5, 2.5], [4.0, -1.5, 6.5], [-2.0, 5.0, 1.0]], dtype=torch.float64
)
VARIANTS = [*KINDS, "dipole"]


def charged(structure: Structure) -> ChargedStructure:
    return ChargedStructure(
        structure.coefficients, structure.positions, structure.cell, np.array(structure.pbc)
    )


def variant(name: str, degree: int = 1, **changes: object) -> tuple[Structure, Electrostatics]:
    """One structure of every kind, and a slab in the older dipole correction."""
    if name == "dipole":
        slab = random_structure(5, 5, np.diag([6.0, 7.0, 20.0]), (True, True, False), degree)
        return slab, Electrostatics("slab", degree, correction="dipole", **changes)
    return kind_structure(name, degree=degree), Electrostatics(name, degree, **changes)


def with_probe(structure: Structure, point: Tensor, coefficients: Tensor) -> Structure:
    return structure._replace(
        coefficients=torch.cat([structure.coefficients, coefficients[None]]),
        positions=torch.cat([structure.positions, point[None]]),
    )


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("probe_width", [0.0, 0.7, 1.5])
@pytest.mark.parametrize("name", VARIANTS)
def test_potential_is_the_energy_of_a_probe(name: str, probe_width: float, degree: int) -> None:
    """V and ∇V are dE/dq and dE/dp of an atom without multipoles, at the width of both together."""
    structure, settings = variant(name, degree)
    found = potential_at(charged(structure), POINTS, settings, probe_width)
    width = math.sqrt((settings.smearing_width**2 + probe_width**2) / 2.0)
    smeared = attrs.evolve(settings, smearing_width=width)
    for point, potential, field in zip(POINTS, *found, strict=True):
        nothing = torch.zeros((degree + 1) ** 2, dtype=torch.float64)
        by_probe = derivatives(with_probe(structure, point, nothing), smeared).by_coefficients[-1:]
        # different internal slab lengths where the points together reach further than one: truncation error
        tolerance = 2e-4 if name == "slab" else 1e-10
        torch.testing.assert_close(potential, by_probe[0, 0], rtol=0.0, atol=tolerance)
        torch.testing.assert_close(-field, dipoles(by_probe[:, :4])[0], rtol=0.0, atol=tolerance)


@pytest.mark.parametrize("name", VARIANTS)
def test_test_charge_gains_charge_times_potential(name: str) -> None:
    structure, settings = variant(name, kspace_cutoff_factor=2.2)
    width = settings.smearing_width
    values = potential_at(charged(structure), POINTS[:2], settings, width).potential
    for point, potential in zip(POINTS[:2], values, strict=True):
        tiny = torch.tensor([1e-3, 0.0, 0.0, 0.0], dtype=torch.float64)
        gains = [float(energy(with_probe(structure, point, sign * tiny), settings)) for sign in (1, -1)]
        # the probe's own energy is even in its charge; k_c σ = 6 leaves 1e-10 of slab lengths
        assert (gains[0] - gains[1]) / 2e-3 == pytest.approx(float(potential), abs=1e-8)


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("name", VARIANTS)
def test_potential_at_atoms_is_the_derivative_of_the_energy(name: str, include_self: bool) -> None:
    structure, settings = variant(name, include_self_interaction=include_self)
    found = potential_at_atoms(charged(structure), settings)
    expected = derivatives(structure, settings).by_coefficients
    torch.testing.assert_close(found.potential, expected[:, 0], rtol=0.0, atol=1e-11)
    torch.testing.assert_close(-found.electric_field, dipoles(expected), rtol=0.0, atol=1e-11)


@pytest.mark.parametrize("pairs_at_once", [potential_sums.PAIRS_AT_ONCE, 1])
def test_potential_of_a_wide_slab(pairs_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In-plane waves longer than the internal cell, whose images along the normal overlap the most."""
    monkeypatch.setattr(potential_sums, "PAIRS_AT_ONCE", pairs_at_once)
    cell = np.array([[70.0, 0.0, 0.0], [12.0, 64.0, 0.0], [0.0, 0.0, 30.0]])
    slab = random_structure(5, 40, cell, (True, True, False), 1, size=20.0)
    slab.positions[:, 2] *= 0.1
    settings = Electrostatics("slab", 1, smearing_width=1.5)
    found = potential_at(charged(slab), slab.positions, settings, settings.smearing_width)
    expected = derivatives(slab, settings).by_coefficients
    torch.testing.assert_close(found.potential, expected[:, 0], rtol=0.0, atol=1e-10)
    torch.testing.assert_close(-found.electric_field, dipoles(expected), rtol=0.0, atol=1e-10)


def test_point_potential_at_atoms_leaves_out_their_own_density_on_request() -> None:
    structure, settings = variant("realspace", include_self_interaction=False)
    found = potential_at_atoms(charged(structure), settings, probe_width=0.0)
    others = structure._replace(coefficients=structure.coefficients[1:], positions=structure.positions[1:])
    expected = potential_at(charged(others), structure.positions[:1], settings)
    torch.testing.assert_close(found.potential[:1], expected.potential, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(found.electric_field[:1], expected.electric_field, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("degree", [0, 1, 2])
@pytest.mark.parametrize("name", VARIANTS)
def test_field_is_minus_the_gradient(name: str, degree: int) -> None:
    structure, settings = variant(name, degree)
    step = 1e-4
    field = potential_at(charged(structure), POINTS, settings).electric_field
    # all displaced points in one call: they share an internal slab cell with the others to the last bit
    shifts = step * torch.cat([torch.eye(3), -torch.eye(3)]).double()
    moved = (POINTS[:, None] + shifts).reshape(-1, 3)
    values = potential_at(charged(structure), torch.cat([POINTS, moved]), settings).potential[len(POINTS) :]
    values = values.reshape(-1, 2, 3)
    # second-order differences: h² V''' / 6 with V''' of order 1 V/Å³
    torch.testing.assert_close(field, -(values[:, 0] - values[:, 1]) / (2 * step), rtol=0.0, atol=1e-7)


@pytest.mark.parametrize("name", VARIANTS)
def test_field_obeys_gauss(name: str) -> None:
    """∇·E = 4π k_e (ρ - background); the background exists in periodic cells and in what imitates them."""
    structure, settings = variant(name, 2, kspace_cutoff_factor=4.0)
    density = density_at(charged(structure), POINTS, settings)
    charge = float(structure.coefficients[:, 0].sum())
    background = 0.0
    if name in ("pbc", "dipole"):
        background = charge / abs(float(torch.linalg.det(structure.cell)))
    step = 1e-3
    shifts = step * torch.cat([torch.eye(3), -torch.eye(3)]).double()
    moved = (POINTS[:, None] + shifts).reshape(-1, 3)
    field = potential_at(charged(structure), moved, settings).electric_field.reshape(-1, 2, 3, 3)
    divergence = (field[:, 0] - field[:, 1]).diagonal(dim1=1, dim2=2).sum(-1) / (2 * step)
    expected = 4.0 * math.pi * COULOMB_CONSTANT * (density - background)
    # differences: h² E''' / 6, E''' of order 1
    torch.testing.assert_close(divergence, expected, rtol=0.0, atol=3e-6)


def test_probe_width_averages_the_potential() -> None:
    """Gauss–Hermite average of the point potential over the probe's Gaussian."""
    structure, settings = variant("pbc", kspace_cutoff_factor=2.5)
    nodes, weights = np.polynomial.hermite_e.hermegauss(14)
    weights = weights / weights.sum()
    width = 0.8
    mesh = np.stack(np.meshgrid(nodes, nodes, nodes, indexing="ij"), -1).reshape(-1, 3)
    product = np.einsum("i,j,k->ijk", weights, weights, weights).reshape(-1)
    points = POINTS[:1] + width * torch.from_numpy(mesh)
    average = (torch.from_numpy(product) * potential_at(charged(structure), points, settings).potential).sum()
    expected = potential_at(charged(structure), POINTS[:1], settings, probe_width=width).potential[0]
    torch.testing.assert_close(average, expected, rtol=0.0, atol=1e-7)


def test_potential_in_a_box_converges_to_the_open_one() -> None:
    """Close to the molecule, charged, with the fifth power of the box as the energy does."""
    molecule = random_structure(2, 6, np.zeros((3, 3)), (False,) * 3, 1, size=3.0)
    points = molecule.positions.mean(0) + torch.tensor([[1.0, 0.5, -1.0], [0.2, -1.5, 0.7]]).double()
    isolated = potential_at(charged(molecule), points, Electrostatics("realspace", 1, 1.0)).potential
    settings = Electrostatics("molecule_in_box", 1, 1.0, kspace_cutoff_factor=2.6)
    errors = []
    for edge in (20.0, 30.0):
        boxed = molecule._replace(cell=edge * torch.eye(3).double())
        errors.append(float((potential_at(charged(boxed), points, settings).potential - isolated).norm()))
    # corrections of relative order (size / L)²
    assert 4.7 < math.log(errors[0] / errors[1]) / math.log(1.5) < 5.3


@hypothesis_settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=integers(0, 10**6),
    method=sampled_from(sorted(KINDS)),
    shift=lists(floats(-30.0, 30.0), min_size=3, max_size=3),
)
def test_potentials_move_with_their_atoms(seed: int, method: str, shift: list[float]) -> None:
    """Any structure, charged or not: moved as a whole with the points, and periodic along the lattice."""
    structure, chosen = kind_structure(method, seed), Electrostatics(method)
    reference = potential_at(charged(structure), POINTS, chosen)
    vector = torch.tensor(shift, dtype=torch.float64)
    moved = structure._replace(positions=structure.positions + vector)
    found = potential_at(charged(moved), POINTS + vector, chosen)
    # a slab's internal length is a step function of the extent, which rounding may cross: truncation error
    tolerance = 1e-3 if method == "slab" else 1e-9
    torch.testing.assert_close(found.potential, reference.potential, rtol=0.0, atol=tolerance)
    torch.testing.assert_close(found.electric_field, reference.electric_field, rtol=0.0, atol=tolerance)
    periods = structure.cell[torch.tensor(structure.pbc)]
    for period in periods:
        again = potential_at(charged(structure), POINTS + period, chosen).potential
        torch.testing.assert_close(again, reference.potential, rtol=0.0, atol=tolerance)


# ---------------------------------------------------------------------------------------------------
# grids


@pytest.mark.parametrize("name", VARIANTS)
def test_grid_agrees_with_points(name: str) -> None:
    structure, settings = variant(name)
    arrays = structure.positions.numpy(), structure.cell.numpy(), np.array(structure.pbc)
    grid = structure_grid(*arrays, settings, spacing=1.6, margin=3.0)
    # the corners belong to the enclosed points, so that slabs use one internal cell in both calls
    places = torch.cat([grid_points(grid), torch.from_numpy(grid.corners())])
    expected = potential_at(charged(structure), places, settings)
    found = field_on_grid(charged(structure), grid, settings)
    flat = slice(0, grid.n_points)
    torch.testing.assert_close(found.potential.reshape(-1), expected.potential[flat], rtol=0.0, atol=1e-9)
    torch.testing.assert_close(
        found.electric_field.reshape(-1, 3), expected.electric_field[flat], rtol=0.0, atol=1e-9
    )
    alone = potential_on_grid(charged(structure), grid, settings)
    torch.testing.assert_close(alone, found.potential, rtol=0.0, atol=1e-10)
    density = density_on_grid(charged(structure), grid, settings)
    at_places = density_at(charged(structure), places, settings)[flat]
    torch.testing.assert_close(density.reshape(-1), at_places, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("name", ["pbc", "slab"])
def test_grids_need_not_follow_the_lattice(name: str) -> None:
    structure, settings = variant(name)
    grid = Grid([1.0, 0.5, -2.0], [[3.0, 1.0, 0.2], [-0.4, 2.0, 1.0], [0.3, 0.0, 5.0]], (3, 4, 5))
    places = torch.cat([grid_points(grid), torch.from_numpy(grid.corners())])
    expected = potential_at(charged(structure), places, settings).potential[: grid.n_points]
    found = potential_on_grid(charged(structure), grid, settings)
    torch.testing.assert_close(found.reshape(-1), expected, rtol=0.0, atol=1e-9)


def test_tall_slab_grids_do_not_overflow() -> None:
    """A grid 2000 Å high, along any row: growing and decaying waves of exp(±5000) meet in it."""
    for axis in range(3):
        cell = np.roll(np.diag([5.0, 6.0, 0.0]), axis + 1, axis=(0, 1))
        pbc = tuple(row != axis for row in range(3))
        slab = random_structure(1, 3, cell, pbc, 1, size=2.0)
        settings = Electrostatics("slab")
        vectors = cell.copy()
        vectors[axis, axis] = 2000.0
        grid = Grid(-1000.0 * np.eye(3)[axis], vectors, tuple(4 if row == axis else 2 for row in range(3)))
        values = potential_on_grid(charged(slab), grid, settings)
        # far away a charged plate: ±2π k_e Q |z| / A and its dipole
        far = float(values.select(axis, 0).mean())
        expected = -2.0 * math.pi * COULOMB_CONSTANT * float(slab.coefficients[:, 0].sum()) * 1000.0 / 30.0
        assert far == pytest.approx(expected, rel=5e-3)


def profile(z: Tensor, width: float) -> tuple[Tensor, Tensor]:
    """``-|z|`` averaged over a Gaussian, and its derivative."""
    tail = width * math.sqrt(2.0 / math.pi) * torch.exp(-(z**2) / (2.0 * width**2))
    step = torch.erf(z / (math.sqrt(2.0) * width))
    return -(z * step + tail), -step


def planes(z: Tensor, structure: Structure, width: float, period: float | None) -> Tensor:
    """Closed planar average of charges and dipoles along z: charged planes, in a background if periodic."""
    area = abs(
        float(structure.cell[0, 0] * structure.cell[1, 1] - structure.cell[0, 1] * structure.cell[1, 0])
    )
    total = torch.zeros_like(z)
    for coefficients, position in zip(structure.coefficients, structure.positions, strict=True):
        height = z - position[2]
        if period is not None:
            height = height - period * (height / period).round()
        value, slope = profile(height, width)
        if period is not None:
            value = value + (height**2 + width**2) / period + period / 6.0
            slope = slope + 2.0 * height / period
        total += coefficients[0] * value - coefficients[2] * slope
    return 2.0 * math.pi * COULOMB_CONSTANT / area * total


@pytest.mark.parametrize("pbc", [(True, True, False), (True, True, True)])
def test_planar_average_against_the_closed_form(pbc: tuple[bool, bool, bool]) -> None:
    cell = np.array([[6.0, 0.5, 0.0], [1.0, 7.0, 0.0], [0.0, 0.0, 24.0]])
    structure = random_structure(2, 6, cell, pbc, 1, size=4.0)
    settings = Electrostatics("auto", 1, 1.0, kspace_cutoff_factor=3.0)
    arrays = structure.positions.numpy(), cell, np.array(pbc)
    grid = structure_grid(*arrays, settings, spacing=0.5)
    heights = torch.from_numpy(grid.heights(2))
    expected = planes(heights, structure, 1.0, 24.0 if all(pbc) else None)
    found = planar_average(potential_on_grid(charged(structure), grid, settings), 2)
    # truncated at k_c σ = 8: the grid of 12 by 14 points aliases waves of exp(-(2π/0.5)²/2) = 1e-34
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-8)


@pytest.mark.parametrize("name", VARIANTS)
def test_density_has_the_charge_and_dipole_of_its_atoms(name: str) -> None:
    structure, settings = variant(name, 2, smearing_width=0.6)
    structure = structure._replace(positions=structure.positions * 0.4 + 4.0)
    arrays = structure.positions.numpy(), structure.cell.numpy(), np.array(structure.pbc)
    grid = structure_grid(*arrays, settings, spacing=0.25, margin=5.0)
    density = density_on_grid(charged(structure), grid, settings)
    element = abs(np.linalg.det(grid.steps))
    # the trapezoidal rule converges like the Fourier transform of the density; tails at 8 σ
    assert float(density.sum()) * element == pytest.approx(
        float(structure.coefficients[:, 0].sum()), abs=1e-9
    )
    if not any(structure.pbc):
        moment = torch.einsum("xyz,xyza->a", density, torch.from_numpy(grid.points())) * element
        expected = (
            structure.coefficients[:, :1] * structure.positions + dipoles(structure.coefficients)
        ).sum(0)
        torch.testing.assert_close(moment, expected, rtol=0.0, atol=1e-8)


def test_periodic_density_is_the_sum_over_images() -> None:
    structure, settings = variant("pbc", 2)
    images = torch.cartesian_prod(*[torch.arange(-3.0, 4.0, dtype=torch.float64)] * 3) @ structure.cell
    expected = sum(
        density_at(
            charged(structure._replace(positions=structure.positions + image, pbc=(False,) * 3)),
            POINTS,
            Electrostatics("realspace", 2),
        )
        for image in images
    )
    # 15 Å = 10 σ of images
    torch.testing.assert_close(
        density_at(charged(structure), POINTS, settings), expected, rtol=0.0, atol=1e-11
    )


# ---------------------------------------------------------------------------------------------------
# what a grid is, and errors


def test_grids_of_every_kind() -> None:
    positions = np.array([[1.0, 2.0, 5.0], [2.0, 2.0, 9.0]])
    crystal = np.array([[5.0, 0.0, 0.0], [1.0, 6.0, 0.0], [0.0, 0.0, 7.0]])
    auto = Electrostatics("auto")
    grid = structure_grid(positions, crystal, np.array([True] * 3), auto, spacing=0.5)
    assert np.array_equal(grid.vectors, crystal)
    assert grid.shape == (10, 13, 14)
    np.testing.assert_allclose(
        grid.points()[2, 3, 4], 0.2 * crystal[0] + 3 / 13 * crystal[1] + 2 / 7 * crystal[2]
    )
    np.testing.assert_allclose(grid.heights(2), 0.5 * np.arange(14))
    slab = structure_grid(positions, crystal, np.array([True, True, False]), auto, spacing=0.5)
    np.testing.assert_allclose(slab.vectors[2], [0.0, 0.0, 12.0])  # extent 4 + twice the margin 4
    np.testing.assert_allclose(slab.origin, [0.0, 0.0, 1.0])
    tall = structure_grid(positions, crystal * [[1], [1], [5]], np.array([True, True, False]), auto, 0.5)
    np.testing.assert_allclose(tall.vectors[2], [0.0, 0.0, 35.0])  # the cell's own height
    molecule = structure_grid(positions, np.zeros((3, 3)), np.array([False] * 3), auto, 0.5, margin=2.0)
    np.testing.assert_allclose(molecule.origin, [-1.0, 0.0, 3.0])
    np.testing.assert_allclose(molecule.vectors, np.diag([5.0, 4.0, 8.0]))
    box = structure_grid(
        positions, 10.0 * np.eye(3), np.array([False] * 3), Electrostatics("mixed_periodic"), 0.5
    )
    np.testing.assert_allclose(box.vectors, np.diag([9.0, 8.0, 9.5]))  # never beyond the box


def test_errors_of_grids_and_points() -> None:
    structure, settings = variant("molecule_in_box")
    arrays = structure.positions.numpy(), structure.cell.numpy(), np.array(structure.pbc)
    with pytest.raises(LsfError, match=r"found spacing = 0\.0; expected a positive, finite number"):
        structure_grid(*arrays, settings, spacing=0.0)
    with pytest.raises(LsfError, match="found margin = nan"):
        structure_grid(*arrays, settings, spacing=0.5, margin=float("nan"))
    with pytest.raises(BoundaryError, match=r"extend over 1\.\d+ of the box: give closer points"):
        potential_at(charged(structure), POINTS + 11.0, settings)
    with pytest.raises(ValueError, match=r"probe_width = -1\.0 must be a finite number"):
        potential_at(charged(structure), POINTS, settings, probe_width=-1.0)
    with pytest.raises(ValueError, match="coefficients have 4 columns; multipoles_max_l = 2 needs 9"):
        potential_at(charged(structure), POINTS, attrs.evolve(settings, multipoles_max_l=2))
