"""The convolution by OpenEquivariance (BSD-3), which generates GPU kernels for a tensor product and its sum.

Written from its documented interface (PASSIONLab/OpenEquivariance, 0.6.5 and later): what e3nn's product is
made from, with channels innermost. The package imports on CUDA devices only; these kernels have not been run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lsf.models.convolution import Convolution, Messages, Neighborhood, Radial
from lsf.models.message_passing.executors import Kernel, installed, not_on_gpu, require_kernels


class OpenEquivarianceKernel(Kernel):
    """One fused convolution per device and type of numbers, generated when it is first used."""

    def __init__(self, convolution: Convolution) -> None:
        super().__init__(convolution)
        self.generated: dict[tuple[str, torch.dtype], Any] = {}

    @classmethod
    def missing(cls, device: torch.device) -> str | None:
        """Return what is missing: the package or a GPU."""
        if not installed("openequivariance"):
            return "the package 'openequivariance' is not installed: pip install 'lsf[openequivariance]'"
        return not_on_gpu(device)

    def forward(self, features: Tensor, neighborhood: Neighborhood, radial: Radial) -> Messages:
        """Return the messages of all atoms."""
        key = str(features.device), features.dtype
        if key not in self.generated:
            require_kernels("openequivariance", features.device)
            import openequivariance

            found = problem(self.convolution, features.dtype)
            self.generated[key] = openequivariance.TensorProductConv(found, deterministic=False)
        sender, receiver = neighborhood.edge_index[0], neighborhood.edge_index[1]
        weights = radial.weights(neighborhood.radial_basis)
        flat = self.generated[key](
            features.flatten(1),
            neighborhood.harmonics.contiguous(),
            weights.contiguous(),
            receiver.contiguous(),
            sender.contiguous(),
        )
        n_channels = self.convolution.inputs.channels
        parts = flat.split([(2 * l3 + 1) * n_channels for _, _, l3 in self.convolution.paths], dim=1)
        by_path = [part.reshape(part.shape[0], -1, n_channels) for part in parts]
        return Messages(self.sorted_by_degree(by_path))

    def __deepcopy__(self, memo: dict[int, Any]) -> OpenEquivarianceKernel:
        """Return new kernels, generated again when they are used."""
        copy = OpenEquivarianceKernel(self.convolution)
        copy.recompute = self.recompute
        return copy


def problem(convolution: Convolution, dtype: torch.dtype) -> Any:
    """Return the tensor product as OpenEquivariance describes it: one output per path, channels innermost."""
    import numpy as np
    from openequivariance import Irreps, TPProblem

    n_channels, degrees = convolution.inputs.channels, convolution.inputs.degrees
    messages = " + ".join(f"{n_channels}x{l3}{'eo'[l3 % 2]}" for _, _, l3 in convolution.paths)
    harmonics = " + ".join(f"1x{degree}{'eo'[degree % 2]}" for degree in range(convolution.max_ell + 1))
    number = np.float64 if dtype == torch.float64 else np.float32
    return TPProblem(
        Irreps(str(convolution.inputs)),
        Irreps(harmonics),
        Irreps(messages),
        [(degrees.index(l1), l2, row, "uvu", True) for row, (l1, l2, _) in enumerate(convolution.paths)],
        shared_weights=False,
        internal_weights=False,
        irrep_dtype=number,
        weight_dtype=number,
        layout="ir_mul",
    )
