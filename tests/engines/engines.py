"""Models and structures that the tests of simulation programs share."""

from __future__ import annotations

import numpy as np
from ase import Atoms

import lsf
from lsf.formats.model_file.file import LoadedModel
from lsf.formats.onnx.write import OnnxOptions, export_onnx
from lsf.formats.torchscript.write import TorchScriptOptions, export_torchscript
from tests.builders import CHARGES, SALT, SPLIT, model_file, small_recipe
from tests.models.helpers import salt_slab, triclinic_salt, water

FACTS = SALT


def exported(
    folder,
    boundary="pbc",
    charges=CHARGES,
    dtype=None,
    backend="direct",
):
    """Write a small untrained model; return it and its TorchScript file."""
    loaded = stored(folder, boundary, charges, backend)
    export_torchscript(loaded, folder / "small.pt", TorchScriptOptions(dtype))
    return loaded, folder / "small.pt"


def exported_onnx(folder, boundary="pbc"):
    """Write a small untrained model; return it and its ONNX file."""
    loaded = stored(folder, boundary)
    export_onnx(loaded, folder / "small.onnx", OnnxOptions())
    return loaded, folder / "small.onnx"


def stored(folder, boundary, charges=CHARGES, backend="direct"):
    """Write a small untrained model and return it."""
    settings = {"boundary": boundary, "backend": backend}
    recipe = small_recipe({**SPLIT, "formal_charges": charges}, settings)
    source = model_file(folder, recipe, FACTS)
    return lsf.load(source)


def in_engine_frame(atoms: Atoms) -> Atoms:
    """Return a periodic structure turned so that its cell is lower triangular, as engines want it."""
    atoms = atoms.copy()
    cell, _ = atoms.cell.standard_form()
    atoms.set_cell(cell, scale_atoms=True)
    return atoms


def structures() -> dict[str, Atoms]:
    """Return structures by name: skewed, smaller than twice the cutoff, orthorhombic, slab."""
    ortho = triclinic_salt(3)
    ortho.set_cell(np.diag([5.7, 5.5, 11.4]) * 1.0, scale_atoms=True)
    slab = salt_slab(4)
    slab.set_cell(np.array([[4.2, 0.0, 0.0], [0.5, 4.3, 0.0], [0.0, 0.0, 20.0]]) * 1.4, scale_atoms=False)
    tri = in_engine_frame(triclinic_salt(4) * (2, 1, 1))
    found = {"triclinic": tri, "small": in_engine_frame(triclinic_salt(2)), "ortho": ortho, "slab": slab}
    for atoms in found.values():
        atoms.info.clear()
        atoms.wrap()  # in periodic directions: engines would do it and forget where an atom came from
    return found


def reference(loaded: LoadedModel, atoms: Atoms, electric_field=None) -> dict[str, np.ndarray]:
    """Return energy, energies of atoms, forces, stress (3, 3), charges and dipole of the model in Python."""
    calculator = loaded.ase_calculator(electric_field=electric_field)
    atoms = atoms.copy()
    atoms.calc = calculator
    found = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    if atoms.pbc.all():
        found["stress"] = atoms.get_stress(voigt=False)
    found["energies"] = atoms.get_potential_energies()
    return found | {"charges": atoms.get_charges(), "dipole": atoms.get_dipole_moment()}


__all__ = ["exported", "in_engine_frame", "reference", "structures", "water"]
