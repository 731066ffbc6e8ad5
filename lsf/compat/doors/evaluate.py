"""Moved to :mod:`lsf.commands.evaluate`."""

from lsf.commands.evaluate import evaluate_file

__all__ = ["evaluate_file"]
