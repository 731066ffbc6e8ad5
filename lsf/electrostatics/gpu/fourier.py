r"""The two Fourier sums of :mod:`lsf.electrostatics.fourier.pair` as one GPU kernel each.

Every program forms the phases of its block of wave vectors (type 1) or atoms (type 2) with all atoms or wave
vectors of their structure on the fly: nothing of size n_atoms × n_k exists, nothing is added atomically, and
the same input gives the same bits. Long sums are cut into parts that different programs add up, so that a
single small structure fills a GPU.

The operators ``lsf::fourier_sum`` and ``lsf::fourier_gather`` are differentiable to any order by each other.
Not measured on a GPU yet: block sizes and numbers of parts are estimates.

=========  ====================================================================================
array      layout
=========  ====================================================================================
turns      (3, n_atoms), reduced fractional coordinates (float64) or 32-bit fractions of a turn
triplets   (3, n_k) int32, sorted by structure; ``order`` (n_k,) int32 are their rows in the list
blocks     (n_programs, 4) int32: first and last + 1 of own rows, first and last + 1 of the sum
=========  ====================================================================================
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lsf.electrostatics.gpu.blocks import parts_of_sums, structure_blocks
from lsf.electrostatics.gpu.launch import close_pair, kernel_operator, wrap_triton
from lsf.electrostatics.gpu.programs.fourier import gather_program, sum_program
from lsf.electrostatics.multipoles import monomials

BLOCK = {torch.float32: 64, torch.float64: 32}
"""Wave vectors (type 1) or atoms (type 2) per program of one warp."""

CHUNK = 4
"""Terms between two additions to the accumulators. On sm_90 these sizes spill no register to degree 4."""


class KernelGrid(NamedTuple):
    """Index tables of a batch; hold no gradient and no coordinate."""

    tables: list[Tensor]  # triplets, order, blocks of type 1 and of type 2: see above
    sizes: list[int]  # parts of a sum of type 1 and of type 2, rows per program


@torch.no_grad()
def kernel_grid(
    batch: Tensor, k_triplets: Tensor, k_batch: Tensor, n_graphs: int, dtype: torch.dtype
) -> KernelGrid:
    """Return the tables of a batch without waiting for the device: every size follows from a shape.

    batch (n_atoms,) int64 ascending; k_triplets (n_k, 3) and k_batch (n_k,) int64 in any order; ``dtype`` of
    the moments and amplitudes.
    """
    block = BLOCK[dtype]
    sorted_batch, order = torch.sort(k_batch, stable=True)
    graphs = torch.arange(n_graphs + 1, device=batch.device)
    atom_bounds = torch.searchsorted(batch, graphs)
    k_bounds = torch.searchsorted(sorted_batch, graphs)
    sum_blocks = structure_blocks(k_bounds, atom_bounds, k_batch.shape[0], block)
    gather_blocks = structure_blocks(atom_bounds, k_bounds, batch.shape[0], block)
    triplets = k_triplets[order].T.to(torch.int32).contiguous()
    parts = [
        parts_of_sums(sum_blocks.shape[0], batch.shape[0], n_graphs, 8 * CHUNK),
        parts_of_sums(gather_blocks.shape[0], k_batch.shape[0], n_graphs, 8 * CHUNK),
    ]
    return KernelGrid([triplets, order.to(torch.int32), sum_blocks, gather_blocks], [*parts, block])


def _turns(fractional: Tensor, dtype: torch.dtype) -> Tensor:
    """Return coordinates as kernels of ``dtype`` take them, (3, n_atoms): see the table above."""
    precise = fractional.to(torch.float64)
    reduced = (precise - precise.round()).T
    if dtype == torch.float64:
        return reduced.contiguous()
    # half a turn is 2^31, which overflows to -2^31: the same phase
    fractions = (reduced * 2.0**32).round().to(torch.int64)
    return (torch.remainder(fractions + 2**31, 2**32) - 2**31).to(torch.int32).contiguous()


def _fake_sum(_fractional: Tensor, moments: Tensor, tables: list[Tensor], *_: Any) -> Tensor:
    return moments.new_empty(tables[1].shape[0], 2)


def _fake_gather(fractional: Tensor, amplitudes: Tensor, *rest: Any) -> Tensor:
    return amplitudes.new_empty(fractional.shape[0], len(monomials(rest[-1])))


@kernel_operator("fourier_sum", _fake_sum)
def _fourier_sum(
    fractional: Tensor, moments: Tensor, tables: list[Tensor], sizes: list[int], degree: int
) -> Tensor:
    triplets, order, blocks, _ = tables
    parts, _, block = sizes
    n_atoms, n_k = fractional.shape[0], order.shape[0]
    result = moments.new_empty(parts, n_k, 2)
    wrap_triton(sum_program)[(blocks.shape[0], parts)](
        _turns(fractional, moments.dtype), moments.T.contiguous(), triplets, order, blocks, result,
        n_atoms, n_k, parts, DEGREE=degree, BLOCK=block, CHUNK=CHUNK, num_warps=1,
    )  # fmt: skip
    return result.sum(0)


@kernel_operator("fourier_gather", _fake_gather)
def _fourier_gather(
    fractional: Tensor, amplitudes: Tensor, tables: list[Tensor], sizes: list[int], degree: int
) -> Tensor:
    triplets, order, _, blocks = tables
    _, parts, block = sizes
    n_atoms, n_k = fractional.shape[0], order.shape[0]
    result = amplitudes.new_empty(parts, len(monomials(degree)), n_atoms)
    wrap_triton(gather_program)[(blocks.shape[0], parts)](
        _turns(fractional, amplitudes.dtype), amplitudes.contiguous(), triplets, order, blocks, result,
        n_atoms, n_k, parts, DEGREE=degree, BLOCK=block, CHUNK=CHUNK, num_warps=1,
    )  # fmt: skip
    return result.sum(0).T.contiguous()


close_pair(_fourier_sum, _fourier_gather)


def fourier_sum(fractional: Tensor, moments: Tensor, grid: KernelGrid, degree: int) -> Tensor:
    """Return type 1, (n_k, 2), of ``moments`` (n_atoms, n_monomials(degree)); differentiable to any order.

    ``fractional`` (n_atoms, 3) may be float64 beside float32 moments, which keeps the phases exact.
    """
    return _fourier_sum(fractional, moments, *grid, degree)  # type: ignore[no-any-return]


def fourier_gather(fractional: Tensor, amplitudes: Tensor, grid: KernelGrid, degree: int) -> Tensor:
    """Return type 2, (n_atoms, n_monomials(degree)), of ``amplitudes`` (n_k, 2); differentiable likewise."""
    return _fourier_gather(fractional, amplitudes, *grid, degree)  # type: ignore[no-any-return]


class KernelPair(NamedTuple):
    """The two sums over one batch: the ``AdjointPair`` of the kernel backend."""

    fractional: Tensor
    grid: KernelGrid

    @property
    def n_atoms(self) -> int:
        """Number of atoms of the batch."""
        return self.fractional.shape[0]

    @property
    def n_k(self) -> int:
        """Number of wave vectors of the batch."""
        return self.grid.tables[1].shape[0]

    def sum(self, moments: Tensor, degree: int) -> Tensor:
        """Return type 1, (n_k, 2)."""
        return fourier_sum(self.fractional, moments, self.grid, degree)

    def gather(self, amplitudes: Tensor, degree: int) -> Tensor:
        """Return type 2, (n_atoms, n_monomials(degree))."""
        return fourier_gather(self.fractional, amplitudes, self.grid, degree)
