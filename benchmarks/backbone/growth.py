"""How the backbone's time grows, its rate of arithmetic, and where the time of a training epoch goes.

Tables without bars, printed by ``python -m benchmarks.backbone.run --only growth rate epoch``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.table import Table

Task = dict[str, Any]
Measure = Callable[[Task], dict[str, Any]]
"""Does a task of the worker and returns its medians."""

BASE: Final[Task] = {"system": "water", "n_atoms": 96, "mode": "inference", "dtype": "float64"}
GROWTH: Final[dict[str, Sequence[tuple[Any, Task]]]] = {
    "atoms": [(n, {"n_atoms": n}) for n in (24, 48, 96, 192, 384)],
    "neighbours (r_max)": [(r, {"r_max": r}) for r in (3.0, 4.0, 5.0, 6.0)],
    "channels": [(n, {"options": {"hidden_irreps": f"{n}x0e + {n}x1o"}}) for n in (16, 32, 64, 128)],
    "l_max": [(n, {"options": {"max_ell": n}}) for n in (1, 2, 3)],
    "elements": [(n, {"system": "alloy", "n_elements": n}) for n in (1, 2, 4, 8, 16)],
}


def growth_table(measure: Measure, quick: bool) -> Table:
    """Return the time of energies and forces, one quantity varied at a time."""
    table = Table("varied", "value", "ms", "µs/edge", "edges", title="growth of energies and forces, float64")
    for name, values in GROWTH.items():
        for value, changes in values[:2] if quick else values:
            found = measure({**BASE, **changes})
            microseconds = 1e6 * found["seconds"] / max(1, found["edges"])
            table.add_row(
                name, str(value), f"{1e3 * found['seconds']:.1f}", f"{microseconds:.1f}", str(found["edges"])
            )
        table.add_section()
    return table


def rate_table(measure: Measure, quick: bool) -> Table:
    """Return operations in matrix products per second, next to products of the radial layer's shape."""
    table = Table("work", "GF/s", "of the machine's", title="rate of matrix products alone")
    for dtype in ("float64",) if quick else ("float64", "float32"):
        product = measure({"mode": "gemm", "dtype": dtype})
        rate = product["operations"] / product["seconds"]
        table.add_row(f"product of 16384 x 64 and 64 x 640, {dtype}", f"{rate / 1e9:.1f}", "1")
        for mode in ("inference", "training"):
            task = {**BASE, "mode": mode, "dtype": dtype, "operations": True}
            found = measure(task)
            reached = found["operations"] / found["seconds"]
            table.add_row(f"{mode}, 96 atoms, {dtype}", f"{reached / 1e9:.1f}", f"{reached / rate:.2f}")
    return table


def epoch_table(recipe_file: Path, quick: bool) -> Table:
    """Return where the time of an epoch of a recipe's first stage goes.

    Electrostatics is what a step takes less without it, the network what then remains.
    """
    from lsf.data.loader import load_data
    from lsf.models.build import build_model
    from lsf.models.energies.coulomb import NoCoulomb
    from lsf.recipe.rules import resolve
    from lsf.train.loop.batching import batch_source
    from lsf.train.loop.epoch import epoch_batches
    from lsf.train.loop.session import build_learner
    from lsf.train.loop.stages import check_labels
    from lsf.train.objective.evaluation import model_evaluate

    torch.set_num_threads(1)
    recipe = resolve(recipe_file, ["device=cpu"])
    splits = load_data(recipe, logging.getLogger("benchmark"))
    loss = check_labels(recipe, splits.train)[0]
    model = build_model(recipe, splits.facts)
    learner = build_learner(recipe, model, model_evaluate)
    frames = batch_source(splits.train, learner.device)
    batches = epoch_batches(len(splits.train), recipe.training.batch_size, recipe.seed, 0)
    batches = batches[: 4 if quick else 20]
    coulomb, none = model.coulomb, NoCoulomb()

    def gradient(indices: list[int], term: torch.nn.Module) -> None:
        model.coulomb = term
        learner.gradient(loss, frames, indices)

    works: dict[str, Callable[[list[int]], object]] = {
        "data": frames.batch,
        "all": lambda indices: gradient(indices, coulomb),
        "without": lambda indices: gradient(indices, none),
        "optimizer": lambda _: learner.step(),
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for indices in batches:
        for name, work in works.items():
            started = time.process_time()
            work(indices)
            seconds[name].append(time.process_time() - started)
    # the first batch also makes what is kept
    data, without, optimizer = (
        float(np.median(seconds[name][1:])) for name in ("data", "without", "optimizer")
    )
    electrostatics = float(np.median(np.subtract(seconds["all"], seconds["without"])[1:]))
    table = Table("part", "ms per step", "share", title=f"an epoch of {recipe_file.name}")
    parts = {
        "data": data,
        "network": without - data,
        "electrostatics": electrostatics,
        "optimizer": optimizer,
    }
    total = sum(parts.values())
    for name, value in parts.items():
        table.add_row(name, f"{1e3 * value:.1f}", f"{100.0 * value / total:.0f} %")
    return table
