"""Speed and memory of the electrostatics against other libraries, at equal accuracy, on this machine.

    python -m benchmarks.electrostatics.run [--quick] [--json FILE] [--plot FILE] [--fit] [--only PART …]

One row per bar: what was measured, the bar, and whether it holds. The exit status is 1 when one falls
short. The alternatives (requirements.txt) run in .venv-bench, made on the first call. Both sides of a row are
measured in turns, CPU time of one thread, medians; memory is the growth of the process's peak. "relF" is the
error of forces relative to a converged sum. Times on a GPU stand in a table of their own. --quick leaves out
the largest systems; --fit prints the constants of the cost model that backend = "auto" decides by.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.bars import Bar, arguments, report
from benchmarks.electrostatics import gpu
from benchmarks.workers import Worker, environment_python

HERE = Path(__file__).resolve().parent
GL, PME, OURS = "graph-longrange", "torch-pme", "lsf"
CONVERGED = {"backend": "direct"}

Task = dict[str, Any]


class Bench:
    """The workers and what they measured."""

    def __init__(self, console: Console, quick: bool) -> None:
        self.console, self.quick = console, quick
        self.bars: list[Bar] = []
        self.curves: dict[str, list[tuple[int, float, float]]] = {}
        other = environment_python(console, ".venv-bench", HERE / "requirements.txt")
        pythons = {OURS: sys.executable, GL: other, PME: other}
        self.workers = {key: Worker(HERE / "worker.py", key, python) for key, python in pythons.items()}

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()

    def alternate(self, tasks: dict[str, Task], rounds: int) -> dict[str, dict[str, Any]]:
        """Run tasks of several libraries in turns; return medians of seconds and megabytes, and forces."""
        answers: dict[str, list[dict[str, Any]]] = {library: [] for library in tasks}
        for turn in range(rounds):
            for library, task in tasks.items():
                answers[library].append(self.workers[library].task({**task, "forces": turn == 0}))
        return {
            library: {
                "seconds": float(np.median([s for answer in found for s in answer["seconds"]])),
                "megabytes": float(np.median([answer["megabytes"] for answer in found])),
                "forces": np.array(found[0]["forces"]),
                "note": found[0]["note"],
            }
            for library, found in answers.items()
        }

    def ours(self, task: Task, repeats: int = 3) -> dict[str, Any]:
        return self.alternate({OURS: {**task, "repeats": repeats}}, 1)[OURS]

    def row(self, name: str, figure: float, bound: float, *, at_least: bool, detail: str) -> None:
        bar = Bar(name, figure, bound, at_least=at_least, note=detail)
        self.bars.append(bar)
        self.console.print(f"{name}: {figure:.3g} {'holds' if bar.holds else 'falls short'}", style="dim")


def periodic(n_atoms: int, sigma: float, mode: str = "forces", degree: int = 1, **others: Any) -> Task:
    task = {"work": "periodic", "n_atoms": n_atoms, "degree": degree, "sigma": sigma, "mode": mode}
    return {**task, "n_structures": 1, "repeats": 3, **others}


def cutoff(k_cutoff_sigma: float, degree: int) -> dict[str, float]:
    return {"kspace_cutoff_factor": k_cutoff_sigma / (2.25 * (degree + 1) ** 0.3)}


def relative(forces: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(forces - exact) / np.linalg.norm(exact))


# error 1e-7: GL at its usual 4.16 / σ; ours reaches a little further because it ends smoothly
EXACT_OURS = {**cutoff(4.4, 1), "mesh_accuracy": 1e-7}
EXACT_GL = {"k_cutoff_sigma": 4.16}


# ---------------------------------------------------------------------------------------------------
# rows


def against_gl(
    bench: Bench, name: str, task: Task, speed: float | None, memory: float | None, rounds: int, repeats: int
) -> None:
    tasks = {
        OURS: {**task, "options": EXACT_OURS, "repeats": max(3, repeats)},
        GL: {**task, "options": EXACT_GL, "repeats": repeats},
    }
    found = bench.alternate(tasks, rounds)
    converged = {**task, "mode": "forces", "options": {**cutoff(6.0, 1), **CONVERGED}}
    exact = bench.ours(converged, 1)["forces"]
    errors = {library: relative(answer["forces"], exact) for library, answer in found.items()}
    ours, theirs = found[OURS], found[GL]
    detail = (
        f"{ours['seconds'] * 1e3:.1f} / {theirs['seconds'] * 1e3:.1f} ms, {ours['megabytes']:.0f} / "
        f"{theirs['megabytes']:.0f} MB, relF {errors[OURS]:.1e} / {errors[GL]:.1e}, {ours['note']}"
    )
    if speed is not None:
        bench.row(
            f"{name}, times GL", theirs["seconds"] / ours["seconds"], speed, at_least=True, detail=detail
        )
    if memory is not None:
        ratio = ours["megabytes"] / theirs["megabytes"]
        bench.row(f"{name}, memory of GL's", ratio, memory, at_least=False, detail=detail)


def cells(bench: Bench) -> None:
    """One periodic cell."""
    few = 2 if bench.quick else 3
    against_gl(bench, "100 atoms, forces", periodic(100, 1.5), 1.0, None, 5, 10)
    for sigma, forces, training in ((1.5, 4.0, 4.0), (0.8, 25.0, 15.0)):
        for mode, bar in (("forces", forces), ("training", training)):
            against_gl(
                bench, f"1000 atoms, σ {sigma}, {mode}", periodic(1000, sigma, mode), bar, None, few, 2
            )
    if not bench.quick:
        against_gl(bench, "5000 atoms, forces", periodic(5000, 1.5), 40.0, 1.0 / 30.0, 1, 1)


def batches(bench: Bench) -> None:
    """A batch of small periodic cells."""
    few = 2 if bench.quick else 3
    for mode, bar in (("forces", 60.0), ("training", 55.0)):
        task = periodic(100, 1.5, mode, n_structures=16)
        against_gl(bench, f"16 x 100 atoms, {mode}", task, bar, 1.0 / 8.0, few, 2)


def open_clusters(bench: Bench) -> None:
    """Clusters without a cell: exact against a box with a correction."""
    for n_atoms, bar in ((200, 25.0), (1000, 12.0))[: 1 if bench.quick else 2]:
        task = {**periodic(n_atoms, 1.5), "work": "open", "repeats": 10}
        tasks = {
            OURS: {**task, "options": {"mesh_accuracy": 1e-7}},
            GL: {**task, "options": EXACT_GL, "repeats": 1},
        }
        found = bench.alternate(tasks, 5 if n_atoms < 500 else 1)
        exact = bench.ours({**task, "options": CONVERGED}, 1)["forces"]
        ours, theirs = found[OURS], found[GL]
        detail = (
            f"{ours['seconds'] * 1e3:.1f} / {theirs['seconds'] * 1e3:.0f} ms, relF "
            f"{relative(ours['forces'], exact):.0e} / {relative(theirs['forces'], exact):.0e}, {ours['note']}"
        )
        ratio = theirs["seconds"] / ours["seconds"]
        bench.row(f"open, {n_atoms} atoms, times GL", ratio, bar, at_least=True, detail=detail)


def mesh_charges(bench: Bench) -> None:
    """Charges on a mesh, against torch-pme."""
    n_atoms = 5000 if bench.quick else 20000
    task = periodic(n_atoms, 1.5, degree=0)
    tasks = {
        PME: {**task, "options": {"nodes": 7, "spacing": 0.6}},
        OURS: {**task, "options": {**cutoff(4.7, 0), "backend": "mesh", "mesh_accuracy": 5e-8}},
    }
    found = bench.alternate(tasks, 2)
    exact = bench.ours({**task, "options": {**cutoff(6.0, 0), **CONVERGED}}, 1)["forces"]
    ours, theirs = found[OURS], found[PME]
    errors = [relative(answer["forces"], exact) for answer in (ours, theirs)]
    detail = (
        f"{ours['seconds'] * 1e3:.0f} / {theirs['seconds'] * 1e3:.0f} ms, {ours['megabytes']:.0f} / "
        f"{theirs['megabytes']:.0f} MB, relF {errors[0]:.1e} / {errors[1]:.1e}, "
        f"{ours['note']} / {theirs['note']}"
    )
    name = f"mesh, {n_atoms} charges"
    fast = theirs["seconds"] / ours["seconds"] if errors[0] <= errors[1] else 0.0
    bench.row(f"{name}, times torch-pme", fast, 4.0, at_least=True, detail=detail)
    ratio = ours["megabytes"] / theirs["megabytes"]
    bench.row(f"{name}, memory of torch-pme's", ratio, 0.25, at_least=False, detail=detail)


def direct_rate(bench: Bench) -> None:
    """How near the exact sums come to the machine's matrix products."""
    n_atoms = 5000 if bench.quick else 20000
    task = periodic(n_atoms, 1.5, options={**cutoff(4.16, 1), "backend": "direct"})
    rates, seconds = [], []
    for _ in range(2):
        rates.append(bench.workers[OURS].task({"work": "gemm", "repeats": 5})["rate"])
        seconds += bench.workers[OURS].task({**task, "repeats": 2})["seconds"]
    # wave vectors in half a sphere; the definition's 2 + 3 products of 4 operations per atom and wave vector,
    # of which the sums in bins need fewer
    n_k = 0.5 * (n_atoms / 0.1) / (6.0 * np.pi**2) * (4.16 / 1.5) ** 3
    share = 20.0 * n_atoms * n_k / float(np.median(seconds)) / float(np.median(rates))
    detail = f"{np.median(seconds):.2f} s; {np.median(rates) / 1e9:.0f} GF/s in a product of 1500 x 1500"
    bench.row(f"direct, {n_atoms} atoms, share of GEMM", share, 0.35, at_least=True, detail=detail)


