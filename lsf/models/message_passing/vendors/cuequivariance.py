"""The convolution by cuequivariance: NVIDIA's kernels where a user has installed them, plain torch elsewhere.

The tensor product is described with lsf's own coupling constants, paths and order of components, so that
weights and features need no conversion. The package's own kernels (cuequivariance-ops-torch) are proprietary
and no dependency of lsf; without them it evaluates the same description by its method "naive".
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lsf.models.convolution import ConvolutionPaths, RadialWeights
from lsf.models.couplings import wigner_3j
from lsf.models.message_passing.executors import Executor, Messages, installed, require_kernels
from lsf.models.message_passing.neighborhood import Neighborhood


class CuequivarianceExecutor(Executor):
    """A segmented polynomial that gathers features by sender and adds messages up by receiver."""

    def __init__(self, convolution: ConvolutionPaths) -> None:
        super().__init__(convolution)
        self.polynomials: dict[str, nn.Module] = {}

    @classmethod
    def missing(cls, device: torch.device) -> str | None:
        """Return what is missing: the package, or on a GPU its kernels."""
        if not installed("cuequivariance_torch"):
            return (
                "the package 'cuequivariance-torch' is not installed: pip install 'lsf[cuequivariance]' and, "
                "for its kernels, cuequivariance-ops-torch-cu12 or -cu13"
            )
        if device.type == "cuda" and not installed("cuequivariance_ops_torch"):
            return "its kernels are not installed: pip install cuequivariance-ops-torch-cu12 or -cu13"
        return None

    def forward(self, features: Tensor, neighborhood: Neighborhood, radial: RadialWeights) -> Messages:
        """Return the messages of all atoms."""
        device = str(features.device)
        if device not in self.polynomials:
            require_kernels("cuequivariance", features.device)
            self.polynomials[device] = segmented_polynomial(self.convolution, features.device)
        n_channels = self.convolution.inputs.channels
        rows = sum(self.convolution.rows)
        sender, receiver = neighborhood.edges.edge_index[0], neighborhood.edges.edge_index[1]
        weights = radial.of_edges(neighborhood.edges.radial_basis)
        (flat,) = self.polynomials[device](
            [weights, features.flatten(1), neighborhood.edges.harmonics],
            input_indices={1: sender},
            output_shapes={0: features.new_empty(features.shape[0], 1)},
            output_indices={0: receiver},
        )
        return self.of_rows(flat.view(features.shape[0], rows, n_channels))

    def __deepcopy__(self, memo: dict[int, Any]) -> CuequivarianceExecutor:
        """Return new kernels: what the package has compiled is made again when it is used."""
        copy = CuequivarianceExecutor(self.convolution)
        copy.recompute = self.recompute
        return copy


def segmented_polynomial(convolution: ConvolutionPaths, device: torch.device) -> nn.Module:
    """Return the module that evaluates :func:`description` on a device."""
    import cuequivariance_torch

    method = "uniform_1d" if device.type == "cuda" else "naive"
    module: nn.Module = cuequivariance_torch.SegmentedPolynomial(description(convolution), method=method)
    return module.to(device)


def description(convolution: ConvolutionPaths) -> Any:
    """Return the polynomial: weights by path, features and harmonics by degree, one output per path."""
    import cuequivariance

    n_channels = convolution.inputs.channels
    product = cuequivariance.SegmentedTensorProduct.from_subscripts("u,iu,j,ku+ijk")
    features = {
        degree: product.add_segment(1, (2 * degree + 1, n_channels)) for degree in convolution.inputs.degrees
    }
    harmonics = [product.add_segment(2, (2 * degree + 1,)) for degree in range(convolution.max_ell + 1)]
    for l1, l2, l3 in convolution.paths:
        symbol = wigner_3j(l1, l2, l3) * math.sqrt(2 * l3 + 1)
        weights = product.add_segment(0, (n_channels,))
        output = product.add_segment(3, (2 * l3 + 1, n_channels))
        product.add_path(weights, features[l1], harmonics[l2], output, c=symbol.numpy())
    return cuequivariance.SegmentedPolynomial.eval_last_operand(product)
