"""The formula itself: e3nn's tensor product on every edge, torch-geometric's sum over edges."""

from __future__ import annotations

import re
from typing import Final

import torch
from e3nn import o3
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from lsf.models.convolution import Convolution, Messages, Neighborhood, Radial
from lsf.models.couplings import wigner_3j
from lsf.models.message_passing.executors import Kernel

_SYMBOL: Final = re.compile(r"_w3j_(\d+)_(\d+)_(\d+)")


class E3nnKernel(Kernel):
    """What all others must equal. The product is computed in float64, whatever the model's type."""

    def __init__(self, convolution: Convolution) -> None:
        super().__init__(convolution)
        self.edges = EdgeProducts(convolution)

    def forward(self, features: Tensor, neighborhood: Neighborhood, radial: Radial) -> Messages:
        """Return the messages of all atoms."""
        edge_index, harmonics = neighborhood.edge_index, neighborhood.harmonics
        weights = radial.weights(neighborhood.radial_basis)
        flat = channels_outside(features, self.convolution)
        return Messages(
            self.sorted_by_degree(
                paths_of(self.edges(flat, edge_index, harmonics, weights), self.convolution)
            )
        )


class EdgeProducts(MessagePassing):  # type: ignore[misc]
    """The products of all edges, summed by receiver."""

    def __init__(self, convolution: Convolution) -> None:
        super().__init__(aggr="add", node_dim=0)
        self.tensor_product = tensor_product(convolution)

    def forward(self, features: Tensor, edge_index: Tensor, harmonics: Tensor, weights: Tensor) -> Tensor:
        """Return ``(n_atoms, dimension of all messages)``, path by path, channels outside."""
        # propagate_type: (features: Tensor, harmonics: Tensor, weights: Tensor)
        size = features.shape[0], features.shape[0]
        summed: Tensor = self.propagate(
            edge_index, features=features, harmonics=harmonics, weights=weights, size=size
        )
        return summed

    def message(self, features_j: Tensor, harmonics: Tensor, weights: Tensor) -> Tensor:
        """Return the message of every edge: sender features ⊗ harmonics, weighted radially."""
        wide = (features_j.double(), harmonics.double(), weights.double())
        product: Tensor = self.tensor_product(*wide)
        return product.to(features_j.dtype)


def messages_irreps(convolution: Convolution) -> list[tuple[int, tuple[int, int]]]:
    """Return the irreps of all messages in e3nn's form, one per path."""
    return [(convolution.inputs.channels, (l3, 1 if l3 % 2 == 0 else -1)) for _, _, l3 in convolution.paths]


def instructions(convolution: Convolution) -> list[tuple[int, int, int, str, bool]]:
    """Return e3nn's instructions: channel by channel, external weights."""
    degrees = convolution.inputs.degrees
    return [
        (degrees.index(l1), l2, index, "uvu", True) for index, (l1, l2, _) in enumerate(convolution.paths)
    ]


def tensor_product(convolution: Convolution) -> nn.Module:
    """Return e3nn's channel-wise product, one output slot per path, in float64; not part of model files."""
    product: nn.Module = o3.TensorProduct(
        o3.Irreps(str(convolution.inputs)),
        o3.Irreps.spherical_harmonics(convolution.max_ell),
        o3.Irreps(messages_irreps(convolution)),
        instructions(convolution),
        shared_weights=False,
        internal_weights=False,
    )
    for module in product.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            # e3nn rounds its symbols to torch's default type
            symbol = _SYMBOL.fullmatch(name)
            exact = buffer if symbol is None else wigner_3j(*map(int, symbol.groups())).reshape(buffer.shape)
            module.register_buffer(name, exact, persistent=False)
    return product.to(torch.float64)


def channels_outside(features: Tensor, convolution: Convolution) -> Tensor:
    """Return features ``(n_atoms, n_components, n_channels)`` as e3nn orders them, ``(n_atoms, n)``."""
    slices = convolution.inputs.slices()
    return torch.cat([features[:, part].transpose(1, 2).flatten(1) for part in slices.values()], dim=1)


def paths_of(flat: Tensor, convolution: Convolution) -> list[Tensor]:
    """Return messages in e3nn's order by path, ``(n_atoms, 2 l3 + 1, n_channels)`` each."""
    n_channels = convolution.inputs.channels
    parts = flat.split([n_channels * (2 * l3 + 1) for _, _, l3 in convolution.paths], dim=1)
    return [part.reshape(part.shape[0], n_channels, -1).transpose(1, 2) for part in parts]