def scaling(bench: Bench) -> None:
    """How time and memory of the mesh grow."""
    sizes = (1000, 10_000, 100_000) if bench.quick else (1000, 10_000, 100_000, 1_000_000)
    curve = []
    for n_atoms in sizes:
        task = periodic(n_atoms, 1.5, options={"backend": "mesh"})
        found = bench.workers[OURS].task({**task, "repeats": 0 if n_atoms > 500_000 else 2})
        curve.append((n_atoms, float(np.median(found["seconds"])), found["megabytes"]))
    bench.curves["mesh, default accuracy"] = curve
    decades = np.log10(sizes[-1] / sizes[0])
    for name, column, bar in (("time", 1, 1.15), ("memory", 2, 1.05)):
        exponent = float(np.log10(curve[-1][column] / curve[0][column]) / decades)
        detail = ", ".join(f"{row[0]}: {row[column]:.3g} {'s' if column == 1 else 'MB'}" for row in curve)
        bench.row(f"mesh, exponent of {name}", exponent, bar, at_least=False, detail=detail)


def automatic(bench: Bench) -> None:
    """The choice of auto against both backends, around the crossover."""
    worst, details = 1.0, []
    sizes = (1000, 2000, 4000) if bench.quick else (1000, 1500, 2000, 3000, 4000, 8000)
    for n_atoms in sizes:
        found: dict[str, list[dict[str, Any]]] = {"direct": [], "mesh": [], "auto": []}
        for _ in range(8):
            for backend, answers in found.items():
                answers.append(bench.ours(periodic(n_atoms, 1.5, options={"backend": backend}), 2))
        times = {name: float(np.median([a["seconds"] for a in answers])) for name, answers in found.items()}
        chosen = "mesh" if found["auto"][0]["note"] != "direct" else "direct"
        for backend in ("direct", "mesh"):
            key = f"{backend}, default accuracy, around the crossover"
            bench.curves.setdefault(key, []).append((n_atoms, times[backend], found[backend][0]["megabytes"]))
        worst = max(worst, times[chosen] / min(times["direct"], times["mesh"]))
        details.append(f"{n_atoms}: {times['direct'] * 1e3:.0f} / {times['mesh'] * 1e3:.0f} ms, {chosen}")
    bench.row("auto, time over the faster", worst, 1.1, at_least=False, detail="; ".join(details))


