"""Which waves and pair sums make the potential and the density of a structure, by boundary method."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import attrs
import torch
from torch import Tensor

from lsf.electrostatics.boundary import (
    KIND_BOX,
    KIND_SLAB,
    BoolArray,
    CoulombPlan,
    Electrostatics,
    plan_structure,
)
from lsf.electrostatics.box import CUBIC_MADELUNG
from lsf.electrostatics.fourier.blocks import arrange
from lsf.electrostatics.lattice import Lattice, build_lattice
from lsf.electrostatics.multipoles import dipoles, fractional_moments, max_degree, quadrupoles
from lsf.electrostatics.open_space import kernels
from lsf.electrostatics.potential.waves import WaveSum
from lsf.electrostatics.reciprocal import taper
from lsf.units import COULOMB_CONSTANT

DENSITY_CUTOFF: Final = 7.5
"""Largest wave vector of a density times σ: what is left out is exp(-28) = 6e-13 of the largest."""

PAIRS_AT_ONCE: Final = 2**18


class ChargedStructure(NamedTuple):
    """One structure with its multipoles."""

    coefficients: Tensor  # (n_atoms, (L+1)^2) float64 [e Å^l], order [Q, d_y, d_z, d_x, ...]
    positions: Tensor  # (n_atoms, 3) float64 [Å]
    cell: Tensor  # (3, 3) float64 [Å], rows are lattice vectors; zeros for open structures
    pbc: BoolArray  # (3,)


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
        waves = _with_slab_polynomial(waves, structure, plan, lattice, tau)
        if len(plan.layer_pairs):
            waves = _with_layer_waves(waves, structure, plan, lattice, enclosed)
    elif int(plan.kind) == KIND_BOX:
        waves = _with_box_polynomial(waves, structure, lattice, tau)
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


def _with_slab_polynomial(
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


def _with_box_polynomial(
    waves: WaveSum, structure: ChargedStructure, lattice: Lattice, tau: float
) -> WaveSum:
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


def _with_layer_waves(
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
