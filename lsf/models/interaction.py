"""Message passing: neighbours' features, spherical harmonics and radial weights into an atomic basis.

The mathematics stands in :meth:`Interaction.message` with e3nn's tensor product and
torch-geometric's sum over edges (``kernels = "e3nn"``). The native kernel computes the same numbers
by summing over neighbours first, one batched matrix product per degree, and coupling on the atoms
afterwards: Clebsch–Gordan coupling is linear and does not see the edge.
"""

from __future__ import annotations

import math

import torch
from e3nn import o3
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from lsf.models.couplings import allowed_products, wigner_3j
from lsf.models.irreps import Irreps
from lsf.models.linear import EquivariantLinear
from lsf.models.radial import RadialNetwork

Path = tuple[int, int, int]


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


def coupling_matrix(group: tuple[Path, ...]) -> Tensor:
    """Return the Clebsch–Gordan matrix of all paths of one harmonic degree l2, float64.

    Rows are the components of every path's message, ``Σ (2 l3 + 1)``; columns run over m2 and, inside,
    over the components of every path's sender feature, ``(2 l2 + 1) · Σ (2 l1 + 1)``.
    """
    width = sum(2 * l1 + 1 for l1, _, _ in group)
    height = sum(2 * l3 + 1 for _, _, l3 in group)
    matrix = torch.zeros((height, 2 * group[0][1] + 1, width), dtype=torch.float64)
    row = column = 0
    for l1, l2, l3 in group:
        block = wigner_3j(l1, l2, l3).permute(2, 1, 0) * math.sqrt(2 * l3 + 1)
        matrix[row : row + 2 * l3 + 1, :, column : column + 2 * l1 + 1] = block
        row, column = row + 2 * l3 + 1, column + 2 * l1 + 1
    return matrix.reshape(height, -1)


def pad_row(values: Tensor) -> Tensor:
    """Return ``values`` with a row of zeros appended: what a padded neighbour slot points at."""
    return torch.cat([values, torch.zeros_like(values[:1])]) if values.shape[0] else _zero_row(values)


def _zero_row(values: Tensor) -> Tensor:
    return torch.zeros((1, *values.shape[1:]), dtype=values.dtype, device=values.device)


