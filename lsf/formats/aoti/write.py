"""Compiled packages (AOTInductor): the recorded graph of a model as a shared library, for simulations."""

from __future__ import annotations

import json
import platform
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import attrs
import torch
from ase import Atoms
from torch import Tensor
from torch._inductor.package.package import package_aoti
from torch.export import Dim, ExportedProgram

from lsf.electrostatics.boundary import structure_sorts
from lsf.errors import ExportError
from lsf.formats.aoti.read import BLOCK_FUNCTIONS, FORMAT, FORMAT_VERSION, METADATA_FILE, PackageFile
from lsf.formats.describe import described
from lsf.formats.graph import FlatGraph, package_settings, recorded
from lsf.formats.model_file.file import LoadedModel
from lsf.formats.verify import TOLERANCES, agreement, batch_of, reference_model, structures, verified
from lsf.machine.compilers import require_compiler, sums_by_torch
from lsf.machine.files import replacing
from lsf.models.message_passing.compiled.executor import block_graph
from lsf.models.message_passing.compiled.operator import block_arguments
from lsf.options import option
from lsf.recipe.read import resolved_toml

_STATIC: Final = ("n_species",)
_ONE_OR_MORE: Final = ("n_atoms", "n_graphs", "n_present", "n_slots", "n_edge_slots", "n_rows")


@attrs.frozen
class AotiOptions:
    """Options of the exporter."""

    dtype: Literal["float64", "float32"] | None = option(
        "Precision of the parameters and the short-range part in the package; the model's own where not "
        "given. float32 is faster; electrostatics stays in float64.",
        default=None,
    )


class AotiExporter:
    """Writes compiled packages."""

    suffix = ".pt2"

    def __init__(self, options: AotiOptions) -> None:
        self.options = options

    def __call__(self, loaded: LoadedModel, path: Path) -> str:
        """Write the package and return what its verification found."""
        return export_aoti(loaded, path, self.options)


def export_aoti(loaded: LoadedModel, path: Path, options: AotiOptions) -> str:
    """Compile a model into a package, whole or not at all, and return what the verification found.

    Raises
    ------
    LsfError
        when there is no C++ compiler.
    ExportError
        when the model cannot be compiled, or package and model disagree.
    """
    require_compiler("the format aoti")
    dtype = getattr(torch, options.dtype or loaded.recipe.dtype)
    graph = recorded(loaded, dtype, opaque=True)
    metadata: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **described(loaded, dtype),
        "machine": f"{platform.system()} {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "inputs": list(graph.inputs),
        "outputs": list(graph.outputs),
        "blocks": [
            [functions.groups, functions.n_channels] for functions, _ in block_arguments(graph.module)
        ],
        "facts": attrs.asdict(loaded.facts),
        "recipe": resolved_toml(attrs.evolve(loaded.recipe, electrostatics=package_settings(loaded))),
    }
    reference = reference_model(loaded, dtype)
    settings = package_settings(loaded)
    batches = structures(loaded, structure_sorts(loaded.recipe.electrostatics.boundary))
    with tempfile.TemporaryDirectory() as folder, replacing(path) as temporary:
        plain = Path(folder) / "model.pt2"
        _compile({"model": _exported(graph), **_block_programs(graph)}, plain)
        trial = Path(folder) / "trial.pt2"
        _with_metadata(plain, trial, metadata)
        model = PackageFile(trial).model

        def evaluate_file(atoms: Sequence[Atoms]) -> dict[str, Tensor]:
            outputs: dict[str, Tensor] = model(batch_of(loaded, atoms, settings))
            return outputs

        metadata["verified"] = verified(
            loaded, reference, batches, evaluate_file, TOLERANCES[dtype], settings.backend
        )
        _with_metadata(plain, temporary, metadata)
    return agreement(metadata["verified"])


def _exported(graph: FlatGraph) -> ExportedProgram:
    """Return the program of a graph for any sizes."""
    names = {size for sizes in graph.sizes.values() for size in sizes if isinstance(size, str)}
    dims = {name: Dim(name, min=1 if name in _ONE_OR_MORE else 0) for name in names - set(_STATIC)}
    shapes = tuple(
        {axis: dims[size] for axis, size in enumerate(sizes) if size in dims and example.shape[axis] > 1}
        for sizes, example in zip(graph.sizes.values(), graph.examples, strict=True)
    )
    return _program(graph.module, graph.examples, shapes)


def _block_programs(graph: FlatGraph) -> dict[str, ExportedProgram]:
    """Return the programs of what the sums of a graph compute on a block of edges."""
    programs = {}
    for number, (functions, arguments) in enumerate(block_arguments(graph.module)):
        for name in BLOCK_FUNCTIONS:
            block = block_graph(functions, name, arguments[name], "the package")
            names = {size for sizes in block.sizes for size in sizes if isinstance(size, str)}
            dims = {size: Dim(size, min=1) for size in names}
            shapes = tuple(
                {axis: dims[size] for axis, size in enumerate(sizes) if isinstance(size, str)}
                for sizes in block.sizes
            )
            programs[f"{name}_{number}"] = _program(block.recorded.module, tuple(block.examples), shapes)
    return programs


def _program(module: torch.nn.Module, inputs: tuple[Tensor, ...], shapes: Any) -> ExportedProgram:
    with _said_in_one_line():
        return torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)


def _compile(programs: dict[str, ExportedProgram], path: Path) -> None:
    """Compile programs into one package."""
    with _said_in_one_line(), sums_by_torch():
        files: dict[str, Any] = {}
        for name, program in programs.items():
            inputs = program.example_inputs
            assert inputs is not None
            options = {"aot_inductor.package": True}
            files[name] = torch._inductor.aot_compile(program.module(), inputs[0], options=options)
        package_aoti(str(path), files)


@contextmanager
def _said_in_one_line() -> Iterator[None]:
    """Say in one line what failed; leave out what the compiler says about its own code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # torch raises of every kind
        said = (str(error).splitlines() or ["nothing more"])[0]
        raise ExportError(
            f"the model cannot be compiled ({type(error).__name__}: {said}); "
            "TorchScript files serve the same programs: --format torchscript"
        ) from error


def _with_metadata(package: Path, path: Path, metadata: dict[str, Any]) -> None:
    """Write a copy of a package with its metadata inside."""
    with zipfile.ZipFile(package) as source, zipfile.ZipFile(path, "w") as target:
        names = source.namelist()
        for name in names:
            target.writestr(name, source.read(name))
        root = names[0].split("/")[0]
        target.writestr(f"{root}/{METADATA_FILE}", json.dumps(metadata, ensure_ascii=False))
