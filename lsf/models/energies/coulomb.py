"""The Coulomb energy of the model's density, and its absence."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lsf.data.graph import coulomb_plan
from lsf.electrostatics.energy import coulomb_energy
from lsf.electrostatics.settings import Electrostatics
from lsf.models.energies.base import EnergyContext, EnergyTerm
from lsf.models.setting import ModelSetting
from lsf.options import NoOptions


class CoulombTerm(EnergyTerm):
    """Coulomb energy of the density, in float64 whatever the model's dtype.

    ``evaluate`` is :func:`lsf.electrostatics.energy.coulomb_energy`, or the same as one operation where
    compilers are not to look into it.
    """

    name: ClassVar[str] = "coulomb"
    per_atom: ClassVar[bool] = False

    def __init__(self, settings: Electrostatics) -> None:
        super().__init__()
        self.settings = settings
        self.evaluate = coulomb_energy

    def forward(self, context: EnergyContext) -> Tensor:
        """Return ``(n_graphs,)`` eV."""
        graph = context.graph
        return self.evaluate(
            context.sources.density,
            graph.positions,
            graph.cell,
            graph.batch,
            coulomb_plan(graph),
            self.settings,
        )


class NoCoulomb(EnergyTerm):
    """No Coulomb energy: the null object of the plain short-range model."""

    name: ClassVar[str] = "coulomb"
    per_atom: ClassVar[bool] = False

    def forward(self, context: EnergyContext) -> Tensor:
        """Return zeros, ``(n_graphs,)``."""
        device = context.sources.density.device
        return torch.zeros((context.n_graphs,), dtype=torch.float64, device=device)


def coulomb(_options: NoOptions, setting: ModelSetting) -> CoulombTerm:
    """Return the term with the recipe's electrostatics."""
    return CoulombTerm(setting.electrostatics)
