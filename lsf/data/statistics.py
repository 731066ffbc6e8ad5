"""What a model and its user need to know about the data: facts for building, counts for reading."""

from __future__ import annotations

import math
import statistics
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from lsf.data.graph import AtomGraph
from lsf.recipe.quantities import LABELS
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
    """How much a split holds: ``labels`` counts single numbers with a weight above zero.

    ``labelled_frames`` counts frames that have such a number.
    """

    split: str
    frames: int
    atoms: int
    labels: dict[str, int]
    labelled_frames: dict[str, int]


@attrs.frozen
class Summary:
    """What a survey of a split has found; ``extremes`` are the places of lowest and highest formal charge."""

    counts: SplitCounts
    config_types: tuple[str, ...]
    extremes: tuple[int, int]
    average_neighbors: float
    scales: LabelScales

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Summary:
        """Return the summary that ``attrs.asdict`` made a table of, be it by way of JSON."""
        return cls(
            SplitCounts(**table["counts"]),
            tuple(table["config_types"]),
            tuple(table["extremes"]),
            table["average_neighbors"],
            LabelScales(**table["scales"]),
        )


@attrs.define
class Survey:
    """What one pass over the graphs of a split adds up; graphs themselves are not kept."""

    atomic_energies: Mapping[int, float]
    frames: int = 0
    atoms: int = 0
    edges: int = 0
    labels: dict[str, int] = attrs.field(factory=lambda: dict.fromkeys(LABELS, 0))
    labelled_frames: dict[str, int] = attrs.field(factory=lambda: dict.fromkeys(LABELS, 0))
    config_types: dict[str, None] = attrs.field(factory=dict)
    lowest_charge: tuple[float, int] = (math.inf, 0)
    highest_charge: tuple[float, int] = (-math.inf, 0)
    _energies: array[float] = attrs.field(factory=lambda: array("d"))
    _force_squares: float = 0.0
    _forces: int = 0

    @classmethod
    def of(cls, graphs: Iterable[AtomGraph], atomic_energies: Mapping[int, float]) -> Survey:
        """Return the survey of all the graphs."""
        survey = cls(atomic_energies)
        for graph in graphs:
            survey.add(graph)
        return survey

    def add(self, graph: AtomGraph) -> None:
        """Take in the next graph."""
        for name in LABELS:
            weighted = int((graph[f"weight_{name}"] > 0.0).sum())
            if weighted:
                # of a dipole every component has a weight of its own
                self.labels[name] += weighted if name == "dipole" else graph[f"target_{name}"].numel()
                self.labelled_frames[name] += 1
        if bool((graph.weight_energy > 0.0).any()):
            # an element without an energy is a problem that is told elsewhere
            free = sum(self.atomic_energies.get(number, 0.0) for number in graph.atomic_numbers.tolist())
            self._energies.append((float(graph.target_energy) - free) / int(graph.num_nodes))
        if bool((graph.weight_forces > 0.0).any()):
            self._force_squares += float(graph.target_forces.square().sum())
            self._forces += graph.target_forces.numel()
        charges = graph.formal_charges
        self.lowest_charge = min(self.lowest_charge, (float(charges.min()), self.frames))
        self.highest_charge = max(self.highest_charge, (float(charges.max()), self.frames))
        self.config_types[graph.config_type] = None
        self.frames += 1
        self.atoms += int(graph.num_nodes)
        self.edges += int(graph.edge_index.shape[1])

    def summary(self, split: str) -> Summary:
        """Return what was found; a dipole counts its weighted components.

        The mean number of neighbours is 1 for data without any, so that it can divide.
        """
        return Summary(
            SplitCounts(split, self.frames, self.atoms, dict(self.labels), dict(self.labelled_frames)),
            tuple(self.config_types),
            (self.lowest_charge[1], self.highest_charge[1]),
            self.edges / self.atoms if self.edges else 1.0,
            self.label_scales(),
        )

    def label_scales(self) -> LabelScales:
        """Return how large energies and forces are; frames of weight zero do not count, others count once."""
        energies = self._energies
        return LabelScales(
            energy_mean=statistics.fmean(energies) if energies else None,
            energy_std=statistics.stdev(energies) if len(energies) > 1 else None,
            forces_rms=math.sqrt(self._force_squares / self._forces) if self._forces else None,
        )


def count_table(counts: Sequence[SplitCounts]) -> Table:
    """Return the table of splits against labels; properties without any label are left out."""
    present = [name for name in LABELS if any(count.labels[name] for count in counts)]
    rows: list[tuple[Cell, ...]] = [
        (count.split, count.frames, count.atoms, *(count.labels[name] for name in present))
        for count in counts
    ]
    return Table("Labelled numbers by split", ("split", "frames", "atoms", *present), rows)


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
