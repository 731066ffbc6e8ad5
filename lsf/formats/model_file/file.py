"""Model files: weights in safetensors, everything else as one JSON text in its header.

The header holds the resolved recipe and the facts of the data, from which the model is rebuilt, so a
file is complete on its own and nothing in it is code. Older formats: :mod:`lsf.formats.model_file.upgrades`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import cattrs
import torch
from ase.data import chemical_symbols
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

import lsf
from lsf.data.statistics import DataFacts
from lsf.errors import ModelFileError, did_you_mean
from lsf.formats.model_file.upgrades import FORMAT_VERSION, Header, steps_from, upgraded_header
from lsf.machine.files import replacing
from lsf.models.build import build_model
from lsf.models.local_source import LocalSourceModel
from lsf.models.message_passing.executors import kernels_for_any_device
from lsf.options import NoOptions
from lsf.recipe.read import read_recipe_text, resolved_toml
from lsf.recipe.schema import Recipe
from lsf.units import CONVENTIONS, UNITS

HEADER_KEY: Final = "lsf"


@attrs.frozen(eq=False)
class LoadedModel:
    """A model from a file: ready to evaluate, with the recipe and the facts it was made from."""

    model: LocalSourceModel
    recipe: Recipe
    facts: DataFacts
    metadata: dict[str, Any]
    path: Path


def save_model(
    model: LocalSourceModel,
    path: str | Path,
    recipe: Recipe,
    facts: DataFacts,
    training: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model file, whole or not at all, and return its path.

    ``training`` is a summary of plain values (stage, epoch, errors). Raises
    :class:`lsf.errors.LsfError` when the file cannot be written.
    """
    path = Path(path)
    header = {
        "format_version": FORMAT_VERSION,
        "lsf_version": lsf.__version__,
        "torch_version": str(torch.__version__),
        "name": recipe.name,
        "model": recipe.model.use,
        "species": [chemical_symbols[number] for number in facts.species],
        "cutoff": model.r_max,
        "boundary": recipe.electrostatics.boundary,
        "dtype": recipe.dtype,
        "units": UNITS,
        "conventions": CONVENTIONS,
        "facts": attrs.asdict(facts),
        "training": dict(training or {}),
        "recipe": resolved_toml(recipe),
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    # as bytes, so that a full disk is an OSError like everywhere else
    content = save(tensors, metadata={HEADER_KEY: json.dumps(header, ensure_ascii=False)})
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


class SafetensorsExporter:
    """Writes a model file anew, in the present format."""

    suffix = ".safetensors"

    def __init__(self, options: NoOptions) -> None:
        self.options = options

    def __call__(self, loaded: LoadedModel, path: Path) -> str:
        """Write the file and return a line about it."""
        training = loaded.metadata["training"]
        save_model(loaded.model, path, loaded.recipe, loaded.facts, training)
        return f"format {FORMAT_VERSION}"


def read_header(path: str | Path) -> Header:
    """Return the header of a model file, upgraded to the present format.

    Raises
    ------
    ModelFileError
        when the file is missing, is no model file of lsf, is damaged, or was written by a newer lsf.
    """
    path = Path(path)
    if not path.is_file():
        siblings = [item.name for item in path.parent.glob("*.safetensors")] if path.parent.is_dir() else []
        hint = f"; {did_you_mean(path.name, siblings)}" if siblings else ""
        raise ModelFileError(f"{path}: there is no such model file{hint}")
    return upgraded_header(_stored_header(path), path)


def _stored_header(path: Path) -> Header:
    """Return the header of a file that is there, as it was written."""
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get(HEADER_KEY)
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path}: not a readable safetensors file ({error})") from error
    if text is None:
        raise ModelFileError(f"{path}: a safetensors file, but not a model written by lsf")
    try:
        header: Header = json.loads(text)
    except json.JSONDecodeError as error:
        raise ModelFileError(f"{path}: damaged: its header is not JSON ({error})") from error
    return header


def load_model(path: str | Path, kernels: str | None = None) -> LoadedModel:
    """Return the model stored in a file, on the CPU, with exactly the weights and dtype it was saved with.

    It computes with ``kernels`` or, without them, with those of its recipe if they run anywhere, otherwise
    with "auto". Raises :class:`lsf.errors.ModelFileError` as :func:`read_header` does, and when weights are
    missing, unexpected or of another shape.
    """
    path = Path(path)
    header = read_header(path)
    for remark in header.pop("remarks", []):
        warnings.warn(f"{path.name}: {remark}", stacklevel=2)
    recipe = read_recipe_text(header["recipe"], f"{path} (stored recipe)")
    facts = cattrs.structure(header["facts"], DataFacts)
    model = build_model(recipe, facts)
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for step in steps_from(_stored_header(path), path):
            tensors = step.tensors(tensors)
        model.load_state_dict(tensors, strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise ModelFileError(f"{path}: the weights do not fit the stored recipe: {error}") from error
    model.backbone.use_kernels(kernels or kernels_for_any_device(model.backbone.kernels))
    return LoadedModel(model.eval(), recipe, facts, header, path)
