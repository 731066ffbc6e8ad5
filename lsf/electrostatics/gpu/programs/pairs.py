"""Triton program of the open pair sum; :mod:`lsf.electrostatics.gpu.pairs` states the formulas."""

from __future__ import annotations

import triton
import triton.language as tl

from lsf.electrostatics.gpu.programs.phases import monomial_powers

_HALF_ROOT_PI = tl.constexpr(0.886226925452758)
_SERIES_BELOW = tl.constexpr(4.0)


@triton.jit
def _radial(squared, HIGHEST: tl.constexpr, TERMS: tl.constexpr):
    """Return ``(-2)^n F_n(squared)`` for n = 0 … HIGHEST, F_n Boys functions; float64.

    Series and downward recursion up to 4, error function and upward recursion beyond, as in
    :func:`lsf.electrostatics.open_space.boys`.
    """
    decay = tl.exp(-squared)
    near = squared < _SERIES_BELOW
    small = tl.where(near, squared, 0.0)
    series = small * 0.0 + 1.0
    for step in tl.static_range(TERMS):
        series = 1.0 + series * (small * (2.0 / (2 * HIGHEST + 1 + 2 * (TERMS - step))))
    downward = (series * decay / (2 * HIGHEST + 1),)
    for step in tl.static_range(HIGHEST):
        n = HIGHEST - 1 - step
        downward = downward + ((2.0 * small * downward[step] + decay) / (2 * n + 1),)
    large = tl.where(near, _SERIES_BELOW, squared)
    root = tl.sqrt(large)
    half = 0.5 / large
    upward = (_HALF_ROOT_PI * tl.erf(root) / root,)
    for n in tl.static_range(HIGHEST):
        upward = upward + (((2 * n + 1) * upward[n] - decay) * half,)
    values = ()
    for n in tl.static_range(HIGHEST + 1):
        values = values + (tl.where(near, downward[HIGHEST - n], upward[n]) * ((-2.0) ** n),)
    return values


@triton.jit
def _derivatives(x, y, z, radial, HIGHEST: tl.constexpr):
    r"""Return all ``∂_x^a ∂_y^b ∂_z^c`` of the kernel with a + b + c <= HIGHEST, in the order of monomials.

    With g_n = (1/r d/dr)^n, ``∂_x^a = Σ_i a! / (2^i i! (a - 2i)!) x^(a - 2i) g_(a - i)``, per axis alike.
    """
    px = monomial_powers(x, HIGHEST)
    py = monomial_powers(y, HIGHEST)
    pz = monomial_powers(z, HIGHEST)
    tensors = ()
    for c in tl.static_range(HIGHEST + 1):
        for a in tl.static_range(HIGHEST + 1 - c):
            for b in tl.static_range(HIGHEST + 1 - c - a):
                total = x * 0.0
                cx = 1
                for i in tl.static_range(a // 2 + 1):
                    cy = 1
                    for j in tl.static_range(b // 2 + 1):
                        cz = 1
                        for k in tl.static_range(c // 2 + 1):
                            product = px[a - 2 * i] * py[b - 2 * j] * pz[c - 2 * k]
                            total += product * radial[a + b + c - i - j - k] * (1.0 * cx * cy * cz)
                            cz = cz * (c - 2 * k) * (c - 2 * k - 1) // (2 * (k + 1))
                        cy = cy * (b - 2 * j) * (b - 2 * j - 1) // (2 * (j + 1))
                    cx = cx * (a - 2 * i) * (a - 2 * i - 1) // (2 * (i + 1))
                tensors = tensors + (total,)
    return tensors


@triton.jit
def potential_program(
    positions, moments, blocks, result, n_atoms, parts,
    SOURCE: tl.constexpr, TARGET: tl.constexpr, TERMS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add up the potential and its derivatives at one block of atoms from one part of the other atoms."""
    own = blocks + tl.program_id(0) * 4
    part = tl.program_id(1)
    atom = tl.load(own) + tl.arange(0, BLOCK)
    inside = atom < tl.load(own + 1)
    first, last = tl.load(own + 2), tl.load(own + 3)
    x = tl.load(positions + atom, inside, 0)
    y = tl.load(positions + n_atoms + atom, inside, 0)
    z = tl.load(positions + 2 * n_atoms + atom, inside, 0)
    kind = result.dtype.element_ty
    D: tl.constexpr = SOURCE + TARGET
    n_columns: tl.constexpr = (TARGET + 1) * (TARGET + 2) * (TARGET + 3) // 6
    sums = ()
    for _ in tl.static_range(n_columns):
        sums = sums + (tl.zeros([BLOCK], kind),)
    for other in range(first + part, last, parts):
        dx = x - tl.load(positions + other)
        dy = y - tl.load(positions + n_atoms + other)
        dz = z - tl.load(positions + 2 * n_atoms + other)
        radial64 = _radial(dx * dx + dy * dy + dz * dz, D, TERMS)
        radial = ()
        for n in tl.static_range(D + 1):
            radial = radial + (tl.where(atom == other, 0.0, radial64[n]).to(kind),)
        tensors = _derivatives(dx.to(kind), dy.to(kind), dz.to(kind), radial, D)
        added = ()
        for c in tl.static_range(TARGET + 1):
            for a in tl.static_range(TARGET + 1 - c):
                for b in tl.static_range(TARGET + 1 - c - a):
                    total = sums[len(added)]
                    source = moments + other
                    for w in tl.static_range(SOURCE + 1):
                        for u in tl.static_range(SOURCE + 1 - w):
                            for v in tl.static_range(SOURCE + 1 - w - u):
                                # the place of (a + u, b + v, c + w) among the monomials of degree D
                                term = tl.load(source) * tensors[
                                    (D + 1) * (D + 2) * (D + 3) // 6
                                    - (D + 1 - c - w) * (D + 2 - c - w) * (D + 3 - c - w) // 6
                                    + (a + u) * (D + 1 - c - w) - (a + u) * (a + u - 1) // 2 + b + v
                                ]  # fmt: skip
                                source += n_atoms
                                if (u + v + w) % 2 == 0:
                                    total += term
                                else:
                                    total -= term
                    added = added + (total,)
        sums = added
    target = result + part * n_columns * n_atoms + atom
    for column in tl.static_range(n_columns):
        tl.store(target + column * n_atoms, sums[column], inside)
