"""Which backend sums which structure of a batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lsf.electrostatics import gpu as kernels
from lsf.electrostatics.boundary import KIND_OPEN
from lsf.electrostatics.fourier import bins as fourier_bins
from lsf.electrostatics.fourier import blocks as fourier_blocks
from lsf.electrostatics.fourier import small as fourier_phases
from lsf.electrostatics.fourier.backends import AdjointPair, Arrange
from lsf.electrostatics.mesh import sums as mesh
from lsf.electrostatics.multipoles import monomials
from lsf.electrostatics.open_space import open_energy
from lsf.electrostatics.pairs.chunks import open_pair_energy
from lsf.electrostatics.pairs.matrices import open_matrix_energy
from lsf.electrostatics.plan.coulomb_plan import CoulombPlan
from lsf.machine.tracing import capturing

LISTED_ATOMS = 64
"""Open structures up to this size are summed over a list of pairs: the fewest calls."""

MATRIX_ATOMS = 400
"""Those up to this size as matrices over all atoms: the fewest operations. Larger ones in chunks, whose
memory does not grow with the number of pairs."""


class _Part(NamedTuple):
    """Some structures of a batch and the pair that sums them."""

    atoms: Tensor  # rows of the batch's atoms
    waves: Tensor  # rows of its wave vectors
    pair: AdjointPair


class PartedPair(NamedTuple):
    """Structures summed by different backends, or each on a mesh of its own."""

    n_atoms: int
    n_k: int
    parts: list[_Part]

    def sum(self, moments: Tensor, degree: int) -> Tensor:
        """Return type 1, see :class:`lsf.electrostatics.fourier.backends.AdjointPair`."""
        result = moments.new_zeros(self.n_k, 2)
        for part in self.parts:
            result[part.waves] = part.pair.sum(moments[part.atoms], degree)
        return result

    def gather(self, amplitudes: Tensor, degree: int) -> Tensor:
        """Return type 2, see :class:`lsf.electrostatics.fourier.backends.AdjointPair`."""
        result = amplitudes.new_zeros(self.n_atoms, len(monomials(degree)))
        for part in self.parts:
            result[part.atoms] = part.pair.gather(amplitudes[part.waves], degree)
        return result


@torch.no_grad()
def arrange(backend: str, fractional: Tensor, batch: Tensor, plan: CoulombPlan, meshed: bool) -> AdjointPair:
    """Arrange a batch for its Fourier sums: on meshes where the plan has them, else exactly.

    ``backend`` is the setting, ``meshed`` whether a structure may be on a mesh. Meshes are chosen with the
    plan; here only the exact sums are left to choose: the GPU kernel where it is asked for.
    """
    exact = exact_sums(backend)
    n_graphs = len(plan.kind)
    # in a captured graph the wave vectors of a mesh are summed exactly
    if capturing() or not meshed:
        return exact(fractional, batch, plan.k_triplets, plan.k_batch, n_graphs)
    on_mesh = (plan.mesh_order > 0).nonzero()[:, 0].tolist()
    parts = []
    for graph in on_mesh:
        atoms, waves = (batch == graph).nonzero()[:, 0], (plan.k_batch == graph).nonzero()[:, 0]
        size = (int(plan.mesh_size[graph, 0]), int(plan.mesh_size[graph, 1]), int(plan.mesh_size[graph, 2]))
        pair = mesh.arrange(fractional[atoms], plan.k_triplets[waves], size, int(plan.mesh_order[graph]))
        if n_graphs == 1:
            return pair
        parts.append(_Part(atoms, waves, pair))
    if len(on_mesh) < n_graphs:
        direct = plan.mesh_order == 0
        atoms, waves = direct[batch].nonzero()[:, 0], direct[plan.k_batch].nonzero()[:, 0]
        rest = exact(fractional[atoms], batch[atoms], plan.k_triplets[waves], plan.k_batch[waves], n_graphs)
        parts.append(_Part(atoms, waves, rest))
    return PartedPair(len(batch), len(plan.k_batch), parts)


def exact_sums(backend: str) -> Arrange:
    """Return what arranges exact sums for the setting ``backend``."""
    return kernels.arrange_kernel if backend == "kernel" else _arrange_direct


def _arrange_direct(
    fractional: Tensor, batch: Tensor, k_triplets: Tensor, k_batch: Tensor, n_graphs: int
) -> AdjointPair:
    """Arrange exact sums of plain tensors: by size with whole phases, in blocks or in bins."""
    if not capturing():
        phases = fourier_phases.phase_layout(batch, k_triplets, k_batch, n_graphs)
        if phases is not None:
            return fourier_phases.arrange(fractional, phases, len(k_batch))
        bins = fourier_bins.bin_layout(batch, k_triplets, k_batch, n_graphs)
        if bins is not None:
            return fourier_bins.arrange(fractional, bins)
    return fourier_blocks.arrange(fractional, batch, k_triplets, k_batch, n_graphs)


def open_pairs(
    backend: str, coefficients: Tensor, positions: Tensor, batch: Tensor, plan: CoulombPlan, sigma: float
) -> Tensor:
    """Return the energies of the pairs of open structures that are not on a mesh, (n_graphs,) [eV]."""
    if backend == "kernel":
        is_open = (plan.kind == KIND_OPEN) & (plan.mesh_order == 0)
        return kernels.kernel_open_energy(coefficients, positions, batch, is_open, sigma)
    if capturing():
        return open_energy(coefficients, positions, plan.open_pairs, batch, len(plan.kind), sigma)
    n_graphs = len(plan.kind)
    counts = torch.bincount(batch, minlength=n_graphs)
    paired = (plan.kind == KIND_OPEN) & (plan.mesh_order == 0)
    if not bool((paired & (counts > LISTED_ATOMS)).any()):
        return open_energy(coefficients, positions, plan.open_pairs, batch, n_graphs, sigma)
    listed, large = counts <= LISTED_ATOMS, counts > MATRIX_ATOMS
    energy = coefficients.new_zeros(n_graphs)
    if bool((paired & listed & (counts > 1)).any()):
        pairs = plan.open_pairs[:, listed[batch[plan.open_pairs[0]]]]
        energy = energy + open_energy(coefficients, positions, pairs, batch, n_graphs, sigma)
    for chosen, summed in (
        (paired & ~listed & ~large, open_matrix_energy),
        (paired & large, open_pair_energy),
    ):
        if bool(chosen.any()):
            energy = energy + summed(coefficients, positions, batch, chosen, sigma)
    return energy
