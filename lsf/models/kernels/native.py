"""The kernels of lsf in plain torch: block by block, derivatives written out."""

from __future__ import annotations

from torch import Tensor

from lsf.models.compiled_blocks import message_moments
from lsf.models.convolution import Messages, Neighborhood, Radial
from lsf.models.kernels.grouped import GroupedKernel
from lsf.models.moments import Inputs
from lsf.models.opaque_sums import neighbor_sums
from lsf.models.radial import SILU_SCALE


class NativeKernel(GroupedKernel):
    """Sums of :class:`lsf.models.neighbor_sums.MessageMoments`; differentiable to any order."""

    sums_by_element = True

    def forward(self, features: Tensor, neighborhood: Neighborhood, radial: Radial) -> Messages:
        """Return the messages of all atoms, sorted as blocks are."""
        blocks = neighborhood.blocks
        moments = message_moments(blocks, self.groups, self.convolution.inputs.channels)
        moments.keep = not self.recompute
        edges = neighborhood.basis_in_rows, neighborhood.harmonics_in_slots
        inputs = Inputs(*edges, features.flatten(1), self.last_weights(radial, SILU_SCALE))
        sums = neighbor_sums(moments, inputs, radial.network.scaled_weights())
        return Messages(self.coupled(sums), blocks.tables.place_of_atom)
