r"""A slab, periodic along two directions: what turns the fully periodic sum into its energy, exactly.

:func:`slab_energy` are the terms of zero in-plane wave vector; :func:`layer_energy` removes the interaction
of the slab with its images along the normal for all others:

.. math:: E = -\frac{4\pi k_e}{A} \sum_{G\ \mathrm{half}}
              \frac{\mathrm{Re}[S_+ \bar S_-]}{G\,(e^{G L} - 1)}, \qquad
          S_\pm(G) = \sum_j (q_j + p_j\cdot\nabla_j + T_j:\nabla_j\nabla_j)\, e^{iG\cdot\rho_j \pm G z_j}

L is the internal cell length along the normal. σ drops out because the densities of neighbouring images
do not overlap. Reference for point charges: A. Arnold, J. de Joannis, C. Holm, J. Chem. Phys. 117, 2496
(2002), doi:10.1063/1.1491955.

The sums over atoms are a second adjoint pair, with growing exponentials instead of a third phase; it is
closed under differentiation like :mod:`lsf.electrostatics.fourier.pair`, by positions, moments and decay
rates.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lsf.electrostatics.lattice import Lattice, from_centre, sum_over_structures
from lsf.electrostatics.multipoles import (
    dipoles,
    fractional_moments,
    max_degree,
    monomials,
    quadrupoles,
)
from lsf.electrostatics.plan.coulomb_plan import CoulombPlan
from lsf.machine.tracing import recording, scripting
from lsf.units import COULOMB_CONSTANT

CHUNK_ELEMENTS = 2**19
"""Exponentials worked on at a time (4 MB each for real and imaginary part)."""


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
    located = torch.where(exact[batch, None], from_centre(positions, batch, n_graphs), positions)
    height = (located * normal).sum(-1)
    charges = coefficients[:, 0]
    along = (dipoles(coefficients) * normal).sum(-1)
    tensor = ((normal[:, None, :] @ quadrupoles(coefficients))[:, 0] * normal).sum(-1)
    charge = sum_over_structures(charges, batch, n_graphs)
    first = sum_over_structures(charges * height + along, batch, n_graphs)
    second = sum_over_structures(charges * height**2 + 2.0 * along * height + 2.0 * tensor, batch, n_graphs)
    second = second + smearing_width**2 * charge
    charged = charge * second + charge**2 * slab_length**2 / 12.0
    bracket = first**2 - torch.where(exact, charged, torch.zeros_like(charged))
    return 2.0 * math.pi * COULOMB_CONSTANT * bracket / lattice.volume


def layer_energy(
    coefficients: Tensor, positions: Tensor, lattice: Lattice, batch: Tensor, plan: CoulombPlan
) -> Tensor:
    """Return the layer term of every structure, (n_graphs,) [eV]; zero for all that are no slabs.

    Coefficients (n_atoms, (L+1)^2) [e Å^l]; positions (n_atoms, 3) [Å], unwrapped along the normal.
    """
    # columns of the inverse cell in the order first in-plane row, second in-plane row, normal
    order = (plan.slab_axis[:, None] + torch.tensor([1, 2, 0], device=batch.device)) % 3
    inverse = torch.gather(lattice.inverse, 2, order[:, None, :].expand(-1, 3, -1))
    length = plan.slab_length.to(positions.dtype)
    in_plane, third = torch.einsum("na,nab->nb", positions, inverse[batch]).split([2, 1], dim=1)
    height = third[:, 0] * length[batch]
    centre, half = _centre_and_half_extent(height.detach(), batch, length.shape[0])
    moments = fractional_moments(coefficients, inverse[batch])

    turned = 2.0 * math.pi * plan.layer_pairs.to(positions.dtype)
    graph = plan.layer_batch
    wave = torch.einsum("ga,gxa->gx", turned, inverse[graph][:, :, :2])
    rate = torch.linalg.vector_norm(wave, dim=1)
    grid = None if scripting() or recording() else layer_grid(in_plane, batch, plan)
    degree = max_degree(coefficients)
    structure_factors = []
    for sign in (1.0, -1.0):
        # exponents stay negative whatever the thickness; the weight below restores the factor exp(2 G half)
        depth = sign * (height - centre[batch]) - half[batch]
        if grid is None:
            sums = dense_layer_sum(in_plane, depth, rate, moments, batch, plan)
        else:
            sums = layer_sum(in_plane, depth, rate, moments, grid)
        structure_factors.append(_contract(sums, turned, sign * rate * length[graph], degree))
    decay = torch.exp(-rate * (length - 2.0 * half)[graph])
    weight = decay / (rate * -torch.expm1(-rate * length[graph]) * lattice.area[graph])
    terms = -4.0 * math.pi * COULOMB_CONSTANT * weight * (structure_factors[0] * structure_factors[1]).sum(-1)
    return torch.zeros_like(length).index_add(0, graph, terms)


def _centre_and_half_extent(height: Tensor, batch: Tensor, n_graphs: int) -> tuple[Tensor, Tensor]:
    highest = height.new_full((n_graphs,), -math.inf).scatter_reduce(0, batch, height, "amax")
    lowest = height.new_full((n_graphs,), math.inf).scatter_reduce(0, batch, height, "amin")
    return 0.5 * (highest + lowest), 0.5 * (highest - lowest)


def _contract(sums: Tensor, turned: Tensor, normal_factor: Tensor, degree: int) -> Tensor:
    """Return ``Σ_abc (i t_1)^a (i t_2)^b f^c sums^abc``, (n_layer, 2), with f = ±G L."""
    result = torch.zeros_like(sums[:, 0])
    for column, (a, b, c) in enumerate(monomials(degree)):
        magnitude = turned[:, 0] ** a * turned[:, 1] ** b * normal_factor**c
        re, im = sums[:, column].unbind(-1)
        rotated = ((re, im), (-im, re), (-re, -im), (im, -re))[(a + b) % 4]
        result = result + magnitude[:, None] * torch.stack(rotated, -1)
    return result


# ---------------------------------------------------------------------------------------------------
# the pair of sums


class LayerGrid(NamedTuple):
    """Padded arrangement of the slabs of a batch; [a] structures, [j] their atoms, [g] their wave vectors."""

    atoms: Tensor  # [a, j] int64, n_atoms where padded
    waves: Tensor  # [a, g] int64, rows of the wave vector list, n_layer where padded
    turned: Tensor  # (n_layer, 2) 2π n
    reduced: Tensor  # (n_atoms, 2) in-plane fractional coordinates, wrapped


@torch.no_grad()
def layer_grid(in_plane: Tensor, batch: Tensor, plan: CoulombPlan) -> LayerGrid:
    """Arrange the slabs of a batch; ``batch`` and ``plan.layer_batch`` are ascending."""
    n_graphs = len(plan.kind)
    structures = (torch.bincount(plan.layer_batch, minlength=n_graphs) > 0).nonzero()[:, 0]
    return LayerGrid(
        atoms=_padded_rows(batch, structures, n_graphs),
        waves=_padded_rows(plan.layer_batch, structures, n_graphs),
        turned=2.0 * math.pi * plan.layer_pairs.to(in_plane.dtype),
        reduced=in_plane - in_plane.round(),
    )


def _padded_rows(owner: Tensor, structures: Tensor, n_graphs: int) -> Tensor:
    counts = torch.bincount(owner, minlength=n_graphs)
    first = (torch.cumsum(counts, 0) - counts)[structures]
    slots = torch.arange(int(counts[structures].max()), device=owner.device)
    return torch.where(slots < counts[structures, None], first[:, None] + slots, len(owner))


def layer_sum(in_plane: Tensor, depth: Tensor, rate: Tensor, moments: Tensor, grid: LayerGrid) -> Tensor:
    """Return ``Σ_j m_jc exp(2πi n·s_j + rate_n depth_j)``, (n_layer, n_c, 2).

    ``in_plane`` (n_atoms, 2), ``depth`` (n_atoms,) <= 0, ``rate`` (n_layer,), ``moments`` (n_atoms, n_c).
    """
    return _LayerSum.apply(in_plane, depth, rate, moments, grid)  # type: ignore[no-any-return, no-untyped-call]


def dense_layer_sum(
    in_plane: Tensor, depth: Tensor, rate: Tensor, moments: Tensor, batch: Tensor, plan: CoulombPlan
) -> Tensor:
    """Return what :func:`layer_sum` does by plain operations, for graphs that leave Python.

    Keeps n_layer × n_atoms numbers: wave vectors are few here, some 100 in a layer of 20 × 20 Å.
    """
    turned = 2.0 * math.pi * plan.layer_pairs.to(in_plane.dtype)
    reduced = in_plane - in_plane.detach().round()
    inside = (plan.layer_batch[:, None] == batch).to(depth.dtype)
    size = torch.exp(rate[:, None] * depth) * inside  # [g, j]
    phase = turned @ reduced.transpose(0, 1)
    return torch.stack([(size * phase.cos()) @ moments, (size * phase.sin()) @ moments], -1)


def layer_gather(
    in_plane: Tensor, depth: Tensor, rate: Tensor, amplitudes: Tensor, grid: LayerGrid
) -> Tensor:
    """Return ``Re Σ_n conj(A_nc) exp(2πi n·s_j + rate_n depth_j)``, (n_atoms, n_c)."""
    return _LayerGather.apply(in_plane, depth, rate, amplitudes, grid)  # type: ignore[no-any-return, no-untyped-call]


def _exponentials(depth: Tensor, rate: Tensor, grid: LayerGrid) -> Any:
    """Yield slices of the padded atoms with ``exp(2πi n·s + rate depth)`` as [a, 2 g, j], real rows first."""
    rates = torch.cat([rate, rate.new_zeros(1)])[grid.waves]
    turned = torch.cat([grid.turned, grid.turned.new_zeros(1, 2)])[grid.waves]
    depths = torch.cat([depth, depth.new_zeros(1)])
    reduced = torch.cat([grid.reduced, grid.reduced.new_zeros(1, 2)])
    step = max(16, CHUNK_ELEMENTS // max(1, grid.waves.numel()))
    for start in range(0, grid.atoms.shape[1], step):
        atoms = grid.atoms[:, start : start + step]
        size = torch.exp(rates[:, :, None] * depths[atoms][:, None, :])
        phase = turned @ reduced[atoms].transpose(1, 2)
        yield slice(start, start + step), torch.cat([size * phase.cos(), size * phase.sin()], 1)


class _LayerSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, in_plane: Tensor, depth: Tensor, rate: Tensor, moments: Tensor, grid: LayerGrid
    ) -> Tensor:
        ctx.save_for_backward(in_plane, depth, rate, moments)
        ctx.grid = grid
        padded = torch.cat([moments, moments.new_zeros(1, moments.shape[1])])[grid.atoms]
        n_structures, n_waves = grid.waves.shape
        sums = moments.new_zeros(n_structures, 2 * n_waves, moments.shape[1])
        for chunk, exponentials in _exponentials(depth, rate, grid):
            sums.baddbmm_(exponentials, padded[:, chunk])
        result = moments.new_zeros(len(rate) + 1, moments.shape[1], 2)
        result[grid.waves] = torch.stack([sums[:, :n_waves], sums[:, n_waves:]], -1)
        return result[:-1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        in_plane, depth, rate, moments = ctx.saved_tensors
        positional = _positional_gradients(in_plane, depth, rate, moments, gradient, ctx.grid)
        return *positional, layer_gather(in_plane, depth, rate, gradient, ctx.grid), None


class _LayerGather(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, in_plane: Tensor, depth: Tensor, rate: Tensor, amplitudes: Tensor, grid: LayerGrid
    ) -> Tensor:
        ctx.save_for_backward(in_plane, depth, rate, amplitudes)
        ctx.grid = grid
        padded = torch.cat([amplitudes, torch.zeros_like(amplitudes[:1])])[grid.waves]
        padded = torch.cat([padded[..., 0], padded[..., 1]], 1)  # [a, 2 g, channel]
        result = amplitudes.new_zeros(len(depth) + 1, amplitudes.shape[1])
        for chunk, exponentials in _exponentials(depth, rate, grid):
            result[grid.atoms[:, chunk]] = exponentials.transpose(1, 2) @ padded
        return result[:-1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        in_plane, depth, rate, amplitudes = ctx.saved_tensors
        positional = _positional_gradients(in_plane, depth, rate, gradient, amplitudes, ctx.grid)
        return *positional, layer_sum(in_plane, depth, rate, gradient, ctx.grid), None


def _positional_gradients(
    in_plane: Tensor, depth: Tensor, rate: Tensor, moments: Tensor, amplitudes: Tensor, grid: LayerGrid
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the derivatives of ``Σ m_jc Re conj(A_nc) exp(…)`` by coordinates, depths and rates."""
    rotated = torch.stack([amplitudes[..., 1], -amplitudes[..., 0]], -1)  # -i A
    raised = [rotated * grid.turned[:, axis, None, None] for axis in range(2)]
    raised.append(amplitudes * rate[:, None, None])
    gathered = layer_gather(in_plane, depth, rate, torch.cat(raised, 1), grid)
    by_coordinate = (moments[:, None, :] * gathered.reshape(len(depth), 3, -1)).sum(-1)
    weighted = layer_sum(in_plane, depth, rate, moments * depth[:, None], grid)
    return by_coordinate[:, :2], by_coordinate[:, 2], (amplitudes * weighted).sum((1, 2))
