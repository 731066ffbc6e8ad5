"""Integer layout of the direct Fourier sums: which structures and wave vectors share a matrix product.

Nothing here depends on a coordinate or a cell; layouts are remembered while a plan's lists are in use, as in
molecular dynamics with a fixed cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Final, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lsf.machine.caches import ByIdentity

SMALL_BATCH = 2**21
"""Padded batches below this number of (atom, wave vector) terms are never split."""

GROUP_COST = 2**20
"""Work, in (atom, real number) terms, that one more group of columns must save to be worth its calls."""

GROUP_SIZE = 2**11
"""Real numbers that a group must save for every chunk of atoms."""

MOST_GROUPS: Final = 24


class Group(NamedTuple):
    """A box of non-negative integers (h, k, l) that serves part of the wave vectors of a block."""

    h: slice
    k: slice
    l: slice  # noqa: E741 - Miller index
    rows: Tensor  # (n_k_group,) int64, rows of the batch's wave vector list
    place: Tensor  # (n_k_group, 8) int64, terms of real, then imaginary part in a flat [a, t, l, p]
    signs: Tensor  # (n_k_group, 8) float64, of these terms

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the numbers of h, k and l."""
        return (
            self.h.stop - self.h.start,
            self.k.stop - self.k.start,
            self.l.stop - self.l.start,
        )

    @property
    def size(self) -> int:
        """Return the number of real sums of a structure."""
        return 8 * math.prod(self.shape)


class Block(NamedTuple):
    """Structures of similar size that share their groups of wave vectors."""

    atoms: Tensor  # [a, j] int64, row of each atom; n_atoms where padded
    bounds: tuple[int, int, int]  # largest abs(h), abs(k), abs(l)
    groups: tuple[Group, ...]


Layout = TypeVar("Layout")
MakeLayout = Callable[[Tensor, Tensor, Tensor, int], Layout]


def remembered(make: MakeLayout[Layout]) -> MakeLayout[Layout]:
    """Keep what ``make`` returned for as long as the same lists are in use and unchanged."""
    known: ByIdentity[Layout] = ByIdentity()

    @wraps(make)
    def find(batch: Tensor, k_triplets: Tensor, k_batch: Tensor, n_graphs: int) -> Layout:
        def made() -> Layout:
            return make(batch, k_triplets, k_batch, n_graphs)

        if torch.compiler.is_compiling():
            return made()
        return known.find(k_triplets, [batch], n_graphs, made)

    return find


@remembered
def layout(batch: Tensor, k_triplets: Tensor, k_batch: Tensor, n_graphs: int) -> tuple[Block, ...]:
    """Return one block when padding wastes little, otherwise one per class of similar sizes.

    ``batch`` (n_atoms,), ascending; ``k_triplets`` (n_k, 3) in a half space h >= 0 and ``k_batch`` (n_k,), in
    any order; structures without wave vectors are left out. All int64.
    """
    counts = torch.bincount(batch, minlength=n_graphs)
    bounds = torch.zeros(n_graphs, 3, dtype=torch.int64, device=batch.device)
    bounds = bounds.scatter_reduce(0, k_batch[:, None].expand(-1, 3), k_triplets.abs(), "amax")
    boxes = (2 * bounds + 1).prod(1)
    active = torch.bincount(k_batch, minlength=n_graphs) > 0
    first = torch.cumsum(counts, 0) - counts
    return tuple(
        _block(first, counts, members, k_triplets, k_batch)
        for members in _size_classes(counts, boxes, active)
    )


def _size_classes(counts: Tensor, boxes: Tensor, active: Tensor) -> list[Tensor]:
    """Return masks (n_graphs,) of structures to treat together: all, or by powers of four in both sizes."""
    if not bool(active.any()):
        return []
    padded = active.sum() * counts[active].max() * boxes[active].max()
    useful = (counts * boxes)[active].sum()
    if bool((padded <= 3 * useful) | (padded <= SMALL_BATCH)):
        return [active]
    classes = (counts.clamp(min=1).log2() / 2).floor() * 100 + (boxes.log2() / 2).floor()
    return [active & (classes == label) for label in torch.unique(classes[active])]


def _block(first: Tensor, counts: Tensor, members: Tensor, k_triplets: Tensor, k_batch: Tensor) -> Block:
    structures = members.nonzero()[:, 0]
    slots = torch.arange(int(counts[structures].max()), device=counts.device)
    n_atoms = int(counts.sum())
    atoms = torch.where(slots < counts[structures, None], first[structures, None] + slots, n_atoms)
    rows = members[k_batch].nonzero()[:, 0]
    triplets = k_triplets[rows]
    local = (torch.cumsum(members, 0) - 1)[k_batch[rows]]
    absolute = triplets.abs()
    b_h, b_k, b_l = (int(n) for n in absolute.amax(0))
    column = absolute[:, 0] * (b_k + 1) + absolute[:, 1]
    highest = torch.full(((b_h + 1) * (b_k + 1),), -1, dtype=torch.int64, device=counts.device)
    highest = highest.scatter_reduce(0, column, absolute[:, 2], "amax").reshape(b_h + 1, b_k + 1)
    boxes = _split(highest.cpu().numpy(), atoms.numel())
    groups = []
    for h0, h1, k0, k1, n_l in boxes:
        h, k = absolute[:, 0], absolute[:, 1]
        inside = (
            ((h >= h0) & (h < h1) & (k >= k0) & (k < k1)).nonzero()[:, 0] if len(boxes) > 1 else slice(None)
        )
        place, signs = _terms(triplets[inside], local[inside], (h0, h1, k0, k1, n_l))
        groups.append(Group(slice(h0, h1), slice(k0, k1), slice(0, n_l), rows[inside], place, signs))
    return Block(atoms=atoms, bounds=(b_h, b_k, b_l), groups=tuple(groups))


