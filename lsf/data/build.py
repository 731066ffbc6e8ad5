"""From a frame to a graph: neighbours, Coulomb lists, targets and weights as tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lsf.data.charges import Floats, FormalCharges, charges_of
from lsf.data.checks import cell_problems
from lsf.data.finite import StructureError
from lsf.data.frames import Frame
from lsf.data.graph import AtomGraph
from lsf.data.neighbors import Search, checked_neighbors, find_neighbors
from lsf.data.readers.base import TITLE, limited
from lsf.electrostatics.plan.coulomb_plan import CoulombPlan, plan_structure
from lsf.electrostatics.settings import Electrostatics
from lsf.errors import BoundaryError, DataError, Problem
from lsf.recipe.quantities import LABELS, PROPERTIES

BOUNDARY_KEY: Final = "electrostatics.boundary"

Planner = Callable[[Electrostatics, Floats, Floats, NDArray[np.bool_]], CoulombPlan]
"""Makes the Coulomb lists of one structure, as :func:`plan_structure` does."""


def build_graph(
    frame: Frame,
    r_max: float,
    settings: Electrostatics,
    formal_charges: Floats,
    planner: Planner = plan_structure,
    search: Search = find_neighbors,
) -> AtomGraph:
    """Return the graph of one frame.

    Parameters
    ----------
    frame
        with finite positions and, where periodic, independent lattice vectors
    r_max
        cutoff of the neighbour list in Å
    settings
        boundary method, accuracy, and the highest multipole of the targets
    formal_charges
        (n_atoms,) e
    planner
        makes the Coulomb lists; a :class:`lsf.electrostatics.plan.cache.PlanCache` keeps them between steps
    search
        finds the edges; a :class:`lsf.data.neighbors.NeighborCache` keeps a list between steps

    Raises
    ------
    BoundaryError
        when the boundary method cannot treat the frame's periodicity or cell.
    DataError
        without atoms, on numbers that are not finite, and on atoms that stand at one place.
    """
    try:
        neighbors = checked_neighbors(search, frame.positions, frame.cell, frame.pbc, r_max)
    except StructureError as error:
        raise DataError(TITLE, [Problem(frame.where, "", error.found, error.expected)]) from error
    plan = planner(settings, frame.positions, frame.cell, frame.pbc)
    field = frame.values.get("external_field", np.zeros(3))
    graph = AtomGraph(
        positions=torch.from_numpy(frame.positions),
        cell=torch.from_numpy(frame.cell).reshape(1, 3, 3),
        pbc=torch.from_numpy(frame.pbc).reshape(1, 3),
        atomic_numbers=torch.from_numpy(frame.numbers),
        edge_index=torch.from_numpy(neighbors.edge_index),
        unit_shifts=torch.from_numpy(neighbors.unit_shifts.astype(np.float64)),
        formal_charges=torch.from_numpy(np.asarray(formal_charges, dtype=np.float64)),
        external_field=torch.from_numpy(field).reshape(1, 3),
        total_charge=_input(frame, "total_charge"),
        total_spin=_input(frame, "total_spin"),
        molecule_ids=_molecule_ids(frame),
        num_nodes=len(frame.numbers),
        frame_index=torch.tensor([frame.index]),
        config_type=frame.config_type,
        **plan._asdict(),
    )
    for name in LABELS:
        graph[f"target_{name}"], graph[f"weight_{name}"] = _label(frame, name, settings.multipoles_max_l)
    return graph


def _input(frame: Frame, name: str) -> Tensor:
    """Return a number per frame that a model may see, (1,) float64, its default where the frame lacks it."""
    value = frame.values.get(name, PROPERTIES[name].default)
    return torch.as_tensor(np.asarray(value, dtype=np.float64)).reshape(1)


def _molecule_ids(frame: Frame) -> Tensor:
    """Return the molecule of every atom, (n_atoms,) int64, below 0 where it belongs to none."""
    ids = frame.values.get("molecule_ids", np.full(len(frame.numbers), PROPERTIES["molecule_ids"].default))
    return torch.from_numpy(ids.astype(np.int64))


def _label(frame: Frame, name: str, max_l: int) -> tuple[Tensor, Tensor]:
    """Return target and weight of a property, zero where the frame does not have it."""
    item = PROPERTIES[name]
    rows = len(frame.numbers) if item.level == "atom" else 1
    shape = ((max_l + 1) ** 2,) if item.shape == (-1,) else item.shape
    weight = torch.from_numpy(np.atleast_1d(frame.weights[name])).reshape(
        (1, 3) if name == "dipole" else (1,)
    )
    if name not in frame.values:
        return torch.zeros(rows, *shape, dtype=torch.float64), weight
    value = frame.values[name]
    if item.shape == (-1,):
        value = np.ascontiguousarray(value[:, : shape[0]])  # a file may go to higher multipoles
    return torch.from_numpy(np.atleast_1d(value)).reshape(rows, *shape), weight


def boundary_problem(frame: Frame, error: BoundaryError) -> Problem:
    """Return the problem that a frame's periodicity or cell is to a boundary method."""
    flags = " ".join("T" if periodic else "F" for periodic in frame.pbc)
    edges = " × ".join(f"{length:.4g}" for length in np.linalg.norm(frame.cell, axis=1))
    found = f"pbc = {flags} with cell edges {edges} Å"
    return Problem(frame.where, BOUNDARY_KEY, found, "a structure the boundary method can treat", str(error))


def build_graphs(
    frames: Sequence[Frame],
    r_max: float,
    settings: Electrostatics,
    rule: FormalCharges,
    planner: Planner = plan_structure,
    search: Search = find_neighbors,
) -> list[AtomGraph]:
    """Return the graphs of frames to be evaluated, without checks of their labels.

    ``planner`` and ``search`` as in :func:`build_graph`.

    Raises :class:`lsf.errors.DataError` naming every structure that is broken, every frame the boundary
    method cannot treat and every formal charge that is missing.
    """
    graphs = []
    problems: list[Problem] = []
    for frame in frames:
        broken = cell_problems(frame)
        if broken:
            problems += broken
            continue
        charges, lacking = charges_of(frame.numbers, frame.values, rule)
        if lacking:
            expected = "a formal charge for every atom"
            problems.append(Problem(frame.where, "formal_charges", lacking.what, expected, lacking.hint))
            continue
        try:
            graphs.append(build_graph(frame, r_max, settings, charges, planner, search))
        except DataError as error:
            problems += error.problems
        except BoundaryError as error:
            problems.append(boundary_problem(frame, error))
    if problems:
        raise DataError(TITLE, limited(problems))
    share_lists(graphs)
    return graphs


def share_lists(graphs: Sequence[AtomGraph]) -> None:
    """Let graphs with equal lists of wave vectors hold one copy of them.

    All molecules in a box of 30 Å have the same 2787 wave vectors (90 kB); batches copy them anyway.
    """
    known: dict[tuple[str, bytes], Tensor] = {}
    for graph in graphs:
        for name in ("k_triplets", "k_batch", "layer_pairs", "layer_batch"):
            content = hashlib.blake2b(graph[name].numpy().tobytes()).digest()
            graph[name] = known.setdefault((name, content), graph[name])
