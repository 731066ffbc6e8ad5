r"""Spreading moments to a mesh and interpolating from it, one GPU program per atom.

With :math:`w_j^{abc}(g) = \partial_s^{abc} \prod_x M_p(s_{jx} N_x - g_x)`, M_p the B-spline of order p:

spread, :math:`\rho(g) = \sum_j \sum_{abc \le L} m_j^{abc} w_j^{abc}(g)`

interpolate, :math:`v_j^{abc} = \sum_g \phi(g)\, w_j^{abc}(g)`

They are each other's transpose and, like the Fourier sums, closed under differentiation. Points are added
atomically: the last bits of a mesh depend on the order in which a GPU works. Not measured on one yet.

=========  ==========================================================================================
array      layout
=========  ==========================================================================================
bases      (3, n_atoms) int32, first of the points an atom touches along each axis, 0 … N - 1
offsets    (3, n_atoms), place of the atom between two mesh points, -1/2 … 1/2
splines    (orders of derivative, 8 powers of the offset, 8 points), zero past the order
=========  ==========================================================================================
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from lsf.electrostatics.gpu.launch import close_pair, kernel_operator, wrap_triton
from lsf.electrostatics.gpu.programs.mesh import interpolate_program, spread_program
from lsf.electrostatics.mesh.splines import piece_coefficients
from lsf.electrostatics.multipoles import monomials

HIGHEST_DEGREE: Final = 5
"""Quadrupoles and three derivatives; order 6 has no continuous fifth derivative, but a bounded one."""

WARPS: Final = {torch.float32: 1, torch.float64: 2}
"""Per program; on sm_90 no register is spilled to degree 4."""

LARGEST_ORDER: Final = 8
"""Points per axis that a program holds."""


def spline_table(order: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the polynomials of :mod:`lsf.electrostatics.mesh.splines` as [derivative, power, point]."""
    pieces = piece_coefficients(order, HIGHEST_DEGREE, dtype, device).reshape(order, -1, order)
    table = pieces.new_zeros(HIGHEST_DEGREE + 1, LARGEST_ORDER, LARGEST_ORDER)
    table[:, :order, :order] = pieces.transpose(0, 1)
    return table


def _placed(fractional: Tensor, dtype: torch.dtype, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """Return bases and offsets, see above; ``sizes`` are the points per axis and the order."""
    points = torch.tensor(sizes[:3], dtype=torch.float64, device=fractional.device)
    scaled = fractional.to(torch.float64) * points
    below = scaled.floor()
    bases = torch.remainder(below + (1 - sizes[3] // 2), points)
    return bases.T.to(torch.int32).contiguous(), (scaled - below - 0.5).T.to(dtype).contiguous()


def _scales(values: Tensor, sizes: list[int], degree: int) -> Tensor:
    """Return ``N_1^a N_2^b N_3^c``, one per column: from derivatives by mesh points to those by s."""
    n_x, n_y, n_z = (float(size) for size in sizes[:3])
    return values.new_tensor([n_x**a * n_y**b * n_z**c for a, b, c in monomials(degree)])


def _fake_spread(_fractional: Tensor, moments: Tensor, _tables: list[Tensor], *rest: Any) -> Tensor:
    return moments.new_empty(rest[0][:3])


def _fake_interpolate(fractional: Tensor, mesh: Tensor, *rest: Any) -> Tensor:
    return mesh.new_empty(fractional.shape[0], len(monomials(rest[-1])))


@kernel_operator("mesh_spread", _fake_spread)
def _mesh_spread(
    fractional: Tensor, moments: Tensor, tables: list[Tensor], sizes: list[int], degree: int
) -> Tensor:
    n_atoms = fractional.shape[0]
    bases, offsets = _placed(fractional, moments.dtype, sizes)
    scaled = (moments * _scales(moments, sizes, degree)).T.contiguous()
    mesh = moments.new_zeros(sizes[:3])
    wrap_triton(spread_program)[(n_atoms,)](
        bases, offsets, scaled, tables[0], mesh, n_atoms, sizes[0], sizes[1], sizes[2],
        DEGREE=degree, ORDER=sizes[3], num_warps=WARPS[mesh.dtype],
    )  # fmt: skip
    return mesh


@kernel_operator("mesh_interpolate", _fake_interpolate)
def _mesh_interpolate(
    fractional: Tensor, mesh: Tensor, tables: list[Tensor], sizes: list[int], degree: int
) -> Tensor:
    n_atoms = fractional.shape[0]
    bases, offsets = _placed(fractional, mesh.dtype, sizes)
    result = mesh.new_empty(len(monomials(degree)), n_atoms)
    wrap_triton(interpolate_program)[(n_atoms,)](
        bases, offsets, mesh.contiguous(), tables[0], result, n_atoms, sizes[0], sizes[1], sizes[2],
        DEGREE=degree, ORDER=sizes[3], num_warps=WARPS[mesh.dtype],
    )  # fmt: skip
    return result.T * _scales(mesh, sizes, degree)


close_pair(_mesh_spread, _mesh_interpolate)


class KernelTransfer(NamedTuple):
    """Atoms and one structure's mesh: a ``MeshTransfer``, differentiable by ``fractional`` and values."""

    fractional: Tensor  # (n_atoms, 3), may be float64 beside float32 moments
    size: tuple[int, int, int]
    order: int
    splines: Tensor

    def spread(self, moments: Tensor, degree: int) -> Tensor:
        """Return the mesh, ``size``, of ``moments`` (n_atoms, n_monomials(degree))."""
        sizes = [*self.size, self.order]
        return _mesh_spread(self.fractional, moments, [self.splines], sizes, degree)  # type: ignore[no-any-return]

    def interpolate(self, mesh: Tensor, degree: int) -> Tensor:
        """Return (n_atoms, n_monomials(degree)) of ``mesh``, of ``size``."""
        sizes = [*self.size, self.order]
        return _mesh_interpolate(self.fractional, mesh, [self.splines], sizes, degree)  # type: ignore[no-any-return]
