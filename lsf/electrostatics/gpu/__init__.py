"""Triton kernels of the electrostatics: the direct Fourier pair, the mesh pair and the open pair sum.

Importing this package imports neither Triton nor a kernel: the functions here check that kernels can run
where the tensors are, then import them. The modules ``fourier``, ``mesh`` and ``pairs`` hold the operators,
``programs`` what runs on the GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lsf.electrostatics.fourier.backends import AdjointPair, MeshTransfer
from lsf.errors import LsfError
from lsf.machine.triton import interpreter_requested, kernels_run, triton_installed


class KernelError(LsfError):
    """The kernel backend cannot run on a device."""


def require_kernels(device: torch.device) -> None:
    """Raise :class:`KernelError` unless Triton kernels can run on tensors of ``device``."""
    if kernels_run(device):
        return
    installed = triton_installed()
    problems = [] if installed else ["the package 'triton' is not installed (pip install 'lsf[gpu]', Linux)"]
    if device.type != "cuda" and not interpreter_requested():
        problems.append(f"the tensors are on {device.type!r}, not on a CUDA device")
    raise KernelError(
        f"electrostatics backend 'kernel' cannot be used: {' and '.join(problems)}. It needs the extra 'gpu' "
        "and a CUDA device (TRITON_INTERPRET=1 runs it slowly on a CPU, for tests); "
        "backend = 'direct' and 'mesh' run on any device, 'auto' chooses"
    )


def arrange_kernel(
    fractional: Tensor, batch: Tensor, k_triplets: Tensor, k_batch: Tensor, n_graphs: int
) -> AdjointPair:
    """Arrange a batch for exact sums by kernels, see :class:`lsf.electrostatics.fourier.backends.Arrange`."""
    require_kernels(fractional.device)
    from lsf.electrostatics.gpu.fourier import KernelPair, kernel_grid

    grid = kernel_grid(batch, k_triplets, k_batch, n_graphs, fractional.dtype)
    return KernelPair(fractional.detach(), grid)


def kernel_transfer(fractional: Tensor, size: tuple[int, int, int], order: int) -> MeshTransfer:
    """Return the kernels' :class:`lsf.electrostatics.fourier.backends.MeshTransfer`; order 6 or 8."""
    require_kernels(fractional.device)
    from lsf.electrostatics.gpu.mesh import KernelTransfer, spline_table

    splines = spline_table(order, fractional.dtype, fractional.device)
    return KernelTransfer(fractional.detach(), size, order, splines)


def kernel_open_energy(
    coefficients: Tensor, positions: Tensor, batch: Tensor, is_open: Tensor, smearing_width: float
) -> Tensor:
    """Return the pair energies of open structures, (n_graphs,) [eV]; ``is_open`` (n_graphs,) bool.

    Otherwise as :func:`lsf.electrostatics.open_space.open_energy`, which takes a list of pairs.
    """
    require_kernels(positions.device)
    from lsf.electrostatics.gpu.pairs import open_energy, pair_grid

    return open_energy(coefficients, positions, pair_grid(batch, is_open), batch, smearing_width)
