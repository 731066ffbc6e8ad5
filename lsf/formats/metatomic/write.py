"""Models as files of metatomic, which ASE, i-PI and builds of LAMMPS, GROMACS, eOn and PLUMED read."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from lsf.errors import ExportError, MissingExtraError
from lsf.formats.model_file.file import LoadedModel, save_model
from lsf.formats.torchscript.read import ScriptFile
from lsf.formats.torchscript.write import TorchScriptOptions, export_torchscript
from lsf.formats.verify import FIELD_KEY, TOLERANCES, compare, structures
from lsf.machine.files import replacing

SEES: Final = ("total_charge", "total_spin")

Wrap = Callable[[nn.Module, float], nn.Module]
"""Makes a module of metatomic's interface of a file's module and its cutoff in Å."""


class MetatomicExporter:
    """Writes a model around its TorchScript form; ``dtype`` is that of the network, systems are float64."""

    suffix = ".metatomic"

    def __init__(self, options: TorchScriptOptions) -> None:
        self.options = options

    def __call__(self, loaded: LoadedModel, path: Path) -> str:
        """Write the file, whole or not at all, and return what its verification found.

        Raises
        ------
        MissingExtraError
            without metatomic-torch.
        ExportError
            for a model that needs what metatomic has no place for, and when file and model disagree.
        """
        if importlib.util.find_spec("metatomic") is None or importlib.util.find_spec("metatensor") is None:
            raise MissingExtraError("metatomic-torch", "metatomic", "the format metatomic")
        dtype = self.options.dtype or loaded.recipe.dtype
        with tempfile.TemporaryDirectory() as folder, replacing(path) as temporary:
            source = save_model(loaded.model, Path(folder) / "m.safetensors", loaded.recipe, loaded.facts)
            # metatensor fails to start in a process that has torch-geometric
            command = [
                sys.executable,
                "-m",
                "lsf.formats.metatomic.model",
                str(source),
                str(temporary),
                dtype,
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                lines = done.stderr.strip().splitlines() or ["no reason given"]
                raise ExportError(lines[-1])
        return done.stdout.strip()


def write(loaded: LoadedModel, path: Path, options: TorchScriptOptions, wrap: Wrap) -> str:
    """Write the file in a process that may, and return what its verification found."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "model.pt"
        export_torchscript(loaded, script, options)
        file = ScriptFile(script)
        _refuse(file)
        _save(wrap(file.module, file.cutoff), file, path)
        errors = _verified(loaded, file, path)
    return f"largest difference to the model {max(errors.values()):.1e} of its size"


def _refuse(file: ScriptFile) -> None:
    """Refuse what metatomic's systems do not say."""
    name = file.metadata["name"]
    if file.metadata["formal_charges"] == "from_data":
        raise ExportError(f"{name} reads formal charges from data, which metatomic's systems do not hold")
    told = [what for what in SEES if file.metadata[f"sees_{what}"]]
    if told:
        raise ExportError(f"{name} is told {' and '.join(told)}, which metatomic's systems do not hold")


def _save(model: nn.Module, file: ScriptFile, path: Path) -> None:
    from metatomic.torch import AtomisticModel, ModelCapabilities, ModelMetadata, ModelOutput

    has_charges = file.metadata["electrostatics"] is not None
    outputs = {"energy": ModelOutput(unit="eV", sample_kind="system", description="energy of the system")}
    if has_charges:
        outputs["charge"] = ModelOutput(unit="e", sample_kind="atom", description="partial charges")
    capabilities = ModelCapabilities(
        outputs=outputs,
        atomic_types=file.metadata["atomic_numbers"],
        # charges see the whole system
        interaction_range=float("inf"),
        length_unit="angstrom",
        supported_devices=["cpu"],
        dtype="float64",
    )
    metadata = ModelMetadata(
        name=file.metadata["name"],
        description=f"{file.metadata['model']} of lsf {file.metadata['lsf_version']}",
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # TorchScript's, in torch 2.13
        AtomisticModel(model.eval(), metadata, capabilities).save(str(path))


def _verified(loaded: LoadedModel, file: ScriptFile, path: Path) -> dict[str, float]:
    """Return the largest difference to the TorchScript form, which agrees with the model, by output."""
    from metatomic_ase import MetatomicCalculator

    largest: dict[str, float] = {}
    sorts = [(count, True) for count in file.metadata["periodic_directions"]]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        calculator = MetatomicCalculator(str(path), device="cpu")
        for atoms in structures(loaded, sorts)[1:]:
            for item in atoms:
                item.info.pop(FIELD_KEY)
                expected = {
                    name: value
                    for name, value in file.evaluate(file.inputs([item])).items()
                    if name in ("energy", "forces", "stress")
                }
                found = _calculated(calculator, item)
                if not all(item.pbc):
                    expected.pop("stress")
                what = f"verification on {len(item)} atoms, pbc = {item.pbc.tolist()}"
                for name, error in compare(expected, found, TOLERANCES[torch.float64], what).items():
                    largest[name] = max(error, largest.get(name, 0.0))
    return largest


def _calculated(calculator: Any, atoms: Any) -> dict[str, torch.Tensor]:
    """Return energy, forces and, in fully periodic cells, stress by metatomic's calculator."""
    names = ["energy", "forces", *(["stress"] if all(atoms.pbc) else [])]
    calculator.calculate(atoms, names, [])
    found = {name: torch.as_tensor(np.asarray(calculator.results[name])) for name in names}
    found["energy"] = found["energy"].reshape(1)
    if "stress" in found:
        xx, yy, zz, yz, xz, xy = found["stress"].tolist()
        rows = [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]
        found["stress"] = torch.tensor([rows], dtype=torch.float64)
    return found
