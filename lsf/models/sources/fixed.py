"""Formal charges as they are given: the electrostatics of ions that the network need not learn."""

from __future__ import annotations

from torch import nn

from lsf.models.setting import ModelSetting
from lsf.models.sources.base import SourceContext, SourceHead, Sources, polarization
from lsf.models.sources.oxidation import NoMixer
from lsf.options import NoOptions


class FixedSource(SourceHead):
    """Monopoles that are the formal charges; ``P = Σ q_i⁰ r_i``."""

    def __init__(self, _options: NoOptions, setting: ModelSetting) -> None:
        super().__init__()
        self.mixer = NoMixer()
        self.n_higher = (setting.electrostatics.multipoles_max_l + 1) ** 2 - 1

    def forward(self, context: SourceContext) -> Sources:
        """Return the formal charges as density; higher multipoles are zero."""
        charges = context.graph.formal_charges
        density = nn.functional.pad(charges.unsqueeze(1), (0, self.n_higher))
        return Sources(density, polarization(charges, density, context.graph))
