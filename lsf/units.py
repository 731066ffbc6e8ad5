r"""Units, constants and sign conventions: the one table the whole project obeys.

quantity              unit and convention
====================  =================================================================
energy                eV
length                Å; cell rows are lattice vectors
charge                e
dipole                e·Å, Cartesian (x, y, z)
polarizability        e·Å²/V, Cartesian 3×3
potential             V
field                 V/Å
forces                eV/Å, ``F = -dE/dr``
stress                eV/Å³, ``+(1/V) dE/dε`` (the sign of ASE); the strain ε acts on
                      positions and cell alike
virial                eV, ``-dE/dε``
edge vector           ``r_receiver - r_sender + unit_shift @ cell``
coefficients          ``[Q, d_y, d_z, d_x, …]``: real solid harmonics, m = -l … l,
                      without the Condon–Shortley phase, so that the l = 1 block is
                      the Cartesian dipole in e·Å in the order y, z, x
external_field        the gradient of the potential, so ``E_field = + P · external_field``;
                      the physical field is its negative and is called ``electric_field``
born_charges          ``Z*[i, α, β] = ∂P_α / ∂r_{i,β}``, e
net charge in pbc     compensated by a uniform background (k = 0 dropped); surroundings
                      conduct (no surface term)
====================  =================================================================
=======
Model files carry :data:`UNITS` and :data:`CONVENTIONS` in their headers; ``docs/conventions.md``
explains them.

The Coulomb constant follows from the CODATA 2022 values of the elementary charge (exact) and
the electric constant, doi:10.1103/RevModPhys.97.025002.
"""

from __future__ import annotations

import math
from typing import Final

UNITS: Final = {
    "energy": "eV",
    "length": "Å",
    "charge": "e",
    "dipole": "e·Å",
    "polarizability": "e·Å²/V",
    "potential": "V",
    "field": "V/Å",
    "forces": "eV/Å",
    "stress": "eV/Å³",
    "virial": "eV",
    "born_charges": "e",
}
"""Unit of every kind of number."""

CONVENTIONS: Final = {
    "length": "rows of the cell are lattice vectors",
    "dipole": "Cartesian x, y, z",
    "polarizability": "Cartesian 3×3",
    "edge_vector": "r_receiver - r_sender + unit_shift @ cell",
    "forces": "-dE/dr",
    "stress": "+(1/V) dE/dstrain, the sign of ASE; the strain acts on positions and cell alike",
    "virial": "-dE/dstrain",
    "coefficients": "[Q, d_y, d_z, d_x, …]: real solid harmonics, m = -l … l, without the Condon–Shortley "
    "phase, so that the l = 1 block is the Cartesian dipole in the order y, z, x",
    "external_field": "gradient of the potential: E_field = + P · external_field; the physical field is its "
    "negative and is called electric_field",
    "born_charges": "Z*[i, α, β] = ∂P_α/∂r_{i,β}",
    "net_charge_in_pbc": "uniform background (k = 0 dropped), conducting surroundings (no surface term)",
}
"""Sign, order and meaning, where a unit does not say all."""

ELEMENTARY_CHARGE: Final = 1.602176634e-19
"""Elementary charge in C (exact since 2019)."""

ELECTRIC_CONSTANT: Final = 8.8541878188e-12
"""Vacuum permittivity ε₀ in F/m (CODATA 2022)."""

COULOMB_CONSTANT: Final = ELEMENTARY_CHARGE / (4.0 * math.pi * ELECTRIC_CONSTANT) * 1.0e10
"""``k_e = 1/(4πε₀)`` in eV·Å/e²."""

CARTESIAN_FROM_SPHERICAL: Final = (2, 0, 1)
"""Position of x, y and z inside an l = 1 block ordered m = -1, 0, 1 (y, z, x)."""

SPHERICAL_FROM_CARTESIAN: Final = (1, 2, 0)
"""Position of y, z and x inside a Cartesian vector (x, y, z)."""
