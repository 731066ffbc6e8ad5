"""A model file as users take it up: :func:`lsf.load` and what it returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs

from lsf.engines.ase.calculator import LsfCalculator
from lsf.formats.model_file.file import LoadedModel, load_model


@attrs.frozen(eq=False)
class Model(LoadedModel):
    """A trained model that knows the programs it runs in."""

    def ase_calculator(self, **settings: Any) -> LsfCalculator:
        """Return an ASE calculator; for its settings see
        :class:`lsf.engines.ase.calculator.LsfCalculator`.
        """
        return LsfCalculator(self, **settings)


def load(path: str | Path, kernels: str | None = None) -> Model:
    """Return the model in a file; arguments and errors of :func:`lsf.formats.model_file.file.load_model`."""
    loaded = load_model(path, kernels)
    return Model(loaded.model, loaded.recipe, loaded.facts, loaded.metadata, loaded.path)
