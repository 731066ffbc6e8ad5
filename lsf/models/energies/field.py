"""Energy of the model's polarization in a uniform external field."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from lsf.electrostatics.field import field_energy
from lsf.models.energies.base import EnergyContext, EnergyTerm
from lsf.models.setting import ModelSetting
from lsf.options import NoOptions


class FieldTerm(EnergyTerm):
    """``+ P · external_field``, see :func:`lsf.electrostatics.field.field_energy` for the sign."""

    name: ClassVar[str] = "field"
    per_atom: ClassVar[bool] = False

    def __init__(self, _options: NoOptions, _setting: ModelSetting) -> None:
        super().__init__()

    def forward(self, context: EnergyContext) -> Tensor:
        """Return ``(n_graphs,)`` eV."""
        return field_energy(context.sources.polarization, context.graph.external_field)
