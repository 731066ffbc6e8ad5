"""The structure whose potential is asked for."""

from __future__ import annotations

from typing import Final, NamedTuple

from torch import Tensor

from lsf.electrostatics.boundary import BoolArray

PAIRS_AT_ONCE: Final = 2**18
"""Pairs of atoms and points worked on at a time."""


class ChargedStructure(NamedTuple):
    """One structure with its multipoles."""

    coefficients: Tensor  # (n_atoms, (L+1)^2) float64 [e Å^l], order [Q, d_y, d_z, d_x, ...]
    positions: Tensor  # (n_atoms, 3) float64 [Å]
    cell: Tensor  # (3, 3) float64 [Å], rows are lattice vectors; zeros for open structures
    pbc: BoolArray  # (3,)
