"""The sums in one piece, by operations that any compiler can follow and any export can hold."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lsf.models.convolution import Messages, Neighborhood, Radial
from lsf.models.message_passing.native.grouped import GroupedKernel


class PlainKernel(GroupedKernel):
    """The sums of :class:`lsf.models.message_passing.native.sums.MessageMoments`, in the padded table of
    neighbours.
    """

    def forward(self, features: Tensor, neighborhood: Neighborhood, radial: Radial) -> Messages:
        """Return the messages of all atoms."""
        slots = neighborhood.slots
        n_atoms, width = slots.shape
        n_channels = self.convolution.inputs.channels
        sender = torch.cat([neighborhood.edge_index[0], torch.zeros_like(slots[:1, 0])])
        senders = nn.functional.embedding(slots, sender.unsqueeze(1)).squeeze(2)
        gathered = nn.functional.embedding(senders, features.reshape(n_atoms, -1))
        gathered = gathered.reshape(n_atoms, width, -1, n_channels)
        angular = nn.functional.embedding(slots, pad_row(neighborhood.harmonics)).transpose(1, 2)
        hidden = nn.functional.embedding(slots, pad_row(radial.network(neighborhood.radial_basis)))
        last = radial.out.index_select(1, self.columns) * radial.scale
        sums = []
        for group in self.groups:
            columns = last[:, group.column : group.column + group.paths]
            weights = (hidden @ columns.flatten(1)).reshape(n_atoms, width, group.paths, 1, n_channels)
            part = gathered[:, :, group.component : group.component + group.size].unsqueeze(2)
            messages = (weights * part).reshape(n_atoms, width, -1)
            sums.append(torch.bmm(angular[:, group.angular], messages))
        return Messages(self.coupled(sums))


def pad_row(values: Tensor) -> Tensor:
    """Return ``values`` with a row of zeros appended: what a padded neighbour slot points at."""
    # no branch on the number of rows: a traced model must serve structures without edges, too
    return torch.cat([values, values.new_zeros((1, *values.shape[1:]))])
