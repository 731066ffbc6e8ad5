"""mace-torch's own ways to run the short-range model: its ASE calculator and its TorchScript module."""

from __future__ import annotations

import time
from typing import Any, Final

import numpy as np
import torch
from systems import water_box

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
    from e3nn import o3
    from mace import modules

    levels = task["levels"]
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    return modules.ScaleShiftMACE(
        r_max=levels["r_max"],
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=levels["max_ell"],
        interaction_cls=block,
        interaction_cls_first=block,
        num_interactions=levels["num_interactions"],
        num_elements=len(SPECIES),
        hidden_irreps=o3.Irreps(levels["hidden_irreps"]),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros((1, len(SPECIES))),
        avg_num_neighbors=34.0,
        atomic_numbers=SPECIES,
        correlation=levels["correlation"],
        gate=torch.nn.functional.silu,
        atomic_inter_scale=np.array([0.05]),
        atomic_inter_shift=np.array([0.0]),
    )


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
