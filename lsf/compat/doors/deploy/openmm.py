"""Moved to :mod:`lsf.engines.openmm`."""

from lsf.engines.openmm import LsfEnergy, lsf_force

__all__ = ["LsfEnergy", "lsf_force"]