# (cos - i sin)(s_1) (cos ∓ i sin)(s_2) (cos ∓ i sin)(s_3): which factors are sines, and the sign of the term
# as powers of the signs of k and l; four terms of the real part, four of the imaginary part
_TERMS: Final = (
    ((0, 0, 0), 1.0, (0, 0)),
    ((0, 1, 1), -1.0, (1, 1)),
    ((1, 1, 0), -1.0, (1, 0)),
    ((1, 0, 1), -1.0, (0, 1)),
    ((1, 1, 1), 1.0, (1, 1)),
    ((1, 0, 0), -1.0, (0, 0)),
    ((0, 1, 0), -1.0, (1, 0)),
    ((0, 0, 1), -1.0, (0, 1)),
)


def _terms(triplets: Tensor, local: Tensor, box: tuple[int, int, int, int, int]) -> tuple[Tensor, Tensor]:
    """Return places and signs among the real sums [a, t, l, p] of a group's box."""
    h0, h1, k0, k1, n_l = box
    absolute = triplets.abs()
    h, k = absolute[:, 0] - h0, absolute[:, 1] - k0
    n_h, n_k = h1 - h0, k1 - k0
    first = ((local * 2 * n_l + absolute[:, 2]) * 2 * n_h + h) * 2 * n_k + k
    return sum_places(triplets, first, (2 * n_h * n_k, n_k, n_l * 4 * n_h * n_k))


def sum_places(triplets: Tensor, first: Tensor, sines: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Return places and signs (n_k, 8) of the eight real sums that make up each wave vector's complex one.

    ``first`` (n_k,) is the place of the product of three cosines, ``sines`` the steps from there to the sine
    of the first, second and third coordinate.
    """
    offsets = [sum(s * step for s, step in zip(chosen, sines, strict=True)) for chosen, _, _ in _TERMS]
    sign_k, sign_l = (1.0 - 2.0 * (triplets[:, axis] < 0).double() for axis in (1, 2))
    signs = [sign * sign_k**pk * sign_l**pl for _, sign, (pk, pl) in _TERMS]
    return first[:, None] + first.new_tensor(offsets), torch.stack(signs, 1)


def _split(highest: NDArray[np.int64], n_atoms: int) -> list[tuple[int, int, int, int, int]]:
    """Return boxes (h0, h1, k0, k1, n_l) that hold all columns of ``highest`` l, [h, k], -1 where none.

    The sphere inside the cutoff fills half its bounding box: boxes are cut in two, at the best place, as long
    as a cut saves more than the calls it costs.
    """
    boxes = [(0, highest.shape[0], 0, highest.shape[1])]
    threshold = max(GROUP_SIZE, GROUP_COST / max(1, n_atoms)) / 8.0
    done: list[tuple[int, int, int, int]] = []
    while boxes:
        h0, h1, k0, k1 = box = boxes.pop()
        part = highest[h0:h1, k0:k1] + 1
        gain, axis, cut = max(_best_cut(part), _best_cut(part.T, 1)) if part.size > 1 else (0, 0, 0)
        if gain <= threshold or len(boxes) + len(done) >= MOST_GROUPS:
            done.append(box)
        elif axis == 0:
            boxes += [(h0, h0 + cut, k0, k1), (h0 + cut, h1, k0, k1)]
        else:
            boxes += [(h0, h1, k0, k0 + cut), (h0, h1, k0 + cut, k1)]
    sized = [(*box, int(highest[box[0] : box[1], box[2] : box[3]].max()) + 1) for box in sorted(done)]
    return [box for box in sized if box[4] > 0]


def _best_cut(counts: NDArray[np.int64], axis: int = 0) -> tuple[int, int, int]:
    """Return (columns times l saved, axis, place) of the best cut between rows of ``counts``."""
    if len(counts) < 2:
        return (0, axis, 0)
    per_row = counts.max(1)
    below = np.maximum.accumulate(per_row)[:-1] * np.arange(1, len(counts))
    above = np.maximum.accumulate(per_row[::-1])[::-1][1:] * np.arange(len(counts) - 1, 0, -1)
    saved = (per_row.max() * len(counts) - below - above) * counts.shape[1]
    best = int(np.argmax(saved))
    return (int(saved[best]), axis, best + 1)
