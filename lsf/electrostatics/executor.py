"""What evaluates the two heavy sums of a Coulomb energy, chosen once for a call.

Reciprocal and pair sums have hand-written derivatives in Python (``autograd.Function``, any order). Where a
graph leaves Python, the modules of :mod:`lsf.electrostatics.exported` take their place.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from lsf.electrostatics.exported import recorded, torchscript
from lsf.electrostatics.fourier.dispatch import arrange, open_pairs
from lsf.electrostatics.fourier.pair import fourier_sum
from lsf.electrostatics.plan.coulomb_plan import CoulombPlan
from lsf.machine.tracing import recording, scripting


class Executor(Protocol):
    """The two sums over the atoms of a batch."""

    def reciprocal_energy(
        self,
        fractional: Tensor,
        moments: Tensor,
        weights: Tensor,
        batch: Tensor,
        plan: CoulombPlan,
        degree: int,
    ) -> Tensor:
        r"""Return ``Σ_n w_n |F_n|²`` over the half space, (n_graphs,) [eV].

        ``fractional`` (n_atoms, 3), any period; ``moments`` (n_atoms, n_monomials(degree)) [e]; ``weights``
        (n_k,) [eV/e²] of the plan's ``k_triplets``; ``batch`` (n_atoms,).
        """

    def open_energy(
        self, coefficients: Tensor, positions: Tensor, batch: Tensor, plan: CoulombPlan, smearing_width: float
    ) -> Tensor:
        """Return the energy of the pairs of open structures that are not on a mesh, (n_graphs,) [eV].

        ``coefficients`` (n_atoms, (L+1)^2) [e Å^l], ``positions`` (n_atoms, 3) [Å].
        """


class PythonExecutor(NamedTuple):
    """The sums in Python; ``meshed`` says whether a structure of the batch may be on a mesh."""

    backend: str
    meshed: bool

    def reciprocal_energy(
        self,
        fractional: Tensor,
        moments: Tensor,
        weights: Tensor,
        batch: Tensor,
        plan: CoulombPlan,
        degree: int,
    ) -> Tensor:
        """Return what :class:`Executor` states."""
        pair = arrange(self.backend, fractional, batch, plan, self.meshed)
        terms = weights * fourier_sum(fractional, moments, pair, degree).square().sum(-1)
        return terms.new_zeros(plan.kind.shape[0]).index_add(0, plan.k_batch, terms)

    def open_energy(
        self, coefficients: Tensor, positions: Tensor, batch: Tensor, plan: CoulombPlan, smearing_width: float
    ) -> Tensor:
        """Return what :class:`Executor` states."""
        return open_pairs(self.backend, coefficients, positions, batch, plan, smearing_width)


def executor(backend: str, meshed: bool) -> Executor:
    """Return what evaluates the sums here: in Python, or as part of a graph that is being captured."""
    if scripting():
        return torchscript
    if recording():
        return recorded
    return PythonExecutor(backend, meshed)
