"""Potentials at atoms that follow from reference multipoles, for frames that do not state them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from lsf.data.graph import AtomGraph
from lsf.electrostatics.energy import coulomb_energy
from lsf.electrostatics.plan.coulomb_plan import CoulombPlan
from lsf.electrostatics.settings import Electrostatics

if TYPE_CHECKING:
    from lsf.recipe.schema import Recipe

POTENTIALS_LOSS: Final = "esps"
"""Name of the loss that compares potentials at atoms."""


def trains_on_potentials(recipe: Recipe) -> bool:
    """Tell whether a stage has the loss that compares potentials at atoms."""
    return any(POTENTIALS_LOSS in stage.loss for stage in recipe.stages)


def add_reference_potentials(graphs: Sequence[AtomGraph], settings: Electrostatics) -> int:
    """Label graphs that have multipoles and no potentials with the potential of these; return how many.

    The potential is ``dE/dq_i`` of the reference density with the graph's own Coulomb sum: the potential
    averaged over the atom's Gaussian, that of its own density included where the model's is.
    """
    added = 0
    for graph in graphs:
        if bool((graph.weight_electrostatic_potentials > 0.0).any()):
            continue
        if not bool((graph.weight_atomic_multipoles > 0.0).any()):
            continue
        graph.target_electrostatic_potentials = potentials(graph, settings)
        graph.weight_electrostatic_potentials = graph.weight_atomic_multipoles
        added += 1
    return added


def potentials(graph: AtomGraph, settings: Electrostatics) -> Tensor:
    """Return the potential of a graph's reference multipoles at its atoms, (n_atoms,) V."""
    coefficients = graph.target_atomic_multipoles.clone().requires_grad_(True)
    plan = CoulombPlan(*(graph[name] for name in CoulombPlan._fields))
    batch = torch.zeros(coefficients.shape[0], dtype=torch.int64)
    energy = coulomb_energy(coefficients, graph.positions, graph.cell, batch, plan, settings)
    gradient: Tensor = torch.autograd.grad(energy.sum(), coefficients)[0]
    return gradient[:, 0].contiguous()
