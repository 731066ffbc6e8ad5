"""A molecule in a box: the closed term that removes its periodic images."""

from __future__ import annotations

import math
from typing import Final

from torch import Tensor

from lsf.electrostatics.lattice import from_centre, sum_over_structures
from lsf.electrostatics.multipoles import dipoles
from lsf.units import COULOMB_CONSTANT

CUBIC_MADELUNG: Final = 2.8372974794806
"""Madelung constant of a unit charge in a neutralising background, simple cubic lattice of unit edge."""


def box_energy(
    coefficients: Tensor, positions: Tensor, volume: Tensor, batch: Tensor, smearing_width: float
) -> Tensor:
    r"""Return the terms that remove the images of a molecule in a cubic box, (n_graphs,) [eV].

    .. math:: k_e\left[\frac{\alpha Q^2}{2 L} + \frac{2\pi}{3 V}(|P|^2 - Q\, q_2)\right], \quad
              q_2 = \sum_i (q_i r_i^2 + 2 p_i\cdot r_i) + 3\sigma^2 Q, \quad L = V^{1/3}

    What remains decays as L⁻⁵. G. Makov, M. C. Payne, Phys. Rev. B 51, 4014 (1995), eq. (15),
    doi:10.1103/PhysRevB.51.4014; the second moment includes that of the Gaussians.
    """
    n_graphs = volume.shape[0]
    centred = from_centre(positions, batch, n_graphs)
    charges, dipole = coefficients[:, 0], dipoles(coefficients)
    charge = sum_over_structures(charges, batch, n_graphs)
    first = sum_over_structures(charges[:, None] * centred + dipole, batch, n_graphs)
    second = sum_over_structures(
        charges * centred.square().sum(-1) + 2.0 * (dipole * centred).sum(-1), batch, n_graphs
    )
    second = second + 3.0 * smearing_width**2 * charge
    monopole = 0.5 * CUBIC_MADELUNG * charge**2 / volume ** (1.0 / 3.0)
    higher = 2.0 * math.pi / (3.0 * volume) * (first.square().sum(-1) - charge * second)
    return COULOMB_CONSTANT * (monopole + higher)
