"""Molecular dynamics of sodium chloride without torch: python run.py MODEL.onnx [STEPS]."""

import sys

import numpy as np
from ase import units
from ase.io import read
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from lsf.formats.onnx.read import OnnxFile


def main(model_file, steps=10):
    file = OnnxFile(model_file)
    atoms = read("../nacl.xyz")
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(1))
    velocities, masses = atoms.get_velocities(), atoms.get_masses()[:, None]
    step = 1.0 * units.fs
    found = file.evaluate(file.inputs([atoms]), ["energy", "forces"])
    for index in range(steps):
        velocities += 0.5 * step * found["forces"] / masses
        atoms.positions += step * velocities
        found = file.evaluate(file.inputs([atoms]), ["energy", "forces"])
        velocities += 0.5 * step * found["forces"] / masses
        total = float(found["energy"][0]) + 0.5 * float((masses * velocities**2).sum())
        sys.stdout.write(f"{index + 1} fs: {total:.6f} eV\n")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
