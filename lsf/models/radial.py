"""Radial functions of an edge: their basis, smooth envelope, and the network that mixes them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

SILU_SCALE = 1.676532470331091
"""``E[silu(z)²]^(-1/2)`` for z ~ N(0, 1): keeps activations at unit second moment."""


def polynomial_cutoff(ratio: Tensor, exponent: int) -> Tensor:
    r"""Envelope that is 1 at r = 0 and 0, with two continuous derivatives, from r = r_max on.

    .. math:: 1 - \tfrac{(p+1)(p+2)}{2} x^p + p(p+2) x^{p+1} - \tfrac{p(p+1)}{2} x^{p+2}

    Gasteiger et al., arXiv:2003.03123, eq. (8). ``ratio`` is r/r_max.
    """
    p = float(exponent)
    power = ratio**exponent
    value = 1.0 - power * (
        (p + 1.0) * (p + 2.0) / 2.0 - ratio * (p * (p + 2.0) - ratio * (p * (p + 1.0) / 2.0))
    )
    return value * (ratio < 1.0)


class AgnesiTransform(nn.Module):
    r""":math:`1 / (1 + a x^q / (1 + x^{q-p}))` of x = r/r₀, with r₀ half the bond length.

    It spreads the distances around a bond of either size over the same range. Witt et al.,
    doi:10.1063/5.0158783; the constants are those of mace-torch and part of the model file.
    """

    constants: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("constants", torch.tensor([1.0805, 0.9183, 4.5791], dtype=torch.float64))

    def forward(self, lengths: Tensor, bond_lengths: Tensor) -> Tensor:
        """Return values from 1 (r = 0) to 0, without unit; both arguments in Å."""
        a, q, p = self.constants[0], self.constants[1], self.constants[2]
        x = lengths / (0.5 * bond_lengths)
        return 1.0 / (1.0 + a * torch.pow(x, q) / (1.0 + torch.pow(x, q - p)))


class SoftTransform(nn.Module):
    r""":math:`p_0 + (r - p_0) \tfrac12 [1 + \tanh(α (r - m)/(p_1 - p_0))]`: r, but no less than about p₀.

    p₀ and p₁ are 3/4 and 4/3 of the bond length, m their mean. As in mace-torch; α is part of the model file.
    """

    constants: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("constants", torch.tensor([4.0], dtype=torch.float64))

    def forward(self, lengths: Tensor, bond_lengths: Tensor) -> Tensor:
        """Return lengths in Å."""
        low, high = 0.75 * bond_lengths, bond_lengths * (4.0 / 3.0)
        steepness = self.constants[0] / (high - low)
        switch = 0.5 * (1.0 + torch.tanh(steepness * (lengths - 0.5 * (low + high))))
        return low + (lengths - low) * switch


TRANSFORMS: Final = {"agnesi": AgnesiTransform, "soft": SoftTransform}
"""Transforms of the distance by the name an option gives them."""


class RadialBasis(nn.Module):
    """``n_radial`` functions of the distance times the envelope; zero from ``r_max`` on.

    Where there is a ``transform``, the functions see the transformed distance, the envelope the distance.
    """

    transform: nn.Module | None

    def __init__(self, r_max: float, cutoff_p: int) -> None:
        super().__init__()
        self.r_max = r_max
        self.cutoff_p = cutoff_p
        self.transform = None

    def forward(self, lengths: Tensor, bond_lengths: Tensor | None = None) -> Tensor:
        """Return ``(n_edges, n_radial)`` for lengths ``(n_edges,)`` in Å; transforms need bond lengths."""
        r = lengths.unsqueeze(-1)
        envelope = polynomial_cutoff(r / self.r_max, self.cutoff_p)
        if self.transform is not None:
            assert bond_lengths is not None, "the transform of distances needs bond lengths"
            r = self.transform(lengths, bond_lengths).unsqueeze(-1)
        return self.functions(r) * envelope

    def slopes(self, lengths: Tensor, bond_lengths: Tensor | None = None) -> Tensor:
        """Return the derivatives of all functions by the length, ``(n_edges, n_radial)`` in 1/Å.

        They are the derivative by v of ``Σ_n v_n d/dr basis_n``, which is linear in v.
        """
        with torch.enable_grad():
            r = lengths.detach().requires_grad_(True)
            basis = self.forward(r, bond_lengths)
            v = torch.zeros_like(basis).requires_grad_(True)
            (along,) = torch.autograd.grad(basis, r, v, create_graph=True)
            (slopes,) = torch.autograd.grad(along.sum(), v)
        return slopes

    def functions(self, r: Tensor) -> Tensor:
        """Return the functions without envelope, ``(n_edges, n_radial)``, for ``r`` ``(n_edges, 1)``."""
        raise NotImplementedError


class BesselBasis(RadialBasis):
    r""":math:`\sqrt{2/r_{max}}\,\sin(n\pi r/r_{max})/r`, n = 1, 2, …

    Gasteiger et al., arXiv:2003.03123, eqs. (7) and (8).
    """

    frequencies: Tensor

    def __init__(self, r_max: float, n_radial: int, cutoff_p: int) -> None:
        super().__init__(r_max, cutoff_p)
        frequencies = torch.arange(1, n_radial + 1, dtype=torch.float64) * (math.pi / r_max)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def functions(self, r: Tensor) -> Tensor:
        """Return the Bessel functions."""
        return math.sqrt(2.0 / self.r_max) * torch.sin(self.frequencies.to(r.dtype) * r) / r


class GaussianBasis(RadialBasis):
    r""":math:`e^{-(r - r_n)^2 / 2 w^2}` with centres from 0 to ``r_max`` a width w apart."""

    centers: Tensor

    def __init__(self, r_max: float, n_radial: int, cutoff_p: int) -> None:
        super().__init__(r_max, cutoff_p)
        self.width = r_max / max(1, n_radial - 1)
        self.register_buffer(
            "centers", torch.arange(n_radial, dtype=torch.float64) * self.width, persistent=False
        )

    def functions(self, r: Tensor) -> Tensor:
        """Return the Gaussians."""
        return torch.exp(-0.5 * ((r - self.centers.to(r.dtype)) / self.width) ** 2)


class ChebyshevBasis(RadialBasis):
    r"""Chebyshev polynomials :math:`T_n(2 r/r_{max} - 1)`, n = 1, 2, …, which stay within ±1."""

    def __init__(self, r_max: float, n_radial: int, cutoff_p: int) -> None:
        super().__init__(r_max, cutoff_p)
        self.n_radial = n_radial

    def functions(self, r: Tensor) -> Tensor:
        """Return the polynomials, by their recursion."""
        x = 2.0 * r / self.r_max - 1.0
        polynomials = [torch.ones_like(x), x]
        while len(polynomials) <= self.n_radial:
            polynomials.append(2.0 * x * polynomials[-1] - polynomials[-2])
        return torch.cat(polynomials[1:], dim=-1)


RADIAL_BASES: Final = {"bessel": BesselBasis, "gaussian": GaussianBasis, "chebyshev": ChebyshevBasis}
"""Radial functions by the name an option gives them."""


class RadialNetwork(nn.Module):
    """Bias-free layers with silu, so that an input of zero (beyond the cutoff) gives exactly zero.

    Weights are unit normal and divided by the square root of the fan-in at run time.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(fan_in, fan_out)) for fan_in, fan_out in itertools.pairwise(widths)
        )

    def forward(self, basis: Tensor) -> Tensor:
        """Return ``(n_edges, widths[-1])``, of unit second moment where the input is."""
        hidden = basis
        for weight in self.weights:
            hidden = SILU_SCALE * nn.functional.silu(hidden @ weight / math.sqrt(weight.shape[0]))
        return hidden

    def scaled_weights(self) -> list[Tensor]:
        """Return the weights with all scales but :data:`SILU_SCALE` of the last layer inside.

        ``silu(… silu(basis @ w_1) @ w_2 …)`` then is :meth:`forward` without that last factor.
        """
        return [
            weight * ((SILU_SCALE if layer else 1.0) / math.sqrt(weight.shape[0]))
            for layer, weight in enumerate(self.weights)
        ]
