r"""The Fourier sums on a mesh: B-splines, fast Fourier transforms, O(N log N).

Plane waves are replaced by :math:`\Phi_n(s)` of :mod:`lsf.electrostatics.mesh.splines`, their factors
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

from lsf.electrostatics.fourier.backends import MeshTransfer
from lsf.electrostatics.gpu import kernel_transfer
from lsf.electrostatics.mesh.splines import amplitudes
from lsf.electrostatics.mesh.transfer import arrange_transfer
from lsf.machine.triton import kernels_run


class MeshWaves(NamedTuple):
    """Where one structure's wave vectors are in the half spectrum of its mesh."""

    size: list[int]  # points along each axis; the last one even
    points: Tensor  # (n_k,) int64, place in the flattened half spectrum
    signs: Tensor  # (n_k,) +1, or -1 where the spectrum holds the conjugate
    weights: Tensor  # (n_k,) b_n of the three axes
    plane: Tensor  # rows with l = 0, of which the spectrum also holds -n
    mirrors: Tensor  # their places


class MeshPair(NamedTuple):
    """The two sums of one structure; see :class:`lsf.electrostatics.fourier.backends.AdjointPair`."""

    n_atoms: int
    n_k: int
    transfer: MeshTransfer
    waves: MeshWaves

    def sum(self, moments: Tensor, degree: int) -> Tensor:
        """Return type 1, (n_k, 2)."""
        return amplitudes_of(self.transfer.spread(moments, degree), self.waves)

    def gather(self, amplitudes: Tensor, degree: int) -> Tensor:
        """Return type 2, (n_atoms, n_monomials(degree))."""
        return self.transfer.interpolate(mesh_of(amplitudes, self.waves), degree)


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
    return MeshPair(
        n_atoms=len(fractional),
        n_k=len(k_triplets),
        transfer=_transfer(fractional, size, order),
        waves=mesh_waves(k_triplets, list(size), order, fractional),
    )


# ---------------------------------------------------------------------------------------------------
# also compiled by TorchScript, for models that leave Python


def mesh_waves(k_triplets: Tensor, size: list[int], order: int, like: Tensor) -> MeshWaves:
    """Return the places of ``k_triplets`` (n_k, 3); real numbers have the type of ``like``."""
    weights = torch.ones([k_triplets.shape[0]], dtype=torch.float64, device=k_triplets.device)
    for axis in range(3):
        table = amplitudes(torch.arange(size[axis] // 2, device=weights.device), size[axis], order)
        weights = weights * table[k_triplets[:, axis].abs()]
    signs = 1 - 2 * (k_triplets[:, 2] < 0).to(torch.int64)
    plane = (k_triplets[:, 2] == 0).nonzero()[:, 0]
    return MeshWaves(
        size,
        _places(k_triplets * signs.unsqueeze(1), size),
        signs.to(like.dtype),
        weights.to(like.dtype),
        plane,
        _places(-k_triplets[plane], size),
    )


def amplitudes_of(mesh: Tensor, waves: MeshWaves) -> Tensor:
    """Return the amplitudes (n_k, 2) of a mesh (N_1, N_2, N_3)."""
    values = torch.view_as_real(torch.fft.rfftn(mesh).reshape(-1)[waves.points])
    return torch.stack([values[:, 0], values[:, 1] * waves.signs], 1) * waves.weights.unsqueeze(1)


def mesh_of(amplitudes: Tensor, waves: MeshWaves) -> Tensor:
    """Return the mesh (N_1, N_2, N_3) of amplitudes (n_k, 2), the transpose of :func:`amplitudes_of`."""
    half = 0.5 * amplitudes * waves.weights.unsqueeze(1)
    values = torch.complex(half[:, 0], half[:, 1] * waves.signs)
    size = waves.size
    spectrum = torch.zeros([size[0] * size[1] * (size[2] // 2 + 1)], dtype=values.dtype, device=values.device)
    spectrum[waves.points] = values
    spectrum[waves.mirrors] = values[waves.plane].conj()
    spectrum = spectrum.reshape(size[0], size[1], size[2] // 2 + 1)
    mesh: Tensor = torch.fft.irfftn(spectrum, s=size, norm="forward")
    return mesh


def _places(triplets: Tensor, size: list[int]) -> Tensor:
    h, k = triplets[:, 0] % size[0], triplets[:, 1] % size[1]
    return (h * size[1] + k) * (size[2] // 2 + 1) + triplets[:, 2]


# ---------------------------------------------------------------------------------------------------


def _transfer(fractional: Tensor, size: tuple[int, int, int], order: int) -> MeshTransfer:
    """Return GPU kernels on a GPU that has Triton, plain torch elsewhere."""
    if fractional.is_cuda and kernels_run(fractional.device):
        return kernel_transfer(fractional, size, order)
    return arrange_transfer(fractional, size, order)


def centred(fractional: Tensor, batch: Tensor, n_graphs: int) -> Tensor:
    """Return fractional coordinates (n_atoms, 3) from the mean of their structure."""
    counts = torch.bincount(batch, minlength=n_graphs).clamp(min=1).to(fractional.dtype)
    means = fractional.new_zeros(n_graphs, 3).index_add(0, batch, fractional) / counts[:, None]
    return fractional - means[batch]
