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
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lsf.electrostatics.fourier.layout import Block, layout
from lsf.electrostatics.multipoles import monomials
from lsf.machine.caches import Scratch, constant

CHUNK_ELEMENTS = 2**18
"""Products of X and Y worked on at a time, two megabytes: larger and smaller chunks were slower."""


class DirectPair(NamedTuple):
    """The sums over one batch: integer layout and, per block and axis, tables [a, j, t, n]."""

    n_atoms: int
    n_k: int
    blocks: tuple[Block, ...]
    tables: list[tuple[Tensor, Tensor, Tensor]]

    def sum(self, moments: Tensor, degree: int) -> Tensor:
        """Return type 1, see :class:`lsf.electrostatics.fourier.backends.AdjointPair`."""
        result = moments.new_zeros(self.n_k, 2)
        # columns [c, b, a] of every atom, zero where a + b + c > L and where the blocks pad
        columns = torch.cat([moments, moments.new_zeros(len(moments), 1)], 1)[:, moment_columns(degree)[0]]
        columns = torch.cat([columns, columns.new_zeros(1, columns.shape[1])])
        for block, tables in zip(self.blocks, self.tables, strict=True):
            for group, sums in zip(block.groups, _sum_block(columns, tables, block, degree), strict=True):
                values = sums.take(group.place) * group.signs.to(sums.dtype)
                result[group.rows] = values.unflatten(1, (2, 4)).sum(2)
        return result

    def gather(self, amplitudes: Tensor, degree: int) -> Tensor:
        """Return type 2, see :class:`lsf.electrostatics.fourier.backends.AdjointPair`."""
        # one row more than atoms: padded slots of the blocks write there
        result = amplitudes.new_zeros(self.n_atoms + 1, len(monomials(degree)))
        for block, tables in zip(self.blocks, self.tables, strict=True):
            real = []
            for group in block.groups:
                values = amplitudes[group.rows, :, None] * group.signs.to(amplitudes.dtype).unflatten(
                    1, (2, 4)
                )
                dense = amplitudes.new_zeros(len(block.atoms) * group.size)
                real.append(dense.index_add_(0, group.place.reshape(-1), values.reshape(-1)))
            for atoms, gathered in _gather_block(real, tables, block, degree):
                result[atoms] = gathered[:, moment_columns(degree)[1]]
        return result[:-1]


@torch.no_grad()
def arrange(
    fractional: Tensor, batch: Tensor, k_triplets: Tensor, k_batch: Tensor, n_graphs: int
) -> DirectPair:
    """Arrange a batch for the sums, see :class:`lsf.electrostatics.fourier.backends.Arrange`."""
    blocks = layout(batch, k_triplets, k_batch, n_graphs)
    reduced = fractional.double()
    reduced = torch.cat([reduced - reduced.round(), reduced.new_zeros(1, 3)])
    tables = []
    for block in blocks:
        coordinates = reduced[block.atoms]
        x, y, z = (phase_table(coordinates[..., i], block.bounds[i]).to(fractional.dtype) for i in range(3))
        tables.append((x, y, z))
    return DirectPair(len(batch), len(k_batch), blocks, tables)


def phase_table(coordinate: Tensor, bound: int) -> Tensor:
    """Return cos and sin of ``2π n s``, [..., 2, n] for n = 0 … bound; whole turns are taken off first."""
    integers = torch.arange(bound + 1, dtype=coordinate.dtype, device=coordinate.device)
    turns = coordinate[..., None] * integers
    angles = (turns - turns.round()).mul_(2.0 * math.pi)
    return torch.stack([angles.cos(), angles.sin()], -2)


