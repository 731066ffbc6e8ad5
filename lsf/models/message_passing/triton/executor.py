"""The convolution in Triton: weights, features and couplings of an edge meet on the GPU's registers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lsf.machine.triton import interpreter_requested, triton_installed
from lsf.models.convolution import ConvolutionPaths, RadialWeights
from lsf.models.couplings import wigner_3j
from lsf.models.message_passing.executors import Executor, Messages, not_on_gpu, require_kernels
from lsf.models.message_passing.neighborhood import Neighborhood


class TritonExecutor(Executor):
    """Operators of :mod:`lsf.models.message_passing.triton.operators`; differentiable to any order.

    A first layer sums by element, as with native kernels. Radial weights of all edges are kept for the
    backward pass.
    """

    sums_by_element = True
    couplings: Tensor

    def __init__(self, convolution: ConvolutionPaths) -> None:
        super().__init__(convolution)
        self.register_buffer("couplings", edge_couplings(convolution), persistent=False)

    @classmethod
    def missing(cls, device: torch.device) -> str | None:
        """Return what is missing: Triton, or a GPU where Triton's interpreter was not asked for."""
        if not triton_installed():
            return "the package 'triton' is not installed: pip install 'lsf[gpu]' (Linux)"
        return None if interpreter_requested() else not_on_gpu(device)

    def forward(self, features: Tensor, neighborhood: Neighborhood, radial: RadialWeights) -> Messages:
        """Return the messages of all atoms."""
        require_kernels("triton", features.device)
        from lsf.models.message_passing.triton.operators import receive, shape_of, tables_of

        couplings = neighborhood.edges.harmonics @ self.couplings.to(features.dtype)
        weights = radial.of_edges(neighborhood.edges.radial_basis)
        tables, shape = tables_of(neighborhood), shape_of(self.convolution)
        messages: Tensor = receive(features, couplings, weights, tables, shape)
        return self.of_rows(messages)


def edge_couplings(convolution: ConvolutionPaths) -> Tensor:
    """Return the matrix from harmonics to couplings, ``((max_ell + 1)², Σ_paths (2 l3 + 1)(2 l1 + 1))``.

    A path's columns run over the components of its message and, inside, over those of its feature; float64.
    """
    n_harmonics = (convolution.max_ell + 1) ** 2
    columns = []
    for l1, l2, l3 in convolution.paths:
        block = torch.zeros((n_harmonics, 2 * l3 + 1, 2 * l1 + 1), dtype=torch.float64)
        symbol = wigner_3j(l1, l2, l3) * math.sqrt(2 * l3 + 1)
        block[l2 * l2 : (l2 + 1) ** 2] = symbol.permute(1, 2, 0)
        columns.append(block.flatten(1))
    return torch.cat(columns, dim=1)
