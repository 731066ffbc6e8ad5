"""Compiled packages: a model as a shared library, with what a program must know to use it.

A package is executable code, as a shared library is: load those you trust. Nothing in it is unpickled. Its
metadata are read from the archive before anything of it runs.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import cattrs
import torch
from torch import Tensor, nn

import lsf.electrostatics.exported.operator  # packages call the operations that these two define
import lsf.models.message_passing.compiled.operator  # noqa: F401
from lsf.data.graph import graph_tensors
from lsf.data.statistics import DataFacts
from lsf.errors import LsfError, ModelFileError
from lsf.formats.metadata import checked_metadata
from lsf.models.message_passing.compiled.executor import compiled_blocks
from lsf.models.message_passing.compiled.functions import BlockFunction, BlockFunctions
from lsf.models.message_passing.compiled.recording import recorded_inputs
from lsf.models.message_passing.native.groups import Group
from lsf.recipe.read import read_recipe_text

FORMAT: Final = "lsf-aoti"
FORMAT_VERSION: Final = 3
METADATA_FILE: Final = "extra/lsf.json"
"""Name of the metadata inside the archive's one folder."""

BLOCK_FUNCTIONS: Final = "forward", "backward"
"""Programs of a package besides the model itself: what it computes on blocks of edges."""

MISSING: Final = ("born_charges", "hessian")


class PackagedModel(nn.Module):
    """The compiled model as a module: ``forward`` takes a collated batch and returns all outputs by name."""

    species: Tensor

    def __init__(self, runners: dict[str, Any], metadata: dict[str, Any]) -> None:
        super().__init__()
        self.register_buffer("species", torch.tensor(metadata["atomic_numbers"]))
        self.runner, self.metadata = runners["model"], metadata
        self.blocks: dict[Any, BlockFunction] = {}
        for number, (groups, n_channels) in enumerate(metadata["blocks"]):
            spec = tuple(Group(*group) for group in groups), n_channels
            for name in BLOCK_FUNCTIONS:
                self.blocks[*spec, name] = _called(runners[f"{name}_{number}"])
        self.r_max = float(metadata["cutoff"])
        self.has_polarizability = "polarizability" in metadata["outputs"]

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Return the outputs of :func:`lsf.models.derivatives.evaluate` that a package holds."""
        graph = graph_tensors(batch, self.species)
        itemsize = getattr(torch, self.metadata["dtype"]).itemsize
        inputs = [*recorded_inputs(graph, self.metadata["inputs"], itemsize)]
        with compiled_blocks(self._block_function):
            values = self.runner.boxed_run(inputs)
        return dict(zip(self.metadata["outputs"], values, strict=True))

    def _block_function(self, functions: BlockFunctions, name: str, _: Sequence[Tensor]) -> BlockFunction:
        return self.blocks[functions.groups, functions.n_channels, name]


class PackageFile:
    """A model in a compiled package; recipe and facts of the data as in a model file.

    Parameters
    ----------
    file : path of the package
    device : where to compute; packages are compiled for the CPU

    Raises
    ------
    LsfError
        on a device other than the CPU.
    ModelFileError
        when the file is missing, no package of lsf, of a newer format, or does not run here.
    """

    def __init__(self, file: str | Path, device: str = "cpu") -> None:
        if torch.device(device).type != "cpu":
            raise LsfError(f"device {device!r}: compiled packages compute on the CPU; expected 'cpu'")
        self.path = Path(file)
        self.metadata = read_metadata(self.path)
        self.recipe = read_recipe_text(self.metadata["recipe"], f"{file} (stored recipe)")
        self.facts = cattrs.structure(self.metadata["facts"], DataFacts)
        try:
            # the class below torch's own loader, which would read further parts of the archive
            load = torch._C._aoti.AOTIModelPackageLoader  # type: ignore[attr-defined]
            runners = {name: load(str(self.path), name, False, 1, -1) for name in _programs(self.metadata)}
        except RuntimeError as error:
            raise ModelFileError(
                f"{file}: does not run here ({str(error).splitlines()[0]}); it was compiled with torch "
                f"{self.metadata['torch_version']} for {self.metadata['machine']}, this is torch "
                f"{torch.__version__}: export the model on this machine"
            ) from error
        self.model = PackagedModel(runners, self.metadata)

    @property
    def cutoff(self) -> float:
        """Cutoff of the neighbour list in Å."""
        return float(self.metadata["cutoff"])

    @property
    def species(self) -> list[str]:
        """Chemical symbols the model knows."""
        return list(self.metadata["species"])


def _programs(metadata: dict[str, Any]) -> list[str]:
    """Return the names of the programs in a package."""
    numbers = range(len(metadata["blocks"]))
    return ["model", *(f"{name}_{number}" for number in numbers for name in BLOCK_FUNCTIONS)]


def _called(runner: Any) -> BlockFunction:
    return lambda *tensors: tuple(runner.boxed_run(list(tensors)))


def read_metadata(path: Path) -> dict[str, Any]:
    """Return what a package says of itself, without running anything of it.

    Raises :class:`lsf.errors.ModelFileError` when the file is missing, no package of lsf or too new.
    """
    if not path.is_file():
        raise ModelFileError(f"{path}: there is no such model file")
    try:
        with zipfile.ZipFile(path) as archive:
            found = [name for name in archive.namelist() if name.endswith(METADATA_FILE)]
            text = archive.read(found[0]) if found else b""
    except (zipfile.BadZipFile, OSError) as error:
        raise ModelFileError(f"{path}: not a readable package ({error})") from error
    metadata = checked_metadata(text, FORMAT, FORMAT_VERSION, str(path), "a package")
    if metadata["format_version"] < FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: a package of format {metadata['format_version']}, by lsf {metadata['lsf_version']}; "
            f"this lsf runs packages of format {FORMAT_VERSION}: export the model again"
        )
    return metadata