# ---------------------------------------------------------------------------------------------------
# the cost model


def fit(bench: Bench) -> None:
    """Print the constants of lsf/electrostatics/plan/mesh_choice.py, measured here."""
    table = Table("constant", "value")
    rows, seconds = [], []
    # few enough waves along an axis to be summed in blocks: where bins take over, meshes are faster than both
    for n_atoms, ks in ((1000, 3.5), (1000, 4.5), (2000, 3.5), (2000, 4.5), (4000, 3.5), (8000, 2.8)):
        options = {**cutoff(ks, 1), "backend": "direct"}
        n_k = 0.5 * (n_atoms / 0.1) / (6.0 * np.pi**2) * (ks / 1.5) ** 3
        rows.append((n_atoms, n_atoms * n_k))
        seconds.append(bench.ours(periodic(n_atoms, 1.5, options=options), 5)["seconds"])
    table.add_row("DIRECT_COST", "{:.2e}, {:.2e}".format(*_least_squares(rows, seconds)))
    for order, accuracies in ((6, (1e-4, 3e-5)), (8, (1e-6, 1e-7))):
        rows, seconds = [], []
        for n_atoms in (4000, 16000):
            for accuracy in accuracies:
                task = periodic(n_atoms, 1.5, options={"backend": "mesh", "mesh_accuracy": accuracy})
                found = bench.ours(task)
                size, found_order = found["note"].removeprefix("mesh ").split(", order ")
                if int(found_order) == order:
                    rows.append((n_atoms, np.prod([int(n) for n in size.split("x")])))
                    seconds.append(found["seconds"])
        if len(rows) > 1:
            atom, point = _least_squares(rows, seconds)
            table.add_row(f"ATOM_COST[{order}], POINT_COST", f"{atom:.2e}, {point:.2e}")
    open_task = {**periodic(600, 1.5, options={"backend": "direct"}), "work": "open"}
    table.add_row("PAIR_COST", f"{bench.ours(open_task)['seconds'] / 600**2:.2e}")
    bench.console.print(table)


