r"""The two Fourier sums of small structures: one matrix of phases per structure, and two products with it.

With :math:`\theta_{jn} = 2\pi\, n \cdot s_j` and W = (cos θ, sin θ),

.. math:: F_n = \sum_{abc} (-2\pi i\,n)^{abc} \sum_j m_j^{abc} (\cos\theta_{jn} - i \sin\theta_{jn})

is one product of the moments with W, times a polynomial in n, and the transposed sum one product of the
amplitudes times the polynomial with W. More operations than :mod:`lsf.electrostatics.fourier.blocks` needs,
in far fewer calls: what counts as long as W is small. W itself is made of products of the phases along each
axis, n = (h, k, l): cosines and sines are taken of the axes' alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from lsf.electrostatics.fourier.layout import remembered
from lsf.electrostatics.multipoles import monomials
from lsf.machine.caches import Pool, constant, kept_scratch

STRUCTURE_TERMS: Final = 2**17
"""Structures with more terms (atoms times wave vectors) than this are left to blocks."""

BATCH_TERMS: Final = 2**20
"""So are batches with more padded terms: W holds two float64 of each (16 MB)."""

CHUNK_ELEMENTS = 2**17
"""Phases made at a time, some structures: five arrays of this size are kept (5 MB)."""

FEW_PHASES = 2**17
"""So many cosines and sines cost less than the calls that avoid them."""

_SIGNS: Final = (1.0, -1.0, -1.0, 1.0)
"""Sign, by degree modulo four, of ``(-i)^degree`` with its i taken into the choice of cosine and sine."""


class PhaseLayout:
    """Which atoms and wave vectors belong together, padded; nothing here depends on a coordinate.

    ``atoms`` [a, j] and ``waves`` [a, n] are rows of the batch, one past the last where padded, and None for
    a single structure; ``triplets`` [a, n, 3] int64, zero where padded.
    """

    def __init__(self, atoms: Tensor | None, waves: Tensor | None, triplets: Tensor) -> None:
        self.atoms, self.waves = atoms, waves
        self.turned = (2.0 * math.pi) * triplets.double()
        flat = triplets.flatten(0, 1)
        low, high = ([0] * 3, [0] * 3) if not len(flat) else (flat.amin(0).tolist(), flat.amax(0).tolist())
        self.axes = [
            (2.0 * math.pi) * torch.arange(first, last + 1, dtype=torch.float64, device=flat.device)
            for first, last in zip(low, high, strict=True)
        ]
        h, k, l = (triplets - torch.tensor(low, device=flat.device)).unbind(2)  # noqa: E741 - Miller index
        self.columns, self.rows = h * len(self.axes[1]) + k, l
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


@constant
def _parities(degree: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the parity of every monomial (n_monomials,) and the matrix (2, n_monomials) that sums by it."""
    parity = torch.tensor([sum(exponents) % 2 for exponents in monomials(degree)], device=device)
    return parity, torch.stack([parity == 0, parity == 1]).to(dtype)


_pool: Final = Pool()  # fresh pages would cost as much as all cosines and sines


