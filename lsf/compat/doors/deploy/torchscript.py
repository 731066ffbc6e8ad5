"""Moved to :mod:`lsf.formats.torchscript.read`."""

from lsf.formats.torchscript.read import ScriptFile, ScriptSystem

__all__ = ["ScriptFile", "ScriptSystem"]
