"""Multipoles read directly from the features of each atom."""

from __future__ import annotations

from lsf.models.setting import ModelSetting
from lsf.models.sources.base import MultipoleReadout, SourceContext, SourceHead, Sources, polarization
from lsf.models.sources.oxidation import NoMixer
from lsf.options import NoOptions


class LocalSource(SourceHead):
    """Multipoles read from the features; ``P = Σ q_i r_i + Σ p_i`` on the positions as given."""

    def __init__(self, _options: NoOptions, setting: ModelSetting) -> None:
        super().__init__()
        self.mixer = NoMixer()
        degrees = tuple(range(setting.electrostatics.multipoles_max_l + 1))
        self.multipoles = MultipoleReadout(setting.layers, degrees)

    def forward(self, context: SourceContext) -> Sources:
        """Return learned multipoles of every degree."""
        density = self.multipoles(context.features)
        return Sources(density, polarization(density[:, 0], density, context.graph))
