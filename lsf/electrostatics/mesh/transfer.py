r"""Spreading moments onto a mesh and interpolating from it, as matrix products over blocks of mesh cells.

An atom touches ``order³`` mesh points. Adding them one by one costs a memory access each; instead the atoms
in a block of ``b³`` mesh cells write to one window of ``(b + order - 1)³`` points,

.. math:: W_{xyz} = \sum_j \sum_a X^{(a)}_{jx} \Big(\sum_{bc} m_j^{abc}\, Y^{(b)}_{jy} Z^{(c)}_{jz}\Big)

a matrix product over the atoms, and only windows are added to the mesh. Interpolation runs the same products
backwards. Blocks without atoms cost nothing; atoms are worked off in chunks, so memory is that of the mesh.

The functions here are also compiled by TorchScript, for models that leave Python: plain tensors, integers and
lists only.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lsf.electrostatics.mesh.splines import piece_coefficients, values_from
from lsf.electrostatics.multipoles import monomials
from lsf.machine.caches import constant

CHUNK_ELEMENTS = 2**18
"""Products of Y and Z worked on at a time (2 MB)."""


class Blocks(NamedTuple):
    """One structure's atoms, sorted into blocks of mesh cells; chunks hold blocks of similar occupation."""

    size: list[int]  # mesh points along each axis
    order: int  # of the splines
    edge: int  # cells of a block along each axis
    cells: Tensor  # (n_atoms + 1, 3) int64, place inside the block; the last row pads
    offsets: Tensor  # (n_atoms + 1, 3), place inside the cell, [0, 1)
    atoms: list[Tensor]  # by chunk, [block, j] int64, n_atoms where padded
    corners: list[Tensor]  # by chunk, [block, 3] int64, mesh cell of the block's corner


class BlockTransfer(NamedTuple):
    """One structure's atoms on its mesh, a :class:`lsf.electrostatics.fourier.backends.MeshTransfer`."""

    blocks: Blocks

    def spread(self, moments: Tensor, degree: int) -> Tensor:
        """Return ``Σ_j Σ_abc m_j^abc w_j^abc(g)``, shape (N_1, N_2, N_3)."""
        columns = torch.tensor(cube(degree)[0], device=moments.device)
        return spread(moments, self.blocks, degree, self._pieces(moments, degree), columns)

    def interpolate(self, mesh: Tensor, degree: int) -> Tensor:
        """Return ``Σ_g mesh(g) w_j^abc(g)``, (n_atoms, n_monomials(degree))."""
        places = torch.tensor(cube(degree)[1], device=mesh.device)
        return interpolate(mesh, self.blocks, degree, self._pieces(mesh, degree), places)

    def _pieces(self, like: Tensor, degree: int) -> Tensor:
        return piece_coefficients(self.blocks.order, degree, like.dtype, like.device)


@torch.no_grad()
def arrange_transfer(fractional: Tensor, size: tuple[int, int, int], order: int) -> BlockTransfer:
    """Sort atoms with ``fractional`` (n_atoms, 3) coordinates, any period, into blocks of mesh cells."""
    return BlockTransfer(sorted_blocks(fractional, list(size), order, CHUNK_ELEMENTS))


def spread(moments: Tensor, blocks: Blocks, degree: int, pieces: Tensor, columns: Tensor) -> Tensor:
    """Return what :meth:`BlockTransfer.spread` does.

    ``pieces`` are those of :func:`lsf.electrostatics.mesh.splines.piece_coefficients` for at least this
    degree, ``columns`` the first list of :func:`cube`.
    """
    n_orders, width = degree + 1, blocks.edge + blocks.order - 1
    size = blocks.size
    mesh = torch.zeros([size[0] * size[1] * size[2]], dtype=moments.dtype, device=moments.device)
    none = torch.zeros([moments.shape[0], 1], dtype=moments.dtype, device=moments.device)
    given = torch.cat([moments, none], 1).index_select(1, columns)
    given = torch.cat([given, torch.zeros_like(given[:1])])
    for atoms, corner in zip(blocks.atoms, blocks.corners):  # noqa: B905, unknown to TorchScript
        x, y, z = _windows(blocks, atoms, degree, pieces)
        n_blocks, n_rows = corner.shape[0], y.shape[0]
        weights = given[atoms.reshape(-1)].reshape(n_rows, n_orders * n_orders, n_orders)
        weighted = torch.bmm(weights, y).reshape(n_rows, n_orders, n_orders, width)  # [q, a, c, y]
        weighted = weighted.transpose(2, 3).reshape(n_rows, n_orders * width, n_orders)
        outer = torch.bmm(weighted, z).reshape(n_blocks, -1, width * width)  # [block, j a, y z]
        windows = torch.bmm(x.reshape(n_blocks, -1, width).transpose(1, 2), outer)
        mesh.index_add_(0, _points(blocks, corner), windows.reshape(-1))
    return mesh.reshape(size)


def interpolate(mesh: Tensor, blocks: Blocks, degree: int, pieces: Tensor, places: Tensor) -> Tensor:
    """Return what :meth:`BlockTransfer.interpolate` does; ``places`` are the second list of :func:`cube`."""
    n_orders, width = degree + 1, blocks.edge + blocks.order - 1
    result = torch.zeros([blocks.cells.shape[0], places.shape[0]], dtype=mesh.dtype, device=mesh.device)
    values = mesh.reshape(-1)
    for atoms, corner in zip(blocks.atoms, blocks.corners):  # noqa: B905, unknown to TorchScript
        x, y, z = _windows(blocks, atoms, degree, pieces)
        n_blocks, n_rows = corner.shape[0], y.shape[0]
        windows = values.index_select(0, _points(blocks, corner)).reshape(n_blocks, width, width * width)
        products = torch.bmm(x.reshape(n_blocks, -1, width), windows)  # [block, j a, y z]
        products = products.reshape(n_rows, n_orders * width, width).transpose(1, 2)
        contracted = torch.bmm(z, products).reshape(n_rows, n_orders, n_orders, width)  # [q, c, a, y]
        contracted = contracted.transpose(1, 2).reshape(n_rows, n_orders * n_orders, width)
        found = torch.bmm(contracted, y.transpose(1, 2)).reshape(n_rows, -1)  # [q, a c b]
        result[atoms.reshape(-1)] = found.index_select(1, places)
    return result[:-1]


