"""The weights an untrained model takes over from the model file its recipe starts from.

See :mod:`lsf.recipe.from_model_file` for the settings. What reads model files is handed in: training knows
nothing of file formats.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

import torch
from ase.data import chemical_symbols
from torch import Tensor

from lsf.data.statistics import DataFacts
from lsf.errors import LsfError
from lsf.models.backbone_options import BackboneOptions
from lsf.models.local_source import LocalSourceModel
from lsf.recipe.schema import Recipe

BY_SPECIES: Final = re.compile(
    r"backbone\.embedding|backbone\.layers\.\d+\.(skip|mix)\.weight|bond_lengths\.radii"
    r"|backbone\.layers\.\d+\.contraction\.weights\.\d+"
)
"""Weights whose first axis is the species."""

BY_DEGREE: Final = {"linear.weight": 0, "skip.weight": 1}
"""Weights of a layer with an axis of the degrees it leaves."""

FROM_DATA: Final = ("species", "atomic_energies")
"""Entries that follow from the recipe's data."""


class StoredModel(Protocol):
    """What is read of a model file: its model, the facts of the data it was trained on, and where it is."""

    @property
    def model(self) -> LocalSourceModel:
        """The trained model."""

    @property
    def facts(self) -> DataFacts:
        """Species and statistics of its training data."""

    @property
    def path(self) -> Path:
        """The file."""


ReadModel = Callable[[str], StoredModel]
"""Reads a model file; raises :class:`lsf.errors.ModelFileError` when there is none."""


def start_from_file(
    model: LocalSourceModel, recipe: Recipe, facts: DataFacts, log: logging.Logger, read_model: ReadModel
) -> LocalSourceModel:
    """Give an untrained model the backbone and short-range readout of the file its recipe names.

    ``read_model`` reads that file (:func:`lsf.formats.model_file.file.load_model`). The source head comes
    along where it is the same one; otherwise it stays untrained, and what it adds to the initial features is
    switched off until it is trained. Raises :class:`lsf.errors.LsfError` naming the elements that the file's
    model does not know.
    """
    options = recipe.model.options
    if not isinstance(options, BackboneOptions) or options.start_from is None:
        return model
    loaded = read_model(options.start_from)
    known = loaded.facts.species
    missing = [chemical_symbols[number] for number in facts.species if number not in known]
    if missing:
        raise LsfError(
            f"{loaded.path}: the model to start from does not know {', '.join(missing)}; "
            f"it knows {', '.join(chemical_symbols[number] for number in known)}"
        )
    rows = torch.tensor([known.index(number) for number in facts.species])
    given = loaded.model.state_dict()
    same_source = _same_source(model.state_dict(), given)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            fresh = name not in given or (_is_source(name) and not same_source)
            if name in FROM_DATA or fresh:
                continue
            stored = given[name]
            stored = stored.index_select(0, rows) if BY_SPECIES.fullmatch(name) else stored
            _copy(name, stored, value)
    if not same_source:
        model.source.mixer.make_neutral()
    log.info(
        "started from %s: %s",
        loaded.path.name,
        "all weights" if same_source else "backbone and short-range readout; charges start anew",
    )
    return model


def _is_source(name: str) -> bool:
    return name.startswith(("source.", "polarizability."))


def _same_source(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    """Tell whether everything that makes charges has the same weights in both."""
    shapes = [
        {name: value.shape for name, value in state.items() if _is_source(name)} for state in (ours, theirs)
    ]
    return shapes[0] == shapes[1]


def _copy(name: str, stored: Tensor, target: Tensor) -> None:
    """Copy weights; where ours has more degrees, which only the last layer may, the others stay as drawn."""
    axis = next((axis for part, axis in BY_DEGREE.items() if name.endswith(f".{part}")), None)
    if stored.shape != target.shape and axis is not None:
        target = target.narrow(axis, 0, stored.shape[axis])
    target.copy_(stored)
