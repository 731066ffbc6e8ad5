"""One library's side of the benchmark: reads tasks as JSON lines, answers with times, memory and forces.

``python worker.py lsf`` runs in the environment of lsf; ``graph-longrange`` and ``torch-pme`` in their own. A
task: {"work": "periodic" | "open" | "gemm", "n_atoms", "n_structures", "degree", "sigma", "mode": "forces" |
"training", "repeats", "forces": bool, "options": {...}}. The answer: {"seconds": [...], "megabytes",
"forces", "note"}. Every task runs in a process of its own, so that peak memory is its own; time is CPU time
of one thread.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import time
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

DENSITY = 0.1  # atoms per cubic Å


def liquid(n_atoms: int, degree: int, seed: int, density: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, coefficients [Q, y, z, x] and cell of a jittered lattice, neutral."""
    rng = np.random.default_rng(seed)
    edge = (n_atoms / density) ** (1.0 / 3.0)
    per_axis = math.ceil(n_atoms ** (1.0 / 3.0) - 1e-9)
    axes = np.arange(per_axis)
    points = np.stack(np.meshgrid(axes, axes, axes, indexing="ij"), -1).reshape(-1, 3)
    points = points[rng.permutation(len(points))[:n_atoms]]
    positions = (points + 0.5 + rng.uniform(-0.3, 0.3, points.shape)) * edge / per_axis
    coefficients = rng.normal(size=(n_atoms, (degree + 1) ** 2)) * 0.2
    coefficients[:, 0] *= 2.5
    coefficients[:, 0] -= coefficients[:, 0].mean()
    return positions, coefficients, np.eye(3) * edge


