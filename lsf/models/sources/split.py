"""Formal charges, and charge that moves along edges: the total is exact whatever the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from lsf.models.irreps import Irreps
from lsf.models.options import LocalSplitChargesOptions
from lsf.models.setting import ModelSetting
from lsf.models.sources.base import (
    MultipoleReadout,
    SourceContext,
    SourceHead,
    Sources,
    polarization,
    sum_over_graph,
)
from lsf.models.sources.oxidation import (
    Mixer,
    NoMixer,
    OxidationDependentTransfer,
    ProductMixer,
    SumMixer,
    SymmetricTransfer,
)

SYMMETRIC_WIDTH: Final = 64
OXIDATION_WIDTH: Final = 32

MIXERS: Final[dict[str, Callable[[int, tuple[float, float]], Mixer]]] = {
    "none": lambda _channels, _bounds: NoMixer(),
    "sum": SumMixer,
    "product": ProductMixer,
}


class NoHigherMultipoles(nn.Module):
    """Monopoles alone: the null object of the readout of dipoles and quadrupoles."""

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return ``(n_atoms, 0)`` in float64."""
        return features[0].new_zeros((features[0].shape[0], 0), dtype=torch.float64)


class SplitSource(SourceHead):
    r"""Formal charges plus transfer along edges.

    .. math::
        q_i = q_i^0 + \sum_{e \to i} p_e - \sum_{i \to e} p_e, \qquad
        P = \sum_i q_i^0 r_i + \sum_e p_e r_e + \sum_i p_i

    What leaves one atom arrives at another, so the total charge is Σ q⁰ whatever the weights, and
    moving an atom by a lattice vector a changes P by exactly q⁰ a.
    """

    def __init__(self, options: LocalSplitChargesOptions, setting: ModelSetting) -> None:
        super().__init__()
        bounds = (options.oxidation_range[0], options.oxidation_range[1])
        higher = tuple(range(1, setting.electrostatics.multipoles_max_l + 1))
        # weights are drawn in this order, which is part of what a seed means
        transfers = nn.ModuleList(_transfer(options, layer, bounds) for layer in setting.layers)
        multipoles = MultipoleReadout(setting.layers, higher) if higher else NoHigherMultipoles()
        mixer = MIXERS[options.oxidation_mixer](setting.hidden.channels, bounds)
        # and stand in this one in checkpoints
        self.mixer, self.transfers, self.multipoles = mixer, transfers, multipoles

    def forward(self, context: SourceContext) -> Sources:
        """Return formal charges shifted by the transfers, and learned dipoles."""
        edges, graph = context.edges, context.graph
        formal = graph.formal_charges
        sender, receiver = edges.edge_index[0], edges.edge_index[1]
        moved = torch.zeros((edges.vectors.shape[0],), dtype=torch.float64, device=formal.device)
        seen = []
        for transfer, layer in zip(self.transfers, context.features, strict=True):
            amount, dressed = transfer(layer, edges, formal)
            moved = moved + amount.to(torch.float64)
            seen.append(dressed)
        charges = formal.index_add(0, receiver, moved).index_add(0, sender, -moved)
        density = torch.cat([charges.unsqueeze(1), self.multipoles(seen)], dim=1)
        # the formal charges stay where their atoms are; what moved along an edge moved by its vector
        bound = polarization(formal, density, graph)
        flow = moved.unsqueeze(1) * edges.vectors
        return Sources(
            density, bound + sum_over_graph(flow, graph.batch.index_select(0, receiver), context.n_graphs)
        )


def _transfer(options: LocalSplitChargesOptions, layer: Irreps, bounds: tuple[float, float]) -> nn.Module:
    if options.transfer == "oxidation_dependent":
        return OxidationDependentTransfer(layer, options.num_radial, options.max_ell, OXIDATION_WIDTH, bounds)
    return SymmetricTransfer(layer, options.num_radial, options.max_ell, SYMMETRIC_WIDTH)
