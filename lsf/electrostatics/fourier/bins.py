r"""Direct Fourier sums of one large structure: atoms in thin bins, the third axis in Chebyshev polynomials.

In a bin around z_0 of half width w, with :math:`u = (s_3 - z_0)/w` and :math:`\theta_l = 2\pi l w`, the
tables of :mod:`lsf.electrostatics.fourier.blocks` along the third axis are, to rounding, a few polynomials
(Jacobi and Anger; Abramowitz and Stegun, Handbook of Mathematical Functions, 9.1.42 to 9.1.45):

.. math:: e^{i\theta_l u} = \sum_{m < p} (2 - \delta_{m0})\, i^m J_m(\theta_l)\, T_m(u)

Bins are so thin that p is 15 to 30, however many wave vectors there are: sums over atoms run over (h, m, k)
in place of (h, l, k), which is what makes it faster than blocks; what is left per bin is to go from m to l.

======  ====================================================================
index   runs over
======  ====================================================================
j       atoms, in the order of their bins
t       cosine, sine
m       Chebyshev polynomials
a b c   order of the derivative by the first, second, third coordinate
======  ====================================================================
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor

from lsf.electrostatics.fourier.blocks import derivative_table, differentiated, moment_columns, phase_table
from lsf.electrostatics.fourier.layout import remembered, sum_places
from lsf.machine.caches import Scratch, constant, large_constant

SMALLEST_ANGLE: Final = 1.0
"""Half width of the thinnest bins, as a phase of the highest wave vector: thinner ones hardly need less."""

LARGEST_ANGLE: Final = 4.0
"""That of the widest: where even they would hold fewer than BIN_ATOMS atoms, blocks are left to do it."""

BIN_ATOMS: Final = 120
"""Atoms of a bin, in the mean, that repay the way from m to l."""

FEWEST_WAVES: Final = 14
"""Blocks are as good where the highest l is below this,"""

FEWEST_COLUMNS: Final = 100
"""and where there are fewer (h, k), both from zero, than this: too little work for the calls of a bin."""

CHUNK_ELEMENTS: Final = 2**18
"""Numbers (j, a, m, t k) worked on at a time, two megabytes."""


class BinLayout(NamedTuple):
    """Where the real sums [t h, t l, t k] of all wave vectors are; nothing here depends on a coordinate."""

    n_bins: int
    bounds: tuple[int, int, int]  # largest abs(h), abs(k), abs(l)
    place: Tensor  # (n_k, 8) int64, terms of real, then imaginary part among the flat real sums
    signs: Tensor  # (n_k, 8) float64, of these terms

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the numbers of tables along h, l, k."""
        h, k, l = (2 * (bound + 1) for bound in self.bounds)  # noqa: E741 - Miller index
        return h, l, k


