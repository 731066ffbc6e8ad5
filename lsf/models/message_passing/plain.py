"""The sums in one piece, by operations that any compiler can follow and any export can hold."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lsf.models.convolution import RadialWeights
from lsf.models.message_passing.executors import Messages
from lsf.models.message_passing.native.grouped import GroupedExecutor
from lsf.models.message_passing.native.groups import uncoupled_sums
from lsf.models.message_passing.neighborhood import Neighborhood


class PlainExecutor(GroupedExecutor):
    """:func:`lsf.models.message_passing.native.groups.uncoupled_sums` in the padded table of neighbours."""

    def forward(self, features: Tensor, neighborhood: Neighborhood, radial: RadialWeights) -> Messages:
        """Return the messages of all atoms."""
        edges, slots = neighborhood.edges, neighborhood.slots
        n_atoms, width = slots.shape
        sender = torch.cat([edges.edge_index[0], torch.zeros_like(slots[:1, 0])])
        senders = nn.functional.embedding(slots, sender.unsqueeze(1)).squeeze(2)
        gathered = nn.functional.embedding(senders, features.reshape(n_atoms, -1))
        gathered = gathered.reshape(n_atoms, width, -1, self.convolution.inputs.channels)
        harmonics = nn.functional.embedding(slots, pad_row(edges.harmonics))
        hidden = nn.functional.embedding(slots, pad_row(radial.network(edges.radial_basis)))
        last = radial.out.index_select(1, self.columns) * radial.scale
        sums = uncoupled_sums(self.groups, hidden, last, gathered, harmonics, _over_slots)
        return Messages(self.coupled(sums))


def _over_slots(harmonics: Tensor, message: Tensor) -> Tensor:
    """Return ``Σ_slots``, ``(n_atoms, n, m)`` of ``(n_atoms, n_slots, n or m)``."""
    return torch.bmm(harmonics.transpose(1, 2), message)


def pad_row(values: Tensor) -> Tensor:
    """Return ``values`` with a row of zeros appended: what a padded neighbour slot points at."""
    # no branch on the number of rows: a traced model must serve structures without edges, too
    return torch.cat([values, values.new_zeros((1, *values.shape[1:]))])
