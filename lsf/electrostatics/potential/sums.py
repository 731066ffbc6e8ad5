"""Which waves and pair sums make the potential and the density of a structure, by boundary method."""

from __future__ import annotations

import math
from typing import Final

import attrs
import torch
from torch import Tensor

from lsf.electrostatics.boundary import KIND_BOX, KIND_SLAB
from lsf.electrostatics.fourier.blocks import arrange
from lsf.electrostatics.lattice import Lattice, build_lattice
from lsf.electrostatics.multipoles import dipoles, fractional_moments, max_degree, quadrupoles
from lsf.electrostatics.open_space import kernels
from lsf.electrostatics.plan.coulomb_plan import CoulombPlan, plan_structure
from lsf.electrostatics.potential.box import with_box_polynomial
from lsf.electrostatics.potential.slab import with_layer_waves, with_slab_polynomial
from lsf.electrostatics.potential.structure import PAIRS_AT_ONCE, ChargedStructure
from lsf.electrostatics.potential.waves import WaveSum
from lsf.electrostatics.reciprocal import taper
from lsf.electrostatics.settings import Electrostatics
from lsf.units import COULOMB_CONSTANT

DENSITY_CUTOFF: Final = 7.5
"""Largest wave vector of a density times σ: what is left out is exp(-28) = 6e-13 of the largest."""


def potential_waves(structure: ChargedStructure, settings: Electrostatics, reach: Tensor) -> WaveSum:
    """Return the potential [V] of a structure that is not open.

    ``settings.smearing_width`` is the width τ of probe and density together; ``reach`` (n, 3) are points that
    enclose all points of interest, which widen the internal cell of a slab.
    """
    tau = settings.smearing_width
    positions = structure.positions
    is_slab = int(structure.pbc.sum()) == 2
    enclosed = torch.cat([positions, reach]) if is_slab and settings.correction == "exact" else positions
    plan = plan_structure(settings, enclosed.numpy(), structure.cell.numpy(), structure.pbc)
    lattice = build_lattice(structure.cell[None], plan)
    wave_vectors, factors = _structure_factors(structure, plan, lattice)
    squared = wave_vectors.square().sum(-1)
    weights = torch.exp(-(tau**2) * squared) / squared * taper(torch.sqrt(squared) / settings.k_cutoff)
    amplitudes = 8.0 * math.pi * COULOMB_CONSTANT / lattice.volume * weights * factors
    waves = _plain_waves(wave_vectors, amplitudes)
    if int(plan.kind) == KIND_SLAB:
        waves = with_slab_polynomial(waves, structure, plan, lattice, tau)
        if len(plan.layer_pairs):
            waves = with_layer_waves(waves, structure, plan, lattice, enclosed)
    elif int(plan.kind) == KIND_BOX:
        waves = with_box_polynomial(waves, structure, lattice, tau)
    return waves


def density_waves(structure: ChargedStructure, settings: Electrostatics, reach: Tensor) -> WaveSum:
    """Return the density [e/Å³] of a crystal or slab; ``reach`` as for :func:`potential_waves`."""
    factor = settings.kspace_cutoff_factor * DENSITY_CUTOFF / (settings.smearing_width * settings.k_cutoff)
    # always the exact slab's cell: along the normal a slab has no images
    fine = attrs.evolve(settings, kspace_cutoff_factor=factor, correction="exact")
    enclosed = torch.cat([structure.positions, reach])
    plan = plan_structure(fine, enclosed.numpy(), structure.cell.numpy(), structure.pbc)
    lattice = build_lattice(structure.cell[None], plan)
    wave_vectors, factors = _structure_factors(structure, plan, lattice)
    decay = torch.exp(-0.5 * settings.smearing_width**2 * wave_vectors.square().sum(-1))
    waves = _plain_waves(wave_vectors, 2.0 / lattice.volume * decay * factors)
    return waves._replace(constant=(structure.coefficients[:, 0].sum() / lattice.volume)[0])


