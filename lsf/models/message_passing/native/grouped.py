"""Clebsch–Gordan coupling on the atoms, after the sum over neighbours.

Paths of one feature degree l1 and one harmonic degree l2 share a sum
(:mod:`lsf.models.message_passing.native.groups`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lsf.models.convolution import ConvolutionPaths, Path, RadialWeights
from lsf.models.couplings import wigner_3j
from lsf.models.irreps import Irreps
from lsf.models.message_passing.executors import Executor
from lsf.models.message_passing.native.groups import Group


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


class GroupedExecutor(Executor):
    """Executors that sum group by group and couple on the atoms."""

    columns: Tensor

    def __init__(self, convolution: ConvolutionPaths) -> None:
        super().__init__(convolution)
        paths = convolution.paths
        self.groups = path_groups(paths, convolution.inputs)
        # columns of the radial weights group by group, which is not the order they are stored in
        order = [paths.index(path) for group in self.groups for path in self._paths_of(group)]
        self.register_buffer("columns", torch.tensor(order), persistent=False)
        for index, group in enumerate(self.groups):
            coupling = coupling_matrix(self._paths_of(group))
            self.register_buffer(f"coupling_{index}", coupling, persistent=False)

    def _paths_of(self, group: Group) -> tuple[Path, ...]:
        return tuple(path for path in self.convolution.paths if path[:2] == (group.l1, group.l2))

    def last_weights(self, radial: RadialWeights, scale: float = 1.0) -> Tensor:
        """Return the last weights ``(width, n_paths · n_channels)``, group by group, times ``scale``."""
        return radial.out.index_select(1, self.columns).flatten(1) * (radial.scale * scale)

    def coupled(self, sums: Sequence[Tensor]) -> list[list[Tensor]]:
        """Return per message degree the messages of its paths, ``(n_atoms, 2l + 1, n_channels)`` each.

        ``sums`` are per group ``(n_atoms, 2 l2 + 1, paths · (2 l1 + 1) · n_channels)``.
        """
        found: dict[Path, Tensor] = {}
        for index, (group, uncoupled) in enumerate(zip(self.groups, sums, strict=True)):
            paths = self._paths_of(group)
            coupling = getattr(self, f"coupling_{index}").to(uncoupled.dtype)
            rows = uncoupled.reshape(uncoupled.shape[0], -1, self.convolution.inputs.channels)
            coupled = torch.matmul(coupling, rows).split([2 * l3 + 1 for _, _, l3 in paths], dim=1)
            found.update(zip(paths, coupled, strict=True))
        return self.sorted_by_degree([found[path] for path in self.convolution.paths])
