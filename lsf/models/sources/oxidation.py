"""Formal charges as input: their embedding, how it enters the features, and transfer along edges.

The embedding and the transfer use the same declared range of formal charges (a, b), mapped to
x = 2 (q⁰ - a)/(b - a) - 1, where the Chebyshev polynomials T_1 … T_8 stay within [-1, 1].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lsf.models.geometry import Edges
from lsf.models.irreps import Irreps
from lsf.models.linear import EquivariantLinear
from lsf.models.radial import RadialNetwork

N_CHEBYSHEV = 8
TRANSFER_SCALE = 1.0 / 40.0
"""Typical transfer per edge at initialisation, e: keeps untrained charges near the formal ones."""


class OxidationEmbedding(nn.Module):
    """Channels as a smooth function of the formal charge."""

    def __init__(self, channels: int, bounds: tuple[float, float]) -> None:
        super().__init__()
        self.low, self.high = bounds
        self.weight = nn.Parameter(torch.randn(N_CHEBYSHEV, channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, formal_charges: Tensor) -> Tensor:
        """Return ``(n_atoms, channels)``."""
        x = 2.0 * (formal_charges - self.low) / (self.high - self.low) - 1.0
        polynomials = [torch.ones_like(x), x]
        while len(polynomials) <= N_CHEBYSHEV:
            polynomials.append(2.0 * x * polynomials[-1] - polynomials[-2])
        basis = torch.stack(polynomials[1:], dim=1).to(self.weight.dtype)
        embedded: Tensor = basis @ self.weight / math.sqrt(N_CHEBYSHEV) + self.bias
        return embedded


class Mixer(nn.Module):
    """A way for formal charges into the initial scalars."""

    def forward(self, initial: Tensor, formal_charges: Tensor) -> Tensor:
        """Return ``(n_atoms, 1, channels)`` from ``initial`` of that shape and charges ``(n_atoms,)``."""
        raise NotImplementedError

    def make_neutral(self) -> None:
        """Let the initial features pass unchanged, until trained."""
        raise NotImplementedError


class NoMixer(Mixer):
    """Leaves the initial features alone."""

    def forward(self, initial: Tensor, formal_charges: Tensor) -> Tensor:
        """Return ``initial``."""
        return initial

    def make_neutral(self) -> None:
        """Do nothing: there is nothing to switch off."""


class SumMixer(Mixer):
    """Adds the embedding of the formal charge to the initial scalars."""

    def __init__(self, channels: int, bounds: tuple[float, float]) -> None:
        super().__init__()
        self.embedding = OxidationEmbedding(channels, bounds)

    def forward(self, initial: Tensor, formal_charges: Tensor) -> Tensor:
        """Return ``(n_atoms, 1, channels)``."""
        added: Tensor = self.embedding(formal_charges).unsqueeze(1)
        return initial + added

    def make_neutral(self) -> None:
        """Let the initial features pass unchanged, until trained."""
        nn.init.zeros_(self.embedding.weight)
        nn.init.zeros_(self.embedding.bias)


class ProductMixer(Mixer):
    """Multiplies the initial scalars by the embedding, channel by channel, and mixes channels."""

    def __init__(self, channels: int, bounds: tuple[float, float]) -> None:
        super().__init__()
        self.embedding = OxidationEmbedding(channels, bounds)
        self.linear = EquivariantLinear(Irreps(channels, (0,)), channels)

    def forward(self, initial: Tensor, formal_charges: Tensor) -> Tensor:
        """Return ``(n_atoms, 1, channels)``."""
        mixed: Tensor = self.linear(initial * self.embedding(formal_charges).unsqueeze(1))
        return mixed

    def make_neutral(self) -> None:
        """Let the initial features pass unchanged, until trained."""
        nn.init.zeros_(self.embedding.weight)
        nn.init.ones_(self.embedding.bias)
        with torch.no_grad():
            weight = self.linear.weight
            weight.copy_(torch.eye(weight.shape[1], dtype=weight.dtype) / self.linear.scale)


class SymmetricTransfer(nn.Module):
    r"""Charge moved along every directed edge, from features of both ends.

    .. math:: p_e = \tfrac{1}{40} \sum_{l,c} R_{lc}(r_e) \, b_{lc} \cdot Y_l(\hat r_e), \qquad
              b = A h_{sender} + B h_{receiver}

    The radial network is bias-free on the enveloped basis, so p_e vanishes smoothly at the cutoff.
    """

    def __init__(self, hidden: Irreps, n_radial: int, max_ell: int, width: int) -> None:
        super().__init__()
        self.degrees = tuple(degree for degree in hidden.degrees if degree <= max_ell)
        self.slices = hidden.slices()
        self.channels = hidden.channels
        self.sender = EquivariantLinear(hidden, hidden.channels)
        self.receiver = EquivariantLinear(hidden, hidden.channels)
        self.radial = RadialNetwork((n_radial, width, width, width))
        self.radial_out = nn.Parameter(torch.randn(width, len(self.degrees) * hidden.channels))
        self.scale = TRANSFER_SCALE / math.sqrt(width * len(self.degrees) * hidden.channels)

    def forward(self, features: Tensor, edges: Edges, formal_charges: Tensor) -> tuple[Tensor, Tensor]:
        """Return (transfer ``(n_edges,)`` in e from sender to receiver, features the dipoles see)."""
        sender, receiver = edges.edge_index[0], edges.edge_index[1]
        bond = self.sender(features).index_select(0, sender)
        bond = bond + self.receiver(features).index_select(0, receiver)
        weights = self.radial(edges.radial_basis) @ self.radial_out
        weights = weights.reshape(weights.shape[0], len(self.degrees), self.channels)
        amount = torch.zeros_like(weights[:, 0, 0])
        for index, degree in enumerate(self.degrees):
            harmonics = edges.harmonics[:, degree * degree : (degree + 1) ** 2]
            product = (bond[:, self.slices[degree]] * harmonics.unsqueeze(2)).sum(1)
            amount = amount + (product * weights[:, index]).sum(1) / math.sqrt(2 * degree + 1)
        return amount * self.scale, features


class OxidationDependentTransfer(nn.Module):
    """Symmetric transfer on features that are first multiplied by the embedded formal charge."""

    def __init__(
        self, hidden: Irreps, n_radial: int, max_ell: int, width: int, bounds: tuple[float, float]
    ) -> None:
        super().__init__()
        self.embedding = OxidationEmbedding(hidden.channels, bounds)
        self.linear = EquivariantLinear(hidden, hidden.channels)
        self.transfer = SymmetricTransfer(hidden, n_radial, max_ell, width)

    def forward(self, features: Tensor, edges: Edges, formal_charges: Tensor) -> tuple[Tensor, Tensor]:
        """Return (transfer ``(n_edges,)`` in e, dressed features)."""
        dressed = self.linear(features * self.embedding(formal_charges).unsqueeze(1))
        amount, _ = self.transfer(dressed, edges, formal_charges)
        return amount, dressed
