r"""The sum over neighbours of a layer, ``A_i = Σ_j R(r_ij) · (h_j ⊗ Y(r̂_ij))``: the formula itself.

:class:`Convolution` is what every executor of :mod:`lsf.models.message_passing` computes, edge by edge as
the paper has it. Executors fuse or reorder the sum; ``model.kernels`` chooses one from the registry.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import attrs
import torch
from torch import Tensor

from lsf.machine.geometric import MessagePassing
from lsf.models.couplings import allowed_products, wigner_3j
from lsf.models.irreps import Irreps
from lsf.models.radial import RadialNetwork

Path = tuple[int, int, int]

ELEMENTS_AT_MOST = 8
"""Elements present in a batch up to which a first layer sums by element before it applies any weight."""


def convolution_paths(degrees: tuple[int, ...], max_ell: int) -> tuple[Path, ...]:
    """Return all (feature degree, harmonic degree, message degree), messages up to ``max_ell``.

    Paths of one harmonic degree stand together, feature degrees rising inside.
    """
    return tuple(
        (l1, l2, l3)
        for l2 in range(max_ell + 1)
        for l1 in degrees
        for l3 in allowed_products(l1, l2, max_ell)
    )


@attrs.frozen
class ConvolutionPaths:
    """Which products of features and harmonics a layer sums: its paths (l1, l2, l3).

    ``inputs`` are the irreps of the features h; harmonics and messages go up to degree ``max_ell``.
    """

    inputs: Irreps
    max_ell: int

    @property
    def paths(self) -> tuple[Path, ...]:
        """All (l1, l2, l3), in the order in which their weights are stored."""
        return convolution_paths(self.inputs.degrees, self.max_ell)

    @property
    def rows(self) -> list[int]:
        """Components of every path's message, ``2 l3 + 1``."""
        return [2 * l3 + 1 for _, _, l3 in self.paths]


class RadialWeights(NamedTuple):
    """The radial weights of a layer: R = network(basis) · out · scale."""

    network: RadialNetwork
    out: Tensor  # (width, n_paths, n_channels)
    scale: float

    def of_edges(self, basis: Tensor) -> Tensor:
        """Return the weights of all paths of every edge, ``(n_edges, n_paths · n_channels)``."""
        weights: Tensor = (self.network(basis) * self.scale) @ self.out.flatten(1)
        return weights


class Convolution(MessagePassing):  # type: ignore[misc]
    r"""Messages of all neighbours, summed: torch-geometric's ``message`` and ``aggregate`` are the formula.

    .. math:: A_{i,\,p m_3 c} = \sum_j R_{p c}(r_{ij}) \sum_{m_1 m_2} C^{l_1 l_2 l_3}_{m_1 m_2 m_3}\,
        h_{j,\,l_1 m_1 c}\, Y_{l_2 m_2}(\hat r_{ij}) \qquad p = (l_1, l_2, l_3)

    with c the channel and the Clebsch–Gordan coefficients C of component normalization, real Wigner 3j
    symbols times :math:`\sqrt{2 l_3 + 1}`, as in e3nn. Nothing is kept between calls; the only state are the
    constants C, which are not part of model files.

    References
    ----------
    Batatia et al., MACE, eq. (8). arXiv:2206.07697. Conventions: Geiger and Smidt, e3nn. arXiv:2207.09453
    """

    def __init__(self, paths: ConvolutionPaths) -> None:
        super().__init__(aggr="add", node_dim=0)
        self.paths = paths.paths
        self.slices = paths.inputs.slices()
        for index, (l1, l2, l3) in enumerate(self.paths):
            coupling = wigner_3j(l1, l2, l3) * math.sqrt(2 * l3 + 1)  # [m1, m2, m3]
            self.register_buffer(f"coupling_{index}", coupling, persistent=False)

    def forward(self, features: Tensor, edge_index: Tensor, harmonics: Tensor, weights: Tensor) -> Tensor:
        """Return the messages of all atoms, ``(n_atoms, Σ_paths (2 l3 + 1), n_channels)``.

        Parameters
        ----------
        features : (n_atoms, n_components, n_channels), h
        edge_index : (2, n_edges) senders j, receivers i
        harmonics : (n_edges, (max_ell + 1)²), Y
        weights : (n_edges, n_paths, n_channels), R
        """
        # propagate_type: (features: Tensor, harmonics: Tensor, weights: Tensor)
        size = features.shape[0], features.shape[0]
        summed: Tensor = self.propagate(
            edge_index, features=features, harmonics=harmonics, weights=weights, size=size
        )
        return summed

    def message(self, features_j: Tensor, harmonics: Tensor, weights: Tensor) -> Tensor:
        """Return the message of every edge, ``R · (h_j ⊗ Y)`` path by path."""
        messages = []
        for index, (l1, l2, _) in enumerate(self.paths):
            coupling = getattr(self, f"coupling_{index}").to(features_j.dtype)
            sender = features_j[:, self.slices[l1]]  # [edge, m1, channel]
            harmonic = harmonics[:, l2 * l2 : (l2 + 1) ** 2]  # [edge, m2]
            product = torch.einsum("abm,eac,eb->emc", coupling, sender, harmonic)
            messages.append(weights[:, index].unsqueeze(1) * product)
        return torch.cat(messages, dim=1)

    def aggregate(self, inputs: Tensor, index: Tensor, dim_size: int) -> Tensor:
        """Return the sum of the messages of every receiver."""
        return inputs.new_zeros((dim_size, *inputs.shape[1:])).index_add(0, index, inputs)
