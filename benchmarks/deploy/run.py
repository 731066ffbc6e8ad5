"""Molecular dynamics of water in every program: speed, what the program adds to the model, memory.

    python -m benchmarks.deploy.run [--quick] [--json FILE] [--only PART …] [--atoms N …]

One row per bar: what was measured, the bar, and whether it holds; above them a table of ns/day (at 0.5 fs),
µs per atom and step, and memory per atom. The exit status is 1 when a bar does not hold. "overhead" is what a
step costs beyond the model's evaluation in it. The model is that of recipes/water_split.toml, untrained, in
float32; "short-range" is its backbone without charges, which mace-torch (in .venv-mace, made on the first
call) runs with the same levels by its own calculator and its own TorchScript module. Every side has the
allocator that it sets itself: lsf's exported files keep freed memory (benchmarks.backbone.run compares with
equal settings). CPU time of one thread, medians; memory is the growth of the process's peak, libraries of the
program included. --quick has 192 atoms only, and no compiled package, which takes minutes to make. What would
need more memory than the machine has free is left out, which is said.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.backbone.run import mace_python
from benchmarks.bars import Bar, arguments, report
from benchmarks.deploy.models import LEVELS, write_models, write_package
from benchmarks.workers import Worker

HERE: Final = Path(__file__).resolve().parent
STEPS: Final = {192: 12, 1536: 4, 6000: 4}
"""Measured steps by number of atoms."""
TIMESTEP: Final = 0.5
"""fs."""
OVERHEAD: Final = 0.10


class Bench:
    """The workers, and what they measured."""

    def __init__(self, console: Console, quick: bool, sizes: list[int], folder: Path) -> None:
        self.console, self.quick = console, quick
        self.sizes = [192] if quick else sizes
        self.bars: list[Bar] = []
        self.rows: list[dict[str, Any]] = []
        self.files = write_models(folder)
        pythons = {"lsf": sys.executable, "mace": mace_python(console)}
        self.workers = {key: Worker(HERE / "worker.py", key, python) for key, python in pythons.items()}

    def close(self) -> None:
        """End the workers."""
        for worker in self.workers.values():
            worker.close()

    def measure(self, library: str, model: str, engine: str, form: str, n_atoms: int) -> dict[str, Any]:
        """Run one task; keep and return its row."""
        steps = 4 if self.quick else STEPS[n_atoms]
        task = {"engine": engine, "format": form, "n_atoms": n_atoms, "steps": steps}
        if library == "lsf":
            task["model"] = self.files[model, form]
        else:
            task |= {"levels": LEVELS, "dtype": "float32", "warm_up": 2 if self.quick else 3}
        found = self.workers[library].task(task)
        seconds, inside = np.array(found["seconds"]), np.array(found["model"])
        step = float(np.median(seconds))
        row = {
            "program": engine if library == "lsf" else f"mace-torch, {engine}",
            "format": form,
            "model": model,
            "atoms": n_atoms,
            "ns/day": 86400.0 / step * TIMESTEP * 1e-6,
            "µs/atom/step": 1e6 * step / n_atoms,
            # steps that search for neighbours count with the others
            "overhead": float(seconds.sum() / inside.sum()) - 1.0,
            "kB/atom": 1024.0 * found["megabytes"] / n_atoms,
        }
        self.rows.append(row)
        self.console.print(
            f"{row['program']}, {form}, {model}, {n_atoms} atoms: {row['µs/atom/step']:.0f} µs/atom/step, "
            f"overhead {100 * row['overhead']:.1f} %, {found['wall']:.0f} s",
            style="dim",
            highlight=False,
        )
        return row


def engines(bench: Bench) -> None:
    """Every program with the model with charges."""
    for n_atoms in bench.sizes:
        for form in ("eager", "torchscript"):
            bench.measure("lsf", "charges", "bare", form, n_atoms)
        for engine in ("ASE", "fix external", "pair style", "OpenMM", "torch-sim", "i-PI driver"):
            form = "eager" if engine == "ASE" else "torchscript"
            row = bench.measure("lsf", "charges", engine, form, n_atoms)
            note = f"{row['µs/atom/step']:.0f} µs/atom/step, {row['ns/day']:.3g} ns/day"
            name = f"overhead of {engine}, {n_atoms} atoms"
            bench.bars.append(
                Bar(name, 100 * row["overhead"], 100 * OVERHEAD, "%", at_least=False, note=note)
            )


def free_kilobytes() -> int:
    """Return how much memory the machine has left."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))


