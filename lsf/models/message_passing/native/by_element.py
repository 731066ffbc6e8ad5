r"""A first layer summed by element: radial weights, senders' features and mixing applied after the sum.

Where the features of a sender depend on its element z alone, they leave the sum over neighbours, and with
them the last radial weights W, which do not see the edge either:

.. math:: A_{i,lm,d} = \frac{1}{\bar n} \sum_{z a} \Bigl[\sum_c W_{l,ac}\, h_{z,c}\, L_{l,cd}\Bigr]
    \underbrace{\sum_j \delta_{z z_j} Y_{lm}(\hat r_{ij})\, H_a(r_{ij})}_{D_{i,z,lm,a}}

with H the last hidden layer of the radial network and L the mixing of channels. D has as many columns as
there are elements times hidden units, which are few. Batatia et al., arXiv:2206.07697, eqs. (8) and (9), for
scalar features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lsf.models.convolution import RadialWeights
from lsf.models.message_passing.compiled.operator import compiled_neighbor_sum
from lsf.models.message_passing.compiled.radial import hidden_with_derivative
from lsf.models.message_passing.compiled.sums import CompiledElementSum, CompiledInputs
from lsf.models.message_passing.native.autograd import neighbor_sum
from lsf.models.message_passing.native.blockwise import Inputs
from lsf.models.message_passing.native.sums import ElementSum
from lsf.models.message_passing.neighborhood import ElementFeatures, Neighborhood
from lsf.models.radial import SILU_SCALE


def basis_by_element(
    initial: ElementFeatures,
    neighborhood: Neighborhood,
    radial: RadialWeights,
    mixing: Sequence[Tensor],
    keep: bool,
) -> Tensor:
    """Return the atomic basis ``(n_atoms, (max_ell + 1)², n_channels)``.

    ``initial`` are features after the layer's first linear map, ``mixing`` is (n_channels, n_channels) per
    degree, all scales inside. With ``keep`` backward passes need not compute hidden layers again.
    """
    elements = _elements_in_slots(initial, neighborhood)
    sums = _element_sums(elements, neighborhood, radial, keep)
    n_atoms, width = neighborhood.n_atoms, sums.shape[2]
    n_elements, _, n_channels = initial.features.shape
    by_element = sums.view(n_atoms, n_elements, -1, width)  # D [i, z, lm, a], but for the scale of silu
    features = initial.features.squeeze(1)
    weights = radial.out * (radial.scale * SILU_SCALE)  # W [a, l, c]: one path per degree
    parts = []
    for degree, mixed in enumerate(mixing):
        joined = (weights[:, degree] * features.unsqueeze(1)) @ mixed  # [z, a, d]
        block = by_element[:, :, degree * degree : (degree + 1) ** 2].transpose(1, 2)
        rows = block.reshape(-1, n_elements * width) @ joined.reshape(n_elements * width, n_channels)
        parts.append(rows.view(n_atoms, -1, n_channels))
    return neighborhood.blocks.unsort(torch.cat(parts, dim=1))


def _element_sums(elements: Tensor, neighborhood: Neighborhood, radial: RadialWeights, keep: bool) -> Tensor:
    """Return D of sorted atoms, ``(n_atoms, n_elements · (max_ell + 1)², width)``."""
    weights = radial.network.scaled_weights()
    blocks, n_atoms = neighborhood.blocks, neighborhood.n_atoms
    harmonics, empty = neighborhood.harmonics_in_slots, elements.new_empty((0, 0))
    rows = neighborhood.radial_rows
    if rows is not None:
        hidden = hidden_with_derivative(rows.basis, rows.derivative, weights)
        given = CompiledInputs(*hidden, rows.lengths, harmonics, empty, empty)
        (sums,) = compiled_neighbor_sum(CompiledElementSum(blocks, elements, n_atoms), given)
        return sums
    inputs = Inputs(neighborhood.basis_in_rows, harmonics, empty, empty)
    element_sum = ElementSum(blocks, elements, n_atoms, weights[-1].shape[1], keep)
    (sums,) = neighbor_sum(element_sum, [*inputs, *weights])
    return sums


def _elements_in_slots(initial: ElementFeatures, neighborhood: Neighborhood) -> Tensor:
    """Return ones and zeros, ``(n_edge_slots, n_elements)``: the element of every sender."""
    of_sender = initial.element.index_select(0, neighborhood.blocks.tables.sender_of_slot)
    every = torch.arange(initial.features.shape[0], device=of_sender.device)
    return (of_sender.unsqueeze(1) == every).to(neighborhood.edges.harmonics.dtype)
