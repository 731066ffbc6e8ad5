"""Moved to :mod:`lsf.engines.lammps`."""
