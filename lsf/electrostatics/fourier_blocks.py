r"""Direct evaluation of the two Fourier sums: matrix products of per-axis tables.

Phases factorise over the axes. With real tables :math:`X_h \in \{\cos, \sin\}(2\pi h s_1)`, likewise Y and Z,
all four wave vectors (h, ±k, ±l) follow from the eight real sums

.. math:: S_{hkl} = \sum_j \sum_{abc} m_j^{abc}\, X_h^{(a)} Y_k^{(b)} Z_l^{(c)}, \qquad h, k, l \ge 0

where (a) is the derivative of order a by the coordinate. The sum over atoms is one matrix product between the
outer products of X and Y (times moments) and Z: two multiplications per atom, real number and order c. The
transposed sum runs the same products backwards. Trigonometric functions are taken n_atoms × (h + k + l)
times, from coordinates reduced to one period; atoms are worked off in chunks that stay in cache.

======  ====================================================================
index   runs over
======  ====================================================================
a       structures of a block
j       atoms of a structure, padded with atoms without moments
q       (a, j) together
t       cosine, sine
p       (t, h, t, k) of one group of columns
======  ====================================================================
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from lsf.electrostatics.fourier_layout import Block, Group, layout
from lsf.electrostatics.multipoles import monomials

CHUNK_ELEMENTS = 2**16
"""Products of X and Y worked on at a time: half a megabyte, the second-level cache of most CPUs."""


class DirectPair(NamedTuple):
    """The sums over one batch: integer layout and, per block and axis, tables [a, j, t, n]."""

    n_atoms: int
    n_k: int
    blocks: tuple[Block, ...]
    tables: list[tuple[Tensor, Tensor, Tensor]]

    def sum(self, moments: Tensor, degree: int) -> Tensor:
        """Return type 1, see :class:`lsf.electrostatics.backends.AdjointPair`."""
        result = moments.new_zeros(self.n_k, 2)
        padded = torch.cat([moments, moments.new_zeros(1, moments.shape[1])])
        for block, tables in zip(self.blocks, self.tables, strict=True):
            for group in block.groups:
                result[group.rows] = _sum_group(padded[block.atoms], tables, group, degree)
        return result

    def gather(self, amplitudes: Tensor, degree: int) -> Tensor:
        """Return type 2, see :class:`lsf.electrostatics.backends.AdjointPair`."""
        # one row more than atoms: padded slots of the blocks write there
        result = amplitudes.new_zeros(self.n_atoms + 1, len(monomials(degree)))
        for block, tables in zip(self.blocks, self.tables, strict=True):
            gathered = amplitudes.new_zeros(*block.atoms.shape, result.shape[1])
            for group in block.groups:
                _gather_group(gathered, amplitudes[group.rows], tables, group, degree)
            result[block.atoms] = gathered
        return result[:-1]


@torch.no_grad()
def arrange(
    fractional: Tensor, batch: Tensor, k_triplets: Tensor, k_batch: Tensor, n_graphs: int
) -> DirectPair:
    """Arrange a batch for the sums, see :class:`lsf.electrostatics.backends.Arrange`."""
    blocks = layout(batch, k_triplets, k_batch, n_graphs)
    reduced = fractional.double()
    reduced = torch.cat([reduced - reduced.round(), reduced.new_zeros(1, 3)])
    tables = []
    for block in blocks:
        coordinates = reduced[block.atoms]
        x, y, z = (_table(coordinates[..., i], block.bounds[i]).to(fractional.dtype) for i in range(3))
        tables.append((x, y, z))
    return DirectPair(len(batch), len(k_batch), blocks, tables)


def _table(coordinate: Tensor, bound: int) -> Tensor:
    """Return cos and sin of ``2π n s``, [..., 2, n] for n = 0 … bound; whole turns are taken off first."""
    integers = torch.arange(bound + 1, dtype=coordinate.dtype, device=coordinate.device)
    turns = coordinate[..., None] * integers
    angles = (turns - turns.round()).mul_(2.0 * math.pi)
    return torch.stack([angles.cos(), angles.sin()], -2)


def _orders(table: Tensor, chunk: slice, columns: slice, highest: int) -> Tensor:
    """Return derivatives 0 … highest of columns of a table, [a, j, order, t n]."""
    part = table[:, chunk, :, columns]
    turned = 2.0 * math.pi * torch.arange(columns.start, columns.stop, dtype=table.dtype, device=table.device)
    orders = [part]
    for _ in range(highest):
        cosine, sine = orders[-1].unbind(-2)
        orders.append(torch.stack([-turned * sine, turned * cosine], -2))
    return torch.stack(orders, 2).flatten(-2)


@lru_cache
def _moment_columns(degree: int) -> list[list[int]]:
    """Per order c, columns of the moments as a flat table [b, a], a, b <= L - c; past the last for none."""
    column = {exponents: i for i, exponents in enumerate(monomials(degree))}
    return [
        [
            column.get((a, b, c), len(column)) if a + b + c <= degree else len(column)
            for b in range(degree + 1 - c)
            for a in range(degree + 1 - c)
        ]
        for c in range(degree + 1)
    ]


def _chunks(group: Group, n_structures: int, n_atoms: int) -> list[slice]:
    n_products = 4 * (group.h.stop - group.h.start) * (group.k.stop - group.k.start)
    step = max(16, CHUNK_ELEMENTS // max(1, n_structures * n_products))
    return [slice(start, min(start + step, n_atoms)) for start in range(0, n_atoms, step)]


def _sum_group(moments: Tensor, tables: tuple[Tensor, Tensor, Tensor], group: Group, degree: int) -> Tensor:
    """Return type 1 of a group's wave vectors, (n_k_group, 2), from ``moments`` [a, j, monomial]."""
    n_structures, n_atoms, _ = moments.shape
    moments = torch.cat([moments, moments.new_zeros(n_structures, n_atoms, 1)], 2)
    n_h, n_k, n_l = group.shape
    sums = moments.new_zeros(n_structures, 2 * n_l, 4 * n_h * n_k)
    for chunk in _chunks(group, n_structures, n_atoms):
        x = _orders(tables[0], chunk, group.h, degree).flatten(0, 1)  # [q, order, t h]
        y = _orders(tables[1], chunk, group.k, degree).flatten(0, 1)
        z = _orders(tables[2], chunk, group.l, degree)
        weights = moments[:, chunk].flatten(0, 1)
        for c, columns in enumerate(_moment_columns(degree)):
            width = degree + 1 - c
            if width == 1:
                outer = (x[:, 0] * weights[:, columns])[:, :, None] * y[:, :1]
            else:
                weighted = weights[:, columns].unflatten(1, (width, width)) @ x[:, :width]  # [q, b, t h]
                outer = weighted.transpose(1, 2) @ y[:, :width]  # [q, t h, t k]
            sums.baddbmm_(z[:, :, c].transpose(1, 2), outer.reshape(n_structures, -1, sums.shape[2]))
    return _to_complex(sums.reshape(n_structures, 2, n_l, 2, n_h, 2, n_k))[group.dense]


