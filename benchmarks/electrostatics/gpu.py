"""Energy and forces of periodic boxes on a CUDA device, next to what the device allows on paper.

The paper's figures are for an H200 (60 TF/s in float32, 4.3 TB/s, three tenths of both reached by a good
kernel): 43 N² operations of the direct sums, 5e8 atomic additions of a mesh of order 8 with a million atoms.
"""

from __future__ import annotations

import statistics
import time
from typing import Any, Final

import numpy as np
import torch
from rich.table import Table

from benchmarks.electrostatics.worker import liquid
from lsf.electrostatics.energy import coulomb_energy
from lsf.electrostatics.plan.coulomb_plan import CoulombPlan, plan_structure
from lsf.electrostatics.settings import Electrostatics

# milliseconds for energy and forces at l = 1, σ = 1.5 Å, 0.1 atoms/Å³, by backend and number of atoms
PAPER: Final = {
    "kernel": {1_000: None, 10_000: 0.24, 100_000: 24.0, 1_000_000: 2400.0},
    "mesh": {1_000: None, 10_000: 0.1, 100_000: 0.5, 1_000_000: 4.0},
}
LARGEST: Final = {"kernel": 100_000, "mesh": 1_000_000}
REPEATS: Final = 9


def measure() -> list[dict[str, Any]]:
    """Return one row per backend, precision and size; ``ms`` is None where nothing was measured."""
    present = torch.cuda.is_available()
    return [
        {
            "backend": backend,
            "dtype": dtype,
            "n_atoms": n_atoms,
            "paper_ms": limit,
            "ms": milliseconds(backend, dtype, n_atoms, "cuda")
            if present and n_atoms <= LARGEST[backend]
            else None,
        }
        for backend, limits in PAPER.items()
        for dtype in ("float32", "float64")
        for n_atoms, limit in limits.items()
    ]


def milliseconds(backend: str, dtype: str, n_atoms: int, device: str) -> float:
    """Return the median time of energy and forces, launches included."""
    settings = Electrostatics(boundary="pbc", multipoles_max_l=1, smearing_width=1.5, backend=backend)
    positions, coefficients, cell = liquid(n_atoms, 1, 0, 0.1)
    plan = plan_structure(settings, positions, cell, np.array([True] * 3))
    plan = CoulombPlan(*(tensor.to(device) for tensor in plan))
    kind = getattr(torch, dtype)
    r, c, h = (torch.tensor(a, device=device, dtype=kind) for a in (positions, coefficients, cell[None]))
    batch = torch.zeros(n_atoms, dtype=torch.int64, device=device)

    def evaluate() -> None:
        moved = r.clone().requires_grad_()
        torch.autograd.grad(coulomb_energy(c, moved, h, batch, plan, settings).sum(), moved)

    times = []
    for _ in range(REPEATS + 2):
        start = time.perf_counter()
        evaluate()
        if r.is_cuda:
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[2:])


def table(rows: list[dict[str, Any]]) -> Table:
    """Return the rows as a table for people; what was not measured says so."""
    found = Table("backend", "precision", "atoms", "paper, H200 [ms]", "measured [ms]", title="on a GPU")
    for row in rows:
        paper = "launches" if row["paper_ms"] is None else f"{row['paper_ms']:g}"
        measured = "not measured" if row["ms"] is None else f"{row['ms']:.3g}"
        found.add_row(row["backend"], row["dtype"], f"{row['n_atoms']:,}", paper, measured)
    return found
