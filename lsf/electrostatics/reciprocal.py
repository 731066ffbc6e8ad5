r"""What a reciprocal sum takes from the cells alone, above all the weight of every wave vector.

.. math:: w_n = \frac{4\pi k_e}{V} \frac{e^{-\sigma^2 k^2}}{k^2}\, t(k/k_c), \quad k = 2\pi n h^{-T}
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lsf.electrostatics.boundary import KIND_OPEN
from lsf.electrostatics.lattice import Lattice, build_lattice, of_structure, sum_over_structures
from lsf.electrostatics.multipoles import moment_matrices, transformed
from lsf.electrostatics.plan.coulomb_plan import CoulombPlan
from lsf.electrostatics.plan.mesh_choice import mesh_request
from lsf.electrostatics.settings import Electrostatics
from lsf.machine.caches import ByIdentity
from lsf.machine.tracing import capturing
from lsf.units import COULOMB_CONSTANT

TAPER_START = 0.9
"""The kernel falls smoothly to zero between this part of the largest wave vector and the whole."""


class Waves(NamedTuple):
    """What a batch's reciprocal sums are made with."""

    lattice: Lattice
    moments: Tensor  # (n_graphs, (L+1)^2, n_monomials), from coefficients to fractional moments
    weights: Tensor  # (n_k,) eV/e²


def waves(cell: Tensor, plan: CoulombPlan, settings: Electrostatics, meshed: bool) -> Waves:
    """Return what the cells determine, differentiable with respect to ``cell`` (n_graphs, 3, 3) [Å].

    ``meshed`` says whether a structure may be summed on a mesh. Where no gradient by the cell is asked for,
    the last ones of a plan serve as long as its cells stay: in dynamics at constant volume.
    """
    if cell.requires_grad or capturing() or torch.is_inference_mode_enabled():
        return _made(cell, plan, settings, meshed)

    def made() -> tuple[Tensor, Waves]:
        return cell.clone(), _made(cell, plan, settings, meshed)

    def serves(kept: tuple[Tensor, Waves]) -> bool:
        alike = cell.dtype == kept[0].dtype and cell.device == kept[0].device
        return alike and torch.equal(cell, kept[0])

    return _known.find(plan.k_triplets, plan, (settings, meshed), made, serves)[1]


_known: ByIdentity[tuple[Tensor, Waves]] = ByIdentity()


def _made(cell: Tensor, plan: CoulombPlan, settings: Electrostatics, meshed: bool) -> Waves:
    lattice = build_lattice(cell, plan)
    turned = 2.0 * math.pi * plan.k_triplets.to(cell.dtype)
    transposed = of_structure(lattice.inverse.transpose(1, 2), plan.k_batch)
    squared = transformed(turned, transposed).square().sum(1)
    wave_numbers = torch.sqrt(squared)
    scale = 4.0 * math.pi * COULOMB_CONSTANT / lattice.volume
    weights = of_structure(scale, plan.k_batch) * torch.exp(-(settings.smearing_width**2) * squared) / squared
    moments = moment_matrices(lattice.inverse, settings.multipoles_max_l)
    if not meshed:
        return Waves(lattice, moments, weights * taper(wave_numbers / settings.k_cutoff))
    cutoffs = torch.full_like(lattice.volume, settings.k_cutoff)
    cutoffs = torch.where(plan.kind == KIND_OPEN, mesh_request(settings).open_k_cutoff, cutoffs)
    weights = weights * _truncation(wave_numbers, plan)
    return Waves(lattice, moments, weights * taper(wave_numbers / cutoffs[plan.k_batch]))


def _truncation(wave_numbers: Tensor, plan: CoulombPlan) -> Tensor:
    """Return ``1 - cos(k R)`` for open structures on a mesh, 1 for others: the kernel ends at the radius R.

    C. A. Rozzi et al., Phys. Rev. B 73, 205119 (2006), eq. (15), doi:10.1103/PhysRevB.73.205119.
    """
    radius = plan.truncation_radius.to(wave_numbers.dtype)[plan.k_batch]
    return torch.where(radius > 0.0, 1.0 - torch.cos(wave_numbers * radius), 1.0)


def taper(ratio: Tensor) -> Tensor:
    """Return 1 below 0.9, 0 from 1 on and a quintic in between, twice continuously differentiable.

    Wave vectors thus enter and leave a sum without a jump when a cell changes shape.
    """
    u = ((ratio - TAPER_START) / (1.0 - TAPER_START)).clamp(0.0, 1.0)
    return 1.0 - u * u * u * (10.0 - u * (15.0 - 6.0 * u))


def truncated_energy(coefficients: Tensor, radius: Tensor, volume: Tensor, batch: Tensor) -> Tensor:
    r"""Return the k = 0 term of open structures summed with a kernel cut off at ``radius``, (n_graphs,) [eV].

    .. math:: \pi k_e R^2 Q^2 / V, \qquad \lim_{k\to 0} 4\pi (1 - \cos kR) / k^2 = 2\pi R^2
    """
    charge = sum_over_structures(coefficients[:, 0], batch, volume.shape[0])
    return math.pi * COULOMB_CONSTANT * radius**2 * charge**2 / volume