def _least_squares(rows: list[tuple[Any, ...]], seconds: list[float]) -> np.ndarray:
    """Coefficients that reproduce ``seconds`` with the same relative weight for every row."""
    scaled = np.array(rows, dtype=float) / np.array(seconds)[:, None]
    return np.linalg.lstsq(scaled, np.ones(len(seconds)), rcond=None)[0]


# ---------------------------------------------------------------------------------------------------
# output


def plot(bench: Bench, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.2))
    for name, curve in bench.curves.items():
        sizes, seconds, megabytes = zip(*sorted(curve), strict=True)
        for axis, values in zip(axes, (seconds, megabytes), strict=True):
            axis.loglog(sizes, values, "o-", label=name)
    for axis, label in zip(axes, ("energy and forces, CPU s, one thread", "memory, MB"), strict=True):
        axis.set(xlabel="atoms", ylabel=label)
        axis.grid(True, which="major", alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.suptitle("0.1 atoms/Å³, charges and dipoles, σ = 1.5 Å, float64")
    figure.tight_layout()
    figure.savefig(path, dpi=130)


PARTS: Final[dict[str, Callable[[Bench], None]]] = {
    part.__name__: part
    for part in (cells, batches, open_clusters, mesh_charges, direct_rate, scaling, automatic)
}


def main() -> int:
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw times and memory here")
    parser.add_argument("--fit", action="store_true", help="print the constants of the cost model and stop")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    chosen = parser.parse_args()
    console = Console()
    bench = Bench(console, chosen.quick)
    try:
        if chosen.fit:
            fit(bench)
            return 0
        for name in chosen.only:
            PARTS[name](bench)
    finally:
        bench.close()
    if chosen.plot is not None:
        plot(bench, chosen.plot)
    rows = gpu.measure()
    console.print(gpu.table(rows))
    return report(bench.bars, chosen.json, {"curves": bench.curves, "gpu": rows, "load": os.getloadavg()})


if __name__ == "__main__":
    sys.exit(main())
