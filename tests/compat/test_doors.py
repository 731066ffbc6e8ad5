"""Names that documents of earlier versions import lead to where the things are now."""

import importlib
import subprocess
import sys

import pytest

DOORS = {
    "lsf.pipeline": ("run_recipe", "lsf.commands.train"),
    "lsf.evaluate": ("evaluate_file", "lsf.commands.evaluate"),
    "lsf.export.run": ("export_file", "lsf.formats.write"),
    "lsf.export.package": ("load_model", "lsf.formats.model_file.file"),
    "lsf.deploy.ase": ("CoulombCalculator", "lsf.engines.ase.coulomb"),
    "lsf.deploy.torchscript": ("ScriptFile", "lsf.formats.torchscript.read"),
    "lsf.deploy.aoti": ("CompiledCalculator", "lsf.engines.ase.compiled"),
    "lsf.deploy.onnx": ("OnnxFile", "lsf.formats.onnx.read"),
    "lsf.deploy.lammps.build": ("build", "lsf.engines.lammps.build"),
    "lsf.deploy.lammps.external": ("LammpsModel", "lsf.engines.lammps.external"),
    "lsf.train.losses": ("Loss", "lsf.train.objective.losses"),
}


@pytest.mark.parametrize("old", DOORS)
def test_an_old_name_is_the_thing_itself(old: str) -> None:
    name, new = DOORS[old]
    assert getattr(importlib.import_module(old), name) is getattr(importlib.import_module(new), name)


@pytest.mark.parametrize("module", ["lsf.deploy.lammps.build"])
def test_an_old_command_is_the_command_itself(module: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True
    )
    assert "lsf.engines.lammps.build" in shown.stdout


def test_importing_lsf_loads_no_door() -> None:
    code = "import lsf, sys; print([m for m in sys.modules if m.startswith('lsf.')])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
