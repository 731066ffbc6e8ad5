r"""Potential, field and density of Gaussian multipoles: at points, on grids, at the atoms themselves.

.. math:: V(r) = k_e \int \frac{\rho(r')}{|r - r'|}\, d^3r', \qquad E = -\nabla V

in the boundary conditions of each method, as a probe feels them: V is the derivative of the Coulomb energy
with respect to the charge of a probe at r, a slab's terms of zero in-plane wave vector and its layer term
included. The probe is a point, or a Gaussian of standard deviation s: Gaussians of widths σ and s interact
as two of width τ do, ``τ² = (σ² + s²) / 2``, so every formula of the energy serves with τ in the place of σ,
cutoff and gap included.

Everything here treats one structure, in float64 on the CPU, without gradients. The potential of a uniform
external field is not part of it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import attrs
import numpy as np
import torch
from torch import Tensor

from lsf.electrostatics.boundary import KIND_BOX, KIND_OPEN
from lsf.electrostatics.multipoles import dipoles, max_degree
from lsf.electrostatics.plan.coulomb_plan import outline_structure
from lsf.electrostatics.potential.grid import Grid, grid_points
from lsf.electrostatics.potential.structure import ChargedStructure
from lsf.electrostatics.potential.sums import density_waves, open_density, open_potential, potential_waves
from lsf.electrostatics.potential.waves import at_points, on_grid
from lsf.electrostatics.settings import Electrostatics
from lsf.errors import BoundaryError
from lsf.units import COULOMB_CONSTANT


class PotentialValues(NamedTuple):
    """A potential and its field at the same places."""

    potential: Tensor  # (...) V
    electric_field: Tensor  # (..., 3) V/Å, physical: minus the gradient of the potential


@torch.no_grad()
def potential_at(
    structure: ChargedStructure, points: Tensor, settings: Electrostatics, probe_width: float = 0.0
) -> PotentialValues:
    """Return the potential and field of all atoms at given points.

    Parameters
    ----------
    structure : multipoles, positions, cell and periodicity
    points : (n_points, 3) float64 [Å]; in a box they must lie around the molecule as given, not in an image
    settings : boundary method, smearing width and accuracy of the energy the potential belongs to
    probe_width : standard deviation [Å] of the Gaussian that averages the potential; 0 for a point charge

    Returns
    -------
    potential (n_points,) [V] and electric field (n_points, 3) [V/Å]

    Raises
    ------
    BoundaryError
        when the method cannot treat the structure, or points lie outside the box of a molecule in a box.
    ValueError
        when the coefficients do not have (multipoles_max_l + 1)² columns.
    """
    kind = _kind(structure, settings)
    smeared = _smeared(settings, probe_width)
    if kind == KIND_OPEN:
        return _values(open_potential(structure, points, smeared.smearing_width))
    if kind == KIND_BOX:
        _check_inside_box(structure, points)
    return _values(at_points(potential_waves(structure, smeared, points), points))


@torch.no_grad()
def potential_on_grid(
    structure: ChargedStructure, grid: Grid, settings: Electrostatics, probe_width: float = 0.0
) -> Tensor:
    """Return the potential on a grid, (n_1, n_2, n_3) [V]; arguments and errors of :func:`potential_at`."""
    return _on_grid(structure, grid, settings, probe_width, gradient=False)[..., 0]


@torch.no_grad()
def field_on_grid(
    structure: ChargedStructure, grid: Grid, settings: Electrostatics, probe_width: float = 0.0
) -> PotentialValues:
    """Return potential and field on a grid, (n_1, n_2, n_3) [V] and (n_1, n_2, n_3, 3) [V/Å]."""
    return _values(_on_grid(structure, grid, settings, probe_width, gradient=True))


@torch.no_grad()
def potential_at_atoms(
    structure: ChargedStructure, settings: Electrostatics, probe_width: float | None = None
) -> PotentialValues:
    """Return the potential and field at the atoms, (n_atoms,) [V] and (n_atoms, 3) [V/Å].

    ``probe_width`` None averages over each atom's own Gaussian, which gives the derivatives of the energy by
    its charge and (the field: minus those) by its dipole; 0 gives the potential at the nuclei. The part of an
    atom's own density is left out when ``include_self_interaction`` is off.
    """
    width = settings.smearing_width if probe_width is None else probe_width
    values = potential_at(structure, structure.positions, settings, width)
    if settings.include_self_interaction:
        return values
    tau = _smeared(settings, width).smearing_width
    scale = COULOMB_CONSTANT / math.sqrt(math.pi)
    own_potential = scale / tau * structure.coefficients[:, 0]
    own_gradient = scale / (6.0 * tau**3) * dipoles(structure.coefficients)
    return PotentialValues(values.potential - own_potential, values.electric_field + own_gradient)


@torch.no_grad()
def density_at(structure: ChargedStructure, points: Tensor, settings: Electrostatics) -> Tensor:
    """Return the charge density at points (n_points, 3) [Å], (n_points,) [e/Å³]."""
    if _kind(structure, settings) in (KIND_OPEN, KIND_BOX):
        return open_density(structure, points, settings.smearing_width)
    return at_points(density_waves(structure, settings, points), points)[:, 0]


@torch.no_grad()
def density_on_grid(structure: ChargedStructure, grid: Grid, settings: Electrostatics) -> Tensor:
    """Return the charge density on a grid, (n_1, n_2, n_3) [e/Å³]."""
    if _kind(structure, settings) in (KIND_OPEN, KIND_BOX):
        return open_density(structure, grid_points(grid), settings.smearing_width).reshape(grid.shape)
    reach = torch.from_numpy(grid.corners())
    return on_grid(density_waves(structure, settings, reach), grid, gradient=False)[..., 0]


def _on_grid(
    structure: ChargedStructure, grid: Grid, settings: Electrostatics, probe_width: float, gradient: bool
) -> Tensor:
    kind = _kind(structure, settings)
    smeared = _smeared(settings, probe_width)
    if kind == KIND_OPEN:
        values = open_potential(structure, grid_points(grid), smeared.smearing_width)
        return values.reshape(*grid.shape, 4)
    if kind == KIND_BOX:
        _check_inside_box(structure, grid_points(grid))
    waves = potential_waves(structure, smeared, torch.from_numpy(grid.corners()))
    return on_grid(waves, grid, gradient)


def _values(values: Tensor) -> PotentialValues:
    return PotentialValues(values[..., 0], -values[..., 1:])


def _smeared(settings: Electrostatics, probe_width: float) -> Electrostatics:
    """Return settings for the width of density and probe together; the cutoff grows as it narrows."""
    if not 0.0 <= probe_width < math.inf:
        raise ValueError(f"probe_width = {probe_width!r} must be a finite number of Å, 0 for a point")
    width = math.sqrt(0.5 * (settings.smearing_width**2 + probe_width**2))
    return attrs.evolve(settings, smearing_width=width)


def _kind(structure: ChargedStructure, settings: Electrostatics) -> int:
    if max_degree(structure.coefficients) != settings.multipoles_max_l:
        raise ValueError(
            f"coefficients have {structure.coefficients.shape[1]} columns; multipoles_max_l = "
            f"{settings.multipoles_max_l} needs {(settings.multipoles_max_l + 1) ** 2}"
        )
    arrays = structure.positions.numpy(), structure.cell.numpy(), structure.pbc
    return outline_structure(settings, *arrays).kind


def _check_inside_box(structure: ChargedStructure, points: Tensor) -> None:
    """Refuse points that are closer to an image of the molecule than its box allows."""
    fractional = torch.cat([structure.positions, points]) @ torch.linalg.inv(structure.cell)
    spread = float(np.ptp(fractional.numpy(), axis=0).max())
    if spread >= 1.0:
        raise BoundaryError(
            "the potential of a molecule in a box is defined around the molecule; molecule and points extend "
            f"over {spread:.3g} of the box: give closer points, enlarge the box, or use realspace or auto"
        )
