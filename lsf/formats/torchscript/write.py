"""TorchScript files: one file that runs with torch alone, in Python or C++.

The model in Python is traced, so that there is one source; only the two heavy Coulomb sums and the lists
are written in TorchScript. Of the kernels it takes the plain one. The archive's extra file
``metadata.json`` says what is inside.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import attrs
import torch
from ase import Atoms
from torch import Tensor, nn

from lsf.data.graph import GraphTensors, graph_tensors
from lsf.electrostatics.boundary import KIND_OPEN, structure_sorts
from lsf.electrostatics.settings import Electrostatics
from lsf.formats.describe import all_kinds, described, prepared, treated_kinds
from lsf.formats.model_file.file import LoadedModel
from lsf.formats.torchscript.devices import follow_inputs
from lsf.formats.torchscript.model import BY_ELEMENT, NO_CHARGES, PER_ATOM, ScriptModel
from lsf.formats.torchscript.plan import ScriptPlanner
from lsf.formats.torchscript.read import FORMAT, FORMAT_VERSION, METADATA_FILE, ScriptFile
from lsf.formats.verify import TOLERANCES, agreement, batch_of, both, reference_model, structures, verified
from lsf.machine import torchscript
from lsf.machine.files import replacing
from lsf.models.derivatives import named_outputs
from lsf.models.energies.coulomb import CoulombTerm
from lsf.models.local_source import LocalSourceModel
from lsf.options import option

_MADE_INSIDE: Final = "open_pairs"


@attrs.frozen
class TorchScriptOptions:
    """Options of the exporter."""

    dtype: Literal["float64", "float32"] | None = option(
        "Precision of the parameters and the short-range part in the file; the model's own where not given. "
        "float32 is faster; electrostatics stays in float64.",
        default=None,
    )


class TorchScriptExporter:
    """Writes TorchScript files."""

    suffix = ".pt"

    def __init__(self, options: TorchScriptOptions) -> None:
        self.options = options

    def __call__(self, loaded: LoadedModel, path: Path) -> str:
        """Write the file and return what its verification found."""
        return export_torchscript(loaded, path, self.options)


def export_torchscript(loaded: LoadedModel, path: Path, options: TorchScriptOptions) -> str:
    """Write a model as TorchScript, whole or not at all, and return what the verification found.

    The file is evaluated before it is written, on structures that the trace has not seen.

    Raises
    ------
    ExportError
        when file and model disagree.
    """
    dtype = getattr(torch, options.dtype or loaded.recipe.dtype)
    reference = reference_model(loaded, dtype)
    settings = _file_settings(loaded)
    model = prepared(reference, settings.backend)
    kinds = treated_kinds(loaded)
    # a model without charges treats any periodicity in the file, in Python those of its boundary method
    batches = structures(loaded, structure_sorts(loaded.recipe.electrostatics.boundary))
    script = _compiled(loaded, model, settings, kinds, batches[0])
    metadata = _metadata(loaded, script, dtype)
    file = ScriptFile(io.BytesIO(_archive(script, metadata)))

    def evaluate_file(atoms: Sequence[Atoms]) -> dict[str, Tensor]:
        return file.evaluate(file.inputs(atoms), detail=2)

    tolerance = TOLERANCES[dtype]
    metadata["verified"] = verified(loaded, reference, batches, evaluate_file, tolerance, settings.backend)
    if settings.backend == "auto":
        # the structures are too small for a mesh to be chosen
        file.module.planner.meshes.always = True
        on_mesh = verified(loaded, reference, batches, evaluate_file, tolerance, "mesh")
        metadata["verified"] = both(metadata["verified"], on_mesh)
    content = _archive(script, metadata)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return agreement(metadata["verified"])


def _archive(script: Any, metadata: dict[str, Any]) -> bytes:
    return torchscript.archive(script, {METADATA_FILE: json.dumps(metadata, ensure_ascii=False)})


class _Flat(nn.Module):
    """The model with tensors in and a tuple of tensors out, as a trace wants it."""

    def __init__(self, model: LocalSourceModel, inputs: tuple[str, ...], has_open: bool) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs
        self.has_open = has_open
        self.names: list[str] = []

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs in the order of ``names``."""
        given = dict(zip(self.inputs, tensors, strict=True))
        # the sums make their own pairs: this one tells that there are any
        pairs = torch.zeros((2, int(self.has_open)), dtype=torch.int64, device=given["kind"].device)
        graph = GraphTensors(*((given | {_MADE_INSIDE: pairs})[name] for name in GraphTensors._fields))
        named = named_outputs(self.model(*graph), graph)
        self.names = list(named)
        return tuple(named.values())


def _file_settings(loaded: LoadedModel) -> Electrostatics:
    """Return the settings of the file: those of the recipe, without GPU kernels or sums nobody needs."""
    settings = loaded.recipe.electrostatics
    has_charges = isinstance(loaded.model.coulomb, CoulombTerm)
    meshes = has_charges and settings.backend in ("auto", "mesh")
    return attrs.evolve(settings, backend=settings.backend if meshes else "direct")


def _compiled(
    loaded: LoadedModel,
    model: LocalSourceModel,
    settings: Electrostatics,
    kinds: list[int],
    examples: Sequence[Atoms],
) -> Any:
    """Return the scripted model around the trace of the model in Python."""
    inputs = tuple(name for name in GraphTensors._fields if name != _MADE_INSIDE)
    # on meshes where there may be any: a trace holds what its examples have
    traced_backend = "direct" if settings.backend == "direct" else "mesh"
    graphs = batch_of(loaded, examples, attrs.evolve(settings, backend=traced_backend))
    graph = graph_tensors(graphs, model.species)
    flat = _Flat(model, inputs, KIND_OPEN in all_kinds(loaded))
    traced = torchscript.trace(flat, tuple(getattr(graph, name) for name in inputs))
    follow_inputs(traced)
    rule = loaded.recipe.model.options.formal_charge_rule()
    species = model.species.tolist()
    table = None
    if isinstance(rule, dict):
        from ase.data import chemical_symbols

        table = [float(rule[chemical_symbols[number]]) for number in species]
    bounds = getattr(loaded.recipe.model.options, "oxidation_range", (-float("inf"), float("inf")))
    outer = ScriptModel(
        traced,
        flat.names,
        ScriptPlanner(settings, kinds),
        species,
        table,
        NO_CHARGES if rule is None else BY_ELEMENT if table is not None else PER_ATOM,
        (float(bounds[0]), float(bounds[1])),
        model.r_max,
        bool(loaded.recipe.model.options.seen_state()),
    )
    return torchscript.script(outer.eval())


def _metadata(loaded: LoadedModel, script: Any, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "devices": "any",
        **described(loaded, dtype),
        "inputs": [argument.name for argument in script.forward.schema.arguments[1:]],
        "outputs": [*script.names, "forces", "virial", "stress", "potential"],
    }
