"""Closed terms that turn a fully periodic sum into a slab's or a boxed molecule's energy."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from lsf.electrostatics.lattice import Lattice
from lsf.electrostatics.multipoles import dipoles, quadrupoles
from lsf.units import COULOMB_CONSTANT

CUBIC_MADELUNG: Final = 2.8372974794806
"""Madelung constant of a unit charge in a neutralising background, simple cubic lattice of unit edge."""


def _sum(values: Tensor, batch: Tensor, n_graphs: int) -> Tensor:
    return values.new_zeros(n_graphs, *values.shape[1:]).index_add(0, batch, values)


def _centred(positions: Tensor, batch: Tensor, n_graphs: int) -> Tensor:
    """Return positions from the mean of their structure: these energies do not depend on the origin."""
    counts = _sum(torch.ones_like(positions[:, 0]), batch, n_graphs).clamp(min=1.0)
    means = _sum(positions.detach(), batch, n_graphs) / counts[:, None]
    return positions - means[batch]


def slab_energy(
    coefficients: Tensor,
    positions: Tensor,
    lattice: Lattice,
    slab_length: Tensor,
    batch: Tensor,
    smearing_width: float,
) -> Tensor:
    r"""Return the terms of a slab with zero in-plane wave vector, (n_graphs,) [eV].

    .. math:: \frac{2\pi k_e}{V}\left[M_z^2 - Q M_{zz} - Q^2 L^2/12\right], \quad
              M_{zz} = \sum_i (q_i z_i^2 + 2 p_{z,i} z_i + 2 T_{zz,i}) + \sigma^2 Q

    z counts along the normal, as given (unwrapped); L = ``slab_length`` (n_graphs,), V = A L. The dipole term
    is I.-C. Yeh, M. L. Berkowitz, J. Chem. Phys. 111, 3155 (1999), doi:10.1063/1.479595; the charge terms
    are V. Ballenegger, A. Arnold, J. J. Cerdà, J. Chem. Phys. 131, 094107 (2009), doi:10.1063/1.3216473, with
    the Gaussians' own second moment. A slab of length 0 is summed in its cell as given and gets the dipole
    term alone, the older approximation: charged, it depends on where z = 0 is, as that always did.
    """
    n_graphs = slab_length.shape[0]
    normal = lattice.normal[batch]
    exact = slab_length > 0.0
    located = torch.where(exact[batch, None], _centred(positions, batch, n_graphs), positions)
    height = (located * normal).sum(-1)
    charges = coefficients[:, 0]
    along = (dipoles(coefficients) * normal).sum(-1)
    tensor = ((normal[:, None, :] @ quadrupoles(coefficients))[:, 0] * normal).sum(-1)
    charge = _sum(charges, batch, n_graphs)
    first = _sum(charges * height + along, batch, n_graphs)
    second = _sum(charges * height**2 + 2.0 * along * height + 2.0 * tensor, batch, n_graphs)
    second = second + smearing_width**2 * charge
    charged = charge * second + charge**2 * slab_length**2 / 12.0
    bracket = first**2 - torch.where(exact, charged, torch.zeros_like(charged))
    return 2.0 * math.pi * COULOMB_CONSTANT * bracket / lattice.volume


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
    centred = _centred(positions, batch, n_graphs)
    charges, dipole = coefficients[:, 0], dipoles(coefficients)
    charge = _sum(charges, batch, n_graphs)
    first = _sum(charges[:, None] * centred + dipole, batch, n_graphs)
    second = _sum(charges * centred.square().sum(-1) + 2.0 * (dipole * centred).sum(-1), batch, n_graphs)
    second = second + 3.0 * smearing_width**2 * charge
    monopole = 0.5 * CUBIC_MADELUNG * charge**2 / volume ** (1.0 / 3.0)
    higher = 2.0 * math.pi / (3.0 * volume) * (first.square().sum(-1) - charge * second)
    return COULOMB_CONSTANT * (monopole + higher)


def truncated_energy(coefficients: Tensor, radius: Tensor, volume: Tensor, batch: Tensor) -> Tensor:
    r"""Return the k = 0 term of open structures summed with a kernel cut off at ``radius``, (n_graphs,) [eV].

    .. math:: \pi k_e R^2 Q^2 / V, \qquad \lim_{k\to 0} 4\pi (1 - \cos kR) / k^2 = 2\pi R^2
    """
    charge = _sum(coefficients[:, 0], batch, volume.shape[0])
    return math.pi * COULOMB_CONSTANT * radius**2 * charge**2 / volume
