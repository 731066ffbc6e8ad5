r"""The Fourier sums on a mesh: B-splines, fast Fourier transforms, O(N log N).

Plane waves are replaced by :math:`\Phi_n(s)` of :mod:`lsf.electrostatics.mesh_splines`, their factors
:math:`(-2\pi i\,n)^{abc}` by derivatives of :math:`\Phi_n`. The pair of sums is then exactly as closed under
differentiation as the direct one, so forces, stresses and second derivatives are exact derivatives of the
energy on the mesh. The same wave vectors are summed with the same weights as in the direct sums: both
backends differ by interpolation alone.

The mesh moves with the mean fractional coordinate of the structure (:func:`centred`): energies do not change
when all atoms move together, and forces add up to zero.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lsf.electrostatics.backends import MeshTransfer
from lsf.electrostatics.kernels import kernel_transfer, kernels_run
from lsf.electrostatics.mesh_splines import amplitudes
from lsf.electrostatics.mesh_transfer import arrange_transfer


class MeshPair(NamedTuple):
    """The two sums of one structure; see :class:`lsf.electrostatics.backends.AdjointPair`."""

    n_atoms: int
    n_k: int
    size: tuple[int, int, int]
    transfer: MeshTransfer
    points: Tensor  # (n_k,) int64, place in the flattened half spectrum
    signs: Tensor  # (n_k,) +1, or -1 where the spectrum holds the conjugate
    weights: Tensor  # (n_k,) b_n of the three axes
    plane: Tensor  # rows with l = 0, of which the spectrum also holds -n
    mirrors: Tensor  # their places

    def sum(self, moments: Tensor, degree: int) -> Tensor:
        """Return type 1, (n_k, 2)."""
        spectrum = torch.fft.rfftn(self.transfer.spread(moments, degree))
        values = torch.view_as_real(spectrum.reshape(-1)[self.points])
        return torch.stack([values[:, 0], values[:, 1] * self.signs], 1) * self.weights[:, None]

    def gather(self, amplitudes: Tensor, degree: int) -> Tensor:
        """Return type 2, (n_atoms, n_monomials(degree))."""
        half = 0.5 * amplitudes * self.weights[:, None]
        values = torch.complex(half[:, 0], half[:, 1] * self.signs)
        shape = (*self.size[:2], self.size[2] // 2 + 1)
        spectrum = values.new_zeros(shape).reshape(-1)
        spectrum[self.points] = values
        spectrum[self.mirrors] = values[self.plane].conj()
        mesh = torch.fft.irfftn(spectrum.reshape(shape), s=self.size, norm="forward")
        return self.transfer.interpolate(mesh, degree)


@torch.no_grad()
def arrange(fractional: Tensor, k_triplets: Tensor, size: tuple[int, int, int], order: int) -> MeshPair:
    """Arrange one structure for sums on a mesh.

    Parameters
    ----------
    fractional : (n_atoms, 3), any period
    k_triplets : (n_k, 3) int64, half space, ``abs(n_i) < size_i / 2``
    size : points along each axis; the last one even
    order : of the B-splines
    """
    weights = torch.ones(len(k_triplets), dtype=torch.float64, device=k_triplets.device)
    for axis, n_points in enumerate(size):
        table = amplitudes(torch.arange(n_points // 2, device=weights.device), n_points, order)
        weights *= table[k_triplets[:, axis].abs()]
    flipped = k_triplets[:, 2] < 0
    signs = 1 - 2 * flipped.long()
    plane = (k_triplets[:, 2] == 0).nonzero()[:, 0]
    return MeshPair(
        n_atoms=len(fractional),
        n_k=len(k_triplets),
        size=size,
        transfer=_transfer(fractional, size, order),
        points=_places(k_triplets * signs[:, None], size),
        signs=signs.to(fractional.dtype),
        weights=weights.to(fractional.dtype),
        plane=plane,
        mirrors=_places(-k_triplets[plane], size),
    )


def _transfer(fractional: Tensor, size: tuple[int, int, int], order: int) -> MeshTransfer:
    """Return GPU kernels on a GPU that has Triton, plain torch elsewhere."""
    if fractional.is_cuda and kernels_run(fractional.device):
        return kernel_transfer(fractional, size, order)
    return arrange_transfer(fractional, size, order)


def _places(triplets: Tensor, size: tuple[int, int, int]) -> Tensor:
    h, k = triplets[:, 0] % size[0], triplets[:, 1] % size[1]
    return (h * size[1] + k) * (size[2] // 2 + 1) + triplets[:, 2]


def centred(fractional: Tensor, batch: Tensor, n_graphs: int) -> Tensor:
    """Return fractional coordinates (n_atoms, 3) from the mean of their structure."""
    counts = torch.bincount(batch, minlength=n_graphs).clamp(min=1).to(fractional.dtype)
    means = fractional.new_zeros(n_graphs, 3).index_add(0, batch, fractional) / counts[:, None]
    return fractional - means[batch]
