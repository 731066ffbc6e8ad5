"""Triton programs of the two Fourier sums; :mod:`lsf.electrostatics.gpu.fourier` states the layouts."""

from __future__ import annotations

import triton
import triton.language as tl

from lsf.electrostatics.gpu.programs.phases import monomial_powers, phase_factors

_TWO_PI = tl.constexpr(6.283185307179586)


@triton.jit
def sum_program(
    turns, moments, triplets, order, blocks, result,
    n_atoms, n_k, parts, DEGREE: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Add up type 1 of one block of wave vectors over one part of their structure's atoms."""
    own = blocks + tl.program_id(0) * 4
    part = tl.program_id(1)
    row = tl.load(own) + tl.arange(0, BLOCK)
    inside = row < tl.load(own + 1)
    first, last = tl.load(own + 2), tl.load(own + 3)
    h = tl.load(triplets + row, inside, 0)
    k = tl.load(triplets + n_k + row, inside, 0)
    m = tl.load(triplets + 2 * n_k + row, inside, 0)
    kind = result.dtype.element_ty
    px = monomial_powers(h.to(kind) * _TWO_PI, DEGREE)
    py = monomial_powers(k.to(kind) * _TWO_PI, DEGREE)
    pz = monomial_powers(m.to(kind) * _TWO_PI, DEGREE)
    if kind == tl.float64:
        h, k, m = h.to(kind), k.to(kind), m.to(kind)
    sum_re = tl.zeros([BLOCK], kind)
    sum_im = tl.zeros([BLOCK], kind)
    for start in range(first + part * CHUNK, last, parts * CHUNK):
        atom = start + tl.arange(0, CHUNK)
        exists = atom < last
        x = tl.load(turns + atom, exists, 0)[:, None]
        y = tl.load(turns + n_atoms + atom, exists, 0)[:, None]
        z = tl.load(turns + 2 * n_atoms + atom, exists, 0)[:, None]
        cosine, sine = phase_factors(h[None, :], k[None, :], m[None, :], x, y, z)
        even = tl.zeros([CHUNK, BLOCK], kind)
        odd = tl.zeros([CHUNK, BLOCK], kind)
        source = moments + atom
        for c in tl.static_range(DEGREE + 1):
            for a in tl.static_range(DEGREE + 1 - c):
                for b in tl.static_range(DEGREE + 1 - c - a):
                    # (-i)^(a+b+c) = 1, -i, -1, i
                    factor = px[a] * py[b] * pz[c]
                    term = factor[None, :] * tl.load(source, exists, 0)[:, None]
                    source += n_atoms
                    if (a + b + c) % 4 == 0:
                        even += term
                    elif (a + b + c) % 4 == 1:
                        odd -= term
                    elif (a + b + c) % 4 == 2:
                        even -= term
                    else:
                        odd += term
        sum_re += tl.sum(even * cosine + odd * sine, 0)
        sum_im += tl.sum(odd * cosine - even * sine, 0)
    target = result + (part * n_k + tl.load(order + row, inside, 0)) * 2
    tl.store(target, sum_re, inside)
    tl.store(target + 1, sum_im, inside)


@triton.jit
def gather_program(
    turns, amplitudes, triplets, order, blocks, result,
    n_atoms, n_k, parts, DEGREE: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Add up type 2 of one block of atoms over one part of their structure's wave vectors."""
    own = blocks + tl.program_id(0) * 4
    part = tl.program_id(1)
    atom = tl.load(own) + tl.arange(0, BLOCK)
    inside = atom < tl.load(own + 1)
    first, last = tl.load(own + 2), tl.load(own + 3)
    x = tl.load(turns + atom, inside, 0)[None, :]
    y = tl.load(turns + n_atoms + atom, inside, 0)[None, :]
    z = tl.load(turns + 2 * n_atoms + atom, inside, 0)[None, :]
    kind = result.dtype.element_ty
    sums = ()
    for _ in tl.static_range((DEGREE + 1) * (DEGREE + 2) * (DEGREE + 3) // 6):
        sums = sums + (tl.zeros([BLOCK], kind),)
    for start in range(first + part * CHUNK, last, parts * CHUNK):
        row = start + tl.arange(0, CHUNK)
        exists = row < last
        h = tl.load(triplets + row, exists, 0)
        k = tl.load(triplets + n_k + row, exists, 0)
        m = tl.load(triplets + 2 * n_k + row, exists, 0)
        source = amplitudes + tl.load(order + row, exists, 0) * 2
        g_re = tl.load(source, exists, 0)[:, None]
        g_im = tl.load(source + 1, exists, 0)[:, None]
        px = monomial_powers(h.to(kind) * _TWO_PI, DEGREE)
        py = monomial_powers(k.to(kind) * _TWO_PI, DEGREE)
        pz = monomial_powers(m.to(kind) * _TWO_PI, DEGREE)
        if kind == tl.float64:
            h, k, m = h.to(kind), k.to(kind), m.to(kind)
        cosine, sine = phase_factors(h[:, None], k[:, None], m[:, None], x, y, z)
        even = g_re * cosine - g_im * sine
        odd = -(g_re * sine + g_im * cosine)
        added = ()
        for c in tl.static_range(DEGREE + 1):
            for a in tl.static_range(DEGREE + 1 - c):
                for b in tl.static_range(DEGREE + 1 - c - a):
                    # real part of (even + i odd) (-i)^(a+b+c)
                    factor = (px[a] * py[b] * pz[c])[:, None]
                    if (a + b + c) % 4 == 0:
                        added = added + (sums[len(added)] + tl.sum(factor * even, 0),)
                    elif (a + b + c) % 4 == 1:
                        added = added + (sums[len(added)] + tl.sum(factor * odd, 0),)
                    elif (a + b + c) % 4 == 2:
                        added = added + (sums[len(added)] - tl.sum(factor * even, 0),)
                    else:
                        added = added + (sums[len(added)] - tl.sum(factor * odd, 0),)
        sums = added
    n_columns: tl.constexpr = (DEGREE + 1) * (DEGREE + 2) * (DEGREE + 3) // 6
    target = result + part * n_columns * n_atoms + atom
    for column in tl.static_range(n_columns):
        tl.store(target + column * n_atoms, sums[column], inside)
