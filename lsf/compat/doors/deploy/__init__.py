"""Moved to :mod:`lsf.engines` and :mod:`lsf.formats`."""
