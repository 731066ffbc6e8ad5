"""Total charge and spin as inputs: what tells one geometry in two charge states apart.

The embedding is joint in element, charge and spin, and is added to the initial scalars of every atom, as in
SpookyNet (Unke et al., doi:10.1038/s41467-021-27504-0), there with weights that see the whole molecule, and
in the joint embeddings of mace-torch. Every atom of a structure is told, whatever its size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from lsf.models.radial import SILU_SCALE

SATURATIONS: Final = (1.0, 2.0, 4.0, 8.0)
"""Charges (e) and numbers of unpaired electrons at which the functions of them begin to level off."""

WIDTH: Final = 64


def seen_numbers(
    total_charge: Tensor, total_spin: Tensor, sees_charge: bool, sees_spin: bool
) -> list[Tensor]:
    """Return those of the two that a model sees, ``(n_graphs,)`` each."""
    return [total_charge] * sees_charge + [total_spin] * sees_spin


class NoChargeState(nn.Module):
    """Atoms are told neither charge nor spin: the null object."""

    def numbers(self, _total_charge: Tensor, _total_spin: Tensor) -> list[Tensor]:
        """Return nothing."""
        return []

    def forward(self, initial: Tensor, _elements: Tensor, _numbers: Sequence[Tensor]) -> Tensor:
        """Return the initial scalars as they are."""
        return initial


class ChargeState(nn.Module):
    """A small network of element, total charge and total spin, whose output joins the initial scalars.

    A number Q enters as ``tanh(Q/s)`` for several s: bounded, so that a charge beyond those of the training
    data gives features near those of the highest one, not features out of any range. The last layer starts
    at zero: a model starts as blind to the state as without the embedding.
    """

    def __init__(self, channels: int, sees_charge: bool, sees_spin: bool) -> None:
        super().__init__()
        self.sees_charge, self.sees_spin = sees_charge, sees_spin
        n_inputs = channels + len(SATURATIONS) * (sees_charge + sees_spin)
        self.hidden = nn.Parameter(torch.randn(n_inputs, WIDTH))
        self.bias = nn.Parameter(torch.zeros(WIDTH))
        self.out = nn.Parameter(torch.zeros(WIDTH, channels))

    def numbers(self, total_charge: Tensor, total_spin: Tensor) -> list[Tensor]:
        """Return those of the two that the embedding sees, ``(n_graphs,)`` each."""
        return seen_numbers(total_charge, total_spin, self.sees_charge, self.sees_spin)

    def forward(self, initial: Tensor, elements: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        """Return the initial scalars ``(n_atoms, 1, channels)`` with the embedding added.

        ``elements`` ``(n_atoms, 1, channels)`` are the scalars of the element alone, ``numbers`` those of
        :meth:`numbers`, per atom.
        """
        squashed = [torch.tanh(number / s).to(initial.dtype) for number in numbers for s in SATURATIONS]
        inputs = torch.cat([elements.squeeze(1), torch.stack(squashed, dim=1)], dim=1)
        inner = nn.functional.silu(inputs @ self.hidden / math.sqrt(inputs.shape[1]) + self.bias)
        embedded: Tensor = inner @ self.out * (SILU_SCALE / math.sqrt(WIDTH))
        return initial + embedded.unsqueeze(1)