def structures(task: dict[str, Any]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    count = task.get("n_structures", 1)
    densities = [DENSITY * (0.8 + 0.4 * i / count) if count > 1 else DENSITY for i in range(count)]
    return [liquid(task["n_atoms"], task["degree"], i, density) for i, density in enumerate(densities)]


def evaluation(task: dict[str, Any], energy: Callable[[Any, Any], Any]) -> Callable[[], Any]:
    """Energy and forces, or a training step: gradients of the squares of energies, forces and potentials."""
    import torch

    parts = structures(task)
    positions = torch.tensor(np.concatenate([part[0] for part in parts]))
    coefficients = torch.tensor(np.concatenate([part[1] for part in parts]))
    training = task["mode"] == "training"

    def evaluate() -> Any:
        r, c = positions.clone().requires_grad_(), coefficients.clone().requires_grad_()
        energies = energy(r, c)
        by_r, by_c = torch.autograd.grad(energies.sum(), (r, c), create_graph=training)
        if training:
            loss = by_r.square().sum() + by_c.square().sum() + energies.square().sum()
            torch.autograd.grad(loss, (r, c))
        return -by_r.detach()

    return evaluate


def lsf_energy(task: dict[str, Any]) -> tuple[Callable[[Any, Any], Any], str]:
    import torch

    from lsf.data.graph import AtomGraph, collate
    from lsf.electrostatics.energy import coulomb_energy
    from lsf.electrostatics.plan.coulomb_plan import CoulombPlan, plan_structure
    from lsf.electrostatics.settings import Electrostatics

    periodic = task["work"] == "periodic"
    settings = Electrostatics(
        boundary="pbc" if periodic else "realspace",
        multipoles_max_l=task["degree"],
        smearing_width=task["sigma"],
        **task["options"],
    )
    graphs = []
    for positions, _, cell in structures(task):
        plan = plan_structure(settings, positions, cell, np.array([periodic] * 3))
        fields = {**plan._asdict(), "cell": torch.tensor(cell)[None]}
        graphs.append(
            AtomGraph(num_nodes=len(positions), edge_index=torch.zeros(2, 0, dtype=torch.int64), **fields)
        )
    batch = collate(graphs)
    plan = CoulombPlan(**{name: batch[name] for name in CoulombPlan._fields})
    size = "x".join(str(n) for n in plan.mesh_size[0].tolist())
    order = int(plan.mesh_order[0])
    note = f"mesh {size}, order {order}" if order else ("pairs" if not periodic else "direct")
    return lambda r, c: coulomb_energy(c, r, batch.cell, batch.batch, plan, settings), note


def graph_longrange_energy(task: dict[str, Any]) -> tuple[Callable[[Any, Any], Any], str]:
    import torch

    # graph-longrange imports two helpers of mace that only some of its paths call
    def scatter_sum(src: Any, index: Any, dim: int = 0, dim_size: int | None = None) -> Any:
        size = int(index.max()) + 1 if dim_size is None else dim_size
        shape = list(src.shape)
        shape[dim] = size
        return src.new_zeros(shape).index_add(dim, index, src)

    def scatter_mean(src: Any, index: Any, dim: int = 0, dim_size: int | None = None) -> Any:
        counts = scatter_sum(torch.ones_like(src), index, dim, dim_size)
        return scatter_sum(src, index, dim, dim_size) / counts.clamp(min=1)

    scatter = types.ModuleType("mace.tools.scatter")
    scatter.scatter_sum, scatter.scatter_mean = scatter_sum, scatter_mean  # type: ignore[attr-defined]
    for name, module in (("mace", types.ModuleType("mace")), ("mace.tools", types.ModuleType("mace.tools"))):
        sys.modules.setdefault(name, module)
    sys.modules.setdefault("mace.tools.scatter", scatter)
    torch.serialization.add_safe_globals([slice])  # e3nn 0.4.4 stores one
    torch.set_default_dtype(torch.float64)
    from graph_longrange.energy import GTOElectrostaticEnergy
    from graph_longrange.kspace import compute_k_vectors_flat

    parts = structures(task)
    cells = torch.tensor(np.stack([part[2] for part in parts]))
    periodic = task["work"] == "periodic"
    cutoff = task["options"]["k_cutoff_sigma"] / task["sigma"]
    if not periodic:
        cells = torch.eye(3)[None] * 10.0
        cutoff = 1.0
    batch = torch.arange(len(parts)).repeat_interleave(task["n_atoms"])
    reciprocal = 2.0 * math.pi * torch.linalg.inv(cells).transpose(-1, -2)
    vectors = compute_k_vectors_flat(cutoff, cells, reciprocal)
    module = GTOElectrostaticEnergy(
        task["degree"],
        task["sigma"],
        cutoff,
        include_self_interaction=True,
        pbc_handling="pbc" if periodic else "realspace",
    )
    volumes = torch.det(cells).abs()
    pbc = torch.full((len(parts), 3), periodic)
    return lambda r, c: module(*vectors, c, r, batch, volumes, pbc), "one [k, atom] array"


def torch_pme_energy(task: dict[str, Any]) -> tuple[Callable[[Any, Any], Any], str]:
    import torch
    import torchpme
    from torchpme.lib import MeshInterpolator  # noqa: F401 - fails early where the version differs

    torch.set_default_dtype(torch.float64)
    ((_, _, cell_array),) = structures(task)
    cell = torch.tensor(cell_array)
    # the reciprocal part of PME with smearing σ √2 is the energy of Gaussian charges of width σ
    potential = torchpme.CoulombPotential(smearing=task["sigma"] * math.sqrt(2.0))
    calculator = torchpme.PMECalculator(
        potential,
        mesh_spacing=task["options"]["spacing"],
        interpolation_nodes=task["options"]["nodes"],
        full_neighbor_list=False,
    )
    prefactor = 14.3996454784

    def energy(r: Any, c: Any) -> Any:
        charges = c[:, :1]
        potentials = calculator._compute_kspace(charges, cell, r)
        # without its own corrections: the plain reciprocal sum; constants do not matter for forces
        return prefactor * (charges * potentials).sum()[None]

    return energy, f"{task['options']['nodes']} nodes, spacing {task['options']['spacing']:.3g} Å"


def gemm_rate(task: dict[str, Any]) -> dict[str, Any]:
    """Floating-point operations per second of a product of square matrices."""
    import torch

    n = 1500
    a = torch.randn(n, n, dtype=torch.float64)
    a @ a
    seconds = []
    for _ in range(task["repeats"]):
        start = time.process_time()
        a @ a
        seconds.append(time.process_time() - start)
    return {"seconds": seconds, "rate": 2.0 * n**3 / float(np.median(seconds))}


ENERGIES = {"lsf": lsf_energy, "graph-longrange": graph_longrange_energy, "torch-pme": torch_pme_energy}


def answer(library: str, task: dict[str, Any]) -> dict[str, Any]:
    if task["work"] == "gemm":
        return gemm_rate(task)
    energy, note = ENERGIES[library](task)
    evaluate = evaluation(task, energy)
    before = resident_megabytes()
    forces = evaluate()
    seconds = []
    for _ in range(task["repeats"]):
        start = time.process_time()
        evaluate()
        seconds.append(time.process_time() - start)
    if not seconds:  # a single evaluation, first and timed
        start = time.process_time()
        evaluate()
        seconds.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    result = {"seconds": seconds, "megabytes": max(peak - before, 0.1), "note": note}
    if task.get("forces"):
        result["forces"] = forces.reshape(-1).tolist()
    return result


def resident_megabytes() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def main() -> None:
    warnings.filterwarnings("ignore")
    import torch

    torch.set_num_threads(1)
    library = sys.argv[1]
    if library == "lsf":  # once, not in every process
        import lsf.data.graph
        import lsf.electrostatics.energy  # noqa: F401
    for line in sys.stdin:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            try:
                result = answer(library, json.loads(line))
            except Exception as error:
                result = {"error": f"{type(error).__name__}: {error}"}
            with os.fdopen(writer, "w") as pipe:
                json.dump(result, pipe)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            text = pipe.read()
        os.waitpid(child, 0)
        sys.stdout.write((text or '{"error": "the process ended, perhaps for want of memory"}') + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
