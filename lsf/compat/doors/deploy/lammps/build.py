"""Moved to :mod:`lsf.engines.lammps.build`."""

from lsf.engines.lammps.build import build, folder, main

__all__ = ["build", "folder", "main"]

if __name__ == "__main__":
    raise SystemExit(main())
