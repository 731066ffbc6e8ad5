r"""Phase factors and powers inside kernels.

A phase is counted in turns, ``t = n · s``, and only its distance to the nearest integer matters. With float64
the products are formed and reduced as they are. For float32, coordinates are stored as 32-bit fractions of a
turn: integer products overflow by whole turns, which is the reduction, and the error is ``abs(n) 2⁻³³`` turns
however large the cell. Sine and cosine are Taylor series over an eighth of a turn to either side of a
multiple of a quarter: as exact as the type allows and free of the branches of a general argument.
"""

from __future__ import annotations

import triton
import triton.language as tl

# 2π 2^-32, from 32-bit fractions to radians
_FRACTION = tl.constexpr(1.4629180792671596e-09)
_TWO_PI = tl.constexpr(6.283185307179586)
_HALF_QUARTER = tl.constexpr(536870912)  # 2^29


@triton.jit
def monomial_powers(x, HIGHEST: tl.constexpr):
    """Return ``(1, x, …, x^HIGHEST)``."""
    powers = (x * 0 + 1,)
    for exponent in tl.static_range(HIGHEST):
        powers = powers + (powers[exponent] * x,)
    return powers


@triton.jit
def phase_factors(h, k, m, x, y, z):
    """Return cosine and sine of ``2π (h x + k y + m z)``, float64 for float64 coordinates, else float32.

    Triplets (h, k, m) are float64 with float64 coordinates and int32 with int32 fractions of a turn.
    """
    if x.dtype == tl.float64:
        turns = h * x + k * y + m * z
        turns = turns - tl.floor(turns + 0.5)
        nearest = tl.floor(4.0 * turns + 0.5)
        radians = (turns - 0.25 * nearest) * _TWO_PI
        quarter = nearest.to(tl.int32)
    else:
        turns = tl.mul(h, x, sanitize_overflow=False)
        turns = tl.add(turns, tl.mul(k, y, sanitize_overflow=False), sanitize_overflow=False)
        turns = tl.add(turns, tl.mul(m, z, sanitize_overflow=False), sanitize_overflow=False)
        quarter = tl.add(turns, _HALF_QUARTER, sanitize_overflow=False) >> 30
        rest = tl.sub(turns, quarter << 30, sanitize_overflow=False)
        radians = rest.to(tl.float32) * _FRACTION
    sine, cosine = _series(radians)
    swap = (quarter & 1) != 0
    first = tl.where(swap, sine, cosine)
    second = tl.where(swap, cosine, sine)
    return tl.where(((quarter + 1) & 2) != 0, -first, first), tl.where((quarter & 2) != 0, -second, second)


@triton.jit
def _series(x):
    """Return sine and cosine of ``abs(x) <= π/4``: remainders below 1e-16 (float64) and 2e-9 (float32)."""
    u = x * x
    if x.dtype == tl.float64:
        tail = u * (-7.647163731819816e-13) + 1.6059043836821613e-10
        tail = u * tail - 2.505210838544172e-08
        tail = u * tail + 2.7557319223985893e-06
        tail_cos = u * 4.779477332387385e-14 - 1.1470745597729725e-11
        tail_cos = u * tail_cos + 2.08767569878681e-09
        tail_cos = u * tail_cos - 2.755731922398589e-07
    else:
        tail = u * 0.0 + 2.7557319223985893e-06
        tail_cos = u * 0.0 - 2.755731922398589e-07
    tail = u * tail - 0.0001984126984126984
    tail = u * tail + 0.008333333333333333
    tail = u * tail - 0.16666666666666666
    tail_cos = u * tail_cos + 2.48015873015873e-05
    tail_cos = u * tail_cos - 0.001388888888888889
    tail_cos = u * tail_cos + 0.041666666666666664
    tail_cos = u * tail_cos - 0.5
    return x + x * (u * tail), 1.0 + u * tail_cos
