"""One side of the benchmark: takes a task as a JSON line, then "step" lines and "end".

``python worker.py lsf`` runs in the environment of lsf, ``python worker.py mace`` in that of mace-torch. A
task: {"system", "n_atoms", "n_structures", "mode": "inference" | "training" | "gemm", "dtype", "warm_up",
"options": {...}, "results": bool, "operations": bool}; of lsf also "weights", a model file to take,
"package", a compiled one, and "compiled", whether training steps are; of mace "save", where to write its
model. Every task runs in a process of its own, forked from one that has imported everything, so that peak
memory is the task's; time is CPU time of one thread.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from systems import LEVELS, R_MAX, Structure, structures

GEMM = (16384, 64, 640)
"""Edges, width of the last hidden layer and weights per edge: a product of the radial network's shape."""

Step = Callable[[], tuple[Any, Any]]
"""One evaluation, or one training step: energies (n_structures,) and forces (n_atoms, 3)."""


def lsf_step(task: dict[str, Any], parts: list[Structure]) -> Step:
    import torch

    if "package" in task:
        return _package_step(task, parts)
    model, batch = _lsf_model(task, parts), _lsf_batch(parts)
    training, evaluate = task["mode"] == "training", _evaluation(task)

    def step() -> tuple[Any, Any]:
        model.zero_grad(set_to_none=True)
        out = evaluate(model, batch, ("forces",), create_graph=training)
        if training:
            (out["forces"].square().mean() + out["energy_short_range"].square().mean()).backward()
        return out["energy_short_range"].detach(), out["forces"].detach()

    torch.manual_seed(0)
    return step


def _evaluation(task: dict[str, Any]) -> Callable[..., Any]:
    """Return what evaluates a batch, compiled where the task says so."""
    if not task.get("compiled"):
        from lsf.models.derivatives import evaluate

        return evaluate
    import logging

    from lsf.train.loop.compiled import CompiledSteps

    return CompiledSteps(logging.getLogger("benchmark"))


def _package_step(task: dict[str, Any], parts: list[Structure]) -> Step:
    from lsf.formats.aoti.read import PackageFile

    model, batch = PackageFile(task["package"]).model, _lsf_batch(parts)

    def step() -> tuple[Any, Any]:
        out = model(batch)
        return out["energy_short_range"], out["forces"]

    return step


def _lsf_model(task: dict[str, Any], parts: list[Structure]) -> Any:
    import torch

    from lsf.data.statistics import DataFacts
    from lsf.electrostatics.settings import Electrostatics
    from lsf.recipe.catalog import catalog

    if "weights" in task:
        from lsf.formats.model_file.file import load_model

        return load_model(task["weights"]).model
    species = tuple(sorted({int(number) for part in parts for number in part.numbers}))
    facts = DataFacts(species, dict.fromkeys(species, 0.0), 86.0, {"train": 1})
    entry = catalog().entry("models", "MACE")
    # mace-torch keeps scalars alone in the last layer
    chosen = {"r_max": task.get("r_max", R_MAX), "last_layer": "scalars", **LEVELS, **task.get("options", {})}
    options = entry.options_class()(**chosen)
    torch.manual_seed(0)
    model = entry.target()(options, Electrostatics(boundary="auto"), facts)
    return model.set_dtype(getattr(torch, task["dtype"]))


def _lsf_batch(parts: list[Structure]) -> Any:
    """The batch lsf makes of these frames, without its lists for charges: the model has none."""
    import torch

    from lsf.data.graph import AtomGraph, collate
    from lsf.electrostatics.plan.coulomb_plan import plan_structure
    from lsf.electrostatics.settings import Electrostatics

    graphs = []
    for part in parts:
        empty = plan_structure(
            Electrostatics(boundary="realspace"), part.positions[:1], np.zeros((3, 3)), np.zeros(3, bool)
        )
        graphs.append(
            AtomGraph(
                positions=torch.tensor(part.positions),
                cell=torch.tensor(part.cell)[None],
                atomic_numbers=torch.tensor(part.numbers),
                edge_index=torch.tensor(part.edge_index),
                unit_shifts=torch.tensor(part.unit_shifts),
                formal_charges=torch.zeros(len(part.numbers), dtype=torch.float64),
                external_field=torch.zeros(1, 3, dtype=torch.float64),
                total_charge=torch.zeros(1, dtype=torch.float64),
                total_spin=torch.zeros(1, dtype=torch.float64),
                num_nodes=len(part.numbers),
                **empty._asdict(),
            )
        )
    return collate(graphs)


def mace_step(task: dict[str, Any], parts: list[Structure]) -> Step:
    model, batch = _mace_model(task, parts), _mace_batch(task, parts)
    training = task["mode"] == "training"

    def step() -> tuple[Any, Any]:
        model.zero_grad(set_to_none=True)
        out = model(dict(batch), training=training)
        if training:
            (out["forces"].square().mean() + out["interaction_energy"].square().mean()).backward()
        return out["interaction_energy"].detach(), out["forces"].detach()

    return step


