"""Message passing: neighbours' features, spherical harmonics and radial weights into an atomic basis.

The layer holds the weights. :class:`lsf.models.convolution.Convolution` states its sum over neighbours, which
an executor of :mod:`lsf.models.message_passing` computes. A first layer whose features depend on the element
alone sums by element before any weight.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lsf.models.convolution import ConvolutionPaths, RadialWeights
from lsf.models.irreps import Irreps
from lsf.models.linear import EquivariantLinear
from lsf.models.message_passing.executors import Executor, executor_class
from lsf.models.message_passing.native.by_element import basis_by_element
from lsf.models.message_passing.native.executor import NativeExecutor
from lsf.models.message_passing.neighborhood import ElementFeatures, Neighborhood
from lsf.models.radial import RadialNetwork


class Interaction(nn.Module):
    r"""Residual interaction of MACE: ``A_i = (1/n̄) Lin Σ_j R(r_ij) · (Lin h_j ⊗ Y(r̂_ij))``.

    Batatia et al., arXiv:2206.07697, eqs. (8) and (9). ``n̄`` is the average number of neighbours.
    """

    def __init__(
        self,
        inputs: Irreps,
        max_ell: int,
        n_radial: int,
        radial_widths: tuple[int, ...],
        avg_num_neighbors: float,
        kernels: str,
    ) -> None:
        super().__init__()
        self.convolution = ConvolutionPaths(inputs, max_ell)
        paths, n_channels = self.convolution.paths, inputs.channels
        self.linear_up = EquivariantLinear(inputs, n_channels)
        self.radial = RadialNetwork((n_radial, *radial_widths))
        self.radial_out = nn.Parameter(torch.randn(radial_widths[-1], len(paths), n_channels))
        self.radial_scale = 1.0 / math.sqrt(radial_widths[-1])
        self.avg_num_neighbors = avg_num_neighbors
        self.linear_down = nn.ParameterList()
        for degree in range(max_ell + 1):
            n_paths = sum(path[2] == degree for path in paths)
            self.linear_down.append(nn.Parameter(torch.randn(n_paths * n_channels, n_channels)))
        # what traced graphs compute with
        self.native = NativeExecutor(self.convolution)
        self.executor: Executor = self.native
        self.use_kernels(kernels)

    def use_kernels(self, kernels: str) -> None:
        """Compute with other kernels from now on; the weights stay."""
        self.kernels = kernels
        again = self.executor.recompute
        self.executor = executor_class(kernels)(self.convolution).to(self.native.columns.device)
        self.recompute(again)

    def recompute(self, again: bool) -> None:
        """Let backward passes compute intermediates of edges again, for executors that can."""
        self.executor.recompute = again

    def forward(
        self, features: Tensor, neighborhood: Neighborhood, by_element: ElementFeatures | None = None
    ) -> Tensor:
        """Return the atomic basis ``(n_atoms, (max_ell + 1)², n_channels)``.

        ``features`` are ``(n_atoms, n_components, n_channels)``. ``by_element`` are the same where they
        depend on the element alone.
        """
        only_scalars = self.convolution.inputs.degrees == (0,)
        executor = self.executor if neighborhood.tables is None else self.native
        radial, mixing = RadialWeights(self.radial, self.radial_out, self.radial_scale), self._mixing()
        if only_scalars and by_element is not None and executor.sums_by_element:
            lifted = by_element._replace(features=self.linear_up(by_element.features))
            return basis_by_element(lifted, neighborhood, radial, mixing, keep=not self.executor.recompute)
        messages = executor(self.linear_up(features), neighborhood, radial)
        blocks = [
            torch.cat(summed, dim=2) @ weight
            for summed, weight in zip(messages.by_degree, mixing, strict=True)
        ]
        basis = torch.cat(blocks, dim=1)
        return basis if messages.place is None else neighborhood.blocks.unsort(basis)

    def _mixing(self) -> list[Tensor]:
        """Return what mixes all messages of one degree, ``Lin / n̄``: (n_paths · n_channels, n_channels)."""
        mixing = []
        for weight in self.linear_down:
            scale = 1.0 / (math.sqrt(weight.shape[0]) * self.avg_num_neighbors)
            mixing.append(weight * scale)
        return mixing

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # files of models that were trained with kernels = "e3nn" hold its constants, too, up to lsf 0.1
        for name in [name for name in state_dict if name.startswith(f"{prefix}tensor_product.")]:
            del state_dict[name]
        super()._load_from_state_dict(state_dict, prefix, *rest)
