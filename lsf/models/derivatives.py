"""Everything that follows from an energy by differentiation, for any model."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from lsf.data.graph import GraphTensors, graph_tensors
from lsf.electrostatics.differentiate import (
    born_charges,
    deformable,
    derivatives,
    potential,
    virial_and_stress,
)
from lsf.models.local_source import LocalSourceModel, ModelOutput
from lsf.models.message_passing.native.autograd import positions_kept_inside, weights_fixed
from lsf.models.sources.base import cartesian_dipoles, sum_over_graph
from lsf.recipe.quantities import differentiated_outputs

DERIVED = differentiated_outputs()
"""Outputs :func:`evaluate` computes on request; all others are always there."""


def evaluate(
    model: LocalSourceModel, batch: Any, compute: Collection[str] = ("forces",), create_graph: bool = False
) -> dict[str, Tensor]:
    """Return the outputs of a model on a collated batch.

    Parameters
    ----------
    model : any of the models
    batch : collated graphs on the model's device
    compute : names out of :data:`DERIVED`
    create_graph : keep the outputs differentiable with respect to the parameters (training)

    Returns
    -------
    dict with ``energy`` and its parts ``energy_atomic``, ``energy_short_range``, ``energy_coulomb``,
    ``energy_field`` and those of further terms, which add up to it, and ``energy_<name>`` of every term:
    ``energy_readout`` and others are what the short-range energy is made of, (n_graphs,) eV;
    ``node_energy`` (n_atoms,) eV, all that is given per atom; ``density_coefficients``
    (n_atoms, (L+1)²); ``partial_charges`` (n_atoms,) e; ``partial_dipoles`` (n_atoms, 3) e·Å,
    Cartesian; ``dipole`` (n_graphs, 3) e·Å, the polarization in periodic cells; ``total_charge``
    (n_graphs,) e; ``polarizability`` (n_graphs, 3, 3) e·Å²/V where the model reads one; and as asked
    for ``forces`` (n_atoms, 3) eV/Å, ``virial`` (n_graphs, 3, 3) eV, ``stress`` (n_graphs, 3, 3) eV/Å³
    (zero where there is no cell volume), ``potential`` (n_atoms,) V, the derivative of the Coulomb
    energy with respect to each charge, ``born_charges`` (n_atoms, 3, 3) e, ``hessian``
    (3 n_atoms, 3 n_atoms) eV/Å² of a batch of one graph.

    Raises
    ------
    ValueError
        on an unknown output, an unknown element, or a Hessian of several graphs.
    """
    unknown = sorted(set(compute) - set(DERIVED))
    if unknown:
        raise ValueError(f"cannot compute {unknown}; derived outputs are {list(DERIVED)}")
    graph = graph_tensors(batch, model.species)
    if not compute and not create_graph:
        with torch.no_grad():
            return named_outputs(model(*graph), graph)
    # without create_graph nothing returned depends on the weights any more
    weights = nullcontext() if create_graph else weights_fixed()
    # and nobody else holds the positions that are differentiated; a cell is the caller's
    positions = nullcontext() if graph.cell.requires_grad else positions_kept_inside()
    with torch.enable_grad(), weights, positions:
        return _differentiated(model, graph, frozenset(compute), create_graph)


def named_outputs(output: ModelOutput, graph: GraphTensors) -> dict[str, Tensor]:
    """Return the outputs that need no derivative by name, see :func:`evaluate`."""
    charges = output.density[:, 0]
    named = {
        "energy": output.energy,
        **{f"energy_{name}": energy for name, energy in (output.parts | output.terms).items()},
        "node_energy": output.node_energy,
        "density_coefficients": output.density,
        "partial_charges": charges,
        "partial_dipoles": cartesian_dipoles(output.density),
        "dipole": output.polarization,
        "total_charge": sum_over_graph(charges, graph.batch, graph.cell.shape[0]),
    }
    return named | output.others


def _differentiated(
    model: LocalSourceModel, graph: GraphTensors, compute: frozenset[str], create_graph: bool
) -> dict[str, Tensor]:
    moves = compute & {"forces", "stress", "virial", "born_charges", "hessian"}
    wants_forces, wants_strain = compute & {"forces", "hessian"}, compute & {"stress", "virial"}
    if wants_strain:
        positions, strain, moved, cell = deformable(graph.positions, graph.cell, graph.batch)
        deformed, by_strain = graph._replace(positions=moved, cell=cell), [strain]
    else:
        positions = graph.positions.detach().requires_grad_(bool(moves))
        deformed, by_strain = graph._replace(positions=positions), []
    if "potential" in compute:
        # fixed charges depend on nothing else that is differentiated
        deformed = deformed._replace(formal_charges=graph.formal_charges.detach().requires_grad_(True))
    output: ModelOutput = model(*deformed)
    named = named_outputs(output, graph)

    inputs = [positions, *by_strain] if wants_forces else by_strain
    if inputs:
        retain = create_graph or bool(compute & {"potential", "born_charges", "hessian"})
        found = derivatives(output.energy, inputs, retain, create_graph or "hessian" in compute)
        if wants_forces:
            named["forces"] = -found[0]
        if wants_strain:
            named["virial"], named["stress"] = virial_and_stress(found[-1], graph.cell)
    if "potential" in compute:
        named["potential"] = potential(output.parts["coulomb"], output.density, create_graph)
    if "born_charges" in compute:
        named["born_charges"] = born_charges(output.polarization, positions, create_graph)
    if "hessian" in compute:
        named["hessian"] = _hessian(named["forces"], positions, graph)
    return named if create_graph else {name: value.detach() for name, value in named.items()}


def _hessian(forces: Tensor, positions: Tensor, graph: GraphTensors) -> Tensor:
    if graph.cell.shape[0] != 1:
        raise ValueError(f"a Hessian is computed for one structure at a time, not {graph.cell.shape[0]}")
    flat = forces.reshape(-1)
    rows = [-torch.autograd.grad(entry, positions, retain_graph=True)[0].reshape(-1) for entry in flat]
    return torch.stack(rows)
