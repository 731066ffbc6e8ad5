"""The kernels of lsf in plain torch: block by block, derivatives written out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lsf.models.convolution import Messages, Neighborhood, Radial
from lsf.models.message_passing.compiled.executor import MessageSums
from lsf.models.message_passing.compiled.operator import neighbor_sums
from lsf.models.message_passing.compiled.radial import with_slopes
from lsf.models.message_passing.compiled.sums import SlopedInputs
from lsf.models.message_passing.native.autograd import Inputs, summed
from lsf.models.message_passing.native.grouped import GroupedKernel
from lsf.models.message_passing.native.sums import MessageMoments
from lsf.models.radial import SILU_SCALE


class NativeKernel(GroupedKernel):
    """Sums of :class:`lsf.models.message_passing.native.sums.MessageMoments`; differentiable to any order.

    In compiled code those of :class:`lsf.models.message_passing.compiled.executor.MessageSums`.
    """

    sums_by_element = True

    def forward(self, features: Tensor, neighborhood: Neighborhood, radial: Radial) -> Messages:
        """Return the messages of all atoms, sorted as blocks are."""
        sums = self._sums(features.flatten(1), neighborhood, radial)
        return Messages(self.coupled(sums), neighborhood.blocks.tables.place_of_atom)

    def _sums(self, features: Tensor, neighborhood: Neighborhood, radial: Radial) -> Sequence[Tensor]:
        blocks, n_channels = neighborhood.blocks, self.convolution.inputs.channels
        harmonics, last = neighborhood.harmonics_in_slots, self.last_weights(radial, SILU_SCALE)
        weights = radial.network.scaled_weights()
        if neighborhood.with_slopes:
            sums = MessageSums(blocks, self.groups, n_channels, keep=not self.recompute)
            basis, slopes, lengths = neighborhood.slopes_in_rows
            hidden = with_slopes(basis, slopes, weights)
            return neighbor_sums(sums, SlopedInputs(*hidden, lengths, harmonics, features, last))
        moments = MessageMoments(blocks, self.groups, n_channels)
        moments.keep = not self.recompute
        return summed(moments, Inputs(neighborhood.basis_in_rows, harmonics, features, last), weights)
