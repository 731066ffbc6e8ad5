"""Energies of the free atoms: what the network learns energies relative to."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from lsf.models.energies.base import EnergyContext, EnergyTerm
from lsf.models.setting import ModelSetting
from lsf.options import NoOptions


class AtomicEnergy(EnergyTerm):
    """``E0`` of every atom's element, from the data; it does not depend on positions."""

    name: ClassVar[str] = "atomic"
    per_atom: ClassVar[bool] = True

    def __init__(self, _options: NoOptions, _setting: ModelSetting) -> None:
        super().__init__()

    def forward(self, context: EnergyContext) -> Tensor:
        """Return ``(n_atoms,)`` eV."""
        return context.atomic_energies
