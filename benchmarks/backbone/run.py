"""Speed and memory of the backbone against mace-torch with the same irreps, on this machine.

    python -m benchmarks.backbone.run [--quick] [--json FILE] [--only PART …]

One row per bar: what was measured, the bar, and whether it holds. The exit status is 1 when one falls short.
mace-torch (requirements.txt) runs in .venv-mace, made on the first call. Both sides hold 64x0e + 64x1o, l_max
3, correlation 3, two interactions and r_max 6 Å, in structures of water at 0.1 atoms/Å³ unless a row says
otherwise, and are measured in turns: CPU time of one thread, medians. "tuned" sets glibc's allocator to keep
freed memory, on both sides. Memory is the growth of the process's peak. --quick is smaller and has one round.
The part compiled, left out by --quick, compiles for some minutes. The parts growth, rate and epoch
have no bars: how the time grows, operations per second, and what an epoch of `lsf run` is spent on.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console

from benchmarks.backbone import growth as tables
from benchmarks.backbone.systems import LEVELS, R_MAX
from benchmarks.bars import Bar, arguments, report
from benchmarks.deploy.models import USES, write_model, write_package
from benchmarks.workers import ROOT, Worker, environment_python

HERE = Path(__file__).resolve().parent
TOOLS = ROOT / "tools"
OURS, MACE = "lsf", "mace"
ALLOCATOR: Final = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}
"""Keeps freed memory in the process, so that no page is faulted in twice."""
SYSTEM: Final = {"LSF_ALLOCATOR": "system"}
"""Leaves the allocator as it is, also where lsf would not."""

Task = dict[str, Any]


def mace_python(console: Console) -> Path:
    """Return the interpreter of mace-torch's environment; make it on the first call."""
    return environment_python(console, ".venv-mace", HERE / "requirements.txt")


class Bench:
    """The workers, and the rows measured so far."""

    def __init__(self, console: Console, quick: bool) -> None:
        self.console, self.quick = console, quick
        self.bars: list[Bar] = []
        other = mace_python(console)
        self.workers = {
            (library, tuned): Worker(HERE / "worker.py", library, python, ALLOCATOR if tuned else SYSTEM)
            for library, python in ((OURS, sys.executable), (MACE, other))
            for tuned in (False, True)
        }

    def ours(self, task: Task) -> dict[str, Any]:
        """Do a task of ours alone."""
        return self.measure({OURS: task}, False, 3)[OURS]

    def close(self) -> None:
        """End all workers."""
        for worker in self.workers.values():
            worker.close()

    def measure(self, sides: dict[str, Task], tuned: bool, rounds: int) -> dict[str, dict[str, Any]]:
        """Do the sides' tasks in turns; return medians of seconds, megabytes, and results."""
        rounds = 1 if self.quick else rounds
        warm_up = {"warm_up": 1 if self.quick else 2}
        workers = {library: self.workers[library, tuned] for library in sides}
        found = {library: workers[library].task({**warm_up, **sides[library]}) for library in sides}
        seconds: dict[str, list[float]] = {library: [] for library in sides}
        for _ in range(rounds):
            for library, worker in workers.items():
                seconds[library].append(worker.ask("step")["seconds"])
        for library, worker in workers.items():
            found[library] |= worker.ask("end")
            found[library]["seconds"] = float(np.median(seconds[library]))
        return found

    def ratio(
        self,
        name: str,
        task: Task,
        bars: dict[bool, float],
        rounds: int = 5,
        compiled: Task | None = None,
    ) -> None:
        """Add the rows of a task: how many times faster than mace-torch, by allocator (True is tuned).

        ``compiled`` is what tells our side to run what was compiled, in float64 alone.
        """
        dtypes = ("float64", "float32") if compiled is None else ("float64",)
        settings = [(dtype, tuned, bar) for dtype in dtypes for tuned, bar in bars.items()]
        for dtype, tuned, bar in settings[:1] if self.quick else settings:
            sides = {MACE: {**task, "dtype": dtype}, OURS: {**task, "dtype": dtype, **(compiled or {})}}
            found = self.measure(sides, tuned, rounds)
            ours, theirs = found[OURS], found[MACE]
            per_edge = 1e6 / ours["edges"]
            note = f"{ours['seconds'] * per_edge:.1f} against {theirs['seconds'] * per_edge:.1f} µs/edge"
            note += f"; {ours['edges'] / ours['atoms']:.0f} edges per atom"
            setting = "tuned" if tuned else "default"
            self.add(
                Bar(
                    f"{name}, {dtype}, {setting}",
                    theirs["seconds"] / ours["seconds"],
                    bar,
                    "×",
                    note=note,
                )
            )

    def add(self, bar: Bar) -> None:
        """Keep a row and print it."""
        self.bars.append(bar)
        result = "holds" if bar.holds else "falls short"
        self.console.print(f"{bar.name}: {bar.figure:.3g} {bar.unit} ({result}) {bar.note}", highlight=False)


