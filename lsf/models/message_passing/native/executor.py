"""The executor of lsf in plain torch: block by block of receivers, derivatives written out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lsf.models.convolution import RadialWeights
from lsf.models.message_passing.compiled.executor import CompiledMessageSum
from lsf.models.message_passing.compiled.operator import compiled_neighbor_sum
from lsf.models.message_passing.compiled.radial import hidden_with_derivative
from lsf.models.message_passing.compiled.sums import CompiledInputs
from lsf.models.message_passing.executors import Messages
from lsf.models.message_passing.native.autograd import neighbor_sum
from lsf.models.message_passing.native.blockwise import Inputs
from lsf.models.message_passing.native.grouped import GroupedExecutor
from lsf.models.message_passing.native.sums import MessageSum
from lsf.models.message_passing.neighborhood import Neighborhood
from lsf.models.radial import SILU_SCALE


class NativeExecutor(GroupedExecutor):
    """Sums of :class:`lsf.models.message_passing.native.sums.MessageSum`; differentiable to any order.

    Where edges come with derivatives of the radial basis, as for compiled code, those of
    :class:`lsf.models.message_passing.compiled.executor.CompiledMessageSum`.
    """

    sums_by_element = True

    def forward(self, features: Tensor, neighborhood: Neighborhood, radial: RadialWeights) -> Messages:
        """Return the messages of all atoms, sorted as blocks are."""
        sums = self._sums(features.flatten(1), neighborhood, radial)
        return Messages(self.coupled(sums), neighborhood.blocks.tables.place_of_atom)

    def _sums(self, features: Tensor, neighborhood: Neighborhood, radial: RadialWeights) -> Sequence[Tensor]:
        blocks, n_channels = neighborhood.blocks, self.convolution.inputs.channels
        harmonics, last = neighborhood.harmonics_in_slots, self.last_weights(radial, SILU_SCALE)
        weights = radial.network.scaled_weights()
        rows = neighborhood.radial_rows
        if rows is not None:
            hidden = hidden_with_derivative(rows.basis, rows.derivative, weights)
            given = CompiledInputs(*hidden, rows.lengths, harmonics, features, last)
            compiled_sum = CompiledMessageSum(blocks, self.groups, n_channels, keep=not self.recompute)
            return compiled_neighbor_sum(compiled_sum, given)
        inputs = Inputs(neighborhood.basis_in_rows, harmonics, features, last)
        message_sum = MessageSum(blocks, self.groups, n_channels, keep=not self.recompute)
        return neighbor_sum(message_sum, [*inputs, *weights])
