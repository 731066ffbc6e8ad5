r"""Spreading moments onto a mesh and interpolating from it, as matrix products over blocks of mesh cells.

An atom touches ``order³`` mesh points. Adding them one by one costs a memory access each; instead the atoms
in a block of ``b³`` mesh cells write to one window of ``(b + order - 1)³`` points,

.. math:: W_{xyz} = \sum_j \sum_a X^{(a)}_{jx} \Big(\sum_{bc} m_j^{abc}\, Y^{(b)}_{jy} Z^{(c)}_{jz}\Big)

a matrix product over the atoms, and only windows are added to the mesh. Interpolation runs the same products
backwards. Blocks without atoms cost nothing; atoms are worked off in chunks, so memory is that of the mesh.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from lsf.electrostatics.mesh_splines import spline_values
from lsf.electrostatics.multipoles import monomials

CHUNK_ELEMENTS = 2**18
"""Products of Y and Z worked on at a time (2 MB)."""


class _Chunk(NamedTuple):
    """Blocks of similar occupation."""

    atoms: Tensor  # [block, j] int64, n_atoms where padded
    corner: Tensor  # [block, 3] int64, mesh cell of the block's corner


class BlockTransfer(NamedTuple):
    """One structure's atoms on its mesh, a :class:`lsf.electrostatics.backends.MeshTransfer`."""

    size: tuple[int, int, int]
    order: int
    edge: int  # cells of a block along each axis
    cells: Tensor  # (n_atoms + 1, 3) int64, place inside the block; the last row pads
    offsets: Tensor  # (n_atoms + 1, 3), place inside the cell, [0, 1)
    chunks: list[_Chunk]

    def spread(self, moments: Tensor, degree: int) -> Tensor:
        """Return ``Σ_j Σ_abc m_j^abc w_j^abc(g)``, shape (N_1, N_2, N_3)."""
        n_orders, width = degree + 1, self.edge + self.order - 1
        mesh = moments.new_zeros(self.size).reshape(-1)
        columns = torch.cat([moments, moments.new_zeros(len(moments), 1)], 1)[:, _cube(degree)[0]]
        columns = torch.cat([columns, columns.new_zeros(1, columns.shape[1])])
        for chunk, x, y, z in self._windows(degree):
            weights = columns[chunk.atoms.reshape(-1)].unflatten(1, (n_orders * n_orders, n_orders))
            weighted = torch.bmm(weights, y).unflatten(1, (n_orders, n_orders))  # [q, a, c, y]
            weighted = weighted.transpose(2, 3).reshape(len(y), n_orders * width, n_orders)
            outer = torch.bmm(weighted, z).reshape(len(chunk.corner), -1, width * width)  # [block, j a, y z]
            x = x.reshape(len(chunk.corner), -1, width)
            windows = torch.bmm(x.transpose(1, 2), outer)
            mesh.index_add_(0, self._points(chunk).reshape(-1), windows.reshape(-1))
        return mesh.reshape(self.size)

    def interpolate(self, mesh: Tensor, degree: int) -> Tensor:
        """Return ``Σ_g mesh(g) w_j^abc(g)``, (n_atoms, n_monomials(degree))."""
        n_orders, width = degree + 1, self.edge + self.order - 1
        result = mesh.new_zeros(len(self.cells), len(monomials(degree)))
        mesh = mesh.reshape(-1)
        for chunk, x, y, z in self._windows(degree):
            windows = mesh.index_select(0, self._points(chunk).reshape(-1)).reshape(-1, width, width * width)
            products = torch.bmm(x.reshape(len(windows), -1, width), windows)  # [block, j a, y z]
            products = products.reshape(len(x), n_orders * width, width)
            contracted = torch.bmm(z, products.transpose(1, 2)).unflatten(
                2, (n_orders, width)
            )  # [q, c, a, y]
            contracted = contracted.transpose(1, 2).reshape(len(x), n_orders * n_orders, width)
            values = torch.bmm(contracted, y.transpose(1, 2)).reshape(len(x), -1)  # [q, a c b]
            result[chunk.atoms.reshape(-1)] = values[:, _cube(degree)[1]]
        return result[:-1]

    def _windows(self, degree: int) -> Iterator[tuple[_Chunk, Tensor, Tensor, Tensor]]:
        """Yield chunks with the splines of their atoms along each axis, [q, order of derivative, window]."""
        places = torch.arange(self.order, device=self.cells.device)
        for chunk in self.chunks:
            atoms = chunk.atoms.reshape(-1)
            values = spline_values(self.offsets[atoms], self.order, degree)  # [q, 3, order, place]
            columns = (self.cells[atoms][:, :, None] + places)[:, :, None].expand_as(values)
            dense = values.new_zeros(*values.shape[:3], self.edge + self.order - 1)
            dense.scatter_(3, columns, values)
            powers = torch.arange(degree + 1, dtype=values.dtype, device=values.device)
            x, y, z = (dense[:, axis] * (self.size[axis] ** powers)[:, None] for axis in range(3))
            yield chunk, x, y, z

    def _points(self, chunk: _Chunk) -> Tensor:
        """Return the mesh points of windows, [block, x, y, z]."""
        first = 1 - self.order // 2
        steps = torch.arange(first, first + self.edge + self.order - 1, device=chunk.corner.device)
        x, y, z = ((chunk.corner[:, i, None] + steps) % self.size[i] for i in range(3))
        plane = (y * self.size[2])[:, :, None] + z[:, None, :]
        return (x * (self.size[1] * self.size[2]))[:, :, None, None] + plane[:, None]


