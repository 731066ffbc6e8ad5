"""Integer lists of wave vectors inside a cutoff, built once per structure with numpy."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

LAYER_EXPONENT: Final = 38.0
"""Terms of the slab's layer sum below exp(-38) = 3e-17 of the largest are left out."""

LENGTH_STEP: Final = 0.2
"""Internal slab lengths are multiples of this part of the gap, so that they rarely change during dynamics."""


def half_space(cell: FloatArray, k_cutoff: float) -> IntArray:
    """Return all integer triplets n with ``0 < |k| < k_cutoff``, one of each pair ±n, shape (n_k, 3).

    ``k = 2π n · inv(cell)ᵀ``; the first non-zero entry of every triplet is positive. Bounds follow from
    ``n_i = k · a_i / 2π``, hence ``|n_i| <= k_cutoff |a_i| / 2π`` however skewed the cell.
    """
    bound = np.floor(k_cutoff * np.linalg.norm(cell, axis=1) / (2.0 * math.pi) + 1.0e-12).astype(np.int64)
    h = np.arange(0, bound[0] + 1)
    k, m = (np.arange(-n, n + 1) for n in bound[1:])
    metric = 2.0 * math.pi * np.linalg.inv(cell).T  # rows: reciprocal lattice vectors
    gram = metric @ metric.T
    hh, kk, mm = h[:, None, None], k[None, :, None], m[None, None, :]
    squared = (
        gram[0, 0] * hh * hh
        + gram[1, 1] * kk * kk
        + gram[2, 2] * mm * mm
        + 2.0 * (gram[0, 1] * hh * kk + gram[0, 2] * hh * mm + gram[1, 2] * kk * mm)
    )
    first_positive = (hh > 0) | ((hh == 0) & ((kk > 0) | ((kk == 0) & (mm > 0))))
    first, second, third = np.nonzero((squared < k_cutoff * k_cutoff) & first_positive)
    return np.stack([h[first], k[second], m[third]], axis=1).astype(np.int64)


def slab_cell(
    positions: FloatArray, cell: FloatArray, axis: int, gap: float
) -> tuple[float, float, FloatArray]:
    """Return the extent along the normal, the internal length and the internal cell of a slab.

    The internal cell has the slab's two periodic rows and, as row ``axis``, their unit normal times a length
    that leaves at least ``gap``: neither the given third vector nor its vacuum matters. [Å]
    """
    normal = np.cross(cell[(axis + 1) % 3], cell[(axis + 2) % 3])
    normal = normal / np.linalg.norm(normal)
    extent = float(np.ptp(positions @ normal)) if len(positions) else 0.0
    step = LENGTH_STEP * gap
    length = step * math.ceil((extent + gap) / step)
    internal = cell.copy()
    internal[axis] = normal * length
    return extent, length, internal


def layer_half_plane(internal: FloatArray, axis: int, gap: float) -> IntArray:
    """Return the integer pairs of the in-plane wave vectors that the layer term needs, shape (n_layer, 2).

    They count along rows ``axis + 1`` and ``axis + 2`` (mod 3) of the internal cell. A term decays as
    ``exp(-G gap)``, so ``G < 38 / gap``.
    """
    rows = internal[[(axis + 1) % 3, (axis + 2) % 3]]
    gram = 4.0 * math.pi**2 * np.linalg.inv(rows @ rows.T)
    largest = LAYER_EXPONENT / gap
    bound = np.floor(largest * np.linalg.norm(rows, axis=1) / (2.0 * math.pi)).astype(np.int64)
    h, k = np.meshgrid(np.arange(0, bound[0] + 1), np.arange(-bound[1], bound[1] + 1), indexing="ij")
    squared = gram[0, 0] * h * h + gram[1, 1] * k * k + 2.0 * gram[0, 1] * h * k
    keep = (squared < largest * largest) & ((h > 0) | ((h == 0) & (k > 0)))
    return np.stack([h[keep], k[keep]], axis=1).astype(np.int64)
