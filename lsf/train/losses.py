"""Moved to :mod:`lsf.train.objective.losses`."""

from lsf.train.objective.losses import Loss, Term

__all__ = ["Loss", "Term"]