def _mace_model(task: dict[str, Any], parts: list[Structure]) -> Any:
    import torch

    from benchmarks.mace_model import mace_model

    torch.set_default_dtype(getattr(torch, task["dtype"]))
    torch.manual_seed(0)
    levels = {"r_max": task.get("r_max", R_MAX), **LEVELS, **task.get("options", {})}
    species = sorted({int(number) for part in parts for number in part.numbers})
    model = mace_model(levels, species, neighbors=86.0, scale=1.0)
    if "save" in task:
        torch.save(model, task["save"])
    return model


def _mace_batch(task: dict[str, Any], parts: list[Structure]) -> dict[str, Any]:
    import torch

    dtype = getattr(torch, task["dtype"])
    species = sorted({int(number) for part in parts for number in part.numbers})
    sizes = [len(part.numbers) for part in parts]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    numbers = np.concatenate([part.numbers for part in parts])
    cells = np.concatenate([part.cell for part in parts])
    edges = np.concatenate([part.edge_index + start for part, start in zip(parts, starts, strict=False)], 1)
    units = np.concatenate([part.unit_shifts for part in parts])
    shifts = np.concatenate([part.unit_shifts @ part.cell for part in parts])
    # one-hot by element; mace's edge vector has the same sign as ours
    return {
        "positions": torch.tensor(np.concatenate([part.positions for part in parts]), dtype=dtype),
        "node_attrs": torch.tensor(numbers[:, None] == np.array(species)).to(dtype),
        "edge_index": torch.tensor(edges),
        "shifts": torch.tensor(shifts, dtype=dtype),
        "unit_shifts": torch.tensor(units, dtype=dtype),
        "cell": torch.tensor(cells, dtype=dtype),
        "batch": torch.tensor(np.repeat(np.arange(len(parts)), sizes)),
        "ptr": torch.tensor(starts),
        "head": torch.zeros(len(parts), dtype=torch.int64),
    }


def gemm_step(task: dict[str, Any]) -> Step:
    """Matrix products of the shape of the last radial layer."""
    import torch

    left = torch.randn(*GEMM[:2], dtype=getattr(torch, task["dtype"]))
    right = torch.randn(*GEMM[1:], dtype=left.dtype)
    return lambda: (left @ right, left)


STEPS = {"lsf": lsf_step, "mace": mace_step}


def serve(library: str, task: dict[str, Any]) -> None:
    """Answer to "step" with the CPU time of one, to "end" with memory and results."""
    parts = [] if task["mode"] == "gemm" else structures(task)
    step = gemm_step(task) if task["mode"] == "gemm" else STEPS[library](task, parts)
    before = resident_megabytes()
    for _ in range(task["warm_up"]):
        energies, forces = step()
    reply(
        {
            "edges": sum(part.edge_index.shape[1] for part in parts),
            "atoms": sum(len(p.numbers) for p in parts),
        }
    )
    for line in iter(sys.stdin.readline, "end\n"):
        start = time.process_time()
        energies, forces = step()
        reply({"seconds": time.process_time() - start, "asked": line.strip()})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    result: dict[str, Any] = {"megabytes": max(peak - before, 0.1)}
    if task["mode"] == "gemm":
        result["operations"] = 2 * math.prod(GEMM)
    elif task.get("operations"):
        result["operations"] = product_operations(step)
    if task.get("results"):
        result["energies"], result["forces"] = energies.tolist(), forces.reshape(-1).tolist()
    reply(result)


def product_operations(step: Step) -> int:
    """Return the operations in matrix products of a step."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Counter(TorchDispatchMode):
        total = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            name = func.overloadpacket.__name__.rstrip("_")  # in place or not
            count = flop_registry.get(getattr(torch.ops.aten, name, None))
            self.total += count(*args, out_val=out) if count else 0
            return out

    with Counter() as counter:
        step()
    return int(counter.total)


def reply(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def resident_megabytes() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def warm(library: str) -> None:
    """Import what the library needs, so that forked tasks share it."""
    import torch

    torch.set_num_threads(1)
    if library == "mace":
        torch.serialization.add_safe_globals([slice])  # e3nn 0.4.4 stores one
    importlib.import_module({"lsf": "lsf.models.library", "mace": "mace.modules"}[library])


def main() -> None:
    warnings.filterwarnings("ignore")
    library = sys.argv[1]
    warm(library)
    # the driver sends a line only after the last one was answered, so parent and child can share stdin
    for line in iter(sys.stdin.readline, ""):
        child = os.fork()
        if child == 0:
            try:
                serve(library, json.loads(line))
            except Exception as error:
                reply({"error": f"{type(error).__name__}: {error}"})
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status:
            reply({"error": "the process ended, perhaps for want of memory"})


if __name__ == "__main__":
    main()