@constant
def _derivatives(n: int, highest: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return what derivatives 0 … highest of (cos, sin) read, [order, t], and times what, [order, t, n]."""
    turned = 2.0 * math.pi * torch.arange(n, dtype=torch.float64)
    signs = ((1.0, 1.0), (-1.0, 1.0), (-1.0, -1.0), (1.0, -1.0))
    factors = [
        torch.tensor(signs[d % 4], dtype=torch.float64)[:, None] * turned**d for d in range(highest + 1)
    ]
    sources = [(0, 1) if d % 2 == 0 else (1, 0) for d in range(highest + 1)]
    return torch.tensor(sources, device=device), torch.stack(factors).to(dtype=dtype, device=device)


def derivative_table(table: Tensor, highest: int) -> Tensor:
    """Return derivatives 0 … highest of a table [..., t, n], [..., order, t, n]."""
    sources, factors = _derivatives(table.shape[-1], highest, table.dtype, table.device)
    return table[..., sources, :] * factors


@constant
def moment_columns(degree: int) -> tuple[list[int], list[int]]:
    """Return the monomial of every [c, b, a], one past the last for none, and the place of every monomial."""
    column = {exponents: i for i, exponents in enumerate(monomials(degree))}
    orders = range(degree + 1)
    cube = [column.get((a, b, c), len(column)) for c in orders for b in orders for a in orders]
    return cube, [cube.index(i) for i in range(len(column))]


def _chunks(block: Block, degree: int) -> list[slice]:
    n_structures, n_atoms = block.atoms.shape
    largest = max(4 * group.shape[0] * group.shape[1] for group in block.groups) * (degree + 1)
    step = max(16, CHUNK_ELEMENTS // (n_structures * largest))
    n_steps = -(-n_atoms // step)
    step = -(-n_atoms // n_steps)
    return [slice(start, min(start + step, n_atoms)) for start in range(0, n_atoms, step)]


def _sum_block(
    columns: Tensor, tables: tuple[Tensor, Tensor, Tensor], block: Block, degree: int
) -> list[Tensor]:
    """Return the real sums [a, t, l, p] of every group; ``columns`` (n_atoms + 1, c b a) are moments."""
    n_structures, n_orders = len(block.atoms), degree + 1
    sums = [
        columns.new_zeros(n_structures, 2 * g.shape[2], n_orders * g.size // (2 * g.shape[2]))
        for g in block.groups
    ]
    scratch = Scratch(columns)
    for chunk in _chunks(block, degree):
        moments = columns[block.atoms[:, chunk].reshape(-1)].unflatten(1, (n_orders * n_orders, n_orders))
        # [q, order, t, n]
        x, y = (derivative_table(table[:, chunk].flatten(0, 1), degree) for table in tables[:2])
        for group, total in zip(block.groups, sums, strict=True):
            n_h, n_k, _ = group.shape
            weighted = scratch("weighted", len(x), n_orders * n_orders, 2 * n_h)  # [q, c b, t h]
            torch.bmm(moments, x[..., group.h].flatten(2), out=weighted)
            turned = scratch("turned", len(x), n_orders, 2 * n_h, n_orders)  # [q, c, t h, b]
            turned.copy_(weighted.unflatten(1, (n_orders, n_orders)).transpose(2, 3))
            outer = scratch("outer", len(x), n_orders * 2 * n_h, 2 * n_k)  # [q, c t h, t k]
            torch.bmm(turned.flatten(1, 2), y[..., group.k].flatten(2), out=outer)
            z = tables[2][:, chunk, :, group.l].flatten(2)
            total.baddbmm_(z.transpose(1, 2), outer.reshape(n_structures, -1, total.shape[2]))
    return [
        differentiated(total.unflatten(2, (n_orders, -1)).transpose(1, 2).unflatten(2, (2, -1)))
        for total in sums
    ]


def differentiated(sums: Tensor) -> Tensor:
    """Return ``Σ_c`` of sums [a, c, t, l, p] that still lack the derivative of order c along l."""
    sources, factors = _derivatives(sums.shape[3], sums.shape[1] - 1, sums.dtype, sums.device)
    result = sums[:, 0]
    for c in range(1, sums.shape[1]):
        result = result + sums[:, c, sources[c]] * factors[c, :, :, None]
    return result


def _gather_block(
    real: list[Tensor], tables: tuple[Tensor, Tensor, Tensor], block: Block, degree: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield rows of atoms (n,) and their type 2 sums (n, c b a); ``real`` are amplitudes [a, t, l, p]."""
    n_structures, n_orders = len(block.atoms), degree + 1
    turned = []
    for group, dense in zip(block.groups, real, strict=True):
        sources, factors = _derivatives(group.shape[2], degree, dense.dtype, dense.device)
        dense = dense.reshape(n_structures, 2, group.shape[2], -1)
        orders = [(dense * factors[c, :, :, None])[:, sources[c]] for c in range(n_orders)]
        turned.append(torch.stack(orders, 3).reshape(n_structures, 2 * group.shape[2], -1))  # [a, t l, c p]
    scratch = Scratch(tables[0])
    for chunk in _chunks(block, degree):
        x, y = (derivative_table(table[:, chunk].flatten(0, 1), degree) for table in tables[:2])
        result = x.new_zeros(len(x), n_orders * n_orders, n_orders)
        for group, dense in zip(block.groups, turned, strict=True):
            n_h, n_k, _ = group.shape
            products = scratch("products", n_structures, len(x) // n_structures, dense.shape[2])
            torch.bmm(tables[2][:, chunk, :, group.l].flatten(2), dense, out=products)
            rows = products.view(len(x), n_orders * 2 * n_h, 2 * n_k).transpose(1, 2)
            contracted = scratch("contracted", len(x), n_orders, n_orders * 2 * n_h)  # [q, b, c t h]
            torch.bmm(y[..., group.k].flatten(2), rows, out=contracted)
            contracted = contracted.view(len(x), n_orders * n_orders, 2 * n_h)
            result.baddbmm_(contracted, x[..., group.h].flatten(2).transpose(1, 2))  # [q, b c, a]
        result = result.unflatten(1, (n_orders, n_orders)).transpose(1, 2)
        yield block.atoms[:, chunk].reshape(-1), result.reshape(len(x), -1)
