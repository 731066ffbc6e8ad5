"""Moved to :mod:`lsf.formats.model_file.file`."""

from lsf.formats.model_file.file import LoadedModel, load_model, read_header, save_model

__all__ = ["LoadedModel", "load_model", "read_header", "save_model"]
