r"""Direct evaluation of the two Fourier sums: matrix products over padded batches of structures.

Phases factorise, :math:`e^{-2\pi i(h s_1 + k s_2 + l s_3)} = E_{hk}(s) e^{-2\pi i l s_3}`. The integers are
the same for every structure, so a block of structures shares one list of columns (h, k) and one range of l;
the sum over atoms is a batched matrix product between ``E`` (times moments) and the cosines and sines of
``2π l s_3``, which serves +l and -l at once. Cosines are taken per axis only, n_atoms × (n_1 + n_2 + n_3) of
them, from fractional coordinates reduced to one period, and atoms are worked off in chunks.

======  ============================================================
index   runs over
======  ============================================================
a       structures of a block
j       atoms of a structure, padded with atoms without moments
p       columns (h, k) used by any structure of the block
l       0 … largest abs(l)
======  ============================================================
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from lsf.electrostatics.multipoles import monomials

CHUNK_ELEMENTS = 2**18
"""Phases worked on at a time (2 MB each for real and imaginary part): the second-level cache of most CPUs."""

SMALL_BATCH = 2**21
"""Padded batches below this number of (atom, wave vector) terms are never split."""


class FourierBlock(NamedTuple):
    """Structures of similar size that share one padded list of wave vectors."""

    atoms: Tensor  # [a, j] int64, row of each atom; n_atoms where padded
    k_rows: Tensor  # (n_k_block,) int64, rows of the wave vector list
    dense: Tensor  # (n_k_block,) int64, their place in a flattened [a, sign, p, l] array
    columns: Tensor  # [p, 2] float64, the integers (h, k)
    e_hk: tuple[Tensor, Tensor, Tensor, Tensor]  # tables [a, h, j] cos, -sin of 2π h s_1, [a, k, j] of s_2
    rows_hk: tuple[Tensor, Tensor]  # [p] int64, rows of these tables
    z: Tensor  # [a, j, 2 l] cosines, then sines of 2π l s_3

    @property
    def n_l(self) -> int:
        """Number of values of l, counting zero."""
        return self.z.shape[-1] // 2

    def phases(self, chunk: slice) -> tuple[Tensor, Tensor]:
        """Return real and imaginary part of ``exp(-2πi (h s_1 + k s_2))`` [a, p, j] of a chunk of atoms."""
        x_re, x_im = (table[:, :, chunk].index_select(1, self.rows_hk[0]) for table in self.e_hk[:2])
        y_re, y_im = (table[:, :, chunk].index_select(1, self.rows_hk[1]) for table in self.e_hk[2:])
        return x_re * y_re - x_im * y_im, x_re * y_im + x_im * y_re

    def chunks(self) -> list[slice]:
        """Return slices of the atoms that keep the work arrays in cache."""
        n_structures, n_atoms = self.atoms.shape
        step = max(16, CHUNK_ELEMENTS // max(1, n_structures * len(self.columns)))
        return [slice(start, start + step) for start in range(0, n_atoms, step)]


class FourierGrid(NamedTuple):
    """Wave vectors and atoms of a batch, arranged in blocks; holds no gradient."""

    n_atoms: int
    n_k: int
    blocks: list[FourierBlock]


@torch.no_grad()
def fourier_grid(
    fractional: Tensor, batch: Tensor, k_triplets: Tensor, k_batch: Tensor, n_graphs: int
) -> FourierGrid:
    """Arrange a batch for the Fourier sums.

    Parameters
    ----------
    fractional : (n_atoms, 3), need not be wrapped
    batch : (n_atoms,) int64, ascending
    k_triplets, k_batch : (n_k, 3) and (n_k,) int64, in any order
    n_graphs : number of structures; those without wave vectors are left out

    Returns
    -------
    one block when padding wastes little, otherwise one per class of similar numbers of atoms and k-vectors
    """
    counts = torch.bincount(batch, minlength=n_graphs)
    bounds = torch.zeros(n_graphs, 3, dtype=torch.int64, device=batch.device)
    bounds = bounds.scatter_reduce(0, k_batch[:, None].expand(-1, 3), k_triplets.abs(), "amax")
    boxes = (2 * bounds + 1).prod(1)
    active = torch.bincount(k_batch, minlength=n_graphs) > 0
    first = torch.cumsum(counts, 0) - counts
    blocks = [
        _block(fractional, first, counts, members, k_triplets, k_batch)
        for members in _size_classes(counts, boxes, active)
    ]
    return FourierGrid(n_atoms=len(batch), n_k=len(k_batch), blocks=blocks)


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


def _block(
    fractional: Tensor, first: Tensor, counts: Tensor, members: Tensor, k_triplets: Tensor, k_batch: Tensor
) -> FourierBlock:
    structures = members.nonzero()[:, 0]
    width = counts[structures].max()
    slots = torch.arange(int(width), device=counts.device)
    atoms = torch.where(slots < counts[structures, None], first[structures, None] + slots, len(fractional))
    local = torch.cumsum(members, 0) - 1
    k_rows = members[k_batch].nonzero()[:, 0]
    h, k, l = k_triplets[k_rows].unbind(1)  # noqa: E741 - Miller indices
    bounds = [int(index.abs().max()) for index in (h, k, l)]
    stride = 2 * bounds[1] + 1
    codes, column = torch.unique((h + bounds[0]) * stride + k + bounds[1], return_inverse=True)
    rows_hk = (torch.div(codes, stride, rounding_mode="floor"), codes % stride)
    n_l = bounds[2] + 1
    dense = ((local[k_batch[k_rows]] * 2 + (l < 0)) * len(codes) + column) * n_l + l.abs()
    columns = torch.stack([rows_hk[0] - bounds[0], rows_hk[1] - bounds[1]], 1).to(fractional.dtype)
    reduced = fractional - fractional.round()
    reduced = torch.cat([reduced, reduced.new_zeros(1, 3)])[atoms]
    x, y = (_turns(reduced[..., i], -bounds[i], bounds[i]).transpose(1, 2).contiguous() for i in range(2))
    z = _turns(reduced[..., 2], 0, bounds[2])
    return FourierBlock(
        atoms=atoms,
        k_rows=k_rows,
        dense=dense,
        columns=columns,
        e_hk=(x.cos(), -x.sin(), y.cos(), -y.sin()),
        rows_hk=rows_hk,
        z=torch.cat([z.cos(), z.sin()], -1),
    )


def _turns(coordinate: Tensor, lowest: int, highest: int) -> Tensor:
    """Return ``2π n s`` for n = lowest … highest, reduced to one turn so that large n loses no digits."""
    integers = torch.arange(lowest, highest + 1, dtype=coordinate.dtype, device=coordinate.device)
    turns = coordinate[..., None] * integers
    return 2.0 * math.pi * (turns - turns.round())


@lru_cache
def _groups(degree: int) -> list[tuple[slice, tuple[tuple[int, int], ...]]]:
    """Return, for c = 0 … L, the columns of the moments with that exponent c and their exponents (a, b)."""
    all_exponents = monomials(degree)
    groups = []
    start = 0
    for power in range(degree + 1):
        members = tuple((a, b) for a, b, c in all_exponents if c == power)
        groups.append((slice(start, start + len(members)), members))
        start += len(members)
    return groups


def _column_factors(columns: Tensor, exponents: tuple[tuple[int, int], ...]) -> tuple[Tensor, Tensor]:
    """Return real and imaginary part of ``(-2πi h)^a (-2πi k)^b``, each [p, n_exponents]."""
    turned = 2.0 * math.pi * columns
    magnitude = torch.stack([turned[:, 0] ** a * turned[:, 1] ** b for a, b in exponents], 1)
    powers = [((1.0, 0.0), (0.0, -1.0), (-1.0, 0.0), (0.0, 1.0))[(a + b) % 4] for a, b in exponents]
    signs = magnitude.new_tensor(powers)
    return magnitude * signs[:, 0], magnitude * signs[:, 1]


def _times_power_of_l(re: Tensor, im: Tensor, power: int, sign: int) -> tuple[Tensor, Tensor]:
    """Return ``(re + i im) (-2πi sign l)^power`` where l counts along the last dimension."""
    integers = torch.arange(re.shape[-1], dtype=re.dtype, device=re.device)
    magnitude = (2.0 * math.pi * sign * integers) ** power
    turned = ((re, im), (im, -re), (-re, -im), (-im, re))[power % 4]
    return turned[0] * magnitude, turned[1] * magnitude


def sum_block(moments: Tensor, block: FourierBlock, degree: int) -> Tensor:
    """Return the type 1 sum of one block, (n_k_block, 2); ``moments`` are those of the whole batch."""
    padded = torch.cat([moments, moments.new_zeros(1, moments.shape[1])])[block.atoms]
    padded = padded.transpose(1, 2).contiguous()  # [a, monomial, j]
    n_structures, n_columns, n_l = len(block.atoms), len(block.columns), block.n_l
    factors = [(columns, torch.cat(_column_factors(block.columns, ab))) for columns, ab in _groups(degree)]
    sums = moments.new_zeros(degree + 1, n_structures, 2 * n_columns, 2 * n_l)
    for chunk in block.chunks():
        e_re, e_im = block.phases(chunk)
        for power, (columns, factor) in enumerate(factors):
            weight = factor @ padded[:, columns, chunk]  # [a, 2 p, j]
            w_re, w_im = weight[:, :n_columns], weight[:, n_columns:]
            terms = torch.cat([w_re * e_re - w_im * e_im, w_re * e_im + w_im * e_re], 1)
            sums[power].baddbmm_(terms, block.z[:, chunk])
    result = moments.new_zeros(2, n_structures, 2, n_columns, n_l)  # re/im, a, ±l, p, l
    for power in range(degree + 1):
        parts = sums[power].reshape(n_structures, 2, n_columns, 2, n_l)
        cos_re, sin_re, cos_im, sin_im = (parts[:, i, :, j] for i in range(2) for j in range(2))
        # exp(∓i x) = cos x ∓ i sin x
        for row, sign in enumerate((1, -1)):
            re, im = _times_power_of_l(cos_re + sign * sin_im, cos_im - sign * sin_re, power, sign)
            result[0, :, row] += re
            result[1, :, row] += im
    return result.reshape(2, -1)[:, block.dense].T


def gather_block(amplitudes: Tensor, block: FourierBlock, degree: int) -> Tensor:
    """Return the type 2 sum of one block, (n_structures * width, n_monomials), for its (n_k_block, 2)."""
    n_structures, width = block.atoms.shape
    n_columns, n_l = len(block.columns), block.n_l
    dense = amplitudes.new_zeros(2, n_structures * 2 * n_columns * n_l)
    dense[:, block.dense] = amplitudes.T
    re, im = dense.reshape(2, n_structures, 2, n_columns, n_l)
    factors = []
    for power, (columns, exponents) in enumerate(_groups(degree)):
        plus = _times_power_of_l(re[:, 0], -im[:, 0], power, 1)
        minus = _times_power_of_l(re[:, 1], -im[:, 1], power, -1)
        # conj(G+) exp(-i x) + conj(G-) exp(+i x), real rows, then imaginary ones: [a, 2 p, 2 l]
        rows_re = torch.cat([plus[0] + minus[0], plus[1] - minus[1]], -1)
        rows_im = torch.cat([plus[1] + minus[1], minus[0] - plus[0]], -1)
        f_re, f_im = _column_factors(block.columns, exponents)
        factors.append((columns, torch.cat([f_re, -f_im]).T, torch.cat([rows_re, rows_im], 1)))
    result = amplitudes.new_zeros(n_structures, width, len(monomials(degree)))
    for chunk in block.chunks():
        e_re, e_im = block.phases(chunk)
        z = block.z[:, chunk].transpose(1, 2)
        for columns, factor, rows in factors:
            terms = rows @ z  # [a, 2 p, j]
            t_re, t_im = terms[:, :n_columns], terms[:, n_columns:]
            products = torch.cat([t_re * e_re - t_im * e_im, t_re * e_im + t_im * e_re], 1)
            result[:, chunk, columns] = (factor @ products).transpose(1, 2)
    return result.reshape(n_structures * width, -1)
