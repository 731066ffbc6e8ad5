"""e3nn's tensor product on every edge, summed by receiver: what the formula of lsf is compared with."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from e3nn import o3
from torch import Tensor, nn

from lsf.models.convolution import ConvolutionPaths
from lsf.models.couplings import wigner_3j

SYMBOL = re.compile(r"_w3j_(\d+)_(\d+)_(\d+)")


def tensor_product(convolution: ConvolutionPaths) -> nn.Module:
    """Return e3nn's channel-wise product, one output slot per path, in float64."""
    degrees, n_channels = convolution.inputs.degrees, convolution.inputs.channels
    paths = list(enumerate(convolution.paths))
    product = o3.TensorProduct(
        o3.Irreps(str(convolution.inputs)),
        o3.Irreps.spherical_harmonics(convolution.max_ell),
        o3.Irreps([(n_channels, (l3, 1 if l3 % 2 == 0 else -1)) for _, (_, _, l3) in paths]),
        [(degrees.index(l1), l2, index, "uvu", True) for index, (l1, l2, _) in paths],
        shared_weights=False,
        internal_weights=False,
    )
    for module in product.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            # e3nn rounds its symbols to torch's default type
            symbol = SYMBOL.fullmatch(name)
            exact = buffer if symbol is None else wigner_3j(*map(int, symbol.groups())).reshape(buffer.shape)
            module.register_buffer(name, exact)
    return product.to(torch.float64)


def e3nn_convolution(convolution: ConvolutionPaths) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Return a function of the arguments of :meth:`lsf.models.convolution.Convolution.forward`."""
    product, n_channels = tensor_product(convolution), convolution.inputs.channels
    slices = convolution.inputs.slices().values()

    def messages(features: Tensor, edge_index: Tensor, harmonics: Tensor, weights: Tensor) -> Tensor:
        # e3nn has channels outside, components inside
        flat = torch.cat([features[:, part].transpose(1, 2).flatten(1) for part in slices], dim=1)
        of_edges = product(flat[edge_index[0]], harmonics, weights.flatten(1))
        flat = of_edges.new_zeros(len(features), of_edges.shape[1]).index_add(0, edge_index[1], of_edges)
        parts = flat.split([n_channels * (2 * l3 + 1) for _, _, l3 in convolution.paths], dim=1)
        by_path = [part.reshape(len(features), n_channels, -1).transpose(1, 2) for part in parts]
        return torch.cat(by_path, dim=1)

    return messages
