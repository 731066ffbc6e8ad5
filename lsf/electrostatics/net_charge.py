"""What a net charge does to energies in periodic boundary conditions, in words."""

from __future__ import annotations

import math
from typing import Final

from lsf.electrostatics.boundary import KIND_PERIODIC, KIND_SLAB
from lsf.electrostatics.settings import Electrostatics
from lsf.units import COULOMB_CONSTANT

NET_CHARGE: Final = 0.01
"""Charges above this, in e, count as a net charge; learned charges may add up to less."""


def net_charge_effect(kind: int, charge: float, settings: Electrostatics, volume: float) -> str | None:
    """Return what to warn of when a structure carries a net charge; None where there is nothing to say.

    Parameters
    ----------
    kind : how the boundary method treats the structure, one of KIND_*
    charge : net charge, e
    settings : of the Coulomb energy
    volume : volume of the cell, Å^3; used for fully periodic structures
    """
    if abs(charge) <= NET_CHARGE or kind not in (KIND_PERIODIC, KIND_SLAB):
        return None
    carried = f"a net charge of {charge:+.3g} e in a"
    if kind == KIND_PERIODIC:
        smeared = 2.0 * math.pi * COULOMB_CONSTANT * (settings.smearing_width * charge) ** 2 / volume
        return (
            f"{carried} fully periodic cell is compensated by a uniform background. Energy and pressure then "
            "depend on the size of the cell (the energy by about -1.4 k_e Q²/L) and on smearing_width (by "
            f"2π k_e σ² Q²/V, here {smeared:.3g} eV, which adds that divided by V to the pressure): do not "
            "compare energies of cells of different volume, nor trust the pressure"
        )
    if settings.correction == "dipole":
        return (
            f"{carried} slab: correction 'dipole' has no term for it, so that energy and forces depend on "
            "the vacuum and on the place of z = 0; use correction 'exact'"
        )
    return (
        f"{carried} slab: no background compensates it, and the field of a charged plate goes on outside "
        "without end. Energies are measured from a potential of -2π k_e Q |z| / A: compare only slabs of "
        "equal charge and area"
    )
