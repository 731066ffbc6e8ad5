"""The potential of a slab: what a probe charge feels of the terms in :mod:`lsf.electrostatics.slab`.

The derivative of an energy quadratic in the density w.r.t. a probe charge is twice its bilinear form with it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lsf.electrostatics.lattice import Lattice
from lsf.electrostatics.multipoles import dipoles, quadrupoles
from lsf.electrostatics.plan.coulomb_plan import CoulombPlan
from lsf.electrostatics.potential.structure import PAIRS_AT_ONCE, ChargedStructure
from lsf.electrostatics.potential.waves import WaveSum
from lsf.units import COULOMB_CONSTANT


def with_slab_polynomial(
    waves: WaveSum, structure: ChargedStructure, plan: CoulombPlan, lattice: Lattice, tau: float
) -> WaveSum:
    r"""Add ``(2π k_e/V) [2 M_z z - Q z² - M_zz - 2τ²Q - Q L²/6]``, a probe's part of the slab energy.

    In the older dipole correction ``(4π k_e/V) M_z z`` alone, with z as given.
    """
    normal, length = lattice.normal[0], float(plan.slab_length)
    exact = length > 0.0
    centre = structure.positions.mean(0) if exact else torch.zeros(3, dtype=torch.float64)
    charges = structure.coefficients[:, 0]
    height = (structure.positions - centre) @ normal
    along = dipoles(structure.coefficients) @ normal
    first = (charges * height + along).sum()
    scale = 2.0 * math.pi * COULOMB_CONSTANT / lattice.volume[0]
    waves = waves._replace(slope=2.0 * scale * first * normal, origin=centre)
    if not exact:
        return waves
    tensor = torch.einsum("a,nab,b->n", normal, quadrupoles(structure.coefficients), normal)
    second = (charges * height**2 + 2.0 * along * height + 2.0 * tensor).sum()
    charge = charges.sum()
    constant = -scale * (second + charge * (2.0 * tau**2 + length**2 / 6.0))
    return waves._replace(constant=constant, curvature=-2.0 * scale * charge * torch.outer(normal, normal))


def with_layer_waves(
    waves: WaveSum, structure: ChargedStructure, plan: CoulombPlan, lattice: Lattice, enclosed: Tensor
) -> WaveSum:
    r"""Add ``-(4π k_e/A) Σ_G Re[S_+ e^{-κ_+·r} + S_- e^{-κ_-·r}] / (G (e^{GL} - 1))``, κ_± = iG ± G n.

    A probe's part of the layer term. Heights are counted from the ends of what is enclosed, so that all
    exponentials stay below one.
    """
    axis, length = int(plan.slab_axis), float(plan.slab_length)
    normal = lattice.normal[0]
    columns = lattice.inverse[0][:, [(axis + 1) % 3, (axis + 2) % 3]]
    wave = 2.0 * math.pi * plan.layer_pairs.to(torch.float64) @ columns.T
    rate = torch.linalg.vector_norm(wave, dim=1)
    heights = enclosed @ normal
    lowest, highest = heights.min(), heights.max()
    decay = torch.exp(-rate * (length - (highest - lowest)))
    scale = -4.0 * math.pi * COULOMB_CONSTANT / lattice.area[0]
    weight = scale * decay / (rate * -torch.expm1(-rate * length))
    exponents, offsets, amplitudes = [waves.exponents], [waves.offsets], [waves.amplitudes]
    for sign, own_end, other_end in ((1.0, highest, lowest), (-1.0, lowest, highest)):
        kappa = torch.complex(sign * rate[:, None] * normal, wave)
        sums = _evanescent_sums(structure, kappa, -sign * rate * own_end)
        exponents.append(-kappa)
        offsets.append((sign * rate * other_end).to(torch.complex128))
        amplitudes.append(weight * sums)
    return waves._replace(
        exponents=torch.cat(exponents), offsets=torch.cat(offsets), amplitudes=torch.cat(amplitudes)
    )


def _evanescent_sums(structure: ChargedStructure, kappa: Tensor, offset: Tensor) -> Tensor:
    """Return ``Σ_j (q + p·κ + κ·T κ) exp(κ·r_j + offset)``, (n_waves,)."""
    moments = dipoles(structure.coefficients).to(kappa.dtype)
    tensors = quadrupoles(structure.coefficients).to(kappa.dtype)
    result = torch.zeros(len(kappa), dtype=kappa.dtype)
    step = max(16, PAIRS_AT_ONCE // max(1, len(kappa)))
    for start in range(0, len(moments), step):
        atoms = slice(start, start + step)
        exponents = structure.positions[atoms].to(kappa.dtype) @ kappa.T + offset
        bent = torch.einsum("wa,nab,wb->nw", kappa, tensors[atoms], kappa)
        factors = structure.coefficients[atoms, :1] + moments[atoms] @ kappa.T + bent
        result += (factors * torch.exp(exponents)).sum(0)
    return result
