"""Moved to :mod:`lsf.engines.ase.compiled`."""

from lsf.engines.ase.compiled import CompiledCalculator
from lsf.formats.aoti.read import PackageFile

__all__ = ["CompiledCalculator", "PackageFile"]
