"""Moved to :mod:`lsf.formats.onnx.read`."""

from lsf.formats.onnx.read import OnnxFile

__all__ = ["OnnxFile"]
