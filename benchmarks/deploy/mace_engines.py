"""mace-torch's own ways to run the short-range model: its ASE calculator and its TorchScript module."""

from __future__ import annotations

import time
from typing import Any, Final

import numpy as np
import torch
from systems import water_box

from benchmarks.mace_model import mace_model

SPECIES: Final = [1, 8]


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Do a task: {"engine": "ASE" or "TorchScript", "levels", "n_atoms", "steps", "warm_up", "dtype"}."""
    torch.set_default_dtype(getattr(torch, task["dtype"]))
    torch.manual_seed(0)
    step = {"ASE": ase, "TorchScript": torchscript}[task["engine"]](task)
    # TorchScript's executor compiles in the first two evaluations, and anew for gradients
    for _ in range(task["warm_up"]):
        step()
    seconds = []
    for _ in range(task["steps"]):
        start = time.process_time()
        step()
        seconds.append(time.process_time() - start)
    return {"seconds": seconds, "model": seconds}


def model(task: dict[str, Any]) -> Any:
    """Return an untrained model of the levels."""
    return mace_model(task["levels"], SPECIES, neighbors=34.0, scale=0.05)


def calculator(task: dict[str, Any]) -> Any:
    """Return mace-torch's calculator of the model."""
    from mace.calculators import MACECalculator

    return MACECalculator(models=[model(task)], device="cpu", default_dtype=task["dtype"])


def ase(task: dict[str, Any]) -> Any:
    """Energy, forces and stress by the calculator, atoms moving a little."""
    atoms, rng = water_box(task["n_atoms"]), np.random.default_rng(1)
    atoms.calc = calculator(task)

    def step() -> None:
        atoms.positions += rng.normal(scale=0.01, size=atoms.positions.shape)
        atoms.get_forces()

    return step


def torchscript(task: dict[str, Any]) -> Any:
    """Energy, forces and virial by the module mace-torch exports for LAMMPS, on inputs that are ready."""
    from e3nn.util import jit
    from mace.calculators import LAMMPS_MACE

    made = calculator(task)
    script = jit.compile(LAMMPS_MACE(made.models[0]))
    batch = made._atoms_to_batch(water_box(task["n_atoms"])).to_dict()
    dtype = getattr(torch, task["dtype"])
    tensors = {key: value for key, value in batch.items() if torch.is_tensor(value)}
    data = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}
    local = torch.ones(task["n_atoms"], dtype=dtype)

    def step() -> None:
        data["positions"] = data["positions"].detach().requires_grad_(True)
        script(dict(data), local, True)

    return step
