"""Moved to :mod:`lsf.formats`."""
