"""Paths that share a sum over neighbours: those of one feature degree l1 and one harmonic degree l2.

Clebsch–Gordan coupling is linear and does not see the edge. What has to be summed per pair (l1, l2) is
therefore the product before coupling, ``R_p h_m1 Y_m2`` for all components m1, m2; coupling to the message
degrees l3 is done on the atoms afterwards (:mod:`lsf.models.message_passing.native.grouped`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor


class Group(NamedTuple):
    """All paths of one feature degree l1 and one harmonic degree l2."""

    l1: int
    l2: int
    paths: int  # number of message degrees
    column: int  # of the first path among the radial weights
    component: int  # of the first one of l1 among the features

    @property
    def size(self) -> int:
        """Components of the feature degree."""
        return 2 * self.l1 + 1

    @property
    def angular(self) -> slice:
        """Columns of the harmonics."""
        return slice(self.l2 * self.l2, (self.l2 + 1) ** 2)


def uncoupled_sums(
    groups: Sequence[Group],
    hidden: Tensor,
    last: Tensor,
    features: Tensor,
    harmonics: Tensor,
    summed: Callable[[Tensor, Tensor], Tensor],
) -> list[Tensor]:
    """Return ``B_i[m2, (path, m1, c)] = Σ_e Y_e,m2 (H_e W)_path,c h_e,m1,c`` of every group.

    By operations that any compiler follows and autograd differentiates. The edges of an atom may stand in any
    table, whose shape is ``…`` below; ``summed(Y, message)`` sums the products of its columns over them.

    Parameters
    ----------
    hidden : (…, width), H
    last : (width, n_paths, n_channels), W, paths group by group
    features : (…, n_components, n_channels), h of the senders
    harmonics : (…, (max_ell + 1)²), Y
    """
    results = []
    for group in groups:
        columns = last[:, group.column : group.column + group.paths]
        radial = (hidden @ columns.flatten(1)).unflatten(-1, (group.paths, 1, last.shape[2]))
        sender = features[..., group.component : group.component + group.size, :].unsqueeze(-3)
        message = (radial * sender).flatten(-3)
        results.append(summed(harmonics[..., group.angular], message))
    return results