@remembered
def bin_layout(batch: Tensor, k_triplets: Tensor, _: Tensor, n_graphs: int) -> BinLayout | None:
    """Return the layout of a structure that is worth it on a CPU, None for others and for batches.

    Arguments as those of :class:`lsf.electrostatics.fourier.backends.Arrange`.
    """
    if n_graphs > 1 or not len(k_triplets) or batch.device.type != "cpu":
        return None
    absolute = k_triplets.abs()
    h, k, l = (int(bound) for bound in absolute.amax(0))  # noqa: E741 - Miller index
    n_bins = min(math.ceil(math.pi * l / SMALLEST_ANGLE), len(batch) // BIN_ATOMS)
    n_h, n_k, n_l = h + 1, k + 1, l + 1
    if l < FEWEST_WAVES or n_h * n_k < FEWEST_COLUMNS or math.pi * l > LARGEST_ANGLE * n_bins:
        return None
    steps = torch.tensor([4 * n_l * n_k, 1, 2 * n_k])
    sines = (4 * n_h * n_l * n_k, n_k, 2 * n_l * n_k)
    return BinLayout(n_bins, (h, k, l), *sum_places(k_triplets, (absolute * steps).sum(1), sines))


class BinnedPair:
    """The sums over one structure, :class:`lsf.electrostatics.fourier.backends.AdjointPair`."""

    def __init__(self, layout: BinLayout, fractional: Tensor) -> None:
        self.n_atoms, self.n_k = len(fractional), len(layout.place)
        self._layout, n_bins = layout, layout.n_bins
        reduced = fractional.double()
        reduced = reduced - reduced.floor()
        bins = (reduced[:, 2] * n_bins).long().clamp(max=n_bins - 1)
        counts = torch.bincount(bins, minlength=n_bins).tolist()
        self._bins = [(n, count) for n, count in enumerate(counts) if count]
        self._atoms = bins.argsort(stable=True)
        reduced = reduced[self._atoms]
        self._offsets = 2.0 * (reduced[:, 2] * n_bins - bins[self._atoms]) - 1.0  # -1 … 1 in every bin
        self._x, self._y = (
            phase_table(reduced[:, axis], layout.bounds[axis]).to(fractional.dtype) for axis in (0, 1)
        )  # [j, t, n]

    def sum(self, moments: Tensor, degree: int) -> Tensor:
        """Return type 1, (n_k, 2)."""
        n_h, n_l, n_k = self._layout.shape
        n_orders = degree + 1
        polynomials, to_l = self._polynomials(degree)
        n_m = polynomials.shape[2]
        columns = torch.cat([moments, moments.new_zeros(len(moments), 1)], 1)[self._atoms]
        columns = columns[:, moment_columns(degree)[0]].unflatten(1, (n_orders,) * 3)  # [j, c, b, a]
        columns = columns.permute(0, 3, 2, 1).flatten(1, 2)  # [j, a b, c]
        sums = moments.new_zeros(n_h, n_l, n_orders * n_k)
        scratch = Scratch(moments)
        for n, chunks in self._chunks(n_orders * n_m * n_k):
            total = scratch("total", n_h, n_m * n_orders * n_k)
            for i, rows in enumerate(chunks):
                y = derivative_table(self._y[rows], degree).flatten(2)  # [j, b, t k]
                weights = torch.bmm(columns[rows], polynomials[rows])  # [j, a b, m]
                weights = weights.unflatten(1, (n_orders, n_orders)).permute(0, 3, 1, 2)
                outer = scratch("outer", len(y), n_m * n_orders, n_k)  # [j, m a, t k]
                torch.bmm(weights.reshape(len(y), n_m * n_orders, n_orders), y, out=outer)
                total.addmm_(self._x[rows].flatten(1).T, outer.flatten(1), beta=1.0 if i else 0.0)
            sums.baddbmm_(to_l[n].expand(n_h, -1, -1), total.view(n_h, n_m, -1))
        # what is left is the derivative of order a by the first coordinate: [a, t, h, (t l) (t k)]
        by_order = sums.view(2, n_h // 2, n_l, n_orders, n_k).permute(3, 0, 1, 2, 4).flatten(3)
        values = differentiated(by_order[None]).take(self._layout.place)
        result: Tensor = (values * self._layout.signs.to(values.dtype)).unflatten(1, (2, 4)).sum(2)
        return result

    def gather(self, amplitudes: Tensor, degree: int) -> Tensor:
        """Return type 2, (n_atoms, n_monomials(degree))."""
        n_h, n_l, n_k = self._layout.shape
        n_orders = degree + 1
        polynomials, to_l = self._polynomials(degree)
        n_m = polynomials.shape[2]
        signs = self._layout.signs.to(amplitudes.dtype).unflatten(1, (2, 4))
        real = amplitudes.new_zeros(n_h * n_l * n_k).index_add_(
            0, self._layout.place.reshape(-1), (amplitudes[:, :, None] * signs).reshape(-1)
        )
        real = real.view(n_h, n_l, n_k)
        result = amplitudes.new_empty(self.n_atoms, n_orders, n_orders, n_orders)
        scratch = Scratch(amplitudes)
        for n, chunks in self._chunks(n_orders * n_m * n_k):
            by_m = scratch("by m", n_h, n_m, n_k)
            torch.bmm(to_l[n].T.expand(n_h, -1, -1), real, out=by_m)
            for rows in chunks:
                x, y = (derivative_table(table[rows], degree).flatten(2) for table in (self._x, self._y))
                products = scratch("products", len(x) * n_orders, n_m * n_k)  # [j a, m (t k)]
                torch.mm(x.flatten(0, 1), by_m.flatten(1), out=products)
                by_y = torch.bmm(products.view(len(x), -1, n_k), y.transpose(1, 2))  # [j, a m, b]
                by_y = by_y.view(len(x), n_orders, n_m, n_orders)
                result[rows] = torch.matmul(polynomials[rows, None], by_y).transpose(1, 2)  # [j, c, a, b]
        gathered = torch.empty_like(result)
        gathered[self._atoms] = result
        return gathered.transpose(2, 3).flatten(1)[:, moment_columns(degree)[1]]

    def _polynomials(self, degree: int) -> tuple[Tensor, Tensor]:
        """Return derivatives by s_3 of the polynomials, [j, c, m], and what they stand for, [bin, t l, m]."""
        dtype, device = self._x.dtype, self._x.device
        n_bins, highest = self._layout.n_bins, self._layout.bounds[2]
        n_m = n_polynomials(math.pi * highest / n_bins, degree, dtype)
        values = _chebyshev(self._offsets, n_m, degree)
        scale = [(2.0 * n_bins) ** order for order in range(degree + 1)]
        values = (values * values.new_tensor(scale)[:, None]).to(dtype)
        return values, _expansions(highest + 1, n_bins, n_m).to(dtype=dtype, device=device)

    def _chunks(self, size: int) -> list[tuple[int, list[slice]]]:
        """Return, for every bin with atoms, its number and rows of its atoms, some at a time."""
        largest = max(16, CHUNK_ELEMENTS // size)
        result, first = [], 0
        for n, count in self._bins:
            step = -(-count // -(-count // largest))
            last = first + count
            result.append((n, [slice(row, min(row + step, last)) for row in range(first, last, step)]))
            first = last
        return result


@torch.no_grad()
def arrange(fractional: Tensor, layout: BinLayout) -> BinnedPair:
    """Return the pair of one structure's atoms at ``fractional`` (n_atoms, 3)."""
    return BinnedPair(layout, fractional)


@constant
def n_polynomials(angle: float, degree: int, dtype: torch.dtype) -> int:
    """Return p for bins of half width θ = ``angle``: what it leaves out is rounding, also of derivatives.

    That of order d of T_m is at most ``m^(2d) / (2d - 1)!!``, the one of the wave itself ``θ^d``.
    """
    rounding = 64.0 * torch.finfo(dtype).eps
    odd = math.prod(range(1, 2 * degree, 2))
    p = max(math.ceil(angle), degree + 1)
    while 2.0 * _bessel(p, angle) * p ** (2 * degree) / odd > rounding * angle**degree:
        p += 1
    return p


def _bessel(order: int, argument: float) -> float:
    """Return J_order for arguments up to about four, by its power series (Abramowitz and Stegun, 9.1.10)."""
    half = 0.5 * argument
    term = half**order / math.factorial(order)
    result, n = 0.0, 0
    while abs(term) > 1e-18 * abs(result):
        result += term
        n += 1
        term *= -half * half / (n * (n + order))
    return result


def _chebyshev(u: Tensor, n_m: int, degree: int) -> Tensor:
    """Return derivatives 0 … degree of T_0 … at ``u`` (n_atoms,), shape (n_atoms, degree + 1, n_m)."""
    result = u.new_zeros(n_m, degree + 1, len(u))
    result[0, 0] = 1.0
    result[1, 0] = u
    if degree:
        result[1, 1] = 1.0
    orders = torch.arange(1, degree + 1, dtype=u.dtype, device=u.device)[:, None]
    for m in range(2, n_m):
        torch.mul(result[m - 1], 2.0 * u, out=result[m])
        result[m, 1:] += 2.0 * orders * result[m - 1, :-1]
        result[m] -= result[m - 2]
    return result.permute(2, 1, 0).contiguous()


@large_constant
def _expansions(n_l: int, n_bins: int, n_m: int) -> Tensor:
    """Return cosine and sine of ``2π l s_3`` as coefficients of T_m in every bin, [bin, t l, m] float64."""
    width = math.pi / n_bins  # phase of l = 1 at the edge of a bin
    bessel = torch.tensor(
        [[(2.0 if m else 1.0) * _bessel(m, width * l) for m in range(n_m)] for l in range(n_l)],  # noqa: E741
        dtype=torch.float64,
    )
    powers = torch.arange(n_m) % 4  # i^m is 1, i, -1, -i
    even, odd = (
        bessel * torch.tensor(signs, dtype=torch.float64)[powers]
        for signs in ([1.0, 0.0, -1.0, 0.0], [0.0, 1.0, 0.0, -1.0])
    )
    centres = (torch.arange(n_bins, dtype=torch.float64) + 0.5) / n_bins
    angles = 2.0 * math.pi * centres[:, None, None] * torch.arange(n_l, dtype=torch.float64)[:, None]
    cosines, sines = angles.cos(), angles.sin()
    return torch.cat([cosines * even - sines * odd, sines * even + cosines * odd], 1)