class Interaction(MessagePassing):  # type: ignore[misc]
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
        super().__init__(aggr="add", node_dim=0)
        self.inputs = inputs
        self.max_ell = max_ell
        self.kernels = kernels
        self.paths = convolution_paths(inputs.degrees, max_ell)
        self.linear_up = EquivariantLinear(inputs, inputs.channels)
        self.radial = RadialNetwork((n_radial, *radial_widths))
        n_channels = inputs.channels
        self.radial_out = nn.Parameter(torch.randn(radial_widths[-1], len(self.paths), n_channels))
        self.radial_scale = 1.0 / math.sqrt(radial_widths[-1])
        self.avg_num_neighbors = avg_num_neighbors
        self.linear_down = nn.ParameterList()
        for degree in range(max_ell + 1):
            n_paths = sum(path[2] == degree for path in self.paths)
            self.linear_down.append(nn.Parameter(torch.randn(n_paths * n_channels, n_channels)))
        self.groups = tuple(
            tuple(path for path in self.paths if path[1] == degree) for degree in range(max_ell + 1)
        )
        for degree, group in enumerate(self.groups):
            self.register_buffer(f"coupling_{degree}", coupling_matrix(group), persistent=False)
        if kernels == "e3nn":
            self.tensor_product = _e3nn_tensor_product(inputs, max_ell, self.paths)

    def forward(
        self,
        features: Tensor,
        harmonics: Tensor,
        radial_basis: Tensor,
        edge_index: Tensor,
        neighbor_slots: Tensor,
    ) -> Tensor:
        """Return the atomic basis ``(n_atoms, (max_ell + 1)², n_channels)``.

        ``features`` are ``(n_atoms, n_components, n_channels)``, ``harmonics`` ``(n_edges,
        (max_ell + 1)²)``, ``radial_basis`` ``(n_edges, n_radial)``.
        """
        lifted = self.linear_up(features)
        hidden = self.radial(radial_basis)
        if self.kernels == "e3nn":
            summed = self._reference_sum(lifted, harmonics, hidden, edge_index)
        else:
            summed = self._native_sum(lifted, harmonics, hidden, edge_index, neighbor_slots)
        blocks = []
        for degree, weight in enumerate(self.linear_down):
            scale = 1.0 / (math.sqrt(weight.shape[0]) * self.avg_num_neighbors)
            blocks.append(torch.cat(summed[degree], dim=2) @ (weight * scale))
        return torch.cat(blocks, dim=1)

    def _native_sum(
        self, features: Tensor, harmonics: Tensor, hidden: Tensor, edge_index: Tensor, slots: Tensor
    ) -> list[list[Tensor]]:
        """Return per message degree the summed messages of its paths, ``(n_atoms, 2l + 1, channels)``."""
        n_atoms, width = slots.shape
        n_channels = self.inputs.channels
        sender = torch.cat([edge_index[0], torch.zeros_like(slots[:1, 0])])
        senders = nn.functional.embedding(slots, sender.unsqueeze(1)).squeeze(2)
        gathered = nn.functional.embedding(senders, features.reshape(n_atoms, -1))
        gathered = gathered.reshape(n_atoms, width, -1, n_channels)
        angular = nn.functional.embedding(slots, pad_row(harmonics)).transpose(1, 2)
        radial = nn.functional.embedding(slots, pad_row(hidden * self.radial_scale))
        slices = self.inputs.slices()
        features_of = {degree: gathered[:, :, part].unsqueeze(2) for degree, part in slices.items()}
        degrees = self.inputs.degrees
        weights = (radial @ self.radial_out.flatten(1)).reshape(n_atoms, width, -1, 1, n_channels)
        summed: list[list[Tensor]] = [[] for _ in range(self.max_ell + 1)]
        by_group = weights.split([len(group) for group in self.groups], dim=2)
        for degree, (group, group_weights) in enumerate(zip(self.groups, by_group, strict=True)):
            counts = [sum(path[0] == l1 for path in group) for l1 in degrees]
            messages = torch.cat(
                [
                    (weight * features_of[l1]).reshape(n_atoms, width, -1)
                    for l1, weight in zip(degrees, group_weights.split(counts, dim=2), strict=True)
                    if weight.shape[2]
                ],
                dim=2,
            )
            spherical = angular[:, degree * degree : (degree + 1) ** 2]
            moments = torch.bmm(spherical, messages).reshape(n_atoms, -1, n_channels)
            coupling = getattr(self, f"coupling_{degree}").to(features.dtype)
            coupled = torch.matmul(coupling, moments).split([2 * l3 + 1 for _, _, l3 in group], dim=1)
            for (_, _, l3), message in zip(group, coupled, strict=True):
                summed[l3].append(message)
        return summed

    def _reference_sum(
        self, features: Tensor, harmonics: Tensor, hidden: Tensor, edge_index: Tensor
    ) -> list[list[Tensor]]:
        """The same by e3nn: a tensor product on every edge, then a sum over edges."""
        n_channels = self.inputs.channels
        slices = self.inputs.slices()
        flat = torch.cat(
            [features[:, slices[degree]].transpose(1, 2).flatten(1) for degree in self.inputs.degrees], dim=1
        )
        weights = (hidden * self.radial_scale) @ self.radial_out.flatten(1)
        # propagate_type: (features: Tensor, harmonics: Tensor, weights: Tensor)
        summed = self.propagate(
            edge_index,
            features=flat,
            harmonics=harmonics,
            weights=weights,
            size=(features.shape[0], features.shape[0]),
        )
        result: list[list[Tensor]] = [[] for _ in range(self.max_ell + 1)]
        start = 0
        for _, _, l3 in self.paths:
            width = n_channels * (2 * l3 + 1)
            block = summed[:, start : start + width].reshape(-1, n_channels, 2 * l3 + 1)
            result[l3].append(block.transpose(1, 2))
            start += width
        return result

    def message(self, features_j: Tensor, harmonics: Tensor, weights: Tensor) -> Tensor:
        """Return the message of every edge: sender features ⊗ harmonics, weighted radially."""
        wide = (features_j.double(), harmonics.double(), weights.double())
        product: Tensor = self.tensor_product(*wide)
        return product.to(features_j.dtype)


def _e3nn_tensor_product(inputs: Irreps, max_ell: int, paths: tuple[Path, ...]) -> nn.Module:
    """Return e3nn's channel-wise product, one output slot per path, external weights, in float64."""
    irreps_out = [(inputs.channels, (l3, 1 if l3 % 2 == 0 else -1)) for _, _, l3 in paths]
    instructions = [
        (inputs.degrees.index(l1), l2, index, "uvu", True) for index, (l1, l2, _) in enumerate(paths)
    ]
    product: nn.Module = o3.TensorProduct(
        o3.Irreps(str(inputs)),
        o3.Irreps.spherical_harmonics(max_ell),
        o3.Irreps(irreps_out),
        instructions,
        shared_weights=False,
        internal_weights=False,
    )
    return product.to(torch.float64)
