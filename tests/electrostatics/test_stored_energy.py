r"""One Coulomb energy at the default cutoff, where the sum is not converged and the taper counts.

Converged references cannot see where the taper starts or how it falls, but old models were trained with it.
The stored value is what ``python tests/electrostatics/test_stored_energy.py`` prints: a direct sum in numpy,
which shares no line with the package.

.. math:: E = \frac{1}{2} \sum_{k \ne 0} \frac{4\pi k_e}{V k^2} e^{-\sigma^2 k^2}\, t(k/k_c)
          \left|\sum_i (q_i - i\,k\cdot p_i)\, e^{-i k\cdot r_i}\right|^2
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from structures import Structure, energy

from lsf.electrostatics.settings import Electrostatics

# e / (4πε₀) in eV·Å/e², from e in C and ε₀ in F/m (CODATA 2022)
COULOMB_CONSTANT = 1.602176634e-19 / (4.0 * np.pi * 8.8541878188e-12) * 1.0e10
CELL = np.array([[6.2, 0.3, -0.2], [1.1, 5.7, 0.4], [-0.8, 0.5, 6.9]])
POSITIONS = np.array([[0.1, 0.2, -0.3], [2.9, 0.4, 0.6], [0.5, 3.1, 2.2], [3.4, 2.8, 4.9], [1.2, 4.6, 5.1]])
CHARGES = np.array([1.0, -1.0, 0.8, -1.1, 0.4])
DIPOLES = np.array([[0.3, -0.2, 0.1], [-0.1, 0.4, 0.2], [0.2, 0.1, -0.5], [0.0, -0.3, 0.2], [-0.4, 0.1, 0.3]])
SMEARING_WIDTH = 0.8
# the defaults of a recipe: factor 1.25 and dipoles, k_c = 1.25 · 0.75 · (3/σ) · (L + 1)^0.3, with L = 1
LARGEST_WAVE_NUMBER = 1.25 * 0.75 * 3.0 / SMEARING_WIDTH * 2.0**0.3
STORED = 11.65902795691983  # eV


def taper(ratio: float) -> float:
    """Return 1 up to 0.9, 0 from 1 on, and 1 - 10u³ + 15u⁴ - 6u⁵ with u = (ratio - 0.9) / 0.1 in between."""
    u = min(max((ratio - 0.9) / 0.1, 0.0), 1.0)
    return 1.0 - 10.0 * u**3 + 15.0 * u**4 - 6.0 * u**5


def direct_sum(largest: float, tapered: bool = True) -> float:
    """Return the energy in eV, wave vector by wave vector over the whole space."""
    volume = abs(np.linalg.det(CELL))
    reciprocal = 2.0 * np.pi * np.linalg.inv(CELL).T
    total = 0.0
    for triplet in itertools.product(range(-8, 9), repeat=3):
        k = np.array(triplet) @ reciprocal
        squared = float(k @ k)
        ratio = np.sqrt(squared) / largest
        if squared == 0.0 or ratio >= 1.0:
            continue
        factor = np.sum((CHARGES - 1j * (DIPOLES @ k)) * np.exp(-1j * (POSITIONS @ k)))
        weight = 4.0 * np.pi / (volume * squared) * np.exp(-(SMEARING_WIDTH**2) * squared)
        total += 0.5 * weight * (taper(ratio) if tapered else 1.0) * abs(factor) ** 2
    return COULOMB_CONSTANT * total


def package_energy() -> float:
    coefficients = np.column_stack([CHARGES, DIPOLES[:, 1], DIPOLES[:, 2], DIPOLES[:, 0]])
    structure = Structure(
        torch.from_numpy(coefficients), torch.from_numpy(POSITIONS), torch.from_numpy(CELL), (True,) * 3
    )
    # the factor is left to its default: it belongs to what old models were trained with
    return float(energy(structure, Electrostatics(boundary="pbc", smearing_width=SMEARING_WIDTH)))


def test_energy_at_the_default_cutoff_is_the_stored_one() -> None:
    # two sums of some thousand terms below 10 eV each
    assert direct_sum(LARGEST_WAVE_NUMBER) == pytest.approx(STORED, abs=1e-11)
    assert package_energy() == pytest.approx(STORED, abs=1e-11)


def test_the_stored_energy_does_see_the_taper() -> None:
    """Neither no taper, nor all wave vectors, nor a taper a hundredth wider gives the same to 1e-5 eV."""
    assert abs(direct_sum(LARGEST_WAVE_NUMBER, tapered=False) - STORED) > 1e-5
    assert abs(direct_sum(2.0 * LARGEST_WAVE_NUMBER) - STORED) > 1e-5
    assert abs(direct_sum(1.01 * LARGEST_WAVE_NUMBER) - STORED) > 1e-5


if __name__ == "__main__":
    print(f"{direct_sum(LARGEST_WAVE_NUMBER):.14f}")
