"""Message passing: neighbours' features, spherical harmonics and radial weights into an atomic basis.

The mathematics stands in :meth:`Interaction.message` with e3nn's tensor product and
torch-geometric's sum over edges (``kernels = "e3nn"``). The native kernel computes the same numbers
by summing over neighbours first, one batched matrix product per degree, and coupling on the atoms
afterwards: Clebsch–Gordan coupling is linear and does not see the edge. It works block by block
(:mod:`lsf.models.moments`); ``kernels = "plain"`` does the same in one piece, by operations that can be
traced, compiled and exported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from e3nn import o3
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from lsf.models.blocks import EdgeBlocks, edge_blocks
from lsf.models.couplings import allowed_products, wigner_3j
from lsf.models.irreps import Irreps
from lsf.models.linear import EquivariantLinear
from lsf.models.moments import Inputs, summed
from lsf.models.neighbor_sums import ElementMoments, Group, MessageMoments
from lsf.models.pair_layout import PairLayout
from lsf.models.radial import SILU_SCALE, RadialNetwork

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


def path_groups(paths: tuple[Path, ...], inputs: Irreps) -> tuple[Group, ...]:
    """Return the paths grouped by feature and harmonic degree, feature degrees rising."""
    groups, column = [], 0
    for l1, part in inputs.slices().items():
        for l2 in sorted({path[1] for path in paths}):
            count = sum(path[:2] == (l1, l2) for path in paths)
            if count:
                groups.append(Group(l1, l2, count, column, part.start))
                column += count
    return tuple(groups)


def coupling_matrix(group: tuple[Path, ...]) -> Tensor:
    """Return the Clebsch–Gordan matrix of all paths of one feature and one harmonic degree, float64.

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
    # no branch on the number of rows: a traced model must serve structures without edges, too
    return torch.cat([values, values.new_zeros((1, *values.shape[1:]))])


ELEMENTS_AT_MOST = 8
"""Elements present in a batch up to which a first layer sums by element before it applies any weight."""


