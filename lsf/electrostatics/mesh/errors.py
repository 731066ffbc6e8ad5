r"""How fine a mesh must be: the error that B-splines leave, estimated without any structure.

Numbers alone, without torch: plans are made where exported models run, too.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lsf.machine.caches import constant

ORDERS: Final = (6, 8)
"""Orders a mesh may have: lower ones need finer meshes than they save work, with dipoles by far."""

MOMENTS: Final = (0.4, 0.4)
"""Assumed size of one component of a dipole [Å] and a quadrupole [Å^2] per unit charge: larger ones than
most models give."""

SAFETY: Final = 3.0
"""Forces in a liquid are smaller than those of uncorrelated charges, by up to this factor in our tests."""


@constant
def relative_force_error(
    order: int, spacing: float, degree: int, k_cutoff: float, smearing_width: float
) -> float:
    r"""Return the estimated relative root mean square error of forces that a mesh adds.

    For uncorrelated multipoles the error power of the aliases is compared with that of the force itself, both
    weighted with the square of the kernel, :math:`w = e^{-\sigma^2k^2}/k^2`:

    .. math:: \epsilon^2 = \frac{\sum_k w^2 \sum_{axes} \sum_m (x/(x+m))^{2p}\, P(k) P(k_m) (k^2 + k_m^2)}
                                {\sum_k w^2 P(k)^2 k^2}

    with :math:`k_m` the wave number of the alias and P(k) the mean square structure factor per atom, for
    dipoles and quadrupoles of :data:`MOMENTS`. :data:`SAFETY` allows for correlated atoms.

    Parameters
    ----------
    order : of the B-spline
    spacing : of the mesh, in units of the smearing width
    degree : highest multipole
    k_cutoff : largest wave number times the smearing width
    smearing_width : [Å]
    """
    nodes, weights = np.polynomial.legendre.leggauss(40)
    k = 0.5 * k_cutoff * (nodes[:, None] + 1.0)
    cosine = 0.5 * (nodes[None, :] + 1.0)
    measure = weights[:, None] * weights[None, :] * np.exp(-2.0 * k**2) / k**2
    x = k * cosine * spacing / (2.0 * math.pi)
    error = np.zeros_like(x)
    for m in (-2, -1, 1, 2):
        alias = k**2 + (2.0 * math.pi * m / spacing) ** 2 * (1.0 + 2.0 * x / m)
        share = (x / (x + m)) ** (2 * order)
        error += 3.0 * share * _power(alias, degree, smearing_width) * (k**2 + alias)
    power = _power(k**2, degree, smearing_width)
    ratio = float((measure * power * error).sum() / (measure * power**2 * k**2).sum())
    return SAFETY * math.sqrt(ratio)


def _power(squared: NDArray[np.float64], degree: int, smearing_width: float) -> NDArray[np.float64]:
    """Mean square structure factor per atom at (k σ)², in units of the mean square charge."""
    power = np.ones_like(squared)
    if degree >= 1:
        power = power + MOMENTS[0] ** 2 * squared / smearing_width**2
    if degree >= 2:
        power = power + MOMENTS[1] ** 2 * squared**2 / (9.0 * smearing_width**4)
    return power


@constant
def largest_spacing(
    order: int, accuracy: float, degree: int, k_cutoff: float, smearing_width: float
) -> float:
    """Return the widest mesh spacing, in units of the smearing width, with at most that force error."""
    low, high = 0.02, math.pi / k_cutoff  # beyond, wave vectors would not fit on the mesh
    for _ in range(30):
        middle = 0.5 * (low + high)
        fine = relative_force_error(order, middle, degree, k_cutoff, smearing_width) <= accuracy
        low, high = (middle, high) if fine else (low, middle)
    return low


def friendly_sizes(least: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return, per entry, the smallest even number at least as large with no prime factor above 7."""
    return np.array([friendly(math.ceil(value)) for value in least], dtype=np.int64)


def friendly(least: int) -> int:
    """Return the smallest even number from ``least`` on with no prime factor above 7; TorchScript, too."""
    size = max(2, least + least % 2)
    while _remainder(size) > 1:
        size += 2
    return size


def _remainder(size: int) -> int:
    for factor in (2, 3, 5, 7):
        while size % factor == 0:
            size = size // factor
    return size
