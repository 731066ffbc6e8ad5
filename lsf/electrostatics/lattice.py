"""Lattices of a batch: inverse cells, volumes and normals as differentiable functions of the cells."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lsf.electrostatics.boundary import KIND_OPEN, KIND_PERIODIC, KIND_SLAB
from lsf.electrostatics.plan.coulomb_plan import CoulombPlan
from lsf.machine.tracing import capturing


class Lattice(NamedTuple):
    """What Coulomb sums use of the cells; of slabs the internal cell, of open structures a mesh's box.

    A slab's internal cell keeps its two periodic rows; the third row is their unit normal times the plan's
    length, a constant: nothing depends on the third vector of the cell a user gives. With length 0 (the older
    dipole correction) the cell is taken as given.
    """

    inverse: Tensor  # (n_graphs, 3, 3) 1/Å, fractional coordinates are positions @ inverse
    volume: Tensor  # (n_graphs,) Å^3
    normal: Tensor  # (n_graphs, 3) unit normal of the rows other than slab_axis; zero without any slab
    area: Tensor  # (n_graphs,) Å^2, spanned by these two rows; zero without any slab


def invert(cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return the inverses (n_graphs, 3, 3) and determinants (n_graphs,) of 3×3 matrices, in closed form."""
    crosses = torch.linalg.cross(cell.roll(-1, 1), cell.roll(-2, 1), dim=2)
    determinant = (cell[:, 0] * crosses[:, 0]).sum(-1)
    return crosses.transpose(1, 2) / determinant[:, None, None], determinant


def build_lattice(cell: Tensor, plan: CoulombPlan) -> Lattice:
    """Return the lattice of every structure, differentiable with respect to ``cell`` (n_graphs, 3, 3) [Å]."""
    if not capturing() and bool((plan.kind == KIND_PERIODIC).all()):
        inverse, determinant = invert(cell)
        nothing = torch.zeros_like(cell[:, 0])
        return Lattice(inverse, determinant.abs(), normal=nothing, area=nothing[:, 0])
    # An open structure may have no cell at all: a unit cell keeps its unused numbers and gradients finite.
    edges = torch.where(plan.open_box > 0.0, plan.open_box, 1.0).to(cell.dtype)
    cell = torch.where((plan.kind == KIND_OPEN)[:, None, None], torch.diag_embed(edges), cell)
    graphs = torch.arange(cell.shape[0], device=cell.device)
    in_plane = [cell[graphs, (plan.slab_axis + step) % 3] for step in (1, 2)]
    oriented_area = torch.linalg.cross(*in_plane)
    area = torch.linalg.vector_norm(oriented_area, dim=-1)
    normal = oriented_area / area[:, None]
    rows = torch.arange(3, device=cell.device)
    replaced = (plan.kind == KIND_SLAB) & (plan.slab_length > 0.0)
    is_open_row = replaced[:, None] & (rows == plan.slab_axis[:, None])
    open_row = normal * plan.slab_length.to(cell.dtype)[:, None]
    internal = torch.where(is_open_row[:, :, None], open_row[:, None, :], cell)
    inverse, determinant = invert(internal)
    return Lattice(inverse=inverse, volume=determinant.abs(), normal=normal, area=area)


def of_structure(values: Tensor, owner: Tensor) -> Tensor:
    """Return ``values`` (n_graphs, …) of every owner's structure, (n_owners, …); of a single one (1, …)."""
    return values if values.shape[0] == 1 else values[owner]


def sum_over_structures(values: Tensor, batch: Tensor, n_graphs: int) -> Tensor:
    """Return (n_graphs, …), the sums of ``values`` (n_atoms, …) over the atoms of each structure."""
    return values.new_zeros(n_graphs, *values.shape[1:]).index_add(0, batch, values)


def from_centre(positions: Tensor, batch: Tensor, n_graphs: int) -> Tensor:
    """Return positions from the mean of their structure: these energies do not depend on the origin."""
    counts = sum_over_structures(torch.ones_like(positions[:, 0]), batch, n_graphs).clamp(min=1.0)
    means = sum_over_structures(positions.detach(), batch, n_graphs) / counts[:, None]
    return positions - means[batch]
