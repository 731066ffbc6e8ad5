"""Moved to :mod:`lsf.formats.write`."""

from lsf.formats.write import export_file, exporter, write_formats

__all__ = ["export_file", "exporter", "write_formats"]
