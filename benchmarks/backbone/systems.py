"""Structures of the benchmark, the same for both sides: numpy and vesin only."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from vesin import NeighborList

DENSITY = 0.1  # atoms per cubic Å, as in liquid water
WATER = np.array([[0.0, 0.0, 0.0], [0.9572, 0.0, 0.0], [-0.23999, 0.92663, 0.0]])  # O H H, Å
R_MAX = 6.0
LEVELS = {"hidden_irreps": "64x0e + 64x1o", "max_ell": 3, "correlation": 3, "num_interactions": 2}

Array = NDArray[Any]


class Structure(NamedTuple):
    """Atoms with all directed edges shorter than ``r_max``, sorted by receiver."""

    numbers: Array  # (n_atoms,)
    positions: Array  # (n_atoms, 3) Å
    cell: Array  # (3, 3) Å; zero where there is none
    pbc: Array  # (3,)
    edge_index: Array  # (2, n_edges): sender, receiver
    unit_shifts: Array  # (n_edges, 3): vector = r_receiver - r_sender + shift @ cell


def structures(task: dict[str, Any]) -> list[Structure]:
    """Return the structures of a task: ``system``, ``n_atoms`` and what each asks for."""
    r_max = task.get("r_max", R_MAX)
    count = task.get("n_structures", 1)
    if task["system"] == "clusters":
        return [cluster(1 + seed % 6, seed, r_max) for seed in range(count)]
    n_atoms = task["n_atoms"]
    if task["system"] == "slab":
        return [slab(n_atoms, seed, r_max) for seed in range(count)]
    if task["system"] == "alloy":
        return [alloy(n_atoms, task["n_elements"], seed, r_max) for seed in range(count)]
    return [water(n_atoms, seed, r_max, task.get("density", DENSITY)) for seed in range(count)]


def water(n_atoms: int, seed: int, r_max: float, density: float) -> Structure:
    """Molecules of random orientation on a jittered lattice, periodic."""
    numbers, positions, edge = _molecules(n_atoms // 3, seed, density)
    return _with_edges(numbers, positions, np.eye(3) * edge, np.array([True] * 3), r_max)


def slab(n_atoms: int, seed: int, r_max: float) -> Structure:
    """A layer of water with two surfaces, a tenth of its molecules as vapour above and below it."""
    n_molecules = n_atoms // 3
    n_vapour = max(2, n_molecules // 10)
    numbers, positions, edge = _molecules(n_molecules - n_vapour, seed, DENSITY)
    rng = np.random.default_rng(100 + seed)
    heights = np.concatenate([[-8.0 - 4.0 * i, edge + 8.0 + 4.0 * i] for i in range((n_vapour + 1) // 2)])
    for height in heights[:n_vapour]:
        centre = np.array([*rng.uniform(0.0, edge, 2), height])
        positions = np.concatenate([positions, WATER @ _rotation(rng).T + centre])
        numbers = np.concatenate([numbers, [8, 1, 1]])
    cell = np.diag([edge, edge, float(np.ptp(positions[:, 2])) + 20.0])
    return _with_edges(numbers, positions, cell, np.array([True, True, False]), r_max)


def alloy(n_atoms: int, n_elements: int, seed: int, r_max: float) -> Structure:
    """A jittered lattice of ``n_elements`` elements, as dense as water, periodic."""
    rng = np.random.default_rng(seed)
    edge = (n_atoms / DENSITY) ** (1.0 / 3.0)
    places = _lattice(n_atoms, rng)
    positions = (
        (places + rng.uniform(-0.2, 0.2, places.shape)) * edge / np.ceil(n_atoms ** (1.0 / 3.0) - 1e-9)
    )
    numbers = 1 + np.arange(n_atoms) % n_elements
    return _with_edges(numbers, positions, np.eye(3) * edge, np.array([True] * 3), r_max)


def cluster(n_molecules: int, seed: int, r_max: float) -> Structure:
    """A few water molecules, open."""
    numbers, positions, _ = _molecules(n_molecules, seed, DENSITY)
    return _with_edges(numbers, positions, np.zeros((3, 3)), np.array([False] * 3), r_max)


def _molecules(count: int, seed: int, density: float) -> tuple[Array, Array, float]:
    rng = np.random.default_rng(seed)
    edge = float((3 * count / density) ** (1.0 / 3.0))
    places = _lattice(count, rng)
    spacing = edge / np.ceil(count ** (1.0 / 3.0) - 1e-9)
    centres = (places + rng.uniform(-0.12, 0.12, places.shape)) * spacing
    positions = np.concatenate([WATER @ _rotation(rng).T + centre for centre in centres])
    return np.tile([8, 1, 1], count), positions, edge


def _lattice(count: int, rng: np.random.Generator) -> Array:
    """Return ``count`` points out of a cubic lattice, in units of its spacing, at cell centres."""
    per_axis = int(np.ceil(count ** (1.0 / 3.0) - 1e-9))
    chosen = rng.permutation(per_axis**3)[:count]
    return np.stack(np.unravel_index(chosen, (per_axis,) * 3), 1) + 0.5


def _rotation(rng: np.random.Generator) -> Array:
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return np.asarray(q * np.linalg.det(q))


def _with_edges(numbers: Array, positions: Array, cell: Array, pbc: Array, r_max: float) -> Structure:
    box = cell if pbc.any() else np.diag(np.ptp(positions, axis=0) + 1.0)
    search = NeighborList(cutoff=r_max, full_list=True, n_threads=1)
    sender, receiver, shifts = search.compute(points=positions, box=box, periodic=pbc, quantities="ijS")
    order = np.lexsort((sender, receiver))
    edge_index = np.stack([sender[order], receiver[order]]).astype(np.int64)
    return Structure(numbers, positions, cell, pbc, edge_index, shifts[order].astype(np.float64))
