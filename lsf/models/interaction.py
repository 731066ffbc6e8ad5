"""Message passing: neighbours' features, spherical harmonics and radial weights into an atomic basis.

The layer holds the weights; the sum over neighbours is left to kernels
(:mod:`lsf.models.message_passing.executors`), of which
:class:`lsf.models.message_passing.reference.E3nnKernel` states the mathematics. A first layer whose features
depend on the element alone sums by element before any weight.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lsf.models.convolution import Convolution, Neighborhood, Radial
from lsf.models.irreps import Irreps
from lsf.models.linear import EquivariantLinear
from lsf.models.message_passing.compiled.operator import neighbor_sums
from lsf.models.message_passing.compiled.radial import with_slopes
from lsf.models.message_passing.compiled.sums import ElementSums, SlopedInputs
from lsf.models.message_passing.executors import Kernel, kernel_class
from lsf.models.message_passing.native.autograd import Inputs, summed
from lsf.models.message_passing.native.executor import NativeKernel
from lsf.models.message_passing.native.sums import ElementMoments
from lsf.models.radial import SILU_SCALE, RadialNetwork


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
        self.convolution = Convolution(inputs, max_ell)
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
        # what recorded graphs compute with
        self.native = NativeKernel(self.convolution)
        self.kernel: Kernel = self.native
        self.use_kernels(kernels)

    def use_kernels(self, kernels: str) -> None:
        """Compute with other kernels from now on; the weights stay."""
        self.kernels = kernels
        again = self.kernel.recompute
        self.kernel = kernel_class(kernels)(self.convolution).to(self.native.columns.device)
        self.recompute(again)

    def recompute(self, again: bool) -> None:
        """Let backward passes compute intermediates of edges again, for kernels that can."""
        self.kernel.recompute = again

    def forward(self, features: Tensor, neighborhood: Neighborhood) -> Tensor:
        """Return the atomic basis ``(n_atoms, (max_ell + 1)², n_channels)``.

        ``features`` are ``(n_atoms, n_components, n_channels)``.
        """
        only_scalars = self.convolution.inputs.degrees == (0,)
        kernel = self.kernel if neighborhood.tables is None else self.native
        if only_scalars and neighborhood.initial is not None and kernel.sums_by_element:
            return self._by_element(neighborhood.initial, neighborhood)
        messages = kernel(self.linear_up(features), neighborhood, self._radial())
        basis = self._down(messages.by_degree)
        return basis if messages.place is None else neighborhood.blocks.unsort(basis)

    def _radial(self) -> Radial:
        return Radial(self.radial, self.radial_out, self.radial_scale)

    def _down(self, summed: list[list[Tensor]]) -> Tensor:
        """Mix all messages of one degree: ``Lin / n̄``."""
        blocks = []
        for degree, weight in enumerate(self.linear_down):
            scale = 1.0 / (math.sqrt(weight.shape[0]) * self.avg_num_neighbors)
            blocks.append(torch.cat(summed[degree], dim=2) @ (weight * scale))
        return torch.cat(blocks, dim=1)

    def _by_element(self, initial: Tensor, neighborhood: Neighborhood) -> Tensor:
        """The same for scalars that depend on the element of the sender alone: weights after the sum."""
        weights = self.radial.scaled_weights()
        blocks = neighborhood.blocks
        n_atoms, width = neighborhood.slots.shape[0], weights[-1].shape[1]
        harmonics, empty = neighborhood.harmonics_in_slots, initial.new_empty((0, 0))
        elements = neighborhood.elements_in_slots
        if neighborhood.with_slopes:
            basis, slopes, lengths = neighborhood.slopes_in_rows
            hidden = with_slopes(basis, slopes, weights)
            inputs = SlopedInputs(*hidden, lengths, harmonics, empty, empty)
            (sums,) = neighbor_sums(ElementSums(blocks, elements, n_atoms), inputs)
        else:
            moments = ElementMoments(blocks, elements, n_atoms, width)
            moments.keep = not self.kernel.recompute
            edges = Inputs(neighborhood.basis_in_rows, harmonics, empty, empty)
            (sums,) = summed(moments, edges, weights)
        lifted = self.linear_up(initial).squeeze(1)
        by_element = sums.view(n_atoms, lifted.shape[0], -1, width)
        return blocks.unsort(self._down_by_element(by_element, lifted))

    def _down_by_element(self, sums: Tensor, lifted: Tensor) -> Tensor:
        """Apply radial weights, senders' features (n_elements, n_channels) and :meth:`_down` at once.

        ``sums`` are ``(n_atoms, n_elements, (max_ell + 1)², width)`` of the last hidden layer, but for its
        scale.
        """
        n_atoms, n_elements, _, width = sums.shape
        n_channels = self.convolution.inputs.channels
        radial = self.radial_out * (self.radial_scale * SILU_SCALE)
        parts = []
        for degree, weight in enumerate(self.linear_down):
            scale = 1.0 / (math.sqrt(weight.shape[0]) * self.avg_num_neighbors)
            mixed = (radial[:, degree] * lifted.unsqueeze(1)) @ (weight * scale)  # [z, a, d]
            block = sums[:, :, degree * degree : (degree + 1) ** 2].transpose(1, 2)
            rows = block.reshape(-1, n_elements * width) @ mixed.reshape(n_elements * width, n_channels)
            parts.append(rows.view(n_atoms, -1, n_channels))
        return torch.cat(parts, dim=1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # files of models that were trained with kernels = "e3nn" hold its constants, too, up to lsf 0.1
        for name in [name for name in state_dict if name.startswith(f"{prefix}tensor_product.")]:
            del state_dict[name]
        super()._load_from_state_dict(state_dict, prefix, *rest)
