"""The formula itself, in float64: the executor that all others must equal."""

from __future__ import annotations

from torch import Tensor

from lsf.models.convolution import Convolution, ConvolutionPaths, RadialWeights
from lsf.models.message_passing.executors import Executor, Messages
from lsf.models.message_passing.neighborhood import Neighborhood


class ReferenceExecutor(Executor):
    """:class:`lsf.models.convolution.Convolution` as it stands, whatever the model's type of numbers.

    Its name in recipes is "e3nn", whose tensor product it is: tests compare the two.
    """

    def __init__(self, convolution: ConvolutionPaths) -> None:
        super().__init__(convolution)
        self.formula = Convolution(convolution)

    def forward(self, features: Tensor, neighborhood: Neighborhood, radial: RadialWeights) -> Messages:
        """Return the messages of all atoms."""
        edges = neighborhood.edges
        weights = radial.of_edges(edges.radial_basis).unflatten(1, radial.out.shape[1:])
        messages = self.formula(
            features.double(), edges.edge_index, edges.harmonics.double(), weights.double()
        )
        return self.of_rows(messages.to(features.dtype))