def equality(bench: Bench) -> None:
    """The same weights give the same numbers on both sides."""
    task = {"system": "water", "n_atoms": 96, "mode": "inference", "dtype": "float64", "results": True}
    with tempfile.TemporaryDirectory() as folder:
        model, weights, ours = (
            Path(folder) / name for name in ("m.model", "m.safetensors", "ours.safetensors")
        )
        reference = bench.measure({MACE: {**task, "save": str(model)}}, False, 1)[MACE]
        for python, script, *files in (
            (mace_python(bench.console), "export_mace_weights.py", model, weights),
            (sys.executable, "import_mace.py", weights, ours),
        ):
            subprocess.run([python, TOOLS / script, *files], check=True, capture_output=True)
        found = bench.measure({OURS: {**task, "weights": str(ours)}}, False, 1)[OURS]
    for name, unit in (("energies", "eV"), ("forces", "eV/Å")):
        one, other = np.array(found[name]), np.array(reference[name])
        difference = float(np.abs(one - other).max() / np.abs(other).max())
        note = f"relative to the largest, {np.abs(other).max():.3g} {unit}; 96 atoms, random weights"
        bench.add(Bar(f"equal {name}", difference, 1e-9, at_least=False, note=note))


def inference(bench: Bench) -> None:
    """Energies and forces of liquid water."""
    n_atoms = 96 if bench.quick else 192
    task = {"system": "water", "n_atoms": n_atoms, "mode": "inference"}
    bench.ratio(f"inference, {n_atoms} atoms", task, {False: 5.0, True: 3.5})


def large(bench: Bench) -> None:
    """The same of a box three times as long as the cutoff."""
    if bench.quick:
        return
    task = {"system": "water", "n_atoms": 648, "mode": "inference", "warm_up": 1}
    bench.ratio("inference, 648 atoms", task, {False: 5.0, True: 3.5}, rounds=2)


def training(bench: Bench) -> None:
    """Energies, forces and the gradient of their squares."""
    n_atoms = 96 if bench.quick else 192
    task = {"system": "water", "n_atoms": n_atoms, "mode": "training"}
    bench.ratio(f"training step, {n_atoms} atoms", task, {False: 5.0, True: 3.4})


def compiled(bench: Bench) -> None:
    """The package of ``lsf export --format aoti``, and steps of ``[training] compile``."""
    if bench.quick:
        bench.console.print("what is compiled is left out")
        return
    task = {"system": "water", "n_atoms": 192}
    with tempfile.TemporaryDirectory() as folder:
        levels = {"r_max": R_MAX, **LEVELS}
        package = write_package(write_model(Path(folder), "water", USES["short"], levels, "float64", 86.0))
        ours = {"package": package}
        inferring = {**task, "mode": "inference"}
        bench.ratio("inference, AOTI, 192 atoms", inferring, {False: 10.0, True: 6.0}, compiled=ours)
    training = {**task, "mode": "training"}
    ours = {"compiled": True}
    bench.ratio("training step, compiled, 192 atoms", training, {False: 10.0, True: 6.0}, compiled=ours)


