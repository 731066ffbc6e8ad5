"""Moved to :mod:`lsf.engines.torchsim`."""

from lsf.engines.torchsim import LsfModel

__all__ = ["LsfModel"]
