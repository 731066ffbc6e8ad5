"""The potential of a molecule in a box: what a probe charge feels of :mod:`lsf.electrostatics.box`."""

from __future__ import annotations

import math

import torch

from lsf.electrostatics.box import CUBIC_MADELUNG
from lsf.electrostatics.lattice import Lattice
from lsf.electrostatics.multipoles import dipoles
from lsf.electrostatics.potential.structure import ChargedStructure
from lsf.electrostatics.potential.waves import WaveSum
from lsf.units import COULOMB_CONSTANT


def with_box_polynomial(waves: WaveSum, structure: ChargedStructure, lattice: Lattice, tau: float) -> WaveSum:
    r"""Add ``k_e [αQ/L + (2π/3V)(2 P·u - Q u² - q_2 - 6τ²Q)]``, a probe's part of the box energy."""
    centre = structure.positions.mean(0)
    u = structure.positions - centre
    charges, moments = structure.coefficients[:, 0], dipoles(structure.coefficients)
    charge = charges.sum()
    first = (charges[:, None] * u + moments).sum(0)
    second = (charges * u.square().sum(-1) + 2.0 * (moments * u).sum(-1)).sum() + 6.0 * tau**2 * charge
    volume = lattice.volume[0]
    scale = 2.0 * math.pi * COULOMB_CONSTANT / (3.0 * volume)
    monopole = COULOMB_CONSTANT * CUBIC_MADELUNG * charge / volume ** (1.0 / 3.0)
    return waves._replace(
        constant=monopole - scale * second,
        slope=2.0 * scale * first,
        curvature=-2.0 * scale * charge * torch.eye(3, dtype=torch.float64),
        origin=centre,
    )
