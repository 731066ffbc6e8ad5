"""Sodium chloride in OpenMM at constant pressure: python run.py MODEL.pt [STEPS]."""

import sys

import openmm as mm
from ase.io import read
from openmm import unit

from lsf.engines.openmm import FIELD, lsf_force


def main(model_file, steps=20):
    atoms = read("../nacl.xyz")
    system = mm.System()
    for mass in atoms.get_masses():
        system.addParticle(float(mass))
    system.setDefaultPeriodicBoxVectors(*(atoms.cell.array / 10.0))
    force = lsf_force(model_file, atoms.get_chemical_symbols(), periodic=True)
    system.addForce(force)
    system.addForce(mm.MonteCarloBarostat(1.0 * unit.bar, 300.0 * unit.kelvin, 10))
    integrator = mm.LangevinMiddleIntegrator(
        300.0 * unit.kelvin, 1.0 / unit.picosecond, 1.0 * unit.femtosecond
    )
    context = mm.Context(system, integrator, mm.Platform.getPlatformByName("CPU"))
    context.setPositions(atoms.positions / 10.0)
    context.setVelocitiesToTemperature(300.0 * unit.kelvin, 1)
    context.setParameter(FIELD[2], 0.01)  # V/Å along z
    for _ in range(2):
        integrator.step(steps // 2)
        state = context.getState(getEnergy=True)
        sys.stdout.write(f"{state.getTime()} {state.getPotentialEnergy()} {state.getPeriodicBoxVolume()}\n")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
