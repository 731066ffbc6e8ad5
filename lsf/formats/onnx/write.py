"""ONNX files: the recorded graph of a model, verified with onnxruntime before it is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import attrs
import torch
from ase import Atoms
from torch import Tensor

from lsf.electrostatics.boundary import structure_sorts
from lsf.errors import MissingExtraError
from lsf.formats.describe import described
from lsf.formats.graph import recorded
from lsf.formats.model_file.file import LoadedModel
from lsf.formats.onnx.inputs import GIVEN
from lsf.formats.onnx.read import FORMAT, FORMAT_VERSION, METADATA_KEY, OnnxFile
from lsf.formats.verify import agreement, reference_model, structures, verified
from lsf.machine.files import replacing
from lsf.options import option

TOLERANCES: Final = {torch.float64: 1.0e-9, torch.float32: 1.0e-5}
"""Largest difference to the model in Python, relative to the largest number of its kind (at least 1)."""


@attrs.frozen
class OnnxOptions:
    """Options of the exporter."""

    dtype: Literal["float64", "float32"] | None = option(
        "Precision of the parameters and the short-range part in the file; the model's own where not given. "
        "float32 is faster; positions and electrostatics stay in float64.",
        default=None,
    )


class OnnxExporter:
    """Writes ONNX files."""

    suffix = ".onnx"

    def __init__(self, options: OnnxOptions) -> None:
        self.options = options

    def __call__(self, loaded: LoadedModel, path: Path) -> str:
        """Write the file and return what its verification found."""
        return export_onnx(loaded, path, self.options)


def export_onnx(loaded: LoadedModel, path: Path, options: OnnxOptions) -> str:
    """Write a model as ONNX, whole or not at all, and return what the verification found.

    The file is evaluated before it is written, on structures of sizes that were not recorded, with inputs
    made without torch.

    Raises
    ------
    ExportError
        when the model cannot be recorded or written, or file and model disagree.
    MissingExtraError
        when onnx or onnxruntime is not installed.
    """
    try:
        from onnx import helper

        from lsf.formats.onnx.convert.graph import converted
    except ImportError as error:
        raise MissingExtraError("onnx", "onnx", "the format onnx") from error
    dtype = getattr(torch, options.dtype or loaded.recipe.dtype)
    graph = recorded(loaded, dtype)
    names = [name + GIVEN if name in graph.outputs else name for name in graph.inputs]
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **described(loaded, dtype),
        "inputs": names,
        "outputs": list(graph.outputs),
        "sizes": {name: list(graph.sizes[own]) for name, own in zip(names, graph.inputs, strict=True)},
    }
    model = converted(graph, names)
    helper.set_model_props(model, _property(metadata))
    file = OnnxFile(model.SerializeToString())
    batches = structures(loaded, structure_sorts(loaded.recipe.electrostatics.boundary), seed=7)

    def evaluate_file(atoms: Sequence[Atoms]) -> dict[str, Tensor]:
        return {name: torch.from_numpy(value) for name, value in file.evaluate(file.inputs(atoms)).items()}

    reference = reference_model(loaded, dtype)
    metadata["verified"] = verified(loaded, reference, batches, evaluate_file, TOLERANCES[dtype])
    helper.set_model_props(model, _property(metadata))
    content = model.SerializeToString()
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return agreement(metadata["verified"])


def _property(metadata: dict[str, Any]) -> dict[str, str]:
    return {METADATA_KEY: json.dumps(metadata, ensure_ascii=False)}
