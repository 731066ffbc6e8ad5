"""Two systems of sodium chloride in one batch of torch-sim: python run.py MODEL.pt [STEPS]."""

import sys

import torch_sim as ts
from ase.io import read

from lsf.engines.torchsim import LsfModel


def main(model_file, steps=10):
    atoms = read("../nacl.xyz")
    strained = atoms.copy()
    strained.set_cell(strained.cell * 1.02, scale_atoms=True)
    final = ts.integrate(
        system=[atoms, strained],
        model=LsfModel(model_file),
        integrator=ts.integrators.nve,
        n_steps=steps,
        temperature=300,
        timestep=0.001,  # ps
    )
    for energy in final.energy.tolist():
        sys.stdout.write(f"{energy:.6f} eV\n")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
