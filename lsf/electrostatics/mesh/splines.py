r"""B-splines on a mesh: their piecewise polynomials and Fourier transforms.

The centred B-spline of order p, :math:`M_p`, is piecewise polynomial with p - 2 continuous derivatives. On a
mesh of N points a plane wave is approximated by

.. math:: \Phi_n(s) = b_n \sum_g M_p(s N - g)\, e^{-2\pi i\, n g / N}
        \approx e^{-2\pi i\, n s}, \qquad
        b_n = \frac{\mathrm{sinc}^p(x)}{\sum_m \mathrm{sinc}^{2p}(x + m)}, \quad x = n / N

where this b makes the mean square error smallest. What remains are the aliases n + m N, each with the
amplitude :math:`(x / (x + m))^p`. U. Essmann et al., J. Chem. Phys. 103, 8577 (1995), doi:10.1063/1.470117;
E. L. Pollock, J. Glosli, Comput. Phys. Commun. 95, 93 (1996), doi:10.1016/0010-4655(96)00043-4.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from torch import Tensor

from lsf.machine.caches import constant

ALIASES: Final = 3


@constant
def piece_coefficients(order: int, highest: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the polynomials of a B-spline and its derivatives, (order, (highest + 1) order).

    Row: power of ``u - 1/2``, where u in [0, 1) is the distance to the mesh point below. Column: derivative d
    by u and place i = 0 … order - 1 of the mesh point ``floor + 1 - order/2 + i``.
    """
    columns = np.zeros((highest + 1, order, order))
    for i in range(order):
        piece = np.polynomial.Polynomial([0.0])
        for k in range(order - i):
            shifted = np.polynomial.Polynomial([order - 1 - i - k + 0.5, 1.0]) ** (order - 1)
            piece = piece + (-1.0) ** k * math.comb(order, k) * shifted
        for d in range(highest + 1):
            coefficients = np.asarray((piece.deriv(d) if d else piece).coef, dtype=np.float64)
            columns[d, i, : len(coefficients)] = coefficients
    table = torch.from_numpy(columns.reshape(-1, order).T / math.factorial(order - 1))
    return table.to(dtype=dtype, device=device)


def spline_values(offset: Tensor, order: int, highest: int) -> Tensor:
    """Return a B-spline and its derivatives, (..., highest + 1, order), for ``offset`` (...) in [0, 1)."""
    pieces = piece_coefficients(order, highest, offset.dtype, offset.device)
    return values_from(offset, pieces, order, highest)


def values_from(offset: Tensor, pieces: Tensor, order: int, highest: int) -> Tensor:
    """Return what :func:`spline_values` does, from pieces of at least this ``highest`` derivative."""
    centred = offset - 0.5
    powers = [torch.ones_like(centred)]
    for _ in range(order - 1):
        powers.append(powers[-1] * centred)
    values = torch.matmul(torch.stack(powers, -1), pieces[:, : (highest + 1) * order])
    split: Tensor = values.unflatten(-1, [highest + 1, order])
    return split


def amplitudes(integers: Tensor, n_points: int, order: int, aliases: int = ALIASES) -> Tensor:
    """Return ``b_n`` for integers n with ``abs(n) < n_points / 2``, float64."""
    x = integers.double() / n_points
    shifts = torch.arange(-aliases, aliases + 1, device=x.device)
    squares = (torch.sinc(x.unsqueeze(1) + shifts) ** (2 * order)).sum(1)
    return torch.sinc(x) ** order / squares