class Neighborhood:
    """Edges of a batch and the layouts in which the kernels sum over them; layouts are made when asked for.

    ``representatives`` (n_elements,) are atoms that stand for all others of their element in a first layer,
    and ``element`` (n_atoms,) says for which; both are None where the initial features of atoms of one
    element differ.
    """

    def __init__(
        self,
        edge_index: Tensor,
        harmonics: Tensor,
        radial_basis: Tensor,
        slots: Tensor,
    ) -> None:
        self.edge_index, self.slots = edge_index, slots
        self.harmonics, self.radial_basis = harmonics, radial_basis
        self.representatives: Tensor | None = None
        self.element: Tensor | None = None
        self.pairs: PairLayout | None = None

    @cached_property
    def blocks(self) -> EdgeBlocks:
        """Blocks of receivers."""
        return edge_blocks(self.edge_index, self.slots, self.harmonics.element_size())

    @cached_property
    def basis_in_slots(self) -> Tensor:
        """Radial basis ``(n_slots, n_radial)`` of the blocks."""
        return self.blocks.gather(self.radial_basis)

    @cached_property
    def harmonics_in_slots(self) -> Tensor:
        """Harmonics ``(n_slots, (max_ell + 1)²)`` of the blocks."""
        return self.blocks.gather(self.harmonics)

    @cached_property
    def elements_in_slots(self) -> Tensor:
        """One and zeros, ``(n_slots, n_elements)``: the element of every sender."""
        assert self.element is not None
        assert self.representatives is not None
        of_sender = self.element.index_select(0, self.blocks.senders)
        chosen = nn.functional.one_hot(of_sender, self.representatives.shape[0])
        return chosen.to(self.harmonics.dtype)


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
        self.recompute = False
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
        self.groups = path_groups(self.paths, inputs)
        # columns of the radial weights group by group, which is not the order they are stored in
        order = [self.paths.index(path) for group in self.groups for path in self._paths_of(group)]
        self.register_buffer("columns", torch.tensor(order), persistent=False)
        for index, group in enumerate(self.groups):
            coupling = coupling_matrix(self._paths_of(group))
            self.register_buffer(f"coupling_{index}", coupling, persistent=False)
        if kernels == "e3nn":
            self.tensor_product = _e3nn_tensor_product(inputs, max_ell, self.paths)

    def _paths_of(self, group: Group) -> tuple[Path, ...]:
        return tuple(path for path in self.paths if path[:2] == (group.l1, group.l2))

    def forward(self, features: Tensor, neighborhood: Neighborhood) -> Tensor:
        """Return the atomic basis ``(n_atoms, (max_ell + 1)², n_channels)``.

        ``features`` are ``(n_atoms, n_components, n_channels)``.
        """
        if neighborhood.pairs is not None:
            return self._by_pairs(features, neighborhood.pairs)
        if self.kernels == "e3nn":
            return self._down(self._reference_sum(self.linear_up(features), neighborhood))
        if self.kernels == "plain":
            return self._down(self._coupled(self._plain_moments(self.linear_up(features), neighborhood)))
        weights = self.radial.scaled_weights()
        if self.inputs.degrees == (0,) and neighborhood.representatives is not None:
            return self._by_element(features, neighborhood, weights)
        blocks = neighborhood.blocks
        moments = MessageMoments(blocks, self.groups, self.inputs.channels)
        moments.keep = not self.recompute
        lifted = self.linear_up(features).flatten(1)
        slots = neighborhood.basis_in_slots, neighborhood.harmonics_in_slots
        sums = summed(moments, Inputs(*slots, lifted, self._last()), weights)
        return blocks.unsort(self._down(self._coupled(sums)))

    def _last(self) -> Tensor:
        """Last radial weights ``(width, n_paths · n_channels)``, group by group, scales included."""
        scale = self.radial_scale * SILU_SCALE
        return self.radial_out.index_select(1, self.columns).flatten(1) * scale

    def _down(self, summed: list[list[Tensor]]) -> Tensor:
        """Mix all messages of one degree: ``Lin / n̄``."""
        blocks = []
        for degree, weight in enumerate(self.linear_down):
            scale = 1.0 / (math.sqrt(weight.shape[0]) * self.avg_num_neighbors)
            blocks.append(torch.cat(summed[degree], dim=2) @ (weight * scale))
        return torch.cat(blocks, dim=1)

    def _by_element(self, features: Tensor, neighborhood: Neighborhood, weights: Sequence[Tensor]) -> Tensor:
        """The same for scalars that depend on the element of the sender alone: weights after the sum."""
        assert neighborhood.representatives is not None
        n_atoms = features.shape[0]
        blocks = neighborhood.blocks
        moments = ElementMoments(blocks, neighborhood.elements_in_slots, n_atoms, weights[-1].shape[1])
        slots = neighborhood.basis_in_slots, neighborhood.harmonics_in_slots
        empty = features.new_empty((0, 0))
        (sums,) = summed(moments, Inputs(*slots, empty, empty), weights)
        lifted = self.linear_up(features.index_select(0, neighborhood.representatives)).squeeze(1)
        n_elements, width = lifted.shape[0], sums.shape[2]
        return blocks.unsort(self._down_by_element(sums.view(n_atoms, n_elements, -1, width), lifted))

    def _down_by_element(self, sums: Tensor, lifted: Tensor) -> Tensor:
        """Apply radial weights, senders' features (n_elements, n_channels) and :meth:`_down` at once.

        ``sums`` are ``(n_atoms, n_elements, (max_ell + 1)², width)`` of the last hidden layer.
        """
        n_atoms, n_elements, _, width = sums.shape
        n_channels = self.inputs.channels
        radial = self._last().view(width, -1, n_channels)
        parts = []
        for degree, weight in enumerate(self.linear_down):
            scale = 1.0 / (math.sqrt(weight.shape[0]) * self.avg_num_neighbors)
            mixed = (radial[:, degree] * lifted.unsqueeze(1)) @ (weight * scale)  # [z, a, d]
            block = sums[:, :, degree * degree : (degree + 1) ** 2].transpose(1, 2)
            rows = block.reshape(-1, n_elements * width) @ mixed.reshape(n_elements * width, n_channels)
            parts.append(rows.view(n_atoms, -1, n_channels))
        return torch.cat(parts, dim=1)

    def _by_pairs(self, features: Tensor, pairs: PairLayout) -> Tensor:
        """The same for compilers: one set of radial weights per pair, sums as loops over slots."""
        hidden = pairs.basis
        for scaled in self.radial.scaled_weights():
            hidden = nn.functional.silu(hidden @ scaled)
        harmonics = pairs.harmonics
        if self.inputs.degrees == (0,) and pairs.initial is not None:
            spread = (pairs.elements.unsqueeze(3) * harmonics.unsqueeze(2)).flatten(2)
            sums = torch.bmm(spread.transpose(1, 2), pairs.in_slots(hidden))
            lifted = self.linear_up(pairs.initial).squeeze(1)
            shape = (sums.shape[0], lifted.shape[0], -1, sums.shape[2])
            return self._down_by_element(sums.reshape(shape), lifted)
        n_channels = self.inputs.channels
        # [atom, slot, m2, path, m1, channel]
        gathered = pairs.of_senders(self.linear_up(features).flatten(1)).unflatten(2, (1, 1, -1, n_channels))
        radial = pairs.in_slots(hidden @ self._last()).unflatten(2, (1, -1, 1, n_channels))
        moments = []
        for group in self.groups:
            weights = radial[:, :, :, group.column : group.column + group.paths]
            part = gathered[:, :, :, :, group.component : group.component + group.size]
            angular = harmonics[:, :, group.angular, None, None, None]
            moments.append((weights * part * angular).sum(1).flatten(2))
        return self._down(self._coupled(moments))

    def _coupled(self, sums: Sequence[Tensor]) -> list[list[Tensor]]:
        """Return per message degree the messages of its paths, ``(n_atoms, 2l + 1, n_channels)`` each.

        ``sums`` are per group ``(n_atoms, 2 l2 + 1, paths · (2 l1 + 1) · n_channels)``.
        """
        found: dict[Path, Tensor] = {}
        for index, (group, moments) in enumerate(zip(self.groups, sums, strict=True)):
            paths = self._paths_of(group)
            coupling = getattr(self, f"coupling_{index}").to(moments.dtype)
            rows = moments.reshape(moments.shape[0], -1, self.inputs.channels)
            coupled = torch.matmul(coupling, rows).split([2 * l3 + 1 for _, _, l3 in paths], dim=1)
            found.update(zip(paths, coupled, strict=True))
        return [
            [found[path] for path in self.paths if path[2] == degree] for degree in range(self.max_ell + 1)
        ]

    def _plain_moments(self, features: Tensor, neighborhood: Neighborhood) -> list[Tensor]:
        """The sums of :class:`MessageMoments` by operations that any compiler can follow."""
        slots = neighborhood.slots
        n_atoms, width = slots.shape
        n_channels = self.inputs.channels
        sender = torch.cat([neighborhood.edge_index[0], torch.zeros_like(slots[:1, 0])])
        senders = nn.functional.embedding(slots, sender.unsqueeze(1)).squeeze(2)
        gathered = nn.functional.embedding(senders, features.reshape(n_atoms, -1))
        gathered = gathered.reshape(n_atoms, width, -1, n_channels)
        angular = nn.functional.embedding(slots, pad_row(neighborhood.harmonics)).transpose(1, 2)
        hidden = nn.functional.embedding(slots, pad_row(self.radial(neighborhood.radial_basis)))
        last = self.radial_out.index_select(1, self.columns) * self.radial_scale
        sums = []
        for group in self.groups:
            columns = last[:, group.column : group.column + group.paths]
            weights = (hidden @ columns.flatten(1)).reshape(n_atoms, width, group.paths, 1, n_channels)
            part = gathered[:, :, group.component : group.component + group.size].unsqueeze(2)
            messages = (weights * part).reshape(n_atoms, width, -1)
            sums.append(torch.bmm(angular[:, group.angular], messages))
        return sums

    def _reference_sum(self, features: Tensor, neighborhood: Neighborhood) -> list[list[Tensor]]:
        """The same by e3nn: a tensor product on every edge, then a sum over edges."""
        n_channels = self.inputs.channels
        slices = self.inputs.slices()
        flat = torch.cat(
            [features[:, slices[degree]].transpose(1, 2).flatten(1) for degree in self.inputs.degrees], dim=1
        )
        hidden = self.radial(neighborhood.radial_basis)
        weights = (hidden * self.radial_scale) @ self.radial_out.flatten(1)
        # propagate_type: (features: Tensor, harmonics: Tensor, weights: Tensor)
        summed = self.propagate(
            neighborhood.edge_index,
            features=flat,
            harmonics=neighborhood.harmonics,
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
