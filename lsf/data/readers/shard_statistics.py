"""What the index of a folder of shards says about its frames."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lsf.data.atomic_energies import average_energies
from lsf.data.frames import Frame
from lsf.data.neighbors import find_neighbors


def statistics_of(
    frames: Sequence[Frame], r_max: float, atomic_energies: Mapping[int, float] | None = None
) -> dict[str, Any]:
    """Return sizes, elements, neighbours within ``r_max`` Å and the size of the labels, in plain values.

    Energies per atom are relative to the atomic energies, those fitted to the frames where none are given.
    """
    species = sorted({number for frame in frames for number in frame.numbers.tolist()})
    average = average_energies(frames, species).energies
    used = average if atomic_energies is None else atomic_energies
    atoms = edges = n_forces = 0
    squares, energies = 0.0, []
    for frame in frames:
        atoms += len(frame.numbers)
        edges += find_neighbors(frame.positions, frame.cell, frame.pbc, r_max).edge_index.shape[1]
        if "energy" in frame.values and frame.weights["energy"] > 0.0:
            free = sum(used[number] for number in frame.numbers.tolist())
            energies.append((float(frame.values["energy"]) - free) / len(frame.numbers))
        if "forces" in frame.values and frame.weights["forces"] > 0.0:
            squares += float(np.square(frame.values["forces"]).sum())
            n_forces += frame.values["forces"].size
    return {
        "frames": len(frames),
        "atoms": atoms,
        "species": species,
        "config_types": dict(Counter(frame.config_type for frame in frames)),
        "average_atomic_energies": {str(number): energy for number, energy in average.items()},
        "r_max": r_max,
        "avg_num_neighbors": edges / atoms,
        "energy_mean": statistics.fmean(energies) if energies else None,
        "energy_std": statistics.stdev(energies) if len(energies) > 1 else None,
        "forces_rms": math.sqrt(squares / n_forces) if n_forces else None,
    }
