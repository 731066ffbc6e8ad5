"""What a model and its user need to know about the data: facts for building, counts for reading."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from lsf.data.graph import AtomGraph
from lsf.data.keys import LABELS
from lsf.report.tables import Cell, Table


@attrs.frozen
class DataFacts:
    """What a model is built from besides its options; stored with every model.

    ``provenance`` holds, by split, file names, checksums, numbers of frames and labels: plain values
    that can be written as JSON or TOML.
    """

    species: tuple[int, ...]
    """Atomic numbers of the training data, ascending."""
    atomic_energies: dict[int, float]
    """Energy of the free atom in eV by atomic number."""
    avg_num_neighbors: float
    """Mean number of neighbours within the cutoff, over all training atoms."""
    n_frames: dict[str, int]
    """Frames by split."""
    provenance: dict[str, Any] = attrs.field(factory=dict)
    energy_mean: float | None = None
    """Mean over the training frames of (E - Σ E0)/n_atoms in eV; None without energies."""
    energy_std: float | None = None
    """Standard deviation of the same; None with fewer than two energies."""
    forces_rms: float | None = None
    """Root mean square of the training forces' components in eV/Å; None without forces."""


@attrs.frozen
class LabelScales:
    """The fields of :class:`DataFacts` of these names."""

    energy_mean: float | None
    energy_std: float | None
    forces_rms: float | None


@attrs.frozen
class SplitCounts:
    """How much a split holds: ``labels`` counts single numbers with a weight above zero."""

    split: str
    frames: int
    atoms: int
    labels: dict[str, int]


def count_split(split: str, graphs: Sequence[AtomGraph]) -> SplitCounts:
    """Return frames, atoms and labelled numbers of a split (a dipole counts its weighted components)."""
    labels = dict.fromkeys(LABELS, 0)
    for graph in graphs:
        for name in LABELS:
            weighted = int((graph[f"weight_{name}"] > 0.0).sum())
            if name == "dipole":
                labels[name] += weighted
            elif weighted:
                labels[name] += graph[f"target_{name}"].numel()
    return SplitCounts(split, len(graphs), sum(int(graph.num_nodes) for graph in graphs), labels)


def count_table(counts: Sequence[SplitCounts]) -> Table:
    """Return the table of splits against labels; properties without any label are left out."""
    present = [name for name in LABELS if any(count.labels[name] for count in counts)]
    rows: list[tuple[Cell, ...]] = [
        (count.split, count.frames, count.atoms, *(count.labels[name] for name in present))
        for count in counts
    ]
    return Table("Labelled numbers by split", ("split", "frames", "atoms", *present), rows)


def average_neighbors(graphs: Sequence[AtomGraph]) -> float:
    """Return the mean number of neighbours per atom; 1 for data without any, so that it can divide."""
    edges = sum(int(graph.edge_index.shape[1]) for graph in graphs)
    atoms = sum(int(graph.num_nodes) for graph in graphs)
    return edges / atoms if edges else 1.0


def label_scales(graphs: Sequence[AtomGraph], atomic_energies: Mapping[int, float]) -> LabelScales:
    """Return how large energies and forces are; frames of weight zero do not count, others count once."""
    energies = []
    forces = []
    for graph in graphs:
        if bool((graph.weight_energy > 0.0).any()):
            free = sum(atomic_energies[number] for number in graph.atomic_numbers.tolist())
            energies.append((float(graph.target_energy) - free) / int(graph.num_nodes))
        if bool((graph.weight_forces > 0.0).any()):
            forces.append(graph.target_forces.numpy().reshape(-1))
    return LabelScales(
        energy_mean=statistics.fmean(energies) if energies else None,
        energy_std=statistics.stdev(energies) if len(energies) > 1 else None,
        forces_rms=float(np.sqrt(np.square(np.concatenate(forces)).mean())) if forces else None,
    )


def provenance_of(path: str, checksum: str, counts: SplitCounts) -> dict[str, Any]:
    """Return the record of one split for :class:`DataFacts`."""
    labels: Mapping[str, int] = {name: number for name, number in counts.labels.items() if number}
    return {
        "file": path,
        "sha256": checksum,
        "frames": counts.frames,
        "atoms": counts.atoms,
        "labels": dict(labels),
    }
