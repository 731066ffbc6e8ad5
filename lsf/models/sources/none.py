"""No sources: the plain short-range model."""

from __future__ import annotations

import torch

from lsf.models.setting import ModelSetting
from lsf.models.sources.base import SourceContext, SourceHead, Sources
from lsf.models.sources.oxidation import NoMixer
from lsf.options import NoOptions


class NoSource(SourceHead):
    """No charges at all: the null object of the plain short-range model."""

    def __init__(self, _options: NoOptions, _setting: ModelSetting) -> None:
        super().__init__()
        self.mixer = NoMixer()

    def forward(self, context: SourceContext) -> Sources:
        """Return a density of zeros."""
        n_atoms, device = context.graph.positions.shape[0], context.graph.positions.device
        density = torch.zeros((n_atoms, 1), dtype=torch.float64, device=device)
        return Sources(density, torch.zeros((context.n_graphs, 3), dtype=torch.float64, device=device))
