r"""The two Fourier sums of small structures: one matrix of phases per structure, and two products with it.

With :math:`\theta_{jn} = 2\pi\, n \cdot s_j` and W = (cos θ, sin θ),

.. math:: F_n = \sum_{abc} (-2\pi i\,n)^{abc} \sum_j m_j^{abc} (\cos\theta_{jn} - i \sin\theta_{jn})

is one product of the moments with W, times a polynomial in n, and the transposed sum one product of the
amplitudes times the polynomial with W. More operations than :mod:`lsf.electrostatics.fourier_blocks` needs,
in far fewer calls: what counts as long as W is small.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

from lsf.electrostatics.fourier_layout import remembered
from lsf.electrostatics.multipoles import monomials

STRUCTURE_TERMS: Final = 2**17
"""Structures with more terms (atoms times wave vectors) than this are left to blocks."""

BATCH_TERMS: Final = 2**20
"""So are batches with more padded terms: W holds two float64 of each (16 MB)."""

_SIGNS: Final = (1.0, -1.0, -1.0, 1.0)
"""Sign, by degree modulo four, of ``(-i)^degree`` with its i taken into the choice of cosine and sine."""


class PhaseLayout:
    """Which atoms and wave vectors belong together, padded; nothing here depends on a coordinate.

    ``atoms`` [a, j] and ``waves`` [a, n] are rows of the batch, one past the last where padded, and None for
    a single structure; ``turned`` [a, n, 3] float64 is 2π n, zero where padded.
    """

    def __init__(self, atoms: Tensor | None, waves: Tensor | None, turned: Tensor) -> None:
        self.atoms, self.waves, self.turned = atoms, waves, turned
        self._polynomials: dict[tuple[int, torch.dtype], Tensor] = {}

    def polynomials(self, degree: int, dtype: torch.dtype) -> Tensor:
        """Return ``± (2π n)^abc``, [a, c, n]; made once for every degree."""
        key = (degree, dtype)
        if key not in self._polynomials:
            exponents = torch.tensor(monomials(degree), device=self.turned.device)
            powers = torch.stack([self.turned**order for order in range(degree + 1)])  # [order, a, n, 3]
            product = powers[exponents[:, 0], :, :, 0]
            for axis in (1, 2):
                product = product * powers[exponents[:, axis], :, :, axis]
            signs = self.turned.new_tensor([_SIGNS[sum(e) % 4] for e in monomials(degree)])
            self._polynomials[key] = (product * signs[:, None, None]).transpose(0, 1).to(dtype)
        return self._polynomials[key]


@lru_cache
def _parities(degree: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the parity of every monomial (n_monomials,) and the matrix (2, n_monomials) that sums by it."""
    parity = torch.tensor([sum(exponents) % 2 for exponents in monomials(degree)], device=device)
    return parity, torch.stack([parity == 0, parity == 1]).to(dtype)


class PhasePair:
    """The sums over one batch, :class:`lsf.electrostatics.backends.AdjointPair`."""

    def __init__(self, n_atoms: int, n_k: int, layout: PhaseLayout, phases: Tensor) -> None:
        self.n_atoms, self.n_k = n_atoms, n_k
        self._layout, self._phases = layout, phases  # [a, j, (t, n)]

    def sum(self, moments: Tensor, degree: int) -> Tensor:
        """Return type 1, (n_k, 2)."""
        padded = _padded(moments, self._layout.atoms)
        summed = torch.bmm(padded.transpose(1, 2), self._phases).unflatten(2, (2, -1))  # [a, c, t, n]
        summed = summed * self._layout.polynomials(degree, moments.dtype)[:, :, None]
        by_parity = _parities(degree, moments.dtype, moments.device)[1] @ summed.flatten(2)
        even, odd = by_parity.unflatten(2, (2, -1)).unbind(1)
        values = torch.stack([even[:, 0] + odd[:, 1], odd[:, 0] - even[:, 1]], -1)
        return _unpadded(values, self._layout.waves, self.n_k)

    def gather(self, amplitudes: Tensor, degree: int) -> Tensor:
        """Return type 2, (n_atoms, n_monomials(degree))."""
        real, imaginary = _padded(amplitudes, self._layout.waves).unbind(2)
        sources = torch.stack([real, -imaginary, imaginary, real], 1).unflatten(
            1, (2, 2)
        )  # [a, parity, t, n]
        parity = _parities(degree, amplitudes.dtype, amplitudes.device)[0]
        polynomials = self._layout.polynomials(degree, amplitudes.dtype)
        weights = sources.index_select(1, parity) * polynomials[:, :, None]
        # few rows times many columns: half the time of the transposed product
        gathered = torch.bmm(weights.flatten(2), self._phases.transpose(1, 2)).transpose(1, 2)
        return _unpadded(gathered, self._layout.atoms, self.n_atoms)


def _padded(values: Tensor, rows: Tensor | None) -> Tensor:
    if rows is None:
        return values[None]
    return torch.cat([values, values.new_zeros(1, values.shape[1])])[rows]


def _unpadded(values: Tensor, rows: Tensor | None, n_rows: int) -> Tensor:
    if rows is None:
        return values[0]
    result = values.new_zeros(n_rows + 1, values.shape[2])
    result[rows] = values
    return result[:-1]


@torch.no_grad()
def arrange(fractional: Tensor, layout: PhaseLayout, n_k: int) -> PhasePair:
    """Return the pair of a layout's atoms at ``fractional`` (n_atoms, 3)."""
    reduced = fractional.double()
    reduced = _padded(reduced - reduced.round(), layout.atoms)
    phases = reduced.new_empty(*reduced.shape[:2], 2, layout.turned.shape[1])
    for positions, turned, out in zip(reduced, layout.turned, phases, strict=True):
        angles = positions @ turned.T  # of one structure at a time: they stay in cache
        torch.cos(angles, out=out[:, 0])
        torch.sin(angles, out=out[:, 1])
    return PhasePair(len(fractional), n_k, layout, phases.flatten(2).to(fractional.dtype))


@remembered
def phase_layout(batch: Tensor, k_triplets: Tensor, k_batch: Tensor, n_graphs: int) -> PhaseLayout | None:
    """Return the layout of a batch, None where its structures are too large or too uneven.

    Arguments as those of :class:`lsf.electrostatics.backends.Arrange`.
    """
    turned = (2.0 * math.pi) * k_triplets.double()
    if n_graphs == 1:
        small = len(batch) * len(k_batch) <= STRUCTURE_TERMS
        return PhaseLayout(None, None, turned[None]) if small else None
    n_atoms, n_waves = (torch.bincount(owner, minlength=n_graphs) for owner in (batch, k_batch))
    chosen = (n_waves > 0).nonzero()[:, 0]
    atoms, waves = _rows(n_atoms, chosen), _rows(n_waves, chosen)
    terms = atoms.shape[1] * waves.shape[1]
    if terms > STRUCTURE_TERMS or terms * len(chosen) > BATCH_TERMS:
        return None
    return PhaseLayout(atoms, waves, _padded(turned, waves))


def _rows(counts: Tensor, chosen: Tensor) -> Tensor:
    """Return rows [a, i] of the members of the chosen structures, one past the last row where padded."""
    first = torch.cumsum(counts, 0) - counts
    slots = torch.arange(int(counts[chosen].max()), device=counts.device)
    return torch.where(slots < counts[chosen, None], first[chosen, None] + slots, int(counts.sum()))