def _structure_factors(
    structure: ChargedStructure, plan: CoulombPlan, lattice: Lattice
) -> tuple[Tensor, Tensor]:
    """Return wave vectors (n_k, 3) [1/Å] and the complex factors ``Σ_j (q - i k·p - k·T k) e^{-ik·r}``."""
    batch = torch.zeros(len(structure.positions), dtype=torch.int64)
    inverse = lattice.inverse[batch]
    moments = fractional_moments(structure.coefficients, inverse)
    wave_vectors = 2.0 * math.pi * plan.k_triplets.to(torch.float64) @ lattice.inverse[0].T
    if not len(plan.k_triplets):
        return wave_vectors, torch.zeros(0, dtype=torch.complex128)
    fractional = structure.positions @ lattice.inverse[0]
    pair = arrange(fractional, batch, plan.k_triplets, plan.k_batch, 1)
    factors = pair.sum(moments, max_degree(structure.coefficients))
    return wave_vectors, torch.view_as_complex(factors.contiguous())


def _plain_waves(wave_vectors: Tensor, amplitudes: Tensor) -> WaveSum:
    zero = torch.zeros((), dtype=torch.float64)
    return WaveSum(
        exponents=1j * wave_vectors,
        offsets=torch.zeros(len(wave_vectors), dtype=torch.complex128),
        amplitudes=amplitudes,
        constant=zero,
        slope=zero.expand(3),
        curvature=zero.expand(3, 3),
        origin=zero.expand(3),
    )


# ---------------------------------------------------------------------------------------------------
# sums over the atoms themselves


def open_potential(structure: ChargedStructure, points: Tensor, width: float) -> Tensor:
    r"""Return the potential and its gradient in open space, (n_points, 4).

    .. math:: V = k_e \sum_i (q_i - p_i\cdot\nabla + T_i:\nabla\nabla) \frac{\mathrm{erf}(R/2\tau)}{R}
    """
    charges, moments = structure.coefficients[:, 0], dipoles(structure.coefficients)
    tensors = quadrupoles(structure.coefficients)
    result = points.new_zeros(len(points), 4)
    step = max(1, PAIRS_AT_ONCE // max(1, len(charges)))
    for start in range(0, len(points), step):
        vector = points[start : start + step, None] - structure.positions
        found = kernels(vector.square().sum(-1).reshape(-1), width, 3)
        g = [values.reshape(len(vector), -1) for values in found]
        along = (moments * vector).sum(-1)
        once = torch.einsum("iab,pib->pia", tensors, vector)
        twice = (once * vector).sum(-1)
        result[start : start + step, 0] = (charges * g[0] - along * g[1] + twice * g[2]).sum(-1)
        radial = charges * g[1] - along * g[2] + twice * g[3]
        gradient = radial[..., None] * vector - g[1][..., None] * moments + 2.0 * g[2][..., None] * once
        result[start : start + step, 1:] = gradient.sum(1)
    return COULOMB_CONSTANT * result


def open_density(structure: ChargedStructure, points: Tensor, width: float) -> Tensor:
    """Return ``Σ_i (q + p·R/σ² + R·T R/σ⁴) g_σ(R)``, (n_points,) [e/Å³]."""
    charges, moments = structure.coefficients[:, 0], dipoles(structure.coefficients)
    tensors = quadrupoles(structure.coefficients)
    result = points.new_zeros(len(points))
    norm = (2.0 * math.pi * width**2) ** -1.5
    step = max(1, PAIRS_AT_ONCE // max(1, len(charges)))
    for start in range(0, len(points), step):
        vector = points[start : start + step, None] - structure.positions
        gaussian = norm * torch.exp(-vector.square().sum(-1) / (2.0 * width**2))
        twice = torch.einsum("pia,iab,pib->pi", vector, tensors, vector)
        factor = charges + (moments * vector).sum(-1) / width**2 + twice / width**4
        result[start : start + step] = (factor * gaussian).sum(-1)
    return result
