"""Real spherical harmonics of unit vectors, as polynomials torch differentiates to any order."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def spherical_harmonics(vectors: Tensor, max_degree: int) -> Tensor:
    r"""Real spherical harmonics of all degrees up to ``max_degree``.

    Normalised so that :math:`\sum_m Y_{lm}^2 = 2l + 1` (e3nn's "component"), m = -l … l, without the
    Condon–Shortley phase, so that the l = 1 block is :math:`\sqrt 3\,(y, z, x)`. Associated Legendre
    functions by upward recursion in l (NIST DLMF 14.10.3), divided by :math:`\sin^m\theta`, which
    the polynomials :math:`(x + iy)^m` carry.

    Parameters
    ----------
    vectors : (n, 3), of unit length
    max_degree : highest l

    Returns
    -------
    (n, (max_degree + 1)²)
    """
    x, y, z = vectors.unbind(-1)
    cosine, sine = [torch.ones_like(x)], [torch.zeros_like(x)]
    for _ in range(max_degree):
        cosine.append(x * cosine[-1] - y * sine[-1])
        sine.append(x * sine[-1] + y * cosine[-2])
    legendre: dict[tuple[int, int], Tensor] = {}
    for m in range(max_degree + 1):
        legendre[m, m] = torch.full_like(x, math.prod(range(1, 2 * m, 2)))
        if m < max_degree:
            legendre[m + 1, m] = (2 * m + 1) * z * legendre[m, m]
        for degree in range(m + 2, max_degree + 1):
            legendre[degree, m] = (
                (2 * degree - 1) * z * legendre[degree - 1, m] - (degree + m - 1) * legendre[degree - 2, m]
            ) / (degree - m)
    columns = []
    for degree in range(max_degree + 1):
        for m in range(-degree, degree + 1):
            order = abs(m)
            ratio = math.factorial(degree - order) / math.factorial(degree + order)
            norm = math.sqrt((2 * degree + 1) * ratio * (2.0 if order else 1.0))
            angular = sine[order] if m < 0 else cosine[order]
            columns.append(norm * legendre[degree, order] * angular)
    return torch.stack(columns, dim=-1)