def _gather_group(
    result: Tensor, amplitudes: Tensor, tables: tuple[Tensor, Tensor, Tensor], group: Group, degree: int
) -> None:
    """Add type 2 of a group's ``amplitudes`` (n_k_group, 2) to ``result`` [a, j, monomial]."""
    n_structures, n_atoms, n_columns = result.shape
    n_h, n_k, n_l = group.shape
    dense = amplitudes.new_zeros(n_structures * 4 * n_l * n_h * n_k, 2)
    dense[group.dense] = amplitudes
    real = _from_complex(dense.reshape(n_structures, 2, 2, n_l, n_h, n_k, 2))
    real = real.reshape(n_structures, 2 * n_l, 4 * n_h * n_k)
    for chunk in _chunks(group, n_structures, n_atoms):
        x = _orders(tables[0], chunk, group.h, degree).flatten(0, 1)
        y = _orders(tables[1], chunk, group.k, degree).flatten(0, 1)
        z = _orders(tables[2], chunk, group.l, degree)
        n_rows = len(x)
        target = amplitudes.new_zeros(n_rows, n_columns + 1)
        for c, columns in enumerate(_moment_columns(degree)):
            width = degree + 1 - c
            products = torch.bmm(z[:, :, c], real).reshape(n_rows, 2 * n_h, 2 * n_k)
            contracted = torch.bmm(y[:, :width], products.transpose(1, 2))  # [q, b, t h]
            target[:, columns] = torch.bmm(contracted, x[:, :width].transpose(1, 2)).flatten(1)
        result[:, chunk] += target[:, :-1].reshape(n_structures, -1, n_columns)


def _to_complex(sums: Tensor) -> Tensor:
    """Return the sums for (h, ±k, ±l), flat [a, ±k, ±l, l, h, k] and (re, im), from [a, t, l, t, h, t, k].

    Products of (cos - i sin) for s_1, (cos ∓ i sin) for s_2 and s_3.
    """
    part = {(x, y, z): sums[:, z, :, x, :, y] for x in (0, 1) for y in (0, 1) for z in (0, 1)}
    even, mixed = part[0, 0, 0], part[0, 1, 1]
    signs = []
    for k in (1.0, -1.0):
        for l in (1.0, -1.0):  # noqa: E741 - Miller index
            re = even - k * l * mixed - k * part[1, 1, 0] - l * part[1, 0, 1]
            im = k * l * part[1, 1, 1] - part[1, 0, 0] - k * part[0, 1, 0] - l * part[0, 0, 1]
            signs.append(torch.stack([re, im], -1))
    return torch.stack(signs, 1).reshape(-1, 2)


def _from_complex(dense: Tensor) -> Tensor:
    """Return the transpose of :func:`_to_complex`: [a, t, l, t, h, t, k] from [a, ±k, ±l, l, h, k, 2]."""
    plus_k, minus_k = dense.unbind(1)
    # sums and differences over the signs of k, then of l: [a, l, h, k, (re, im)]
    over_k = {0: plus_k + minus_k, 1: plus_k - minus_k}
    (pp, dp), (pd, dd) = (
        ((over_k[0][:, 0] + s * over_k[0][:, 1]), (over_k[1][:, 0] + s * over_k[1][:, 1]))
        for s in (1.0, -1.0)
    )
    parts = {
        (0, 0, 0): pp[..., 0],
        (0, 1, 1): -dd[..., 0],
        (1, 1, 0): -dp[..., 0],
        (1, 0, 1): -pd[..., 0],
        (1, 1, 1): dd[..., 1],
        (1, 0, 0): -pp[..., 1],
        (0, 1, 0): -dp[..., 1],
        (0, 0, 1): -pd[..., 1],
    }
    rows = [
        torch.stack([torch.stack([parts[x, y, z] for y in (0, 1)], 3) for x in (0, 1)], 2) for z in (0, 1)
    ]
    return torch.stack(rows, 1)  # [a, t_z, l, t_x, h, t_y, k]