@lru_cache
def _cube(degree: int) -> tuple[list[int], list[int]]:
    """Return the monomial of every [a, c, b], one past the last for none, and the place of every monomial."""
    column = {exponents: i for i, exponents in enumerate(monomials(degree))}
    orders = range(degree + 1)
    cube = [column.get((a, b, c), len(column)) for a in orders for c in orders for b in orders]
    return cube, [cube.index(i) for i in range(len(column))]


@torch.no_grad()
def arrange_transfer(fractional: Tensor, size: tuple[int, int, int], order: int) -> BlockTransfer:
    """Sort atoms with ``fractional`` (n_atoms, 3) coordinates, any period, into blocks of mesh cells."""
    points = torch.tensor(size, device=fractional.device)
    scaled = (fractional - fractional.floor()) * points
    below = scaled.floor()
    cells = below.long() % points  # rounding may lift a coordinate just below 1 to 1
    edge = _block_edge(len(fractional) / float(points.prod()), order)
    blocks = torch.div(cells, edge, rounding_mode="floor")
    n_blocks = -(-points // edge)
    label = (blocks[:, 0] * n_blocks[1] + blocks[:, 1]) * n_blocks[2] + blocks[:, 2]
    sorted_atoms = torch.argsort(label, stable=True)
    _, counts = torch.unique_consecutive(label[sorted_atoms], return_counts=True)
    first = torch.cumsum(counts, 0) - counts
    chunks = []
    by_count = torch.argsort(counts, descending=True, stable=True)
    start, elements = 0, (edge + order - 1) ** 2
    while start < len(by_count):
        most = int(counts[by_count[start]])
        chosen = by_count[start : start + max(1, CHUNK_ELEMENTS // (most * elements))]
        slots = torch.arange(most, device=cells.device)
        inside = slots < counts[chosen, None]
        rows = torch.where(inside, first[chosen, None] + slots, 0)
        atoms = torch.where(inside, sorted_atoms[rows], len(cells))
        chunks.append(_Chunk(atoms, blocks[sorted_atoms[first[chosen]]] * edge))
        start += len(chosen)
    return BlockTransfer(
        size=size,
        order=order,
        edge=edge,
        cells=torch.cat([cells - blocks * edge, cells.new_zeros(1, 3)]),
        offsets=torch.cat([scaled - below, scaled.new_zeros(1, 3)]),
        chunks=chunks,
    )


@lru_cache
def _block_edge(density: float, order: int) -> int:
    """Return the edge of blocks, in cells, that costs least at ``density`` atoms per mesh point.

    Per window point: 5 ns to add or read it. Per atom: 2 ns for each entry of an outer product, 0.1 ns for
    each point it is multiplied onto. Measured on a CPU; the minimum is flat.
    """

    def cost(edge: int) -> float:
        width = edge + order - 1
        occupied = max(1.0, density * edge**3)
        return 5.0 * width**3 / occupied + 2.0 * width**2 + 0.1 * width**3

    return min(range(2, 33), key=cost)
