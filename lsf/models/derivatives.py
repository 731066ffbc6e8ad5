"""Everything that follows from an energy by differentiation, for any model."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from lsf.data.graph import GraphTensors, graph_tensors
from lsf.models.local_source import LocalSourceModel, ModelOutput
from lsf.models.message_passing.native.autograd import positions_kept_inside, weights_fixed
from lsf.models.sources.heads import cartesian_dipoles, sum_over_graph
from lsf.models.strain import deform, inverse_volume

DERIVED = ("forces", "stress", "virial", "potential", "born_charges", "hessian")
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
    ``energy_field`` (n_graphs,) eV; ``node_energy`` (n_atoms,) eV; ``density_coefficients``
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
        "energy_atomic": output.energy_atomic,
        "energy_short_range": output.energy_short_range,
        "energy_coulomb": output.energy_coulomb,
        "energy_field": output.energy_field,
        "node_energy": output.node_energy,
        "density_coefficients": output.density,
        "partial_charges": charges,
        "partial_dipoles": cartesian_dipoles(output.density),
        "dipole": output.polarization,
        "total_charge": sum_over_graph(charges, graph.batch, graph.cell.shape[0]),
    }
    if output.polarizability is not None:
        named["polarizability"] = output.polarizability
    return named


def _differentiated(
    model: LocalSourceModel, graph: GraphTensors, compute: frozenset[str], create_graph: bool
) -> dict[str, Tensor]:
    moves = compute & {"forces", "stress", "virial", "born_charges", "hessian"}
    positions = graph.positions.detach().requires_grad_(bool(moves))
    strain = None
    deformed = graph._replace(positions=positions)
    if compute & {"stress", "virial"}:
        strain, deformed = _strained(deformed)
    if "potential" in compute:
        # Fixed charges depend on nothing else that is differentiated.
        deformed = deformed._replace(formal_charges=graph.formal_charges.detach().requires_grad_(True))
    output: ModelOutput = model(*deformed)
    named = named_outputs(output, graph)

    targets = [positions] if compute & {"forces", "hessian"} else []
    if strain is not None:
        targets.append(strain)
    repeats = create_graph or bool(compute & {"potential", "born_charges", "hessian"})
    if targets:
        gradients = torch.autograd.grad(
            output.energy.sum(),
            targets,
            create_graph=create_graph or "hessian" in compute,
            retain_graph=repeats,
        )
        if compute & {"forces", "hessian"}:
            named["forces"] = -gradients[0]
        if strain is not None:
            named["virial"] = -gradients[-1]
            named["stress"] = gradients[-1] * inverse_volume(graph.cell)[:, None, None]
    if "potential" in compute:
        named["potential"] = _potential(output, create_graph)
    if "born_charges" in compute:
        named["born_charges"] = _born_charges(output.polarization, positions, create_graph)
    if "hessian" in compute:
        named["hessian"] = _hessian(named["forces"], positions, graph)
    return named if create_graph else {name: value.detach() for name, value in named.items()}


def _strained(graph: GraphTensors) -> tuple[Tensor, GraphTensors]:
    """Return a zero strain per graph and the graph whose positions and cells it deforms, r → r(1 + ε)."""
    strain = torch.zeros_like(graph.cell).requires_grad_(True)
    positions, cell = deform(graph.positions, graph.cell, graph.batch, strain)
    return strain, graph._replace(positions=positions, cell=cell)


def _potential(output: ModelOutput, create_graph: bool) -> Tensor:
    """Gaussian-averaged potential at every atom, ``dE_coulomb/dq_i``."""
    if not output.energy_coulomb.requires_grad:
        return torch.zeros_like(output.density[:, 0])
    (gradient,) = torch.autograd.grad(
        output.energy_coulomb.sum(), output.density, create_graph=create_graph, retain_graph=True
    )
    return gradient[:, 0]


def _born_charges(polarization: Tensor, positions: Tensor, create_graph: bool) -> Tensor:
    """``Z*[i, α, β] = ∂P_α/∂r_{i,β}``: atoms of different graphs do not see one another."""
    if not polarization.requires_grad:
        return torch.zeros((positions.shape[0], 3, 3), dtype=positions.dtype, device=positions.device)
    rows = [
        torch.autograd.grad(
            polarization[:, axis].sum(), positions, create_graph=create_graph, retain_graph=True
        )[0]
        for axis in range(3)
    ]
    return torch.stack(rows, dim=1)


def _hessian(forces: Tensor, positions: Tensor, graph: GraphTensors) -> Tensor:
    if graph.cell.shape[0] != 1:
        raise ValueError(f"a Hessian is computed for one structure at a time, not {graph.cell.shape[0]}")
    flat = forces.reshape(-1)
    rows = [-torch.autograd.grad(entry, positions, retain_graph=True)[0].reshape(-1) for entry in flat]
    return torch.stack(rows)
