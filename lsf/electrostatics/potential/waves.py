r"""Functions of space as sums of plane and evanescent waves and a quadratic polynomial.

.. math:: f(r) = \mathrm{Re} \sum_m A_m e^{\kappa_m \cdot r + c_m} + f_0 + s\cdot u + \tfrac{1}{2} u C u,
          \qquad u = r - o

with complex exponents :math:`\kappa`: ``i k`` for waves of the reciprocal sum, ``± i G ± |G| n`` for those
of a slab's layer term, which grow or decay along the normal n. Potentials of every periodic sum have this
form; the gradient of a wave is κ times the wave.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

from lsf.electrostatics.potential.grid import Grid

CHUNK_ELEMENTS: Final = 2**21
"""Complex exponentials worked on at a time (32 MB)."""

SAME_WAVE: Final = 1.0e-9
"""Exponents along two grid axes that differ by less are one wave there."""


class WaveSum(NamedTuple):
    """The function f above, real-valued."""

    exponents: Tensor  # (n_waves, 3) complex128 [1/Å]
    offsets: Tensor  # (n_waves,) complex128, c_m: keeps exponentials of evanescent waves below one
    amplitudes: Tensor  # (n_waves,) complex128
    constant: Tensor  # () float64
    slope: Tensor  # (3,) float64
    curvature: Tensor  # (3, 3) float64
    origin: Tensor  # (3,) float64 [Å], o

    @property
    def channels(self) -> Tensor:
        """Amplitudes of the function and of its three derivatives, (n_waves, 4)."""
        return self.amplitudes[:, None] * torch.cat(
            [torch.ones_like(self.exponents[:, :1]), self.exponents], 1
        )

    def polynomial(self, points: Tensor) -> Tensor:
        """Return the polynomial and its gradient at points (..., 3), shape (..., 4)."""
        u = points - self.origin
        bent = u @ self.curvature
        value = self.constant + u @ self.slope + 0.5 * (u * bent).sum(-1)
        return torch.cat([value[..., None], self.slope + bent], -1)


def at_points(waves: WaveSum, points: Tensor) -> Tensor:
    """Return f and its gradient at ``points`` (n_points, 3) [Å], shape (n_points, 4)."""
    channels = waves.channels
    result = waves.polynomial(points)
    step = max(16, CHUNK_ELEMENTS // max(1, len(waves.amplitudes)))
    for start in range(0, len(points), step):
        chunk = slice(start, start + step)
        exponents = points[chunk].to(channels.dtype) @ waves.exponents.T + waves.offsets
        result[chunk] += (torch.exp(exponents) @ channels).real
    return result


def on_grid(waves: WaveSum, grid: Grid, gradient: bool) -> Tensor:
    """Return f on a grid, (n_1, n_2, n_3, 1), and with ``gradient`` its derivatives, (…, 4).

    Waves separate: those that agree along the first two axes are summed once for every plane of the third.
    On grids along the lattice that leaves the square of a number of waves instead of its cube; on any other
    grid the result is the same, only later.
    """
    channels = waves.channels if gradient else waves.amplitudes[:, None]
    polynomial = waves.polynomial(torch.from_numpy(grid.points()))
    result = polynomial if gradient else polynomial[..., :1].contiguous()
    if not len(waves.amplitudes):
        return result
    steps = torch.from_numpy(grid.steps).to(channels.dtype)
    along = waves.exponents @ steps.T  # exponent per step of each axis
    base = waves.exponents @ torch.from_numpy(grid.origin).to(channels.dtype) + waves.offsets
    # growing and decaying waves change along the last axis, where exponent and offset are added first
    growth = along.real.abs().amax(0)
    last = int(growth.argmax()) if float(growth.max()) > 0.0 else int(torch.tensor(grid.shape).argmax())
    order = [(last + 1) % 3, (last + 2) % 3, last]
    along = along[:, order]
    view = result.permute(*order, 3)
    labels = (torch.view_as_real(along[:, :2]).reshape(-1, 4) / SAME_WAVE).round()
    _, group = torch.unique(labels, dim=0, return_inverse=True)
    in_plane = along[
        torch.zeros(int(group.max()) + 1, dtype=torch.int64).scatter(0, group, torch.arange(len(group)))
    ]
    planes = _planes(channels, base, along[:, 2], group, view.shape[2])
    second = torch.exp(in_plane[:, 1, None] * _count(view.shape[1]))
    for index in range(view.shape[0]):
        phases = torch.exp(in_plane[:, :1] * index) * second  # (n_groups, n_2)
        sums = (phases.T @ planes).real.reshape(view.shape[1], channels.shape[1], view.shape[2])
        view[index] += sums.transpose(1, 2)
    return result


def _planes(channels: Tensor, base: Tensor, along: Tensor, group: Tensor, n_planes: int) -> Tensor:
    """Return the amplitudes of groups of waves on the planes of the last axis, (n_groups, n_c n_planes)."""
    n_channels = channels.shape[1]
    planes = channels.new_zeros(int(group.max()) + 1, n_channels * n_planes)
    step = max(16, CHUNK_ELEMENTS // (n_channels * n_planes))
    for first in range(0, len(group), step):
        rows = slice(first, first + step)
        waves = torch.exp(base[rows, None] + along[rows, None] * _count(n_planes))
        planes.index_add_(0, group[rows], (channels[rows, :, None] * waves[:, None, :]).flatten(1))
    return planes


def _count(n: int) -> Tensor:
    return torch.arange(n, dtype=torch.float64)
