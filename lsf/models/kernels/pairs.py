"""The sums in the layout of pairs: for compilers, one set of radial weights per pair, loops over slots."""

from __future__ import annotations

from torch import Tensor, nn

from lsf.models.convolution import Radial
from lsf.models.kernels.grouped import GroupedKernel
from lsf.models.pair_layout import PairLayout
from lsf.models.radial import SILU_SCALE


def hidden_of_pairs(pairs: PairLayout, radial: Radial) -> Tensor:
    """Return the last hidden layer of every pair, ``(n_pairs + 1, width)``, but for its scale."""
    hidden = pairs.basis
    for scaled in radial.network.scaled_weights():
        hidden = nn.functional.silu(hidden @ scaled)
    return hidden


def messages_of_pairs(
    grouped: GroupedKernel, features: Tensor, pairs: PairLayout, radial: Radial
) -> list[list[Tensor]]:
    """Return the messages by degree; ``grouped`` holds the groups of paths and how they are coupled."""
    n_channels = features.shape[2]
    # [atom, slot, m2, path, m1, channel]
    gathered = pairs.of_senders(features.flatten(1)).unflatten(2, (1, 1, -1, n_channels))
    weights_of_pairs = hidden_of_pairs(pairs, radial) @ grouped.last_weights(radial, SILU_SCALE)
    in_slots = pairs.in_slots(weights_of_pairs).unflatten(2, (1, -1, 1, n_channels))
    moments = []
    for group in grouped.groups:
        weights = in_slots[:, :, :, group.column : group.column + group.paths]
        part = gathered[:, :, :, :, group.component : group.component + group.size]
        angular = pairs.harmonics[:, :, group.angular, None, None, None]
        moments.append((weights * part * angular).sum(1).flatten(2))
    return grouped.coupled(moments)
