"""What the tests of imported mace-torch models share: conversion of a case and its deviations."""

from pathlib import Path

import numpy as np
from ase import Atoms
from safetensors.torch import load_file

from lsf.compat.import_mace import import_mace
from lsf.compat.mace_settings import read_mace
from lsf.engines.load import load
from lsf.formats.model_file.file import save_model
from tests.compat.mace.make_models import structures

SAMPLES = Path(__file__).parent / "mace"


def imported(weights, path, head=None):
    """Return the loaded model file ``path`` that is made of exported weights."""
    made = import_mace(read_mace(weights, head), path.stem)
    save_model(made.model, path, made.recipe, made.facts)
    return load(path)


def deviations(loaded, predictions, head):
    """Return the largest deviation of energies, forces and stresses from what mace-torch predicts."""
    calculator = loaded.ase_calculator(device="cpu")
    found = {"energy": [], "forces": [], "stress": []}
    for numbers, positions, cell, pbc in structures():
        atoms = Atoms(numbers, positions, cell=cell, pbc=pbc, calculator=calculator)
        found["energy"].append(atoms.get_potential_energy())
        found["forces"].append(atoms.get_forces())
        found["stress"].append(atoms.get_stress(voigt=False) if pbc.all() else np.zeros((3, 3)))
    expected = load_file(predictions)
    return {
        name: np.abs(
            np.concatenate([np.atleast_1d(value) for value in values]).ravel()
            - expected[f"{head}.{name}"].numpy().ravel()
        ).max()
        for name, values in found.items()
    }
