r"""What is computed on a block of edges, as functions of tensors: what compilers are given.

They say what is computed but not how, loops over e, p, m1, m2 and c as in
:mod:`lsf.models.message_passing.native.sums`, of which these are the formulas with one change: a tangent or
gradient of the radial weights R goes through the length of the edge, ``dR = R' dr``. Arguments (A atoms, W
slots each):

=========  ==============================================  ==========================================
name       shape                                           what it is
=========  ==============================================  ==========================================
radial     (A, W, n_paths · n_channels)                    radial weights of all paths
slopes     (A, W, n_paths · n_channels)                    R', their derivatives w.r.t. the length
y          (A, W, (max_ell + 1)²)                          harmonics
features   (n_atoms, n_components · n_channels)            of all atoms
senders    (A, W) int64                                    whose features a slot takes
dlengths   (A, W)                                          dr, tangents of the lengths
grad       per group (A, 2 l2 + 1, paths · (2 l1 + 1) · n_channels)
=========  ==============================================  ==========================================

Names that begin with ``d`` are tangents, or, of ``grad``, cotangents of the sums themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lsf.models.message_passing.native.groups import Group

BlockFunction = Callable[..., tuple[Tensor, ...]]


class BlockFunctions:
    """The functions for some groups of paths."""

    def __init__(self, groups: Sequence[Group], n_channels: int) -> None:
        self.groups, self.n_channels = groups, n_channels

    def sum_shape(self, group: Group) -> tuple[int, int]:
        """Return the shape of a group's sum of one atom."""
        return 2 * group.l2 + 1, group.paths * group.size * self.n_channels

    def forward(self, radial: Tensor, y: Tensor, features: Tensor, senders: Tensor) -> tuple[Tensor, ...]:
        """Return the sums per group."""
        r, h = self._by_path(radial), self._gathered(features, senders)
        return tuple(
            self._summed([(y, self._of_radial(r, group) * self._of_features(h, group))], group)
            for group in self.groups
        )

    def backward(
        self,
        radial: Tensor,
        slopes: Tensor,
        y: Tensor,
        features: Tensor,
        senders: Tensor,
        *grad: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return gradients of gathered features (A, W, n), lengths (A, W) and harmonics."""
        all_r, all_s = self._by_path(radial), self._by_path(slopes)
        h = self._gathered(features, senders)
        by_features, by_lengths, by_y = _Columns(h.shape[3]), [], _Columns(y.shape[2])
        for group, g in zip(self.groups, grad, strict=True):
            r, s = self._of_radial(all_r, group), self._of_radial(all_s, group)
            f, by_sum = self._of_features(h, group), self._by_sum(group, g)
            u = self._messages(group, y, by_sum)  # Σ_m2 y g [e, p, m1, c], the gradient of R h
            # ∂/∂h[e, m1, c] = Σ_p u R;   ∂/∂r[e] = Σ_{p m1 c} u h R';   ∂/∂Y[e, m2] = Σ_{p m1 c} R h g
            by_features.add(group.component, (u * r).sum(2))
            by_lengths.append((u * f * s).sum((2, 3, 4)))
            by_y.add(group.angular.start, ((r * f).unsqueeze(2) * by_sum).sum((3, 4, 5)))
        return by_features.joined().flatten(2), sum(by_lengths[1:], by_lengths[0]), by_y.joined()

    def tangents(
        self,
        radial: Tensor,
        slopes: Tensor,
        y: Tensor,
        features: Tensor,
        senders: Tensor,
        dlengths: Tensor,
        dy: Tensor,
        dfeatures: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the tangents of the sums per group."""
        all_r, all_dr = self._by_path(radial), self._moved(slopes, dlengths)
        h, dh = self._gathered(features, senders), self._gathered(dfeatures, senders)
        found = []
        for group in self.groups:
            r, dr = self._of_radial(all_r, group), self._of_radial(all_dr, group)
            f, df = self._of_features(h, group), self._of_features(dh, group)
            # Σ_e dy (R h) + y (dR h + R dh)
            found.append(self._summed([(dy, r * f), (y, dr * f + r * df)], group))
        return tuple(found)

    def second(
        self,
        radial: Tensor,
        slopes: Tensor,
        y: Tensor,
        features: Tensor,
        senders: Tensor,
        dlengths: Tensor,
        dy: Tensor,
        dfeatures: Tensor,
        *grads: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return gradients of ``<grad, tangents of the sums> + <dgrad, sums>``.

        Arguments are those of :meth:`tangents`, and then ``grad`` and ``dgrad`` of all groups. Results are
        gradients of gathered features, and those of radial weights and of slopes side by side.
        """
        all_r, all_dr = self._by_path(radial), self._moved(slopes, dlengths)
        h, dh = self._gathered(features, senders), self._gathered(dfeatures, senders)
        by_radial, by_slopes, by_features = [], [], _Columns(h.shape[3])
        n_groups, moved = len(self.groups), dlengths[:, :, None, None]
        for group, g, dg in zip(self.groups, grads[:n_groups], grads[n_groups:], strict=True):
            r, dr = self._of_radial(all_r, group), self._of_radial(all_dr, group)
            f, df = self._of_features(h, group), self._of_features(dh, group)
            by_tangents, by_sum = self._by_sum(group, g), self._by_sum(group, dg)
            # u = Σ_m2 y g, the gradient of dR h + R dh;   w = Σ_m2 dy g + y dg, that of R h
            u = self._messages(group, y, by_tangents)
            w = self._messages(group, dy, by_tangents) + self._messages(group, y, by_sum)
            # ∂/∂h = Σ_p u dR + w R;   ∂/∂R = Σ_m1 u dh + w h;   ∂/∂R' = dr Σ_m1 u h
            by_features.add(group.component, (u * dr + w * r).sum(2))
            by_radial.append((u * df + w * f).sum(3))
            by_slopes.append((u * f).sum(3) * moved)
        return by_features.joined().flatten(2), torch.cat([*by_radial, *by_slopes], 2).flatten(2)

    def _by_path(self, radial: Tensor) -> Tensor:
        """Return ``(A, W, n_paths, 1, n_channels)``."""
        return radial.view(*radial.shape[:2], -1, 1, self.n_channels)

    def _moved(self, slopes: Tensor, lengths: Tensor) -> Tensor:
        """Return the tangents of the radial weights, ``(A, W, n_paths, 1, n_channels)``."""
        return self._by_path(slopes) * lengths[:, :, None, None, None]

    def _gathered(self, features: Tensor, senders: Tensor) -> Tensor:
        """Return ``(A, W, 1, n_components, n_channels)``."""
        rows = nn.functional.embedding(senders, features)
        return rows.view(*senders.shape, 1, -1, self.n_channels)

    def _of_radial(self, radial: Tensor, group: Group) -> Tensor:
        return radial[:, :, group.column : group.column + group.paths]

    def _of_features(self, gathered: Tensor, group: Group) -> Tensor:
        return gathered[:, :, :, group.component : group.component + group.size]

    def _by_sum(self, group: Group, grad: Tensor) -> Tensor:
        """Return ``(A, 1, 2 l2 + 1, paths, 2 l1 + 1, n_channels)``."""
        return grad.view(-1, 1, grad.shape[1], group.paths, group.size, self.n_channels)

    def _summed(self, terms: Sequence[tuple[Tensor, Tensor]], group: Group) -> Tensor:
        """Return ``Σ_slots Σ_terms y · message``."""
        found = [y[:, :, group.angular, None, None, None] * message.unsqueeze(2) for y, message in terms]
        return sum(found[1:], found[0]).sum(1).flatten(2)

    def _messages(self, group: Group, y: Tensor, by_sum: Tensor) -> Tensor:
        """Return ``Σ_m2 y grad``, ``(A, W, paths, 2 l1 + 1, n_channels)``."""
        return (y[:, :, group.angular, None, None, None] * by_sum).sum(2)


class _Columns:
    """Sums ``(A, W, n, …)`` of slices of their third axis; zero where nothing is added."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._found: dict[int, Tensor] = {}

    def add(self, start: int, value: Tensor) -> None:
        """Add to the columns from ``start`` on."""
        self._found[start] = self._found[start] + value if start in self._found else value

    def joined(self) -> Tensor:
        """Return all columns."""
        parts, end = [], 0
        like = next(iter(self._found.values()))
        for start, value in [*sorted(self._found.items()), (self._size, None)]:
            if start > end:
                parts.append(like.new_zeros((*like.shape[:2], start - end, *like.shape[3:])))
            if value is not None:
                parts.append(value)
                end = start + value.shape[2]
        return torch.cat(parts, 2)