def mace(bench: Bench) -> None:
    """The short-range model next to mace-torch's."""
    taken: dict[str, float] = {}
    for n_atoms in bench.sizes:
        for name, engine, form in (("ASE", "ASE", "eager"), ("TorchScript", "bare", "torchscript")):
            if taken.get(name, 0.0) * n_atoms > 0.7 * free_kilobytes():
                needed = f"{taken[name] * n_atoms / 2**20:.0f} GB"
                bench.console.print(
                    f"mace-torch, {name}, {n_atoms} atoms is left out: it would take {needed}"
                )
                continue
            theirs = bench.measure("mace", "short", name, form, n_atoms)
            ours = bench.measure("lsf", "short", engine, form, n_atoms)
            note = f"{ours['µs/atom/step']:.0f} against {theirs['µs/atom/step']:.0f} µs/atom/step"
            taken[name] = theirs["kB/atom"]
            note += f", {ours['kB/atom']:.0f} against {theirs['kB/atom']:.0f} kB/atom"
            ratio = theirs["µs/atom/step"] / ours["µs/atom/step"]
            bench.bars.append(
                Bar(f"short-range, {name}, {n_atoms} atoms", ratio, 1.0, "× mace-torch", note=note)
            )


def compiled(bench: Bench) -> None:
    """A compiled package next to the same model as TorchScript."""
    if bench.quick:
        bench.console.print("compiled packages are left out")
        return
    bench.files["charges", "aoti"] = write_package(Path(bench.files["charges", "eager"]))
    for n_atoms in bench.sizes:
        script, package = (
            bench.measure("lsf", "charges", "bare", form, n_atoms) for form in ("torchscript", "aoti")
        )
        note = f"{package['µs/atom/step']:.0f} against {script['µs/atom/step']:.0f} µs/atom/step"
        note += f", {package['kB/atom']:.0f} against {script['kB/atom']:.0f} kB/atom"
        ratio = script["µs/atom/step"] / package["µs/atom/step"]
        bench.bars.append(Bar(f"compiled package, {n_atoms} atoms", ratio, 1.0, "× TorchScript", note=note))


PARTS: Final[dict[str, Callable[[Bench], None]]] = {
    "engines": engines,
    "compiled": compiled,
    "mace": mace,
}


def table(rows: list[dict[str, Any]]) -> Table:
    """Return the measurements as a table."""
    shown = Table("program", "format", "model", "atoms", "ns/day", "µs/atom/step", "kB/atom")
    for row in rows:
        words = [row["program"], row["format"], row["model"], str(row["atoms"])]
        shown.add_row(*words, *(f"{row[key]:.3g}" for key in ("ns/day", "µs/atom/step", "kB/atom")))
    return shown


def main() -> int:
    """Run the benchmark and return the exit status."""
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--atoms", nargs="+", type=int, choices=STEPS, default=list(STEPS), metavar="N")
    chosen = parser.parse_args()
    console = Console(width=150)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(console, chosen.quick, chosen.atoms, Path(folder))
        try:
            for name in chosen.only:
                PARTS[name](bench)
        finally:
            bench.close()
    console.print(table(bench.rows))
    return report(bench.bars, chosen.json, {"measured": bench.rows, "load": os.getloadavg()})


if __name__ == "__main__":
    sys.exit(main())
