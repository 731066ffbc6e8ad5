"""Localized charge: the energy of an excess charge, or of unpaired electrons, at the atom where it is lowest.

In a charged molecule of high symmetry the charge may have several places to go. The ground state is then the
lowest of several surfaces that cross, and its energy has a cusp (Jahn-Teller effect, polarons), which no sum
of smooth atomic energies has. Each surface is smooth, so the network learns the surfaces. Two-state and
lowest-of-several models of this kind are those of empirical valence bonds: Warshel & Weiss,
doi:10.1021/ja00540a008.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Final

import torch
from torch import Tensor, nn

from lsf.models.charge_state_embedding import seen_numbers
from lsf.models.energies.base import EnergyContext, EnergyTerm
from lsf.models.radial import SILU_SCALE
from lsf.models.setting import ModelSetting
from lsf.models.sources.base import sum_over_graph
from lsf.options import NoOptions

WIDTH: Final = 64
"""Hidden scalars of the readout of an atom's energy."""


class LocalizedCharge(EnergyTerm):
    r"""A softened minimum over the atoms of a structure.

    .. math:: E = -\tau \ln \sum_i e^{-\varepsilon_i / \tau}, \qquad
              E_i = E \, e^{(E - \varepsilon_i) / \tau}

    with the energy ε_i of the charge at atom i, read from the scalars of all layers, and τ the ``width`` in
    eV. E_i is the share of atom i: energies of atoms add up to that of the structure. It is zero where the
    total charge and the number of unpaired electrons, as far as the model sees them, are zero: a minimum over
    two molecules is not the sum of their minima, so that the energy of neutral ones would depend on what else
    there is. ``scale`` multiplies energies as in :class:`lsf.models.energies.readout.EnergyReadout`;
    ``n_scalars`` counts those of all layers; the two flags say which numbers the model sees.
    """

    name: ClassVar[str] = "localized_charge"
    part: ClassVar[str | None] = "short_range"
    per_atom: ClassVar[bool] = True

    def __init__(
        self, n_scalars: int, width: float, scale: float, sees_charge: bool = True, sees_spin: bool = False
    ) -> None:
        super().__init__()
        self.sees_charge, self.sees_spin = sees_charge, sees_spin
        self.width = width
        self.scale = scale
        self.hidden = nn.Parameter(torch.randn(n_scalars, WIDTH))
        self.out = nn.Parameter(torch.randn(WIDTH))

    def forward(self, context: EnergyContext) -> Tensor:
        """Return the share of every atom, ``(n_atoms,)`` eV in float64."""
        graph = context.graph
        numbers = seen_numbers(graph.total_charge, graph.total_spin, self.sees_charge, self.sees_spin)
        return self.shares(context.features, graph.batch, numbers)

    def shares(self, features: list[Tensor], batch: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        """Return ``(n_atoms,)`` eV; ``numbers`` are charge or spin or both, ``(n_graphs,)`` each."""
        energies = self.energies(features)
        excess = torch.stack(list(numbers)).abs().sum(0)
        lowest = torch.full_like(excess, torch.inf).scatter_reduce(0, batch, energies.detach(), "amin")
        weights = torch.exp((lowest.index_select(0, batch) - energies) / self.width)
        sums = sum_over_graph(weights, batch, excess.shape[0])
        energy = lowest - self.width * torch.log(sums)
        shared = torch.where(excess > 0.0, energy / sums, torch.zeros_like(energy))
        return weights * shared.index_select(0, batch)

    def energies(self, features: list[Tensor]) -> Tensor:
        """Return the energy of the charge at every atom, ``(n_atoms,)`` eV in float64."""
        # differences far below the width decide where the charge sits: float32 would lose digits here
        scalars = torch.cat([layer[:, 0] for layer in features], dim=1).to(torch.float64)
        hidden = scalars @ (self.hidden.to(torch.float64) / math.sqrt(self.hidden.shape[0]))
        inner = nn.functional.silu(hidden)
        return inner @ self.out.to(torch.float64) * (self.scale * SILU_SCALE / math.sqrt(WIDTH))


def localized_charge(_options: NoOptions, setting: ModelSetting) -> LocalizedCharge:
    """Return the term of a model with a localization width."""
    options = setting.options
    assert options.localization_width is not None
    return LocalizedCharge(
        setting.hidden.channels * options.num_interactions,
        options.localization_width,
        setting.energy_scale,
        options.total_charge_embedding,
        options.total_spin_embedding,
    )
