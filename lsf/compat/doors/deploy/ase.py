"""Moved to :mod:`lsf.engines.ase.calculator`."""

from lsf.compat.calculators import (
    FixedChargeBaselineCalculator,
    LocalChargesCalculator,
    LocalSplitChargesCalculator,
)
from lsf.engines.ase.calculator import LsfCalculator
from lsf.engines.ase.coulomb import CoulombCalculator

__all__ = [
    "CoulombCalculator",
    "FixedChargeBaselineCalculator",
    "LocalChargesCalculator",
    "LocalSplitChargesCalculator",
    "LsfCalculator",
]
