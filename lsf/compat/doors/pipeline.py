"""Moved to :mod:`lsf.commands.train`."""

from lsf.commands.train import RunResult, check_recipe, run_recipe

__all__ = ["RunResult", "check_recipe", "run_recipe"]
