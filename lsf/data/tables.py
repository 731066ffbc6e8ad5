"""Tables that models read besides a graph's edges, as numpy arrays, and how parts become one batch.

Atoms are grouped by species, incoming edges by atom, both padded to rectangles. Nothing here imports torch:
ONNX Runtime's inputs are made from it. :mod:`lsf.data.graph` makes the same tables with torch operations,
which run on a GPU and inside of TorchScript files; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

Values = TypeVar("Values")
Integers = NDArray[np.int64]

COUNTS_ATOMS: Final = ("edge_index", "open_pairs")
"""Fields of shape (2, n) that hold numbers of atoms: in a batch they are shifted and joined along n."""

COUNTS_GRAPHS: Final = ("k_batch", "layer_batch", "batch")
"""Fields that hold numbers of structures."""


def joined(
    parts: Sequence[Mapping[str, Values]], concatenate: Callable[[list[Values], int], Values]
) -> dict[str, Values]:
    """Return the arrays or tensors of several structures as those of one batch.

    ``concatenate(values, axis)`` joins the kind of array at hand; every part has ``positions``.
    """
    sizes = [_length(part["positions"]) for part in parts]
    first_atom = list(accumulate(sizes, initial=0))[:-1]
    found = {}
    for name in parts[0]:
        values: list[Any] = [part[name] for part in parts]
        if name in COUNTS_ATOMS:
            values = [value + first for value, first in zip(values, first_atom, strict=True)]
        elif name in COUNTS_GRAPHS:
            values = [value + place for place, value in enumerate(values)]
        found[name] = concatenate(values, 1 if name in COUNTS_ATOMS else 0)
    return found


def _length(values: Any) -> int:
    return len(values)


def neighbor_slots(edge_index: Integers, n_atoms: int) -> Integers:
    """Return the padded table of incoming edges of every atom, ``(n_atoms, max(1, max degree))``.

    ``edge_index`` must be sorted by receiver. Unused slots hold ``n_edges``.
    """
    receiver, n_edges = edge_index[1], edge_index.shape[1]
    degree = np.bincount(receiver, minlength=n_atoms)
    first = np.cumsum(degree) - degree
    width = max(1, int(degree.max())) if n_atoms else 1
    slots = np.full((n_atoms, width), n_edges, dtype=np.int64)
    slots[receiver, np.arange(n_edges) - first[receiver]] = np.arange(n_edges)
    return slots


def group_by_species(species: Integers) -> tuple[Integers, Integers, Integers]:
    """Return (present_species, species_slots, species_place) of species indices ``(n_atoms,)``.

    A frequent species has several groups, one after the other, so that rare ones leave few slots empty.
    """
    n_atoms = len(species)
    present, local, counts = np.unique(species, return_inverse=True, return_counts=True)
    order = np.argsort(local, kind="stable")
    first = np.cumsum(counts) - counts
    rank = np.empty_like(order)
    rank[order] = np.arange(n_atoms) - first[local[order]]
    width = group_width(counts.tolist())
    n_groups = (counts + (width - 1)) // width
    place = (np.cumsum(n_groups) - n_groups)[local] * width + rank
    slots = np.full(int(n_groups.sum()) * width, n_atoms, dtype=np.int64)
    slots[place] = np.arange(n_atoms)
    return np.repeat(present, n_groups), slots.reshape(-1, width), place


def group_width(counts: list[int], most_groups: int = 4, atoms_per_group: int = 16) -> int:
    """Return how many atoms of one species a group holds at most, for so many atoms of each.

    The most frequent species has ``most_groups`` at most; a group costs as much as ``atoms_per_group`` more.
    """
    best, least = 1, -1
    for pieces in range(1, most_groups + 1):
        width = (max(counts) + pieces - 1) // pieces
        n_groups = sum([(count + width - 1) // width for count in counts])
        work = n_groups * (width + atoms_per_group)
        if least < 0 or work < least:
            best, least = width, work
    return best
