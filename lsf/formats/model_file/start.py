"""What a model file has for a new training that starts from it: ``model.start_from``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs
import cattrs

from lsf.data.statistics import DataFacts
from lsf.errors import ModelFileError
from lsf.formats.model_file.file import read_header
from lsf.models.backbone_options import BackboneOptions
from lsf.models.setting import energy_scale, energy_shift
from lsf.recipe.from_model_file import Start
from lsf.recipe.read import read_recipe_text

OWN: Final = ("start_from", "kernels", "recompute")
"""Options of the backbone that are not part of its architecture."""


def read_start(path: Path) -> Start:
    """Return the backbone's options of a model file, numbers in place of rules, and its atomic energies.

    Raises :class:`lsf.errors.ModelFileError` when it is no model file, or one without such a backbone.
    """
    header = read_header(path)
    options = read_recipe_text(header["recipe"], f"{path} (stored recipe)").model.options
    if not isinstance(options, BackboneOptions):
        raise ModelFileError(f"{path}: {header['model']} has no backbone of lsf to start from")
    facts = cattrs.structure(header["facts"], DataFacts)
    architecture = {
        field.name: getattr(options, field.name)
        for field in attrs.fields(BackboneOptions)
        if field.name not in OWN
    }
    architecture |= {
        "avg_num_neighbors": options.avg_num_neighbors or facts.avg_num_neighbors,
        "scale": energy_scale(options, facts),
        "shift": energy_shift(options, facts),
    }
    return Start(architecture, facts.atomic_energies)
