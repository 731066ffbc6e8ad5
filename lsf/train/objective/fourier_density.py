"""Loss term that compares densities, not atoms: Fourier coefficients of the Gaussian multipole density.

Charges and dipoles that trade places between neighbouring atoms give almost the same density; this term
does not punish that, while a term on the multipoles themselves does.
"""

from __future__ import annotations

import math
from typing import Literal

import attrs
import torch
from torch import Tensor

from lsf.electrostatics.fourier.blocks import arrange
from lsf.electrostatics.fourier.pair import fourier_sum
from lsf.electrostatics.lattice import build_lattice
from lsf.electrostatics.multipoles import fractional_moments, max_degree
from lsf.electrostatics.plan.coulomb_plan import CoulombPlan
from lsf.machine.geometric import Batch
from lsf.options import above, option
from lsf.train.objective.labels import Predictions, compare
from lsf.train.objective.losses import Loss, Term


@attrs.frozen
class FourierDensityOptions:
    """How much a wave vector of length k counts; all forms are 1 up to k_min."""

    form: Literal["poly", "gaussian", "exponential"] = option(
        "Fall-off beyond k_min: poly (k_min/k)^(2 alpha), gaussian exp(-alpha (k² - k_min²)), exponential "
        "exp(-alpha (k - k_min)). poly with alpha = 1 weighs like the Coulomb energy.",
        default="poly",
    )
    alpha: float = option(
        "How fast the weight falls: a pure number for poly, Å² for gaussian, Å for exponential. Larger looks "
        "at the long range only.",
        default=1.0,
        validator=above(0.0),
    )
    k_min: float = option(
        "Length in 1/Å up to which all wave vectors count alike. It keeps the few longest waves of a large "
        "cell from outweighing all others.",
        default=1.0,
        validator=above(0.0),
    )

    def weights(self, k: Tensor) -> Tensor:
        """Return the weight of wave vectors of length ``k`` (n_k,) 1/Å."""
        beyond = k.clamp(min=self.k_min)
        if self.form == "poly":
            return (self.k_min / beyond) ** (2.0 * self.alpha)
        if self.form == "gaussian":
            return torch.exp(-self.alpha * (beyond.square() - self.k_min**2))
        return torch.exp(-self.alpha * (beyond - self.k_min))


class FourierDensityLoss(Loss):
    r"""Squared error of the density's Fourier coefficients, e², a mean over labelled frames' wave vectors.

    .. math:: f(k)\, |\rho(k) - \hat\rho(k)|^2, \qquad
              \rho(k) = e^{-\sigma^2 k^2/2} \sum_i (q_i - i k \cdot p_i + \dots)\, e^{-i k \cdot r_i}

    over half the wave vectors of the structure's Coulomb sum. The coefficients are linear in the multipoles,
    so the difference is that of one sum. Open structures have no wave vectors and do not count.
    """

    needs = "atomic_multipoles"
    ingredients = ("wave_vectors",)

    def term(self, predictions: Predictions, batch: Batch) -> Term:
        """Return sum and count over the wave vectors of the labelled frames (scalars)."""
        difference = compare(self.needs, predictions, batch).difference().to(torch.float64)
        plan = CoulombPlan(*(batch[name] for name in CoulombPlan._fields))
        if plan.k_triplets.shape[0] == 0:
            return Term(difference.sum() * 0.0, difference.new_zeros(()))
        lattice = build_lattice(batch.cell, plan)
        inverse = lattice.inverse[batch.batch]
        fractional = torch.einsum("na,nab->nb", batch.positions, inverse)
        moments = fractional_moments(difference, inverse)
        pair = arrange(fractional, batch.batch, plan.k_triplets, plan.k_batch, len(plan.kind))
        amplitudes = fourier_sum(fractional, moments, pair, max_degree(difference))
        triplets = plan.k_triplets.to(torch.float64)
        vectors = 2.0 * math.pi * torch.einsum("ka,kxa->kx", triplets, lattice.inverse[plan.k_batch])
        k = torch.linalg.vector_norm(vectors, dim=-1)
        factors = self.options.weights(k) * torch.exp(-((self.settings.smearing_width * k) ** 2))
        weight = batch.weight_atomic_multipoles[plan.k_batch]
        squares = (weight * factors * amplitudes.square().sum(-1)).sum()
        return Term(squares, (weight > 0.0).sum().to(torch.float64))
