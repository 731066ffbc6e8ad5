r"""Coulomb energy of Gaussian multipoles: one function for every boundary method.

.. math:: E = \frac{1}{2} \iint \frac{\rho(r)\rho(r')}{4\pi\varepsilon_0 |r - r'|}

A structure's kind, stated by its plan, selects the terms; structures of different kinds share a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lsf.electrostatics.boundary import KIND_BOX, KIND_OPEN, KIND_SLAB, possible_kinds
from lsf.electrostatics.box import box_energy
from lsf.electrostatics.executor import executor
from lsf.electrostatics.lattice import of_structure
from lsf.electrostatics.mesh.sums import centred
from lsf.electrostatics.multipoles import max_degree, self_energies, transformed
from lsf.electrostatics.plan.coulomb_plan import CoulombPlan
from lsf.electrostatics.reciprocal import truncated_energy, waves
from lsf.electrostatics.settings import Electrostatics
from lsf.electrostatics.slab import layer_energy, slab_energy
from lsf.machine.tracing import capturing


def coulomb_energy(
    coefficients: Tensor,
    positions: Tensor,
    cell: Tensor,
    batch: Tensor,
    plan: CoulombPlan,
    settings: Electrostatics,
) -> Tensor:
    """Return the Coulomb energy of every structure of a batch.

    Differentiable to any order with respect to coefficients, positions and cell. Strain acts on positions and
    cell alike; wave vectors, volumes and normals follow from the cell inside the graph. The derivative with
    respect to coefficients is the potential (and its gradients) averaged over each atom's Gaussian.

    Parameters
    ----------
    coefficients : (n_atoms, (L+1)^2) float64 [e Å^l], order [Q, d_y, d_z, d_x, ...], L = multipoles_max_l
    positions : (n_atoms, 3) float64 [Å]; unwrapped along a slab's normal and in a box, else as you like
    cell : (n_graphs, 3, 3) float64 [Å], rows are lattice vectors; anything finite for open structures
    batch : (n_atoms,) int64, structure of each atom, ascending
    plan : lists of all structures, :func:`lsf.electrostatics.plan.coulomb_plan.plan_structure`, with batch
    offsets settings : the settings the plan was made with

    Returns
    -------
    (n_graphs,) float64 [eV]
    """
    expected = (settings.multipoles_max_l + 1) ** 2
    if coefficients.shape[1] != expected:
        raise ValueError(
            f"coefficients have {coefficients.shape[1]} columns; multipoles_max_l = "
            f"{settings.multipoles_max_l} needs {expected}"
        )
    sigma = settings.smearing_width
    # terms of kinds that the batch lacks are left out: small structures would spend half their time there
    # a captured graph serves all kinds of its boundary method
    kinds = possible_kinds(settings.boundary) if capturing() else set(plan.kind.tolist())
    if settings.include_self_interaction and KIND_OPEN not in kinds:
        energy = coefficients.new_zeros(plan.kind.shape[0])
    else:
        energy = _self_energy(coefficients, batch, plan, settings)
    meshed = meshes(plan, settings)
    sums = executor(settings.backend, meshed)
    if plan.open_pairs.shape[1]:
        energy = energy + sums.open_energy(coefficients, positions, batch, plan, sigma)
    if not plan.k_triplets.shape[0]:
        # no cell, perhaps a single atom: derivatives by every input must exist all the same
        energy = energy + positions[:0].sum() + coefficients[:0].sum() + cell[:0].sum()
    if kinds == {KIND_OPEN} and not plan.k_triplets.shape[0]:
        return energy
    of_cell = waves(cell, plan, settings, meshed)
    lattice = of_cell.lattice
    if plan.k_triplets.shape[0]:
        fractional = transformed(positions, of_structure(lattice.inverse, batch))
        if meshed:
            fractional = centred(fractional, batch, plan.kind.shape[0])
        moments = transformed(coefficients, of_structure(of_cell.moments, batch))
        degree = max_degree(coefficients)
        energy = energy + sums.reciprocal_energy(fractional, moments, of_cell.weights, batch, plan, degree)
    if plan.layer_pairs.shape[0]:
        energy = energy + layer_energy(coefficients, positions, lattice, batch, plan)
    if KIND_SLAB in kinds:
        slab = slab_energy(coefficients, positions, lattice, plan.slab_length.to(cell.dtype), batch, sigma)
        energy = energy + torch.where(plan.kind == KIND_SLAB, slab, 0.0)
    if KIND_BOX in kinds:
        box = box_energy(coefficients, positions, lattice.volume, batch, sigma)
        energy = energy + torch.where(plan.kind == KIND_BOX, box, 0.0)
    if meshed:
        radius = plan.truncation_radius.to(cell.dtype)
        energy = energy + truncated_energy(coefficients, radius, lattice.volume, batch)
    return energy


def meshes(plan: CoulombPlan, settings: Electrostatics) -> bool:
    """Return whether a structure may be summed on a mesh; a captured graph must serve every input."""
    return settings.backend != "direct" and (capturing() or bool(plan.mesh_order.any()))


def _self_energy(coefficients: Tensor, batch: Tensor, plan: CoulombPlan, settings: Electrostatics) -> Tensor:
    """Return what to add per structure: reciprocal sums contain the self-interaction, pair sums do not."""
    contained = ((plan.kind != KIND_OPEN) | (plan.mesh_order > 0)).to(coefficients.dtype)
    wanted = 1.0 if settings.include_self_interaction else 0.0
    energies = self_energies(coefficients, settings.smearing_width) * (wanted - contained)[batch]
    return energies.new_zeros(plan.kind.shape[0]).index_add(0, batch, energies)
