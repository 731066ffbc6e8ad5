"""Equivariant linear maps on features of shape ``(n_atoms, n_components, n_channels)``."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lsf.models.irreps import Irreps


class EquivariantLinear(nn.Module):
    """One matrix per degree, mixing channels only.

    Degrees that ``inputs`` lacks are absent from the output: the caller's options are checked so
    that nothing needed is silently zero.
    """

    def __init__(self, inputs: Irreps, channels_out: int, degrees: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.degrees = inputs.degrees if degrees is None else degrees
        self.slices = inputs.slices()
        self.scale = 1.0 / math.sqrt(inputs.channels)
        self.weight = nn.Parameter(torch.randn(len(self.degrees), inputs.channels, channels_out))

    def forward(self, features: Tensor) -> Tensor:
        """Return ``(n_atoms, Σ (2l + 1), channels_out)``."""
        blocks = [
            features[:, self.slices[degree]] @ (self.weight[index] * self.scale)
            for index, degree in enumerate(self.degrees)
        ]
        return torch.cat(blocks, dim=1)


class SpeciesLinear(nn.Module):
    """One matrix per degree and species: the species-dependent skip connection of MACE.

    Works on features grouped by species, ``(n_present, n_slots, n_components, n_channels)``.
    """

    def __init__(self, inputs: Irreps, outputs: Irreps, n_species: int) -> None:
        super().__init__()
        self.degrees = tuple(degree for degree in outputs.degrees if degree in inputs.degrees)
        self.output_degrees = outputs.degrees
        self.slices = inputs.slices()
        self.scale = 1.0 / math.sqrt(inputs.channels)
        self.weight = nn.Parameter(
            torch.randn(n_species, len(self.degrees), inputs.channels, outputs.channels)
        )

    def forward(self, grouped: Tensor, present_species: Tensor) -> Tensor:
        """Return ``(n_present, n_slots, n_components_out, channels_out)``; absent degrees are zero."""
        weight = self.weight.index_select(0, present_species) * self.scale
        n_present, n_slots = grouped.shape[:2]
        blocks = []
        for degree in self.output_degrees:
            size = 2 * degree + 1
            if degree in self.degrees:
                block = grouped[:, :, self.slices[degree]].reshape(n_present, n_slots * size, -1)
                mixed = torch.bmm(block, weight[:, self.degrees.index(degree)])
                blocks.append(mixed.reshape(n_present, n_slots, size, -1))
            else:
                shape = (n_present, n_slots, size, weight.shape[-1])
                blocks.append(torch.zeros(shape, dtype=grouped.dtype, device=grouped.device))
        return torch.cat(blocks, dim=2)