def _windows(blocks: Blocks, atoms: Tensor, degree: int, pieces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the splines of a chunk's atoms along each axis, [q, order of derivative, place]."""
    atoms, order = atoms.reshape(-1), blocks.order
    values = values_from(blocks.offsets[atoms], pieces, order, degree)  # [q, 3, order of derivative, place]
    places = torch.arange(order, device=atoms.device)
    columns = (blocks.cells[atoms].unsqueeze(2) + places).unsqueeze(2).expand_as(values)
    dense = torch.zeros(
        [atoms.shape[0], 3, degree + 1, blocks.edge + order - 1], dtype=values.dtype, device=values.device
    )
    dense.scatter_(3, columns, values)
    powers = torch.arange(degree + 1, dtype=values.dtype, device=values.device).unsqueeze(1)
    x, y, z = dense[:, 0], dense[:, 1], dense[:, 2]
    size = blocks.size
    return x * torch.pow(size[0], powers), y * torch.pow(size[1], powers), z * torch.pow(size[2], powers)


def _points(blocks: Blocks, corner: Tensor) -> Tensor:
    """Return the mesh points of windows, (block x y z)."""
    first, size = 1 - blocks.order // 2, blocks.size
    steps = torch.arange(first, first + blocks.edge + blocks.order - 1, device=corner.device)
    x = (corner[:, 0].unsqueeze(1) + steps) % size[0]
    y = (corner[:, 1].unsqueeze(1) + steps) % size[1]
    z = (corner[:, 2].unsqueeze(1) + steps) % size[2]
    plane = (y * size[2]).unsqueeze(2) + z.unsqueeze(1)
    lines = (x * (size[1] * size[2])).unsqueeze(2).unsqueeze(3)
    return (lines + plane.unsqueeze(1)).reshape(-1)


@constant
def cube(degree: int) -> tuple[list[int], list[int]]:
    """Return the monomial of every [a, c, b], one past the last for none, and the place of every monomial."""
    column = {exponents: i for i, exponents in enumerate(monomials(degree))}
    orders = range(degree + 1)
    found = [column.get((a, b, c), len(column)) for a in orders for c in orders for b in orders]
    return found, [found.index(i) for i in range(len(column))]


def sorted_blocks(fractional: Tensor, size: list[int], order: int, elements: int = CHUNK_ELEMENTS) -> Blocks:
    """Return the blocks of atoms with ``fractional`` (n_atoms, 3) coordinates; called without gradient."""
    points = torch.tensor(size, device=fractional.device)
    scaled = (fractional - fractional.floor()) * points
    below = scaled.floor()
    cells = below.to(torch.int64) % points  # rounding may lift a coordinate just below 1 to 1
    edge = block_edge(fractional.shape[0] / float(size[0] * size[1] * size[2]), order)
    corners = torch.div(cells, edge, rounding_mode="floor")
    n_blocks = torch.div(points + (edge - 1), edge, rounding_mode="floor")
    label = (corners[:, 0] * n_blocks[1] + corners[:, 1]) * n_blocks[2] + corners[:, 2]
    sorted_atoms = torch.argsort(label, stable=True)
    _, counts = torch.unique_consecutive(label[sorted_atoms], return_counts=True)
    first = torch.cumsum(counts, 0) - counts
    by_chunk: list[Tensor] = []
    corner: list[Tensor] = []
    by_count = torch.argsort(counts, descending=True, stable=True)
    start, outer = 0, (edge + order - 1) * (edge + order - 1)
    while start < by_count.shape[0]:
        most = int(counts[by_count[start]])
        chosen = by_count[start : start + max(1, elements // (most * outer))]
        slots = torch.arange(most, device=cells.device)
        rows = first[chosen].unsqueeze(1) + slots
        inside = slots < counts[chosen].unsqueeze(1)
        atoms = sorted_atoms[torch.where(inside, rows, torch.zeros_like(rows))]
        atoms = torch.where(inside, atoms, torch.full_like(atoms, cells.shape[0]))
        by_chunk.append(atoms)
        corner.append(corners[sorted_atoms[first[chosen]]] * edge)
        start += chosen.shape[0]
    padding = torch.zeros_like(cells[:1])
    inner = torch.cat([cells - corners * edge, padding])
    offsets = torch.cat([scaled - below, padding.to(scaled.dtype)])
    return Blocks(size, order, edge, inner, offsets, by_chunk, corner)


def block_edge(density: float, order: int) -> int:
    """Return the edge of blocks, in cells, that costs least at ``density`` atoms per mesh point.

    Per window point: 5 ns to add or read it. Per atom: 2 ns for each entry of an outer product, 0.1 ns for
    each point it is multiplied onto. Measured on a CPU; the minimum is flat.
    """
    best, least = 2, -1.0
    for edge in range(2, 33):
        width = float(edge + order - 1)
        occupied = max(1.0, density * float(edge**3))
        cost = 5.0 * width * width * width / occupied + 2.0 * width * width + 0.1 * width * width * width
        if least < 0.0 or cost < least:
            best, least = edge, cost
    return best