class PhasePair:
    """The sums over one batch, :class:`lsf.electrostatics.fourier.backends.AdjointPair`."""

    def __init__(self, n_atoms: int, layout: PhaseLayout, n_k: int, dtype: torch.dtype) -> None:
        self.n_atoms, self.n_k = n_atoms, n_k
        self._layout = layout
        n_structures, n_waves, _ = layout.turned.shape
        width = n_atoms if layout.atoms is None else layout.atoms.shape[1]
        size = n_structures * 2 * n_waves * width
        self._memory = _pool.take(layout.turned.new_empty(0, dtype=dtype), size)
        self._phases = self._memory[:size].view(n_structures, 2, n_waves, width)  # [a, t, n, j]

    def __del__(self) -> None:
        _pool.give_back(self._memory)

    def fill(self, reduced: Tensor) -> None:
        """Make the phases of atoms at ``reduced`` [a, j, 3] float64."""
        layout = self._layout
        if self._phases.dtype == reduced.dtype and self._phases.numel() <= FEW_PHASES:
            angles = torch.bmm(layout.turned, reduced.transpose(1, 2))
            torch.cos(angles, out=self._phases[:, 0])
            torch.sin(angles, out=self._phases[:, 1])
            return
        x, y, z = (
            _turned(steps[:, None] * reduced[:, None, :, axis]) for axis, steps in enumerate(layout.axes)
        )  # cosines and sines [a, h, j]
        scratch = kept_scratch("phases", reduced)
        n_columns, n_rows = len(layout.axes[0]) * len(layout.axes[1]), len(layout.axes[2])
        n_waves, n_atoms = self._phases.shape[2:]
        step = max(1, CHUNK_ELEMENTS // (n_waves * n_atoms))  # what stays in cache
        for start in range(0, len(reduced), step):
            chosen = slice(start, start + step)
            out = self._phases[chosen].transpose(0, 1)  # [t, a, n, j]
            shape = out.shape[1:]
            first, second = [part[chosen, :, None] for part in x], [part[chosen, None] for part in y]
            plane = scratch("plane", 2, shape[0], len(layout.axes[0]), len(layout.axes[1]), n_atoms)
            _product(first, second, plane)
            tables = (*plane.view(2, -1, n_atoms), *(part[chosen].flatten(0, 1) for part in z))
            graphs = torch.arange(shape[0], device=out.device)[:, None]
            column = (layout.columns[chosen] + graphs * n_columns).flatten()
            row = (layout.rows[chosen] + graphs * n_rows).flatten()
            factors = [
                torch.index_select(table, 0, place, out=scratch(str(n), len(place), n_atoms)).view(shape)
                for n, (table, place) in enumerate(zip(tables, (column, column, row, row), strict=True))
            ]
            exact = out if out.dtype == reduced.dtype else scratch("out", *out.shape)
            _product(factors[:2], factors[2:], exact)
            if exact is not out:
                out.copy_(exact)

    def sum(self, moments: Tensor, degree: int) -> Tensor:
        """Return type 1, (n_k, 2)."""
        padded = _padded(moments, self._layout.atoms).transpose(1, 2)
        summed = torch.bmm(padded, self._phases.flatten(1, 2).transpose(1, 2))
        summed = summed.unflatten(2, (2, -1)) * self._layout.polynomials(degree, moments.dtype)[:, :, None]
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
        gathered = torch.bmm(weights.flatten(2), self._phases.flatten(1, 2)).transpose(1, 2)
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


def _product(first: Sequence[Tensor], second: Sequence[Tensor], out: Tensor) -> Tensor:
    """Write cosine and sine of the sum of two angles to ``out``, from the cosine and sine of each."""
    torch.mul(first[0], second[0], out=out[0]).addcmul_(first[1], second[1], value=-1.0)
    torch.mul(first[0], second[1], out=out[1]).addcmul_(first[1], second[0])
    return out


def _turned(angles: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cos(angles), torch.sin(angles)


@torch.no_grad()
def arrange(fractional: Tensor, layout: PhaseLayout, n_k: int) -> PhasePair:
    """Return the pair of a layout's atoms at ``fractional`` (n_atoms, 3)."""
    pair = PhasePair(len(fractional), layout, n_k, fractional.dtype)
    reduced = fractional.double()
    pair.fill(_padded(reduced - reduced.round(), layout.atoms))
    return pair


@remembered
def phase_layout(batch: Tensor, k_triplets: Tensor, k_batch: Tensor, n_graphs: int) -> PhaseLayout | None:
    """Return the layout of a batch, None where its structures are too large or too uneven.

    Arguments as those of :class:`lsf.electrostatics.fourier.backends.Arrange`.
    """
    if n_graphs == 1:
        small = len(batch) * len(k_batch) <= STRUCTURE_TERMS
        return _sparing(PhaseLayout(None, None, k_triplets[None])) if small else None
    n_atoms, n_waves = (torch.bincount(owner, minlength=n_graphs) for owner in (batch, k_batch))
    chosen = (n_waves > 0).nonzero()[:, 0]
    atoms, waves = _rows(n_atoms, chosen), _rows(n_waves, chosen)
    terms = atoms.shape[1] * waves.shape[1]
    if terms > STRUCTURE_TERMS or terms * len(chosen) > BATCH_TERMS:
        return None
    return _sparing(PhaseLayout(atoms, waves, _padded(k_triplets, waves)))


def _sparing(layout: PhaseLayout) -> PhaseLayout | None:
    """Return the layout, None where its cells are so unlike that the tables would exceed the phases."""
    columns = len(layout.axes[0]) * len(layout.axes[1])
    return layout if columns <= 2 * layout.turned.shape[1] + 16 else None


def _rows(counts: Tensor, chosen: Tensor) -> Tensor:
    """Return rows [a, i] of the members of the chosen structures, one past the last row where padded."""
    first = torch.cumsum(counts, 0) - counts
    slots = torch.arange(int(counts[chosen].max()), device=counts.device)
    return torch.where(slots < counts[chosen, None], first[chosen, None] + slots, int(counts.sum()))