def memory(bench: Bench) -> None:
    """Growth of the peak per edge, first evaluations included."""
    n_atoms = 96 if bench.quick else 192
    for mode, bar in (("training", 3.5), ("inference", 15.0)):
        task = {"system": "water", "n_atoms": n_atoms, "mode": mode, "dtype": "float64"}
        sides = {MACE: task, OURS: {**task, "options": {"recompute": True}}}
        found = bench.measure(sides, False, 1)
        size = {library: 1024.0 * side["megabytes"] / side["edges"] for library, side in found.items()}
        note = f"{size[OURS]:.1f} against {size[MACE]:.1f} kB/edge, float64"
        bench.add(
            Bar(
                f"memory, {mode}, {n_atoms} atoms, recompute",
                size[MACE] / size[OURS],
                bar,
                "× less",
                note=note,
            )
        )


def clusters(bench: Bench) -> None:
    """A batch of small open clusters, where operations are many and small."""
    task = {"system": "clusters", "n_structures": 32, "mode": "training"}
    bench.ratio("training step, 32 clusters of 3-18 atoms", task, {False: 4.0, True: 3.0}, rounds=9)


def slab(bench: Bench) -> None:
    """A layer with two surfaces and vapour: numbers of neighbours from none to a bulk's."""
    n_atoms = 96 if bench.quick else 192
    for mode in ("inference", "training"):
        task = {"system": "slab", "n_atoms": n_atoms, "mode": mode}
        bench.ratio(f"slab, {mode}, {n_atoms} atoms", task, {False: 4.0})


def precision(bench: Bench) -> None:
    """A float32 model against the same weights in float64; forces of 1 eV/Å as in the liquid."""
    task = {"system": "water", "n_atoms": 192, "mode": "inference", "results": True, "dtype": "float64"}
    plain = bench.measure({OURS: task}, False, 1)[OURS]
    scale = 1.0 / float(np.sqrt(np.mean(np.square(plain["forces"]))))
    both = {}
    for dtype in ("float64", "float32"):
        both[dtype] = bench.measure({OURS: {**task, "dtype": dtype, "options": {"scale": scale}}}, False, 1)[
            OURS
        ]
    energies, forces = (
        np.abs(np.array(both["float32"][name]) - np.array(both["float64"][name]))
        for name in ("energies", "forces")
    )
    note = "random weights, scaled to forces of 1 eV/Å, root mean square"
    per_atom = float(energies.max()) / both["float64"]["atoms"]
    bench.add(Bar("float32: energy", 1e3 * per_atom, 0.02, "meV/atom", at_least=False, note=note))
    bench.add(
        Bar("float32: forces, largest", 1e3 * float(forces.max()), 0.1, "meV/Å", at_least=False, note=note)
    )


def growth(bench: Bench) -> None:
    """Print how the time grows."""
    bench.console.print(tables.growth_table(bench.ours, bench.quick))


def rate(bench: Bench) -> None:
    """Print the rate of arithmetic."""
    bench.console.print(tables.rate_table(bench.ours, bench.quick))


def epoch(bench: Bench) -> None:
    """Print where the time of an epoch of the water recipe goes."""
    bench.console.print(tables.epoch_table(ROOT / "recipes" / "water_split.toml", bench.quick))


PARTS: Final[dict[str, Callable[[Bench], None]]] = {
    part.__name__: part
    for part in (
        equality,
        inference,
        large,
        training,
        compiled,
        memory,
        clusters,
        slab,
        precision,
        growth,
        rate,
        epoch,
    )
}


def main() -> int:
    """Run the benchmark and return the exit status."""
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    chosen = parser.parse_args()
    bench = Bench(Console(width=150), chosen.quick)
    try:
        for name in chosen.only:
            PARTS[name](bench)
    finally:
        bench.close()
    return report(bench.bars, chosen.json)


if __name__ == "__main__":
    raise SystemExit(main())
