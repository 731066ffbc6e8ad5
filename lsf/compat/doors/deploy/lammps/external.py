"""Moved to :mod:`lsf.engines.lammps.external`."""

from lsf.engines.lammps.external import LammpsModel

__all__ = ["LammpsModel"]
